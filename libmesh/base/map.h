/* A hash map from byte strings to pointers: open addressing, FNV-1a with a random seed, keys copied. Not thread-safe. */
#ifndef MESH_BASE_MAP_H
#define MESH_BASE_MAP_H

#include <stddef.h>
#include <stdint.h>

struct mesh__map_slot {
	char *key; /* NULL: never used */
	uint32_t key_len, hash;
	void *value; /* NULL with a key: removed */
};

struct mesh__map {
	struct mesh__map_slot *slots;
	uint32_t capacity, used, live, seed; /* used counts removed slots, too */
};

void mesh__map_init(struct mesh__map *map);
void mesh__map_fini(struct mesh__map *map); /* values stay the caller's */
void *mesh__map_get(const struct mesh__map *map, const char *key, size_t key_len);
int mesh__map_put(struct mesh__map *map, const char *key, size_t key_len, void *value); /* value not NULL; replaces; MESH_E_NOMEM */
void *mesh__map_remove(struct mesh__map *map, const char *key, size_t key_len);        /* the value it had, or NULL */

/* Walks in no order: start with *at = 0; NULL at the end. Removing the entry just returned is fine. */
void *mesh__map_next(const struct mesh__map *map, uint32_t *at, const char **key);

#endif
