/* A policy, and the list of option allow, with whatever text: it is refused with a sentence, or it decides. */
#include "fuzz.h"

#include "identity/policy.h"

static void decide(struct mesh__policy *policy, const struct mesh__spiffe_id *peer)
{
	struct mesh__policy_question question = { .peer = peer, .own_domain = "prod.example", .service = "users", .method = "GET",
						  .path = "/v1/a", .path_len = 5 };
	struct mesh__policy_answer answer;

	mesh__policy_decide(policy, &question, &answer);
	if (!*answer.rule || !answer.dry_run_count != !*answer.dry_run)
		abort();
	if (answer.is_allowed && mesh__policy_is_hopeless(policy, peer, question.own_domain, NULL))
		abort();
	mesh__policy_unref(policy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const char id[] = "spiffe://prod.example/ns/shop/sa/cart";
	struct mesh_error err = MESH_ERROR_INIT;
	char *text = fuzz_text(data, len);
	struct mesh__spiffe_id peer;
	struct mesh__policy *policy;
	const char *why;

	if (mesh__spiffe_id_parse(&peer, id, sizeof(id) - 1, &why))
		abort();
	if (mesh__policy_parse(&policy, text, len, &err) == 0)
		decide(policy, &peer);
	else if (policy || !*err.message)
		abort();
	err = (struct mesh_error)MESH_ERROR_INIT;
	if (mesh__policy_from_allow(&policy, text, &err) == 0)
		decide(policy, &peer);
	else if (policy || !*err.message)
		abort();
	free(text);
	return 0;
}
