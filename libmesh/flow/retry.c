/*
 * After a failed attempt: again, from the name on, or the end? Again only what provably never reached the peer (no connection, a refused stream,
 * bytes that never left), while `attempts` and the deadline allow it, and, for a streaming call, while nothing has been sent.
 */
#include "flow/call.h"

#include "base/fault.h"

static bool is_safe(const struct mesh_call *call)
{
	return (call->attempt.never_sent || call->attempt.unprocessed) && (!call->pipe || mesh__pipe_is_untouched(call->pipe));
}

static bool is_final(int32_t code)
{
	return code == MESH_E_CLOSING || code == MESH_E_NOMEM || code == MESH_E_TOO_LARGE;
}

bool mesh__step_retry(struct mesh_call *call)
{
	uint32_t limit = atomic_load_explicit(&call->target->cfg->attempts, memory_order_relaxed);
	bool is_safe_now = is_safe(call);
	int32_t code = call->attempt.code;
	struct mesh__labels labels = { .service = call->target->name };

	if (limit > MESH__CALL_ATTEMPTS_MAX)
		limit = MESH__CALL_ATTEMPTS_MAX;
	if (is_safe_now && !is_final(code) && call->attempts < limit && call->lp->now_ns < call->deadline_ns) {
		mesh__outcome_count(&call->target->retries, call->target->flow->stats, MESH__METRIC_RETRIES_TOTAL, labels,
				    mesh__outcome_of_error(code), mesh__shard_mine());
		return true;
	}
	if (call->attempt.never_sent && code == MESH_E_SYSTEM)
		code = MESH_E_CONNECT;
	mesh__call_blame(call, code, MESH_STAGE_ATTEMPT, "%s: %s%s", call->target->name, call->history ? call->history : mesh_error_text(code),
			 is_safe_now && call->attempts >= limit ? " (no attempt is left: option attempts)" : "");
	return false;
}
