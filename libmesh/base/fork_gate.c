#include "base/fork_gate.h"

#include "mesh/error.h"

#include <pthread.h>

/* A fork must not wait for ever while one handshake follows the other: writers first. */
#define OPEN_GATE PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP

static pthread_rwlock_t gate = OPEN_GATE;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int watch_result;

static void before_fork(void)
{
	pthread_rwlock_wrlock(&gate);
}

static void after_fork(void)
{
	pthread_rwlock_unlock(&gate);
}

/* Not unlocked: who holds it is known by the number of his thread, which is another one here. */
static void after_fork_in_child(void)
{
	static const pthread_rwlock_t open_gate = OPEN_GATE;

	gate = open_gate;
}

static void install(void)
{
	watch_result = pthread_atfork(before_fork, after_fork, after_fork_in_child) ? MESH_E_NOMEM : 0;
}

int mesh__fork_gate_watch(void)
{
	pthread_once(&once, install);
	return watch_result;
}

void mesh__fork_gate_enter(void)
{
	pthread_rwlock_rdlock(&gate);
}

void mesh__fork_gate_leave(void)
{
	pthread_rwlock_unlock(&gate);
}
