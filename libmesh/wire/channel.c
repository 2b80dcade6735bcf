#include "wire/channel.h"

#include "base/clock.h"
#include "base/memory.h"
#include "wire/secure.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Backoff between failed connection attempts: as gRPC's, but beginning and ending sooner, since a mesh has other endpoints to try. */
#define BACKOFF_FIRST_NS (50 * MESH__NS_PER_MS)
#define BACKOFF_MAX_NS (10 * MESH__NS_PER_SEC)
#define BACKOFF_FACTOR 1.6
#define BACKOFF_JITTER 0.2

struct mesh__channel_conn {
	struct mesh__conn conn;
	struct mesh__list node; /* in leaving_conns */
	struct mesh__channel *channel;
	struct mesh__peer *peer; /* once it was open; NULL: plain text */
	bool was_open, is_leaving;
};

static struct mesh__channel_conn *of(struct mesh__conn *conn)
{
	return MESH__CONTAINER(conn, struct mesh__channel_conn, conn);
}

static void forget(struct mesh__channel_conn *cc)
{
	struct mesh__channel *channel = cc->channel;

	if (cc->is_leaving) {
		mesh__list_remove(&cc->node);
		channel->leaving--;
		return;
	}
	for (uint32_t i = 0; i < channel->conn_count; i++)
		if (channel->conns[i] == cc)
			channel->conns[i] = channel->conns[--channel->conn_count];
}

static void fail_waiting(struct mesh__channel *channel, int32_t code, const char *why)
{
	struct mesh__list *node, all;

	/* Only those in line now: each may queue again for another try. */
	if (mesh__list_is_empty(&channel->waiting))
		return;
	all = channel->waiting;
	all.next->prev = all.prev->next = &all;
	mesh__list_init(&channel->waiting);
	while ((node = mesh__list_take_first(&all))) {
		struct mesh__channel_wait *wait = MESH__CONTAINER(node, struct mesh__channel_wait, node);

		wait->failed(wait, code, why);
	}
}

static void describe_failures(const struct mesh__channel *channel, char *text, size_t capacity)
{
	double ago = (double)(channel->opts.lp->now_ns - channel->last_failure_ns) / (double)MESH__NS_PER_SEC;

	if (channel->failures > 1 || ago >= 0.05)
		snprintf(text, capacity, "%s (%u times, last %.1f s ago)", channel->last_failure, channel->failures, ago);
	else
		snprintf(text, capacity, "%s", channel->last_failure);
}

/* That it was reached and refused, or that we have nothing to show, is another matter than not reaching it. */
static int32_t code_of_failure(const struct mesh__channel *channel)
{
	return channel->last_code == MESH_E_HANDSHAKE || channel->last_code == MESH_E_IDENTITY ? channel->last_code : MESH_E_CONNECT;
}

static void note_failure(struct mesh__channel *channel, int32_t code, const char *why)
{
	struct mesh__loop *lp = channel->opts.lp;
	double jitter = 1 + BACKOFF_JITTER * (2 * mesh__random_unit(&lp->random) - 1);

	channel->backoff_ns = channel->failures++ ? (uint64_t)((double)channel->backoff_ns * BACKOFF_FACTOR) : BACKOFF_FIRST_NS;
	if (channel->backoff_ns > BACKOFF_MAX_NS)
		channel->backoff_ns = BACKOFF_MAX_NS;
	channel->retry_ns = lp->now_ns + (uint64_t)((double)channel->backoff_ns * jitter);
	channel->last_failure_ns = lp->now_ns;
	channel->last_code = code;
	snprintf(channel->last_failure, sizeof(channel->last_failure), "%s", why);
	mesh__counter_add(channel->opts.connect_failures, mesh__shard_mine(), 1);
	if (!channel->is_closing && !channel->is_draining)
		mesh__timer_set(lp, &channel->again, channel->retry_ns);
	if (channel->failures == 1)
		channel->opts.on_reachable(channel, false);
}

static void serve_waiting(struct mesh__channel *channel)
{
	struct mesh__conn *conn;
	struct mesh__list *node;

	while (!mesh__list_is_empty(&channel->waiting) && (conn = mesh__channel_take(channel))) {
		struct mesh__channel_wait *wait;

		node = mesh__list_take_first(&channel->waiting);
		wait = MESH__CONTAINER(node, struct mesh__channel_wait, node);
		wait->ready(wait, conn);
	}
}

static void connect_more(struct mesh__channel *channel);

/* Without waiting for the backoff's end. */
static void try_again_now(struct mesh__channel *channel)
{
	if (!channel->failures || channel->is_closing || channel->is_draining)
		return;
	channel->retry_ns = channel->opts.lp->now_ns;
	mesh__timer_set(channel->opts.lp, &channel->again, channel->retry_ns);
}

/* False: discovery has changed its mind since the handshake began, and this is somebody else. */
static bool is_expected(const struct mesh__channel *channel, const struct mesh__conn *conn)
{
	return !conn->secure || mesh__secure_is_expected(conn->secure, channel->opts.discovered);
}

static void retire(struct mesh__conn *conn)
{
	mesh__conn_retire(conn, "other_id", "discovery names another identity for this endpoint");
}

static void on_open(struct mesh__conn *conn)
{
	struct mesh__channel_conn *cc = of(conn);
	struct mesh__channel *channel = cc->channel;

	if (conn->peer_id) {
		cc->peer = mesh__peer_new(conn->peer_id, mesh__tls_svid(conn->secure->tls));
		if (!cc->peer) { /* without it, calls would say that they went in plain text */
			mesh__conn_close(conn, MESH_E_NOMEM, "nomem", "out of memory for who the peer is");
			return;
		}
	}
	cc->was_open = true;
	channel->connecting--;
	mesh__counter_add(channel->opts.opened, mesh__shard_mine(), 1);
	mesh__gauge_add(channel->opts.conns, mesh__shard_mine(), 1);
	if (channel->failures)
		channel->opts.on_reachable(channel, true);
	channel->failures = 0;
	if (is_expected(channel, conn))
		serve_waiting(channel);
	else
		retire(conn);
}

static void on_room(struct mesh__conn *conn)
{
	serve_waiting(of(conn)->channel);
}

static void on_draining(struct mesh__conn *conn)
{
	struct mesh__channel_conn *cc = of(conn);
	struct mesh__channel *channel = cc->channel;

	forget(cc);
	cc->is_leaving = true;
	mesh__list_append(&channel->leaving_conns, &cc->node);
	channel->leaving++;
	if (!mesh__list_is_empty(&channel->waiting))
		connect_more(channel);
}

static void on_close(struct mesh__conn *conn)
{
	struct mesh__channel_conn *cc = of(conn);
	struct mesh__channel *channel = cc->channel;
	bool was_open = cc->was_open, is_outdated;
	char why[448];

	forget(cc);
	is_outdated = !mesh__discovered_id_equal(conn->discovered, channel->opts.discovered);
	mesh__discovered_id_unref(conn->discovered);
	if (was_open) {
		mesh__gauge_add(channel->opts.conns, mesh__shard_mine(), -1);
		channel->opts.on_closed(channel, conn->close_reason);
	} else if (is_outdated && conn->close_code == MESH_E_HANDSHAKE) {
		channel->connecting--; /* it looked for somebody who is not to be there any more: no failure of the endpoint */
		try_again_now(channel);
	} else {
		channel->connecting--;
		note_failure(channel, conn->close_code, conn->close_text);
	}
	mesh__peer_unref(cc->peer);
	mesh__memory_free(cc);
	if (channel->is_closing || mesh__list_is_empty(&channel->waiting))
		return;
	if (channel->failures && !channel->conn_count) {
		describe_failures(channel, why, sizeof(why));
		fail_waiting(channel, code_of_failure(channel), why);
	} else {
		connect_more(channel);
	}
}

static const struct mesh__conn_events conn_events = {
	.on_open = on_open, .on_room = on_room, .on_draining = on_draining, .on_close = on_close,
};

static int connect_one(struct mesh__channel *channel)
{
	struct mesh__channel_conn *cc = mesh__memory_zalloc(sizeof(*cc));
	char why[128];
	int rc;

	if (!cc)
		return MESH_E_NOMEM;
	cc->channel = channel;
	rc = mesh__conn_connect(&cc->conn, channel->opts.lp, &channel->opts.address, &channel->opts.limits, channel->opts.secure,
			       &conn_events, channel);
	if (rc) {
		mesh__memory_free(cc);
		snprintf(why, sizeof(why), "%s", strerrordesc_np(-rc) ? strerrordesc_np(-rc) : "unknown error");
		note_failure(channel, rc == -EMFILE || rc == -ENFILE ? MESH_E_NO_DESCRIPTORS : MESH_E_SYSTEM, why);
		return rc == -EMFILE || rc == -ENFILE ? MESH_E_NO_DESCRIPTORS : MESH_E_CONNECT;
	}
	cc->conn.discovered = mesh__discovered_id_ref(channel->opts.discovered);
	cc->conn.sent_cell = channel->opts.sent_bytes;
	cc->conn.received_cell = channel->opts.received_bytes;
	channel->conns[channel->conn_count++] = cc;
	channel->connecting++;
	return 0;
}

static void connect_more(struct mesh__channel *channel)
{
	uint64_t now_ns = channel->opts.lp->now_ns;
	char why[448];
	int rc;

	if (channel->connecting || channel->conn_count >= channel->opts.conns_max || channel->is_closing)
		return;
	if (channel->failures && now_ns < channel->retry_ns) {
		if (channel->conn_count)
			return;
		describe_failures(channel, why, sizeof(why));
		fail_waiting(channel, code_of_failure(channel), why);
		return;
	}
	rc = connect_one(channel);
	if (rc && !channel->conn_count)
		fail_waiting(channel, rc, rc == MESH_E_NOMEM ? "out of memory" : channel->last_failure);
}

static void on_again(struct mesh__timer *timer, struct mesh__loop *lp)
{
	struct mesh__channel *channel = MESH__CONTAINER(timer, struct mesh__channel, again);

	(void)lp;
	if (channel->failures && !channel->conn_count)
		connect_more(channel);
}

void mesh__channel_init(struct mesh__channel *channel, const struct mesh__channel_options *opts)
{
	*channel = (struct mesh__channel){ .opts = *opts };
	if (channel->opts.conns_max > MESH__CHANNEL_CONNS_MAX)
		channel->opts.conns_max = MESH__CHANNEL_CONNS_MAX;
	mesh__discovered_id_ref(channel->opts.discovered);
	mesh__list_init(&channel->waiting);
	mesh__list_init(&channel->leaving_conns);
	channel->again.fire = on_again;
}

void mesh__channel_fini(struct mesh__channel *channel)
{
	mesh__discovered_id_unref(channel->opts.discovered);
	channel->opts.discovered = NULL;
}

static void expect_on(struct mesh__channel *channel, struct mesh__conn *conn)
{
	if (conn->state == MESH__CONN_CONNECTING) {
		mesh__discovered_id_unref(conn->discovered);
		conn->discovered = mesh__discovered_id_ref(channel->opts.discovered);
	} else if (conn->state == MESH__CONN_OPEN && !is_expected(channel, conn)) {
		retire(conn);
	}
}

void mesh__channel_expect(struct mesh__channel *channel, struct mesh__discovered_id *discovered)
{
	struct mesh__discovered_id *old = channel->opts.discovered;

	if (mesh__discovered_id_equal(old, discovered))
		return;
	channel->opts.discovered = mesh__discovered_id_ref(discovered);
	mesh__discovered_id_unref(old);
	for (uint32_t i = channel->conn_count; i-- > 0;)
		if (i < channel->conn_count)
			expect_on(channel, &channel->conns[i]->conn);
	/* Whoever was refused for being the wrong one may be the right one now. */
	if (channel->last_code == MESH_E_HANDSHAKE)
		try_again_now(channel);
}

struct mesh__conn *mesh__channel_take(struct mesh__channel *channel)
{
	struct mesh__conn *best = NULL;

	for (uint32_t i = 0; i < channel->conn_count; i++) {
		struct mesh__conn *conn = &channel->conns[i]->conn;

		if (mesh__conn_has_room(conn) && (!best || conn->stream_count < best->stream_count))
			best = conn;
	}
	return best;
}

struct mesh__peer *mesh__channel_peer(struct mesh__conn *conn)
{
	return of(conn)->peer;
}

void mesh__channel_wait(struct mesh__channel *channel, struct mesh__channel_wait *wait)
{
	channel->is_draining = false;
	mesh__list_append(&channel->waiting, &wait->node);
	connect_more(channel);
}

void mesh__channel_leave(struct mesh__channel_wait *wait)
{
	if (wait->node.next)
		mesh__list_remove(&wait->node);
}

void mesh__channel_drain(struct mesh__channel *channel)
{
	channel->is_draining = true;
	mesh__timer_cancel(&channel->again);
	for (uint32_t i = channel->conn_count; i-- > 0;)
		if (i < channel->conn_count)
			mesh__conn_drain(&channel->conns[i]->conn);
}

void mesh__channel_abort(struct mesh__channel *channel)
{
	struct mesh__list *node;

	channel->is_closing = true;
	mesh__timer_cancel(&channel->again);
	fail_waiting(channel, MESH_E_CLOSING, "the mesh is closing");
	while (channel->conn_count)
		mesh__conn_abort(&channel->conns[0]->conn, MESH_E_CLOSING, "closing", "the mesh is closing");
	while (!mesh__list_is_empty(&channel->leaving_conns)) {
		node = channel->leaving_conns.next;
		mesh__conn_abort(&MESH__CONTAINER(node, struct mesh__channel_conn, node)->conn, MESH_E_CLOSING, "closing", "the mesh is closing");
	}
}

bool mesh__channel_is_empty(const struct mesh__channel *channel)
{
	return channel->conn_count == 0 && channel->leaving == 0 && mesh__list_is_empty(&channel->waiting);
}
