/*
 * Where this user's segments live: <runtime dir>/stats, made if missing, mode 0700, never through a symlink.
 *
 * The runtime directory is the configured one; else $XDG_RUNTIME_DIR/mesh; else /dev/shm/mesh-UID. Unless it was configured it
 * must be on a memory file system: on a disk the kernel's write-back would stall every thread that counts. It must belong to
 * us and nobody else may write in it. Readers look into every place that a writer may have chosen, since a daemon and its
 * operator's shell often differ in XDG_RUNTIME_DIR.
 */
#ifndef MESH_STATS_RUNTIME_DIR_H
#define MESH_STATS_RUNTIME_DIR_H

#include "mesh/error.h"

#include <stdbool.h>
#include <stddef.h>

enum { MESH__RUNTIME_DIR_PATH_MAX = 1024, MESH__RUNTIME_DIR_CHOICES = 2 };

/* The path of choice 0, 1, ... without touching the file system; false when there is none. */
bool mesh__runtime_dir_choice(const char *configured, const char *xdg_runtime_dir, int choice, char path[MESH__RUNTIME_DIR_PATH_MAX]);

/*
 * Opens `runtime_dir`/stats; both are made if `is_writer`. Gives a descriptor (for mesh__descriptors_close), or a negative code:
 * MESH_E_NOT_FOUND, MESH_E_NOT_PRIVATE, MESH_E_SYSTEM, MESH_E_NO_DESCRIPTORS.
 */
int mesh__runtime_dir_open(const char *runtime_dir, bool is_writer, bool must_be_memory, struct mesh_error *err);

/* The same for another directory inside, of at most 14 characters; and for one inside an open one (`path` is for messages). */
int mesh__runtime_dir_open_inside(const char *runtime_dir, const char *inside, bool is_writer, bool must_be_memory, struct mesh_error *err);
int mesh__runtime_dir_open_at(int parent, const char *name, const char *path, bool is_writer, struct mesh_error *err);

#endif
