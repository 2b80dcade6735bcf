/*
 * Memory that grows without moving: a file that others can read, or private pages when there is none.
 *
 * The whole address range is mapped at once and the file grows under it. Only what posix_fallocate() has given is touched, so
 * that a full file system is an error here and never a SIGBUS later. Not thread-safe.
 */
#ifndef MESH_STATS_SEGMENT_H
#define MESH_STATS_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mesh__segment {
	uint8_t *base;
	size_t used_bytes;  /* handed out */
	size_t size_bytes;  /* may be touched */
	size_t limit_bytes; /* address range */
	int fd;             /* -1: private; stays the caller's */
};

enum { MESH__SEGMENT_STEP_BYTES = 64 * 1024 };

/* fd -1: private memory. 0, or the errno that says why not; then nothing is held. */
int mesh__segment_init(struct mesh__segment *segment, int fd);
void mesh__segment_fini(struct mesh__segment *segment); /* unmaps */

/* The offset of `bytes` zeroed bytes at a multiple of the page size; 0: no room. Offset 0 is given once, to the first who asks. */
size_t mesh__segment_alloc(struct mesh__segment *segment, size_t bytes);

#endif
