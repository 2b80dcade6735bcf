/*
 * The segment's layout, as mesh-stats(5) documents it. All numbers in the writer's byte order, all offsets from the start of
 * the file. What is once published (record_count) never changes and never moves; only cells do.
 *
 *   header        two pages: who, when, heartbeats, room for the identity
 *   directory     a chain of blocks with records: first a metric, then its series
 *   cells         chunks of shard_count x shard_stride bytes: a series' cell of shard i is at offset + i * stride
 *   histograms    a root of shard_count offsets -> a table per shard -> groups of 64 cells, each made on first use
 */
#ifndef MESH_STATS_LAYOUT_H
#define MESH_STATS_LAYOUT_H

#include "base/shard.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define MESH__LAYOUT_MAGIC "MESHSTAT"

enum {
	MESH__LAYOUT_MAJOR = 1,
	MESH__LAYOUT_MINOR = 1, /* 1: the identity */
	MESH__LAYOUT_BYTE_ORDER = 0x01020304,
	MESH__LAYOUT_PAGE_BYTES = 4096,
	MESH__LAYOUT_HEADER_BYTES = 2 * MESH__LAYOUT_PAGE_BYTES,
	MESH__LAYOUT_STRIDE_BYTES = MESH__LAYOUT_PAGE_BYTES,
	MESH__LAYOUT_CHUNK_BYTES = MESH__LAYOUT_STRIDE_BYTES * MESH__SHARD_COUNT,
	MESH__LAYOUT_LOOPS = 16,
	MESH__LAYOUT_BYTES_MAX = 64 * 1024 * 1024,
	MESH__LAYOUT_TEXT_MAX = 255, /* bytes of a label's value */
};

enum mesh__layout_state { MESH__LAYOUT_OPEN = 1, MESH__LAYOUT_CLOSED = 2 };

/* A line of its own each, so that one loop's heartbeat does not slow another's. */
struct mesh__layout_loop {
	_Atomic uint64_t beat_ns; /* monotonic; 0: never */
	_Atomic uint64_t beat_count;
	uint64_t reserved[6];
};

struct mesh__layout_header {
	char magic[8];
	uint32_t byte_order;
	uint16_t major, minor;
	uint32_t header_bytes;
	uint32_t shard_count;
	uint32_t stride_bytes;
	uint32_t loop_count;
	uint64_t table_hash;
	uint64_t pid;
	uint64_t start_ticks;   /* field 22 of /proc/PID/stat; with pid and boot_id it names the process */
	uint64_t pid_namespace; /* inode of /proc/self/ns/pid; 0: unknown */
	uint64_t start_wall_ns;
	uint64_t start_ns;      /* monotonic */
	uint64_t reserved0[2];
	char boot_id[40];
	char service[128];
	char version[32];
	uint64_t reserved1[27];

	_Atomic uint64_t size_bytes;       /* at 512: what may be read of the file */
	_Atomic uint64_t record_count;     /* records of the directory that are complete */
	_Atomic uint64_t directory_offset; /* the first block; 0: none */
	_Atomic uint64_t generation;       /* grows with every change that is not a value */
	_Atomic uint64_t state;            /* enum mesh__layout_state */
	uint64_t reserved2[59];

	struct mesh__layout_loop loops[MESH__LAYOUT_LOOPS]; /* at 1024 */
	uint8_t reserved3[2048];                            /* at 2048: the flight recorder's place */
	uint8_t identity[MESH__LAYOUT_PAGE_BYTES];          /* at 4096: struct mesh__identity_page */
};

_Static_assert(offsetof(struct mesh__layout_header, boot_id) == 96, "documented offset");
_Static_assert(offsetof(struct mesh__layout_header, size_bytes) == 512, "documented offset");
_Static_assert(offsetof(struct mesh__layout_header, loops) == 1024, "documented offset");
_Static_assert(offsetof(struct mesh__layout_header, identity) == 4096, "documented offset");
_Static_assert(sizeof(struct mesh__layout_header) == MESH__LAYOUT_HEADER_BYTES, "documented size");

/* A block of the directory: this, then records back to back; a record of zero bytes, or the block's end, ends it. */
struct mesh__layout_block {
	_Atomic uint64_t next_offset; /* always behind this block; 0: none yet */
	uint32_t bytes;               /* with this header */
	uint32_t reserved;
};

enum mesh__layout_kind { MESH__LAYOUT_METRIC = 1, MESH__LAYOUT_SERIES = 2 };

/* Every record begins so; `bytes` is a multiple of 8. Readers skip kinds that they do not know. */
struct mesh__layout_record {
	uint32_t bytes;
	uint16_t kind;
	uint16_t metric; /* this segment's number of the metric: the first metric record is 0 */
};

/* Then strings, each with its NUL: name, unit, help, label names. */
struct mesh__layout_metric {
	struct mesh__layout_record record;
	uint8_t type; /* enum mesh_stats_type */
	uint8_t label_count;
	uint8_t sub_bits;    /* histograms: log2 of the cells in a group, 6 */
	uint8_t group_count; /* histograms: entries of a shard's table */
	uint32_t reserved;
};

/* Then label values, each with its NUL, in the order of the metric's label names. */
struct mesh__layout_series {
	struct mesh__layout_record record;
	uint64_t offset; /* counter, gauge: the cell of shard 0; histogram: its root */
};

/*
 * Histograms: values below 64 have a cell each; above, every power of two is divided into 64 cells, so that a cell's middle is
 * at most 1/128 (0.8 %) away from any value in it. With shift = max(0, floor(log2(value)) - 6), the cell's number is
 * shift * 64 + (value >> shift); the group is that divided by 64.
 */
enum {
	MESH__HISTOGRAM_SUB_BITS = 6,
	MESH__HISTOGRAM_GROUP_CELLS = 1 << MESH__HISTOGRAM_SUB_BITS,
	MESH__HISTOGRAM_VALUE_BITS = 42, /* 73 minutes in nanoseconds; larger values count in the last cell */
	MESH__HISTOGRAM_GROUPS = MESH__HISTOGRAM_VALUE_BITS - MESH__HISTOGRAM_SUB_BITS + 1,
	MESH__HISTOGRAM_CELLS = MESH__HISTOGRAM_GROUPS * MESH__HISTOGRAM_GROUP_CELLS,
	MESH__HISTOGRAM_ALIGN_BYTES = 128, /* of everything below: no two shards share a line, nor a pair of lines */
};
#define MESH__HISTOGRAM_VALUE_MAX ((UINT64_C(1) << MESH__HISTOGRAM_VALUE_BITS) - 1)

struct mesh__layout_histogram {
	_Atomic uint64_t shard_offsets[MESH__SHARD_COUNT]; /* 0: this shard recorded nothing */
};

/* sum and max are the shard's own; the count is the sum of the cells. */
struct mesh__layout_histogram_shard {
	_Atomic uint64_t sum;
	_Atomic uint64_t max;
	_Atomic uint64_t group_offsets[MESH__HISTOGRAM_GROUPS]; /* 0: no value in this group */
};

#endif
