/*
 * A chain of certificates as a peer shows it, in DER or (if it begins like that) in PEM: facts, rules, and verification against the
 * chain's own last certificate as authority. A refusal has a reason, and what is taken has an ID.
 */
#include "fuzz.h"

#include "identity/certificate.h"

#include <psa/crypto.h>

static void verify(mbedtls_x509_crt *chain)
{
	const mbedtls_x509_crt *last = chain;
	struct mesh__bundle *bundle = NULL;
	struct mesh__spiffe_id id;
	char why[512] = "", domain[MESH__TRUST_DOMAIN_MAX + 1];
	enum mesh__refusal refusal;

	while (last->next)
		last = last->next;
	refusal = mesh__certificate_check_leaf(chain, &id, why, sizeof(why));
	if ((refusal != MESH__REFUSAL_NONE) != (*why != '\0') || (!refusal && !id.len) || (unsigned)refusal >= MESH__REFUSAL_COUNT)
		abort();
	memcpy(domain, mesh__spiffe_id_domain(&id), id.domain_len);
	domain[id.domain_len] = '\0';
	if (mesh__bundle_parse(&bundle, id.domain_len ? domain : "prod.example", MESH__BUNDLE_DER, last->raw.p, last->raw.len, true, why, sizeof(why)))
		bundle = NULL;
	*why = '\0';
	refusal = mesh__certificate_verify(chain, bundle, NULL, &id, why, sizeof(why));
	if ((refusal != MESH__REFUSAL_NONE) != (*why != '\0') || (!refusal && (!id.len || !bundle)))
		abort();
	mesh__bundle_unref(bundle);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct mesh__certificate_facts facts;
	mbedtls_x509_crt chain;
	char why[512] = "";
	uint32_t count;
	int rc;

	if (psa_crypto_init() != PSA_SUCCESS)
		abort();
	mbedtls_x509_crt_init(&chain);
	rc = mesh__certificate_parse_all(&chain, len && data[0] == 0x30, data, len, 16, &count, why, sizeof(why));
	if (rc && !*why)
		abort();
	if (!rc && count) {
		for (const mbedtls_x509_crt *crt = &chain; crt; crt = crt->next) {
			mesh__certificate_facts(crt, &facts);
			mesh__certificate_check_ca(crt, NULL, why, sizeof(why));
		}
		verify(&chain);
	}
	mbedtls_x509_crt_free(&chain);
	return 0;
}
