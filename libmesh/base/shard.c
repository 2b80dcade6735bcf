#include "base/shard.h"

#include <pthread.h>

_Thread_local uint8_t mesh__shard_mine_plus_one;

_Atomic uint32_t mesh__shard_used = 1;

static atomic_uint taken_mask; /* bit i: a living thread owns shard i */
static pthread_key_t exit_key;
static pthread_once_t exit_key_once = PTHREAD_ONCE_INIT;
static int exit_key_failed;

static void give_back(void *value)
{
	unsigned shard = (unsigned)(uintptr_t)value - 1;

	mesh__shard_mine_plus_one = MESH__SHARD_SHARED + 1;
	atomic_fetch_and_explicit(&taken_mask, ~(1u << shard), memory_order_release);
}

static void make_exit_key(void)
{
	exit_key_failed = pthread_key_create(&exit_key, give_back);
}

uint32_t mesh__shard_assign(void)
{
	unsigned mask = atomic_load_explicit(&taken_mask, memory_order_relaxed), shard = MESH__SHARD_SHARED;

	pthread_once(&exit_key_once, make_exit_key);
	for (unsigned i = 0; !exit_key_failed && i < MESH__SHARD_SHARED; i++) {
		if (mask & (1u << i))
			continue;
		mask = atomic_fetch_or_explicit(&taken_mask, 1u << i, memory_order_acquire);
		if (mask & (1u << i))
			continue;
		if (pthread_setspecific(exit_key, (void *)(uintptr_t)(i + 1))) {
			atomic_fetch_and_explicit(&taken_mask, ~(1u << i), memory_order_release);
			break;
		}
		shard = i;
		break;
	}
	for (unsigned used = atomic_load(&mesh__shard_used); used <= shard;)
		atomic_compare_exchange_weak(&mesh__shard_used, &used, shard + 1);
	mesh__shard_mine_plus_one = (uint8_t)(shard + 1);
	return shard;
}
