/*
 * grpc.health.v1, built in: Check and Watch.
 *
 * The messages are one field each, so they are written and read here by hand: HealthCheckRequest{string service = 1},
 * HealthCheckResponse{ServingStatus status = 1}. Source: grpc/grpc doc/health-checking.md.
 *
 * Entries are added and changed under a lock. A Watch is a streaming request in the list of watchers; it gets the state when it
 * begins and whenever that changes, from whichever thread changes it.
 *
 * A server whose identity is about to end serves nobody that comes new, so it says NOT_SERVING in time, whatever it was told to say.
 */
#include "serve/serve.h"

#include "base/memory.h"
#include "identity/identity.h"

#include <string.h>

enum { STATUS_SERVING = 1, STATUS_NOT_SERVING = 2, STATUS_SERVICE_UNKNOWN = 3 };
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

struct mesh__health_entry {
	struct mesh__health_entry *next;
	int status;
	char name[];
};

struct watcher {
	struct mesh__list node;
	mesh_request *request;
	int last_status;
	char name[256];
};

static bool read_varint(const uint8_t **at, const uint8_t *end, uint64_t *value)
{
	*value = 0;
	for (int shift = 0; *at < end && shift < 64; shift += 7) {
		uint8_t byte = *(*at)++;

		*value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return true;
	}
	return false;
}

/* How many bytes the field holds behind its tag. Groups are long gone from protobuf, and refused. */
static bool read_field_len(const uint8_t **at, const uint8_t *end, uint64_t wire_type, uint64_t *len)
{
	uint64_t ignored;

	switch (wire_type) {
	case WIRE_VARINT:
		*len = 0;
		return read_varint(at, end, &ignored);
	case WIRE_FIXED64:
		*len = 8;
		break;
	case WIRE_BYTES:
		if (!read_varint(at, end, len))
			return false;
		break;
	case WIRE_FIXED32:
		*len = 4;
		break;
	default:
		return false;
	}
	return *len <= (uint64_t)(end - *at);
}

/* The string of field 1; false: not such a message. Unknown fields are skipped. */
static bool read_request(const uint8_t *at, uint64_t message_len, char name[256])
{
	const uint8_t *end = at + message_len;

	name[0] = '\0';
	while (at < end) {
		uint64_t tag, len;

		if (!read_varint(&at, end, &tag) || !read_field_len(&at, end, tag & 7, &len))
			return false;
		if (tag == (1 << 3 | WIRE_BYTES)) {
			if (len > 255)
				return false;
			memcpy(name, at, len);
			name[len] = '\0';
		}
		at += len;
	}
	return true;
}

static uint64_t write_response(int status, uint8_t message[2])
{
	message[0] = 1 << 3;
	message[1] = (uint8_t)status;
	return 2;
}

/* Under lock. */
static int status_of(const mesh_server *server, const char *name)
{
	for (const struct mesh__health_entry *at = server->health.first; at; at = at->next)
		if (strcmp(at->name, name) == 0)
			return mesh__identity_is_ending(server->opts.identity) ? STATUS_NOT_SERVING : at->status;
	return STATUS_SERVICE_UNKNOWN;
}

static void reply_error(mesh_request *request, int status, const char *message)
{
	struct mesh_reply reply = { .size = sizeof(reply), .grpc_status = status, .grpc_message = message };

	mesh__request_reply(request, &reply);
}

static void check(mesh_request *request, void *user)
{
	mesh_server *server = user;
	struct mesh_reply reply = { .size = sizeof(reply) };
	uint8_t message[2];
	char name[256];
	int status;

	if (!read_request(request->body + MESH__GRPC_PREFIX_BYTES, request->body_len - MESH__GRPC_PREFIX_BYTES, name)) {
		reply_error(request, MESH__GRPC_INVALID_ARGUMENT, "this is no HealthCheckRequest");
		return;
	}
	pthread_mutex_lock(&server->health.lock);
	status = status_of(server, name);
	pthread_mutex_unlock(&server->health.lock);
	if (status == STATUS_SERVICE_UNKNOWN) {
		reply_error(request, MESH__GRPC_NOT_FOUND, "this server does not know that service");
		return;
	}
	reply.body_len = write_response(status, message);
	reply.body = message;
	mesh__request_reply(request, &reply);
}

static void send_status(struct watcher *watcher, int status)
{
	uint8_t message[2];

	if (status == watcher->last_status)
		return;
	watcher->last_status = status;
	if (mesh__request_begin(watcher->request, NULL) == 0)
		mesh__pipe_send(watcher->request->pipe, message, write_response(status, message), false, 0);
}

static void end_watch(const struct mesh_event *event, void *user)
{
	struct watcher *watcher = user;
	mesh_request *request = watcher->request;
	struct mesh_message message = { .size = sizeof(message) };
	mesh_server *server;

	if (event->type == MESH_EVENT_REQUEST_READABLE) {
		while (mesh__pipe_recv(request->pipe, &message, 0) == 1)
			mesh_message_release(&message);
		return;
	}
	if (event->type != MESH_EVENT_REQUEST_ENDED)
		return;
	server = request->server;
	if (server) {
		pthread_mutex_lock(&server->health.lock);
		mesh__list_remove(&watcher->node);
		pthread_mutex_unlock(&server->health.lock);
	}
	mesh__memory_free(watcher);
	mesh_request_unref(request);
}

void mesh__health_tell(mesh_server *server)
{
	pthread_mutex_lock(&server->health.lock);
	for (struct mesh__list *node = server->health.watchers.next; node != &server->health.watchers; node = node->next) {
		struct watcher *watcher = MESH__CONTAINER(node, struct watcher, node);

		send_status(watcher, status_of(server, watcher->name));
	}
	pthread_mutex_unlock(&server->health.lock);
}

static void start_watch(mesh_request *request, const char *name, mesh_server *server)
{
	struct watcher *watcher = mesh__memory_zalloc(sizeof(*watcher));

	if (!watcher) {
		reply_error(request, MESH__GRPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	memcpy(watcher->name, name, sizeof(watcher->name));
	watcher->request = mesh_request_ref(request);
	request->on_event_user = watcher;
	request->on_event = end_watch;
	pthread_mutex_lock(&server->health.lock);
	mesh__list_append(&server->health.watchers, &watcher->node);
	send_status(watcher, status_of(server, name));
	pthread_mutex_unlock(&server->health.lock);
}

/* A Watch is dispatched at its headers; its one message may come a little later. */
static void on_watch_message(const struct mesh_event *event, void *user)
{
	mesh_request *request = event->request;
	struct mesh_message message = { .size = sizeof(message) };
	char name[256];
	int rc;

	if (event->type == MESH_EVENT_REQUEST_ENDED) {
		mesh_request_unref(request);
		return;
	}
	if (event->type != MESH_EVENT_REQUEST_READABLE)
		return;
	rc = mesh__pipe_recv(request->pipe, &message, 0);
	if (rc == MESH_E_AGAIN)
		return;
	if (rc == 1 && read_request(message.data, message.len, name))
		start_watch(request, name, user);
	else
		reply_error(request, MESH__GRPC_INVALID_ARGUMENT, "this is no HealthCheckRequest");
	mesh_message_release(&message);
	/* Either the watcher holds the request now, or it is answered: no more events come here. */
	if (request->on_event == on_watch_message)
		request->on_event = NULL;
	mesh_request_unref(request);
}

static void watch(mesh_request *request, void *user)
{
	struct mesh_event event = { .size = sizeof(event), .type = MESH_EVENT_REQUEST_READABLE, .request = request };

	mesh_request_ref(request);
	request->on_event_user = user;
	request->on_event = on_watch_message;
	on_watch_message(&event, user);
}

int mesh__health_set(mesh_server *server, const char *service, bool is_serving)
{
	int status = is_serving ? STATUS_SERVING : STATUS_NOT_SERVING;
	struct mesh__health_entry *entry;
	struct mesh__list *node;
	int rc = 0;

	pthread_mutex_lock(&server->health.lock);
	for (entry = server->health.first; entry; entry = entry->next)
		if (strcmp(entry->name, service) == 0)
			break;
	if (!entry) {
		entry = mesh__memory_zalloc(sizeof(*entry) + strlen(service) + 1);
		if (entry) {
			memcpy(entry->name, service, strlen(service));
			entry->next = server->health.first;
			server->health.first = entry;
		} else {
			rc = MESH_E_NOMEM;
		}
	}
	if (entry) {
		entry->status = status;
		for (node = server->health.watchers.next; node != &server->health.watchers; node = node->next) {
			struct watcher *watcher = MESH__CONTAINER(node, struct watcher, node);

			if (strcmp(watcher->name, service) == 0)
				send_status(watcher, status_of(server, service));
		}
	}
	pthread_mutex_unlock(&server->health.lock);
	return rc;
}

/* "/package.Service/Method" is a handler of package.Service. */
static void set_services(mesh_server *server, bool is_serving)
{
	struct mesh__handler *handler;
	const char *path;
	char name[256];
	uint32_t at = 0;

	while ((handler = mesh__map_next(&server->exact[1], &at, &path))) {
		const char *slash = path[0] == '/' ? strchr(path + 1, '/') : NULL;

		if (!slash || (size_t)(slash - path) > sizeof(name))
			continue;
		memcpy(name, path + 1, (size_t)(slash - path - 1));
		name[slash - path - 1] = '\0';
		if (strcmp(name, "grpc.health.v1.Health") != 0)
			mesh__health_set(server, name, is_serving);
	}
}

void mesh__health_set_all(mesh_server *server, bool is_serving)
{
	struct mesh__health_entry *entry;

	if (is_serving) {
		mesh__health_set(server, "", true);
		mesh__health_set(server, server->service, true);
		set_services(server, true);
		return;
	}
	/* Entries are never removed before the end, so walking without the lock is safe. */
	pthread_mutex_lock(&server->health.lock);
	entry = server->health.first;
	pthread_mutex_unlock(&server->health.lock);
	for (; entry; entry = entry->next)
		mesh__health_set(server, entry->name, false);
}

void mesh__health_end_watches(mesh_server *server)
{
	static const struct mesh_reply gone = { .size = sizeof(gone), .grpc_status = MESH__GRPC_UNAVAILABLE, .grpc_message = "the server is draining" };

	pthread_mutex_lock(&server->health.lock);
	for (struct mesh__list *node = server->health.watchers.next; node != &server->health.watchers; node = node->next)
		mesh__request_finish(MESH__CONTAINER(node, struct watcher, node)->request, &gone);
	pthread_mutex_unlock(&server->health.lock);
}

int mesh__health_init(mesh_server *server)
{
	struct mesh__handler check_handler = { .flags = MESH_HANDLER_GRPC, .fn = check, .user = server };
	struct mesh__handler watch_handler = { .flags = MESH_HANDLER_GRPC | MESH_HANDLER_STREAM, .fn = watch, .user = server };
	int rc;

	pthread_mutex_init(&server->health.lock, NULL);
	mesh__list_init(&server->health.watchers);
	rc = mesh__server_handle(server, "/grpc.health.v1.Health/Check", &check_handler, NULL);
	return rc ? rc : mesh__server_handle(server, "/grpc.health.v1.Health/Watch", &watch_handler, NULL);
}

void mesh__health_fini(mesh_server *server)
{
	for (struct mesh__health_entry *entry = server->health.first, *next; entry; entry = next) {
		next = entry->next;
		mesh__memory_free(entry);
	}
	pthread_mutex_destroy(&server->health.lock);
}
