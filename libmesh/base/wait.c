#include "base/wait.h"

#include "base/clock.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { NOT_YET, NOT_YET_AND_SLEEPING, HAPPENED };

void mesh__wait_finish(struct mesh__wait *wait)
{
	if (atomic_exchange_explicit(&wait->word, HAPPENED, memory_order_acq_rel) == NOT_YET_AND_SLEEPING)
		syscall(SYS_futex, &wait->word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

bool mesh__wait_until(struct mesh__wait *wait, uint64_t deadline_ns)
{
	struct timespec until = { (time_t)(deadline_ns / MESH__NS_PER_SEC), (long)(deadline_ns % MESH__NS_PER_SEC) };
	uint32_t seen = NOT_YET;

	atomic_compare_exchange_strong_explicit(&wait->word, &seen, NOT_YET_AND_SLEEPING, memory_order_acquire, memory_order_acquire);
	while (!mesh__wait_is_over(wait)) {
		if (deadline_ns != UINT64_MAX && mesh__clock_now_ns() >= deadline_ns)
			return false;
		/* FUTEX_WAIT_BITSET takes an absolute time on CLOCK_MONOTONIC. */
		syscall(SYS_futex, &wait->word, FUTEX_WAIT_BITSET_PRIVATE, NOT_YET_AND_SLEEPING, deadline_ns == UINT64_MAX ? NULL : &until, NULL,
			FUTEX_BITSET_MATCH_ANY);
	}
	return true;
}
