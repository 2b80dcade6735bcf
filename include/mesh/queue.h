/*
 * Completion queue: events of calls and requests, in a form that any loop or language can wait for.
 *
 * The descriptor is readable while events wait. Tokens are numbers of the caller's choice, so no foreign pointer is kept.
 */
#ifndef MESH_QUEUE_H
#define MESH_QUEUE_H

#include <mesh/mesh.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mesh_queue mesh_queue;
typedef struct mesh_call mesh_call;
typedef struct mesh_request mesh_request;

enum mesh_event_type {
	MESH_EVENT_CALL_DONE = 1,       /* the call has ended; `code` says how. The last event of a call */
	MESH_EVENT_CALL_READABLE = 2,   /* a streaming call has messages or its end: mesh_call_recv() until MESH_E_AGAIN */
	MESH_EVENT_CALL_WRITABLE = 3,   /* after mesh_call_send() said MESH_E_AGAIN: there is room again */
	MESH_EVENT_REQUEST = 10,        /* a request for a queue-driven handler; the event owns one reference to it */
	MESH_EVENT_REQUEST_READABLE = 11,
	MESH_EVENT_REQUEST_WRITABLE = 12,
	MESH_EVENT_REQUEST_ENDED = 13   /* answered in full (code 0), or lost: cancelled, deadline, connection. The last event */
};

struct mesh_event {
	uint32_t size;
	uint32_t type;         /* MESH_EVENT_* */
	int32_t code;          /* 0 or MESH_E_* */
	uint32_t reserved;
	uint64_t token;        /* as given with the call, the handler or the request */
	mesh_call *call;       /* for call events: borrowed, valid while the caller holds its own reference */
	mesh_request *request; /* for request events */
};

/* Runs on the loop that owns the call or request, never under a lock, never inside the function that started the work. */
typedef void (*mesh_event_fn)(const struct mesh_event *event, void *user);

/*
 * Makes a queue.
 *
 * thread   any
 * memory   mesh_queue_free(); it may outlive the mesh, and then stays empty
 * errors   MESH_E_NO_DESCRIPTORS, MESH_E_NOMEM, MESH_E_FORKED
 * since    0.1
 */
MESH_API int mesh_queue_new(mesh *m, mesh_queue **out, struct mesh_error *err);

/*
 * Takes up to `max` events. Set events[0].size to sizeof(struct mesh_event): it is the stride of the array.
 *
 * thread   any, several at once; each event is given out once. Not while waiting on a loop: nothing would turn it meanwhile
 * time     waits up to timeout_ms for the first; 0 does not wait; UINT32_MAX waits for ever. It does not turn a foreign
 *          event_base: wait for the descriptor there instead
 * returns  the number taken, 0 if time ran out, or MESH_E_INVALID (NULL, or a size that holds no event), MESH_E_FORKED,
 *          MESH_E_CLOSING (the mesh has closed and no event is left, or the queue was freed)
 * since    0.1
 */
MESH_API int mesh_queue_next(mesh_queue *q, struct mesh_event *events, uint32_t max, uint32_t timeout_ms);

/*
 * A descriptor to poll for reading; do not read it. Level-triggered: readable until the queue is empty, and for good once
 * mesh_queue_next() would say MESH_E_CLOSING.
 *
 * thread   any
 * memory   stays the queue's
 * errors   MESH_E_INVALID (NULL), MESH_E_FORKED
 * since    0.1
 */
MESH_API int mesh_queue_fd(const mesh_queue *q);

/*
 * Frees the queue. Threads that wait in mesh_queue_next() return MESH_E_CLOSING; events that wait in it, and later ones, are
 * dropped (their requests are answered with an error).
 *
 * thread   any; not while another thread may still enter a function of it
 * memory   NULL is fine
 * since    0.1
 */
MESH_API void mesh_queue_free(mesh_queue *q);

#ifdef __cplusplus
}
#endif

#endif
