/*
 * Latencies of a load: a log-linear histogram of nanoseconds with 128 steps per power of two, so that a quantile is at most
 * 0.8 % off; the largest value is kept exactly. Not thread-safe: the load holds its lock.
 */
#ifndef MESH_CLI_HISTOGRAM_H
#define MESH_CLI_HISTOGRAM_H

#include <stdint.h>

enum {
	HISTOGRAM_STEP_BITS = 7,
	HISTOGRAM_TOP_BIT = 42, /* 2^42 ns are 73 minutes; longer times count in the last cell */
	HISTOGRAM_CELLS = (HISTOGRAM_TOP_BIT - HISTOGRAM_STEP_BITS + 1) << HISTOGRAM_STEP_BITS,
};

struct histogram {
	uint64_t cells[HISTOGRAM_CELLS];
	uint64_t count, max;
};

void histogram_add(struct histogram *h, uint64_t ns);
uint64_t histogram_quantile(const struct histogram *h, double quantile);

#endif
