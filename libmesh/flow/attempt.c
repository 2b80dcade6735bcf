/*
 * One try at one endpoint: a connection with room (or a place in line for one), a stream, the request out, the answer in.
 *
 * However it ends, it ends through mesh__call_attempt_over(), which decides at the end of the turn. What has come by then stands
 * in the call: `attempt.code` 0 with an answer, or why there is none, and whether the peer can have acted.
 */
#include "flow/call.h"

#include "base/clock.h"
#include "base/memory.h"

#include <stdio.h>
#include <string.h>

static struct mesh_call *of(struct mesh__stream *stream)
{
	return MESH__CONTAINER(stream, struct mesh_call, attempt.stream);
}

/* What begins at `begin` may be what the attempt before said, as far as there is room for it: that one then says how often. */
static void fold_repetition(struct mesh_call *call, struct mesh__text *text, size_t begin)
{
	size_t len = text->len - begin;

	if (call->history_times && (len == call->history_last_len || (text->is_cut && len < call->history_last_len)) &&
	    memcmp(text->data + begin, text->data + call->history_last, len) == 0) {
		text->len = call->history_last + call->history_last_len;
		mesh__text_addf(text, " (%u times)", ++call->history_times);
		return;
	}
	call->history_last = begin;
	call->history_last_len = len;
	call->history_times = 1;
}

static void fail(struct mesh_call *call, int32_t code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Remembers what this attempt said, for the sentence that explains the whole call. */
static void fail(struct mesh_call *call, int32_t code, const char *format, ...)
{
	struct mesh__text text;
	va_list args;
	size_t begin;

	if (call->attempt.code)
		return;
	call->attempt.code = code;
	if (!call->history) {
		call->history = mesh__memory_zalloc(MESH__CALL_HISTORY_MAX);
		if (!call->history)
			return;
	}
	text = (struct mesh__text){ call->history, MESH__CALL_HISTORY_MAX, call->history_len, false };
	if (text.len)
		mesh__text_add(&text, ", ");
	begin = text.len;
	mesh__text_addf(&text, "%s ", call->attempt.reach->reach->name);
	va_start(args, format);
	mesh__text_addv(&text, format, args);
	va_end(args);
	fold_repetition(call, &text, begin);
	if (text.is_cut && text.len == MESH__CALL_HISTORY_MAX - 1)
		memcpy(text.data + text.len - 3, "...", 3); /* there was more to say */
	call->history_len = text.len;
}

static void reset(struct mesh_call *call, uint32_t error_code)
{
	mesh__stream_reset(&call->attempt.stream, error_code);
}

static void refuse_headers(struct mesh_call *call)
{
	fail(call, MESH_E_TOO_LARGE, "answered with more headers than option header.max or header.count allows");
	reset(call, MESH__H2_CANCEL);
}

/* The peer has said all it will say; what we have not sent yet interests nobody. */
static void stop_sending(struct mesh_call *call)
{
	if (!call->attempt.stream.end_sent)
		reset(call, MESH__H2_CANCEL);
}

static void on_headers(struct mesh__stream *stream, bool is_end)
{
	struct mesh_call *call = of(stream);
	uint32_t len;
	const char *value;

	if (call->is_ended)
		return;
	call->attempt.headers_ns = call->lp->now_ns;
	if (stream->headers_refused) {
		refuse_headers(call);
		return;
	}
	value = mesh__headers_find(&stream->headers, ":status", 7, false, &len);
	call->http_status = value && len == 3 ? (value[0] - '0') * 100 + (value[1] - '0') * 10 + value[2] - '0' : 0;
	if (is_end)
		stop_sending(call);
}

static int append_answer(struct mesh_call *call, const uint8_t *data, size_t len)
{
	uint64_t wanted = call->answer_len + len;
	uint8_t *larger;

	if (wanted > call->answer_capacity) {
		uint64_t capacity = call->answer_capacity ? call->answer_capacity * 2 : 112;

		while (capacity < wanted)
			capacity *= 2;
		larger = mesh__pool_realloc(&call->lp->pool, call->answer, capacity);
		if (!larger)
			return MESH_E_NOMEM;
		call->answer = larger;
		call->answer_capacity = capacity;
	}
	memcpy(call->answer + call->answer_len, data, len);
	call->answer_len = wanted;
	return 0;
}

static int take_answer(struct mesh_call *call, const uint8_t *data, size_t len)
{
	uint64_t limit = call->message_max_bytes + (call->is_grpc ? MESH__GRPC_PREFIX_BYTES : 0);
	uint32_t announced;

	if (call->answer_len + len > limit)
		return MESH_E_TOO_LARGE;
	if (append_answer(call, data, len))
		return MESH_E_NOMEM;
	if (call->is_grpc && call->answer_len >= MESH__GRPC_PREFIX_BYTES) {
		if (!mesh__grpc_read_prefix(call->answer, &announced))
			return MESH_E_PROTOCOL;
		if (announced > call->message_max_bytes)
			return MESH_E_TOO_LARGE;
	}
	return 0;
}

static bool is_grpc_answer(const struct mesh__stream *stream)
{
	uint32_t len;
	const char *type = mesh__headers_find(&stream->headers, "content-type", 12, false, &len);

	return type && mesh__grpc_is_content_type(type, len);
}

static void on_data(struct mesh__stream *stream, const uint8_t *data, size_t len)
{
	struct mesh_call *call = of(stream);
	int rc;

	if (call->is_ended || call->attempt.code) {
		mesh__stream_consume(stream, len);
		return;
	}
	if (call->is_grpc && !is_grpc_answer(stream)) {
		/* Whatever it is (an error page of something in between?), it is not ours to parse; the end says what came. */
		mesh__stream_consume(stream, len);
		return;
	}
	if (call->pipe) {
		rc = mesh__pipe_feed(call->pipe, data, len);
	} else {
		mesh__stream_consume(stream, len);
		rc = take_answer(call, data, len);
	}
	if (!rc)
		return;
	if (rc == MESH_E_TOO_LARGE)
		fail(call, rc, "answered with a message larger than %llu bytes (option message.max)", (unsigned long long)call->message_max_bytes);
	else if (rc == MESH_E_PROTOCOL)
		fail(call, rc, "answered with a compressed message, though we offered no compression");
	else
		fail(call, rc, "answered, but memory is out");
	reset(call, MESH__H2_CANCEL);
}

static void on_end(struct mesh__stream *stream)
{
	struct mesh_call *call = of(stream);

	if (stream->headers_refused && !call->is_ended)
		refuse_headers(call); /* the trailers: the status may be among what was left out */
	else
		stop_sending(call);
}

static const char *reset_name(uint32_t error_code)
{
	static const char *const names[] = { "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
					     "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR",
					     "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED" };

	return error_code < sizeof(names) / sizeof(names[0]) ? names[error_code] : "an unknown code";
}

/* The stream ended without an answer: why? */
static void explain_close(struct mesh_call *call, const struct mesh__conn *conn, uint32_t error_code)
{
	if (conn->state >= MESH__CONN_CLOSING)
		fail(call, conn->close_code && conn->close_code != MESH_E_LOST ? conn->close_code : MESH_E_LOST, "%s: %s",
		     call->attempt.unprocessed ? "did not get the request" : "lost the connection before the answer was complete", conn->close_text);
	else if (call->attempt.unprocessed)
		fail(call, MESH_E_UNPROCESSED, "refused the stream before acting on it");
	else if (call->attempt.stream.has_stalled)
		fail(call, MESH_E_RESET, "took nothing of the request for too long (option write.timeout)");
	else if (error_code == MESH__H2_PROTOCOL_ERROR && !call->attempt.headers_ns)
		fail(call, MESH_E_PROTOCOL, "broke the HTTP/2 or HTTP rules (stream error PROTOCOL_ERROR)");
	else
		fail(call, MESH_E_RESET, "reset the stream with %s", reset_name(error_code));
}

static void on_close(struct mesh__stream *stream, uint32_t error_code, bool unprocessed)
{
	struct mesh_call *call = of(stream);

	call->stream_is_open = false;
	if (call->is_ended) {
		mesh__call_unref(call);
		return;
	}
	call->attempt.unprocessed = unprocessed && !stream->has_headers;
	if (!stream->ended_by_peer)
		explain_close(call, call->attempt.conn, error_code);
	mesh__call_attempt_over(call);
	mesh__call_unref(call);
}

static void on_drained(struct mesh__stream *stream)
{
	struct mesh_call *call = of(stream);

	call->info.send_ns = call->lp->now_ns - call->attempt.opened_ns;
}

static const struct mesh__stream_events stream_events = {
	.on_headers = on_headers, .on_data = on_data, .on_end = on_end, .on_drained = on_drained, .on_close = on_close,
};

static void release_body(struct mesh__chunk *chunk, struct mesh__stream *stream)
{
	(void)chunk;
	(void)stream;
}

static int open_stream(struct mesh_call *call, struct mesh__conn *conn)
{
	struct mesh__stream *stream = &call->attempt.stream;
	uint64_t now_ns = call->lp->now_ns;
	bool has_body = call->pipe || call->body_len;
	int rc;

	mesh__stream_init(stream, &stream_events);
	if (call->timeout_field != UINT32_MAX) {
		struct mesh_header *field = &call->fields[call->timeout_field];
		uint64_t left_ns = call->deadline_ns > now_ns ? call->deadline_ns - now_ns : 1;

		field->value_len = (uint32_t)mesh__grpc_print_timeout(left_ns, call->timeout_text);
	}
	rc = mesh__stream_open(stream, conn, call->fields, call->field_count, has_body);
	if (rc)
		return rc;
	call->attempt.conn = conn;
	mesh__peer_unref(call->peer);
	call->peer = mesh__peer_ref(mesh__channel_peer(conn));
	call->attempt.opened_ns = now_ns;
	call->info.connect_ns += now_ns - call->attempt.picked_ns;
	call->stream_is_open = true;
	mesh__call_ref(call);
	if (call->pipe) {
		mesh__pipe_attach(call->pipe, stream);
	} else if (has_body) {
		call->attempt.chunk = (struct mesh__chunk){ .data = call->body, .len = call->body_len, .release = release_body };
		mesh__stream_send(stream, &call->attempt.chunk);
		mesh__stream_send_end(stream, NULL, 0);
	}
	return 0;
}

static void leave_line(struct mesh_call *call)
{
	mesh__channel_leave(&call->attempt.wait);
	if (call->is_pending) {
		call->is_pending = false;
		mesh__call_target_loop(call)->pending--;
	}
}

static void on_ready(struct mesh__channel_wait *wait, struct mesh__conn *conn)
{
	struct mesh_call *call = MESH__CONTAINER(wait, struct mesh_call, attempt.wait);
	int rc;

	leave_line(call);
	rc = open_stream(call, conn);
	if (!rc)
		return;
	call->attempt.never_sent = true;
	fail(call, rc, "could not be sent the request: %s", mesh_error_text(rc));
	mesh__call_attempt_over(call);
}

static void on_failed(struct mesh__channel_wait *wait, int32_t code, const char *why)
{
	struct mesh_call *call = MESH__CONTAINER(wait, struct mesh_call, attempt.wait);

	leave_line(call);
	call->attempt.never_sent = true;
	call->info.connect_ns += call->lp->now_ns - call->attempt.picked_ns;
	fail(call, code, "%s", why);
	mesh__call_attempt_over(call);
}

enum mesh__verdict mesh__step_attempt(struct mesh_call *call)
{
	struct mesh__channel *channel = &call->attempt.reach->channel;
	struct mesh__conn *conn = mesh__channel_take(channel);
	struct mesh__target_loop *tl = mesh__call_target_loop(call);
	uint32_t pending_max;

	if (conn && !open_stream(call, conn))
		return MESH__WAIT;
	pending_max = atomic_load_explicit(&call->target->cfg->pending_max, memory_order_relaxed);
	if (tl->pending >= pending_max) {
		mesh__call_blame(call, MESH_E_REFUSED_LOCALLY, MESH_STAGE_ATTEMPT, "%s: %u calls wait on this loop already (option pending.max)",
				 call->target->name, pending_max);
		return MESH__REFUSE;
	}
	tl->pending++;
	call->is_pending = true;
	call->attempt.wait.ready = on_ready;
	call->attempt.wait.failed = on_failed;
	mesh__channel_wait(channel, &call->attempt.wait);
	return MESH__WAIT;
}

void mesh__attempt_drop(struct mesh_call *call, uint32_t h2_error_code)
{
	leave_line(call);
	if (call->stream_is_open)
		reset(call, h2_error_code);
}

void mesh__attempt_let_go(struct mesh_call *call)
{
	struct mesh__endpoint *ep = call->attempt.ep;

	if (!ep)
		return;
	call->attempt.ep = NULL;
	if (call->attempt.reach)
		mesh__gauge_add(call->attempt.reach->reach->in_flight, mesh__shard_mine(), -1);
	mesh__endpoint_done(ep, mesh__shard_mine());
}
