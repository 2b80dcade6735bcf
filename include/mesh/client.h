/*
 * Calling a service: blocking, by callback, or through a completion queue. One core, three ways to wait.
 *
 * A call ends exactly once. A unary call gathers the whole answer; a streaming call (MESH_CALL_STREAM) hands over message by
 * message, in either direction, at the pace of the reader.
 */
#ifndef MESH_CLIENT_H
#define MESH_CLIENT_H

#include <mesh/queue.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mesh_client mesh_client;

/* One header or metadata entry. Names are lower case. Values of gRPC names ending in "-bin" are raw bytes; we encode them. */
struct mesh_header {
	const char *name;
	const char *value;
	uint32_t name_len;  /* 0: strlen(name) */
	uint32_t value_len; /* 0: strlen(value) */
};

enum mesh_call_flag {
	MESH_CALL_GRPC = 1 << 0,       /* the body is a gRPC message; framing, status and metadata as gRPC has them */
	MESH_CALL_STREAM = 1 << 1,     /* messages (gRPC) or pieces of the body (HTTP) go through mesh_call_send() and _recv() */
	MESH_CALL_IDEMPOTENT = 1 << 2, /* acting twice is as good as once: retries may follow also when in doubt */
	MESH_CALL_FAIL_FAST = 1 << 3   /* do not wait for a name, an endpoint or an identity of ours that is not there yet */
};

struct mesh_call_options {
	uint32_t size;        /* sizeof(struct mesh_call_options) */
	uint32_t flags;       /* MESH_CALL_* */
	const char *method;   /* HTTP method; NULL: "POST" with a body, else "GET"; ignored for gRPC */
	const char *path;     /* "/orders?id=7"; for gRPC "/package.Service/Method" */
	const struct mesh_header *headers;
	uint32_t header_count;
	uint32_t timeout_ms;  /* for the whole call with all its attempts; 0: the service's option `timeout` */
	const void *body;     /* for gRPC one message; ignored with MESH_CALL_STREAM */
	uint64_t body_len;

	/* Who hears of it: a callback, or a queue, or neither (then wait with mesh_call_wait()). */
	mesh_event_fn on_event;
	void *user;
	mesh_queue *queue;
	uint64_t token;
};

/*
 * A client of one service, by name.
 *
 * thread   any; the client may be used from all threads at once
 * memory   mesh_client_free(), at any time; calls in flight go on
 * errors   MESH_E_INVALID (a name that no service can have), MESH_E_FORKED, MESH_E_CLOSING, MESH_E_NOMEM
 * counts   nothing yet: discovery of the name begins here, so that the first call need not wait
 * since    0.1
 */
MESH_API int mesh_client_new(mesh *m, const char *service, mesh_client **out, struct mesh_error *err);
MESH_API void mesh_client_free(mesh_client *client);

/*
 * Makes one unary call and waits for its end. On success and on failure *out (if not NULL) is the finished call, to ask for
 * the answer; it is NULL only if nothing was started.
 *
 * thread   any but a loop's
 * memory   mesh_call_unref(*out)
 * time     opts->timeout_ms covers name, connection, every attempt, and the answer
 * returns  0: the service answered (for HTTP any status, for gRPC status OK); MESH_E_STATUS: it answered with a gRPC error
 * errors   those of mesh_client_start(), and every way in which a call can fail: mesh-errors(7)
 * since    0.1
 */
MESH_API int mesh_client_call(mesh_client *client, const struct mesh_call_options *opts, mesh_call **out, struct mesh_error *err);

/*
 * Starts one call.
 *
 * thread   any; on_event runs on the call's loop; queue events come out of mesh_queue_next()
 * once     MESH_EVENT_CALL_DONE comes exactly once if and only if this returns 0, and never inside this function. It may come
 *          in another thread before this has returned; *out is set by then
 * memory   opts and all it points to are copied before this returns; *out (may be NULL for a unary call with a callback)
 *          holds one reference: mesh_call_unref()
 * errors   MESH_E_INVALID    a field is missing or wrong      (nothing was started)
 *          MESH_E_TOO_LARGE  body or headers are              (nothing was started)
 *          MESH_E_CLOSING    the mesh is closing              (nothing was started)
 *          MESH_E_FORKED, MESH_E_VERSION, MESH_E_NOMEM        (nothing was started)
 * counts   mesh_calls_total, mesh_calls_in_flight
 * since    0.1
 */
MESH_API int mesh_client_start(mesh_client *client, const struct mesh_call_options *opts, mesh_call **out, struct mesh_error *err);

/* One reference more, or less; the last one frees the call. thread any, also after mesh_close(). since 0.1 */
MESH_API mesh_call *mesh_call_ref(mesh_call *call);
MESH_API void mesh_call_unref(mesh_call *call); /* NULL is fine; does not cancel */

/*
 * Waits for the end of the call and returns how it ended: 0 or MESH_E_*.
 *
 * thread   any but a loop's
 * time     timeout_ms UINT32_MAX: until it ends (its own deadline bounds that)
 * errors   how the call ended, or MESH_E_AGAIN (time ran out first), MESH_E_WRONG_THREAD, MESH_E_FORKED, MESH_E_INVALID
 * since    0.1
 */
MESH_API int mesh_call_wait(mesh_call *call, uint32_t timeout_ms, struct mesh_error *err);

/*
 * Ends the call with MESH_E_CANCELLED, unless it has ended; the peer is told. Its last event comes as for any other end.
 *
 * thread   any
 * since    0.1
 */
MESH_API void mesh_call_cancel(mesh_call *call);

enum mesh_send_flag { MESH_SEND_LAST = 1 << 0 /* nothing follows: half-close. data may be NULL */ };

/*
 * Sends one message (gRPC) or piece of the body (HTTP) on a streaming call.
 *
 * thread   any; one sender at a time
 * memory   data is copied
 * time     timeout_ms 0 never waits
 * errors   MESH_E_AGAIN        the send buffer (option `buffer`) is full: nothing was taken; WRITABLE follows
 *          MESH_E_STATE        not a streaming call, or after MESH_SEND_LAST
 *          MESH_E_TOO_LARGE    larger than `message.max`
 *          MESH_E_WRONG_THREAD waiting on a loop thread
 *          MESH_E_INVALID, MESH_E_FORKED, MESH_E_NOMEM
 *          any error that ended the call
 * since    0.1
 */
MESH_API int mesh_call_send(mesh_call *call, const void *data, uint64_t len, uint32_t flags, uint32_t timeout_ms);

/* A received message or piece; give it back with mesh_message_release(). Set size before the first use. */
struct mesh_message {
	uint32_t size;
	uint32_t reserved;
	const void *data;
	uint64_t len;
	void *owner;
};

/*
 * Takes the next message (gRPC) or piece of the body (HTTP) of a streaming call.
 *
 * thread   any; one receiver at a time
 * time     timeout_ms 0 never waits
 * returns  1: out is filled; 0: the peer has ended its side in order, mesh_call_wait() tells the status;
 *          MESH_E_AGAIN: nothing yet; or the error that ended the call
 * errors   MESH_E_STATE (not a streaming call), MESH_E_WRONG_THREAD (a timeout on a loop thread), MESH_E_INVALID, MESH_E_FORKED
 * since    0.1
 */
MESH_API int mesh_call_recv(mesh_call *call, struct mesh_message *out, uint32_t timeout_ms);
/* thread any, also after the call is gone; NULL, and twice, is fine. since 0.1 */
MESH_API void mesh_message_release(struct mesh_message *message);

/*
 * Asking a finished call.
 *
 * thread   any, after MESH_EVENT_CALL_DONE or mesh_call_wait(); before that they answer as if nothing had come
 * memory   what they return lives as long as the call
 * returns  what came; 0, "" or NULL as said below if it did not
 * since    0.1
 */
MESH_API int mesh_call_http_status(const mesh_call *call);          /* 0: no answer */
MESH_API int mesh_call_grpc_status(const mesh_call *call);          /* also mapped from failures of our own */
MESH_API const char *mesh_call_grpc_message(const mesh_call *call); /* "" if none */
MESH_API const void *mesh_call_body(const mesh_call *call, uint64_t *len); /* gRPC: only a whole message; HTTP: what came */
/* The value of a header or trailer (gRPC "-bin": decoded); NULL if absent; several of one name are joined with ", ". */
MESH_API const char *mesh_call_header(const mesh_call *call, const char *name, uint64_t *len);
MESH_API const char *mesh_call_trailer(const mesh_call *call, const char *name, uint64_t *len);
/* The nth header (trailers follow the headers); returns 0 or MESH_E_NOT_FOUND past the end. */
MESH_API int mesh_call_header_at(const mesh_call *call, uint32_t index, struct mesh_header *out, int *is_trailer);
MESH_API void mesh_call_error(const mesh_call *call, struct mesh_error *err);

/*
 * Where the time of a finished call went, in nanoseconds, step by step, and whom it met. What is left of the total went into
 * earlier attempts.
 */
struct mesh_call_info {
	uint32_t size;
	uint32_t attempts;
	uint64_t total_ns;     /* from mesh_client_start() to the end */
	uint64_t queue_ns;     /* until the loop took it */
	uint64_t resolve_ns;   /* waiting for the name */
	uint64_t connect_ns;   /* waiting for a connection or a free stream, all attempts */
	uint64_t send_ns;      /* until the request was handed to the socket, last attempt */
	uint64_t wait_ns;      /* from there until the first byte of the answer, last attempt */
	uint64_t receive_ns;   /* until the last byte, last attempt */
	uint64_t sent_bytes, received_bytes; /* bodies; for gRPC with the five bytes before each message */
	char endpoint[64];     /* of the last attempt */
};
/* thread any. errors MESH_E_INVALID: the call has not ended, or info->size is not set. since 0.1 */
MESH_API int mesh_call_info(const mesh_call *call, struct mesh_call_info *info);

#ifdef __cplusplus
}
#endif

#endif
