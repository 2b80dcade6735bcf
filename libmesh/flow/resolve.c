/*
 * Does anybody know the name, and do we know who we are ourselves? If not yet, the call waits, for at most `resolve.timeout`: somebody
 * who is just starting is the usual reason, the server or we. MESH_CALL_FAIL_FAST waits for neither, only for the sources' first answer.
 */
#include "flow/call.h"

#include "base/clock.h"

static void blame_name(struct mesh_call *call, enum mesh__service_state state)
{
	char why[400];
	int32_t code = mesh__service_explain(call->target->service, why, sizeof(why));

	if (!code)
		code = state == MESH__SERVICE_EMPTY ? MESH_E_NO_ENDPOINT : MESH_E_NO_NAME;
	mesh__call_blame(call, code, MESH_STAGE_RESOLVE, "%s: no endpoint: %s%s%s",
			 call->target->name, why, call->history ? "; before that: " : "", call->history ? call->history : "");
}

/* Its first is to come yet: an agent needs a moment for a new process, and whoever writes files may come after it. */
static bool lacks_identity(const struct mesh_call *call)
{
	const struct mesh__identity *identity = call->target->secure.identity;

	return identity && !mesh__identity_generation(identity);
}

static void blame_identity(struct mesh_call *call)
{
	char why[400] = "";

	mesh__credentials_unref(mesh__identity_take(call->target->secure.identity, why, sizeof(why)));
	mesh__call_blame(call, MESH_E_IDENTITY, MESH_STAGE_RESOLVE, "%s: no identity to show: %s", call->target->name, why);
}

static void leave_pending(struct mesh_call *call)
{
	if (!call->is_pending)
		return;
	call->is_pending = false;
	mesh__call_target_loop(call)->pending--;
}

void mesh__resolve_leave(struct mesh_call *call)
{
	mesh__timer_cancel(&call->resolve_limit);
	if (call->name_node.next)
		mesh__list_remove(&call->name_node);
	leave_pending(call);
}

static void on_limit(struct mesh__timer *timer, struct mesh__loop *lp)
{
	struct mesh_call *call = MESH__CONTAINER(timer, struct mesh_call, resolve_limit);

	(void)lp;
	mesh__resolve_leave(call);
	if (lacks_identity(call)) {
		blame_identity(call);
	} else if (mesh__service_state(call->target->service) == MESH__SERVICE_READY) {
		/* It has come this very moment, and the wake-up is on its way. */
		mesh__call_resume(call);
		return;
	} else {
		blame_name(call, mesh__service_state(call->target->service));
	}
	mesh__call_end(call);
}

static enum mesh__verdict wait_in(struct mesh__list *line, struct mesh_call *call)
{
	struct mesh__target_loop *tl = mesh__call_target_loop(call);
	const struct mesh__service_config *cfg = call->target->cfg;
	uint64_t limit_ns = atomic_load_explicit(&cfg->resolve_timeout_ns, memory_order_relaxed);
	uint32_t pending_max = atomic_load_explicit(&cfg->pending_max, memory_order_relaxed);

	if (tl->pending >= pending_max) {
		mesh__call_blame(call, MESH_E_REFUSED_LOCALLY, MESH_STAGE_RESOLVE, "%s: %u calls wait on this loop already (option pending.max)",
				 call->target->name, pending_max);
		return MESH__REFUSE;
	}
	tl->pending++;
	call->is_pending = true;
	mesh__list_append(line, &call->name_node);
	call->resolve_limit.fire = on_limit;
	mesh__timer_set(call->lp, &call->resolve_limit, call->start_ns + limit_ns);
	return MESH__WAIT;
}

enum mesh__verdict mesh__step_resolve(struct mesh_call *call)
{
	enum mesh__service_state state = mesh__service_state(call->target->service);

	if (lacks_identity(call)) {
		if (!(call->flags & MESH_CALL_FAIL_FAST))
			return wait_in(&call->target->flow->loops[call->lp->index].waiting_identity, call);
		blame_identity(call);
		return MESH__REFUSE;
	}
	if (state == MESH__SERVICE_READY) {
		if (!call->attempts)
			call->info.resolve_ns = call->lp->now_ns - call->start_ns - call->info.queue_ns;
		return MESH__GO;
	}
	if (state != MESH__SERVICE_RESOLVING && call->flags & MESH_CALL_FAIL_FAST) {
		blame_name(call, state);
		return MESH__REFUSE;
	}
	return wait_in(&mesh__call_target_loop(call)->waiting_name, call);
}

static void ask_again(struct mesh__list *line)
{
	struct mesh__list *node, all = *line;

	if (mesh__list_is_empty(line))
		return;
	all.next->prev = all.prev->next = &all;
	mesh__list_init(line);
	while ((node = mesh__list_take_first(&all))) {
		struct mesh_call *call = MESH__CONTAINER(node, struct mesh_call, name_node);

		mesh__resolve_leave(call);
		mesh__call_resume(call);
	}
}

/* The set has changed: everybody asks again. */
void mesh__resolve_wake(struct mesh__target_loop *tl)
{
	if (mesh__service_state(tl->target->service) != MESH__SERVICE_RESOLVING)
		ask_again(&tl->waiting_name);
}

void mesh__resolve_identity_came(struct mesh__flow_loop *fl)
{
	ask_again(&fl->waiting_identity);
}
