/*
 * Log-linear histograms, as layout.h describes them: a record is one addition to a cell, one to the sum, and a comparison with
 * the maximum, each in the thread's own shard. Tables and groups of cells appear on first use: a stream of latencies touches ten
 * or fifteen of the groups, so a series takes about 8 KB per recording thread where a full table would take 19.
 */
#ifndef MESH_STATS_HISTOGRAM_H
#define MESH_STATS_HISTOGRAM_H

#include "stats/layout.h"

typedef _Atomic uint64_t mesh__cell;

struct mesh__stats;

/* Where a shard's parts are in this process; pointers are kept out of the segment, so that nobody else can bend them. */
struct mesh__histogram_shard {
	mesh__cell *sum, *max;
	struct mesh__layout_histogram_shard *table;
	_Atomic(mesh__cell *) groups[MESH__HISTOGRAM_GROUPS]; /* NULL: not used yet */
};

struct mesh__histogram {
	_Atomic(struct mesh__histogram_shard *) shards[MESH__SHARD_COUNT]; /* never NULL: an empty one until the first record */
	struct mesh__stats *stats;
	uint64_t root_offset;
};

static inline uint32_t mesh__histogram_bucket(uint64_t value)
{
	uint32_t shift = (uint32_t)(63 - MESH__HISTOGRAM_SUB_BITS - __builtin_clzll(value | MESH__HISTOGRAM_GROUP_CELLS));

	return (shift << MESH__HISTOGRAM_SUB_BITS) + (uint32_t)(value >> shift);
}

/* First use of a group by a shard (takes a lock), and the rare new maximum. */
void mesh__histogram_record_first(struct mesh__histogram *h, uint32_t shard, uint64_t value);
void mesh__histogram_raise(mesh__cell *max, uint32_t shard, uint64_t value);

/* thread any, with its own shard number. No lock, no system call, no allocation after the first value of a size. */
static inline void mesh__histogram_record(struct mesh__histogram *h, uint32_t shard, uint64_t value_ns)
{
	uint64_t value = value_ns > MESH__HISTOGRAM_VALUE_MAX ? MESH__HISTOGRAM_VALUE_MAX : value_ns;
	uint32_t bucket = mesh__histogram_bucket(value);
	struct mesh__histogram_shard *own = atomic_load_explicit(&h->shards[shard], memory_order_acquire);
	mesh__cell *group = atomic_load_explicit(&own->groups[bucket / MESH__HISTOGRAM_GROUP_CELLS], memory_order_acquire);

	if (__builtin_expect(!group, 0)) {
		mesh__histogram_record_first(h, shard, value_ns);
		return;
	}
	mesh__shard_add_u64(&group[bucket % MESH__HISTOGRAM_GROUP_CELLS], shard, 1);
	mesh__shard_add_u64(own->sum, shard, value_ns);
	if (__builtin_expect(value_ns > atomic_load_explicit(own->max, memory_order_relaxed), 0))
		mesh__histogram_raise(own->max, shard, value_ns);
}

#endif
