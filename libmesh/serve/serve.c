#include "serve/serve.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"
#include "identity/identity.h"
#include "wire/socket.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

enum { KEPT_FOR_OTHERS = 64, CONNS_MIN = 16 };

void mesh__server_count_refused(mesh_server *server, const char *reason)
{
	struct mesh__labels labels = { .service = server->service, .reason = reason };

	mesh__counter_add(mesh__stats_counter(server->opts.stats, MESH__METRIC_SERVER_REFUSED_TOTAL, &labels), mesh__shard_mine(), 1);
}

/* --- handlers --- */

static void insert_prefix(struct mesh__handler **list, struct mesh__handler *handler)
{
	while (*list && (*list)->path_len > handler->path_len)
		list = &(*list)->next;
	handler->next = *list;
	*list = handler;
}

static struct mesh__handler *find_prefix(struct mesh__handler *list, const char *path, size_t len)
{
	for (; list; list = list->next)
		if (list->path_len == len && memcmp(list->path, path, len) == 0)
			return list;
	return NULL;
}

int mesh__server_handle(mesh_server *server, const char *path, const struct mesh__handler *like, struct mesh_error *err)
{
	bool is_grpc = like->flags & MESH_HANDLER_GRPC;
	size_t len = strlen(path);
	bool is_prefix = len && path[len - 1] == '*';
	struct mesh__handler *handler;

	if (atomic_load(&server->state) != MESH__SERVER_NEW)
		return mesh__fault(err, MESH_E_STATE, MESH_STAGE_NONE, "handlers are registered before the server is started");
	if (!len || (path[0] != '/' && !(is_prefix && len == 1)))
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "a handler's path begins with '/' or is \"*\", this one is \"%.64s\"", path);
	if (is_prefix ? find_prefix(server->prefixes[is_grpc], path, len - 1) : mesh__map_get(&server->exact[is_grpc], path, len))
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the path \"%.64s\" has a handler already", path);
	handler = mesh__memory_zalloc(sizeof(*handler) + len + 1);
	if (!handler)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for a handler");
	*handler = *like;
	handler->path_len = len - is_prefix;
	memcpy(handler->path, path, handler->path_len);
	if (is_prefix) {
		insert_prefix(&server->prefixes[is_grpc], handler);
	} else if (mesh__map_put(&server->exact[is_grpc], path, len, handler)) {
		mesh__memory_free(handler);
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for a handler");
	}
	if (handler->queue)
		mesh__queue_ref(handler->queue);
	return 0;
}

static void free_handler(struct mesh__handler *handler)
{
	mesh__queue_unref(handler->queue);
	mesh__memory_free(handler);
}

static void free_handlers(mesh_server *server)
{
	for (int i = 0; i < 2; i++) {
		struct mesh__handler *handler;
		uint32_t at = 0;

		while ((handler = mesh__map_next(&server->exact[i], &at, NULL)))
			free_handler(handler);
		mesh__map_fini(&server->exact[i]);
		while ((handler = server->prefixes[i])) {
			server->prefixes[i] = handler->next;
			free_handler(handler);
		}
	}
}

/* --- making --- */

static void read_limits(mesh_server *server)
{
	const struct mesh__config *cfg = server->opts.config;
	struct rlimit files = { 1024, 1024 };

	server->limits = (struct mesh__conn_limits){
		.streams_max = (uint32_t)mesh__config_count(cfg, MESH__OPTION_STREAMS_MAX, NULL),
		.stream_window_bytes = (uint32_t)mesh__config_bytes(cfg, MESH__OPTION_WINDOW_STREAM, NULL),
		.connection_window_bytes = (uint32_t)mesh__config_bytes(cfg, MESH__OPTION_WINDOW_CONNECTION, NULL),
		.header_bytes_max = (uint32_t)mesh__config_bytes(cfg, MESH__OPTION_HEADER_MAX, NULL),
		.header_count_max = (uint32_t)mesh__config_count(cfg, MESH__OPTION_HEADER_COUNT, NULL),
		.preface_timeout_ns = mesh__config_ns(cfg, MESH__OPTION_PREFACE_TIMEOUT, NULL),
		.header_timeout_ns = mesh__config_ns(cfg, MESH__OPTION_HEADER_TIMEOUT, NULL),
		.body_timeout_ns = mesh__config_ns(cfg, MESH__OPTION_BODY_TIMEOUT, NULL),
		.write_timeout_ns = mesh__config_ns(cfg, MESH__OPTION_WRITE_TIMEOUT, NULL),
		.idle_timeout_ns = mesh__config_ns(cfg, MESH__OPTION_IDLE_TIMEOUT, NULL),
		.age_max_ns = mesh__config_ns(cfg, MESH__OPTION_AGE_MAX, NULL),
		.resets_burst = (uint32_t)mesh__config_count(cfg, MESH__OPTION_RESETS_BURST, NULL),
		.resets_per_sec = (uint32_t)mesh__config_count(cfg, MESH__OPTION_RESETS_RATE, NULL),
	};
	server->message_max_bytes = mesh__config_bytes(cfg, MESH__OPTION_MESSAGE_MAX, NULL);
	server->memory_max_bytes = mesh__config_bytes(cfg, MESH__OPTION_SERVER_MEMORY_MAX, NULL);
	server->buffer_bytes = mesh__config_bytes(cfg, MESH__OPTION_BUFFER, NULL);
	/* What may wait to be written on one connection before it gets no new streams: a few whole answers. */
	server->limits.queued_bytes_max = 4 * server->message_max_bytes;
	server->requests_max = (uint32_t)mesh__config_count(cfg, MESH__OPTION_SERVER_REQUESTS_MAX, NULL);
	server->conns_max = (uint32_t)mesh__config_count(cfg, MESH__OPTION_SERVER_CONNECTIONS_MAX, NULL);
	if (server->conns_max)
		return;
	getrlimit(RLIMIT_NOFILE, &files);
	if (files.rlim_cur > MESH__DESCRIPTORS_MAX)
		files.rlim_cur = MESH__DESCRIPTORS_MAX;
	server->conns_max = (uint32_t)(files.rlim_cur / 5 * 4);
	server->conns_max = server->conns_max > KEPT_FOR_OTHERS + CONNS_MIN ? server->conns_max - KEPT_FOR_OTHERS : CONNS_MIN;
}

static void find_series(mesh_server *server)
{
	struct mesh__labels labels = { .service = server->service, .side = "server" };
	struct mesh__stats *stats = server->opts.stats;

	server->requests = mesh__stats_counter(stats, MESH__METRIC_REQUESTS_TOTAL, &labels);
	server->in_flight = mesh__stats_counter(stats, MESH__METRIC_REQUESTS_IN_FLIGHT, &labels);
	server->conns = mesh__stats_counter(stats, MESH__METRIC_SERVER_CONNECTIONS, &labels);
	server->conns_opened = mesh__stats_counter(stats, MESH__METRIC_SERVER_CONNECTIONS_OPENED_TOTAL, &labels);
	server->sent_bytes = mesh__stats_counter(stats, MESH__METRIC_SENT_BYTES_TOTAL, &labels);
	server->received_bytes = mesh__stats_counter(stats, MESH__METRIC_RECEIVED_BYTES_TOTAL, &labels);
	server->latency = mesh__stats_histogram(stats, MESH__METRIC_REQUEST_LATENCY_NS, &labels);
}

int mesh__server_new(const struct mesh__server_options *opts, mesh_server **out, struct mesh_error *err)
{
	mesh_server *server = mesh__memory_zalloc(sizeof(*server) + opts->loop_count * sizeof(server->loops[0]));

	if (!server)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for a server");
	server->opts = *opts;
	server->listen_fd = server->reserve_fd = -1;
	server->generation = mesh__descriptors_generation();
	snprintf(server->service, sizeof(server->service), "%s", opts->service);
	server->opts.service = server->service;
	server->policy = opts->policy;
	mesh__list_init(&server->node);
	mesh__map_init(&server->exact[0]);
	mesh__map_init(&server->exact[1]);
	for (uint32_t i = 0; i < opts->loop_count; i++) {
		server->loops[i].server = server;
		server->loops[i].lp = opts->lps[i];
		mesh__list_init(&server->loops[i].conns);
		mesh__list_init(&server->loops[i].orphans);
	}
	read_limits(server);
	find_series(server);
	if (mesh__health_init(server)) {
		mesh__server_free(server);
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for a server");
	}
	*out = server;
	return 0;
}

/* --- starting --- */

struct start {
	struct mesh__task task;
	mesh_server *server;
	int rc;
};

static void start_on_loop(struct mesh__task *task, struct mesh__loop *lp)
{
	struct start *start = MESH__CONTAINER(task, struct start, task);

	(void)lp;
	start->rc = mesh__accept_start(start->server);
}

static int announce(mesh_server *server, struct mesh_error *err)
{
	struct mesh__address address = server->address;
	const char *advertise = mesh__config_text(server->opts.config, MESH__OPTION_ADVERTISE, NULL);
	char text[MESH__ADDRESS_TEXT_MAX + 16];
	const char *why;

	if (advertise && *advertise) {
		bool is_v6 = strchr(advertise, ':') && advertise[0] != '[';

		snprintf(text, sizeof(text), is_v6 ? "[%s]:%u" : "%s:%u", advertise, server->address.port);
		if (mesh__address_parse(&address, text, strlen(text), &why))
			return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_ACCEPT, "option advertise: \"%.64s\" is not an IP address: %s", advertise, why);
	}
	return mesh__directory_announce(server->opts.directory, server->service, &address, &server->announcement, err);
}

/* Rules that nobody can be held to are a mistake, and a dangerous one. */
static int check_rules(const mesh_server *server, struct mesh_error *err)
{
	const char *policy = mesh__config_text(server->opts.config, MESH__OPTION_POLICY, NULL);
	const char *allow = mesh__config_text(server->opts.config, MESH__OPTION_ALLOW, NULL);

	if (server->opts.secure || (!*policy && !*allow))
		return 0;
	return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE,
			   "option %s says who may call %s, but connections are plain text and nobody shows who they are: set tls to on, or remove it",
			   *policy ? "policy" : "allow", server->service);
}

int mesh__server_start(mesh_server *server, struct mesh_error *err)
{
	struct start start = { .task.run = start_on_loop, .server = server, .rc = MESH_E_CLOSING };
	int expected = MESH__SERVER_NEW, rc;

	rc = check_rules(server, err);
	if (!rc)
		rc = mesh__identity_add_service(server->opts.identity, server->service, err);
	if (rc)
		return rc;
	if (!atomic_compare_exchange_strong(&server->state, &expected, MESH__SERVER_OPEN))
		return mesh__fault(err, MESH_E_STATE, MESH_STAGE_ACCEPT, "the server was started already");
	rc = mesh__socket_listen(&server->opts.listen, &server->listen_fd, err);
	if (rc)
		goto fail;
	mesh__socket_name(server->listen_fd, &server->address);
	mesh__address_print(&server->address, server->address_text);
	mesh__health_set_all(server, true);
	mesh__loop_call(server->opts.lps[0], &start.task);
	rc = start.rc;
	if (rc) {
		mesh__fault(err, rc, MESH_STAGE_ACCEPT, "%s: cannot listen: %s", server->service, mesh_error_text(rc));
		goto fail;
	}
	rc = announce(server, err);
	if (rc)
		atomic_store(&server->state, MESH__SERVER_STOPPED); /* its owner frees it, which stops the loops' part */
	return rc;
fail:
	mesh__descriptors_close(server->listen_fd);
	server->listen_fd = -1;
	server->address_text[0] = '\0';
	atomic_store(&server->state, MESH__SERVER_NEW);
	return rc;
}

/* --- ending --- */

void mesh__server_withdraw(mesh_server *server)
{
	mesh__health_set_all(server, false);
	mesh__announcement_withdraw(server->announcement);
	server->announcement = NULL;
}

static void drain_loop(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh__server_loop *sl = MESH__CONTAINER(task, struct mesh__server_loop, drain);

	if (lp->index == 0)
		mesh__accept_drain(sl->server);
	for (struct mesh__list *node = sl->conns.next, *next; node != &sl->conns; node = next) {
		next = node->next;
		mesh__conn_drain(&MESH__CONTAINER(node, struct mesh__conn_entry, node)->conn);
	}
}

void mesh__server_drain(mesh_server *server)
{
	int expected = MESH__SERVER_OPEN;

	if (!atomic_compare_exchange_strong(&server->state, &expected, MESH__SERVER_DRAINING))
		return;
	mesh__health_end_watches(server);
	for (uint32_t i = 0; i < server->opts.loop_count; i++) {
		server->loops[i].drain.run = drain_loop;
		mesh__loop_post(server->loops[i].lp, &server->loops[i].drain);
	}
}

bool mesh__server_is_drained(const mesh_server *server)
{
	return atomic_load(&server->state) != MESH__SERVER_DRAINING || atomic_load(&server->conn_count) == 0;
}

void mesh__server_stop_loop(mesh_server *server, uint32_t loop_index)
{
	struct mesh__server_loop *sl = &server->loops[loop_index];

	if (sl->is_closing)
		return;
	sl->is_closing = true;
	if (loop_index == 0)
		mesh__accept_stop(server);
	while (!mesh__list_is_empty(&sl->conns)) {
		struct mesh__conn_entry *entry = MESH__CONTAINER(sl->conns.next, struct mesh__conn_entry, node);

		mesh__conn_abort(&entry->conn, MESH_E_CLOSING, "closing", "the server is closing");
	}
	mesh__request_forget_server(sl);
}

void mesh__server_free(mesh_server *server)
{
	if (!server)
		return;
	mesh__announcement_withdraw(server->announcement);
	free_handlers(server);
	mesh__health_fini(server);
	for (uint32_t i = 0; i < server->opts.loop_count; i++)
		mesh__policy_unref(server->loops[i].policy);
	mesh__memory_free(server);
}
