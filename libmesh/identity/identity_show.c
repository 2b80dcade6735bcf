/* What others see of an identity: the page in shared memory. Never a key. */
#include "identity/identity.h"

#include "stats/identity_page.h"

#include <mbedtls/version.h>
#include <string.h>

uint32_t mesh__identity_tls_version(void)
{
	return mbedtls_version_get_number();
}

static void fill_svid(struct mesh__stats_identity *page, char domain[MESH__TRUST_DOMAIN_MAX + 1], const struct mesh__svid *svid)
{
	mesh__spiffe_id_copy_domain(&svid->facts.id, domain);
	page->spiffe_id = svid->facts.id.text;
	page->trust_domain = domain;
	page->serial = svid->facts.serial;
	page->issuer = svid->facts.issuer;
	page->not_before_s = svid->facts.not_before_s;
	page->not_after_s = svid->facts.not_after_s;
	mesh__certificate_ends(svid->chain.next, &page->issuer_not_after_s, NULL);
}

static int32_t state_of(const struct mesh__identity_status *status, const struct mesh__credentials *credentials)
{
	if (!status->is_tls)
		return MESH_STATS_IDENTITY_OFF;
	if (!credentials || !credentials->svid_count)
		return MESH_STATS_IDENTITY_NONE;
	return status->overdue_since_s ? MESH_STATS_IDENTITY_OVERDUE : MESH_STATS_IDENTITY_OK; /* that it has expired says the reader's clock */
}

void mesh__identity_show(struct mesh__identity *identity, struct mesh__stats *stats)
{
	struct mesh__credentials *credentials = mesh__identity_peek(identity);
	struct mesh__stats_bundle bundles[MESH__BUNDLES_MAX];
	struct mesh__stats_identity page = { .bundles = bundles };
	struct mesh__identity_status status;
	char domain[MESH__TRUST_DOMAIN_MAX + 1];

	mesh__identity_status(identity, &status);
	page.state = state_of(&status, credentials);
	page.source = status.source;
	page.generation = status.generation;
	page.renewals = status.renewals;
	page.failures = status.failures;
	page.last_failure = status.last_failure;
	page.last_failure_s = status.last_failure_s;
	page.last_renewal_s = status.last_renewal_s;
	page.next_renewal_s = status.next_renewal_s;
	page.overdue_since_s = status.overdue_since_s;
	if (credentials && credentials->svid_count)
		fill_svid(&page, domain, credentials->svids[0]);
	for (uint32_t i = 0; credentials && i < credentials->bundle_count; i++) {
		struct mesh__stats_bundle *bundle = &bundles[page.bundle_count++];

		*bundle = (struct mesh__stats_bundle){ .trust_domain = credentials->bundles[i]->domain, .certificate_count = credentials->bundles[i]->count };
		mesh__certificate_ends(&credentials->bundles[i]->cas, &bundle->earliest_not_after_s, &bundle->latest_not_after_s);
	}
	mesh__stats_set_identity(stats, &page);
	mesh__credentials_unref(credentials);
}
