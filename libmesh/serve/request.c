/*
 * A request from its first header to its last event.
 *
 * References: the stream holds one until it is closed, each task on its way holds one, and all of the users' references hold
 * one together. When the users let go of a request that nobody answered, it is answered with an error.
 */
#include "serve/serve.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/number.h"

#include <string.h>

enum { UNCOUNTED_BYTES = 4096 /* small bodies: option server.requests.max bounds them */ };

static struct mesh_request *of(struct mesh__stream *stream)
{
	return MESH__CONTAINER(stream, struct mesh_request, stream);
}

/* --- references --- */

void mesh__request_hold(struct mesh_request *request)
{
	atomic_fetch_add_explicit(&request->refs, 1, memory_order_relaxed);
}

static void free_request(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh_request *request = MESH__CONTAINER(task, struct mesh_request, task);

	mesh__stream_fini(&request->stream, &lp->pool);
	mesh__pool_free(&lp->pool, request->body);
	mesh__reply_free_blocks(request);
	mesh__peer_unref(request->peer_identity);
	if (request->pipe) {
		mesh__pipe_fini(request->pipe);
		mesh__memory_free(request->pipe);
	}
	if (request->server) { /* the slot is free only now: whoever held the request was working for it */
		mesh__list_remove(&request->entry_node);
		if (request->entry)
			request->entry->running--;
		request->sl->request_count--;
		atomic_fetch_sub_explicit(&request->server->request_count, 1, memory_order_relaxed);
		if (request->reserved_bytes)
			atomic_fetch_sub_explicit(&request->server->memory_bytes, request->reserved_bytes, memory_order_relaxed);
	}
	lp->live--;
	mesh__pool_free(&lp->pool, request);
}

void mesh__request_orphan_all(struct mesh__conn_entry *entry)
{
	struct mesh__list *node;

	while ((node = mesh__list_take_first(&entry->requests))) {
		struct mesh_request *request = MESH__CONTAINER(node, struct mesh_request, entry_node);

		request->entry = NULL;
		mesh__list_append(&entry->sl->orphans, node);
	}
}

void mesh__request_forget_server(struct mesh__server_loop *sl)
{
	struct mesh__list *node;

	while ((node = mesh__list_take_first(&sl->orphans)))
		MESH__CONTAINER(node, struct mesh_request, entry_node)->server = NULL;
}

void mesh__request_drop(struct mesh_request *request)
{
	if (atomic_fetch_sub_explicit(&request->refs, 1, memory_order_acq_rel) != 1)
		return;
	request->task.run = free_request;
	mesh__loop_return(request->lp, &request->task);
}

mesh_request *mesh_request_ref(mesh_request *request)
{
	if (request)
		atomic_fetch_add_explicit(&request->user_refs, 1, memory_order_relaxed);
	return request;
}

/* On the loop: the users have let go. */
static void end_unanswered(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh_request *request = MESH__CONTAINER(task, struct mesh_request, auto_reply);

	(void)lp;
	if (!atomic_load_explicit(&request->is_answered, memory_order_acquire))
		mesh__request_refuse(request, 500, MESH__GRPC_UNKNOWN, "the handler ended without an answer");
	mesh__request_drop(request);
}

void mesh_request_unref(mesh_request *request)
{
	if (!request || atomic_fetch_sub_explicit(&request->user_refs, 1, memory_order_acq_rel) != 1)
		return;
	/* The usual case: answered, nothing left to do. */
	if (atomic_load_explicit(&request->is_answered, memory_order_acquire)) {
		mesh__request_drop(request);
		return;
	}
	request->auto_reply.run = end_unanswered;
	if (mesh__loop_is_mine(request->lp))
		end_unanswered(&request->auto_reply, request->lp);
	else if (!mesh__loop_post(request->lp, &request->auto_reply))
		mesh__request_drop(request);
}

/* --- events --- */

static void drop_event(const struct mesh_event *event, bool is_taken)
{
	/* A request event hands its user reference to whoever takes it. */
	if (event->type != MESH_EVENT_REQUEST)
		mesh__request_drop(event->request);
	else if (!is_taken)
		mesh_request_unref(event->request);
}

static void push(struct mesh_request *request, const struct mesh_event *event)
{
	if (event->type != MESH_EVENT_REQUEST)
		mesh__request_hold(request);
	if (!mesh__queue_push(request->handler->queue, &request->nodes[event->type - MESH_EVENT_REQUEST], event, drop_event))
		drop_event(event, false);
}

void mesh__request_emit(struct mesh_request *request, uint32_t type, int32_t code)
{
	struct mesh_event event = { .size = sizeof(event), .type = type, .code = code, .request = request };

	if (!request->handler)
		return;
	event.token = request->handler->token;
	if (request->on_event && type != MESH_EVENT_REQUEST)
		request->on_event(&event, request->on_event_user);
	else if (request->handler->queue)
		push(request, &event);
}

static void pipe_notify(struct mesh__pipe *pipe, int what)
{
	if (what & MESH__PIPE_READABLE)
		mesh__request_emit(pipe->owner, MESH_EVENT_REQUEST_READABLE, 0);
	if (what & MESH__PIPE_WRITABLE)
		mesh__request_emit(pipe->owner, MESH_EVENT_REQUEST_WRITABLE, 0);
}

static void pipe_hold(struct mesh__pipe *pipe)
{
	mesh__request_hold(pipe->owner);
}

static void pipe_drop(struct mesh__pipe *pipe)
{
	mesh__request_drop(pipe->owner);
}

static int make_pipe(struct mesh_request *request)
{
	struct mesh__pipe *pipe = mesh__memory_zalloc(sizeof(*pipe));

	if (!pipe)
		return MESH_E_NOMEM;
	if (mesh__pipe_init(pipe, request->lp, request->is_grpc, request->server->buffer_bytes, request->server->message_max_bytes)) {
		mesh__memory_free(pipe);
		return MESH_E_NOMEM;
	}
	pipe->owner = request;
	pipe->notify = pipe_notify;
	pipe->hold = pipe_hold;
	pipe->drop = pipe_drop;
	pipe->end_waits = true;
	pipe->shared.wants_readable = true;
	request->pipe = pipe;
	mesh__pipe_attach(pipe, &request->stream);
	return 0;
}

/* --- the stream --- */

static void on_deadline(struct mesh__timer *timer, struct mesh__loop *lp)
{
	struct mesh_request *request = MESH__CONTAINER(timer, struct mesh_request, deadline);
	struct mesh_reply late = { .size = sizeof(late), .grpc_status = MESH__GRPC_DEADLINE_EXCEEDED,
				   .grpc_message = "the deadline passed before the stream was finished" };
	bool is_told;

	(void)lp;
	request->outcome = mesh__outcome_of_error(MESH_E_DEADLINE);
	request->has_status = request->is_late = true;
	/* Not every caller watches its own deadline (Rust's tonic leaves it to us): it gets the status, not just a reset, unless
	 * it does not even take what was sent before. */
	is_told = request->is_grpc && request->pipe && request->has_responded && !request->stream.out_bytes &&
		  mesh__request_finish(request, &late) == 0;
	atomic_store_explicit(&request->is_cancelled, true, memory_order_release);
	if (is_told)
		return;
	if (request->has_responded)
		mesh__stream_reset(&request->stream, MESH__H2_CANCEL);
	else
		mesh__request_refuse(request, 504, MESH__GRPC_DEADLINE_EXCEEDED, "the deadline passed before the handler answered");
}

static void set_deadline(struct mesh_request *request, const struct mesh__wanted *text)
{
	uint64_t timeout_ns;

	if (!mesh__grpc_parse_timeout(text->value, text->value_len, &timeout_ns)) {
		mesh__request_refuse(request, 400, MESH__GRPC_INTERNAL, "grpc-timeout is not a timeout");
		return;
	}
	request->deadline_ns = request->start_ns + timeout_ns;
	request->deadline.fire = on_deadline;
	mesh__timer_set(request->lp, &request->deadline, request->deadline_ns);
}

static bool is_identity(const struct mesh__wanted *encoding)
{
	return encoding->value_len == 8 && memcmp(encoding->value, "identity", 8) == 0;
}

static void refuse_body(struct mesh_request *request, int rc)
{
	if (rc == MESH_E_TOO_LARGE) {
		mesh__server_count_refused(request->server, "message_bytes");
		mesh__request_refuse(request, 413, MESH__GRPC_RESOURCE_EXHAUSTED, "the message is larger than allowed");
	} else if (rc == MESH_E_PROTOCOL) {
		/* Source: grpc/grpc doc/compression.md */
		mesh__request_refuse(request, 400, MESH__GRPC_INTERNAL, "a message is flagged as compressed, but there is no grpc-encoding");
	} else if (rc == MESH_E_REFUSED_LOCALLY) {
		mesh__server_count_refused(request->server, "memory");
		mesh__request_refuse(request, 503, MESH__GRPC_RESOURCE_EXHAUSTED, "the server holds as many bytes of requests as it may");
	} else {
		mesh__request_refuse(request, 503, MESH__GRPC_RESOURCE_EXHAUSTED, "out of memory");
	}
}

static void refuse_headers(struct mesh_request *request)
{
	mesh__server_count_refused(request->server, "header_bytes");
	mesh__request_refuse(request, 431, MESH__GRPC_RESOURCE_EXHAUSTED, "the headers are larger or more than allowed");
}

/* Says what we do accept, as grpc/grpc doc/compression.md wants it. */
static void refuse_encoding(struct mesh_request *request)
{
	static const struct mesh_header accepted = { .name = "grpc-accept-encoding", .value = "identity" };
	const struct mesh_reply reply = { .size = sizeof(reply), .grpc_status = MESH__GRPC_UNIMPLEMENTED, .header_count = 1, .headers = &accepted,
					  .grpc_message = "message compression is not supported" };

	mesh__request_refuse_with(request, &reply);
}

static void refuse_path(struct mesh_request *request, const struct mesh__wanted *path)
{
	if (!request->is_grpc && mesh__dispatch_find(request->server, path->value, path->value_len, true))
		mesh__request_refuse(request, 415, MESH__GRPC_UNKNOWN, "this path speaks gRPC: the content-type must be application/grpc");
	else
		mesh__request_refuse(request, 404, MESH__GRPC_UNIMPLEMENTED, "no handler for this path");
}

/* A body that says itself that it is too large need not be read first. */
static bool announces_too_much(const struct mesh_request *request, const struct mesh__wanted *length)
{
	uint64_t bytes;
	const char *why;

	return length->value && mesh__number_parse_count(length->value, &bytes, &why) == 0 && bytes > request->server->message_max_bytes;
}

/* RFC 9110, 10.1.1: some wait for seconds, some for ever, before they send the body. */
static bool expects_continue(const struct mesh__wanted *expect)
{
	return expect->value && expect->value_len == 12 && strncasecmp(expect->value, "100-continue", 12) == 0;
}

static void on_headers(struct mesh__stream *stream, bool is_end)
{
	enum { PATH, TYPE, TIMEOUT, ENCODING, LENGTH, METHOD, EXPECT, COUNT };
	struct mesh__wanted found[COUNT] = {
		[PATH] = { .name = ":path", .name_len = 5 },	  [TYPE] = { .name = "content-type", .name_len = 12 },
		[TIMEOUT] = { .name = "grpc-timeout", .name_len = 12 }, [ENCODING] = { .name = "grpc-encoding", .name_len = 13 },
		[LENGTH] = { .name = "content-length", .name_len = 14 }, [METHOD] = { .name = ":method", .name_len = 7 },
		[EXPECT] = { .name = "expect", .name_len = 6 },
	};
	struct mesh_request *request = of(stream);

	mesh__headers_find_all(&stream->headers, found, COUNT);
	request->is_grpc = found[TYPE].value && mesh__grpc_is_content_type(found[TYPE].value, found[TYPE].value_len);
	request->is_head = found[METHOD].value && found[METHOD].value_len == 4 && memcmp(found[METHOD].value, "HEAD", 4) == 0;
	if (stream->headers_refused) {
		refuse_headers(request);
		return;
	}
	if (!found[PATH].value) {
		mesh__request_refuse(request, 400, MESH__GRPC_INTERNAL, "the request has no path");
		return;
	}
	if (request->is_grpc && mesh__headers_decode_binary(&stream->headers)) {
		mesh__request_refuse(request, 400, MESH__GRPC_INTERNAL, "binary metadata is not base64");
		return;
	}
	if (!mesh__authorize(request, found[METHOD].value, found[METHOD].value_len, found[PATH].value, found[PATH].value_len))
		return; /* nor does it hear which paths there are */
	request->handler = mesh__dispatch_find(request->server, found[PATH].value, found[PATH].value_len, request->is_grpc);
	if (!request->handler) {
		refuse_path(request, &found[PATH]);
		return;
	}
	if (request->is_grpc && found[TIMEOUT].value)
		set_deadline(request, &found[TIMEOUT]);
	if (request->is_grpc && found[ENCODING].value && !is_identity(&found[ENCODING]))
		refuse_encoding(request);
	if (atomic_load_explicit(&request->is_answered, memory_order_relaxed))
		return;
	if (request->handler->flags & MESH_HANDLER_STREAM) {
		if (make_pipe(request)) {
			mesh__request_refuse(request, 503, MESH__GRPC_RESOURCE_EXHAUSTED, "out of memory");
			return;
		}
		if (is_end)
			mesh__pipe_end_input(request->pipe);
		else if (expects_continue(&found[EXPECT]))
			mesh__stream_continue(stream);
		mesh__dispatch_later(request);
	} else if (is_end) {
		stream->events->on_end(stream);
	} else if (!request->is_grpc && announces_too_much(request, &found[LENGTH])) {
		refuse_body(request, MESH_E_TOO_LARGE);
	} else {
		stream->is_gathering = true;
		if (expects_continue(&found[EXPECT]))
			mesh__stream_continue(stream);
	}
}

/* Bodies are counted over the whole server: every connection alone may be modest. */
static int reserve(struct mesh_request *request, uint64_t bytes)
{
	mesh_server *server = request->server;

	if (bytes <= UNCOUNTED_BYTES || bytes <= request->reserved_bytes)
		return 0;
	if (atomic_load_explicit(&server->memory_bytes, memory_order_relaxed) + bytes - request->reserved_bytes > server->memory_max_bytes)
		return MESH_E_REFUSED_LOCALLY;
	atomic_fetch_add_explicit(&server->memory_bytes, bytes - request->reserved_bytes, memory_order_relaxed);
	request->reserved_bytes = bytes;
	return 0;
}

static int gather(struct mesh_request *request, const uint8_t *data, size_t len)
{
	uint64_t wanted = request->body_len + len, capacity = request->body_capacity ? request->body_capacity : 112;
	uint8_t *larger;

	if (wanted > request->server->message_max_bytes + (request->is_grpc ? MESH__GRPC_PREFIX_BYTES : 0))
		return MESH_E_TOO_LARGE;
	if (wanted > request->body_capacity) {
		while (capacity < wanted)
			capacity *= 2;
		if (reserve(request, capacity))
			return MESH_E_REFUSED_LOCALLY;
		larger = mesh__pool_realloc(&request->lp->pool, request->body, capacity);
		if (!larger)
			return MESH_E_NOMEM;
		request->body = larger;
		request->body_capacity = capacity;
	}
	memcpy(request->body + request->body_len, data, len);
	request->body_len = wanted;
	return 0;
}

static void on_data(struct mesh__stream *stream, const uint8_t *data, size_t len)
{
	struct mesh_request *request = of(stream);
	int rc;

	if (request->is_rejected || !request->handler) {
		mesh__stream_consume(stream, len);
		return;
	}
	if (request->pipe) {
		rc = mesh__pipe_feed(request->pipe, data, len);
		if (!rc)
			rc = reserve(request, mesh__pipe_partial_bytes(request->pipe));
		if (rc && request->has_responded)
			mesh__stream_reset(stream, MESH__H2_INTERNAL_ERROR);
	} else {
		mesh__stream_consume(stream, len);
		rc = gather(request, data, len);
	}
	if (rc)
		refuse_body(request, rc);
}

static void on_end(struct mesh__stream *stream)
{
	struct mesh_request *request = of(stream);
	uint32_t announced;

	if (request->is_rejected || !request->handler)
		return;
	if (stream->headers_refused) { /* the trailers */
		refuse_headers(request);
		if (request->pipe)
			mesh__pipe_end_input(request->pipe);
		return;
	}
	if (request->pipe) {
		if (mesh__pipe_has_partial(request->pipe))
			mesh__request_refuse(request, 400, MESH__GRPC_INTERNAL, "the request ended inside a message");
		mesh__pipe_end_input(request->pipe);
		return;
	}
	if (request->is_grpc) {
		if (request->body_len < MESH__GRPC_PREFIX_BYTES) {
			mesh__request_refuse(request, 400, MESH__GRPC_INTERNAL, "the request has no message");
			return;
		}
		if (!mesh__grpc_read_prefix(request->body, &announced)) {
			refuse_body(request, MESH_E_PROTOCOL);
			return;
		}
		if (announced > request->server->message_max_bytes) {
			refuse_body(request, MESH_E_TOO_LARGE);
			return;
		}
		if (request->body_len != (uint64_t)announced + MESH__GRPC_PREFIX_BYTES) {
			mesh__request_refuse(request, 400, MESH__GRPC_INTERNAL, "the request's message is cut short, or there is more than one");
			return;
		}
	}
	mesh__dispatch_later(request);
}

static void on_close(struct mesh__stream *stream, uint32_t error_code, bool unprocessed)
{
	struct mesh_request *request = of(stream);
	bool in_order = stream->end_sent && request->has_status;
	int32_t code = 0;

	(void)unprocessed;
	if (!in_order) {
		if (request->is_late)
			code = MESH_E_DEADLINE;
		else if (request->entry->conn.state >= MESH__CONN_CLOSING)
			code = MESH_E_LOST;
		else
			code = error_code == MESH__H2_CANCEL ? MESH_E_CANCELLED : MESH_E_RESET;
		request->outcome = mesh__outcome_of_error(code);
		atomic_store_explicit(&request->is_cancelled, true, memory_order_release);
	}
	mesh__timer_cancel(&request->deadline);
	request->is_open = false;
	if (request->pipe)
		mesh__pipe_end(request->pipe, code ? code : MESH_E_STATE);
	mesh__server_record(request);
	if (request->is_dispatched)
		mesh__request_emit(request, MESH_EVENT_REQUEST_ENDED, code);
	mesh__request_drop(request);
}

static const struct mesh__stream_events stream_events = {
	.on_headers = on_headers, .on_data = on_data, .on_end = on_end, .on_close = on_close,
};

struct mesh__stream *mesh__request_new(struct mesh__conn *conn)
{
	struct mesh__conn_entry *entry = MESH__CONTAINER(conn, struct mesh__conn_entry, conn);
	struct mesh_request *request = mesh__authenticate_is_done(entry) ? mesh__server_admit(entry) : NULL;
	mesh_server *server = entry->sl->server;

	if (!request)
		return NULL;
	atomic_init(&request->refs, 1);
	request->lp = entry->sl->lp;
	request->lp->live++;
	request->server = server;
	request->is_open = true;
	request->message_max_bytes = server->message_max_bytes;
	request->sl = entry->sl;
	request->entry = entry;
	mesh__authenticate_request(request);
	memcpy(request->peer_text, entry->peer_text, sizeof(request->peer_text));
	request->generation = server->generation;
	request->start_ns = request->lp->now_ns;
	mesh__stream_init(&request->stream, &stream_events);
	mesh__counter_add(server->requests, mesh__shard_mine(), 1);
	mesh__gauge_add(server->in_flight, mesh__shard_mine(), 1);
	return &request->stream;
}
