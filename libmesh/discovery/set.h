/*
 * Reading a service's snapshot: an immutable array of endpoints, published by RCU. A read section costs a few instructions, never
 * waits, and must be short: whoever changes the set waits for it.
 */
#ifndef MESH_DISCOVERY_SET_H
#define MESH_DISCOVERY_SET_H

/*
 * A read section in line: liburcu says of these functions that the LGPL lets anyone have them so. Not under a sanitizer, which
 * would then see that liburcu does not align its readers as it declares them.
 */
#ifndef MESH_SANITIZING
#define _LGPL_SOURCE
#endif
#include "discovery/directory.h"

#include <urcu-bp.h>

struct mesh__set {
	uint32_t count;
	struct mesh__endpoint *eps[];
};

/*
 * The thread sanitizer cannot see how a grace period orders threads (the readers' side is a membarrier of the writer), so it is
 * told: what was read before read_end() happens before what follows the writer's wait.
 */
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *tag);
void __tsan_release(void *tag);
extern char mesh__set_grace_period;
#define MESH__SET_READ() __tsan_release(&mesh__set_grace_period)
#define MESH__SET_READERS_GONE() __tsan_acquire(&mesh__set_grace_period)
#else
#define MESH__SET_READ() ((void)0)
#define MESH__SET_READERS_GONE() ((void)0)
#endif

/* What is published stays until mesh__set_read_end(), which must follow in the same thread. Sections nest. thread any. */
static inline void mesh__set_read_enter(void)
{
	urcu_bp_read_lock();
}

/* The same, and the set: NULL if nothing was published yet. */
static inline const struct mesh__set *mesh__set_read_begin(const mesh__set_slot *slot)
{
	mesh__set_read_enter();
	return atomic_load_explicit(slot, memory_order_acquire);
}

static inline void mesh__set_read_end(void)
{
	MESH__SET_READ();
	urcu_bp_read_unlock();
}

/* Until all read sections that have begun are over. Never inside one. thread any */
void mesh__set_wait_for_readers(void);

#endif
