/*
 * Hierarchical timing wheel (Varghese and Lauck, 1987) of six levels with 64 slots, behind one timerfd.
 *
 * A tick is 2^20 ns. A timer's level is that of the highest group of six bits in which its tick differs from the wheel's; its
 * slot is that group. So everything in a lower level is due before anything in a higher one, and the next expiry is found with
 * a few bit operations. When the wheel reaches a slot of a higher level, its timers fire or move down.
 *
 * Cancelling only unlinks: a slot may be empty when it is reached, which costs one early wake-up. The timerfd is set only when
 * the next expiry comes before what it is set to; with the usual load (long deadlines, nearly all cancelled) that is rare.
 */
#include "loop/loop_internal.h"

#include "base/clock.h"

#include <sys/timerfd.h>
#include <unistd.h>

#define NEVER UINT64_MAX
#define TICK_SHIFT 20
#define SLOT_MASK ((uint64_t)MESH__WHEEL_SLOTS - 1)
#define FAR_TICKS ((UINT64_C(1) << (MESH__WHEEL_BITS * MESH__WHEEL_LEVELS)) - 1)

void mesh__timer_wheel_init(struct mesh__loop *lp)
{
	for (int level = 0; level < MESH__WHEEL_LEVELS; level++)
		for (int slot = 0; slot < MESH__WHEEL_SLOTS; slot++)
			mesh__list_init(&lp->wheel[level][slot]);
	lp->wheel_tick = lp->now_ns >> TICK_SHIFT;
	lp->armed_tick = NEVER;
}

static uint64_t tick_of(const struct mesh__timer *timer)
{
	uint64_t whole = timer->when_ns >> TICK_SHIFT;

	return whole + ((timer->when_ns & (MESH__TIMER_TICK_NS - 1)) != 0);
}

static uint64_t insert(struct mesh__loop *lp, struct mesh__timer *timer)
{
	uint64_t tick = tick_of(timer);
	int level, slot;

	if (tick <= lp->wheel_tick)
		tick = lp->wheel_tick + 1;
	/* Beyond the wheel's range: wait in its farthest slot, be sorted again there. */
	if ((tick ^ lp->wheel_tick) > FAR_TICKS)
		tick = lp->wheel_tick | FAR_TICKS;
	level = (63 - __builtin_clzll((tick ^ lp->wheel_tick) | 1)) / MESH__WHEEL_BITS;
	slot = (int)((tick >> (level * MESH__WHEEL_BITS)) & SLOT_MASK);
	mesh__list_append(&lp->wheel[level][slot], &timer->node);
	lp->wheel_used[level] |= UINT64_C(1) << slot;
	return tick;
}

void mesh__timer_set(struct mesh__loop *lp, struct mesh__timer *timer, uint64_t when_ns)
{
	mesh__timer_cancel(timer);
	timer->when_ns = when_ns;
	if (insert(lp, timer) < lp->armed_tick)
		mesh__loop_want_turn_end(lp);
}

bool mesh__timer_is_set(const struct mesh__timer *timer)
{
	return timer->node.next && timer->node.next != &timer->node;
}

void mesh__timer_cancel(struct mesh__timer *timer)
{
	if (mesh__timer_is_set(timer))
		mesh__list_remove(&timer->node);
	else
		mesh__list_init(&timer->node);
}

/* The first tick at which a slot must be looked at, or NEVER. */
static uint64_t next_slot(const struct mesh__loop *lp, int *level_out, int *slot_out)
{
	for (int level = 0; level < MESH__WHEEL_LEVELS; level++) {
		int shift = level * MESH__WHEEL_BITS;
		uint64_t at = (lp->wheel_tick >> shift) & SLOT_MASK;
		/* Slots up to and including the wheel's own have been emptied. */
		uint64_t ahead = at == SLOT_MASK ? 0 : lp->wheel_used[level] & (~UINT64_C(0) << (at + 1));

		if (!ahead)
			continue;
		*level_out = level;
		*slot_out = __builtin_ctzll(ahead);
		return (((lp->wheel_tick >> shift) & ~SLOT_MASK) | (uint64_t)*slot_out) << shift;
	}
	return NEVER;
}

void mesh__timer_arm(struct mesh__loop *lp)
{
	struct itimerspec when = { { 0, 0 }, { 0, 0 } };
	int level, slot;
	uint64_t tick = next_slot(lp, &level, &slot), ns;

	if (tick >= lp->armed_tick)
		return;
	ns = tick << TICK_SHIFT;
	when.it_value.tv_sec = (time_t)(ns / MESH__NS_PER_SEC);
	when.it_value.tv_nsec = (long)(ns % MESH__NS_PER_SEC);
	if (timerfd_settime(lp->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) == 0)
		lp->armed_tick = tick;
}

static void empty_slot(struct mesh__loop *lp, int level, int slot, uint64_t now_tick)
{
	struct mesh__list due, *node, *from = &lp->wheel[level][slot];

	lp->wheel_used[level] &= ~(UINT64_C(1) << slot);
	if (mesh__list_is_empty(from))
		return;
	due = *from;
	due.next->prev = due.prev->next = &due;
	mesh__list_init(from);
	/* `due` stays in place while callbacks cancel its members. */
	while ((node = mesh__list_take_first(&due))) {
		struct mesh__timer *timer = MESH__CONTAINER(node, struct mesh__timer, node);

		if (tick_of(timer) <= now_tick)
			timer->fire(timer, lp);
		else
			insert(lp, timer);
	}
}

void mesh__timer_on_ready(struct mesh__watch *watch, struct mesh__loop *lp, int what)
{
	uint64_t expirations, now_tick = lp->now_ns >> TICK_SHIFT, tick;
	int level, slot;

	(void)what;
	if (read(watch->fd, &expirations, sizeof(expirations)) < 0)
		return;
	lp->armed_tick = NEVER;
	while ((tick = next_slot(lp, &level, &slot)) <= now_tick) {
		lp->wheel_tick = tick;
		empty_slot(lp, level, slot, now_tick);
	}
	if (now_tick > lp->wheel_tick)
		lp->wheel_tick = now_tick;
	mesh__loop_want_turn_end(lp);
}
