/*
 * Memory for one loop: free lists per size class, refilled from the heap, never given back before fini. Not thread-safe.
 * Bounded by what was in use at once. Larger blocks go straight to the heap.
 */
#ifndef MESH_BASE_POOL_H
#define MESH_BASE_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MESH__POOL_CLASSES = 64 }; /* to 16 KiB */

/* Under a sanitizer every block comes straight from the heap: what is used again at once hides who writes where. */
#ifdef __has_feature
#define MESH__HAS_FEATURE(name) __has_feature(name)
#else
#define MESH__HAS_FEATURE(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || MESH__HAS_FEATURE(address_sanitizer) || MESH__HAS_FEATURE(thread_sanitizer)
enum { MESH__POOL_IS_WATCHED = 1 };
#else
enum { MESH__POOL_IS_WATCHED = 0 };
#endif

struct mesh__pool {
	void *free_lists[MESH__POOL_CLASSES];
	void *slabs;       /* one linked list of all, for fini */
	uint64_t in_use;   /* blocks handed out */
	bool is_spared;    /* its user cannot bear failing allocations: tests do not make them fail (mesh__memory_spare) */
};

void mesh__pool_init(struct mesh__pool *pool);
void mesh__pool_fini(struct mesh__pool *pool);
void *mesh__pool_alloc(struct mesh__pool *pool, size_t bytes); /* NULL: out of memory */
void *mesh__pool_zalloc(struct mesh__pool *pool, size_t bytes);
void *mesh__pool_realloc(struct mesh__pool *pool, void *memory, size_t bytes);
void mesh__pool_free(struct mesh__pool *pool, void *memory); /* NULL is fine */

#endif
