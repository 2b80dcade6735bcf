/*
 * Which shard of a sharded counter the calling thread writes to.
 *
 * The first MESH__SHARD_COUNT - 1 threads that ask get a shard of their own and may write it with plain loads and stores; it
 * is given back when the thread ends. Every later thread shares the last one and must use atomic read-modify-write. So the
 * usual process (a few loops, a few workers) pays for a counter what a plain ++ costs, and no process is limited in threads.
 * Global state, and why: a thread's identity is a fact of the process, not of a mesh.
 */
#ifndef MESH_BASE_SHARD_H
#define MESH_BASE_SHARD_H

#include <stdatomic.h>
#include <stdint.h>

enum { MESH__SHARD_COUNT = 8, MESH__SHARD_SHARED = MESH__SHARD_COUNT - 1 };

extern _Thread_local uint8_t mesh__shard_mine_plus_one; /* 0: not asked yet */

/* Shards from this one on have never been written by anybody. Only grows. */
extern _Atomic uint32_t mesh__shard_used;

uint32_t mesh__shard_assign(void);

static inline uint32_t mesh__shard_mine(void)
{
	return mesh__shard_mine_plus_one ? (uint32_t)mesh__shard_mine_plus_one - 1 : mesh__shard_assign();
}

static inline void mesh__shard_add_u64(_Atomic uint64_t *cell, uint32_t shard, uint64_t add)
{
	if (shard != MESH__SHARD_SHARED)
		atomic_store_explicit(cell, atomic_load_explicit(cell, memory_order_relaxed) + add, memory_order_relaxed);
	else
		atomic_fetch_add_explicit(cell, add, memory_order_relaxed);
}

static inline void mesh__shard_add_i32(_Atomic int32_t *cell, uint32_t shard, int32_t add)
{
	if (shard != MESH__SHARD_SHARED)
		atomic_store_explicit(cell, atomic_load_explicit(cell, memory_order_relaxed) + add, memory_order_relaxed);
	else
		atomic_fetch_add_explicit(cell, add, memory_order_relaxed);
}

#endif
