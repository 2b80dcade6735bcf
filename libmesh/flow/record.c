/* The end of every call, exactly once: counters, histogram, the facts for mesh_call_info(), the error's remaining fields. */
#include "flow/call.h"

#include <string.h>

static uint32_t outcome_of(const struct mesh_call *call, int32_t code)
{
	if (code == MESH_E_STATUS)
		return mesh__outcome_of_grpc(call->grpc_status);
	if (code == 0)
		return mesh__outcome_of_http(call->http_status);
	return mesh__outcome_of_error(code);
}

void mesh__record_attempt(struct mesh_call *call, int32_t code)
{
	struct mesh__reach *reach;
	struct mesh__labels labels;

	if (!call->attempt.ep || !call->attempt.reach)
		return;
	reach = call->attempt.reach->reach;
	labels = (struct mesh__labels){ .service = reach->service, .endpoint = reach->name };
	mesh__outcome_count(&reach->ended, call->target->flow->stats, MESH__METRIC_ATTEMPTS_ENDED_TOTAL, labels, outcome_of(call, code),
			    mesh__shard_mine());
	mesh__histogram_record(reach->latency, mesh__shard_mine(), call->lp->now_ns - call->attempt.picked_ns);
}

static bool is_in_doubt(const struct mesh_call *call)
{
	const struct mesh__stream *stream = &call->attempt.stream;

	if (call->code == 0 || !call->attempts || call->attempt.never_sent || call->attempt.unprocessed)
		return false;
	if (!call->attempt.opened_ns)
		return false;
	/* The request may still be in our own buffers. */
	return !stream->conn || stream->headers_at < stream->conn->written_bytes;
}

static void complete_error(struct mesh_call *call)
{
	struct mesh_error *err = call->error;

	if (!err)
		return;
	if (call->code == MESH_E_STATUS || call->grpc_status)
		err->grpc_status = call->grpc_status;
	err->http_status = call->http_status;
	err->attempts = call->attempts;
	err->in_doubt = is_in_doubt(call);
	err->retry_safe = !err->in_doubt || (call->flags & MESH_CALL_IDEMPOTENT) != 0;
	memcpy(err->endpoint, call->info.endpoint, sizeof(err->endpoint));
}

/* Sending, waiting, receiving, one after the other: an answer may begin before the request is complete, and may never come. */
static void split_attempt(struct mesh_call *call, uint64_t now_ns)
{
	struct mesh_call_info *info = &call->info;
	uint64_t answer_ns = call->attempt.headers_ns ? call->attempt.headers_ns : now_ns;

	if (!call->attempt.opened_ns)
		return;
	if (info->send_ns > answer_ns - call->attempt.opened_ns)
		info->send_ns = answer_ns - call->attempt.opened_ns;
	info->wait_ns = answer_ns - call->attempt.opened_ns - info->send_ns;
	info->receive_ns = now_ns - answer_ns;
}

void mesh__step_record(struct mesh_call *call)
{
	struct mesh__target *target = call->target;
	struct mesh__labels labels = { .service = target->name };
	uint64_t now_ns = call->lp->now_ns;
	struct mesh_call_info *info = &call->info;
	uint32_t shard = mesh__shard_mine();

	info->attempts = call->attempts;
	info->total_ns = now_ns - call->start_ns;
	split_attempt(call, now_ns);
	info->sent_bytes = call->attempt.stream.sent_bytes;
	info->received_bytes = call->attempt.stream.received_bytes;
	if (call->attempt.reach)
		memcpy(info->endpoint, call->attempt.reach->reach->name, sizeof(info->endpoint));
	mesh__record_attempt(call, call->code);
	complete_error(call);
	if (!call->is_counted)
		return;
	mesh__gauge_add(target->in_flight, shard, -1);
	mesh__histogram_record(target->latency, shard, info->total_ns);
	mesh__outcome_count(&target->ended, target->flow->stats, MESH__METRIC_CALLS_ENDED_TOTAL, labels, outcome_of(call, call->code), shard);
	if (call->code == MESH_E_REFUSED_LOCALLY || call->code == MESH_E_NO_NAME || call->code == MESH_E_NO_ENDPOINT)
		mesh__outcome_count(&target->refused, target->flow->stats, MESH__METRIC_CALLS_REFUSED_TOTAL, labels, outcome_of(call, call->code),
				    shard);
}
