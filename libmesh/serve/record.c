/* The end of every request, exactly once. */
#include "serve/serve.h"

void mesh__server_record(struct mesh_request *request)
{
	mesh_server *server = request->server;
	struct mesh__labels labels = { .service = server->service };
	uint32_t shard = mesh__shard_mine();

	mesh__gauge_add(server->in_flight, shard, -1);
	mesh__histogram_record(server->latency, shard, request->lp->now_ns - request->start_ns);
	mesh__outcome_count(&server->ended, server->opts.stats, MESH__METRIC_REQUESTS_ENDED_TOTAL, labels, request->outcome, shard);
}
