#include "api/handle.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"

#include <string.h>

static int enter(const mesh_server *server, struct mesh_error *err)
{
	if (!server)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the server is NULL");
	return mesh__handle_enter(server->mesh, err);
}

/* What a server does to newcomers; NULL with *rc 0: plain text. */
static const struct mesh__secure_options *secure_options(mesh *m, const char *service, int *rc)
{
	struct mesh__secure_options like = {
		.identity = m->identity, .workers = m->accepting, .user = m->policy, .stats = m->stats,
		.timeout_ns = mesh__config_ns(m->config, MESH__OPTION_HANDSHAKE_TIMEOUT, NULL),
	};
	struct mesh__server_secure *secure;

	*rc = 0;
	if (!mesh__identity_is_tls(m->identity))
		return NULL;
	pthread_mutex_lock(&m->shared.lock);
	secure = mesh__server_secure_of(&m->shared.secure, service, &like);
	pthread_mutex_unlock(&m->shared.lock);
	*rc = secure ? 0 : MESH_E_NOMEM;
	return secure ? &secure->opts : NULL;
}

static int new_server(mesh *m, const struct mesh_server_options *opts, mesh_server **out, struct mesh_error *err)
{
	struct mesh__server_options inner;
	const char *listen, *why;
	int rc;

	inner = (struct mesh__server_options){ m->config, m->stats, m->directory, &m->log, m->lps, m->loop_count,
					       opts->service ? opts->service : m->service, { 0 }, m->identity, NULL, m->policy };
	listen = opts->listen ? opts->listen : mesh__config_text(m->config, MESH__OPTION_LISTEN, NULL);
	if (mesh__address_parse(&inner.listen, listen, strlen(listen), &why))
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "cannot listen on \"%.64s\": %s", listen, why);
	if (!*inner.service || strlen(inner.service) > 253 || inner.service[0] == '.' ||
	    strspn(inner.service, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != strlen(inner.service))
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "\"%.64s\" is no service name", inner.service);
	inner.secure = secure_options(m, inner.service, &rc);
	if (rc)
		return mesh__fault(err, rc, MESH_STAGE_NONE, "out of memory for a server");
	rc = mesh__server_new(&inner, out, err);
	if (rc)
		return rc;
	(*out)->mesh = m;
	mesh__handle_ref(m);
	pthread_mutex_lock(&m->shared.lock);
	mesh__list_append(&m->shared.servers, &(*out)->node);
	pthread_mutex_unlock(&m->shared.lock);
	return 0;
}

int mesh_server_new(mesh *m, const struct mesh_server_options *opts, mesh_server **out, struct mesh_error *err)
{
	static const struct mesh_server_options plain = { .size = sizeof(plain) };
	int rc;

	opts = opts ? opts : &plain;
	if (!out)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "there is no place for the server: out is NULL");
	if (opts->size < sizeof(*opts))
		return mesh__fault(err, MESH_E_VERSION, MESH_STAGE_NONE, "mesh_server_options.size is %u, expected %zu", opts->size, sizeof(*opts));
	if (opts->flags)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "mesh_server_options.flags has bits that mean nothing: 0x%x", opts->flags);
	rc = mesh__handle_enter(m, err);
	if (rc)
		return rc;
	rc = new_server(m, opts, out, err);
	mesh__handle_leave(m);
	return rc;
}

static int handle(mesh_server *server, const char *path, const struct mesh__handler *like, struct mesh_error *err)
{
	int rc = enter(server, err);

	if (rc)
		return rc;
	if (!path || (!like->fn && !like->queue))
		rc = mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "a handler needs a path, and a function or a queue");
	else if (like->flags & ~(uint32_t)(MESH_HANDLER_GRPC | MESH_HANDLER_STREAM))
		rc = mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "%.64s: the handler's flags have bits that mean nothing: 0x%x", path, like->flags);
	else
		rc = mesh__server_handle(server, path, like, err);
	mesh__handle_leave(server->mesh);
	return rc;
}

int mesh_server_handle(mesh_server *server, const char *path, uint32_t flags, mesh_request_fn fn, void *user, struct mesh_error *err)
{
	struct mesh__handler like = { .flags = flags, .fn = fn, .user = user };

	return handle(server, path, &like, err);
}

int mesh_server_handle_queue(mesh_server *server, const char *path, uint32_t flags, mesh_queue *queue, uint64_t token, struct mesh_error *err)
{
	struct mesh__handler like = { .flags = flags, .queue = queue, .token = token };

	return handle(server, path, &like, err);
}

int mesh_server_start(mesh_server *server, struct mesh_error *err)
{
	int rc = enter(server, err);

	if (rc)
		return rc;
	rc = mesh__server_start(server, err);
	mesh__handle_leave(server->mesh);
	return rc;
}

const char *mesh_server_address(const mesh_server *server)
{
	return server ? server->address_text : "";
}

int mesh_server_set_health(mesh_server *server, const char *service, int is_serving)
{
	int rc = enter(server, NULL);

	if (rc)
		return rc;
	rc = service ? mesh__health_set(server, service, is_serving) : MESH_E_INVALID;
	mesh__handle_leave(server->mesh);
	return rc;
}

struct stop {
	struct mesh__task task;
	mesh_server *server;
	uint32_t index;
};

static void stop_on_loop(struct mesh__task *task, struct mesh__loop *lp)
{
	struct stop *stop = MESH__CONTAINER(task, struct stop, task);

	(void)lp;
	mesh__server_stop_loop(stop->server, stop->index);
}

static void stop_all_loops(mesh_server *server, mesh *m)
{
	mesh__server_withdraw(server);
	for (uint32_t i = 0; i < m->loop_count; i++) {
		struct stop stop = { .task.run = stop_on_loop, .server = server, .index = i };

		mesh__loop_call(m->lps[i], &stop.task);
	}
}

void mesh_server_free(mesh_server *server)
{
	mesh *m = server ? server->mesh : NULL;

	if (!m || server->generation != mesh__descriptors_generation())
		return;
	if (mesh__loop_is_any()) {
		mesh__log_write(server->opts.log, MESH_LOG_ERROR,
				"mesh_server_free() was called inside a callback, and did nothing: it would wait for itself");
		return;
	}
	pthread_mutex_lock(&m->life);
	if (!atomic_load(&m->is_closing)) /* else mesh_close() has ended it on every loop */
		stop_all_loops(server, m);
	pthread_mutex_lock(&m->shared.lock);
	mesh__list_remove(&server->node);
	pthread_mutex_unlock(&m->shared.lock);
	pthread_mutex_unlock(&m->life);
	mesh__server_free(server);
	mesh__handle_unref(m);
}

/* --- requests --- */

static const char *field(const mesh_request *request, const char *name)
{
	const char *value = request ? mesh__headers_find(&request->stream.headers, name, strlen(name), false, NULL) : NULL;

	return value ? value : "";
}

const char *mesh_request_method(const mesh_request *request)
{
	return field(request, ":method");
}

const char *mesh_request_path(const mesh_request *request)
{
	return field(request, ":path");
}

const char *mesh_request_authority(const mesh_request *request)
{
	const char *authority = field(request, ":authority");

	return *authority ? authority : field(request, "host");
}

const char *mesh_request_peer(const mesh_request *request)
{
	return request ? request->peer_text : "";
}

int mesh_request_is_grpc(const mesh_request *request)
{
	return request && request->is_grpc;
}

const char *mesh_request_header(const mesh_request *request, const char *name, uint64_t *len)
{
	return request && name ? mesh__headers_get(&request->stream.headers, name, false, len) : NULL;
}

int mesh_request_header_at(const mesh_request *request, uint32_t index, struct mesh_header *out)
{
	struct mesh__field found;

	if (!request || !out || !mesh__headers_at(&request->stream.headers, index, &found) || index >= request->stream.headers.trailers_from)
		return MESH_E_NOT_FOUND;
	*out = (struct mesh_header){ found.name, found.value, found.name_len, found.value_len };
	return 0;
}

const void *mesh_request_body(const mesh_request *request, uint64_t *len)
{
	uint64_t prefix = request && request->is_grpc ? MESH__GRPC_PREFIX_BYTES : 0;

	if (len)
		*len = 0;
	if (!request || request->body_len < prefix || !request->body)
		return NULL;
	if (len)
		*len = request->body_len - prefix;
	return request->body + prefix;
}

int64_t mesh_request_remaining_ms(const mesh_request *request)
{
	uint64_t now_ns = mesh__clock_now_ns();

	if (!request || !request->deadline_ns)
		return -1;
	return now_ns >= request->deadline_ns ? 0 : (int64_t)((request->deadline_ns - now_ns + MESH__NS_PER_MS - 1) / MESH__NS_PER_MS);
}

int mesh_request_is_cancelled(const mesh_request *request)
{
	return request && atomic_load_explicit(&request->is_cancelled, memory_order_acquire);
}

static int check_request(const mesh_request *request)
{
	if (!request)
		return MESH_E_INVALID;
	return request->generation == mesh__descriptors_generation() ? 0 : MESH_E_FORKED;
}

int mesh_request_reply(mesh_request *request, const struct mesh_reply *reply)
{
	int rc = check_request(request);

	return rc ? rc : !reply ? MESH_E_INVALID : mesh__request_reply(request, reply);
}

int mesh_request_begin(mesh_request *request, const struct mesh_reply *reply)
{
	static const struct mesh_reply plain = { .size = sizeof(plain) };
	int rc = check_request(request);

	return rc ? rc : mesh__request_begin(request, reply ? reply : &plain);
}

int mesh_request_send(mesh_request *request, const void *data, uint64_t len, uint32_t timeout_ms)
{
	int rc = check_request(request);

	if (!rc && (!request->pipe || atomic_load_explicit(&request->is_answered, memory_order_acquire)))
		rc = MESH_E_STATE;
	if (!rc)
		rc = mesh__request_begin(request, NULL);
	return rc ? rc : mesh__pipe_send(request->pipe, data, len, false, timeout_ms);
}

int mesh_request_recv(mesh_request *request, struct mesh_message *out, uint32_t timeout_ms)
{
	int rc = check_request(request);

	if (!rc && !request->pipe)
		rc = MESH_E_STATE;
	if (!rc && (!out || out->size < sizeof(*out)))
		rc = MESH_E_INVALID;
	return rc ? rc : mesh__pipe_recv(request->pipe, out, timeout_ms);
}

int mesh_request_finish(mesh_request *request, const struct mesh_reply *reply)
{
	int rc = check_request(request);

	return rc ? rc : !reply ? MESH_E_INVALID : mesh__request_finish(request, reply);
}

int mesh_request_on_event(mesh_request *request, mesh_event_fn fn, void *user)
{
	int rc = check_request(request);

	if (rc)
		return rc;
	request->on_event_user = user;
	request->on_event = fn;
	if (request->pipe)
		mesh__pipe_announce(request->pipe);
	return 0;
}
