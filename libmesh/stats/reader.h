/*
 * The first look at a segment of somebody else: is it one, may we read it, does its process live? Nothing is mapped, so that a
 * file that shrinks is a short read and not a signal; nothing is followed or waited for.
 */
#ifndef MESH_STATS_READER_H
#define MESH_STATS_READER_H

#include "mesh/error.h"
#include "stats/layout.h"

#include <stdbool.h>

enum { MESH__READER_SHARDS_MAX = 64 };

/* A loop beats once a second; after five it does not turn. */
#define MESH__READER_STUCK_NS (UINT64_C(5) * 1000000000)

/* `name` relative to `dir_fd` (AT_FDCWD is fine). A descriptor, or a code as mesh_stats_open(). */
int mesh__reader_open(int dir_fd, const char *name, const char *path, struct mesh_error *err);

/* Copies and checks the header; its strings are terminated then, and size_bytes is what the file really has. */
int mesh__reader_header(int fd, const char *path, struct mesh__layout_header *header, struct mesh_error *err);
int mesh__reader_check(struct mesh__layout_header *header, const char *path, struct mesh_error *err);

int mesh__reader_copy(int fd, const char *path, void *to, size_t bytes, struct mesh_error *err);

/* enum mesh_stats_state; `fd` -1: this process' own. Never waits. */
int32_t mesh__reader_state(const struct mesh__layout_header *header, int fd);

/* UINT64_MAX: it never did. */
uint64_t mesh__reader_beat_age_ns(const struct mesh__layout_header *header, uint32_t loop_index, uint64_t now_ns);

#endif
