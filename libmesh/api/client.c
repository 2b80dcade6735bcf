#include "api/handle.h"

#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"
#include "base/clock.h"
#include "base/text.h"

#include <stddef.h>
#include <string.h>

enum { HEADERS_MAX = 128, PATH_BYTES_MAX = 8192, METHOD_BYTES_MAX = 32 };

int mesh_client_new(mesh *m, const char *service, mesh_client **out, struct mesh_error *err)
{
	mesh_client *client;
	int rc;

	if (!service || !out)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "a client needs the name of a service, and a place for itself");
	client = mesh__memory_zalloc(sizeof(*client));
	if (!client)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for a client");
	rc = mesh__handle_enter(m, err);
	if (!rc) {
		rc = mesh__flow_target(m->flow, service, &client->target, err);
		mesh__handle_leave(m);
	}
	if (rc) {
		mesh__memory_free(client);
		return rc;
	}
	client->mesh = m;
	client->generation = m->generation;
	mesh__handle_ref(m);
	*out = client;
	return 0;
}

void mesh_client_free(mesh_client *client)
{
	if (!client)
		return;
	mesh__handle_unref(client->mesh);
	mesh__memory_free(client);
}

/* --- arguments --- */

/* What follows would be answered with PROTOCOL_ERROR, as if the peer were to blame: RFC 9113, 8.2.1 and 8.3.1. */

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static int check_method(const char *method, struct mesh_error *err)
{
	size_t len = strlen(method);

	for (size_t i = 0; i < len; i++)
		if (method[i] <= ' ' || method[i] >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", method[i]))
			return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the method has a character at position %zu that does not belong in one", i);
	if (!len || len > METHOD_BYTES_MAX)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the method is empty or longer than %d characters", METHOD_BYTES_MAX);
	if (strcmp(method, "CONNECT") == 0)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the method CONNECT makes tunnels, not calls");
	return 0;
}

static int check_header(const struct mesh_header *header, uint32_t index, bool is_grpc, struct mesh_error *err)
{
	uint32_t name_len = header->name ? header->name_len ? header->name_len : (uint32_t)strlen(header->name) : 0;
	uint32_t value_len = header->value_len || !header->value ? header->value_len : (uint32_t)strlen(header->value);
	static const char *const ours[] = { "connection", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection", "te", "host",
					    "content-length" };

	if (!name_len || (value_len && !header->value))
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "header %u has no name, or a length without a value", index);
	for (uint32_t i = 0; i < name_len; i++) {
		unsigned char c = (unsigned char)header->name[i];

		if (c <= ' ' || c >= 0x7f || (c >= 'A' && c <= 'Z') || strchr("\"(),/:;<=>?@[\\]{}", c))
			return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE,
					   "header %u: character %u of its name does not belong in one (names are lower case)", index, i);
	}
	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		if (strlen(ours[i]) == name_len && memcmp(ours[i], header->name, name_len) == 0)
			return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "header %u: %s is the library's to set", index, ours[i]);
	if (is_grpc && ((name_len > 5 && memcmp(header->name, "grpc-", 5) == 0) || (name_len == 12 && memcmp(header->name, "content-type", 12) == 0)))
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "header %u: %.*s is the library's to set in gRPC", index, (int)name_len,
				   header->name);
	if (is_grpc && name_len >= 4 && memcmp(header->name + name_len - 4, "-bin", 4) == 0)
		return 0;
	if (value_len && (is_blank(header->value[0]) || is_blank(header->value[value_len - 1])))
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "header %u (%.*s): its value begins or ends with a blank", index, (int)name_len,
				   header->name);
	for (uint32_t i = 0; i < value_len; i++)
		if (((unsigned char)header->value[i] < ' ' && header->value[i] != '\t') || header->value[i] == 0x7f)
			return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "header %u (%.*s): its value has control characters", index,
					   (int)name_len, header->name);
	return 0;
}

static int check_path(const char *path, struct mesh_error *err)
{
	size_t len = strlen(path);

	for (size_t i = 0; i < len; i++)
		if ((unsigned char)path[i] <= ' ' || path[i] == 0x7f)
			return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the path has a blank or control character at position %zu", i);
	if (len > PATH_BYTES_MAX)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the path is longer than %d characters", PATH_BYTES_MAX);
	return 0;
}

static int check_options(const mesh_client *client, const struct mesh_call_options *opts, struct mesh_error *err)
{
	bool is_grpc = opts->flags & MESH_CALL_GRPC;
	uint64_t message_max = atomic_load_explicit(&client->target->cfg->message_max_bytes, memory_order_relaxed);
	int rc;

	if (opts->size < sizeof(*opts))
		return mesh__fault(err, MESH_E_VERSION, MESH_STAGE_NONE, "mesh_call_options.size is %u, expected %zu", opts->size, sizeof(*opts));
	if (opts->flags & ~(uint32_t)(MESH_CALL_GRPC | MESH_CALL_STREAM | MESH_CALL_IDEMPOTENT | MESH_CALL_FAIL_FAST))
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "mesh_call_options.flags has bits that mean nothing: 0x%x", opts->flags);
	if (!opts->path || opts->path[0] != '/')
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the path is missing, or does not begin with '/'");
	if (opts->on_event && opts->queue)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "a call reports to a callback or to a queue, not to both");
	if ((opts->body_len && !opts->body) || (opts->header_count && !opts->headers))
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "body or headers are NULL, though their length is not 0");
	if (opts->header_count > HEADERS_MAX)
		return mesh__fault(err, MESH_E_TOO_LARGE, MESH_STAGE_NONE, "%u headers are more than %d", opts->header_count, HEADERS_MAX);
	if (!(opts->flags & MESH_CALL_STREAM) && opts->body_len > message_max)
		return mesh__fault(err, MESH_E_TOO_LARGE, MESH_STAGE_NONE, "the body of %llu bytes is larger than option message.max",
				   (unsigned long long)opts->body_len);
	rc = check_path(opts->path, err);
	if (!rc && opts->method && !is_grpc)
		rc = check_method(opts->method, err);
	for (uint32_t i = 0; !rc && i < opts->header_count; i++)
		rc = check_header(&opts->headers[i], i, is_grpc, err);
	return rc;
}

/* --- events --- */

static void drop_event(const struct mesh_event *event, bool is_taken)
{
	(void)is_taken;
	mesh__call_unref(event->call);
}

static void emit(struct mesh_call *call, uint32_t type)
{
	struct mesh_event event = { .size = sizeof(event), .type = type, .code = type == MESH_EVENT_CALL_DONE ? call->code : 0,
				    .token = call->sink.token, .call = call };
	struct mesh__queue_node *node = &call->nodes[type - MESH_EVENT_CALL_DONE];

	if (call->sink.on_event) {
		call->sink.on_event(&event, call->sink.user);
		return;
	}
	if (!call->sink.queue || atomic_load_explicit(&node->is_queued, memory_order_acquire))
		return;
	mesh__call_ref(call);
	if (!mesh__queue_push(call->sink.queue, node, &event, drop_event))
		mesh__call_unref(call);
}

/* --- calling --- */

static int start(mesh_client *client, const struct mesh_call_options *opts, mesh_call **out, struct mesh_error *err)
{
	int rc = check_options(client, opts, err);
	struct mesh_call *call;

	if (rc)
		return rc;
	if (mesh__call_new(client->target, opts, &call))
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "%s: out of memory for a call", client->target->name);
	if (opts->on_event || opts->queue)
		call->emit = emit;
	if (out) {
		mesh__call_ref(call);
		*out = call;
	}
	rc = mesh__call_start(call);
	if (!rc)
		return 0;
	if (out) {
		mesh__call_unref(*out);
		*out = NULL;
	}
	return mesh__fault(err, rc, MESH_STAGE_NONE, "%s: the mesh is closing", client->target->name);
}

int mesh_client_start(mesh_client *client, const struct mesh_call_options *opts, mesh_call **out, struct mesh_error *err)
{
	mesh *m = client ? client->mesh : NULL;
	int rc;

	if (out)
		*out = NULL;
	if (!client || !opts)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the client or the call's options are NULL");
	/* First it counts, then we look whether the mesh closes: so what we read below stays until it has ended or we are out. */
	atomic_fetch_add(&m->live_calls, 1);
	rc = mesh__handle_check(m, err);
	if (!rc)
		rc = start(client, opts, out, err);
	if (rc)
		atomic_fetch_sub_explicit(&m->live_calls, 1, memory_order_release);
	return rc;
}

int mesh_client_call(mesh_client *client, const struct mesh_call_options *opts, mesh_call **out, struct mesh_error *err)
{
	mesh_call *call;
	int rc;

	if (out)
		*out = NULL;
	if (mesh__loop_is_any())
		return mesh__fault(err, MESH_E_WRONG_THREAD, MESH_STAGE_NONE, "a blocking call on a loop would wait for itself: use mesh_client_start()");
	if (opts && opts->flags & MESH_CALL_STREAM)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "a streaming call is started with mesh_client_start()");
	rc = mesh_client_start(client, opts, &call, err);
	if (rc)
		return rc;
	rc = mesh_call_wait(call, UINT32_MAX, err);
	if (out)
		*out = call;
	else
		mesh_call_unref(call);
	return rc;
}

mesh_call *mesh_call_ref(mesh_call *call)
{
	if (call)
		mesh__call_ref(call);
	return call;
}

void mesh_call_unref(mesh_call *call)
{
	mesh__call_unref(call);
}

static bool is_done(const mesh_call *call)
{
	return call && atomic_load_explicit(&call->has_result, memory_order_acquire);
}

/* Who waits for a call with a callback returns after it, so that what the callback uses can be freed then. */
static bool is_over(const mesh_call *call)
{
	return is_done(call) && (!call->sink.on_event || mesh__wait_is_over(&call->done) || mesh__loop_is_mine(call->lp));
}

static bool is_over_now(void *user)
{
	return is_over(user);
}

static uint64_t deadline_of(uint32_t timeout_ms)
{
	return timeout_ms == UINT32_MAX ? UINT64_MAX : mesh__clock_now_ns() + timeout_ms * MESH__NS_PER_MS;
}

int mesh_call_wait(mesh_call *call, uint32_t timeout_ms, struct mesh_error *err)
{
	uint64_t deadline_ns = deadline_of(timeout_ms);

	if (!call)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the call is NULL");
	if (!is_over(call)) {
		if (call->generation != mesh__descriptors_generation())
			return mesh__fault(err, MESH_E_FORKED, MESH_STAGE_NONE, "this call belongs to the parent process");
		if (mesh__loop_is_any())
			return mesh__fault(err, MESH_E_WRONG_THREAD, MESH_STAGE_NONE, "waiting for a call on a loop would block the loop");
		if (mesh__loop_must_turn(call->lp))
			mesh__loop_turn_until(call->lp, is_over_now, call, deadline_ns);
		else
			mesh__wait_until(&call->done, deadline_ns);
		if (!is_over(call))
			return mesh__fault(err, MESH_E_AGAIN, MESH_STAGE_NONE, "the call has not ended yet");
	}
	if (call->code)
		mesh_call_error(call, err);
	return call->code;
}

void mesh_call_cancel(mesh_call *call)
{
	if (call && call->generation == mesh__descriptors_generation())
		mesh__call_cancel(call);
}

static int check_streaming(const mesh_call *call)
{
	if (!call)
		return MESH_E_INVALID;
	if (call->generation != mesh__descriptors_generation())
		return MESH_E_FORKED;
	return call->pipe ? 0 : MESH_E_STATE;
}

/* Sending or receiving in the thread of a foreign base: it turns only if we turn it. */
struct turning {
	struct mesh__pipe *pipe;
	const void *data;
	uint64_t len;
	bool is_last;
	struct mesh_message *out;
	int rc;
};

static bool has_sent(void *user)
{
	struct turning *turning = user;

	turning->rc = mesh__pipe_send(turning->pipe, turning->data, turning->len, turning->is_last, 0);
	return turning->rc != MESH_E_AGAIN;
}

static bool has_received(void *user)
{
	struct turning *turning = user;

	turning->rc = mesh__pipe_recv(turning->pipe, turning->out, 0);
	return turning->rc != MESH_E_AGAIN;
}

int mesh_call_send(mesh_call *call, const void *data, uint64_t len, uint32_t flags, uint32_t timeout_ms)
{
	struct turning turning = { .data = data, .len = len, .is_last = flags & MESH_SEND_LAST };
	int rc = check_streaming(call);

	if (rc)
		return rc;
	if (!timeout_ms || !mesh__loop_must_turn(call->lp))
		return mesh__pipe_send(call->pipe, data, len, turning.is_last, timeout_ms);
	turning.pipe = call->pipe;
	mesh__loop_turn_until(call->lp, has_sent, &turning, deadline_of(timeout_ms));
	return turning.rc;
}

int mesh_call_recv(mesh_call *call, struct mesh_message *out, uint32_t timeout_ms)
{
	struct turning turning = { .out = out };
	int rc = check_streaming(call);

	if (!rc && (!out || out->size < sizeof(*out)))
		rc = MESH_E_INVALID;
	if (rc)
		return rc;
	if (!timeout_ms || !mesh__loop_must_turn(call->lp))
		return mesh__pipe_recv(call->pipe, out, timeout_ms);
	turning.pipe = call->pipe;
	mesh__loop_turn_until(call->lp, has_received, &turning, deadline_of(timeout_ms));
	return turning.rc;
}

/* --- asking --- */

int mesh_call_http_status(const mesh_call *call)
{
	return is_done(call) ? call->http_status : 0;
}

int mesh_call_grpc_status(const mesh_call *call)
{
	return is_done(call) ? call->grpc_status : 0;
}

const char *mesh_call_grpc_message(const mesh_call *call)
{
	if (!is_done(call))
		return "";
	return call->code && call->code != MESH_E_STATUS && call->error ? call->error->message : call->grpc_message;
}

const void *mesh_call_body(const mesh_call *call, uint64_t *len)
{
	uint64_t prefix = call && call->is_grpc ? MESH__GRPC_PREFIX_BYTES : 0;
	uint32_t announced;

	if (len)
		*len = 0;
	if (!is_done(call) || call->answer_len < prefix || !call->answer)
		return NULL;
	/* Half a message may well parse as a message: nobody gets to see it. */
	if (prefix && (!mesh__grpc_read_prefix(call->answer, &announced) || call->answer_len != prefix + announced))
		return NULL;
	if (len)
		*len = call->answer_len - prefix;
	return call->answer + prefix;
}

const char *mesh_call_header(const mesh_call *call, const char *name, uint64_t *len)
{
	return is_done(call) && name ? mesh__headers_get(&call->headers, name, false, len) : NULL;
}

const char *mesh_call_trailer(const mesh_call *call, const char *name, uint64_t *len)
{
	const char *value = is_done(call) && name ? mesh__headers_get(&call->headers, name, true, len) : NULL;

	/* An answer without a body has its trailers among the headers. */
	if (!value && is_done(call) && name && call->is_grpc && call->headers.trailers_from >= call->headers.count)
		value = mesh__headers_get(&call->headers, name, false, len);
	return value;
}

int mesh_call_header_at(const mesh_call *call, uint32_t index, struct mesh_header *out, int *is_trailer)
{
	struct mesh__field field;

	if (!is_done(call) || !out || !mesh__headers_at(&call->headers, index, &field))
		return MESH_E_NOT_FOUND;
	*out = (struct mesh_header){ field.name, field.value, field.name_len, field.value_len };
	if (is_trailer)
		*is_trailer = index >= call->headers.trailers_from;
	return 0;
}

void mesh_call_error(const mesh_call *call, struct mesh_error *err)
{
	if (!err || !is_done(call))
		return;
	if (call->error)
		mesh__fault_copy(err, call->error);
	else if (call->code)
		mesh__fault(err, call->code, MESH_STAGE_RECORD, "%s", mesh_error_text(call->code));
	else
		mesh__fault(err, 0, MESH_STAGE_NONE, "the call succeeded");
}

int mesh_call_info(const mesh_call *call, struct mesh_call_info *info)
{
	uint32_t size;

	if (!is_done(call) || !info || info->size < 8)
		return MESH_E_INVALID;
	size = info->size < sizeof(*info) ? info->size : (uint32_t)sizeof(*info);
	memcpy((char *)info + sizeof(info->size), (const char *)&call->info + sizeof(info->size), size - sizeof(info->size));
	mesh__text_end_inside(info, size, offsetof(struct mesh_call_info, endpoint), sizeof(info->endpoint));
	return 0;
}
