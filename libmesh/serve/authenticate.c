/* A peer is known before its bytes are believed: who it is goes with its connection, and from there with each request. */
#include "serve/authenticate.h"

#include "base/memory.h"
#include "serve/serve.h"

#include <stdio.h>
#include <string.h>

/* On a helper thread. Nothing that such a peer could ask for is allowed: it hears so instead of a finished handshake. */
static bool is_hopeless(void *user, const struct mesh__spiffe_id *peer, const struct mesh__credentials *ours, char *why, size_t capacity)
{
	const struct mesh__svid *svid = mesh__credentials_svid(ours, NULL, NULL);
	struct mesh__policy *policy;
	char own_domain[MESH__TRUST_DOMAIN_MAX + 1] = "", rule[MESH__RULE_NAME_MAX] = "";
	bool is_so;

	if (svid)
		mesh__spiffe_id_copy_domain(&svid->facts.id, own_domain);
	policy = mesh__policy_live_take(user);
	is_so = mesh__policy_is_hopeless(policy, peer, own_domain, rule);
	mesh__policy_unref(policy);
	if (is_so)
		snprintf(why, capacity, strncmp(rule, "default:", 8) ? "rule %s denies it all" : "no rule lets it in (%s; see options policy and allow)", rule);
	return is_so;
}

static struct mesh__server_secure *new_secure(const char *service, const struct mesh__secure_options *like)
{
	struct mesh__server_secure *secure = mesh__memory_zalloc(sizeof(*secure));
	struct mesh__labels labels = { .service = service, .side = "server" };

	if (!secure)
		return NULL;
	snprintf(secure->service, sizeof(secure->service), "%s", service);
	secure->opts = *like;
	secure->opts.service = secure->opts.counted_as = secure->service;
	secure->opts.is_hopeless = like->user ? is_hopeless : NULL;
	secure->opts.handshakes = mesh__stats_counter(like->stats, MESH__METRIC_HANDSHAKES_TOTAL, &labels);
	secure->opts.latency = mesh__stats_histogram(like->stats, MESH__METRIC_HANDSHAKE_LATENCY_NS, &labels);
	return secure;
}

struct mesh__server_secure *mesh__server_secure_of(struct mesh__server_secure **list, const char *service,
						   const struct mesh__secure_options *like)
{
	struct mesh__server_secure *secure;

	for (secure = *list; secure; secure = secure->next)
		if (strcmp(secure->service, service) == 0)
			return secure;
	secure = new_secure(service, like);
	if (!secure)
		return NULL;
	secure->next = *list;
	*list = secure;
	return secure;
}

void mesh__server_secure_free_all(struct mesh__server_secure **list)
{
	while (*list) {
		struct mesh__server_secure *secure = *list;

		*list = secure->next;
		mesh__memory_free(secure);
	}
}

void mesh__authenticate_conn(struct mesh__conn_entry *entry)
{
	struct mesh__conn *conn = &entry->conn;

	if (!conn->secure_options)
		return;
	if (conn->peer_id)
		entry->peer = mesh__peer_new(conn->peer_id, mesh__tls_svid(conn->secure->tls));
	if (!entry->peer) /* a stranger must not pass for nobody, to whom no rule applies */
		mesh__conn_close(conn, MESH_E_NOMEM, "nomem", "out of memory for who the peer is");
}

bool mesh__authenticate_is_done(const struct mesh__conn_entry *entry)
{
	return !entry->conn.secure_options || entry->peer;
}

void mesh__authenticate_request(struct mesh_request *request)
{
	request->peer_identity = mesh__peer_ref(request->entry->peer);
	if (!request->peer_identity)
		return;
	request->peer_id = &request->peer_identity->id;
	request->own_domain = request->peer_identity->own_domain;
}
