/*
 * The counters of one mesh, published in shared memory: design and layout in layout.h and mesh-stats(5).
 *
 * Finding or making a series takes a lock and may extend the file: do it once per client, endpoint or outcome and keep the
 * pointer, which is valid until mesh__stats_close(). Adding to it takes no lock and no system call; the caller passes its own
 * mesh__shard_mine(). Values of a process that was killed stay readable, to the last addition.
 *
 * Nothing here fails for want of room: without a file system to write to, counters live in private memory; beyond series_max
 * they are counted together, with "other" for labels; and beyond that in a cell that nobody reads. Each of these is itself counted.
 */
#ifndef MESH_STATS_STATS_H
#define MESH_STATS_STATS_H

#include "base/log.h"
#include "mesh/error.h"
#include "stats/histogram.h"

#include <stdbool.h>

struct mesh_stats_view;

enum mesh__metric {
#define MESH_COUNTER(NAME, name, type, unit, labels, help) MESH__METRIC_##NAME,
#include "tables/counters.def"
#undef MESH_COUNTER
	MESH__METRIC_COUNT
};

enum { MESH__STATS_SERIES_MAX_DEFAULT = 4096 };

struct mesh__stats_options {
	const char *service;
	const char *dir;     /* runtime directory: the file goes into its sub-directory "stats"; NULL: chosen, see runtime_dir.h */
	bool is_off;         /* count in private memory only */
	uint32_t series_max; /* 0: the default */
	uint32_t loops;      /* that will beat; at most MESH__LAYOUT_LOOPS are shown */
	const struct mesh__log *log; /* copied; NULL is fine */
	const char *xdg_runtime_dir; /* the environment's XDG_RUNTIME_DIR, for `dir` NULL; NULL: not set */
};

/* thread any. Only MESH_E_NOMEM: every other trouble ends in private memory, a line in the log and mesh_stats_private = 1. */
int mesh__stats_open(const struct mesh__stats_options *opts, struct mesh__stats **out, struct mesh_error *err);

/* After the last use of any cell. Removes the file in the process that made it; in a forked child it only unmaps. NULL is fine. */
void mesh__stats_close(struct mesh__stats *stats);

/* What tells one series of a metric from another; those that the table does not list for the metric are ignored. */
struct mesh__labels {
	const char *service, *endpoint, *peer, *reason, *side; /* NULL: not applicable */
};

/* thread any. Never NULL. Asking again with the same labels gives the same one. Labels are copied, and cut at 255 bytes. */
mesh__cell *mesh__stats_counter(struct mesh__stats *stats, enum mesh__metric metric, const struct mesh__labels *labels);
struct mesh__histogram *mesh__stats_histogram(struct mesh__stats *stats, enum mesh__metric metric, const struct mesh__labels *labels);

static inline mesh__cell *mesh__counter_cell(mesh__cell *cell, uint32_t shard)
{
	return cell + (size_t)shard * (MESH__LAYOUT_STRIDE_BYTES / sizeof(*cell));
}

/* thread any, with its own shard number */
static inline void mesh__counter_add(mesh__cell *cell, uint32_t shard, uint64_t n)
{
	mesh__shard_add_u64(mesh__counter_cell(cell, shard), shard, n);
}

/* For gauges that many threads move: only the sum over the shards means something, and it wraps like two's complement. */
static inline void mesh__gauge_add(mesh__cell *cell, uint32_t shard, int64_t n)
{
	mesh__shard_add_u64(mesh__counter_cell(cell, shard), shard, (uint64_t)n);
}

/* For gauges with one writer; not to be mixed with mesh__gauge_add() on one cell. */
static inline void mesh__gauge_set(mesh__cell *cell, uint64_t value)
{
	atomic_store_explicit(cell, value, memory_order_relaxed);
}

uint64_t mesh__counter_read(const mesh__cell *cell); /* the sum over the shards; thread any */

/* On the loop, about once a second: readers tell a stuck loop from an idle one by it. */
void mesh__stats_beat(struct mesh__stats *stats, uint32_t loop_index, uint64_t now_ns);

/* thread any. A copy of all series as they are now, in private memory mode, too; freed with mesh_stats_close(). */
int mesh__stats_view_self(struct mesh__stats *stats, struct mesh_stats_view **out, struct mesh_error *err);

/* The file's path, "" when counters are in private memory. thread any; memory valid until close. */
const char *mesh__stats_path(const struct mesh__stats *stats);

#endif
