/* One-shot waiting for an event that happens once: a futex and nothing else. Zeroed storage has not happened. */
#ifndef MESH_BASE_WAIT_H
#define MESH_BASE_WAIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mesh__wait {
	_Atomic uint32_t word; /* 0: not yet; 1: not yet, somebody sleeps; 2: happened */
};

static inline bool mesh__wait_is_over(const struct mesh__wait *wait)
{
	return atomic_load_explicit(&wait->word, memory_order_acquire) == 2;
}

void mesh__wait_finish(struct mesh__wait *wait); /* all that was written before is seen by those who waited */
bool mesh__wait_until(struct mesh__wait *wait, uint64_t deadline_ns); /* CLOCK_MONOTONIC, UINT64_MAX: for ever; false: time ran out */

#endif
