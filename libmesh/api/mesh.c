/*
 * Opening and closing: the parts in the order of their dependence, and back.
 *
 *   config -> stats -> loops -> identity -> flow -> directory -> (threads start)
 */
#include "api/handle.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"
#include "discovery/set.h"
#include "identity/identity_check.h"
#include "wire/grpc_stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define POLL_NS (2 * MESH__NS_PER_MS)

enum { CONNECTS_MAX = 65536 /* each waits for one of our own channels, which are bounded */ };

const char *mesh_version(void)
{
	return "0.1.0";
}

uint32_t mesh_version_number(void)
{
	return MESH_VERSION;
}

uint32_t mesh_tls_version_number(void)
{
	return mesh__identity_tls_version();
}

const char *mesh_service(const mesh *m)
{
	return m ? m->service : "";
}

int mesh__handle_refuse(const mesh *m, struct mesh_error *err)
{
	if (!m)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the mesh is NULL");
	if (m->generation != mesh__descriptors_generation())
		return mesh__fault(err, MESH_E_FORKED, MESH_STAGE_NONE, "this mesh belongs to the parent process: open one of your own after fork()");
	return mesh__fault(err, MESH_E_CLOSING, MESH_STAGE_NONE, "the mesh is closing");
}

int mesh__handle_enter(mesh *m, struct mesh_error *err)
{
	int rc = mesh__handle_check(m, err);

	if (rc || mesh__loop_is_any())
		return rc;
	pthread_mutex_lock(&m->life);
	rc = mesh__handle_check(m, err);
	if (rc)
		pthread_mutex_unlock(&m->life);
	return rc;
}

void mesh__handle_leave(mesh *m)
{
	if (!mesh__loop_is_any())
		pthread_mutex_unlock(&m->life);
}

bool mesh__handle_is_on_loop(const mesh *m)
{
	for (uint32_t i = 0; i < m->loop_count; i++)
		if (mesh__loop_is_mine(m->lps[i]))
			return true;
	return false;
}

void mesh__handle_ref(mesh *m)
{
	atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
}

void mesh__handle_unref(mesh *m)
{
	if (atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
		return;
	pthread_mutex_destroy(&m->shared.lock);
	pthread_mutex_destroy(&m->life);
	mesh__memory_free(m);
}

static void init_locks(mesh *m)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE); /* a callback that lists options may ask for one */
	pthread_mutex_init(&m->life, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_mutex_init(&m->shared.lock, NULL);
}

/* --- log --- */

/* Only when MESH_LOG asks and the host gave no callback: the one place that writes to standard error. */
static void log_to_stderr(int32_t level, const char *line, void *user)
{
	static const char *const names[] = { "off", "error", "warn", "info", "debug" };
	char text[1200];
	int len = snprintf(text, sizeof(text), "mesh[%d] %s: %s\n", (int)getpid(), names[level >= 0 && level <= 4 ? level : 0], line);

	(void)user;
	if (len > 0)
		(void)!write(STDERR_FILENO, text, (size_t)len < sizeof(text) ? (size_t)len : sizeof(text) - 1);
}

static void choose_log(mesh *m, const struct mesh_options *opts)
{
	int32_t level = (int32_t)mesh__config_choice(m->config, MESH__OPTION_LOG, NULL);

	m->log = (struct mesh__log){ opts->log, opts->log_user, opts->log && !level ? MESH_LOG_INFO : level };
	if (!opts->log && level)
		m->log.fn = log_to_stderr;
}

/* --- opening --- */

static void on_beat(struct mesh__loop *lp, void *user)
{
	mesh *m = user;

	mesh__stats_beat(m->stats, (uint32_t)lp->index, lp->now_ns);
}

static int open_stats(mesh *m, struct mesh_error *err)
{
	const char *dir = mesh__config_text(m->config, MESH__OPTION_STATS_DIR, NULL);
	const char *runtime = mesh__config_text(m->config, MESH__OPTION_RUNTIME_DIR, NULL);
	struct mesh__stats_options opts = {
		.service = m->service, .dir = *dir ? dir : *runtime ? runtime : NULL,
		.is_off = mesh__config_choice(m->config, MESH__OPTION_STATS, NULL) != 0,
		.series_max = (uint32_t)mesh__config_count(m->config, MESH__OPTION_STATS_SERIES, NULL), .loops = m->loop_count, .log = &m->log,
		.xdg_runtime_dir = mesh__config_environment(m->config, "XDG_RUNTIME_DIR"),
	};
	struct mesh__labels none = { 0 };
	int rc = mesh__stats_open(&opts, &m->stats, err);

	if (!rc && mesh__config_warning_count(m->config))
		mesh__counter_add(mesh__stats_counter(m->stats, MESH__METRIC_CONFIG_WARNINGS_TOTAL, &none), mesh__shard_mine(),
				  mesh__config_warning_count(m->config));
	return rc;
}

static int open_loops(mesh *m, void *base, struct mesh_error *err)
{
	for (uint32_t i = 0; i < m->loop_count; i++) {
		struct mesh__loop_options opts = { .base = base, .log = &m->log, .index = (int32_t)i, .beat = on_beat, .beat_user = m };
		int rc = mesh__loop_new(&m->lps[i], &opts);

		if (rc)
			return mesh__fault(err, rc, MESH_STAGE_NONE, "cannot make loop %u: %s", i, mesh_error_text(rc));
	}
	return 0;
}

/* Servers and clients have helpers of their own, so that a storm of newcomers does not keep us from calling others. */
static int open_workers(mesh *m, struct mesh_error *err)
{
	uint32_t threads = (uint32_t)mesh__config_count(m->config, MESH__OPTION_HANDSHAKE_THREADS, NULL);
	uint32_t accepts_max = (uint32_t)mesh__config_count(m->config, MESH__OPTION_HANDSHAKES_MAX, NULL);

	if (mesh__workers_new(threads, accepts_max, "mesh-accept", &m->accepting) ||
	    mesh__workers_new(threads, CONNECTS_MAX, "mesh-connect", &m->connecting))
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for the helpers of handshakes");
	return 0;
}

static int open_policy(mesh *m, struct mesh_error *err)
{
	struct mesh__policy_live_options opts = {
		.path = mesh__config_text(m->config, MESH__OPTION_POLICY, NULL), .allow = mesh__config_text(m->config, MESH__OPTION_ALLOW, NULL),
		.stats = m->stats, .log = &m->log, .control = m->lps[0],
	};

	return mesh__policy_live_open(&opts, &m->policy, err);
}

static void each_server(mesh *m, void (*act)(mesh_server *))
{
	pthread_mutex_lock(&m->shared.lock);
	for (struct mesh__list *node = m->shared.servers.next; node != &m->shared.servers; node = node->next)
		act(MESH__CONTAINER(node, mesh_server, node));
	pthread_mutex_unlock(&m->shared.lock);
}

static void judge_on_loop(struct mesh__task *task, struct mesh__loop *lp)
{
	mesh *m = MESH__CONTAINER(task, mesh, judging[lp->index].task);

	atomic_store(&m->judging[lp->index].is_posted, false);
	mesh__flow_identity_came(m->flow, lp);
	mesh__conn_judge_all(lp);
	if (lp->index == 0)
		each_server(m, mesh__health_tell);
}

static void on_identity_change(void *user)
{
	mesh *m = user;

	for (uint32_t i = 0; i < m->loop_count; i++)
		if (!atomic_exchange(&m->judging[i].is_posted, true))
			mesh__loop_post(m->lps[i], &m->judging[i].task);
}

static int open_identity(mesh *m, struct mesh_error *err)
{
	struct mesh__identity_options opts = {
		.config = m->config, .stats = m->stats, .log = &m->log, .control = m->lps[0], .service = m->service, .streams = &mesh__grpc_streams,
		.on_change = on_identity_change, .user = m,
	};
	int rc;

	for (uint32_t i = 0; i < m->loop_count; i++)
		m->judging[i].task.run = judge_on_loop;
	rc = mesh__identity_open(&opts, &m->identity, err);
	if (rc || !mesh__identity_is_tls(m->identity))
		return rc;
	rc = open_policy(m, err);
	return rc ? rc : open_workers(m, err);
}

static int open_paths(mesh *m, struct mesh_error *err)
{
	struct mesh__flow_options flow_opts = { m->config, m->stats, &m->log, m->lps, m->loop_count, &m->live_calls, m->identity, m->connecting };
	struct mesh__directory_options directory_opts;
	int rc = mesh__flow_new(&flow_opts, &m->flow);

	if (rc)
		return mesh__fault(err, rc, MESH_STAGE_NONE, "out of memory for the mesh");
	directory_opts = (struct mesh__directory_options){ m->config, m->stats, &m->log, m->lps[0], mesh__flow_endpoint_freed, m->flow };
	rc = mesh__directory_open(&directory_opts, &m->directory, err);
	if (rc)
		return rc;
	mesh__identity_start(m->identity);
	if (m->policy)
		mesh__policy_live_start(m->policy);
	mesh__flow_start(m->flow, m->directory);
	return 0;
}

static int start_threads(mesh *m, struct mesh_error *err)
{
	for (uint32_t i = 0; i < m->loop_count; i++) {
		int rc = mesh__loop_start(m->lps[i]);

		if (rc)
			return mesh__fault(err, rc, MESH_STAGE_NONE, "cannot start the thread of loop %u: %s", i, mesh_error_text(rc));
	}
	return 0;
}

static int check_options(const struct mesh_options *opts, struct mesh_error *err)
{
	if (opts->size < sizeof(*opts))
		return mesh__fault(err, MESH_E_VERSION, MESH_STAGE_NONE, "mesh_options.size is %u, expected %zu: set it to sizeof(struct mesh_options)",
				   opts->size, sizeof(*opts));
	if (opts->setting_count && !opts->settings)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "mesh_options.settings is NULL, though setting_count is not 0");
	return 0;
}

static int check_service_name(const char *name, struct mesh_error *err)
{
	size_t len = strlen(name);

	if (len == 0 || len > 253 || name[0] == '.' ||
	    strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != len)
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE,
				   "\"%.64s\" is no service name: 1 to 253 letters, digits, '-', '_' and '.', not beginning with '.'", name);
	return 0;
}

static int check_text(enum mesh__option option, const char *text, struct mesh_error *err)
{
	if (option == MESH__OPTION_SERVICE && *text)
		return check_service_name(text, err);
	return option == MESH__OPTION_DISCOVERY ? mesh__directory_check(text, err) : mesh__identity_check(option, text, err);
}

static void close_all(mesh *m);

static int open_all(mesh *m, const struct mesh_options *opts, struct mesh_error *err)
{
	struct mesh__log early = { opts->log, opts->log_user, MESH_LOG_WARN };
	const char *level = getenv("MESH_LOG");
	int rc;

	/* Problems of the options themselves come before the option `log` is known. */
	if (!opts->log && level && *level && strcmp(level, "off") != 0)
		early.fn = log_to_stderr;
	rc = mesh__config_new(&m->config, NULL, opts->settings, opts->setting_count, check_text, &early, err);
	if (rc)
		return rc;
	choose_log(m, opts);
	mesh__config_get(m->config, "service", NULL, m->service, sizeof(m->service));
	if (opts->service)
		snprintf(m->service, sizeof(m->service), "%s", opts->service);
	rc = check_service_name(m->service, err);
	if (rc)
		return rc;
	m->loop_count = opts->event_base ? 1 : (uint32_t)mesh__config_count(m->config, MESH__OPTION_LOOPS, NULL);
	rc = open_stats(m, err);
	if (!rc)
		rc = open_loops(m, opts->event_base, err);
	if (!rc)
		rc = open_identity(m, err);
	if (!rc)
		rc = open_paths(m, err);
	return rc ? rc : start_threads(m, err);
}

int mesh_open(const struct mesh_options *opts, mesh **out, struct mesh_error *err)
{
	static const struct mesh_options plain = MESH_OPTIONS_INIT;
	mesh *m;
	int rc;

	if (!out)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "there is no place for the mesh: out is NULL");
	*out = NULL;
	opts = opts ? opts : &plain;
	rc = check_options(opts, err);
	if (rc)
		return rc;
	m = mesh__memory_zalloc(sizeof(*m));
	if (!m || mesh__descriptors_watch_fork()) {
		mesh__memory_free(m);
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for the mesh");
	}
	atomic_init(&m->refs, 1);
	m->generation = mesh__descriptors_generation();
	init_locks(m);
	mesh__list_init(&m->shared.servers);
	mesh__list_init(&m->shared.queues);
	rc = open_all(m, opts, err);
	if (rc) {
		close_all(m);
		mesh__handle_unref(m);
		return rc;
	}
	*out = m;
	return 0;
}

/* --- draining --- */

static bool is_closed_meanwhile(void *user)
{
	return atomic_load(&((mesh *)user)->is_closing);
}

static bool is_quiet(void *user)
{
	mesh *m = user;
	bool quiet = atomic_load_explicit(&m->live_calls, memory_order_relaxed) == 0;

	pthread_mutex_lock(&m->shared.lock);
	for (struct mesh__list *node = m->shared.servers.next; node != &m->shared.servers; node = node->next)
		quiet = quiet && mesh__server_is_drained(MESH__CONTAINER(node, mesh_server, node));
	pthread_mutex_unlock(&m->shared.lock);
	return quiet;
}

static bool is_quiet_or_closed(void *user)
{
	return is_closed_meanwhile(user) || is_quiet(user);
}

static void wait_until(mesh *m, bool (*done)(void *), uint64_t until_ns)
{
	const struct timespec pause = { 0, (long)POLL_NS };

	if (mesh__loop_must_turn(m->lps[0])) {
		mesh__loop_turn_until(m->lps[0], done, m, until_ns);
		return;
	}
	while (!done(m) && mesh__clock_now_ns() < until_ns)
		nanosleep(&pause, NULL);
}

/* Entered and left around each step, but not while it waits: closing ends a drain. */
static int drain(mesh *m, struct mesh_error *err)
{
	uint64_t delay_ns, timeout_ns;
	bool has_servers;
	int rc = mesh__handle_enter(m, err);

	if (rc)
		return rc;
	delay_ns = mesh__config_ns(m->config, MESH__OPTION_DRAIN_DELAY, NULL);
	timeout_ns = mesh__config_ns(m->config, MESH__OPTION_DRAIN_TIMEOUT, NULL);
	each_server(m, mesh__server_withdraw);
	has_servers = !mesh__list_is_empty(&m->shared.servers);
	mesh__handle_leave(m);
	if (has_servers)
		wait_until(m, is_closed_meanwhile, mesh__clock_now_ns() + delay_ns);
	rc = mesh__handle_enter(m, err);
	if (rc)
		return rc;
	each_server(m, mesh__server_drain);
	mesh__handle_leave(m);
	wait_until(m, is_quiet_or_closed, mesh__clock_now_ns() + timeout_ns);
	rc = mesh__handle_check(m, err);
	if (rc || is_quiet(m))
		return rc;
	return mesh__fault(err, MESH_E_DEADLINE, MESH_STAGE_NONE, "calls or requests were still in flight after drain.timeout");
}

int mesh_drain(mesh *m, struct mesh_error *err)
{
	int rc = mesh__handle_check(m, err);

	if (rc)
		return rc;
	if (mesh__loop_is_any())
		return mesh__fault(err, MESH_E_WRONG_THREAD, MESH_STAGE_NONE, "mesh_drain() waits, and must not be called on a loop");
	mesh__handle_ref(m);
	rc = drain(m, err);
	mesh__handle_unref(m);
	return rc;
}

/* --- closing --- */

struct stop {
	struct mesh__task task;
	mesh *m;
};

static void stop_loop(struct mesh__task *task, struct mesh__loop *lp)
{
	mesh *m = MESH__CONTAINER(task, struct stop, task)->m;
	uint32_t index = (uint32_t)lp->index;

	for (struct mesh__list *node = m->shared.servers.next; node != &m->shared.servers; node = node->next)
		mesh__server_stop_loop(MESH__CONTAINER(node, mesh_server, node), index);
	if (m->flow)
		mesh__flow_stop_loop(m->flow, index);
	if (m->directory && index == 0)
		mesh__directory_stop(m->directory);
	if (m->identity && index == 0)
		mesh__identity_stop(m->identity);
	if (m->policy && index == 0)
		mesh__policy_live_stop(m->policy);
}

/* Whoever counted a call before it could see that we close is still on its way in or out: what it reads must stay. */
static void wait_for_starters(const mesh *m)
{
	const struct timespec pause = { 0, (long)MESH__NS_PER_MS };

	while (atomic_load(&m->live_calls))
		nanosleep(&pause, NULL);
}

static void close_all(mesh *m)
{
	/* First who hands finished handshakes to the loops. */
	mesh__workers_stop(m->accepting);
	mesh__workers_stop(m->connecting);
	/* The control loop last: the others' endpoints end on it. */
	for (uint32_t i = m->loop_count; i-- > 0;) {
		struct stop stop = { .task.run = stop_loop, .m = m };

		if (m->lps[i])
			mesh__loop_stop(m->lps[i], &stop.task);
	}
	wait_for_starters(m);
	pthread_mutex_lock(&m->shared.lock);
	for (struct mesh__list *node = m->shared.queues.next; node != &m->shared.queues; node = node->next)
		mesh__queue_shut(mesh__queue_linked(node));
	pthread_mutex_unlock(&m->shared.lock);
	mesh__directory_free(m->directory);
	mesh__flow_free(m->flow);
	mesh__server_secure_free_all(&m->shared.secure);
	mesh__workers_free(m->accepting);
	mesh__workers_free(m->connecting);
	mesh__policy_live_free(m->policy);
	mesh__identity_free(m->identity);
	for (uint32_t i = 0; i < m->loop_count; i++)
		mesh__loop_free(m->lps[i]);
	mesh__stats_close(m->stats);
	mesh__config_free(m->config);
}

static void mark_stopped(mesh_server *server)
{
	mesh__server_withdraw(server);
	atomic_store(&server->state, MESH__SERVER_STOPPED);
}

void mesh_close(mesh *m)
{
	/* In a forked child all that the parent's threads were doing is frozen in some middle: touch nothing. */
	if (!m || m->generation != mesh__descriptors_generation())
		return;
	if (mesh__handle_is_on_loop(m)) {
		mesh__log_write(&m->log, MESH_LOG_ERROR, "mesh_close() was called inside a callback, and did nothing: it would wait for itself");
		return;
	}
	pthread_mutex_lock(&m->life);
	if (atomic_exchange(&m->is_closing, true)) {
		pthread_mutex_unlock(&m->life);
		return;
	}
	mesh__set_wait_for_readers(); /* api/endpoint.c */
	each_server(m, mark_stopped);
	close_all(m);
	pthread_mutex_unlock(&m->life);
	mesh__handle_unref(m);
}

/* --- queues --- */

int mesh_queue_new(mesh *m, mesh_queue **out, struct mesh_error *err)
{
	struct mesh__queue_link *link;
	int rc;

	if (!out)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "there is no place for the queue: out is NULL");
	rc = mesh__handle_enter(m, err);
	if (rc)
		return rc;
	rc = mesh__queue_new(out, err);
	if (rc) {
		mesh__handle_leave(m);
		return rc;
	}
	link = mesh__queue_link(*out);
	link->owner = m;
	mesh__handle_ref(m);
	pthread_mutex_lock(&m->shared.lock);
	mesh__list_append(&m->shared.queues, &link->node);
	pthread_mutex_unlock(&m->shared.lock);
	mesh__handle_leave(m);
	return 0;
}

void mesh_queue_free(mesh_queue *q)
{
	mesh *m;

	/* In a forked child the lock may be held by a thread that is not there. */
	if (!q || !mesh__queue_is_ours(q))
		return;
	m = mesh__queue_link(q)->owner;
	pthread_mutex_lock(&m->shared.lock);
	mesh__list_remove(&mesh__queue_link(q)->node);
	pthread_mutex_unlock(&m->shared.lock);
	mesh__queue_free(q);
	mesh__handle_unref(m);
}
