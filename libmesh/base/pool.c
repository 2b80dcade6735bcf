/*
 * Each block is preceded by its class, so that freeing needs no size. Classes, header included: the multiples of 16 up to 256, then eight to
 * each doubling, up to 16 KiB. (Of what a connection keeps, HTTP/2's tables are powers of two: with classes that double and a header, half of
 * each block would be lost.) A slab is cut into blocks of one class when that class' list runs dry.
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

enum { SLAB_BYTES = 16 * 1024, BLOCK_BYTES_MAX = 16 * 1024, UNIT_BYTES = 16, STEP_BITS = 3, STEPS = 1 << STEP_BITS };

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
	size_t units = (bytes + sizeof(struct header) + UNIT_BYTES - 1) / UNIT_BYTES - 1;
	unsigned shift;

	if (units < 2 * STEPS)
		return (unsigned)units;
	shift = 63u - (unsigned)__builtin_clzll(units) - STEP_BITS;
	return (shift << STEP_BITS) + (unsigned)(units >> shift);
}

static size_t block_bytes(unsigned class_index)
{
	unsigned shift = class_index < 2 * STEPS ? 0 : (class_index >> STEP_BITS) - 1;
	size_t units = class_index - ((size_t)shift << STEP_BITS);

	return (units + 1) * UNIT_BYTES << shift;
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
	size_t block = block_bytes(class_index);
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

	if (MESH__POOL_IS_WATCHED || bytes > BLOCK_BYTES_MAX - sizeof(struct header))
		return alloc_large(pool, bytes);
	class_index = class_for(bytes);
	if (!pool->free_lists[class_index] && refill(pool, class_index))
		return NULL;
	block = pool->free_lists[class_index];
	pool->free_lists[class_index] = block->next;
	header = (struct header *)(void *)block;
	header->class_index = class_index;
	header->bytes = block_bytes(class_index) - sizeof(*header);
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
