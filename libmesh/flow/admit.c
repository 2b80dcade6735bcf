/* May this attempt go to this endpoint now? Breakers and limits per endpoint belong here; a refusal may pick again. */
#include "flow/call.h"

enum mesh__verdict mesh__step_admit(struct mesh_call *call)
{
	call->attempt.reach = mesh__flow_reach(call->target, call->attempt.ep, call->lp);
	if (!call->attempt.reach) {
		mesh__call_blame(call, MESH_E_NOMEM, MESH_STAGE_ADMIT, "%s: out of memory", call->target->name);
		return MESH__REFUSE;
	}
	mesh__counter_add(call->attempt.reach->reach->attempts, mesh__shard_mine(), 1);
	mesh__gauge_add(call->attempt.reach->reach->in_flight, mesh__shard_mine(), 1);
	return MESH__GO;
}
