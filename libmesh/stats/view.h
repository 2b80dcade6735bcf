/* A copy of a segment with an index of its series, shared by view.c and view_histogram.c. */
#ifndef MESH_STATS_VIEW_H
#define MESH_STATS_VIEW_H

#include "mesh/stats.h"
#include "stats/identity_page.h"
#include "stats/layout.h"

#include <stdbool.h>

struct mesh__stats;

enum { MESH__VIEW_GROUPS_MAX = 64 - MESH__HISTOGRAM_SUB_BITS + 1 }; /* what 64-bit values can need */

struct mesh__view_metric {
	uint32_t record_offset;
	uint8_t type, label_count, group_count;
};

struct mesh__view_series {
	uint32_t record_offset;
	uint16_t metric;
};

struct mesh_stats_view {
	struct mesh__stats *self; /* NULL: read from fd */
	char *path;
	int fd;
	int32_t state;
	uint32_t fork_generation;
	uint64_t read_ns;
	struct mesh__layout_header header; /* of the last read, checked; the copy's own may say other things by now */
	union {
		uint8_t *data; /* size_bytes of the segment */
		const char *data_text;
	};
	uint64_t size_bytes, capacity_bytes;
	struct mesh__identity_page identity; /* a whole one; sequence 0: none was ever read */
	int identity_error;                  /* of the last read */
	struct mesh__view_metric *metrics;
	struct mesh__view_series *series;
	uint64_t metric_count, metric_capacity, series_count, series_capacity;
};

/* A shard of a histogram as a reader sees it: plain words, since the copy is his own. */
struct mesh__view_shard {
	uint64_t sum, max, group_offsets[];
};

struct mesh__view_totals {
	uint64_t count, sum, max;
};

/* All NULL when not wholly inside the copy. */
const struct mesh__view_shard *mesh__view_shard(const struct mesh_stats_view *view, const struct mesh__view_metric *metric, uint64_t offset);
const uint64_t *mesh__view_cells(const struct mesh_stats_view *view, uint64_t offset, uint64_t count);

static inline uint64_t mesh__view_offset(const struct mesh_stats_view *view, uint64_t number)
{
	return ((const struct mesh__layout_series *)(const void *)(view->data + view->series[number].record_offset))->offset;
}

static inline uint32_t mesh__view_record_bytes(const struct mesh_stats_view *view, uint32_t record_offset)
{
	return ((const struct mesh__layout_record *)(const void *)(view->data + record_offset))->bytes;
}

/* Sums a histogram over its shards; `cells` (MESH__VIEW_GROUPS_MAX groups) gets them added unless NULL. MESH_E_CORRUPT. */
int mesh__view_totals(const struct mesh_stats_view *view, uint64_t number, uint64_t *cells, struct mesh__view_totals *totals);

#endif
