/*
 * Accepting connections, on the first loop, handed out to all loops in turn.
 *
 * Without free descriptors a level-triggered listener would spin: one reserved descriptor is given up to accept and close the
 * newcomer (so that it hears at once), and listening pauses with a growing delay.
 */
#include "serve/serve.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/memory.h"
#include "wire/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

enum { ACCEPTS_PER_TURN_MAX = 64, LOGGED_PER_SECOND_MAX = 20 };

#define BACKOFF_FIRST_NS (10 * MESH__NS_PER_MS)
#define BACKOFF_MAX_NS MESH__NS_PER_SEC

struct handover {
	struct mesh__task task;
	struct mesh__server_loop *sl;
	struct mesh__address peer;
	int fd;
};

static void forget_conn(mesh_server *server)
{
	atomic_fetch_sub_explicit(&server->conn_count, 1, memory_order_relaxed);
	mesh__gauge_add(server->conns, mesh__shard_mine(), -1);
}

static void on_open(struct mesh__conn *conn)
{
	mesh__authenticate_conn(MESH__CONTAINER(conn, struct mesh__conn_entry, conn));
}

static void on_draining(struct mesh__conn *conn)
{
	(void)conn;
}

bool mesh__server_may_log(struct mesh__server_loop *sl, struct mesh__log_quota *quota, const char *rest)
{
	uint64_t second = sl->lp->now_ns / MESH__NS_PER_SEC;

	if (second != quota->second) {
		if (quota->unlogged)
			mesh__log_write(sl->server->opts.log, MESH_LOG_WARN, "server %s: %u more %s", sl->server->service, quota->unlogged, rest);
		*quota = (struct mesh__log_quota){ .second = second };
	}
	if (quota->logged == LOGGED_PER_SECOND_MAX) {
		quota->unlogged++;
		return false;
	}
	quota->logged++;
	return true;
}

static void log_refusal(const struct mesh__conn_entry *entry)
{
	const struct mesh__conn *conn = &entry->conn;
	struct mesh__server_loop *sl = entry->sl;
	const mesh_server *server = sl->server;

	if (!mesh__server_may_log(sl, &sl->refusals, "peers were turned away (mesh_handshake_failures_total tells why)"))
		return;
	/* Who connects and says nothing is most often a probe that looks whether the port is open. */
	mesh__log_write(server->opts.log, conn->has_input ? MESH_LOG_WARN : MESH_LOG_DEBUG, "server %s: peer %s is turned away (%s): %s", server->service,
			entry->peer_text, conn->close_reason, conn->close_text);
}

static void on_close(struct mesh__conn *conn)
{
	struct mesh__conn_entry *entry = MESH__CONTAINER(conn, struct mesh__conn_entry, conn);
	mesh_server *server = entry->sl->server;
	struct mesh__labels labels = { .service = server->service, .reason = conn->close_reason };

	mesh__counter_add(mesh__stats_counter(server->opts.stats, MESH__METRIC_SERVER_CONNECTIONS_CLOSED_TOTAL, &labels), mesh__shard_mine(), 1);
	if (conn->secure_options && !conn->peer_id && conn->close_code != MESH_E_CLOSING)
		log_refusal(entry);
	mesh__request_orphan_all(entry);
	mesh__list_remove(&entry->node);
	entry->sl->conn_count--;
	forget_conn(server);
	mesh__peer_unref(entry->peer);
	mesh__memory_free(entry);
}

static void on_abuse(struct mesh__conn *conn, const char *kind)
{
	struct mesh__conn_entry *entry = MESH__CONTAINER(conn, struct mesh__conn_entry, conn);
	mesh_server *server = entry->sl->server;
	struct mesh__labels labels = { .service = server->service, .reason = kind };
	char peer[MESH__ADDRESS_TEXT_MAX];

	mesh__counter_add(mesh__stats_counter(server->opts.stats, MESH__METRIC_SERVER_ABUSE_TOTAL, &labels), mesh__shard_mine(), 1);
	mesh__address_print(&conn->peer, peer);
	mesh__log_write(server->opts.log, MESH_LOG_WARN, "server %s: peer %s: %s", server->service, peer, kind);
}

const struct mesh__conn_events mesh__server_conn_events = {
	.on_open = on_open, .on_request = mesh__request_new, .on_draining = on_draining, .on_close = on_close, .on_abuse = on_abuse,
};

static void take_over(struct mesh__task *task, struct mesh__loop *lp)
{
	struct handover *handover = MESH__CONTAINER(task, struct handover, task);
	struct mesh__server_loop *sl = handover->sl;
	mesh_server *server = sl->server;
	struct mesh__conn_entry *entry = sl->is_closing ? NULL : mesh__memory_zalloc(sizeof(*entry));
	struct mesh__conn_limits limits = server->limits;

	if (!entry) {
		mesh__descriptors_close(handover->fd);
		forget_conn(server);
		mesh__memory_free(handover);
		return;
	}
	entry->sl = sl;
	mesh__list_init(&entry->requests);
	mesh__address_print(&handover->peer, entry->peer_text);
	/* Ten per cent of jitter, so that connections made together do not end together. */
	limits.age_max_ns = (uint64_t)((double)limits.age_max_ns * (0.9 + 0.2 * mesh__random_unit(&lp->random)));
	mesh__list_append(&sl->conns, &entry->node);
	sl->conn_count++;
	if (mesh__conn_accept(&entry->conn, lp, handover->fd, &handover->peer, &limits, server->opts.secure, &mesh__server_conn_events, entry)) {
		mesh__list_remove(&entry->node);
		sl->conn_count--;
		forget_conn(server);
		mesh__memory_free(entry);
	} else {
		entry->conn.sent_cell = server->sent_bytes;
		entry->conn.received_cell = server->received_bytes;
		if (atomic_load_explicit(&server->state, memory_order_relaxed) == MESH__SERVER_DRAINING)
			mesh__conn_drain(&entry->conn);
	}
	mesh__memory_free(handover);
}

static void hand_over(mesh_server *server, int fd, const struct mesh__address *peer)
{
	struct mesh__server_loop *sl = &server->loops[server->next_loop++ % server->opts.loop_count];
	struct handover *handover = mesh__memory_zalloc(sizeof(*handover));

	atomic_fetch_add_explicit(&server->conn_count, 1, memory_order_relaxed);
	mesh__gauge_add(server->conns, mesh__shard_mine(), 1);
	mesh__counter_add(server->conns_opened, mesh__shard_mine(), 1);
	if (!handover) {
		mesh__descriptors_close(fd);
		forget_conn(server);
		mesh__server_count_refused(server, "nomem");
		return;
	}
	*handover = (struct handover){ .task.run = take_over, .sl = sl, .peer = *peer, .fd = fd };
	if (mesh__loop_is_mine(sl->lp)) {
		take_over(&handover->task, sl->lp);
	} else if (!mesh__loop_post(sl->lp, &handover->task)) {
		mesh__descriptors_close(fd);
		forget_conn(server);
		mesh__memory_free(handover);
	}
}

static int open_reserve(void)
{
	return mesh__descriptors_add(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

static void accept_again(struct mesh__timer *timer, struct mesh__loop *lp)
{
	mesh_server *server = MESH__CONTAINER(timer, mesh_server, accept_again);

	(void)lp;
	if (server->reserve_fd < 0)
		server->reserve_fd = open_reserve();
	mesh__watch_want(&server->watch, MESH__WATCH_READ);
}

static void pause_accepting(mesh_server *server, struct mesh__loop *lp, const char *why)
{
	struct mesh__address peer;
	int fd = 0;

	if (!server->accept_backoff_ns)
		mesh__log_write(server->opts.log, MESH_LOG_ERROR, "server %s: cannot accept connections for now: %s", server->service, why);
	mesh__server_count_refused(server, "no_descriptors");
	if (server->reserve_fd >= 0) {
		mesh__descriptors_close(server->reserve_fd);
		server->reserve_fd = -1;
		for (int i = 0; i < ACCEPTS_PER_TURN_MAX && fd >= 0; i++) {
			fd = mesh__socket_accept(server->listen_fd, &peer);
			mesh__descriptors_close(fd);
		}
		server->reserve_fd = open_reserve();
	}
	server->accept_backoff_ns = server->accept_backoff_ns ? server->accept_backoff_ns * 2 : BACKOFF_FIRST_NS;
	if (server->accept_backoff_ns > BACKOFF_MAX_NS)
		server->accept_backoff_ns = BACKOFF_MAX_NS;
	mesh__watch_want(&server->watch, 0);
	mesh__timer_set(lp, &server->accept_again, lp->now_ns + server->accept_backoff_ns);
}

static void on_acceptable(struct mesh__watch *watch, struct mesh__loop *lp, int what)
{
	mesh_server *server = MESH__CONTAINER(watch, mesh_server, watch);
	struct mesh__address peer;

	(void)what;
	for (int i = 0; i < ACCEPTS_PER_TURN_MAX; i++) {
		int fd = mesh__socket_accept(server->listen_fd, &peer);

		if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -ENOBUFS) {
			pause_accepting(server, lp, strerrordesc_np(-fd));
			return;
		}
		if (fd == -EAGAIN)
			break;
		if (fd < 0)
			continue; /* that one went away before we got to it */
		server->accept_backoff_ns = 0;
		if (atomic_load_explicit(&server->conn_count, memory_order_relaxed) >= server->conns_max) {
			mesh__server_count_refused(server, "connections");
			mesh__descriptors_close(fd);
			continue;
		}
		hand_over(server, fd, &peer);
	}
}

int mesh__accept_start(mesh_server *server)
{
	struct mesh__loop *lp = server->opts.lps[0];
	int rc = mesh__watch_open(lp, &server->watch, server->listen_fd, MESH__WATCH_READ, on_acceptable);

	if (rc)
		return rc;
	server->accept_again.fire = accept_again;
	server->reserve_fd = open_reserve();
	server->is_accepting = true;
	return 0;
}

void mesh__accept_stop(mesh_server *server)
{
	if (!server->is_accepting)
		return;
	server->is_accepting = false;
	mesh__timer_cancel(&server->accept_again);
	mesh__watch_close(&server->watch);
	mesh__descriptors_close(server->reserve_fd);
	mesh__descriptors_close(server->listen_fd);
	server->reserve_fd = server->listen_fd = -1;
}

void mesh__accept_drain(mesh_server *server)
{
	if (!server->is_accepting)
		return;
	on_acceptable(&server->watch, server->opts.lps[0], MESH__WATCH_READ);
	mesh__accept_stop(server);
}
