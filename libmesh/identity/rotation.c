#include "identity/rotation.h"

#include "base/clock.h"

#define NS_PER_SEC ((int64_t)MESH__NS_PER_SEC)

/* Issuers date back so that a slow clock accepts the leaf: that part of its life never was ours. */
#define DATED_BACK_NS (120 * NS_PER_SEC)

/* However short a life is, renewing it does not keep a processor busy. */
#define WAIT_MIN_NS (NS_PER_SEC / 5)

#define RETRY_FIRST_NS MESH__NS_PER_SEC
#define RETRY_MAX_NS (60 * MESH__NS_PER_SEC)
#define STEP_NS NS_PER_SEC

/* Years are bounded so that nanoseconds cannot overflow: a root of a hundred years is as good as one of a thousand. */
static int64_t span_ns(int64_t from_s, int64_t to_s)
{
	const int64_t max_s = INT64_C(100) * 366 * 86400;
	int64_t span_s = to_s - from_s;

	if (span_s > max_s)
		span_s = max_s;
	return (span_s < -max_s ? -max_s : span_s) * NS_PER_SEC;
}

static int64_t left_ns(int64_t not_after_s, int64_t wall_ns)
{
	/* It is still valid in the very second that it names. */
	return span_ns(wall_ns / NS_PER_SEC, not_after_s + 1) - wall_ns % NS_PER_SEC;
}

struct mesh__lifetime mesh__rotation_lifetime(int64_t not_before_s, int64_t not_after_s, const struct mesh__clocks *now)
{
	struct mesh__lifetime life = { .not_before_s = not_before_s, .not_after_s = not_after_s };
	int64_t age_ns = span_ns(not_before_s, now->wall_ns / NS_PER_SEC);

	life.full_ns = span_ns(not_before_s, not_after_s + 1);
	life.life_ns = left_ns(not_after_s, now->wall_ns);
	if (life.life_ns < 0)
		life.life_ns = 0;
	if (life.life_ns > life.full_ns)
		life.life_ns = life.full_ns;
	if (age_ns >= 0 && age_ns <= DATED_BACK_NS)
		life.full_ns = life.life_ns;
	return life;
}

int64_t mesh__rotation_left_ns(const struct mesh__lifetime *life, const struct mesh__clocks *now)
{
	return left_ns(life->not_after_s, now->wall_ns);
}

bool mesh__rotation_is_valid(const struct mesh__lifetime *life, const struct mesh__clocks *now)
{
	return mesh__rotation_left_ns(life, now) > 0 && now->wall_ns / NS_PER_SEC >= life->not_before_s;
}

uint64_t mesh__rotation_plan(const struct mesh__lifetime *life, const struct mesh__clocks *now, double jitter)
{
	int64_t half_ns = life->life_ns / 2;
	int64_t wait_ns = mesh__rotation_left_ns(life, now) - half_ns;

	if (!mesh__rotation_is_valid(life, now))
		wait_ns = 0;
	if (wait_ns > half_ns) /* the clock was put back: it has not become younger */
		wait_ns = half_ns;
	wait_ns = wait_ns > 0 ? (int64_t)((double)wait_ns * (0.9 + 0.2 * jitter)) : 0;
	return now->mono_ns + (uint64_t)(wait_ns > WAIT_MIN_NS ? wait_ns : WAIT_MIN_NS);
}

uint64_t mesh__rotation_retry_ns(uint32_t failures, double jitter)
{
	uint64_t wait_ns = RETRY_FIRST_NS;

	while (failures-- > 1 && wait_ns < RETRY_MAX_NS)
		wait_ns *= 2;
	if (wait_ns > RETRY_MAX_NS)
		wait_ns = RETRY_MAX_NS;
	return (uint64_t)((double)wait_ns * (0.9 + 0.2 * jitter));
}

bool mesh__rotation_is_overdue(const struct mesh__lifetime *life, const struct mesh__clocks *now)
{
	return mesh__rotation_left_ns(life, now) < life->full_ns / 3;
}

bool mesh__rotation_is_nearly_over(const struct mesh__lifetime *life, const struct mesh__clocks *now)
{
	return mesh__rotation_left_ns(life, now) < life->full_ns / 10;
}

enum mesh__clock_change mesh__rotation_compare(const struct mesh__clocks *before, const struct mesh__clocks *now)
{
	int64_t wall_ns = now->wall_ns - before->wall_ns;
	int64_t boot_ns = (int64_t)(now->boot_ns - before->boot_ns), mono_ns = (int64_t)(now->mono_ns - before->mono_ns);

	if (wall_ns - boot_ns > STEP_NS || boot_ns - wall_ns > STEP_NS)
		return MESH__CLOCK_STEPPED;
	return boot_ns - mono_ns > STEP_NS ? MESH__CLOCK_SLEPT : MESH__CLOCK_STEADY;
}
