/* A bundle in each of its formats; the first byte says which. What is taken holds authorities only. */
#include "fuzz.h"

#include "identity/bundle.h"
#include "identity/certificate.h"

#include <psa/crypto.h>

static void check(const struct mesh__bundle *bundle)
{
	const mbedtls_x509_crt *ca = &bundle->cas;
	char why[256];

	for (uint32_t i = 0; i < bundle->count; i++, ca = ca->next)
		if (!ca || mesh__certificate_check_ca(ca, bundle->domain, why, sizeof(why)))
			abort();
	if (bundle->count > MESH__BUNDLE_CERTIFICATES_MAX || (bundle->count && ca))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct mesh__bundle *bundle;
	char why[512] = "";

	if (psa_crypto_init() != PSA_SUCCESS)
		abort();
	if (!len)
		return 0;
	if (mesh__bundle_parse(&bundle, "prod.example", (enum mesh__bundle_format)(data[0] % 3), data + 1, len - 1, data[0] & 4, why, sizeof(why)) == 0)
		check(bundle);
	else if (bundle || !*why)
		abort();
	mesh__bundle_unref(bundle);
	return 0;
}
