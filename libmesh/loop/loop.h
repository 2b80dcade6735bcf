/*
 * A loop: one thread (or the caller's event_base) that owns calls, connections and timers from start to end.
 *
 * One turn: descriptors that are ready, expired timers, the mailbox, deferred tasks, then one flush per connection. libevent is
 * used for readiness only: timers are ours (a hashed wheel behind one timerfd), so that setting and cancelling one costs no
 * system call and no heap.
 *
 * Other threads reach a loop through mesh__loop_post(): a lock-free stack and one eventfd write per batch.
 */
#ifndef MESH_LOOP_LOOP_H
#define MESH_LOOP_LOOP_H

#include "base/list.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/random.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct event;
struct event_base;
struct mesh__loop;

/* Work for a loop. The owner embeds it; it is in at most one place at a time. */
struct mesh__task {
	struct mesh__task *next;
	void (*run)(struct mesh__task *task, struct mesh__loop *lp);
};

/* A timer; zeroed storage is an unset timer. Fires once, at or up to MESH__TIMER_TICK_NS after `when_ns`, never before. */
struct mesh__timer {
	struct mesh__list node;
	uint64_t when_ns;
	void (*fire)(struct mesh__timer *timer, struct mesh__loop *lp);
};

enum { MESH__WATCH_READ = 1, MESH__WATCH_WRITE = 2 };

/* A watched descriptor; level-triggered. Zeroed storage is a closed watch. */
struct mesh__watch {
	struct event *read_event, *write_event;
	void (*ready)(struct mesh__watch *watch, struct mesh__loop *lp, int what);
	struct mesh__loop *lp;
	int fd;
};

/* Something to do once at the end of this turn: a connection with bytes to write. */
struct mesh__flush {
	struct mesh__list node;
	void (*run)(struct mesh__flush *flush, struct mesh__loop *lp);
};

#define MESH__TIMER_TICK_NS (UINT64_C(1) << 20) /* 1.05 ms */

enum {
	MESH__WHEEL_BITS = 6,
	MESH__WHEEL_SLOTS = 1 << MESH__WHEEL_BITS,
	MESH__WHEEL_LEVELS = 6, /* 64^6 ticks: two years; later timers wait in the last slot and are sorted again */
	MESH__LOOP_BUFFER_BYTES = 64 * 1024,
	MESH__LOOP_SPARES = 32,
	MESH__LOOP_SPARE_BYTES = 2048
};

struct mesh__loop {
	struct {
		_Atomic(struct mesh__task *) mailbox;  /* a stack, newest first; NULL: empty */
		_Atomic(struct mesh__task *) returned; /* the same, of objects to be freed: not worth a wake-up */
		_Atomic(void *) spares[MESH__LOOP_SPARES]; /* blocks that other threads may take; NULL: an empty place */
	} shared;

	/* Everything below: on_loop. */
	struct event_base *base;
	bool owns_base, has_thread, is_closed;
	int32_t index;
	pthread_t thread;
	_Atomic pthread_t turner; /* shared: of a foreign base, the thread that turned it last; before that, the opener's */
	const struct mesh__log *log;
	uint64_t now_ns; /* refreshed at the start of each batch of work */
	struct mesh__random random;
	struct mesh__pool pool;         /* memory of calls and streams */
	struct mesh__pool foreign_pool; /* memory of nghttp2 */
	uint8_t *scratch;       /* MESH__LOOP_BUFFER_BYTES, for one read or one flush at a time */
	uint8_t *sealed;        /* the same for the other side of encryption, made with the first TLS connection */
	uint8_t *records[2];    /* where TLS sessions have their records, see mesh__tls_settle() */
	struct mesh__list secured; /* TLS connections that are open; wire/secure.h */
	uint64_t complained_ns; /* when a handshake was last said to have failed for want of an identity: strangers must not fill a log */

	uint64_t live; /* objects that others may still hold: the loop's memory outlives them */
	pthread_mutex_t late_lock; /* guards all of the loop's memory once it has been freed by its owner */
	bool is_orphan;

	struct mesh__task *deferred_first, **deferred_last;
	struct mesh__list flushes;
	struct event *turn_end; /* made active when something is deferred or to be flushed */
	bool is_turn_end_due;

	struct mesh__list wheel[MESH__WHEEL_LEVELS][MESH__WHEEL_SLOTS];
	uint64_t wheel_used[MESH__WHEEL_LEVELS]; /* bit per slot that may hold timers */
	uint64_t wheel_tick;                     /* ticks before this one have fired */
	uint64_t armed_tick;                     /* what the timerfd is set to; UINT64_MAX: unset */
	int timer_fd, wake_fd;
	int64_t wakes_due; /* batches of mail taken whose wake-up has not been read: who posted them still uses wake_fd */
	struct mesh__watch timer_watch, wake_watch;

	struct mesh__timer heartbeat;
	void (*beat)(struct mesh__loop *lp, void *user); /* once a second while the loop turns; NULL: none */
	void *beat_user;
};

struct mesh__loop_options {
	struct event_base *base; /* NULL: own base and own thread */
	const struct mesh__log *log;
	int32_t index;
	void (*beat)(struct mesh__loop *lp, void *user);
	void *beat_user;
};

/*
 * Life: new, start (own thread only), stop, free. stop posts `last` (may be NULL), which ends all that lives on the loop, and
 * joins; on a foreign base it runs `last` and what that defers right here.
 * Errors: MESH_E_NOMEM, MESH_E_NO_DESCRIPTORS, MESH_E_SYSTEM.
 */
int mesh__loop_new(struct mesh__loop **out, const struct mesh__loop_options *opts);
int mesh__loop_start(struct mesh__loop *lp);
void mesh__loop_stop(struct mesh__loop *lp, struct mesh__task *last);
void mesh__loop_free(struct mesh__loop *lp); /* after stop; what is still held by others keeps its memory until it is returned */

/*
 * Objects that live in the loop's memory and are held by other threads: lp->live counts them (on_loop: ++ when made). The last
 * holder gives them back from any thread; task->run frees them and counts down, on the loop, or under a lock once it has gone.
 */
void mesh__loop_return(struct mesh__loop *lp, struct mesh__task *task);

/* Is it for this thread to turn the loop, if it waits for something that happens there? True in a foreign base's own thread. */
bool mesh__loop_must_turn(const struct mesh__loop *lp);

/* On a foreign base: turns it until `done` says so or `until_ns`. thread: the base's, outside its callbacks. */
void mesh__loop_turn_until(struct mesh__loop *lp, bool (*done)(void *), void *user, uint64_t until_ns);

/*
 * Memory of what any thread may make and this loop frees: calls, answers. On the loop it comes from the pool; elsewhere from a few
 * spare blocks that go round, so that a thread which makes one after the other allocates nothing; else from the heap. The owner
 * keeps `from` and gives it back. alloc: thread any, NULL: out of memory; free: on_loop, or by the thread that made it.
 */
enum mesh__memory_from { MESH__FROM_HEAP, MESH__FROM_POOL, MESH__FROM_SPARES };
void *mesh__loop_alloc(struct mesh__loop *lp, size_t bytes, uint8_t *from);
void mesh__loop_free_memory(struct mesh__loop *lp, void *memory, uint8_t from);

/* thread any. Runs task->run on the loop, in order of posting per thread; false when the loop has stopped (task is not taken). */
bool mesh__loop_post(struct mesh__loop *lp, struct mesh__task *task);

bool mesh__loop_is_mine(const struct mesh__loop *lp); /* does this thread run the loop now, inside one of its callbacks? */
bool mesh__loop_is_any(void);                         /* ... any loop of the library? then it must not wait */

/* Runs the task on the loop and waits for it; on a foreign base, or on the loop itself, right here. false: the loop has stopped. */
bool mesh__loop_call(struct mesh__loop *lp, struct mesh__task *task);

/* on_loop */
void mesh__loop_defer(struct mesh__loop *lp, struct mesh__task *task); /* runs at the end of this turn, before the flushes */
void mesh__loop_flush_later(struct mesh__loop *lp, struct mesh__flush *flush); /* twice is once */
void mesh__timer_set(struct mesh__loop *lp, struct mesh__timer *timer, uint64_t when_ns); /* moves it if set */
void mesh__timer_cancel(struct mesh__timer *timer);
bool mesh__timer_is_set(const struct mesh__timer *timer);
int mesh__watch_open(struct mesh__loop *lp, struct mesh__watch *watch, int fd, int what,
		     void (*ready)(struct mesh__watch *, struct mesh__loop *, int));
int mesh__watch_want(struct mesh__watch *watch, int what); /* what to wait for from now on */
void mesh__watch_close(struct mesh__watch *watch);         /* the descriptor stays the caller's */

#endif
