/*
 * Power of two choices (Mitzenmacher, 2001): of two endpoints drawn at random, the one with fewer calls in flight; ties go to
 * the first drawn, which is random already.
 *
 * Pure: endpoints with their loads and random numbers in, an index out; no clock, no I/O.
 */
#ifndef MESH_FLOW_BALANCE_P2C_H
#define MESH_FLOW_BALANCE_P2C_H

#include "base/random.h"
#include "discovery/directory.h"

/* What one choice may look at. */
struct mesh__candidates {
	struct mesh__endpoint *const *eps;
	uint32_t count; /* at least 1 */
	/* Those that this call has tried: taken again only if there is no other. */
	struct mesh__endpoint *const *tried;
	uint32_t tried_count;
	uint32_t shards; /* of `in_flight` that may hold something */
};

uint32_t mesh__balance_p2c(const struct mesh__candidates *among, struct mesh__random *random);

/* Its two halves. Draws two different indices below count (count >= 2). */
static inline void mesh__balance_p2c_draw(struct mesh__random *random, uint32_t count, uint32_t *first, uint32_t *second)
{
	uint64_t bits = mesh__random_next(random);

	*first = (uint32_t)(((bits >> 32) * count) >> 32);
	*second = (uint32_t)(((bits & UINT32_MAX) * (count - 1)) >> 32);
	*second += *second >= *first;
}

/* Loads compared per unit of weight; load + 1, so that an idle heavy endpoint beats an idle light one. */
static inline uint32_t mesh__balance_p2c_better(uint32_t first, int64_t first_load, uint16_t first_weight, uint32_t second, int64_t second_load,
						uint16_t second_weight)
{
	return (second_load + 1) * first_weight < (first_load + 1) * second_weight ? second : first;
}

#endif
