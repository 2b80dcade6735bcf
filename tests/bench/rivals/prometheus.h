/* prometheus-cpp behind C, for bench_stats. Loops run inside, so that a call across the border costs nothing. */
#ifndef TESTS_BENCH_RIVALS_PROMETHEUS_H
#define TESTS_BENCH_RIVALS_PROMETHEUS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void *prometheus_counter(void);
void prometheus_add(void *counter, uint64_t times);
void *prometheus_registry(unsigned series); /* that many counters with two labels each */
size_t prometheus_scrape(void *registry);   /* bytes of the text */

#ifdef __cplusplus
}
#endif

#endif
