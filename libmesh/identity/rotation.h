/*
 * When an identity is renewed, when its renewal is overdue, and whether a clock jumped: pure decisions, given all clocks.
 *
 * Validity is a matter of the wall clock, which may be set; waiting is a matter of the monotonic clock, which does not run while the
 * machine sleeps. So a plan is made in monotonic time from what the wall clock says now, and made anew when the two no longer agree.
 */
#ifndef MESH_IDENTITY_ROTATION_H
#define MESH_IDENTITY_ROTATION_H

#include <stdbool.h>
#include <stdint.h>

/* The three clocks, read together. */
struct mesh__clocks {
	int64_t wall_ns;
	uint64_t boot_ns, mono_ns; /* boot: as monotonic, but it goes on while the machine sleeps */
};

/* The life of one leaf, as we got it. */
struct mesh__lifetime {
	int64_t not_before_s, not_after_s; /* Unix time, both inclusive */
	int64_t life_ns;                   /* what was left of it when it came */
	int64_t full_ns;                   /* from its beginning, which an issuer may date back a little, to its end */
};

enum mesh__clock_change { MESH__CLOCK_STEADY, MESH__CLOCK_STEPPED, MESH__CLOCK_SLEPT };

struct mesh__lifetime mesh__rotation_lifetime(int64_t not_before_s, int64_t not_after_s, const struct mesh__clocks *now);
int64_t mesh__rotation_left_ns(const struct mesh__lifetime *life, const struct mesh__clocks *now); /* negative once it has expired */
bool mesh__rotation_is_valid(const struct mesh__lifetime *life, const struct mesh__clocks *now);

/* The monotonic time to renew at: when half of its life is left, give or take ten per cent. `jitter` is in [0, 1). */
uint64_t mesh__rotation_plan(const struct mesh__lifetime *life, const struct mesh__clocks *now, double jitter);

/* How long to wait after so many failures in a row (from 1): a second, doubled up to a minute, with the same jitter. */
uint64_t mesh__rotation_retry_ns(uint32_t failures, double jitter);

/* A renewal should have happened by now: less than a third of the life is left. */
bool mesh__rotation_is_overdue(const struct mesh__lifetime *life, const struct mesh__clocks *now);

/* Less than a tenth of it is left: nobody should count on us any more. */
bool mesh__rotation_is_nearly_over(const struct mesh__lifetime *life, const struct mesh__clocks *now);

/* What happened between two looks a second or so apart: more than a second of difference is no drift. */
enum mesh__clock_change mesh__rotation_compare(const struct mesh__clocks *before, const struct mesh__clocks *now);

#endif
