/*
 * Files that are nobody else's: a directory of ours with mode 0700, and in it files of ours that others cannot read. Nothing is
 * repaired in silence: what is not private is refused with MESH_E_NOT_PRIVATE and a sentence that says what to do. Symbolic
 * links are not followed in the last step. Blocking; thread any.
 */
#ifndef MESH_IDENTITY_PRIVATE_FILES_H
#define MESH_IDENTITY_PRIVATE_FILES_H

#include "mesh/error.h"

#include <stdbool.h>
#include <stddef.h>

enum { MESH__PRIVATE_PATH_MAX = 1024, MESH__PRIVATE_FILE_BYTES_MAX = 1024 * 1024 };

/*
 * Opens the directory; makes it, and those above it that are missing (0700), if `create`. Descriptor, or MESH_E_NOT_FOUND, MESH_E_NOT_PRIVATE, MESH_E_SYSTEM, ...
 * `is_shared`: others may read it, for what holds no secret but keys with a mode of their own.
 */
int mesh__private_files_open_dir(const char *dir, bool create, bool is_shared, struct mesh_error *err);

/* The whole file with a NUL behind it. `is_secret`: it must be ours and of mode 0600 or less. MESH_E_NOT_FOUND is filled like the others. */
int mesh__private_files_read(int dir_fd, const char *dir, const char *name, bool is_secret, char **data, size_t *len, struct mesh_error *err);
void mesh__private_files_free(char *data, size_t len); /* zeroes it first; NULL is fine */

/* Complete or not at all: written beside it, synced and renamed into place. mode 0600 or 0644. */
int mesh__private_files_write(int dir_fd, const char *dir, const char *name, unsigned mode, const void *data, size_t len, struct mesh_error *err);

/* Waits for the lock of a directory, 10 s at most (MESH_E_SYSTEM). A descriptor: closing it unlocks. */
int mesh__private_files_lock(int dir_fd, const char *dir, struct mesh_error *err);

#endif
