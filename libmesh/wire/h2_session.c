/*
 * What frames mean: the callbacks of nghttp2, turned into events of streams and connections.
 *
 * A peer is believed only within limits: header bytes and count are added up before anything is copied; cheap frames are paid
 * for from buckets (abuse.h); received bytes are given back to the peer's window only when somebody has taken them.
 */
#include "wire/h2_session.h"

#include "base/clock.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <string.h>

#define RAPID_NS (10 * MESH__NS_PER_MS)

enum {
	FIELDS_MAX = 160,             /* of a block that we send: header.count and what we add */
	OUTBOUND_ACKS_MAX = 100,      /* queued PING and SETTINGS answers to a peer that does not read */
	CONTINUATIONS_MAX = 8,        /* frames of one header block */
	HEADER_OVERRUN_FACTOR = 4,    /* so far over the limit it is no accident: the connection ends */
	WINDOW_UPDATES_PER_DATA = 10, /* that one DATA frame of ours explains */
	WINDOW_UPDATES_PER_REQUEST = 2, /* gRPC widens the windows for each answer that it waits for */
	REMOTE_STREAMS_BEFORE_SETTINGS = 100
};

static const uint8_t drain_ping[8] = { 'm', 'e', 's', 'h', 'd', 'r', 'a', 'i' };
static const uint8_t alive_ping[8] = { 'm', 'e', 's', 'h', 'l', 'i', 'v', 'e' };

/* --- limits --- */

void mesh__h2_count_abuse(struct mesh__conn *conn, enum mesh__abuse_kind kind, uint64_t now_ns)
{
	enum mesh__abuse_verdict verdict;
	char text[96];

	if (!conn->is_server || conn->state >= MESH__CONN_CLOSING)
		return;
	verdict = mesh__abuse_note(&conn->abuse, kind, now_ns);
	if (verdict == MESH__ABUSE_FINE)
		return;
	if (verdict == MESH__ABUSE_SOFT) {
		if (conn->state == MESH__CONN_OPEN) {
			conn->events->on_abuse(conn, mesh__abuse_name(kind));
			mesh__conn_drain(conn);
		}
		return;
	}
	conn->events->on_abuse(conn, mesh__abuse_name(kind));
	snprintf(text, sizeof(text), "the peer sent too many frames of one kind (%s)", mesh__abuse_name(kind));
	nghttp2_session_terminate_session(conn->session, NGHTTP2_ENHANCE_YOUR_CALM);
	mesh__conn_close(conn, MESH_E_PROTOCOL, mesh__abuse_name(kind), text);
}

/* The peer broke the rules in a way that nghttp2 leaves to us. */
static void end_for_breach(struct mesh__conn *conn, uint32_t error_code, const char *text)
{
	if (conn->state >= MESH__CONN_CLOSING)
		return;
	nghttp2_session_terminate_session(conn->session, error_code);
	mesh__conn_close(conn, MESH_E_PROTOCOL, "protocol", text);
}

static bool was_reset_by_us(const struct mesh__conn *conn, int32_t id)
{
	const uint32_t size = sizeof(conn->resets.ids) / sizeof(conn->resets.ids[0]);

	if (id <= conn->resets.forgotten)
		return true; /* maybe */
	for (uint32_t i = 0; i < size && i < conn->resets.count; i++)
		if (conn->resets.ids[i] == id)
			return true;
	return false;
}

static void remember_reset(struct mesh__conn *conn, int32_t id)
{
	int32_t *slot = &conn->resets.ids[conn->resets.count % (sizeof(conn->resets.ids) / sizeof(conn->resets.ids[0]))];

	if (!conn->is_server || was_reset_by_us(conn, id))
		return;
	if (*slot > conn->resets.forgotten)
		conn->resets.forgotten = *slot;
	*slot = id;
	conn->resets.count++;
}

/*
 * HEADERS for a stream that is over, or was skipped. We have nghttp2 keep no closed streams (they would cost memory), so it ignores
 * these. They are harmless if it was we who ended the stream, or after our last GOAWAY: the peer did not know yet. Otherwise they
 * are an error. (DATA for such a stream is dropped by nghttp2 before any callback; RFC 9113, 5.1, allows that.)
 */
static void check_stream_is_alive(struct mesh__conn *conn, const nghttp2_frame_hd *hd)
{
	if (hd->stream_id > conn->last_peer_id) {
		conn->last_peer_id = hd->stream_id;
		mesh__abuse_excuse(&conn->abuse, MESH__ABUSE_WINDOW, WINDOW_UPDATES_PER_REQUEST);
		return;
	}
	if (hd->stream_id % 2 == 0 || conn->said_last_goaway || nghttp2_session_find_stream(conn->session, hd->stream_id) ||
	    was_reset_by_us(conn, hd->stream_id))
		return;
	end_for_breach(conn, MESH__H2_STREAM_CLOSED, "the peer sent HEADERS on a stream that was over");
}

static void refuse_headers(struct mesh__conn *conn, struct mesh__stream *stream)
{
	if (!stream->headers_refused)
		mesh__h2_count_abuse(conn, MESH__ABUSE_BAD_HEADERS, conn->lp->now_ns);
	stream->headers_refused = true;
	if (stream->headers.cost_bytes < conn->limits.header_bytes_max * HEADER_OVERRUN_FACTOR || conn->state >= MESH__CONN_CLOSING)
		return;
	if (conn->is_server)
		conn->events->on_abuse(conn, mesh__abuse_name(MESH__ABUSE_BAD_HEADERS));
	nghttp2_session_terminate_session(conn->session, NGHTTP2_ENHANCE_YOUR_CALM);
	mesh__conn_close(conn, MESH_E_TOO_LARGE, mesh__abuse_name(MESH__ABUSE_BAD_HEADERS), "the peer sent a header block far over the limit");
}

/* --- streams --- */

void mesh__stream_init(struct mesh__stream *stream, const struct mesh__stream_events *events)
{
	*stream = (struct mesh__stream){ .events = events, .headers_at = UINT64_MAX };
	stream->out_last = &stream->out_first;
	mesh__list_init(&stream->node);
	mesh__headers_init(&stream->headers);
}

static void attach(struct mesh__stream *stream, struct mesh__conn *conn, int32_t id)
{
	stream->conn = conn;
	stream->id = id;
	stream->opened_ns = stream->last_in_ns = stream->last_out_ns = conn->lp->now_ns;
	conn->last_active_ns = conn->lp->now_ns;
	conn->queued_bytes += stream->out_bytes;
	mesh__list_append(&conn->streams, &stream->node);
	conn->stream_count++;
}

static void release_first_chunk(struct mesh__stream *stream)
{
	struct mesh__chunk *chunk = stream->out_first;

	stream->out_first = chunk->next;
	if (!stream->out_first)
		stream->out_last = &stream->out_first;
	stream->out_taken = 0;
	chunk->release(chunk, stream);
}

void mesh__h2_stream_closed(struct mesh__stream *stream, uint32_t error_code, bool unprocessed)
{
	struct mesh__conn *conn = stream->conn;

	mesh__list_remove(&stream->node);
	conn->stream_count--;
	conn->queued_bytes -= stream->out_bytes;
	conn->last_active_ns = conn->lp->now_ns;
	if (conn->is_server && error_code == MESH__H2_NO_ERROR)
		mesh__abuse_excuse(&conn->abuse, MESH__ABUSE_RESET, 1); /* who mostly asks may change its mind now and then */
	/* What the reader still holds no longer counts against the stream's window, but against the connection's. */
	if (stream->unconsumed_bytes && conn->session)
		nghttp2_session_consume_connection(conn->session, stream->unconsumed_bytes);
	stream->unconsumed_bytes = 0;
	stream->conn = NULL;
	stream->events->on_close(stream, error_code, unprocessed);
}

void mesh__stream_fini(struct mesh__stream *stream, struct mesh__pool *pool)
{
	while (stream->out_first)
		release_first_chunk(stream);
	mesh__headers_fini(&stream->headers, pool);
}

/* How nghttp2 asks for body bytes: we only say how many; send_data() then writes them straight into the output. */
static ssize_t read_body(nghttp2_session *session, int32_t id, uint8_t *buf, size_t len, uint32_t *flags, nghttp2_data_source *source,
			 void *user)
{
	struct mesh__stream *stream = source->ptr;
	size_t n = stream->out_bytes < len ? (size_t)stream->out_bytes : len;

	(void)buf;
	(void)user;
	if (n == 0 && !stream->end_queued) {
		stream->is_deferred = true;
		return NGHTTP2_ERR_DEFERRED;
	}
	*flags |= NGHTTP2_DATA_FLAG_NO_COPY;
	if (n < stream->out_bytes || !stream->end_queued)
		return (ssize_t)n;
	*flags |= NGHTTP2_DATA_FLAG_EOF;
	if (stream->trailer_count) {
		nghttp2_nv nv[FIELDS_MAX];
		int rc;

		*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
		for (uint32_t i = 0; i < stream->trailer_count; i++)
			nv[i] = (nghttp2_nv){ (uint8_t *)(uintptr_t)stream->trailers[i].name, (uint8_t *)(uintptr_t)stream->trailers[i].value,
					      stream->trailers[i].name_len, stream->trailers[i].value_len,
					      NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE };
		rc = nghttp2_submit_trailer(session, id, nv, stream->trailer_count);
		if (rc)
			return rc == NGHTTP2_ERR_NOMEM ? NGHTTP2_ERR_CALLBACK_FAILURE : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	}
	return (ssize_t)n;
}

static void take_bytes(struct mesh__stream *stream, uint8_t *to, size_t len)
{
	while (len) {
		struct mesh__chunk *chunk = stream->out_first;
		size_t left = chunk->len - stream->out_taken, n = left < len ? left : len;

		memcpy(to, chunk->data + stream->out_taken, n);
		to += n;
		len -= n;
		stream->out_taken += n;
		if (n == left)
			release_first_chunk(stream);
	}
}

static int send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t len, nghttp2_data_source *source, void *user)
{
	struct mesh__conn *conn = user;
	struct mesh__stream *stream = source->ptr;
	uint8_t *at = mesh__h2_gather(conn, 9 + len);

	(void)session;
	(void)frame;
	if (!at)
		return NGHTTP2_ERR_WOULDBLOCK;
	memcpy(at, head, 9);
	take_bytes(stream, at + 9, len);
	stream->out_bytes -= len;
	conn->queued_bytes -= len;
	stream->sent_bytes += len;
	stream->last_out_ns = conn->lp->now_ns;
	mesh__abuse_excuse(&conn->abuse, MESH__ABUSE_WINDOW, WINDOW_UPDATES_PER_DATA);
	mesh__abuse_excuse(&conn->abuse, MESH__ABUSE_PING, 1);
	if (stream->out_bytes == 0 && len && stream->events->on_drained)
		stream->events->on_drained(stream);
	return 0;
}

static size_t to_nv(const struct mesh_header *fields, uint32_t count, nghttp2_nv *nv)
{
	for (uint32_t i = 0; i < count; i++) {
		nv[i] = (nghttp2_nv){ (uint8_t *)(uintptr_t)fields[i].name, (uint8_t *)(uintptr_t)fields[i].value, fields[i].name_len,
				      fields[i].value_len, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE };
		/* Different on every call: in the dynamic table it would only push out what repeats. */
		if (fields[i].name_len == sizeof("grpc-timeout") - 1 && memcmp(fields[i].name, "grpc-timeout", fields[i].name_len) == 0)
			nv[i].flags |= NGHTTP2_NV_FLAG_NO_INDEX;
	}
	return count;
}

int mesh__stream_open(struct mesh__stream *stream, struct mesh__conn *conn, const struct mesh_header *fields, uint32_t count, bool has_body)
{
	nghttp2_data_provider body = { .source.ptr = stream, .read_callback = read_body };
	nghttp2_nv nv[FIELDS_MAX];
	int32_t id;

	if (!mesh__conn_has_room(conn))
		return MESH_E_STATE;
	if (count > FIELDS_MAX)
		return MESH_E_TOO_LARGE;
	id = nghttp2_submit_request(conn->session, NULL, nv, to_nv(fields, count, nv), has_body ? &body : NULL, stream);
	if (id < 0)
		return id == NGHTTP2_ERR_NOMEM ? MESH_E_NOMEM : MESH_E_PROTOCOL;
	attach(stream, conn, id);
	mesh__loop_flush_later(conn->lp, &conn->flush);
	return 0;
}

int mesh__stream_respond(struct mesh__stream *stream, const struct mesh_header *fields, uint32_t count, bool has_body)
{
	nghttp2_data_provider body = { .source.ptr = stream, .read_callback = read_body };
	struct mesh__conn *conn = stream->conn;
	nghttp2_nv nv[FIELDS_MAX];
	int rc;

	if (!conn)
		return MESH_E_CANCELLED;
	if (count > FIELDS_MAX)
		return MESH_E_TOO_LARGE;
	rc = nghttp2_submit_response(conn->session, stream->id, nv, to_nv(fields, count, nv), has_body ? &body : NULL);
	mesh__loop_flush_later(conn->lp, &conn->flush);
	if (rc == 0)
		return 0;
	return rc == NGHTTP2_ERR_NOMEM ? MESH_E_NOMEM : MESH_E_STATE;
}

void mesh__stream_continue(struct mesh__stream *stream)
{
	struct mesh_header status = { ":status", "100", 7, 3 };
	nghttp2_nv nv;

	/* Out of memory? Who waits for this waits only so long. */
	nghttp2_submit_headers(stream->conn->session, NGHTTP2_FLAG_NONE, stream->id, NULL, &nv, to_nv(&status, 1, &nv), stream);
	mesh__loop_flush_later(stream->conn->lp, &stream->conn->flush);
}

static void wake_body(struct mesh__stream *stream)
{
	struct mesh__conn *conn = stream->conn;

	if (!conn)
		return;
	if (stream->is_deferred) {
		stream->is_deferred = false;
		nghttp2_session_resume_data(conn->session, stream->id);
	}
	mesh__loop_flush_later(conn->lp, &conn->flush);
}

void mesh__stream_send(struct mesh__stream *stream, struct mesh__chunk *chunk)
{
	chunk->next = NULL;
	*stream->out_last = chunk;
	stream->out_last = &chunk->next;
	stream->out_bytes += chunk->len;
	if (stream->conn)
		stream->conn->queued_bytes += chunk->len;
	if (stream->out_bytes == chunk->len && stream->conn)
		stream->last_out_ns = stream->conn->lp->now_ns;
	wake_body(stream);
}

void mesh__stream_send_end(struct mesh__stream *stream, const struct mesh_header *trailers, uint32_t count)
{
	stream->end_queued = true;
	stream->trailers = trailers;
	stream->trailer_count = count < FIELDS_MAX ? count : FIELDS_MAX;
	wake_body(stream);
}

void mesh__stream_reset(struct mesh__stream *stream, uint32_t error_code)
{
	if (!stream->conn)
		return;
	nghttp2_submit_rst_stream(stream->conn->session, NGHTTP2_FLAG_NONE, stream->id, error_code);
	mesh__loop_flush_later(stream->conn->lp, &stream->conn->flush);
}

void mesh__stream_consume(struct mesh__stream *stream, size_t bytes)
{
	struct mesh__conn *conn = stream->conn;

	if (!conn || !bytes)
		return;
	stream->unconsumed_bytes -= (uint32_t)bytes;
	nghttp2_session_consume(conn->session, stream->id, bytes);
	mesh__loop_flush_later(conn->lp, &conn->flush);
}

/* --- callbacks --- */

/*
 * What each callback of nghttp2_session_mem_recv() returns. Where nghttp2 looks at what its callbacks did to the session, it stops after
 * nghttp2_session_terminate_session(); elsewhere it goes on, and an ill-formed frame behind that makes it call abort(). So it is
 * told to stop. The read loop takes this for no error of its own.
 */
static int go_on(const struct mesh__conn *conn)
{
	return conn->state >= MESH__CONN_CLOSING ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
	struct mesh__conn *conn = user;
	struct mesh__stream *stream;

	conn->header_since_ns = conn->lp->now_ns;
	conn->header_stream_id = frame->hd.stream_id;
	if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
		return go_on(conn);
	stream = conn->state == MESH__CONN_OPEN || conn->state == MESH__CONN_DRAINING ? conn->events->on_request(conn) : NULL;
	if (!stream) {
		conn->header_since_ns = 0; /* nobody will tell us when this block ends */
		nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_REFUSED_STREAM);
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	}
	nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, stream);
	attach(stream, conn, frame->hd.stream_id);
	return go_on(conn);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len, const uint8_t *value,
		     size_t value_len, uint8_t flags, void *user)
{
	struct mesh__conn *conn = user;
	struct mesh__stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
	struct mesh__headers *headers;

	(void)flags;
	if (!stream)
		return go_on(conn);
	headers = &stream->headers;
	if (stream->headers_refused || headers->count >= conn->limits.header_count_max ||
	    headers->cost_bytes + name_len + value_len + 32 > conn->limits.header_bytes_max) {
		headers->cost_bytes += (uint32_t)(name_len + value_len + 32);
		refuse_headers(conn, stream);
		return go_on(conn);
	}
	/* Trailers of a request: nobody can ask for them, and adding would move headers that a handler on another thread reads. */
	if (conn->is_server && stream->has_headers) {
		headers->cost_bytes += (uint32_t)(name_len + value_len + 32);
		return go_on(conn);
	}
	if (mesh__headers_add(headers, &conn->lp->pool, name, name_len, value, value_len)) {
		conn->header_since_ns = 0;
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	}
	return go_on(conn);
}

static int http_status_of(const struct mesh__stream *stream)
{
	uint32_t len;
	const char *value = mesh__headers_find(&stream->headers, ":status", 7, false, &len);

	return value && len == 3 ? (value[0] - '0') * 100 + (value[1] - '0') * 10 + (value[2] - '0') : 0;
}

static void on_header_block(struct mesh__conn *conn, struct mesh__stream *stream, bool is_end)
{
	if (stream->has_headers) { /* trailers: nghttp2 insists that they end the stream */
		stream->ended_by_peer = true;
		stream->events->on_end(stream);
		return;
	}
	if (!conn->is_server && !is_end && http_status_of(stream) < 200 && !stream->headers_refused) {
		mesh__headers_clear(&stream->headers); /* an interim answer: the final one follows */
		return;
	}
	stream->has_headers = true;
	stream->ended_by_peer = is_end;
	stream->headers.trailers_from = stream->headers.count;
	stream->events->on_headers(stream, is_end);
}

static void on_control_frame(struct mesh__conn *conn, const nghttp2_frame *frame)
{
	switch (frame->hd.type) {
	case NGHTTP2_SETTINGS:
		if (frame->hd.flags & NGHTTP2_FLAG_ACK)
			break;
		if (conn->got_settings)
			mesh__h2_count_abuse(conn, MESH__ABUSE_SETTINGS, conn->lp->now_ns);
		if (conn->is_server) {
			conn->got_settings = true;
		} else if (!conn->got_settings) {
			conn->got_settings = true;
			conn->events->on_open(conn);
		} else {
			conn->events->on_room(conn);
		}
		break;
	case NGHTTP2_PING:
		mesh__h2_count_abuse(conn, MESH__ABUSE_PING, conn->lp->now_ns); /* answers, too: nobody needs many of them */
		if (!(frame->hd.flags & NGHTTP2_FLAG_ACK))
			break;
		if (memcmp(frame->ping.opaque_data, drain_ping, sizeof(drain_ping)) != 0)
			conn->ping_sent_ns = 0;
		else if (conn->state == MESH__CONN_DRAINING)
			mesh__h2_say_last_goaway(conn);
		break;
	case NGHTTP2_GOAWAY:
		conn->said_last_goaway = true;
		if (!conn->close_reason[0] && frame->goaway.error_code != NGHTTP2_NO_ERROR) {
			conn->close_code = MESH_E_LOST;
			snprintf(conn->close_reason, sizeof(conn->close_reason), "goaway");
			snprintf(conn->close_text, sizeof(conn->close_text), "the peer ended the connection: %s",
				 nghttp2_http2_strerror(frame->goaway.error_code));
		}
		mesh__h2_start_draining(conn);
		break;
	default:
		break;
	}
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
	struct mesh__conn *conn = user;
	bool is_end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
	struct mesh__stream *stream;

	if (frame->hd.type > NGHTTP2_HEADERS) {
		on_control_frame(conn, frame);
		return go_on(conn);
	}
	conn->pings = 0;
	if (frame->hd.type == NGHTTP2_HEADERS)
		conn->header_since_ns = 0;
	stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
	if (!stream || stream->ended_by_peer)
		return go_on(conn);
	stream->last_in_ns = conn->lp->now_ns;
	if (frame->hd.type == NGHTTP2_DATA && !is_end && frame->hd.length && frame->hd.length == frame->data.padlen)
		mesh__h2_count_abuse(conn, MESH__ABUSE_EMPTY, conn->lp->now_ns);
	if (frame->hd.type == NGHTTP2_HEADERS) {
		on_header_block(conn, stream, is_end);
	} else if (is_end) {
		stream->ended_by_peer = true;
		stream->events->on_end(stream);
	}
	return go_on(conn);
}

/*
 * What makes resets an attack (CVE-2023-44487) is that they free their place at once, so that no limit on streams holds. A stream that
 * lived for a while had its place for so long: its caller's patience ended. One that we have answered saves us work.
 */
static bool is_rapid_reset(const struct mesh__conn *conn, const struct mesh__stream *stream)
{
	return !stream || (!stream->end_sent && conn->lp->now_ns - stream->opened_ns < RAPID_NS);
}

/* Sees every frame, also those of types that nobody knows. */
static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd, void *user)
{
	struct mesh__conn *conn = user;
	const struct mesh__stream *stream;

	if (!conn->is_server)
		return 0;
	switch (hd->type) {
	case NGHTTP2_HEADERS:
		check_stream_is_alive(conn, hd);
		break;
	case NGHTTP2_CONTINUATION:
	case NGHTTP2_SETTINGS:
	case NGHTTP2_PING:
	case NGHTTP2_PUSH_PROMISE:
		break;
	case NGHTTP2_GOAWAY:
		mesh__h2_count_abuse(conn, MESH__ABUSE_GOAWAY, conn->lp->now_ns);
		break;
	case NGHTTP2_DATA:
		if (hd->length == 0 && !(hd->flags & NGHTTP2_FLAG_END_STREAM))
			mesh__h2_count_abuse(conn, MESH__ABUSE_EMPTY, conn->lp->now_ns);
		break;
	case NGHTTP2_RST_STREAM:
		stream = nghttp2_session_get_stream_user_data(session, hd->stream_id);
		if (is_rapid_reset(conn, stream))
			mesh__h2_count_abuse(conn, MESH__ABUSE_RESET, conn->lp->now_ns);
		break;
	case NGHTTP2_PRIORITY:
		if (hd->stream_id == 0) /* we ignore priorities, and so does nghttp2, this rule included */
			end_for_breach(conn, MESH__H2_PROTOCOL_ERROR, "the peer sent PRIORITY on stream 0");
		mesh__h2_count_abuse(conn, MESH__ABUSE_PRIORITY, conn->lp->now_ns);
		break;
	case NGHTTP2_WINDOW_UPDATE:
		mesh__h2_count_abuse(conn, MESH__ABUSE_WINDOW, conn->lp->now_ns);
		break;
	default:
		mesh__h2_count_abuse(conn, MESH__ABUSE_UNKNOWN, conn->lp->now_ns);
	}
	return go_on(conn);
}

/* What nghttp2 answers with RST_STREAM, or with the end of the connection. */
static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int nghttp2_error, void *user)
{
	struct mesh__conn *conn = user;

	(void)session;
	(void)nghttp2_error;
	if (frame->hd.type == NGHTTP2_HEADERS)
		conn->header_since_ns = 0; /* the rest of this block is skipped in silence */
	if (frame->hd.stream_id)
		remember_reset(conn, frame->hd.stream_id);
	return go_on(conn);
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *user)
{
	struct mesh__conn *conn = user;
	struct mesh__stream *stream = nghttp2_session_get_stream_user_data(session, id);

	(void)flags;
	if (!stream) {
		nghttp2_session_consume(session, id, len);
		return go_on(conn);
	}
	stream->received_bytes += len;
	/* We have answered already: the rest is thrown away, and the stream's window stays shut. */
	if (conn->is_server && stream->end_sent) {
		nghttp2_session_consume_connection(session, len);
		return go_on(conn);
	}
	stream->unconsumed_bytes += (uint32_t)len;
	stream->last_in_ns = conn->lp->now_ns;
	stream->events->on_data(stream, data, len);
	return go_on(conn);
}

static int on_stream_closed(nghttp2_session *session, int32_t id, uint32_t error_code, void *user)
{
	struct mesh__conn *conn = user;
	struct mesh__stream *stream = nghttp2_session_get_stream_user_data(session, id);

	if (id == conn->header_stream_id)
		conn->header_since_ns = 0; /* the rest of its block, if any, is skipped in silence */
	if (!stream)
		return 0;
	/* REFUSED_STREAM comes from the peer itself, or from nghttp2 for streams beyond the peer's GOAWAY. */
	mesh__h2_stream_closed(stream, error_code, error_code == NGHTTP2_REFUSED_STREAM || stream->headers_at == UINT64_MAX);
	if (!conn->is_server && conn->events->on_room && conn->state == MESH__CONN_OPEN)
		conn->events->on_room(conn);
	return 0;
}

static int before_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
	struct mesh__conn *conn = user;
	struct mesh__stream *stream;

	if (frame->hd.type != NGHTTP2_HEADERS)
		return 0;
	stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
	if (stream && stream->headers_at == UINT64_MAX)
		stream->headers_at = conn->enqueued_bytes;
	return 0;
}

/* nghttp2 ends the connection because of what the peer did, and says why in the GOAWAY: that is the reason to remember. */
static void remember_breach(struct mesh__conn *conn, const nghttp2_goaway *goaway)
{
	char text[sizeof(conn->close_text)];
	int len = goaway->opaque_data_len > 60 ? 60 : (int)goaway->opaque_data_len;

	if (!conn->got_settings)
		snprintf(text, sizeof(text), "the peer does not speak HTTP/2 (%.*s)", len, (const char *)goaway->opaque_data);
	else
		snprintf(text, sizeof(text), "the peer broke HTTP/2 (%.*s)", len, (const char *)goaway->opaque_data);
	mesh__conn_remember(conn, MESH_E_PROTOCOL, "protocol", text);
}

static int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
	struct mesh__conn *conn = user;
	struct mesh__stream *stream;

	if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR)
		remember_breach(conn, &frame->goaway);
	if (frame->hd.type == NGHTTP2_HEADERS)
		mesh__abuse_excuse(&conn->abuse, MESH__ABUSE_PING, 1);
	if (frame->hd.type == NGHTTP2_RST_STREAM)
		remember_reset(conn, frame->hd.stream_id);
	if (frame->hd.type == NGHTTP2_RST_STREAM && frame->rst_stream.error_code != NGHTTP2_NO_ERROR &&
	    frame->rst_stream.error_code != NGHTTP2_CANCEL && frame->rst_stream.error_code != NGHTTP2_REFUSED_STREAM)
		mesh__h2_count_abuse(conn, MESH__ABUSE_PROVOKED, conn->lp->now_ns);
	if (frame->hd.type > NGHTTP2_HEADERS || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
		return 0;
	stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
	if (!stream)
		return 0;
	stream->end_sent = true;
	stream->last_out_ns = conn->lp->now_ns;
	/*
	 * The answer is out before the request has ended: the rest of it is of no interest (RFC 9113, 8.1). Behind a body
	 * check_streams() says so a little later, since there are clients that lose the body otherwise.
	 */
	if (conn->is_server && !stream->ended_by_peer && frame->hd.type == NGHTTP2_HEADERS)
		nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_NO_ERROR);
	return 0;
}

void mesh__h2_input_failed(struct mesh__conn *conn, int nghttp2_error)
{
	const char *reason = "protocol", *text = nghttp2_strerror(nghttp2_error);
	uint32_t error_code;

	switch (nghttp2_error) {
	case NGHTTP2_ERR_BAD_CLIENT_MAGIC:
		text = "the peer does not speak HTTP/2 (bad preface)";
		break;
	case NGHTTP2_ERR_FLOODED:
		reason = "flood";
		text = "the peer floods us with frames and does not read the answers";
		break;
	case NGHTTP2_ERR_NOMEM:
		reason = "nomem";
		break;
	default:
#if NGHTTP2_VERSION_NUM >= 0x013d00
		if (nghttp2_error == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS)
			reason = "continuation_flood";
#else
		if (nghttp2_error == -905) /* patched into 1.52 by Debian, without a name in its header */
			reason = "continuation_flood";
#endif
		break;
	}
	if (conn->is_server && strcmp(reason, "protocol") != 0)
		conn->events->on_abuse(conn, reason);
	if (nghttp2_error == NGHTTP2_ERR_NOMEM)
		error_code = MESH__H2_INTERNAL_ERROR;
	else
		error_code = strcmp(reason, "protocol") == 0 ? MESH__H2_PROTOCOL_ERROR : MESH__H2_ENHANCE_YOUR_CALM;
	nghttp2_session_terminate_session(conn->session, error_code);
	mesh__conn_close(conn, nghttp2_error == NGHTTP2_ERR_NOMEM ? MESH_E_NOMEM : MESH_E_PROTOCOL, reason, text);
}

/* --- life --- */

/*
 * When some allocations of nghttp2 1.52 fail, it frees an outbound item and meets it again in nghttp2_session_del(). It says
 * NGHTTP2_ERR_NOMEM, we end the connection, and that is where it happens: nothing that we could do better. So it has a pool of
 * its own, which tests that make allocations fail leave out.
 */
static void *mem_alloc(size_t bytes, void *user)
{
	return mesh__pool_alloc(user, bytes);
}

static void mem_free(void *memory, void *user)
{
	mesh__pool_free(user, memory);
}

static void *mem_calloc(size_t count, size_t bytes, void *user)
{
	return bytes && count > SIZE_MAX / bytes ? NULL : mesh__pool_zalloc(user, count * bytes);
}

static void *mem_realloc(void *memory, size_t bytes, void *user)
{
	return mesh__pool_realloc(user, memory, bytes);
}

/* Frames of types that nobody knows are legal and ignored; asking for them is the only way to count them. */
static int ignore_extension(nghttp2_session *session, void **payload, const nghttp2_frame_hd *hd, void *user)
{
	(void)session;
	(void)payload;
	(void)hd;
	(void)user;
	return NGHTTP2_ERR_CANCEL;
}

static nghttp2_session_callbacks *new_callbacks(void)
{
	nghttp2_session_callbacks *callbacks;

	if (nghttp2_session_callbacks_new(&callbacks))
		return NULL;
	nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
	nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
	nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame);
	nghttp2_session_callbacks_set_unpack_extension_callback(callbacks, ignore_extension);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_closed);
	nghttp2_session_callbacks_set_before_frame_send_callback(callbacks, before_frame);
	nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent);
	nghttp2_session_callbacks_set_send_data_callback(callbacks, send_data);
	return callbacks;
}

static nghttp2_option *new_option(const struct mesh__conn *conn)
{
	nghttp2_option *option;

	if (nghttp2_option_new(&option))
		return NULL;
	nghttp2_option_set_no_auto_window_update(option, 1);
	nghttp2_option_set_no_closed_streams(option, 1);
	nghttp2_option_set_max_outbound_ack(option, OUTBOUND_ACKS_MAX);
	nghttp2_option_set_peer_max_concurrent_streams(option, REMOTE_STREAMS_BEFORE_SETTINGS);
	nghttp2_option_set_max_send_header_block_length(option, 256 * 1024);
#ifdef HAVE_NGHTTP2_OPTION_SET_STREAM_RESET_RATE_LIMIT
	/* It counts every reset; is_rapid_reset() and wire/abuse.h are fairer. */
	nghttp2_option_set_stream_reset_rate_limit(option, UINT32_MAX, UINT32_MAX);
#endif
#ifdef HAVE_NGHTTP2_OPTION_SET_MAX_CONTINUATIONS
	nghttp2_option_set_max_continuations(option, CONTINUATIONS_MAX);
#endif
	for (unsigned type = NGHTTP2_CONTINUATION + 1; conn->is_server && type <= UINT8_MAX; type++)
		nghttp2_option_set_user_recv_extension_type(option, (uint8_t)type);
	return option;
}

static int say_settings(struct mesh__conn *conn)
{
	const struct mesh__conn_limits *limits = &conn->limits;
	nghttp2_settings_entry entries[5];
	size_t n = 0;

	entries[n++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, limits->stream_window_bytes };
	entries[n++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, limits->header_bytes_max };
	if (conn->is_server) {
		entries[n++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits->streams_max };
		entries[n++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1 };
	} else {
		entries[n++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_ENABLE_PUSH, 0 };
	}
	if (nghttp2_submit_settings(conn->session, NGHTTP2_FLAG_NONE, entries, n))
		return MESH_E_NOMEM;
	if (nghttp2_session_set_local_window_size(conn->session, NGHTTP2_FLAG_NONE, 0, (int32_t)limits->connection_window_bytes))
		return MESH_E_NOMEM;
	return 0;
}

int mesh__h2_begin(struct mesh__conn *conn)
{
	nghttp2_mem mem = { &conn->lp->foreign_pool, mem_alloc, mem_free, mem_calloc, mem_realloc };
	nghttp2_session_callbacks *callbacks = new_callbacks();
	nghttp2_option *option = new_option(conn);
	int rc = MESH_E_NOMEM;

	if (callbacks && option) {
		rc = conn->is_server ? nghttp2_session_server_new3(&conn->session, callbacks, conn, option, &mem)
				     : nghttp2_session_client_new3(&conn->session, callbacks, conn, option, &mem);
		rc = rc ? MESH_E_NOMEM : say_settings(conn);
	}
	nghttp2_session_callbacks_del(callbacks);
	nghttp2_option_del(option);
	return rc;
}

void mesh__h2_ping(struct mesh__conn *conn)
{
	nghttp2_submit_ping(conn->session, NGHTTP2_FLAG_NONE, alive_ping);
	mesh__loop_flush_later(conn->lp, &conn->flush);
}

void mesh__h2_say_goaway(struct mesh__conn *conn)
{
	if (!conn->is_server) {
		mesh__h2_say_last_goaway(conn);
		return;
	}
	nghttp2_submit_shutdown_notice(conn->session);
	nghttp2_submit_ping(conn->session, NGHTTP2_FLAG_NONE, drain_ping);
}

void mesh__h2_say_last_goaway(struct mesh__conn *conn)
{
	if (conn->said_last_goaway)
		return;
	conn->said_last_goaway = true;
	nghttp2_submit_goaway(conn->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(conn->session), NGHTTP2_NO_ERROR, NULL, 0);
	mesh__loop_flush_later(conn->lp, &conn->flush);
}

bool mesh__conn_has_room(const struct mesh__conn *conn)
{
	uint32_t remote;

	if (conn->state != MESH__CONN_OPEN || !conn->got_settings || !nghttp2_session_check_request_allowed(conn->session))
		return false;
	remote = nghttp2_session_get_remote_settings(conn->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
	return conn->stream_count < conn->limits.streams_max && conn->stream_count < remote;
}
