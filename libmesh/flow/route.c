/* Which options govern this call: its deadline, and how many calls of this service may be in flight here. */
#include "flow/call.h"

#include "base/clock.h"

static void on_deadline(struct mesh__timer *timer, struct mesh__loop *lp)
{
	struct mesh_call *call = MESH__CONTAINER(timer, struct mesh_call, deadline);
	char where[420], why[320];
	struct mesh__text text;

	(void)lp;
	mesh__text_init(&text, where, sizeof(where));
	if (!call->attempts) {
		mesh__service_explain(call->target->service, why, sizeof(why));
		mesh__text_addf(&text, "while waiting for its name to resolve; %s", why);
	} else if (!call->attempt.opened_ns)
		mesh__text_addf(&text, "while waiting for a connection to %s", call->attempt.reach ? call->attempt.reach->reach->name : "an endpoint");
	else if (!call->attempt.headers_ns)
		mesh__text_addf(&text, "while waiting for the answer of %s", call->attempt.reach->reach->name);
	else
		mesh__text_addf(&text, "while receiving the answer of %s", call->attempt.reach->reach->name);
	if (call->attempts)
		mesh__text_addf(&text, " (attempt %u)", call->attempts);
	if (call->history)
		mesh__text_addf(&text, "; before that: %s", call->history);
	mesh__call_blame(call, MESH_E_DEADLINE, call->attempts ? MESH_STAGE_ATTEMPT : MESH_STAGE_RESOLVE,
			 "%s: the deadline of %.0f ms passed %s", call->target->name, (double)call->timeout_ns / MESH__NS_PER_MS, where);
	mesh__call_end(call);
}

enum mesh__verdict mesh__step_route(struct mesh_call *call)
{
	struct mesh__target_loop *tl = mesh__call_target_loop(call);
	uint32_t calls_max = atomic_load_explicit(&call->target->cfg->calls_max, memory_order_relaxed);

	if (tl->in_flight > calls_max) {
		mesh__call_blame(call, MESH_E_REFUSED_LOCALLY, MESH_STAGE_ROUTE, "%s: %u calls are in flight on this loop already (option calls.max)",
				 call->target->name, calls_max);
		return MESH__REFUSE;
	}
	call->deadline_ns = call->start_ns + call->timeout_ns;
	call->deadline.fire = on_deadline;
	mesh__timer_set(call->lp, &call->deadline, call->deadline_ns);
	return MESH__GO;
}
