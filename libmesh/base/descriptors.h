/*
 * Remembers every file descriptor that the library opened, so that a child of fork() can close its copies.
 *
 * Why: a child that keeps the parent's sockets keeps the parent's connections alive after the parent closed them, and a
 * graceful close from the child would end them. The fork handler only calls close(), which is safe there.
 * Global state, and why: descriptors and fork() belong to the process. One bit per descriptor; those above the limit are
 * refused with EMFILE.
 *
 * Every function that makes a descriptor in the library passes it to mesh__descriptors_add() and closes it with
 * mesh__descriptors_close(). All descriptors are O_CLOEXEC.
 */
#ifndef MESH_BASE_DESCRIPTORS_H
#define MESH_BASE_DESCRIPTORS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { MESH__DESCRIPTORS_MAX = 65536 };

int mesh__descriptors_add(int fd);     /* gives fd back; -1 stays -1 with errno kept; one above the limit is closed: -1, EMFILE */
void mesh__descriptors_close(int fd);  /* -1 is fine; errno is kept */
bool mesh__descriptors_is_ours(int fd); /* false after a fork: the number may be somebody else's by now */
int mesh__descriptors_watch_fork(void); /* installs the fork handler once per process; 0 or MESH_E_NOMEM */

/* Grows by one in each child of a fork; a handle that remembers another value belongs to another process. */
extern _Atomic uint32_t mesh__descriptors_fork_count;
static inline uint32_t mesh__descriptors_generation(void)
{
	return atomic_load_explicit(&mesh__descriptors_fork_count, memory_order_relaxed);
}

#endif
