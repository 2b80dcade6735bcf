#include "base/map.h"

#include "base/memory.h"
#include "base/random.h"
#include "mesh/error.h"

#include <string.h>

enum { CAPACITY_MIN = 16 };

static uint32_t hash_of(const struct mesh__map *map, const char *key, size_t len)
{
	uint32_t hash = UINT32_C(2166136261) ^ map->seed;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ (unsigned char)key[i]) * UINT32_C(16777619);
	return hash ^ (hash >> 15);
}

void mesh__map_init(struct mesh__map *map)
{
	*map = (struct mesh__map){ .seed = (uint32_t)mesh__random_entropy() };
}

void mesh__map_fini(struct mesh__map *map)
{
	for (uint32_t i = 0; i < map->capacity; i++)
		mesh__memory_free(map->slots[i].key);
	mesh__memory_free(map->slots);
	*map = (struct mesh__map){ 0 };
}

static struct mesh__map_slot *find(const struct mesh__map *map, const char *key, size_t len, uint32_t hash)
{
	uint32_t mask = map->capacity - 1;

	for (uint32_t i = hash & mask;; i = (i + 1) & mask) {
		struct mesh__map_slot *slot = &map->slots[i];

		if (!slot->key || (slot->hash == hash && slot->key_len == len && memcmp(slot->key, key, len) == 0))
			return slot;
	}
}

void *mesh__map_get(const struct mesh__map *map, const char *key, size_t key_len)
{
	return map->capacity ? find(map, key, key_len, hash_of(map, key, key_len))->value : NULL;
}

static int grow(struct mesh__map *map)
{
	uint32_t capacity = CAPACITY_MIN;
	struct mesh__map bigger = *map;

	while (capacity < map->live * 2 + 2)
		capacity *= 2;
	bigger.slots = mesh__memory_zalloc_array(capacity, sizeof(*bigger.slots));
	if (!bigger.slots)
		return MESH_E_NOMEM;
	bigger.capacity = capacity;
	bigger.used = map->live;
	for (uint32_t i = 0; i < map->capacity; i++) {
		struct mesh__map_slot *slot = &map->slots[i];

		if (slot->key && slot->value)
			*find(&bigger, slot->key, slot->key_len, slot->hash) = *slot;
		else
			mesh__memory_free(slot->key);
	}
	mesh__memory_free(map->slots);
	*map = bigger;
	return 0;
}

int mesh__map_put(struct mesh__map *map, const char *key, size_t key_len, void *value)
{
	uint32_t hash = hash_of(map, key, key_len);
	struct mesh__map_slot *slot;

	if ((map->used + 1) * 4 > map->capacity * 3 && grow(map))
		return MESH_E_NOMEM;
	slot = find(map, key, key_len, hash);
	if (!slot->key) {
		slot->key = mesh__memory_strndup(key, key_len);
		if (!slot->key)
			return MESH_E_NOMEM;
		slot->key_len = (uint32_t)key_len;
		slot->hash = hash;
		map->used++;
	}
	map->live += slot->value == NULL;
	slot->value = value;
	return 0;
}

void *mesh__map_remove(struct mesh__map *map, const char *key, size_t key_len)
{
	struct mesh__map_slot *slot;
	void *value;

	if (!map->capacity)
		return NULL;
	slot = find(map, key, key_len, hash_of(map, key, key_len));
	value = slot->value;
	map->live -= value != NULL;
	slot->value = NULL;
	return value;
}

void *mesh__map_next(const struct mesh__map *map, uint32_t *at, const char **key)
{
	while (*at < map->capacity) {
		const struct mesh__map_slot *slot = &map->slots[(*at)++];

		if (slot->key && slot->value) {
			if (key)
				*key = slot->key;
			return slot->value;
		}
	}
	return NULL;
}
