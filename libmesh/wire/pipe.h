/*
 * The two directions of a streaming call, between its loop and whichever thread sends and receives.
 *
 * Outgoing: chunks are copied, counted against `limit_bytes`, and moved to the stream by the loop. Incoming: the loop assembles
 * messages and the reader takes them; while more than `limit_bytes` wait, the peer's window stays shut. Both ends have one lock,
 * taken by streaming calls only.
 */
#ifndef MESH_WIRE_PIPE_H
#define MESH_WIRE_PIPE_H

#include "mesh/client.h"
#include "wire/h2.h"

#include <pthread.h>

enum { MESH__PIPE_READABLE = 1, MESH__PIPE_WRITABLE = 2 };

struct mesh__pipe_message;
struct mesh__pipe_chunk;

struct mesh__pipe {
	struct mesh__loop *lp;
	void *owner;
	bool is_grpc;
	uint64_t limit_bytes, message_max_bytes;
	void (*notify)(struct mesh__pipe *pipe, int what); /* on_loop: something became possible */
	void (*hold)(struct mesh__pipe *pipe);             /* takes a reference to the owner while a task is on its way */
	void (*drop)(struct mesh__pipe *pipe);             /* on_loop: gives it back */

	struct { /* under lock */
		pthread_mutex_t lock;
		pthread_cond_t changed;
		struct mesh__pipe_chunk *out_first, **out_last;
		struct mesh__pipe_message *in_first, **in_last;
		uint64_t out_bytes; /* copied, not yet taken by the connection */
		uint64_t in_bytes;  /* whole messages that wait, with what keeping them costs */
		int32_t result;     /* how the stream ended, once is_ended */
		bool last_is_out, is_in_ended, is_ended, wants_writable, wants_readable, pump_posted;
		bool shall_announce; /* the pump says READABLE if there is something */
	} shared;

	/* on_loop */
	struct mesh__task pump;
	struct mesh__stream *stream; /* NULL: not open (yet, or any more) */
	struct mesh__pipe_message *partial;
	uint8_t prefix[5];
	uint32_t prefix_len;
	uint64_t withheld_bytes;
	bool sent_any, end_passed;
	bool end_waits; /* set by a server: the end needs trailers first, see mesh__pipe_allow_end() */
};

int mesh__pipe_init(struct mesh__pipe *pipe, struct mesh__loop *lp, bool is_grpc, uint64_t limit_bytes, uint64_t message_max_bytes);
void mesh__pipe_fini(struct mesh__pipe *pipe);

/* thread any; as mesh_call_send() and mesh_call_recv() document. recv: 1, 0 (end), MESH_E_AGAIN, or how the stream failed. */
int mesh__pipe_send(struct mesh__pipe *pipe, const void *data, uint64_t len, bool is_last, uint32_t timeout_ms);
int mesh__pipe_recv(struct mesh__pipe *pipe, struct mesh_message *out, uint32_t timeout_ms);

/* thread any. Somebody begins to listen: what came before will be told again. */
void mesh__pipe_announce(struct mesh__pipe *pipe);

/* on_loop */
void mesh__pipe_attach(struct mesh__pipe *pipe, struct mesh__stream *stream);
void mesh__pipe_allow_end(struct mesh__pipe *pipe); /* stream->trailers are set: the end may follow the last chunk */
int mesh__pipe_feed(struct mesh__pipe *pipe, const uint8_t *data, size_t len); /* MESH_E_TOO_LARGE, _PROTOCOL, _NOMEM */
void mesh__pipe_end_input(struct mesh__pipe *pipe);           /* the peer has said all */
void mesh__pipe_end(struct mesh__pipe *pipe, int32_t result); /* the stream is over; result 0: in order */
bool mesh__pipe_is_untouched(struct mesh__pipe *pipe);        /* nothing of the outgoing side has left: it can go elsewhere */
uint64_t mesh__pipe_partial_bytes(const struct mesh__pipe *pipe); /* memory of the message that is coming in; 0: none */
bool mesh__pipe_has_partial(const struct mesh__pipe *pipe);   /* the input ended inside a message */

#endif
