/* The two clocks. Policies never call these: they are given `now_ns`. */
#ifndef MESH_BASE_CLOCK_H
#define MESH_BASE_CLOCK_H

#include <stdint.h>

#define MESH__NS_PER_US UINT64_C(1000)
#define MESH__NS_PER_MS UINT64_C(1000000)
#define MESH__NS_PER_SEC UINT64_C(1000000000)

uint64_t mesh__clock_now_ns(void);  /* CLOCK_MONOTONIC: timers, ages, latencies */
uint64_t mesh__clock_wall_ns(void); /* CLOCK_REALTIME: only log stamps, traces and certificate validity */

#endif
