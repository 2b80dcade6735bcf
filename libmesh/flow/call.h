/* One call, from mesh_client_start() to its last event, and what its steps share. */
#ifndef MESH_FLOW_CALL_H
#define MESH_FLOW_CALL_H

#include "base/wait.h"
#include "flow/flow.h"
#include "loop/queue.h"
#include "mesh/client.h"
#include "wire/grpc.h"
#include "wire/pipe.h"

enum { MESH__CALL_ATTEMPTS_MAX = 10, MESH__CALL_HISTORY_MAX = 360 };

enum mesh__verdict {
	MESH__GO,     /* on to the next step */
	MESH__WAIT,   /* this step will call mesh__call_resume() or mesh__call_attempt_over() */
	MESH__REFUSE, /* the call ends here; the step has called mesh__call_blame() */
};

/* How a call tells its owner; api/ gives the functions that know queues. */
struct mesh__call_sink {
	mesh_event_fn on_event;
	void *user;
	mesh_queue *queue;
	uint64_t token;
};

struct mesh_call {
	atomic_uint refs;
	atomic_bool cancel_posted;
	atomic_bool has_result; /* nothing of the answer changes any more */
	struct mesh__wait done; /* and the last event has been given out */
	struct mesh__target *target;
	struct mesh__loop *lp;
	struct mesh__call_sink sink;
	void (*emit)(struct mesh_call *call, uint32_t event_type); /* on_loop; set by api/ */
	struct mesh__queue_node nodes[3];                          /* done, readable, writable; when sink.queue is set */

	/* Set before the start, then only read. */
	uint32_t flags, generation;
	uint32_t field_count;
	uint32_t timeout_field; /* index of grpc-timeout in fields; UINT32_MAX: none */
	struct mesh_header *fields;
	char timeout_text[MESH__GRPC_TIMEOUT_TEXT_MAX];
	const uint8_t *body; /* with the gRPC prefix */
	uint64_t body_len;
	uint64_t start_ns, timeout_ns, message_max_bytes;
	uint8_t from; /* enum mesh__memory_from */
	bool is_grpc, is_streaming;
	struct mesh__pipe *pipe; /* streaming calls only */

	/* on_loop */
	struct mesh__task task, cancel_task;
	struct mesh__list node;      /* in flow_loop.calls */
	struct mesh__list name_node; /* in target_loop.waiting_name */
	struct mesh__timer deadline, resolve_limit;
	uint64_t deadline_ns;
	uint32_t step;
	bool is_taken, is_ended, is_pending, is_counted, stream_is_open, attempt_is_over;
	struct {
		struct mesh__stream stream;
		struct mesh__chunk chunk;
		struct mesh__channel_wait wait;
		struct mesh__endpoint *ep; /* counted in flight on it */
		struct mesh__reach_loop *reach;
		struct mesh__conn *conn; /* of the stream; valid until its on_close() has returned */
		uint64_t picked_ns, opened_ns, headers_ns;
		int32_t code; /* how it ended; 0: with an answer */
		bool unprocessed, never_sent;
	} attempt;
	struct mesh__endpoint *tried[MESH__CALL_ATTEMPTS_MAX];
	uint32_t attempts;

	/* The answer: written on the loop before `done`, then only read. */
	int32_t code;
	int32_t http_status, grpc_status;
	uint8_t *answer; /* body; for gRPC behind its prefix */
	uint64_t answer_len, answer_capacity;
	struct mesh__headers headers;
	const char *grpc_message;
	struct mesh_error *error; /* NULL: none, or no memory for it */
	char *history;            /* what each failed attempt said; NULL: none */
	uint64_t history_len;
	uint64_t history_last, history_last_len; /* where the last of them begins, and how long it is */
	uint32_t history_times;                  /* that it was said in a row; 0: there is none */
	struct mesh_call_info info;
	struct mesh__peer *peer; /* whom the last attempt's stream went to; NULL: none, or plain text */
};

/* The steps: one file each. */
enum mesh__verdict mesh__step_route(struct mesh_call *call);
enum mesh__verdict mesh__step_resolve(struct mesh_call *call);
enum mesh__verdict mesh__step_balance(struct mesh_call *call);
enum mesh__verdict mesh__step_admit(struct mesh_call *call);
enum mesh__verdict mesh__step_attempt(struct mesh_call *call);
bool mesh__step_retry(struct mesh_call *call); /* true: pick again; false: the call is blamed and ends */
void mesh__step_record(struct mesh_call *call);
void mesh__record_attempt(struct mesh_call *call, int32_t code);

/* call.c */
int mesh__call_new(struct mesh__target *target, const struct mesh_call_options *opts, struct mesh_call **out); /* opts are checked; MESH_E_NOMEM */
int mesh__call_start(struct mesh_call *call); /* takes over one reference, always; MESH_E_CLOSING: nothing was started */
void mesh__call_ref(struct mesh_call *call);
void mesh__call_unref(struct mesh_call *call);
void mesh__call_cancel(struct mesh_call *call);
void mesh__call_resume(struct mesh_call *call);       /* on_loop: the step that said WAIT may go on */
void mesh__call_attempt_over(struct mesh_call *call); /* on_loop, from any callback: decides at the end of the turn */
void mesh__call_end(struct mesh_call *call);          /* on_loop: record, tell, let go */
void mesh__call_blame(struct mesh_call *call, int32_t code, int32_t stage, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* resolve.c */
void mesh__resolve_leave(struct mesh_call *call);
void mesh__resolve_wake(struct mesh__target_loop *tl);
void mesh__resolve_identity_came(struct mesh__flow_loop *fl);

/* attempt.c */
void mesh__attempt_drop(struct mesh_call *call, uint32_t h2_error_code); /* abandons what is under way */
void mesh__attempt_let_go(struct mesh_call *call);                     /* no longer in flight on its endpoint */

static inline struct mesh__target_loop *mesh__call_target_loop(const struct mesh_call *call)
{
	return &call->target->loops[call->lp->index];
}

#endif
