#include "wire/abuse.h"

#include "base/clock.h"

#include <stdbool.h>

enum { MILLI = 1000 };

static const struct {
	const char *name;
	uint32_t burst, per_sec;
} kinds[] = {
#define ROW(kind, label, burst, rate) { label, burst, rate },
	MESH__ABUSE_TABLE(ROW)
#undef ROW
};

const char *mesh__abuse_name(enum mesh__abuse_kind kind)
{
	return kinds[kind].name;
}

enum mesh__abuse_verdict mesh__abuse_note(struct mesh__abuse *abuse, enum mesh__abuse_kind kind, uint64_t now_ns)
{
	bool is_set = kind == MESH__ABUSE_RESET && abuse->resets_burst;
	uint64_t burst_milli = (uint64_t)(is_set ? abuse->resets_burst : kinds[kind].burst) * MILLI;
	/* Per second and per millisecond: tokens and thousandths of them. */
	uint64_t elapsed_ms = (now_ns - abuse->refilled_ns[kind]) / MESH__NS_PER_MS;
	uint64_t refill_milli = elapsed_ms * (is_set ? abuse->resets_per_sec : kinds[kind].per_sec);

	if (refill_milli) {
		abuse->spent_milli[kind] = refill_milli >= abuse->spent_milli[kind] ? 0 : abuse->spent_milli[kind] - (uint32_t)refill_milli;
		abuse->refilled_ns[kind] += elapsed_ms * MESH__NS_PER_MS; /* the rest of a millisecond counts next time */
	}
	abuse->spent_milli[kind] += MILLI;
	if (abuse->spent_milli[kind] > burst_milli)
		return MESH__ABUSE_HARD;
	return abuse->spent_milli[kind] > burst_milli / 4 * 3 ? MESH__ABUSE_SOFT : MESH__ABUSE_FINE;
}

void mesh__abuse_excuse(struct mesh__abuse *abuse, enum mesh__abuse_kind kind, uint32_t tokens)
{
	uint32_t milli = tokens * MILLI;

	abuse->spent_milli[kind] -= milli < abuse->spent_milli[kind] ? milli : abuse->spent_milli[kind];
}
