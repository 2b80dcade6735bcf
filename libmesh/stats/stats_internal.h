/* What the files of stats/ share with each other, and with no other folder. */
#ifndef MESH_STATS_STATS_INTERNAL_H
#define MESH_STATS_STATS_INTERNAL_H

#include "base/map.h"
#include "mesh/stats.h"
#include "stats/segment.h"
#include "stats/stats.h"

#include <pthread.h>

enum { MESH__STATS_FILE_NAME_MAX = 128, MESH__STATS_PATH_MAX = 1280 };

/* A stretch of the segment from which small pieces are cut. */
struct mesh__stats_cut {
	uint64_t offset; /* 0: none yet */
	uint32_t used, capacity;
};

struct mesh__stats {
	struct mesh__segment segment;
	struct mesh__log log;
	uint32_t fork_generation; /* of the process that opened it */

	pthread_mutex_t lock; /* guards all below, and making things in the segment; never held while counting */
	struct mesh__map series; /* metric number and label values -> mesh__cell or mesh__histogram */
	uint32_t series_count, series_max;
	int32_t metric_number[MESH__METRIC_COUNT]; /* in this segment; -1: not defined yet */
	uint16_t metric_count;
	struct mesh__stats_cut cells, directory, arena;
	mesh__cell *overflow; /* mesh_series_overflow_total */

	/* The file; all empty in private memory. */
	int fd, dir_fd;
	char file_name[MESH__STATS_FILE_NAME_MAX];
	char path[MESH__STATS_PATH_MAX];

	struct mesh__histogram_shard empty; /* of histograms that this shard has not recorded to */
	struct mesh__histogram_shard sink;  /* takes what has no place */
	struct mesh__histogram sink_histogram;
	mesh__cell sink_cells[MESH__HISTOGRAM_GROUP_CELLS], sink_sum, sink_max;
	mesh__cell *sink_cell; /* the first cell of the segment, which belongs to no series */
};

/* false in a forked child, where the lock may be held by a thread that does not exist: then touch nothing. */
bool mesh__stats_lock(struct mesh__stats *stats);
void mesh__stats_unlock(struct mesh__stats *stats);

/* Under the lock: zeroed room for parts of a histogram; 0: there is none. */
uint64_t mesh__stats_arena(struct mesh__stats *stats, size_t bytes);
void mesh__stats_count_overflow(struct mesh__stats *stats);

static inline void *mesh__stats_at(const struct mesh__stats *stats, uint64_t offset)
{
	return stats->segment.base + offset;
}

static inline struct mesh__layout_header *mesh__stats_header(const struct mesh__stats *stats)
{
	return mesh__stats_at(stats, 0);
}

/* publish.c: makes the file, or says why not; fills segment, fd, dir_fd, path. */
int mesh__publish_open(struct mesh__stats *stats, const struct mesh__stats_options *opts, struct mesh_error *err);
int mesh__publish_link(struct mesh__stats *stats, const char *service, struct mesh_error *err); /* now others can see it */
void mesh__publish_unlink(struct mesh__stats *stats); /* forgets the name; only if it still is our file's */
void mesh__publish_close(struct mesh__stats *stats);  /* descriptors, and with them the lock */

#endif
