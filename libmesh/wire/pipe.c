#include "wire/pipe.h"

#include "base/clock.h"
#include "base/memory.h"
#include "wire/grpc.h"

#include <errno.h>
#include <string.h>
#include <time.h>

struct mesh__pipe_chunk {
	struct mesh__chunk chunk;
	struct mesh__pipe *pipe;
	struct mesh__pipe_chunk *next;
	uint8_t data[];
};

struct mesh__pipe_message {
	struct mesh__pipe_message *next;
	uint64_t len, filled;
	uint8_t data[];
};

static void pump(struct mesh__task *task, struct mesh__loop *lp);

/* What a waiting message takes: a flood of empty ones must not be free. */
static uint64_t cost_of(const struct mesh__pipe_message *message)
{
	return message->len + sizeof(*message) + 16;
}

int mesh__pipe_init(struct mesh__pipe *pipe, struct mesh__loop *lp, bool is_grpc, uint64_t limit_bytes, uint64_t message_max_bytes)
{
	pthread_condattr_t attr;

	*pipe = (struct mesh__pipe){ .lp = lp, .is_grpc = is_grpc, .limit_bytes = limit_bytes, .message_max_bytes = message_max_bytes };
	pipe->pump.run = pump;
	pipe->shared.out_last = &pipe->shared.out_first;
	pipe->shared.in_last = &pipe->shared.in_first;
	if (pthread_condattr_init(&attr))
		return MESH_E_NOMEM;
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&pipe->shared.lock, NULL);
	pthread_cond_init(&pipe->shared.changed, &attr);
	pthread_condattr_destroy(&attr);
	return 0;
}

void mesh__pipe_fini(struct mesh__pipe *pipe)
{
	for (struct mesh__pipe_chunk *chunk = pipe->shared.out_first, *next; chunk; chunk = next) {
		next = chunk->next;
		mesh__memory_free(chunk);
	}
	for (struct mesh__pipe_message *message = pipe->shared.in_first, *next; message; message = next) {
		next = message->next;
		mesh__memory_free(message);
	}
	mesh__memory_free(pipe->partial);
	pthread_cond_destroy(&pipe->shared.changed);
	pthread_mutex_destroy(&pipe->shared.lock);
}

/* Under lock. */
static void post_pump(struct mesh__pipe *pipe)
{
	if (pipe->shared.pump_posted)
		return;
	pipe->shared.pump_posted = true;
	pipe->hold(pipe);
	/* A closed loop has ended every stream already: nothing to move. */
	if (!mesh__loop_post(pipe->lp, &pipe->pump)) {
		pipe->shared.pump_posted = false;
		pipe->shared.is_ended = true;
		if (!pipe->shared.result)
			pipe->shared.result = MESH_E_CLOSING;
		pipe->drop(pipe);
	}
}

/* Under lock. false: time ran out. */
static bool wait_change(struct mesh__pipe *pipe, uint64_t deadline_ns)
{
	struct timespec until = { (time_t)(deadline_ns / MESH__NS_PER_SEC), (long)(deadline_ns % MESH__NS_PER_SEC) };

	if (deadline_ns == UINT64_MAX)
		return pthread_cond_wait(&pipe->shared.changed, &pipe->shared.lock) == 0;
	return pthread_cond_timedwait(&pipe->shared.changed, &pipe->shared.lock, &until) != ETIMEDOUT;
}

static uint64_t deadline_of(uint32_t timeout_ms)
{
	return timeout_ms == UINT32_MAX ? UINT64_MAX : mesh__clock_now_ns() + timeout_ms * MESH__NS_PER_MS;
}

static struct mesh__pipe_chunk *new_chunk(struct mesh__pipe *pipe, const void *data, uint64_t len)
{
	size_t prefix = pipe->is_grpc ? MESH__GRPC_PREFIX_BYTES : 0;
	struct mesh__pipe_chunk *chunk = mesh__memory_alloc(sizeof(*chunk) + prefix + len);

	if (!chunk)
		return NULL;
	*chunk = (struct mesh__pipe_chunk){ .chunk = { .data = chunk->data, .len = prefix + len }, .pipe = pipe };
	if (prefix)
		mesh__grpc_write_prefix(chunk->data, (uint32_t)len);
	if (len)
		memcpy(chunk->data + prefix, data, len);
	return chunk;
}

/* Under lock: 0 when there is room for len bytes, or what stands against it. */
static int wait_room(struct mesh__pipe *pipe, uint64_t len, uint32_t timeout_ms)
{
	uint64_t deadline_ns = timeout_ms ? deadline_of(timeout_ms) : 0;

	for (;;) {
		if (pipe->shared.is_ended)
			return pipe->shared.result ? pipe->shared.result : MESH_E_STATE;
		if (pipe->shared.last_is_out)
			return MESH_E_STATE;
		/* A message larger than the buffer goes when the buffer is empty. */
		if (len == 0 || pipe->shared.out_bytes == 0 || pipe->shared.out_bytes + len <= pipe->limit_bytes)
			return 0;
		pipe->shared.wants_writable = true;
		if (!timeout_ms)
			return MESH_E_AGAIN;
		if (mesh__loop_is_any())
			return MESH_E_WRONG_THREAD;
		if (!wait_change(pipe, deadline_ns))
			return MESH_E_AGAIN;
	}
}

int mesh__pipe_send(struct mesh__pipe *pipe, const void *data, uint64_t len, bool is_last, uint32_t timeout_ms)
{
	bool has_data = data != NULL || len || !is_last;
	struct mesh__pipe_chunk *chunk = NULL;
	int rc;

	if (!data && len)
		return MESH_E_INVALID;
	if (pipe->is_grpc && len > pipe->message_max_bytes)
		return MESH_E_TOO_LARGE;
	if (has_data && (len || pipe->is_grpc)) {
		chunk = new_chunk(pipe, data, len);
		if (!chunk)
			return MESH_E_NOMEM;
	}
	pthread_mutex_lock(&pipe->shared.lock);
	rc = wait_room(pipe, chunk ? chunk->chunk.len : 0, timeout_ms);
	if (rc == 0) {
		if (chunk) {
			*pipe->shared.out_last = chunk;
			pipe->shared.out_last = &chunk->next;
			pipe->shared.out_bytes += chunk->chunk.len;
			chunk = NULL;
		}
		pipe->shared.last_is_out = is_last;
		post_pump(pipe);
	}
	pthread_mutex_unlock(&pipe->shared.lock);
	mesh__memory_free(chunk);
	return rc;
}

int mesh__pipe_recv(struct mesh__pipe *pipe, struct mesh_message *out, uint32_t timeout_ms)
{
	uint64_t deadline_ns = timeout_ms ? deadline_of(timeout_ms) : 0;
	struct mesh__pipe_message *message;
	int rc = MESH_E_AGAIN;

	if (timeout_ms && mesh__loop_is_any())
		return MESH_E_WRONG_THREAD;
	pthread_mutex_lock(&pipe->shared.lock);
	while (!pipe->shared.in_first && !pipe->shared.is_in_ended && !pipe->shared.is_ended) {
		pipe->shared.wants_readable = true;
		if (!timeout_ms || !wait_change(pipe, deadline_ns))
			break;
	}
	message = pipe->shared.in_first;
	if (message) {
		pipe->shared.in_first = message->next;
		if (!pipe->shared.in_first)
			pipe->shared.in_last = &pipe->shared.in_first;
		pipe->shared.in_bytes -= cost_of(message);
		if (!pipe->shared.is_ended)
			post_pump(pipe);
		out->data = message->data;
		out->len = message->len;
		out->owner = message;
		rc = 1;
	} else if (pipe->shared.is_in_ended || pipe->shared.is_ended) {
		rc = pipe->shared.is_ended ? pipe->shared.result : 0;
		/* A status that is an error was still received in order. */
		if (rc == MESH_E_STATUS)
			rc = 0;
	}
	pthread_mutex_unlock(&pipe->shared.lock);
	return rc;
}

void mesh_message_release(struct mesh_message *message)
{
	if (!message)
		return;
	mesh__memory_free(message->owner);
	message->owner = NULL;
	message->data = NULL;
	message->len = 0;
}

/* --- on the loop --- */

static void chunk_taken(struct mesh__chunk *base, struct mesh__stream *stream)
{
	struct mesh__pipe_chunk *chunk = MESH__CONTAINER(base, struct mesh__pipe_chunk, chunk);
	struct mesh__pipe *pipe = chunk->pipe;
	bool tell;

	(void)stream;
	pipe->sent_any = true;
	pthread_mutex_lock(&pipe->shared.lock);
	pipe->shared.out_bytes -= base->len;
	/* Chunks that were never sent are given back after the end, maybe by an owner that nobody holds any more: no word to it. */
	tell = pipe->stream && pipe->shared.wants_writable && pipe->shared.out_bytes <= pipe->limit_bytes / 2;
	if (tell) {
		pipe->shared.wants_writable = false;
		pthread_cond_broadcast(&pipe->shared.changed);
	}
	pthread_mutex_unlock(&pipe->shared.lock);
	mesh__memory_free(chunk);
	if (tell)
		pipe->notify(pipe, MESH__PIPE_WRITABLE);
}

static void give_credit(struct mesh__pipe *pipe)
{
	uint64_t waiting;

	pthread_mutex_lock(&pipe->shared.lock);
	waiting = pipe->shared.in_bytes;
	pthread_mutex_unlock(&pipe->shared.lock);
	if (waiting < pipe->limit_bytes && pipe->withheld_bytes && pipe->stream) {
		uint64_t bytes = pipe->withheld_bytes;

		pipe->withheld_bytes = 0;
		mesh__stream_consume(pipe->stream, bytes);
	}
}

static void move_out(struct mesh__pipe *pipe)
{
	struct mesh__pipe_chunk *chunk, *next;
	bool is_last;

	if (!pipe->stream)
		return;
	pthread_mutex_lock(&pipe->shared.lock);
	chunk = pipe->shared.out_first;
	pipe->shared.out_first = NULL;
	pipe->shared.out_last = &pipe->shared.out_first;
	is_last = pipe->shared.last_is_out;
	pthread_mutex_unlock(&pipe->shared.lock);
	for (; chunk; chunk = next) {
		next = chunk->next;
		chunk->chunk.release = chunk_taken;
		mesh__stream_send(pipe->stream, &chunk->chunk);
	}
	if (is_last && !pipe->end_passed && !pipe->end_waits) {
		pipe->end_passed = true;
		mesh__stream_send_end(pipe->stream, pipe->stream->trailers, pipe->stream->trailer_count);
	}
}

static void pump(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh__pipe *pipe = MESH__CONTAINER(task, struct mesh__pipe, pump);

	bool tell;

	(void)lp;
	pthread_mutex_lock(&pipe->shared.lock);
	pipe->shared.pump_posted = false;
	tell = pipe->shared.shall_announce && (pipe->shared.in_first || pipe->shared.is_in_ended);
	pipe->shared.shall_announce = false;
	if (tell)
		pipe->shared.wants_readable = false;
	pthread_mutex_unlock(&pipe->shared.lock);
	move_out(pipe);
	give_credit(pipe);
	if (tell && pipe->stream)
		pipe->notify(pipe, MESH__PIPE_READABLE);
	pipe->drop(pipe);
}

void mesh__pipe_announce(struct mesh__pipe *pipe)
{
	pthread_mutex_lock(&pipe->shared.lock);
	pipe->shared.wants_readable = pipe->shared.shall_announce = true;
	post_pump(pipe);
	pthread_mutex_unlock(&pipe->shared.lock);
}

void mesh__pipe_attach(struct mesh__pipe *pipe, struct mesh__stream *stream)
{
	pipe->stream = stream;
	pipe->end_passed = false;
	move_out(pipe);
}

void mesh__pipe_allow_end(struct mesh__pipe *pipe)
{
	pipe->end_waits = false;
	move_out(pipe);
}

bool mesh__pipe_is_untouched(struct mesh__pipe *pipe)
{
	return !pipe->sent_any;
}

bool mesh__pipe_has_partial(const struct mesh__pipe *pipe)
{
	return pipe->partial || pipe->prefix_len;
}

uint64_t mesh__pipe_partial_bytes(const struct mesh__pipe *pipe)
{
	return pipe->partial ? pipe->partial->len : 0;
}

static struct mesh__pipe_message *new_message(uint64_t len)
{
	struct mesh__pipe_message *message = mesh__memory_alloc(sizeof(*message) + len);

	if (message)
		*message = (struct mesh__pipe_message){ .len = len };
	return message;
}

static void deliver(struct mesh__pipe *pipe, struct mesh__pipe_message *message)
{
	bool tell;

	pthread_mutex_lock(&pipe->shared.lock);
	*pipe->shared.in_last = message;
	pipe->shared.in_last = &message->next;
	pipe->shared.in_bytes += cost_of(message);
	tell = pipe->shared.wants_readable;
	pipe->shared.wants_readable = false;
	pthread_cond_broadcast(&pipe->shared.changed);
	pthread_mutex_unlock(&pipe->shared.lock);
	if (tell)
		pipe->notify(pipe, MESH__PIPE_READABLE);
}

/* Takes what it can use of the input; returns how much, or an error. */
static int64_t assemble(struct mesh__pipe *pipe, const uint8_t *data, size_t len)
{
	size_t n;

	if (!pipe->is_grpc) {
		struct mesh__pipe_message *piece = new_message(len);

		if (!piece)
			return MESH_E_NOMEM;
		memcpy(piece->data, data, len);
		deliver(pipe, piece);
		return (int64_t)len;
	}
	if (!pipe->partial) {
		uint32_t message_len;

		n = sizeof(pipe->prefix) - pipe->prefix_len < len ? sizeof(pipe->prefix) - pipe->prefix_len : len;
		memcpy(pipe->prefix + pipe->prefix_len, data, n);
		pipe->prefix_len += (uint32_t)n;
		if (pipe->prefix_len < sizeof(pipe->prefix))
			return (int64_t)n;
		if (!mesh__grpc_read_prefix(pipe->prefix, &message_len))
			return MESH_E_PROTOCOL;
		if (message_len > pipe->message_max_bytes)
			return MESH_E_TOO_LARGE;
		pipe->partial = new_message(message_len);
		if (!pipe->partial)
			return MESH_E_NOMEM;
		pipe->prefix_len = 0;
	} else {
		n = pipe->partial->len - pipe->partial->filled < len ? pipe->partial->len - pipe->partial->filled : len;
		memcpy(pipe->partial->data + pipe->partial->filled, data, n);
		pipe->partial->filled += n;
	}
	if (pipe->partial->filled == pipe->partial->len) {
		struct mesh__pipe_message *whole = pipe->partial;

		pipe->partial = NULL;
		deliver(pipe, whole);
	}
	return (int64_t)n;
}

int mesh__pipe_feed(struct mesh__pipe *pipe, const uint8_t *data, size_t len)
{
	pipe->withheld_bytes += len;
	while (len) {
		int64_t n = assemble(pipe, data, len);

		if (n < 0)
			return (int)n;
		data += n;
		len -= (size_t)n;
	}
	give_credit(pipe);
	return 0;
}

void mesh__pipe_end_input(struct mesh__pipe *pipe)
{
	bool tell;

	pthread_mutex_lock(&pipe->shared.lock);
	tell = !pipe->shared.is_in_ended;
	pipe->shared.is_in_ended = true;
	pthread_cond_broadcast(&pipe->shared.changed);
	pthread_mutex_unlock(&pipe->shared.lock);
	if (tell)
		pipe->notify(pipe, MESH__PIPE_READABLE);
}

void mesh__pipe_end(struct mesh__pipe *pipe, int32_t result)
{
	pipe->stream = NULL;
	pthread_mutex_lock(&pipe->shared.lock);
	if (!pipe->shared.is_ended) {
		pipe->shared.is_ended = true;
		pipe->shared.result = result;
	}
	pthread_cond_broadcast(&pipe->shared.changed);
	pthread_mutex_unlock(&pipe->shared.lock);
}
