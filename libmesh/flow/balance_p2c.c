#include "flow/balance_p2c.h"

enum { PROBES_MAX = 64 };

static bool is_tried(const struct mesh__candidates *among, const struct mesh__endpoint *ep)
{
	for (uint32_t i = 0; i < among->tried_count; i++)
		if (among->tried[i] == ep)
			return true;
	return false;
}

static bool is_poor(const struct mesh__candidates *among, uint32_t index)
{
	const struct mesh__endpoint *ep = among->eps[index];

	return atomic_load_explicit(&ep->is_unreachable, memory_order_relaxed) || is_tried(among, ep);
}

/* Both drawn are poor: walk on from a random place to one that is not; then to one that was at least not tried; else keep. */
static uint32_t look_further(const struct mesh__candidates *among, struct mesh__random *random, uint32_t chosen)
{
	uint32_t start = mesh__random_below(random, among->count), untried = UINT32_MAX;
	uint32_t limit = among->count < PROBES_MAX ? among->count : PROBES_MAX;

	for (uint32_t i = 0; i < limit; i++) {
		uint32_t at = start + i < among->count ? start + i : start + i - among->count;

		if (!is_poor(among, at))
			return at;
		if (untried == UINT32_MAX && !is_tried(among, among->eps[at]))
			untried = at;
	}
	return untried != UINT32_MAX ? untried : chosen;
}

static uint16_t weight_of(const struct mesh__endpoint *ep)
{
	return atomic_load_explicit(&ep->weight, memory_order_relaxed);
}

uint32_t mesh__balance_p2c(const struct mesh__candidates *among, struct mesh__random *random)
{
	const struct mesh__endpoint *first, *second;
	uint32_t a, b, chosen;
	bool a_is_poor, b_is_poor;

	if (among->count == 1)
		return 0;
	mesh__balance_p2c_draw(random, among->count, &a, &b);
	a_is_poor = is_poor(among, a);
	b_is_poor = is_poor(among, b);
	if (a_is_poor != b_is_poor)
		return a_is_poor ? b : a;
	first = among->eps[a];
	second = among->eps[b];
	chosen = mesh__balance_p2c_better(a, mesh__endpoint_load(first, among->shards), weight_of(first), b,
					  mesh__endpoint_load(second, among->shards), weight_of(second));
	return a_is_poor ? look_further(among, random, chosen) : chosen;
}
