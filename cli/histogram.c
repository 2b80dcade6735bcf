#include "histogram.h"

/* Below 2^7 every value has its own cell; above, the seven bits after the leading one choose the step. */
static uint32_t cell_of(uint64_t ns)
{
	if (ns >> HISTOGRAM_STEP_BITS == 0)
		return (uint32_t)ns;
	uint32_t top = 63 - (uint32_t)__builtin_clzll(ns);
	if (top >= HISTOGRAM_TOP_BIT)
		return HISTOGRAM_CELLS - 1;
	uint32_t shift = top - HISTOGRAM_STEP_BITS;
	return ((shift + 1) << HISTOGRAM_STEP_BITS) + (uint32_t)(ns >> shift) - (1u << HISTOGRAM_STEP_BITS);
}

/* The middle of a cell. */
static uint64_t value_of(uint32_t cell)
{
	if (cell < 1u << HISTOGRAM_STEP_BITS)
		return cell;
	uint32_t shift = (cell >> HISTOGRAM_STEP_BITS) - 1;
	uint64_t lower = ((uint64_t)(cell & ((1u << HISTOGRAM_STEP_BITS) - 1)) + (1u << HISTOGRAM_STEP_BITS)) << shift;
	return lower + ((UINT64_C(1) << shift) >> 1);
}

void histogram_add(struct histogram *h, uint64_t ns)
{
	h->cells[cell_of(ns)]++;
	h->count++;
	if (ns > h->max)
		h->max = ns;
}

uint64_t histogram_quantile(const struct histogram *h, double quantile)
{
	uint64_t seen = 0, wanted = (uint64_t)(quantile * (double)h->count + 0.999999);

	if (h->count == 0)
		return 0;
	if (wanted >= h->count)
		return h->max;
	for (uint32_t cell = 0; cell < HISTOGRAM_CELLS; cell++) {
		seen += h->cells[cell];
		if (seen >= wanted && seen > 0)
			return value_of(cell) < h->max ? value_of(cell) : h->max;
	}
	return h->max;
}
