/*
 * The driver of the outgoing path.
 *
 * A call is made by its caller's thread (mesh__call_new copies all it needs into one block), handed to a loop, and from then on
 * belongs to that loop. advance() runs the steps in the order of tables/stages.def until one waits; whatever that step waited
 * for resumes it. A finished attempt is judged at the end of the turn, outside of the connection's callbacks. mesh__call_end()
 * runs exactly once per started call.
 *
 * References: the caller's, the loop's (until the end), the open stream's, and one per task of the pipe on its way.
 */
#include "flow/call.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"
#include "flow/answer.h"

#include <string.h>

enum { BASE_FIELDS_MAX = 9 };

static const struct {
	enum mesh_stage stage;
	enum mesh__verdict (*run)(struct mesh_call *call);
} steps[] = {
	{ MESH_STAGE_ROUTE, mesh__step_route },     { MESH_STAGE_RESOLVE, mesh__step_resolve }, { MESH_STAGE_BALANCE, mesh__step_balance },
	{ MESH_STAGE_ADMIT, mesh__step_admit },     { MESH_STAGE_ATTEMPT, mesh__step_attempt },
};

enum { STEP_RESOLVE = 1 };
_Static_assert(MESH_STAGE_ROUTE < MESH_STAGE_RESOLVE && MESH_STAGE_RESOLVE < MESH_STAGE_BALANCE && MESH_STAGE_BALANCE < MESH_STAGE_ADMIT &&
		       MESH_STAGE_ADMIT < MESH_STAGE_ATTEMPT && MESH_STAGE_ATTEMPT < MESH_STAGE_RETRY && MESH_STAGE_RETRY < MESH_STAGE_RECORD,
	       "the steps run in the order of stages.def");

/* --- running --- */

/* The end may free the call: it is the last that is done with it. */
static void advance(struct mesh_call *call)
{
	enum mesh__verdict verdict;

	while ((verdict = steps[call->step].run(call)) == MESH__GO)
		call->step++;
	if (verdict == MESH__REFUSE)
		mesh__call_end(call);
}

void mesh__call_resume(struct mesh_call *call)
{
	if (!call->is_ended)
		advance(call);
}

static void judge_attempt(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh_call *call = MESH__CONTAINER(task, struct mesh_call, task);

	(void)lp;
	call->attempt_is_over = false;
	if (call->is_ended) {
		mesh__call_unref(call);
		return;
	}
	if (call->attempt.code == 0) {
		mesh__answer_read(call);
		mesh__call_end(call);
	} else if (mesh__step_retry(call)) {
		mesh__record_attempt(call, call->attempt.code);
		mesh__attempt_let_go(call);
		mesh__stream_fini(&call->attempt.stream, &call->lp->pool);
		call->answer_len = 0;
		call->step = STEP_RESOLVE; /* who refused may have been the last, and its successor about to start */
		advance(call);
	} else {
		mesh__call_end(call);
	}
	mesh__call_unref(call);
}

void mesh__call_attempt_over(struct mesh_call *call)
{
	if (call->attempt_is_over || call->is_ended)
		return;
	call->attempt_is_over = true;
	call->task.run = judge_attempt;
	mesh__call_ref(call);
	mesh__loop_defer(call->lp, &call->task);
}

void mesh__call_blame(struct mesh_call *call, int32_t code, int32_t stage, const char *format, ...)
{
	char sentence[sizeof(call->error->message)];
	struct mesh__text text;
	va_list args;

	call->code = code;
	if (!call->error) {
		call->error = mesh__memory_zalloc(sizeof(*call->error));
		if (!call->error)
			return;
		call->error->size = sizeof(*call->error);
	}
	mesh__text_init(&text, sentence, sizeof(sentence));
	va_start(args, format);
	mesh__text_addv(&text, format, args);
	va_end(args);
	mesh__fault(call->error, code, stage, "%s", sentence);
	if (!call->grpc_status)
		call->grpc_status = call->error->grpc_status;
}

void mesh__call_end(struct mesh_call *call)
{
	if (call->is_ended)
		return;
	call->is_ended = true;
	mesh__timer_cancel(&call->deadline);
	mesh__resolve_leave(call);
	mesh__step_record(call);
	mesh__attempt_drop(call, MESH__H2_CANCEL);
	mesh__attempt_let_go(call);
	mesh__list_remove(&call->node);
	mesh__call_target_loop(call)->in_flight--;
	atomic_fetch_sub_explicit(call->target->flow->live_calls, 1, memory_order_release);
	if (call->pipe)
		mesh__pipe_end(call->pipe, call->code);
	atomic_store_explicit(&call->has_result, true, memory_order_release);
	if (call->emit)
		call->emit(call, MESH_EVENT_CALL_DONE);
	mesh__wait_finish(&call->done);
	mesh__call_unref(call);
}

/* --- starting and ending --- */

static void take(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh_call *call = MESH__CONTAINER(task, struct mesh_call, task);
	struct mesh__flow_loop *fl = &call->target->flow->loops[lp->index];

	lp->live++;
	call->is_taken = true;
	mesh__list_append(&fl->calls, &call->node);
	mesh__call_target_loop(call)->in_flight++;
	call->info.queue_ns = lp->now_ns > call->start_ns ? lp->now_ns - call->start_ns : 0;
	mesh__counter_add(call->target->calls, mesh__shard_mine(), 1);
	mesh__gauge_add(call->target->in_flight, mesh__shard_mine(), 1);
	call->is_counted = true;
	if (fl->is_closing) {
		mesh__call_blame(call, MESH_E_CLOSING, MESH_STAGE_ROUTE, "%s: the mesh is closing", call->target->name);
		mesh__call_end(call);
		return;
	}
	advance(call);
}

int mesh__call_start(struct mesh_call *call)
{
	call->task.run = take;
	if (mesh__loop_post(call->lp, &call->task))
		return 0;
	mesh__call_unref(call);
	return MESH_E_CLOSING;
}

void mesh__call_ref(struct mesh_call *call)
{
	atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed);
}

static void free_call(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh_call *call = MESH__CONTAINER(task, struct mesh_call, task);

	if (call->attempt.stream.events)
		mesh__stream_fini(&call->attempt.stream, &lp->pool);
	mesh__headers_fini(&call->headers, &lp->pool);
	mesh__pool_free(&lp->pool, call->answer);
	mesh__memory_free(call->error);
	mesh__memory_free(call->history);
	mesh__peer_unref(call->peer);
	if (call->pipe) {
		mesh__pipe_fini(call->pipe);
		mesh__memory_free(call->pipe);
	}
	mesh__queue_unref(call->sink.queue);
	if (call->is_taken)
		lp->live--;
	else if (call->from == MESH__FROM_SPARES)
		call->from = MESH__FROM_HEAP; /* the loop may be gone */
	mesh__loop_free_memory(lp, call, call->from);
}

void mesh__call_unref(struct mesh_call *call)
{
	if (!call || atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) != 1)
		return;
	call->task.run = free_call;
	/* One that no loop ever took has nothing of a loop's. */
	if (call->is_taken)
		mesh__loop_return(call->lp, &call->task);
	else
		free_call(&call->task, call->lp);
}

static void run_cancel(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh_call *call = MESH__CONTAINER(task, struct mesh_call, cancel_task);

	(void)lp;
	if (!call->is_ended) {
		mesh__call_blame(call, MESH_E_CANCELLED, MESH_STAGE_ATTEMPT, "%s: the caller cancelled the call", call->target->name);
		mesh__call_end(call);
	}
	mesh__call_unref(call);
}

void mesh__call_cancel(struct mesh_call *call)
{
	if (mesh__wait_is_over(&call->done) || atomic_exchange_explicit(&call->cancel_posted, true, memory_order_acq_rel))
		return;
	call->cancel_task.run = run_cancel;
	mesh__call_ref(call);
	if (!mesh__loop_post(call->lp, &call->cancel_task))
		mesh__call_unref(call);
}

/* --- making: everything is copied into one block --- */

static void pipe_notify(struct mesh__pipe *pipe, int what)
{
	struct mesh_call *call = pipe->owner;

	if (!call->emit || call->is_ended)
		return;
	if (what & MESH__PIPE_READABLE)
		call->emit(call, MESH_EVENT_CALL_READABLE);
	if (what & MESH__PIPE_WRITABLE)
		call->emit(call, MESH_EVENT_CALL_WRITABLE);
}

static void pipe_hold(struct mesh__pipe *pipe)
{
	mesh__call_ref(pipe->owner);
}

static void pipe_drop(struct mesh__pipe *pipe)
{
	mesh__call_unref(pipe->owner);
}

static int make_pipe(struct mesh_call *call)
{
	const struct mesh__service_config *cfg = call->target->cfg;

	call->pipe = mesh__memory_zalloc(sizeof(*call->pipe));
	if (!call->pipe)
		return MESH_E_NOMEM;
	if (mesh__pipe_init(call->pipe, call->lp, call->is_grpc, atomic_load_explicit(&cfg->buffer_bytes, memory_order_relaxed),
			    call->message_max_bytes)) {
		mesh__memory_free(call->pipe);
		call->pipe = NULL;
		return MESH_E_NOMEM;
	}
	call->pipe->owner = call;
	call->pipe->notify = pipe_notify;
	call->pipe->hold = pipe_hold;
	call->pipe->drop = pipe_drop;
	call->pipe->shared.wants_readable = true;
	return 0;
}

#define FIXED(n, v) (struct mesh_header){ .name = (n), .value = (v), .name_len = sizeof(n) - 1, .value_len = sizeof(v) - 1 }

/* The fields that we say ourselves; texts are static, or in the block already. */
static void add_base_fields(struct mesh_call *call, const char *method, uint32_t method_len, const char *path, uint32_t path_len)
{
	struct mesh_header *at = call->fields;
	const char *service = call->target->name;

	*at++ = (struct mesh_header){ ":method", method, 7, method_len };
	*at++ = FIXED(":scheme", "http");
	*at++ = (struct mesh_header){ ":path", path, 5, path_len };
	*at++ = (struct mesh_header){ ":authority", service, 10, (uint32_t)strlen(service) };
	call->timeout_field = UINT32_MAX;
	if (call->is_grpc) {
		*at++ = FIXED("content-type", "application/grpc");
		*at++ = FIXED("te", "trailers");
		call->timeout_field = (uint32_t)(at - call->fields);
		*at++ = (struct mesh_header){ "grpc-timeout", call->timeout_text, 12, 0 };
	}
	*at++ = FIXED("user-agent", "libmesh/0.1.0");
	call->field_count = (uint32_t)(at - call->fields);
}

static uint32_t name_len_of(const struct mesh_header *header)
{
	return header->name_len ? header->name_len : (uint32_t)strlen(header->name);
}

static uint32_t value_len_of(const struct mesh_header *header)
{
	return header->value_len || !header->value ? header->value_len : (uint32_t)strlen(header->value);
}

static bool is_binary(const struct mesh_call_options *opts, const struct mesh_header *header, uint32_t name_len)
{
	return opts->flags & MESH_CALL_GRPC && name_len >= 4 && memcmp(header->name + name_len - 4, "-bin", 4) == 0;
}

static char *copy_text(char **room, const char *text, uint32_t len)
{
	char *at = *room;

	if (len)
		memcpy(at, text, len);
	at[len] = '\0';
	*room += len + 1;
	return at;
}

static void copy_fields(struct mesh_call *call, const struct mesh_call_options *opts, char **room)
{
	for (uint32_t i = 0; i < opts->header_count; i++) {
		const struct mesh_header *from = &opts->headers[i];
		struct mesh_header *to = &call->fields[call->field_count++];

		to->name_len = name_len_of(from);
		to->name = copy_text(room, from->name, to->name_len);
		to->value_len = value_len_of(from);
		if (is_binary(opts, from, to->name_len)) {
			char *at = *room;

			to->value_len = (uint32_t)mesh__grpc_base64_encode((const uint8_t *)from->value, to->value_len, at);
			at[to->value_len] = '\0';
			to->value = at;
			*room += to->value_len + 1;
		} else {
			to->value = copy_text(room, from->value, to->value_len);
		}
	}
}

static size_t text_bytes(const struct mesh_call_options *opts, const char *method)
{
	size_t bytes = strlen(method) + strlen(opts->path) + 2;

	for (uint32_t i = 0; i < opts->header_count; i++) {
		uint32_t value_len = value_len_of(&opts->headers[i]);

		bytes += name_len_of(&opts->headers[i]) + (size_t)value_len * 4 / 3 + 6;
	}
	return bytes;
}

static struct mesh__loop *choose_loop(struct mesh__flow *flow)
{
	for (uint32_t i = 0; i < flow->loop_count; i++)
		if (mesh__loop_is_mine(flow->lps[i]))
			return flow->lps[i];
	return flow->loop_count == 1 ? flow->lps[0]
				     : flow->lps[atomic_fetch_add_explicit(&flow->next_loop, 1, memory_order_relaxed) % flow->loop_count];
}

static void fill(struct mesh_call *call, const struct mesh_call_options *opts, const char *method)
{
	size_t prefix = call->is_grpc ? MESH__GRPC_PREFIX_BYTES : 0;
	char *room = (char *)(call + 1) + (BASE_FIELDS_MAX + opts->header_count) * sizeof(*call->fields);
	uint32_t method_len = (uint32_t)strlen(method), path_len = (uint32_t)strlen(opts->path);
	const char *method_copy = copy_text(&room, method, method_len), *path = copy_text(&room, opts->path, path_len);

	call->fields = (struct mesh_header *)(void *)(call + 1);
	add_base_fields(call, method_copy, method_len, path, path_len);
	copy_fields(call, opts, &room);
	if (call->is_streaming || (!call->is_grpc && !opts->body_len))
		return;
	call->body = (uint8_t *)room;
	call->body_len = prefix + opts->body_len;
	if (prefix)
		mesh__grpc_write_prefix((uint8_t *)room, (uint32_t)opts->body_len);
	if (opts->body_len)
		memcpy(room + prefix, opts->body, opts->body_len);
}

int mesh__call_new(struct mesh__target *target, const struct mesh_call_options *opts, struct mesh_call **out)
{
	const char *method = opts->flags & MESH_CALL_GRPC ? "POST" : opts->method ? opts->method : opts->body_len ? "POST" : "GET";
	struct mesh__loop *lp = choose_loop(target->flow);
	size_t bytes = sizeof(struct mesh_call) + (BASE_FIELDS_MAX + opts->header_count) * sizeof(struct mesh_header) + text_bytes(opts, method) +
		       MESH__GRPC_PREFIX_BYTES + (opts->flags & MESH_CALL_STREAM ? 0 : opts->body_len);
	uint8_t from;
	struct mesh_call *call = mesh__loop_alloc(lp, bytes, &from);

	if (!call)
		return MESH_E_NOMEM;
	memset(call, 0, sizeof(*call));
	atomic_init(&call->refs, 1);
	call->target = target;
	call->lp = lp;
	call->from = from;
	call->generation = mesh__descriptors_generation();
	call->flags = opts->flags;
	call->is_grpc = opts->flags & MESH_CALL_GRPC;
	call->is_streaming = opts->flags & MESH_CALL_STREAM;
	call->start_ns = mesh__clock_now_ns();
	call->timeout_ns = opts->timeout_ms ? opts->timeout_ms * MESH__NS_PER_MS
					    : atomic_load_explicit(&target->cfg->timeout_ns, memory_order_relaxed);
	call->message_max_bytes = atomic_load_explicit(&target->cfg->message_max_bytes, memory_order_relaxed);
	call->grpc_message = "";
	call->info.size = sizeof(call->info);
	call->sink = (struct mesh__call_sink){ opts->on_event, opts->user, opts->queue, opts->token };
	if (opts->queue)
		mesh__queue_ref(opts->queue);
	mesh__headers_init(&call->headers);
	fill(call, opts, method);
	if (call->is_streaming && make_pipe(call)) {
		mesh__call_unref(call);
		return MESH_E_NOMEM;
	}
	*out = call;
	return 0;
}
