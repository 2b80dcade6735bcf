#include "stats/histogram.h"

#include "base/memory.h"
#include "stats/stats_internal.h"

void mesh__histogram_raise(mesh__cell *max, uint32_t shard, uint64_t value)
{
	uint64_t seen = atomic_load_explicit(max, memory_order_relaxed);

	if (shard != MESH__SHARD_SHARED) {
		atomic_store_explicit(max, value, memory_order_relaxed);
		return;
	}
	while (value > seen && !atomic_compare_exchange_weak_explicit(max, &seen, value, memory_order_relaxed, memory_order_relaxed))
		continue;
}

static struct mesh__histogram_shard *make_shard(struct mesh__histogram *h, uint32_t shard)
{
	struct mesh__layout_histogram *root = mesh__stats_at(h->stats, h->root_offset);
	struct mesh__histogram_shard *own = mesh__memory_zalloc(sizeof(*own));
	struct mesh__layout_histogram_shard *table;
	uint64_t offset = own ? mesh__stats_arena(h->stats, sizeof(*table)) : 0;

	if (!offset) {
		mesh__memory_free(own);
		mesh__stats_count_overflow(h->stats);
		return &h->stats->sink;
	}
	table = mesh__stats_at(h->stats, offset);
	own->sum = &table->sum;
	own->max = &table->max;
	own->table = table;
	atomic_store_explicit(&root->shard_offsets[shard], offset, memory_order_release);
	return own;
}

/* What has no room goes where nobody looks, so that the next value of that size is as quick as any other. */
static mesh__cell *make_group(struct mesh__histogram *h, struct mesh__histogram_shard *own, uint32_t group)
{
	uint64_t offset = mesh__stats_arena(h->stats, MESH__HISTOGRAM_GROUP_CELLS * sizeof(mesh__cell));

	if (!offset) {
		mesh__stats_count_overflow(h->stats);
		return h->stats->sink_cells;
	}
	atomic_store_explicit(&own->table->group_offsets[group], offset, memory_order_release);
	return mesh__stats_at(h->stats, offset);
}

/* Another thread of the shared shard may have been first: look again, under the lock. */
static mesh__cell *find_or_make(struct mesh__histogram *h, uint32_t shard, uint32_t group)
{
	struct mesh__histogram_shard *own = atomic_load_explicit(&h->shards[shard], memory_order_relaxed);
	mesh__cell *cells;

	if (own == &h->stats->empty) {
		own = make_shard(h, shard);
		atomic_store_explicit(&h->shards[shard], own, memory_order_release);
	}
	cells = atomic_load_explicit(&own->groups[group], memory_order_relaxed);
	if (!cells) {
		cells = make_group(h, own, group);
		atomic_store_explicit(&own->groups[group], cells, memory_order_release);
	}
	return cells;
}

void mesh__histogram_record_first(struct mesh__histogram *h, uint32_t shard, uint64_t value_ns)
{
	uint64_t value = value_ns > MESH__HISTOGRAM_VALUE_MAX ? MESH__HISTOGRAM_VALUE_MAX : value_ns;
	uint32_t bucket = mesh__histogram_bucket(value);
	struct mesh__histogram_shard *own;
	mesh__cell *cells;

	if (!mesh__stats_lock(h->stats))
		return;
	cells = find_or_make(h, shard, bucket / MESH__HISTOGRAM_GROUP_CELLS);
	mesh__stats_unlock(h->stats);
	own = atomic_load_explicit(&h->shards[shard], memory_order_relaxed);
	mesh__shard_add_u64(&cells[bucket % MESH__HISTOGRAM_GROUP_CELLS], shard, 1);
	mesh__shard_add_u64(own->sum, shard, value_ns);
	if (value_ns > atomic_load_explicit(own->max, memory_order_relaxed))
		mesh__histogram_raise(own->max, shard, value_ns);
}
