/*
 * Each block is preceded by its class, so that freeing needs no size. Classes double: 32, 64, ... 16 KiB, header included.
 * A slab is cut into blocks of one class when that class' list runs dry.
 */
#include "base/pool.h"

#include "base/memory.h"

#include <string.h>

struct header {
	uint64_t class_index; /* MESH__POOL_CLASSES: straight from the heap, and `bytes` counts */
	uint64_t bytes;       /* usable */
};

struct free_block {
	struct free_block *next;
};

struct slab {
	struct slab *next;
	uint64_t padding;
};

enum { SLAB_BYTES = 16 * 1024 };

void mesh__pool_init(struct mesh__pool *pool)
{
	*pool = (struct mesh__pool){ 0 };
}

void mesh__pool_fini(struct mesh__pool *pool)
{
	for (struct slab *slab = pool->slabs, *next; slab; slab = next) {
		next = slab->next;
		mesh__memory_free(slab);
	}
	*pool = (struct mesh__pool){ 0 };
}

static unsigned class_for(size_t bytes)
{
	size_t whole = bytes + sizeof(struct header);

	if (whole <= MESH__POOL_SMALLEST)
		return 0;
	return 64 - (unsigned)__builtin_clzll(whole - 1) - 5; /* 2^5 is the smallest */
}

static void *from_heap(const struct mesh__pool *pool, size_t bytes)
{
	void *memory;

	if (!pool->is_spared)
		return mesh__memory_alloc(bytes);
	mesh__memory_spare(1);
	memory = mesh__memory_alloc(bytes);
	mesh__memory_spare(0);
	return memory;
}

static int refill(struct mesh__pool *pool, unsigned class_index)
{
	size_t block = (size_t)MESH__POOL_SMALLEST << class_index;
	size_t count = SLAB_BYTES / block ? SLAB_BYTES / block : 1;
	struct slab *slab = from_heap(pool, sizeof(*slab) + count * block);
	char *at = (char *)(slab + 1);

	if (!slab)
		return -1;
	slab->next = pool->slabs;
	pool->slabs = slab;
	for (size_t i = count; i-- > 0;) {
		struct free_block *free_block = (struct free_block *)(void *)(at + i * block);

		free_block->next = pool->free_lists[class_index];
		pool->free_lists[class_index] = free_block;
	}
	return 0;
}

static void *alloc_large(struct mesh__pool *pool, size_t bytes)
{
	struct header *header = bytes > SIZE_MAX - sizeof(*header) ? NULL : from_heap(pool, sizeof(*header) + bytes);

	if (!header)
		return NULL;
	header->class_index = MESH__POOL_CLASSES;
	header->bytes = bytes;
	pool->in_use++;
	return header + 1;
}

void *mesh__pool_alloc(struct mesh__pool *pool, size_t bytes)
{
	unsigned class_index;
	struct free_block *block;
	struct header *header;

	if (MESH__POOL_IS_WATCHED || bytes > ((size_t)MESH__POOL_SMALLEST << (MESH__POOL_CLASSES - 1)) - sizeof(struct header))
		return alloc_large(pool, bytes);
	class_index = class_for(bytes);
	if (!pool->free_lists[class_index] && refill(pool, class_index))
		return NULL;
	block = pool->free_lists[class_index];
	pool->free_lists[class_index] = block->next;
	header = (struct header *)(void *)block;
	header->class_index = class_index;
	header->bytes = ((size_t)MESH__POOL_SMALLEST << class_index) - sizeof(*header);
	pool->in_use++;
	return header + 1;
}

void *mesh__pool_zalloc(struct mesh__pool *pool, size_t bytes)
{
	void *memory = mesh__pool_alloc(pool, bytes);

	return memory ? memset(memory, 0, bytes) : NULL;
}

void mesh__pool_free(struct mesh__pool *pool, void *memory)
{
	struct header *header = memory;
	struct free_block *block;
	uint64_t class_index;

	if (!memory)
		return;
	header--;
	pool->in_use--;
	class_index = header->class_index;
	if (class_index == MESH__POOL_CLASSES) {
		mesh__memory_free(header);
		return;
	}
	block = (struct free_block *)(void *)header;
	block->next = pool->free_lists[class_index];
	pool->free_lists[class_index] = block;
}

void *mesh__pool_realloc(struct mesh__pool *pool, void *memory, size_t bytes)
{
	struct header *header = memory;
	void *larger;

	if (memory && header[-1].bytes >= bytes)
		return memory;
	larger = mesh__pool_alloc(pool, bytes);
	if (!larger || !memory)
		return larger;
	memcpy(larger, memory, header[-1].bytes);
	mesh__pool_free(pool, memory);
	return larger;
}
