#include "mesh/identity.h"

#include "api/handle.h"

#include <stdio.h>
#include <string.h>

int mesh_identity_status(mesh *m, struct mesh_identity_status *out)
{
	struct mesh_identity_status all = { .size = sizeof(all) };
	struct mesh__identity_status status;
	int rc;

	if (!out || out->size < sizeof(*out))
		return MESH_E_INVALID;
	rc = mesh__handle_enter(m, NULL);
	if (rc)
		return rc;
	mesh__identity_status(m->identity, &status);
	all.is_tls = status.is_tls;
	all.generation = status.generation;
	all.renewals = status.renewals;
	all.failures = status.failures;
	all.last_renewal_s = status.last_renewal_s;
	all.next_renewal_s = status.next_renewal_s;
	all.overdue_since_s = status.overdue_since_s;
	all.last_failure_s = status.last_failure_s;
	snprintf(all.source, sizeof(all.source), "%s", status.source);
	snprintf(all.last_failure, sizeof(all.last_failure), "%s", status.last_failure);
	mesh__handle_leave(m);
	*out = all;
	return 0;
}

/* What we hold now; NULL with *rc 0: nothing. The callbacks run without a lock: a reference keeps it. */
static struct mesh__credentials *peek(mesh *m, int *rc)
{
	struct mesh__credentials *credentials;

	*rc = mesh__handle_enter(m, NULL);
	if (*rc)
		return NULL;
	credentials = mesh__identity_peek(m->identity);
	mesh__handle_leave(m);
	return credentials;
}

int mesh_identity_list(mesh *m, mesh_identity_fn fn, void *user)
{
	struct mesh__credentials *credentials;
	int rc;

	if (!fn)
		return MESH_E_INVALID;
	credentials = peek(m, &rc);
	for (uint32_t i = 0; credentials && i < credentials->svid_count; i++) {
		const struct mesh__svid *svid = credentials->svids[i];
		struct mesh_identity identity = {
			.size = sizeof(identity), .is_default = i == 0, .id = svid->facts.id.text, .serial = svid->facts.serial,
			.issuer = svid->facts.issuer, .hint = svid->hint, .not_before_s = svid->facts.not_before_s,
			.not_after_s = svid->facts.not_after_s,
		};

		mesh__certificate_ends(svid->chain.next, &identity.issuer_not_after_s, NULL);
		fn(&identity, user);
	}
	mesh__credentials_unref(credentials);
	return rc;
}

int mesh_identity_trusts(mesh *m, mesh_trust_fn fn, void *user)
{
	struct mesh__credentials *credentials;
	int rc;

	if (!fn)
		return MESH_E_INVALID;
	credentials = peek(m, &rc);
	for (uint32_t i = 0; credentials && i < credentials->bundle_count; i++) {
		const struct mesh__bundle *bundle = credentials->bundles[i];
		struct mesh_trust trust = {
			.size = sizeof(trust), .certificate_count = bundle->count, .domain = bundle->domain,
			.is_own = credentials->svid_count && mesh__spiffe_id_is_member(&credentials->svids[0]->facts.id, bundle->domain),
		};

		mesh__certificate_ends(&bundle->cas, NULL, &trust.not_after_s);
		fn(&trust, user);
	}
	mesh__credentials_unref(credentials);
	return rc;
}

const char *mesh_request_peer_id(const mesh_request *request)
{
	return request && request->peer_id ? request->peer_id->text : "";
}

const char *mesh_call_peer_id(const mesh_call *call)
{
	return call && atomic_load_explicit(&call->has_result, memory_order_acquire) && call->peer ? call->peer->id.text : "";
}
