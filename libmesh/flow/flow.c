#include "flow/flow.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/memory.h"
#include "flow/call.h"

#include <stdio.h>
#include <string.h>

enum { SERVICE_NAME_MAX = 253, CLIENT_STREAMS_MAX = 100000 };

#define SWEEP_NS MESH__NS_PER_SEC

/* --- targets --- */

/* Discovery may say now that somebody else answers there. */
static void expect_anew(const struct mesh__target *target, struct mesh__loop *lp)
{
	struct mesh__list *all = &target->flow->loops[lp->index].reaches;

	for (struct mesh__list *node = all->next; node != all; node = node->next) {
		struct mesh__reach_loop *rl = MESH__CONTAINER(node, struct mesh__reach_loop, node);
		struct mesh__discovered_id *id;

		if (rl->reach->service != target->name)
			continue;
		id = mesh__endpoint_discovered_id(rl->reach->ep);
		mesh__channel_expect(&rl->channel, id);
		mesh__discovered_id_unref(id);
	}
}

static void wake_loop(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh__target_loop *tl = MESH__CONTAINER(task, struct mesh__target_loop, wake);

	atomic_store_explicit(&tl->wake_posted, false, memory_order_release);
	expect_anew(tl->target, lp);
	mesh__resolve_wake(tl);
}

static void on_service_changed(struct mesh__service_watch *watch, struct mesh__service *service)
{
	struct mesh__target *target = MESH__CONTAINER(watch, struct mesh__target, watch);

	(void)service;
	for (uint32_t i = 0; i < target->flow->loop_count; i++) {
		struct mesh__target_loop *tl = &target->loops[i];

		if (!atomic_exchange_explicit(&tl->wake_posted, true, memory_order_acq_rel))
			mesh__loop_post(target->flow->lps[i], &tl->wake);
	}
}

static void start_watching(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh__target *target = MESH__CONTAINER(task, struct mesh__target, watch_task);

	(void)lp;
	mesh__service_watch_add(target->service, &target->watch);
	on_service_changed(&target->watch, target->service);
}

/* Who must answer, and how that is found out. Discovery may know it better of an endpoint: see open_channel(). */
static void set_secure(struct mesh__target *target, const struct mesh__labels *service)
{
	struct mesh__flow *flow = target->flow;
	struct mesh__labels labels = { .service = service->service, .side = "client" };

	if (!mesh__identity_is_tls(flow->identity))
		return;
	target->secure = (struct mesh__secure_options){
		.identity = flow->identity, .workers = flow->workers, .expected_service = target->name, .counted_as = target->name,
		.timeout_ns = mesh__config_ns(flow->config, MESH__OPTION_HANDSHAKE_TIMEOUT, NULL), .stats = flow->stats,
		.handshakes = mesh__stats_counter(flow->stats, MESH__METRIC_HANDSHAKES_TOTAL, &labels),
		.latency = mesh__stats_histogram(flow->stats, MESH__METRIC_HANDSHAKE_LATENCY_NS, &labels),
	};
}

static struct mesh__target *new_target(struct mesh__flow *flow, const char *name, struct mesh__service *service)
{
	struct mesh__labels labels = { .service = name };
	struct mesh__target *target = mesh__memory_zalloc(sizeof(*target) + flow->loop_count * sizeof(target->loops[0]));

	if (!target)
		return NULL;
	target->flow = flow;
	target->name = mesh__service_name(service);
	target->service = service;
	target->set = mesh__service_set(service);
	target->cfg = mesh__config_service(flow->config, name);
	if (!target->cfg) {
		mesh__memory_free(target);
		return NULL;
	}
	target->calls = mesh__stats_counter(flow->stats, MESH__METRIC_CALLS_TOTAL, &labels);
	target->in_flight = mesh__stats_counter(flow->stats, MESH__METRIC_CALLS_IN_FLIGHT, &labels);
	target->picks = mesh__stats_counter(flow->stats, MESH__METRIC_PICKS_TOTAL, &labels);
	target->latency = mesh__stats_histogram(flow->stats, MESH__METRIC_CALL_LATENCY_NS, &labels);
	set_secure(target, &labels);
	for (uint32_t i = 0; i < flow->loop_count; i++) {
		target->loops[i].target = target;
		target->loops[i].wake.run = wake_loop;
		mesh__list_init(&target->loops[i].waiting_name);
	}
	target->watch.changed = on_service_changed;
	mesh__list_init(&target->watch.node);
	target->watch_task.run = start_watching;
	return target;
}

static int add_target(struct mesh__flow *flow, const char *name, struct mesh__target **out, struct mesh_error *err)
{
	struct mesh__service *service;
	struct mesh__target *target;
	int rc = mesh__directory_service(flow->directory, name, &service, err);

	if (rc)
		return rc;
	target = new_target(flow, name, service);
	if (!target || mesh__map_put(&flow->shared.targets, name, strlen(name), target)) {
		mesh__memory_free(target);
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for the client of %s", name);
	}
	target->next = flow->shared.first;
	flow->shared.first = target;
	mesh__loop_post(flow->lps[0], &target->watch_task);
	*out = target;
	return 0;
}

int mesh__flow_target(struct mesh__flow *flow, const char *service, struct mesh__target **out, struct mesh_error *err)
{
	size_t len = strlen(service);
	int rc = 0;

	if (len == 0 || len > SERVICE_NAME_MAX)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "a service name has 1 to %d characters, this one has %zu", SERVICE_NAME_MAX,
				   len);
	for (size_t i = 0; i < len; i++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", service[i]) || (i == 0 && service[i] == '.'))
			return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE,
					   "a service name has letters, digits, '-', '_' and '.' only (not first): character %zu does not fit", i + 1);
	pthread_mutex_lock(&flow->shared.lock);
	*out = mesh__map_get(&flow->shared.targets, service, len);
	if (!*out)
		rc = add_target(flow, service, out, err);
	pthread_mutex_unlock(&flow->shared.lock);
	return rc;
}

/* --- reaches --- */

static struct mesh__reach *new_reach(struct mesh__target *target, struct mesh__endpoint *ep)
{
	struct mesh__flow *flow = target->flow;
	struct mesh__reach *reach = mesh__memory_zalloc(sizeof(*reach) + flow->loop_count * sizeof(reach->loops[0]));
	struct mesh__labels labels;

	if (!reach)
		return NULL;
	reach->flow = flow;
	reach->ep = ep;
	reach->service = target->name;
	mesh__address_print(&ep->address, reach->name);
	labels = (struct mesh__labels){ .service = reach->service, .endpoint = reach->name, .side = "client" };
	reach->attempts = mesh__stats_counter(flow->stats, MESH__METRIC_ATTEMPTS_TOTAL, &labels);
	reach->in_flight = mesh__stats_counter(flow->stats, MESH__METRIC_ENDPOINT_IN_FLIGHT, &labels);
	reach->sent_bytes = mesh__stats_counter(flow->stats, MESH__METRIC_SENT_BYTES_TOTAL, &labels);
	reach->received_bytes = mesh__stats_counter(flow->stats, MESH__METRIC_RECEIVED_BYTES_TOTAL, &labels);
	reach->conns = mesh__stats_counter(flow->stats, MESH__METRIC_CONNECTIONS, &labels);
	reach->opened = mesh__stats_counter(flow->stats, MESH__METRIC_CONNECTIONS_OPENED_TOTAL, &labels);
	reach->connect_failures = mesh__stats_counter(flow->stats, MESH__METRIC_CONNECT_FAILURES_TOTAL, &labels);
	reach->latency = mesh__stats_histogram(flow->stats, MESH__METRIC_ATTEMPT_LATENCY_NS, &labels);
	for (uint32_t i = 0; i < flow->loop_count; i++) {
		reach->loops[i].reach = reach;
		mesh__list_init(&reach->loops[i].node);
	}
	return reach;
}

static void on_conn_closed(struct mesh__channel *channel, const char *reason)
{
	struct mesh__reach_loop *rl = channel->opts.owner;
	struct mesh__labels labels = { .service = rl->reach->service, .endpoint = rl->reach->name, .side = "client", .reason = reason };

	mesh__counter_add(mesh__stats_counter(rl->reach->flow->stats, MESH__METRIC_CONNECTIONS_CLOSED_TOTAL, &labels), mesh__shard_mine(), 1);
}

static void on_reachable(struct mesh__channel *channel, bool is_reachable)
{
	struct mesh__reach_loop *rl = channel->opts.owner;

	atomic_store_explicit(&rl->reach->ep->is_unreachable, !is_reachable, memory_order_relaxed);
	mesh__log_write(rl->reach->flow->log, is_reachable ? MESH_LOG_INFO : MESH_LOG_WARN, "%s: endpoint %s is %s%s%s", rl->reach->service,
			rl->reach->name, is_reachable ? "reachable again" : "unreachable", is_reachable ? "" : ": ",
			is_reachable ? "" : channel->last_failure);
}

static void open_channel(struct mesh__target *target, struct mesh__reach *reach, struct mesh__loop *lp)
{
	struct mesh__reach_loop *rl = &reach->loops[lp->index];
	struct mesh__channel_options opts = {
		.lp = lp, .address = reach->ep->address, .limits = target->flow->conn_limits,
		.conns_max = atomic_load_explicit(&target->cfg->connections, memory_order_relaxed), .conns = reach->conns, .opened = reach->opened,
		.connect_failures = reach->connect_failures, .sent_bytes = reach->sent_bytes, .received_bytes = reach->received_bytes,
		.secure = target->secure.identity ? &target->secure : NULL, .discovered = mesh__endpoint_discovered_id(reach->ep),
		.on_closed = on_conn_closed, .on_reachable = on_reachable, .owner = rl,
	};

	opts.limits.connect_timeout_ns = atomic_load_explicit(&target->cfg->connect_timeout_ns, memory_order_relaxed);
	mesh__channel_init(&rl->channel, &opts);
	mesh__discovered_id_unref(opts.discovered);
	mesh__endpoint_ref(reach->ep);
	mesh__list_append(&target->flow->loops[lp->index].reaches, &rl->node);
	rl->is_open = true;
}

struct mesh__reach_loop *mesh__flow_reach(struct mesh__target *target, struct mesh__endpoint *ep, struct mesh__loop *lp)
{
	struct mesh__reach *reach = atomic_load_explicit(&ep->connected, memory_order_acquire);

	if (!reach) {
		void *other = NULL;

		reach = new_reach(target, ep);
		if (!reach)
			return NULL;
		if (!atomic_compare_exchange_strong_explicit(&ep->connected, &other, reach, memory_order_acq_rel, memory_order_acquire)) {
			mesh__memory_free(reach);
			reach = other;
		}
	}
	if (!reach->loops[lp->index].is_open)
		open_channel(target, reach, lp);
	return &reach->loops[lp->index];
}

void mesh__flow_endpoint_freed(struct mesh__endpoint *ep, void *user)
{
	(void)user;
	mesh__memory_free(atomic_exchange_explicit(&ep->connected, NULL, memory_order_acq_rel));
}

static void close_reach(struct mesh__reach_loop *rl)
{
	struct mesh__endpoint *ep = rl->reach->ep;

	mesh__list_remove(&rl->node);
	mesh__channel_fini(&rl->channel);
	rl->is_open = false;
	mesh__endpoint_unref(ep); /* may be the last hold on `rl`, too */
}

/* Endpoints that left the set: their connections drain, then their channels go. */
static void sweep(struct mesh__timer *timer, struct mesh__loop *lp)
{
	struct mesh__flow_loop *fl = MESH__CONTAINER(timer, struct mesh__flow_loop, sweep);

	for (struct mesh__list *node = fl->reaches.next, *next; node != &fl->reaches; node = next) {
		struct mesh__reach_loop *rl = MESH__CONTAINER(node, struct mesh__reach_loop, node);

		next = node->next;
		if (!atomic_load_explicit(&rl->reach->ep->is_removed, memory_order_acquire))
			continue;
		mesh__channel_drain(&rl->channel);
		if (mesh__channel_is_empty(&rl->channel))
			close_reach(rl);
	}
	mesh__timer_set(lp, timer, lp->now_ns + SWEEP_NS);
}

/* --- life --- */

static void start_loop(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh__flow_loop *fl = MESH__CONTAINER(task, struct mesh__flow_loop, start);

	fl->sweep.fire = sweep;
	mesh__timer_set(lp, &fl->sweep, lp->now_ns + SWEEP_NS);
}

static void read_limits(struct mesh__flow *flow)
{
	const struct mesh__config *cfg = flow->config;

	flow->conn_limits = (struct mesh__conn_limits){
		.streams_max = CLIENT_STREAMS_MAX,
		.stream_window_bytes = (uint32_t)mesh__config_bytes(cfg, MESH__OPTION_WINDOW_STREAM, NULL),
		.connection_window_bytes = (uint32_t)mesh__config_bytes(cfg, MESH__OPTION_WINDOW_CONNECTION, NULL),
		.header_bytes_max = (uint32_t)mesh__config_bytes(cfg, MESH__OPTION_HEADER_MAX, NULL),
		.header_count_max = (uint32_t)mesh__config_count(cfg, MESH__OPTION_HEADER_COUNT, NULL),
		.queued_bytes_max = UINT64_MAX, /* never stop reading answers: what we send is bounded per call */
		.preface_timeout_ns = mesh__config_ns(cfg, MESH__OPTION_PREFACE_TIMEOUT, NULL),
		.header_timeout_ns = mesh__config_ns(cfg, MESH__OPTION_HEADER_TIMEOUT, NULL),
		.write_timeout_ns = mesh__config_ns(cfg, MESH__OPTION_WRITE_TIMEOUT, NULL),
		.idle_timeout_ns = mesh__config_ns(cfg, MESH__OPTION_IDLE_TIMEOUT, NULL),
		.keepalive_interval_ns = mesh__config_ns(cfg, MESH__OPTION_KEEPALIVE_INTERVAL, NULL),
		.keepalive_timeout_ns = mesh__config_ns(cfg, MESH__OPTION_KEEPALIVE_TIMEOUT, NULL),
		.resets_burst = 1000, .resets_per_sec = 100,
	};
	flow->header_bytes_max = flow->conn_limits.header_bytes_max;
}

int mesh__flow_new(const struct mesh__flow_options *opts, struct mesh__flow **out)
{
	struct mesh__flow *flow = mesh__memory_zalloc(sizeof(*flow) + opts->loop_count * sizeof(flow->loops[0]));

	if (!flow)
		return MESH_E_NOMEM;
	flow->config = opts->config;
	flow->stats = opts->stats;
	flow->log = opts->log;
	flow->identity = opts->identity;
	flow->workers = opts->workers;
	flow->lps = opts->lps;
	flow->loop_count = opts->loop_count;
	flow->live_calls = opts->live_calls;
	pthread_mutex_init(&flow->shared.lock, NULL);
	mesh__map_init(&flow->shared.targets);
	read_limits(flow);
	for (uint32_t i = 0; i < opts->loop_count; i++) {
		flow->loops[i].flow = flow;
		flow->loops[i].lp = opts->lps[i];
		flow->loops[i].start.run = start_loop;
		mesh__list_init(&flow->loops[i].calls);
		mesh__list_init(&flow->loops[i].reaches);
		mesh__list_init(&flow->loops[i].waiting_identity);
	}
	*out = flow;
	return 0;
}

void mesh__flow_start(struct mesh__flow *flow, struct mesh__directory *directory)
{
	flow->directory = directory;
	for (uint32_t i = 0; i < flow->loop_count; i++)
		mesh__loop_post(flow->lps[i], &flow->loops[i].start);
}

void mesh__flow_stop_loop(struct mesh__flow *flow, uint32_t loop_index)
{
	struct mesh__flow_loop *fl = &flow->loops[loop_index];

	fl->is_closing = true;
	mesh__timer_cancel(&fl->sweep);
	while (!mesh__list_is_empty(&fl->calls)) {
		struct mesh_call *call = MESH__CONTAINER(fl->calls.next, struct mesh_call, node);

		mesh__call_blame(call, MESH_E_CLOSING, MESH_STAGE_ATTEMPT, "%s: the mesh was closed while the call was under way", call->target->name);
		mesh__call_end(call);
	}
	while (!mesh__list_is_empty(&fl->reaches)) {
		struct mesh__reach_loop *rl = MESH__CONTAINER(fl->reaches.next, struct mesh__reach_loop, node);

		mesh__channel_abort(&rl->channel);
		close_reach(rl);
	}
}

void mesh__flow_identity_came(struct mesh__flow *flow, struct mesh__loop *lp)
{
	mesh__resolve_identity_came(&flow->loops[lp->index]);
}

void mesh__flow_free(struct mesh__flow *flow)
{
	if (!flow)
		return;
	for (struct mesh__target *target = flow->shared.first, *next; target; target = next) {
		next = target->next;
		mesh__memory_free(target);
	}
	mesh__map_fini(&flow->shared.targets);
	pthread_mutex_destroy(&flow->shared.lock);
	mesh__memory_free(flow);
}
