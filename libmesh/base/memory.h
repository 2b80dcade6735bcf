/* Heap memory. Every allocation of the library goes through here, so that tests can make the nth one fail. */
#ifndef MESH_BASE_MEMORY_H
#define MESH_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* All return NULL when memory is out; out of memory is an ordinary error (MESH_E_NOMEM). */
void *mesh__memory_alloc(size_t bytes);
void *mesh__memory_zalloc(size_t bytes);
void *mesh__memory_zalloc_array(size_t count, size_t bytes_each); /* NULL on overflow too */
void *mesh__memory_realloc(void *memory, size_t bytes);
char *mesh__memory_strdup(const char *text);
char *mesh__memory_strndup(const char *text, size_t len);
void mesh__memory_free(void *memory); /* NULL is fine */

/*
 * For tests: makes one allocation fail, `countdown` allocations from now (0: the next one); negative switches it off.
 * Process-wide, relaxed: meant for a test that controls its threads.
 */
void mesh__memory_fail_after(int64_t countdown);

/* For code of others that cannot bear it: until the matching call with false, allocations of this thread do not fail so. */
void mesh__memory_spare(int is_spared);

#endif
