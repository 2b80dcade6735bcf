/* The library's log: a callback, never a file descriptor of its own. Without a callback nothing is written anywhere. */
#ifndef MESH_BASE_LOG_H
#define MESH_BASE_LOG_H

#include "mesh/mesh.h"

struct mesh__log {
	mesh_log_fn fn; /* NULL: silent */
	void *user;
	int32_t level;  /* MESH_LOG_*: lines above it are dropped */
};

/* thread: any. The callback may run on any thread of the library and must not call back into it. */
void mesh__log_write(const struct mesh__log *log, int32_t level, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
