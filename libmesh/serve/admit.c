/*
 * May this request come in? Refusing costs one RST_STREAM(REFUSED_STREAM), which tells the peer that it is safe to go elsewhere.
 * A handler that still works for a stream that is gone counts, too: a peer that resets what it asked for gets no free work.
 */
#include "serve/serve.h"

#include "base/memory.h"

struct mesh_request *mesh__server_admit(struct mesh__conn_entry *entry)
{
	struct mesh__server_loop *sl = entry->sl;
	mesh_server *server = sl->server;
	const char *reason = NULL;
	struct mesh_request *request;

	if (sl->is_closing)
		reason = "closing";
	else if (entry->running >= server->limits.streams_max)
		reason = "streams";
	else if (entry->conn.queued_bytes > server->limits.queued_bytes_max)
		reason = "queued_bytes"; /* it asks for answers and does not take them */
	else if (atomic_load_explicit(&server->request_count, memory_order_relaxed) >= server->requests_max)
		reason = "requests";
	request = reason ? NULL : mesh__pool_zalloc(&sl->lp->pool, sizeof(*request));
	if (!request) {
		mesh__server_count_refused(server, reason ? reason : "nomem");
		return NULL;
	}
	mesh__list_append(&entry->requests, &request->entry_node);
	entry->running++;
	sl->request_count++;
	atomic_fetch_add_explicit(&server->request_count, 1, memory_order_relaxed);
	return request;
}
