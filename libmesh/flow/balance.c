/* Picks an endpoint for this attempt; one that has not been tried, if there is one. */
#include "discovery/set.h"
#include "flow/balance_p2c.h"
#include "flow/call.h"

struct mesh__endpoint *mesh__balance_pick(struct mesh__target *target, struct mesh__random *random, uint32_t shard,
					  struct mesh__endpoint *const *tried, uint32_t tried_count)
{
	const struct mesh__set *set = mesh__set_read_begin(target->set);
	struct mesh__endpoint *ep = NULL;

	if (set && set->count) {
		const struct mesh__candidates among = { set->eps, set->count, tried, tried_count,
							atomic_load_explicit(&mesh__shard_used, memory_order_relaxed) };

		ep = set->eps[mesh__balance_p2c(&among, random)];
		mesh__endpoint_begin(ep, shard);
	}
	mesh__set_read_end();
	return ep;
}

enum mesh__verdict mesh__step_balance(struct mesh_call *call)
{
	struct mesh__endpoint *ep = mesh__balance_pick(call->target, &call->lp->random, mesh__shard_mine(), call->tried, call->attempts);

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
