/*
 * Offering a service: handlers for paths, HTTP and gRPC, on the loop or through a queue.
 *
 * A handler on the loop must not block. Work that blocks belongs behind a queue: give mesh_server_handle_queue() a queue and
 * let threads of your own take MESH_EVENT_REQUEST from it.
 */
#ifndef MESH_SERVER_H
#define MESH_SERVER_H

#include <mesh/client.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mesh_server mesh_server;

struct mesh_server_options {
	uint32_t size;
	uint32_t flags;      /* none yet: 0 */
	const char *service; /* the name to announce; NULL: the mesh's own */
	const char *listen;  /* "HOST:PORT"; NULL: option `listen`. Port 0 takes a free one */
};

/*
 * Makes a server; it accepts nothing before mesh_server_start().
 *
 * thread   any
 * memory   mesh_server_free()
 * errors   MESH_E_INVALID, MESH_E_VERSION, MESH_E_CLOSING, MESH_E_FORKED, MESH_E_NOMEM
 * since    0.1
 */
MESH_API int mesh_server_new(mesh *m, const struct mesh_server_options *opts, mesh_server **out, struct mesh_error *err);

enum mesh_handler_flag {
	MESH_HANDLER_GRPC = 1 << 0,   /* gRPC only; without it HTTP only. Both may be registered for one path */
	MESH_HANDLER_STREAM = 1 << 1  /* runs when the headers are there; bodies go through mesh_request_recv() and _send() */
};

/* Runs on the request's loop, once per request; answers now or later, from any thread. It borrows one reference. */
typedef void (*mesh_request_fn)(mesh_request *request, void *user);

/*
 * Registers a handler. `path` is exact ("/users/7", "/shop.Users/Get"), or ends in "*" and matches every path that begins so;
 * the longest match wins; "*" alone takes what nothing else takes.
 *
 * thread   any, before mesh_server_start()
 * errors   MESH_E_INVALID (also: registered twice), MESH_E_STATE (already started), MESH_E_NOMEM
 * since    0.1
 */
MESH_API int mesh_server_handle(mesh_server *server, const char *path, uint32_t flags, mesh_request_fn fn, void *user, struct mesh_error *err);

/*
 * The same, with MESH_EVENT_REQUEST in a queue instead of a callback; the receiver ends with mesh_request_unref().
 *
 * thread   any, before mesh_server_start()
 * errors   as mesh_server_handle()
 * since    0.1
 */
MESH_API int mesh_server_handle_queue(mesh_server *server, const char *path, uint32_t flags, mesh_queue *queue, uint64_t token,
				      struct mesh_error *err);

/*
 * Binds, listens, and announces the service in discovery.
 *
 * thread   any but a loop's; with a foreign event_base the base's, outside its callbacks
 * errors   MESH_E_SYSTEM (address in use, not permitted, ...), MESH_E_NO_DESCRIPTORS, MESH_E_STATE, MESH_E_FORKED, MESH_E_NOMEM
 * since    0.1
 */
MESH_API int mesh_server_start(mesh_server *server, struct mesh_error *err);

/* "127.0.0.1:41234", "" before the start. thread any; memory the server's. since 0.1 */
MESH_API const char *mesh_server_address(const mesh_server *server);

/*
 * The standard health service (grpc.health.v1) says this of `service` ("" is the whole server). A started server says
 * SERVING of itself, of its service name, and of every gRPC service with a handler; while it drains, NOT_SERVING, and also
 * while its identity is about to end, see mesh-identity(7).
 *
 * thread   any
 * errors   MESH_E_INVALID (NULL), MESH_E_CLOSING, MESH_E_FORKED, MESH_E_NOMEM
 * since    0.1
 */
MESH_API int mesh_server_set_health(mesh_server *server, const char *service, int is_serving);

/*
 * Stops accepting, ends its connections, forgets the handlers; none of them runs any more once this has returned.
 *
 * thread   any but a loop's; with a foreign event_base the base's, outside its callbacks. Inside a callback it does nothing but
 *          say so in the log: it would wait for itself
 * memory   NULL is fine; before or after mesh_close(); in a forked child it does nothing
 * since    0.1
 */
MESH_API void mesh_server_free(mesh_server *server);

/*
 * Asking a request.
 *
 * thread   any
 * memory   what they return lives as long as the request
 * returns  what came; "" or NULL if it did not; mesh_request_header_at() 0, or MESH_E_NOT_FOUND past the end
 * since    0.1
 */
MESH_API const char *mesh_request_method(const mesh_request *request);    /* "GET"; for gRPC "POST" */
MESH_API const char *mesh_request_path(const mesh_request *request);      /* as it came, with its query */
MESH_API const char *mesh_request_authority(const mesh_request *request);
MESH_API const char *mesh_request_peer(const mesh_request *request);      /* "127.0.0.1:51334" */
MESH_API int mesh_request_is_grpc(const mesh_request *request);
MESH_API const char *mesh_request_header(const mesh_request *request, const char *name, uint64_t *len);
MESH_API int mesh_request_header_at(const mesh_request *request, uint32_t index, struct mesh_header *out);
MESH_API const void *mesh_request_body(const mesh_request *request, uint64_t *len); /* unary: the whole message or body */
/* Milliseconds until the caller gives up; -1 if it named no deadline; 0 if it has passed. */
MESH_API int64_t mesh_request_remaining_ms(const mesh_request *request);
/* 1 once the caller is gone (cancelled, deadline, connection lost): stop working. */
MESH_API int mesh_request_is_cancelled(const mesh_request *request);

/*
 * One reference more, or less. A request whose last reference goes before it was answered is answered with an error (500, or
 * gRPC UNKNOWN).
 *
 * thread   any, also after mesh_close()
 * memory   NULL is fine
 * since    0.1
 */
MESH_API mesh_request *mesh_request_ref(mesh_request *request);
MESH_API void mesh_request_unref(mesh_request *request);

struct mesh_reply {
	uint32_t size;
	int32_t http_status;  /* 0: 200; gRPC is always 200 */
	int32_t grpc_status;  /* for gRPC */
	uint32_t header_count;
	const struct mesh_header *headers;
	const struct mesh_header *trailers;
	uint32_t trailer_count;
	uint32_t reserved;
	const char *grpc_message; /* NULL: none */
	const void *body;     /* gRPC: one message, sent only with status OK */
	uint64_t body_len;
};

/*
 * Answers a unary request, whole.
 *
 * thread   any
 * memory   reply and all it points to are copied
 * errors   MESH_E_STATE      already answered
 *          MESH_E_CANCELLED  nobody waits any more (the answer is dropped)
 *          MESH_E_INVALID, MESH_E_TOO_LARGE, MESH_E_NOMEM
 * since    0.1
 */
MESH_API int mesh_request_reply(mesh_request *request, const struct mesh_reply *reply);

/*
 * Streaming answers: mesh_request_begin() sends the headers (optional for gRPC: the first send does it), then any number of
 * mesh_request_send(), then mesh_request_finish(), which for gRPC carries status, message and trailers.
 * They behave like mesh_call_send() and mesh_call_recv().
 *
 * thread   any
 * errors   MESH_E_STATE      not a streaming handler, or answered or begun already
 *          MESH_E_CANCELLED  nobody waits any more
 *          those of mesh_request_reply(), mesh_call_send() and mesh_call_recv()
 * since    0.1
 */
MESH_API int mesh_request_begin(mesh_request *request, const struct mesh_reply *reply);
MESH_API int mesh_request_send(mesh_request *request, const void *data, uint64_t len, uint32_t timeout_ms);
MESH_API int mesh_request_recv(mesh_request *request, struct mesh_message *out, uint32_t timeout_ms);
MESH_API int mesh_request_finish(mesh_request *request, const struct mesh_reply *reply);

/*
 * Wants READABLE, WRITABLE and ENDED events of this request.
 *
 * thread   the loop's, inside the handler; `fn` runs on the loop after the handler has returned
 * once     REQUEST_ENDED comes exactly once, last
 * errors   MESH_E_INVALID (NULL), MESH_E_FORKED
 * since    0.1
 */
MESH_API int mesh_request_on_event(mesh_request *request, mesh_event_fn fn, void *user);

#ifdef __cplusplus
}
#endif

#endif
