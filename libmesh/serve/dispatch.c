/* Which handler, and when: at the end of the turn, outside of the connection's callbacks. */
#include "serve/serve.h"

#include "base/clock.h"

#include <string.h>

const struct mesh__handler *mesh__dispatch_find(const mesh_server *server, const char *path, size_t len, bool is_grpc)
{
	const char *query = is_grpc ? NULL : memchr(path, '?', len);
	const struct mesh__handler *handler;

	if (query)
		len = (size_t)(query - path);
	handler = mesh__map_get(&server->exact[is_grpc], path, len);
	if (handler)
		return handler;
	for (handler = server->prefixes[is_grpc]; handler; handler = handler->next)
		if (handler->path_len <= len && memcmp(handler->path, path, handler->path_len) == 0)
			return handler;
	return NULL;
}

/* Timers fire a little late; a deadline that is shorter than that is looked at here. */
static bool is_late(const struct mesh_request *request)
{
	return request->deadline_ns && request->deadline_ns < request->start_ns + 2 * MESH__TIMER_TICK_NS &&
	       mesh__clock_now_ns() >= request->deadline_ns && !atomic_load_explicit(&request->is_answered, memory_order_acquire);
}

static void dispatch(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh_request *request = MESH__CONTAINER(task, struct mesh_request, task);
	const struct mesh__handler *handler = request->handler;

	(void)lp;
	if (is_late(request))
		mesh__request_refuse(request, 504, MESH__GRPC_DEADLINE_EXCEEDED, "the deadline passed before the handler began");
	/* The deadline may have passed, or the caller have gone, while the body was coming: nobody waits for this work. */
	if (request->is_open && !atomic_load_explicit(&request->is_answered, memory_order_acquire)) {
		atomic_store_explicit(&request->user_refs, 1, memory_order_relaxed);
		mesh__request_hold(request);
		if (handler->fn) {
			handler->fn(request, handler->user);
			mesh_request_unref(request);
		} else {
			mesh__request_emit(request, MESH_EVENT_REQUEST, 0);
		}
	}
	mesh__request_drop(request);
}

void mesh__dispatch_later(struct mesh_request *request)
{
	if (request->is_dispatched)
		return;
	request->is_dispatched = true;
	request->stream.is_gathering = false;
	request->task.run = dispatch;
	mesh__request_hold(request);
	mesh__loop_defer(request->lp, &request->task);
}
