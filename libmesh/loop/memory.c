/* Spare blocks stand in places rather than in a list: a place is emptied or filled by one exchange, whoever else does the same. */
#include "base/memory.h"
#include "loop/loop.h"

static void *take_spare(struct mesh__loop *lp)
{
	for (uint32_t i = 0; i < MESH__LOOP_SPARES; i++) {
		void *block = NULL;

		if (atomic_load_explicit(&lp->shared.spares[i], memory_order_relaxed))
			block = atomic_exchange_explicit(&lp->shared.spares[i], NULL, memory_order_acquire);
		if (block)
			return block;
	}
	return mesh__memory_alloc(MESH__LOOP_SPARE_BYTES);
}

static void give_spare(struct mesh__loop *lp, void *block)
{
	for (uint32_t i = 0; i < MESH__LOOP_SPARES; i++) {
		void *none = NULL;

		if (!atomic_load_explicit(&lp->shared.spares[i], memory_order_relaxed) &&
		    atomic_compare_exchange_strong_explicit(&lp->shared.spares[i], &none, block, memory_order_release, memory_order_relaxed))
			return;
	}
	mesh__memory_free(block);
}

void *mesh__loop_alloc(struct mesh__loop *lp, size_t bytes, uint8_t *from)
{
	if (mesh__loop_is_mine(lp)) {
		*from = MESH__FROM_POOL;
		return mesh__pool_alloc(&lp->pool, bytes);
	}
	if (bytes <= MESH__LOOP_SPARE_BYTES && !MESH__POOL_IS_WATCHED) {
		*from = MESH__FROM_SPARES;
		return take_spare(lp);
	}
	*from = MESH__FROM_HEAP;
	return mesh__memory_alloc(bytes);
}

void mesh__loop_free_memory(struct mesh__loop *lp, void *memory, uint8_t from)
{
	if (from == MESH__FROM_POOL)
		mesh__pool_free(&lp->pool, memory);
	else if (from == MESH__FROM_SPARES)
		give_spare(lp, memory);
	else
		mesh__memory_free(memory);
}
