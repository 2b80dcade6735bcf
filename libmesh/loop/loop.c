/*
 * The turn of a loop, its mailbox and its thread. Timers are in timer.c, descriptors in watch.c.
 *
 * libevent calls us for each ready descriptor; every entry goes through mesh__loop_enter() and _leave(), which say which loop
 * this thread is and what time it is. Whatever must happen after all that is ready now (deferred tasks, then one flush per
 * connection, then the timerfd) is done by `turn_end`, an event that we make active ourselves: libevent appends it behind the
 * callbacks that are already due, so a turn costs one epoll_wait, however many connections it serves.
 */
#include "loop/loop.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/memory.h"
#include "base/wait.h"
#include "loop/loop_internal.h"
#include "mesh/error.h"

#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* Global state, and why: "am I on a loop" must be answered for a thread that hands us nothing but itself. */
static _Thread_local struct mesh__loop *current_loop;

enum {
	DESCRIPTORS_PER_BASE = 6,
	ROUNDS_PER_TURN_MAX = 16, /* deferred work that keeps making deferred work yields to the descriptors after so many rounds */
	THREAD_STACK_BYTES = 1024 * 1024,
	WAKERS_WAIT_MS = 1000 /* longer than any thread is between two instructions */
};

/* What `mailbox` holds once the loop takes nothing any more. */
static struct mesh__task closed_mark;

struct mesh__loop *mesh__loop_enter(struct mesh__loop *lp)
{
	struct mesh__loop *outer = current_loop;

	current_loop = lp;
	lp->now_ns = mesh__clock_now_ns();
	if (!lp->owns_base)
		atomic_store_explicit(&lp->turner, pthread_self(), memory_order_relaxed);
	return outer;
}

void mesh__loop_leave(struct mesh__loop *outer)
{
	current_loop = outer;
}

bool mesh__loop_is_mine(const struct mesh__loop *lp)
{
	return current_loop == lp;
}

bool mesh__loop_is_any(void)
{
	return current_loop != NULL;
}

bool mesh__loop_must_turn(const struct mesh__loop *lp)
{
	return !lp->owns_base && !current_loop && pthread_equal(atomic_load_explicit(&lp->turner, memory_order_relaxed), pthread_self());
}

/* A callback may fork; its child inherits the callback's stack, but not the loop. */
static void leave_in_child(void)
{
	current_loop = NULL;
}

static void watch_fork(void)
{
	pthread_atfork(NULL, NULL, leave_in_child);
}

void mesh__loop_want_turn_end(struct mesh__loop *lp)
{
	if (lp->is_turn_end_due)
		return;
	lp->is_turn_end_due = true;
	event_active(lp->turn_end, EV_TIMEOUT, 0);
}

void mesh__loop_defer(struct mesh__loop *lp, struct mesh__task *task)
{
	task->next = NULL;
	*lp->deferred_last = task;
	lp->deferred_last = &task->next;
	mesh__loop_want_turn_end(lp);
}

void mesh__loop_flush_later(struct mesh__loop *lp, struct mesh__flush *flush)
{
	if (flush->node.next && !mesh__list_is_empty(&flush->node))
		return;
	mesh__list_append(&lp->flushes, &flush->node);
	mesh__loop_want_turn_end(lp);
}

static void run_deferred(struct mesh__loop *lp)
{
	struct mesh__task *task = lp->deferred_first, *next;

	lp->deferred_first = NULL;
	lp->deferred_last = &lp->deferred_first;
	for (; task; task = next) {
		next = task->next;
		task->run(task, lp);
	}
}

static void run_flushes(struct mesh__loop *lp)
{
	struct mesh__list *node;

	while ((node = mesh__list_take_first(&lp->flushes))) {
		struct mesh__flush *flush = MESH__CONTAINER(node, struct mesh__flush, node);

		flush->run(flush, lp);
	}
}

static void run_stack(struct mesh__loop *lp, struct mesh__task *newest)
{
	struct mesh__task *oldest = NULL;

	while (newest) {
		struct mesh__task *next = newest->next;

		newest->next = oldest;
		oldest = newest;
		newest = next;
	}
	while (oldest) {
		struct mesh__task *task = oldest;

		oldest = task->next;
		task->run(task, lp);
	}
}

static void finish_turn(struct mesh__loop *lp)
{
	int round = 0;

	/* is_turn_end_due stays set meanwhile: what is deferred in here is seen by this very loop. */
	lp->is_turn_end_due = true;
	while ((lp->deferred_first || !mesh__list_is_empty(&lp->flushes)) && round++ < ROUNDS_PER_TURN_MAX) {
		run_deferred(lp);
		if (!lp->deferred_first)
			run_flushes(lp);
	}
	if (atomic_load_explicit(&lp->shared.returned, memory_order_relaxed))
		run_stack(lp, atomic_exchange_explicit(&lp->shared.returned, NULL, memory_order_acquire));
	mesh__timer_arm(lp);
	lp->is_turn_end_due = false;
	if (lp->deferred_first || !mesh__list_is_empty(&lp->flushes)) {
		const struct timeval at_once = { 0, 0 };

		lp->is_turn_end_due = true;
		event_add(lp->turn_end, &at_once);
	}
}

static void on_turn_end(evutil_socket_t fd, short what, void *user)
{
	struct mesh__loop *lp = user, *outer = mesh__loop_enter(lp);

	(void)fd;
	(void)what;
	finish_turn(lp);
	mesh__loop_leave(outer);
}

static void take_mail(struct mesh__loop *lp, struct mesh__task *instead)
{
	struct mesh__task *newest = atomic_exchange_explicit(&lp->shared.mailbox, instead, memory_order_acq_rel);

	lp->wakes_due += newest != NULL;
	run_stack(lp, newest);
}

/*
 * Who posted the first task of a batch wakes us after we can see the task. It must be done with the descriptor before that is
 * closed: its number may be somebody else's file next.
 */
static void wait_for_wakers(struct mesh__loop *lp)
{
	struct pollfd ready = { .fd = lp->wake_fd, .events = POLLIN };
	uint64_t count;

	for (int i = 0; lp->wakes_due > 0 && i < WAKERS_WAIT_MS; i++)
		if (poll(&ready, 1, 1) == 1 && read(lp->wake_fd, &count, sizeof(count)) > 0)
			lp->wakes_due -= (int64_t)count;
}

static void on_wake(struct mesh__watch *watch, struct mesh__loop *lp, int what)
{
	uint64_t count;

	(void)what;
	/* First the descriptor, then the mailbox: a task posted in between writes the descriptor again. */
	if (read(watch->fd, &count, sizeof(count)) < 0)
		return;
	lp->wakes_due -= (int64_t)count;
	take_mail(lp, NULL);
}

bool mesh__loop_post(struct mesh__loop *lp, struct mesh__task *task)
{
	const uint64_t one = 1;
	struct mesh__task *head;

	if (mesh__loop_is_mine(lp) && !lp->is_closed) {
		mesh__loop_defer(lp, task);
		return true;
	}
	head = atomic_load_explicit(&lp->shared.mailbox, memory_order_relaxed);
	do {
		if (head == &closed_mark)
			return false;
		task->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&lp->shared.mailbox, &head, task, memory_order_release, memory_order_relaxed));
	/* Only the first of a batch wakes. The counter of an eventfd cannot run full with one write per batch. */
	if (!head && write(lp->wake_fd, &one, sizeof(one)) < 0)
		mesh__log_write(lp->log, MESH_LOG_ERROR, "loop %d: cannot be woken: %s", (int)lp->index, strerrordesc_np(errno));
	return true;
}

struct waited_task {
	struct mesh__task task, *inner;
	struct mesh__wait done;
};

static void run_waited(struct mesh__task *task, struct mesh__loop *lp)
{
	struct waited_task *waited = MESH__CONTAINER(task, struct waited_task, task);

	waited->inner->run(waited->inner, lp);
	mesh__wait_finish(&waited->done);
}

bool mesh__loop_call(struct mesh__loop *lp, struct mesh__task *task)
{
	struct waited_task waited = { .task.run = run_waited, .inner = task };

	if (lp->has_thread && !mesh__loop_is_mine(lp)) {
		if (!mesh__loop_post(lp, &waited.task))
			return false;
		return mesh__wait_until(&waited.done, UINT64_MAX);
	}
	if (lp->is_closed)
		return false;
	{
		struct mesh__loop *outer = mesh__loop_enter(lp);

		task->run(task, lp);
		mesh__loop_leave(outer);
	}
	return true;
}

static void beat(struct mesh__timer *timer, struct mesh__loop *lp)
{
	if (lp->beat)
		lp->beat(lp, lp->beat_user);
	mesh__timer_set(lp, timer, lp->now_ns + MESH__NS_PER_SEC);
}

static int open_descriptors(struct mesh__loop *lp)
{
	lp->wake_fd = mesh__descriptors_add(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
	if (lp->wake_fd < 0)
		return mesh__loop_errno();
	lp->timer_fd = mesh__descriptors_add(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
	if (lp->timer_fd < 0)
		return mesh__loop_errno();
	return 0;
}

int mesh__loop_errno(void)
{
	if (errno == EMFILE || errno == ENFILE)
		return MESH_E_NO_DESCRIPTORS;
	return errno == ENOMEM ? MESH_E_NOMEM : MESH_E_SYSTEM;
}

/*
 * libevent ends the process when it gets no descriptors for a base (evsig_init_), which a library must not do. So we look first
 * whether there are as many as it takes: an epoll and a pair.
 */
static bool has_descriptors_for_base(void)
{
	int fds[DESCRIPTORS_PER_BASE], count = 0, reason = 0;

	while (count < DESCRIPTORS_PER_BASE && (fds[count] = eventfd(0, EFD_CLOEXEC)) >= 0)
		count++;
	if (count < DESCRIPTORS_PER_BASE)
		reason = errno;
	for (int i = 0; i < count; i++)
		close(fds[i]);
	errno = reason;
	return count == DESCRIPTORS_PER_BASE;
}

static struct event_base *new_base(void)
{
	struct event_config *cfg = event_config_new();
	struct event_base *base;

	errno = ENOMEM;
	if (!cfg)
		return NULL;
	/* One thread per base and our own eventfd for wake-ups: libevent's locks would only cost. */
	event_config_set_flag(cfg, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_IGNORE_ENV);
	base = has_descriptors_for_base() ? event_base_new_with_config(cfg) : NULL;
	event_config_free(cfg);
	return base;
}

static int init(struct mesh__loop *lp, const struct mesh__loop_options *opts)
{
	int rc;

	*lp = (struct mesh__loop){ .log = opts->log, .index = opts->index, .beat = opts->beat, .beat_user = opts->beat_user,
				   .wake_fd = -1, .timer_fd = -1 };
	lp->deferred_last = &lp->deferred_first;
	mesh__list_init(&lp->flushes);
	mesh__list_init(&lp->secured);
	mesh__pool_init(&lp->pool);
	mesh__pool_init(&lp->foreign_pool);
	lp->foreign_pool.is_spared = true;
	mesh__random_init(&lp->random, mesh__random_entropy());
	lp->now_ns = mesh__clock_now_ns();
	mesh__timer_wheel_init(lp);
	lp->owns_base = opts->base == NULL;
	atomic_init(&lp->turner, pthread_self());
	lp->scratch = mesh__memory_alloc(MESH__LOOP_BUFFER_BYTES);
	if (!lp->scratch)
		return MESH_E_NOMEM;
	errno = ENOMEM;
	lp->base = opts->base ? opts->base : new_base();
	if (!lp->base)
		return mesh__loop_errno();
	lp->turn_end = event_new(lp->base, -1, 0, on_turn_end, lp);
	if (!lp->turn_end)
		return MESH_E_NOMEM;
	rc = open_descriptors(lp);
	if (!rc)
		rc = mesh__watch_open(lp, &lp->wake_watch, lp->wake_fd, MESH__WATCH_READ, on_wake);
	if (!rc)
		rc = mesh__watch_open(lp, &lp->timer_watch, lp->timer_fd, MESH__WATCH_READ, mesh__timer_on_ready);
	if (rc)
		return rc;
	lp->heartbeat.fire = beat;
	mesh__timer_set(lp, &lp->heartbeat, lp->now_ns + MESH__NS_PER_SEC);
	return 0;
}

/* All but the memory that others may hold. */
static void fini(struct mesh__loop *lp)
{
	mesh__watch_close(&lp->timer_watch);
	mesh__watch_close(&lp->wake_watch);
	mesh__timer_cancel(&lp->heartbeat);
	if (lp->turn_end)
		event_free(lp->turn_end);
	if (lp->owns_base && lp->base)
		event_base_free(lp->base);
	mesh__descriptors_close(lp->timer_fd);
	mesh__descriptors_close(lp->wake_fd);
	mesh__memory_free(lp->scratch);
	mesh__memory_free(lp->sealed);
	mesh__memory_free(lp->records[0]);
	mesh__memory_free(lp->records[1]);
}

static void free_memory(struct mesh__loop *lp)
{
	for (uint32_t i = 0; i < MESH__LOOP_SPARES; i++)
		mesh__memory_free(atomic_load_explicit(&lp->shared.spares[i], memory_order_acquire));
	mesh__pool_fini(&lp->pool);
	mesh__pool_fini(&lp->foreign_pool);
	pthread_mutex_destroy(&lp->late_lock);
	mesh__memory_free(lp);
}

int mesh__loop_new(struct mesh__loop **out, const struct mesh__loop_options *opts)
{
	static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
	struct mesh__loop *lp = mesh__memory_alloc(sizeof(*lp));
	int rc;

	if (!lp)
		return MESH_E_NOMEM;
	pthread_once(&fork_once, watch_fork);
	rc = init(lp, opts);
	pthread_mutex_init(&lp->late_lock, NULL);
	if (rc) {
		fini(lp);
		free_memory(lp);
		return rc;
	}
	*out = lp;
	return 0;
}

static void *thread_main(void *user)
{
	struct mesh__loop *lp = user;

	event_base_loop(lp->base, EVLOOP_NO_EXIT_ON_EMPTY);
	return NULL;
}

int mesh__loop_start(struct mesh__loop *lp)
{
	sigset_t all, before;
	pthread_attr_t attr;
	char name[16];
	int rc;

	if (!lp->owns_base)
		return 0;
	if (pthread_attr_init(&attr))
		return MESH_E_NOMEM;
	pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
	/* Signals belong to the host's threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&lp->thread, &attr, thread_main, lp);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (rc)
		return MESH_E_SYSTEM;
	snprintf(name, sizeof(name), "mesh-loop-%d", (int)lp->index);
	pthread_setname_np(lp->thread, name);
	lp->has_thread = true;
	return 0;
}

/* Ends what lives on the loop, then refuses further mail, then runs what was still on its way. */
static void end_all(struct mesh__loop *lp, struct mesh__task *last)
{
	if (last)
		last->run(last, lp);
	finish_turn(lp);
	take_mail(lp, &closed_mark);
	do
		finish_turn(lp);
	while (lp->deferred_first);
	wait_for_wakers(lp);
	lp->is_closed = true;
}

struct stop_task {
	struct mesh__task task;
	struct mesh__task *last;
};

static void run_stop(struct mesh__task *task, struct mesh__loop *lp)
{
	struct stop_task *stop = MESH__CONTAINER(task, struct stop_task, task);

	end_all(lp, stop->last);
	event_base_loopbreak(lp->base);
}

void mesh__loop_stop(struct mesh__loop *lp, struct mesh__task *last)
{
	struct stop_task stop = { .task = { .run = run_stop }, .last = last };

	if (lp->has_thread) {
		mesh__loop_post(lp, &stop.task);
		pthread_join(lp->thread, NULL);
		lp->has_thread = false;
	} else if (!lp->is_closed) {
		struct mesh__loop *outer = mesh__loop_enter(lp);

		end_all(lp, last);
		mesh__loop_leave(outer);
	}
}

void mesh__loop_free(struct mesh__loop *lp)
{
	bool is_orphan;

	if (!lp)
		return;
	fini(lp);
	pthread_mutex_lock(&lp->late_lock);
	run_stack(lp, atomic_exchange_explicit(&lp->shared.returned, &closed_mark, memory_order_acq_rel));
	is_orphan = lp->is_orphan = lp->live > 0;
	pthread_mutex_unlock(&lp->late_lock);
	if (!is_orphan)
		free_memory(lp);
}

static void return_late(struct mesh__loop *lp, struct mesh__task *task)
{
	bool is_last;

	pthread_mutex_lock(&lp->late_lock);
	task->run(task, lp);
	is_last = lp->is_orphan && lp->live == 0;
	pthread_mutex_unlock(&lp->late_lock);
	if (is_last)
		free_memory(lp);
}

void mesh__loop_return(struct mesh__loop *lp, struct mesh__task *task)
{
	struct mesh__task *head = atomic_load_explicit(&lp->shared.returned, memory_order_acquire);

	if (mesh__loop_is_mine(lp)) {
		task->run(task, lp);
		return;
	}
	do {
		if (head == &closed_mark) {
			return_late(lp, task);
			return;
		}
		task->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&lp->shared.returned, &head, task, memory_order_acq_rel, memory_order_acquire));
}

static void only_wake(struct mesh__timer *timer, struct mesh__loop *lp)
{
	(void)timer;
	(void)lp;
}

/* A turn waits for something to happen: `until_ns` is made to be something. */
static void set_limit(struct mesh__loop *lp, struct mesh__timer *limit, uint64_t until_ns)
{
	struct mesh__loop *outer = mesh__loop_enter(lp);

	if (until_ns != UINT64_MAX)
		mesh__timer_set(lp, limit, until_ns);
	else
		mesh__timer_cancel(limit);
	mesh__loop_leave(outer);
}

void mesh__loop_turn_until(struct mesh__loop *lp, bool (*done)(void *), void *user, uint64_t until_ns)
{
	struct mesh__timer limit = { .fire = only_wake };

	if (done(user) || lp->is_closed)
		return;
	set_limit(lp, &limit, until_ns);
	while (!done(user) && !lp->is_closed && mesh__clock_now_ns() < until_ns)
		event_base_loop(lp->base, EVLOOP_ONCE);
	mesh__timer_cancel(&limit);
}
