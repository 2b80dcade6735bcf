/* Messages of whoever listens on the Workload API's socket. */
#include "fuzz.h"

#include "identity/workload.h"

#include <psa/crypto.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct mesh__credentials *credentials = NULL;
	char why[256] = "";

	if (psa_crypto_init() != PSA_SUCCESS)
		abort();
	if (mesh__workload_parse(data, len, &credentials, why, sizeof(why)) ? credentials || !*why : !credentials->svid_count)
		abort();
	mesh__credentials_unref(credentials);
	return 0;
}
