/*
 * May this peer ask for this? After authentication, before capacity is spent. Plain text connections have no peer to speak of, and
 * are as free as option tls made them.
 */
#include "serve/serve.h"

#include <stdio.h>
#include <string.h>

enum { METHOD_BYTES = 32 /* no rule names a longer one */, PATH_LOGGED_BYTES = 200 };

static void count(const mesh_server *server, enum mesh__metric metric, const char *rule)
{
	struct mesh__labels labels = { .service = server->service, .reason = rule };

	mesh__counter_add(mesh__stats_counter(server->opts.stats, metric, &labels), mesh__shard_mine(), 1);
}

/* The policy of this moment. The lock of the live one is taken once per change, not per request. */
static const struct mesh__policy *current_policy(struct mesh__server_loop *sl)
{
	struct mesh__policy_live *live = sl->server->policy;
	uint64_t generation = mesh__policy_live_generation(live);

	if (!sl->policy || sl->policy_generation != generation) {
		mesh__policy_unref(sl->policy);
		sl->policy = mesh__policy_live_take(live);
		sl->policy_generation = generation; /* if it is newer by now, the next request sees so */
	}
	return sl->policy;
}

/* What dispatch goes by, and no other reading of it: whatever the verb, gRPC is POST, and only HTTP paths have a query. */
static void ask(const struct mesh_request *request, const char *method, size_t method_len, const char *path, size_t path_len,
		struct mesh__policy_answer *answer)
{
	const char *query = request->is_grpc ? NULL : memchr(path, '?', path_len);
	char verb[METHOD_BYTES] = "";
	struct mesh__policy_question question = {
		.peer = request->peer_id, .own_domain = request->own_domain, .service = request->server->service, .method = verb,
		.path = path, .path_len = query ? (size_t)(query - path) : path_len,
	};

	if (request->is_grpc)
		memcpy(verb, "POST", 5);
	else if (method && method_len < sizeof(verb))
		memcpy(verb, method, method_len);
	mesh__policy_decide(current_policy(request->sl), &question, answer);
}

/* The peer hears which rule it was, and so does the host: either may be who has to mend it. */
static void log_denial(const struct mesh_request *request, const struct mesh__policy_answer *answer, const char *method, size_t method_len, const char *path,
		       size_t path_len)
{
	const char *query = memchr(path, '?', path_len);
	size_t len = query ? (size_t)(query - path) : path_len;
	bool is_trial = answer->is_allowed;

	if (!mesh__server_may_log(request->sl, &request->sl->denials, "requests were denied, or would have been (mesh_authorization_... count them by rule)"))
		return;
	mesh__log_write(request->server->opts.log, is_trial ? MESH_LOG_INFO : MESH_LOG_WARN, "server %s: %.300s %s call %.*s %.*s: rule %s%s", request->server->service,
			request->peer_id->text, is_trial ? "may still" : "may not", method ? (int)(method_len < METHOD_BYTES ? method_len : METHOD_BYTES) : 0,
			method ? method : "", (int)(len < PATH_LOGGED_BYTES ? len : PATH_LOGGED_BYTES), path, is_trial ? answer->dry_run : answer->rule,
			is_trial ? " would deny it (dry run)" : " denies it");
}

bool mesh__authorize(struct mesh_request *request, const char *method, size_t method_len, const char *path, size_t path_len)
{
	struct mesh__policy_answer answer;
	char sentence[512];

	if (!request->peer_id)
		return true;
	if (request->server->policy)
		ask(request, method, method_len, path, path_len, &answer);
	else /* never so in an open mesh: rather closed than open */
		answer = (struct mesh__policy_answer){ .rule = "no-policy" };
	if (!answer.is_allowed || answer.dry_run_count)
		log_denial(request, &answer, method, method_len, path, path_len);
	if (answer.dry_run_count)
		count(request->server, MESH__METRIC_AUTHORIZATION_DRY_RUN_TOTAL, answer.dry_run);
	if (answer.is_allowed)
		return true;
	count(request->server, MESH__METRIC_AUTHORIZATION_DENIED_TOTAL, answer.rule);
	snprintf(sentence, sizeof(sentence), "%.300s may not call this: rule %s of service %.100s denies it", request->peer_id->text, answer.rule,
		 request->server->service);
	mesh__request_refuse(request, 403, MESH__GRPC_PERMISSION_DENIED, sentence);
	return false;
}
