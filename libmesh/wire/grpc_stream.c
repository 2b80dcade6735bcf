/*
 * Connect, open the stream once the peer has sent its SETTINGS, send the one request, cut what comes into messages, and say how it
 * ended. All on one loop. The connection outlives its stream by one turn, since closing is deferred: `ended` runs when the connection is over,
 * or from a timer if there never was one, so never inside open.
 *
 * What comes may hold private keys: it is wiped before its memory is given back.
 */
#include "wire/grpc_stream.h"

#include "base/clock.h"
#include "base/memory.h"
#include "wire/grpc.h"
#include "wire/h2.h"
#include "wire/socket.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CONNECT_TIMEOUT_NS (3 * MESH__NS_PER_SEC)
#define WRITE_TIMEOUT_NS (10 * MESH__NS_PER_SEC)

enum { WHY_MAX = 256, FIELDS = 8, WINDOW_BYTES = 1024 * 1024, HEADER_BYTES_MAX = 16 * 1024, HEADERS_MAX = 100 };

struct grpc_stream {
	struct mesh__loop *lp;
	struct mesh__conn conn;
	struct mesh__stream stream;
	struct mesh__chunk chunk;
	struct mesh__timer failed; /* there is no connection: says so later */
	struct mesh_header fields[FIELDS];
	char *path, *key, *value;
	uint8_t *request; /* with its prefix */
	bool is_open, is_inside, is_cancelled, has_status;

	uint8_t prefix[MESH__GRPC_PREFIX_BYTES];
	uint32_t prefix_len;
	uint8_t *body;
	size_t body_len, body_at, body_max;

	int status;
	char why[WHY_MAX];
	void (*message)(void *user, const void *data, size_t len);
	void (*ended)(void *user, int status, const char *text);
	void *user;
};

static void free_body(struct grpc_stream *gs)
{
	if (gs->body)
		explicit_bzero(gs->body, gs->body_len + 1);
	mesh__memory_free(gs->body);
	gs->body = NULL;
}

static void free_stream(struct grpc_stream *gs)
{
	free_body(gs);
	mesh__timer_cancel(&gs->failed);
	mesh__memory_free(gs->path);
	mesh__memory_free(gs->key);
	mesh__memory_free(gs->value);
	mesh__memory_free(gs->request);
	mesh__memory_free(gs);
}

static void finish(struct grpc_stream *gs)
{
	if (!gs->is_cancelled)
		gs->ended(gs->user, gs->status, gs->why);
	free_stream(gs);
}

/* The first reason counts. */
static void settle(struct grpc_stream *gs, int status, const char *why, size_t len)
{
	struct mesh__text text;

	if (gs->has_status)
		return;
	gs->has_status = true;
	gs->status = status;
	mesh__text_init(&text, gs->why, sizeof(gs->why));
	mesh__text_add_escaped(&text, why, len);
}

static void fail(struct grpc_stream *gs, int status, const char *why)
{
	settle(gs, status, why, strlen(why));
	if (gs->is_open)
		mesh__stream_reset(&gs->stream, MESH__H2_CANCEL);
}

/* --- what the peer says --- */

static void take_status(struct grpc_stream *gs, bool in_trailers)
{
	uint32_t len, text_len = 0;
	const char *value = mesh__headers_find(&gs->stream.headers, "grpc-status", 11, in_trailers, &len), *text;
	char decoded[WHY_MAX] = "";

	if (!value)
		return;
	text = mesh__headers_find(&gs->stream.headers, "grpc-message", 12, in_trailers, &text_len);
	if (text) {
		if (text_len >= sizeof(decoded))
			text_len = sizeof(decoded) - 1;
		memcpy(decoded, text, text_len);
		text_len = (uint32_t)mesh__grpc_percent_decode(decoded, text_len);
	}
	settle(gs, mesh__grpc_parse_status(value, len), decoded, text_len);
}

static struct grpc_stream *of(struct mesh__stream *stream)
{
	return MESH__CONTAINER(stream, struct grpc_stream, stream);
}

static void on_headers(struct mesh__stream *stream, bool is_end)
{
	struct grpc_stream *gs = of(stream);
	uint32_t len = 0, type_len = 0;
	const char *status = mesh__headers_find(&stream->headers, ":status", 7, false, &len);
	const char *type = mesh__headers_find(&stream->headers, "content-type", 12, false, &type_len);
	char why[96];

	if (len != 3 || memcmp(status, "200", 3) != 0) {
		int http = len == 3 ? (status[0] - '0') * 100 + (status[1] - '0') * 10 + status[2] - '0' : 0;

		snprintf(why, sizeof(why), "the peer answered with HTTP status %.3s: it is no gRPC server", len == 3 ? status : "?");
		fail(gs, mesh__grpc_status_of_http(http), why);
	} else if (!type || !mesh__grpc_is_content_type(type, type_len)) {
		fail(gs, MESH__GRPC_UNKNOWN, "the peer's answer is not of type application/grpc: it is no gRPC server");
	} else if (is_end) {
		take_status(gs, false);
	}
}

/* false: the prefix says something that we cannot take. */
static bool begin_message(struct grpc_stream *gs)
{
	char why[128];
	uint32_t len;

	if (!mesh__grpc_read_prefix(gs->prefix, &len)) {
		fail(gs, MESH__GRPC_UNIMPLEMENTED, "the peer sent a compressed message, though we did not say that we read those");
		return false;
	}
	if (len > gs->body_max) {
		snprintf(why, sizeof(why), "the peer's message of %u bytes is larger than the %zu that are taken", len, gs->body_max);
		fail(gs, MESH__GRPC_RESOURCE_EXHAUSTED, why);
		return false;
	}
	gs->body = mesh__memory_alloc((size_t)len + 1);
	if (!gs->body) {
		fail(gs, MESH__GRPC_RESOURCE_EXHAUSTED, "out of memory for the peer's message");
		return false;
	}
	gs->body_len = len;
	gs->body_at = 0;
	return true;
}

static void end_message(struct grpc_stream *gs)
{
	gs->prefix_len = 0;
	gs->message(gs->user, gs->body, gs->body_len);
	free_body(gs);
}

static size_t take(uint8_t *to, size_t have, size_t want, const uint8_t *data, size_t len)
{
	size_t n = want - have < len ? want - have : len;

	if (n)
		memcpy(to + have, data, n);
	return n;
}

static void feed(struct grpc_stream *gs, const uint8_t *data, size_t len)
{
	size_t n;

	while (len && !gs->has_status && !gs->is_cancelled) {
		if (!gs->body) {
			n = take(gs->prefix, gs->prefix_len, sizeof(gs->prefix), data, len);
			gs->prefix_len += (uint32_t)n;
			if (gs->prefix_len == sizeof(gs->prefix) && !begin_message(gs))
				return;
		} else {
			n = take(gs->body, gs->body_at, gs->body_len, data, len);
			gs->body_at += n;
		}
		data += n;
		len -= n;
		if (gs->body && gs->body_at == gs->body_len)
			end_message(gs);
	}
}

static void on_data(struct mesh__stream *stream, const uint8_t *data, size_t len)
{
	struct grpc_stream *gs = of(stream);

	gs->is_inside = true;
	feed(gs, data, len);
	gs->is_inside = false;
	mesh__stream_consume(stream, len);
}

static void on_end(struct mesh__stream *stream)
{
	struct grpc_stream *gs = of(stream);

	if (gs->prefix_len)
		fail(gs, MESH__GRPC_INTERNAL, "the peer ended its stream inside a message");
	take_status(gs, true);
}

static void on_drained(struct mesh__stream *stream)
{
	(void)stream;
}

static void on_stream_close(struct mesh__stream *stream, uint32_t error_code, bool unprocessed)
{
	struct grpc_stream *gs = of(stream);

	(void)unprocessed;
	gs->is_open = false;
	if (stream->ended_by_peer)
		fail(gs, MESH__GRPC_UNKNOWN, "the peer ended its stream without a gRPC status");
	else if (*gs->conn.close_text)
		fail(gs, MESH__GRPC_UNAVAILABLE, gs->conn.close_text);
	else
		fail(gs, error_code ? mesh__grpc_status_of_reset(error_code) : MESH__GRPC_UNAVAILABLE, "the peer reset the stream");
	mesh__stream_fini(stream, &gs->lp->pool);
	mesh__conn_close(&gs->conn, MESH_E_CANCELLED, "done", "the stream is over");
}

static const struct mesh__stream_events stream_events = {
	.on_headers = on_headers, .on_data = on_data, .on_end = on_end, .on_drained = on_drained, .on_close = on_stream_close,
};

/* --- the connection --- */

static void open_stream(struct mesh__conn *conn)
{
	struct grpc_stream *gs = conn->owner;

	if (gs->is_open || gs->has_status || gs->is_cancelled)
		return;
	mesh__stream_init(&gs->stream, &stream_events);
	if (mesh__stream_open(&gs->stream, conn, gs->fields, FIELDS, true)) {
		fail(gs, MESH__GRPC_UNAVAILABLE, "the peer takes no stream");
		mesh__conn_close(conn, MESH_E_LOST, "no_room", "the peer takes no stream");
		return;
	}
	gs->is_open = true;
	mesh__stream_send(&gs->stream, &gs->chunk);
	mesh__stream_send_end(&gs->stream, NULL, 0);
}

static void on_draining(struct mesh__conn *conn)
{
	(void)conn; /* the stream may go on; when the peer goes away we hear of that */
}

static void on_conn_close(struct mesh__conn *conn)
{
	struct grpc_stream *gs = conn->owner;

	fail(gs, MESH__GRPC_UNAVAILABLE, *conn->close_text ? conn->close_text : "the connection broke");
	finish(gs);
}

static void on_abuse(struct mesh__conn *conn, const char *kind)
{
	(void)conn;
	(void)kind;
}

static const struct mesh__conn_events conn_events = {
	.on_open = open_stream, .on_room = open_stream, .on_draining = on_draining, .on_close = on_conn_close, .on_abuse = on_abuse,
};

static void release_chunk(struct mesh__chunk *chunk, struct mesh__stream *stream)
{
	(void)chunk;
	(void)stream;
}

/* 0, or -errno */
static int connect_to(const char *target, int *fd, struct mesh__address *peer)
{
	const char *why;

	*peer = (struct mesh__address){ 0 };
	if (strncmp(target, "unix://", 7) == 0)
		return mesh__socket_connect_unix(target + 7, fd);
	if (strncmp(target, "tcp://", 6) != 0 || mesh__address_parse_endpoint(peer, target + 6, strlen(target + 6), &why))
		return -EINVAL;
	return mesh__socket_connect(peer, fd);
}

static void on_failed(struct mesh__timer *timer, struct mesh__loop *lp)
{
	(void)lp;
	finish(MESH__CONTAINER(timer, struct grpc_stream, failed));
}

static void start(struct grpc_stream *gs, const char *target)
{
	const struct mesh__conn_limits limits = {
		.streams_max = 1, .stream_window_bytes = WINDOW_BYTES, .connection_window_bytes = WINDOW_BYTES, .header_bytes_max = HEADER_BYTES_MAX,
		.header_count_max = HEADERS_MAX, .queued_bytes_max = WINDOW_BYTES, .connect_timeout_ns = CONNECT_TIMEOUT_NS,
		.preface_timeout_ns = CONNECT_TIMEOUT_NS, .header_timeout_ns = WRITE_TIMEOUT_NS, .write_timeout_ns = WRITE_TIMEOUT_NS,
		.resets_burst = 100, .resets_per_sec = 33,
	};
	struct mesh__address peer;
	char why[WHY_MAX];
	int fd, rc = connect_to(target, &fd, &peer);

	if (!rc)
		rc = mesh__conn_connect_fd(&gs->conn, gs->lp, fd, &peer, &limits, NULL, &conn_events, gs);
	if (!rc)
		return;
	snprintf(why, sizeof(why), "cannot connect: %s", strerrordesc_np(-rc) ? strerrordesc_np(-rc) : "unknown error");
	settle(gs, MESH__GRPC_UNAVAILABLE, why, strlen(why));
	gs->failed.fire = on_failed;
	mesh__timer_set(gs->lp, &gs->failed, gs->lp->now_ns);
}

static void fill_fields(struct grpc_stream *gs)
{
	const struct mesh_header fields[FIELDS] = {
		{ ":method", "POST", 7, 4 }, { ":scheme", "http", 7, 4 }, { ":path", gs->path, 5, 0 }, { ":authority", "localhost", 10, 9 },
		{ "content-type", "application/grpc", 12, 16 }, { "te", "trailers", 2, 8 }, { "user-agent", "libmesh", 10, 7 }, { gs->key, gs->value, 0, 0 },
	};

	memcpy(gs->fields, fields, sizeof(fields));
	for (int i = 0; i < FIELDS; i++) {
		gs->fields[i].name_len = (uint32_t)strlen(gs->fields[i].name);
		gs->fields[i].value_len = (uint32_t)strlen(gs->fields[i].value);
	}
}

static void *open_call(struct mesh__loop *lp, const char *target, const char *path, const char *key, const char *value, const void *request,
		       size_t len, size_t message_max_bytes, void (*message)(void *user, const void *data, size_t len),
		       void (*ended)(void *user, int status, const char *text), void *user)
{
	struct grpc_stream *gs = mesh__memory_zalloc(sizeof(*gs));

	if (!gs)
		return NULL;
	gs->lp = lp;
	gs->message = message;
	gs->ended = ended;
	gs->user = user;
	gs->body_max = message_max_bytes;
	gs->path = mesh__memory_strdup(path);
	gs->key = mesh__memory_strdup(key);
	gs->value = mesh__memory_strdup(value);
	gs->request = mesh__memory_alloc(MESH__GRPC_PREFIX_BYTES + len);
	if (!gs->path || !gs->key || !gs->value || !gs->request) {
		free_stream(gs);
		return NULL;
	}
	mesh__grpc_write_prefix(gs->request, (uint32_t)len);
	if (len)
		memcpy(gs->request + MESH__GRPC_PREFIX_BYTES, request, len);
	gs->chunk = (struct mesh__chunk){ .data = gs->request, .len = MESH__GRPC_PREFIX_BYTES + len, .release = release_chunk };
	fill_fields(gs);
	start(gs, target);
	return gs;
}

static void cancel(void *stream)
{
	struct grpc_stream *gs = stream;

	gs->is_cancelled = true;
	if (gs->failed.fire)
		free_stream(gs);
	else if (gs->is_inside)
		mesh__conn_close(&gs->conn, MESH_E_CANCELLED, "cancelled", "we need it no longer");
	else
		mesh__conn_abort(&gs->conn, MESH_E_CANCELLED, "cancelled", "we need it no longer");
}

const struct mesh__stream_client mesh__grpc_streams = { .open = open_call, .cancel = cancel };
