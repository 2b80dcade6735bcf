/*
 * A revocation list with the authority that may have signed it: one octet (1: DER, else PEM), two of length, the authority as DER, the list. What is taken is asked
 * for the authority itself and for the list's own entries.
 */
#include "fuzz.h"

#include "identity/certificate.h"

#include <psa/crypto.h>

enum { HEAD_BYTES = 3 };

static void ask(const struct mesh__revocations *revocations, struct mesh__bundle *bundle)
{
	enum mesh__revocation found;
	mbedtls_x509_time at;

	if ((revocations->count == 0) != !revocations->first || revocations->stranger_count > revocations->count)
		abort();
	if (!bundle || !bundle->count)
		return;
	found = mesh__revocations_find(revocations, &bundle->cas, &bundle->cas, true, &at);
	(void)mesh__revocations_find(revocations, &bundle->cas, &bundle->cas, false, &at);
	if (found == MESH__REVOCATION_REVOKED && bundle->cas.issuer_raw.len == bundle->cas.subject_raw.len &&
	    !memcmp(bundle->cas.issuer_raw.p, bundle->cas.subject_raw.p, bundle->cas.subject_raw.len) && !mesh__revocations_name(revocations, bundle->cas.raw.p, bundle->cas.raw.len))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct mesh__revocations revocations = { 0 };
	struct mesh__bundle *bundle = NULL;
	char why[512] = "";
	size_t ca_len;
	int rc;

	if (psa_crypto_init() != PSA_SUCCESS)
		abort();
	if (len < HEAD_BYTES)
		return 0;
	ca_len = (size_t)data[1] << 8 | data[2];
	if (ca_len > len - HEAD_BYTES)
		ca_len = len - HEAD_BYTES;
	if (mesh__bundle_parse(&bundle, "prod.example", MESH__BUNDLE_DER, data + HEAD_BYTES, ca_len, true, why, sizeof(why)))
		bundle = NULL;
	*why = '\0';
	rc = mesh__revocations_add(&revocations, &bundle, bundle ? 1 : 0, data[0] == 1, data + HEAD_BYTES + ca_len, len - HEAD_BYTES - ca_len, why, sizeof(why));
	if ((rc != 0) != (*why != '\0'))
		abort();
	ask(&revocations, bundle);
	mesh__revocations_fini(&revocations);
	mesh__bundle_unref(bundle);
	return 0;
}
