/*
 * Who may call what: rules of a server, over the peer's verified ID, our service, method and path. A policy is immutable and
 * counted; deciding is a pure function. Written as JSON in the file of option `policy`, or as the patterns of option `allow`:
 *
 *   { "rules": [ { "name": "staging-stays-out", "deny": ["spiffe://staging.example/ *"] },
 *                { "name": "shop-may-read", "allow": ["spiffe://prod.example/ns/shop/sa/ *"], "service": "users",
 *                  "methods": ["GET"], "paths": ["/v1/ *", "/shop.Users/Get"], "dry_run": false } ],
 *     "default": "trust-domain" }
 *
 * (without the blanks before the stars). The first rule that matches decides. `default`: "trust-domain" (peers of our own trust
 * domain may), "deny" or "allow"; not written, it is "deny" if there is an allow rule, else "trust-domain". A dry-run rule decides
 * nothing and is counted; nor does it change the default that is not written (what it would have changed is counted as
 * "default:deny"). An ID pattern is an exact ID, or ends in a whole segment "*" (all below it, at any depth), or is "*" alone. A path
 * pattern is exact or ends in "*"; paths are compared as they came, as handlers are found, and as a handler may read them (plain_path.h): an
 * allow rule matches only if both forms do, a deny rule if one does (a path with ".." in it: no allow rule that has paths does, each deny rule does). Names are unique; a rule without one is "rule-N".
 */
#ifndef MESH_IDENTITY_POLICY_H
#define MESH_IDENTITY_POLICY_H

#include "identity/spiffe_id.h"
#include "mesh/error.h"

enum { MESH__POLICY_BYTES_MAX = 1024 * 1024, MESH__POLICY_RULES_MAX = 1000, MESH__RULE_NAME_MAX = 64 };

struct mesh__policy;

/* MESH_E_CORRUPT with a sentence: which rule, which key, which line; one bad rule refuses the whole. */
int mesh__policy_parse(struct mesh__policy **out, const char *text, size_t len, struct mesh_error *err);
int mesh__policy_from_allow(struct mesh__policy **out, const char *patterns, struct mesh_error *err); /* separated by spaces or commas; MESH_E_OPTION */
int mesh__policy_default(struct mesh__policy **out); /* no rules: the own trust domain */
struct mesh__policy *mesh__policy_ref(struct mesh__policy *policy);
void mesh__policy_unref(struct mesh__policy *policy);

struct mesh__policy_question {
	const struct mesh__spiffe_id *peer;
	const char *own_domain, *service, *method, *path; /* path without its query; gRPC: "/pkg.Service/Method", method "POST" */
	size_t path_len;
};
struct mesh__policy_answer {
	bool is_allowed;
	char rule[MESH__RULE_NAME_MAX]; /* that decided; "default:trust-domain" */
	uint32_t dry_run_count;         /* rules on trial that would have denied an allowed call */
	char dry_run[MESH__RULE_NAME_MAX]; /* the first of them */
};
void mesh__policy_decide(const struct mesh__policy *policy, const struct mesh__policy_question *question, struct mesh__policy_answer *answer);

/* Can a connection from this peer lead to nothing at all? Then its handshake need not be finished; `rule` says by which. NULL: nobody asks. */
bool mesh__policy_is_hopeless(const struct mesh__policy *policy, const struct mesh__spiffe_id *peer, const char *own_domain,
			      char rule[MESH__RULE_NAME_MAX]);

#endif
