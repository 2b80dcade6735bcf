#include "base/descriptors.h"

#include "mesh/error.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { BITS = 64, WORDS = MESH__DESCRIPTORS_MAX / BITS };

_Atomic uint32_t mesh__descriptors_fork_count;

static _Atomic uint64_t ours[WORDS];
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static int fork_result;

int mesh__descriptors_add(int fd)
{
	if (fd < 0)
		return -1;
	if (fd >= MESH__DESCRIPTORS_MAX) {
		close(fd);
		errno = EMFILE;
		return -1;
	}
	atomic_fetch_or_explicit(&ours[fd / BITS], UINT64_C(1) << (fd % BITS), memory_order_relaxed);
	return fd;
}

void mesh__descriptors_close(int fd)
{
	int saved = errno;
	uint64_t bit;

	if (fd < 0)
		return;
	bit = UINT64_C(1) << (fd % BITS);
	/* Not ours any more: a fork handler closed it, and the number may belong to somebody else by now. */
	if (atomic_fetch_and_explicit(&ours[fd / BITS], ~bit, memory_order_relaxed) & bit)
		close(fd);
	errno = saved;
}

bool mesh__descriptors_is_ours(int fd)
{
	return fd >= 0 && (atomic_load_explicit(&ours[fd / BITS], memory_order_relaxed) >> (fd % BITS) & 1);
}

static void close_all_in_child(void)
{
	atomic_fetch_add_explicit(&mesh__descriptors_fork_count, 1, memory_order_relaxed);
	for (int word = 0; word < WORDS; word++) {
		uint64_t bits = atomic_exchange_explicit(&ours[word], 0, memory_order_relaxed);

		for (; bits; bits &= bits - 1)
			close(word * BITS + __builtin_ctzll(bits));
	}
}

static void install(void)
{
	fork_result = pthread_atfork(NULL, NULL, close_all_in_child) ? MESH_E_NOMEM : 0;
}

int mesh__descriptors_watch_fork(void)
{
	pthread_once(&fork_once, install);
	return fork_result;
}
