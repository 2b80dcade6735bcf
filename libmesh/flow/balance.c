/* Picks an endpoint for this attempt; one that has not been tried, if there is one. */
#include "flow/call.h"

enum mesh__verdict mesh__step_balance(struct mesh_call *call)
{
	struct mesh__endpoint *ep = mesh__service_pick(call->target->service, &call->lp->random, mesh__shard_mine(), call->tried, call->attempts);

	if (!ep) {
		mesh__call_blame(call, MESH_E_NO_ENDPOINT, MESH_STAGE_BALANCE, "%s: the last endpoint has just left%s%s", call->target->name,
				 call->history ? "; before that: " : "", call->history ? call->history : "");
		return MESH__REFUSE;
	}
	call->attempt.ep = ep;
	call->attempt.reach = NULL;
	call->attempt.code = 0;
	call->attempt.unprocessed = call->attempt.never_sent = false;
	call->attempt.opened_ns = call->attempt.headers_ns = call->info.send_ns = 0;
	call->attempt.picked_ns = call->lp->now_ns;
	call->tried[call->attempts++] = ep;
	return MESH__GO;
}
