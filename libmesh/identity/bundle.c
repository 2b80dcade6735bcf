/*
 * Bundles, whichever way they come. All end in the same list of certificates, and each must be one that may sign: a workload's
 * certificate among them would let that workload make others, so it refuses the whole.
 */
#include "identity/bundle.h"

#include "base/memory.h"
#include "identity/certificate.h"
#include "mesh/error.h"

#include <jansson.h>
#include <mbedtls/base64.h>
#include <string.h>

#define say mesh__certificate_say

enum { REASON_MAX = 512 };

/* --- SPIFFE bundle: a JWK set --- */

static int read_x5c(struct mesh__bundle *bundle, const char *base64, size_t len, char *why, size_t capacity)
{
	size_t room = len / 4 * 3 + 3, der_len;
	uint8_t *der = mesh__memory_alloc(room);
	uint32_t count = 0;
	int rc;

	if (!der)
		return MESH_E_NOMEM;
	if (mbedtls_base64_decode(der, room, &der_len, (const unsigned char *)base64, len)) {
		say(why, capacity, "its x5c is not base64");
		rc = MESH_E_CORRUPT;
		goto out;
	}
	/* One certificate, and nothing behind it. */
	rc = mesh__certificate_parse_all(&bundle->cas, true, der, der_len, 1, &count, why, capacity);
	if (!rc && !count) {
		say(why, capacity, "its x5c is empty");
		rc = MESH_E_CORRUPT;
	}
	bundle->count += count;
out:
	mesh__memory_free(der);
	return rc;
}

static int read_jwk(struct mesh__bundle *bundle, const json_t *jwk, char *why, size_t capacity)
{
	const json_t *x5c = json_object_get(jwk, "x5c"), *first = json_array_get(x5c, 0);
	const char *use = json_string_value(json_object_get(jwk, "use"));

	if (!json_is_object(jwk)) {
		say(why, capacity, "it is not an object");
		return MESH_E_CORRUPT;
	}
	/* Keys for JWT-SVIDs stand beside ours; a use that is not known is to be ignored. */
	if (!use || strcmp(use, "x509-svid"))
		return 0;
	if (!json_is_string(first)) {
		say(why, capacity, "its use is x509-svid, but it has no x5c with a certificate");
		return MESH_E_CORRUPT;
	}
	if (bundle->count == MESH__BUNDLE_CERTIFICATES_MAX) {
		say(why, capacity, "there are more than %d certificates", MESH__BUNDLE_CERTIFICATES_MAX);
		return MESH_E_CORRUPT;
	}
	return read_x5c(bundle, json_string_value(first), json_string_length(first), why, capacity);
}

static int read_keys(struct mesh__bundle *bundle, const json_t *keys, char *why, size_t capacity)
{
	char reason[REASON_MAX] = "";
	int rc = 0;

	if (!json_is_array(keys)) {
		say(why, capacity, "it is not a JWK set: it has no array \"keys\"");
		return MESH_E_CORRUPT;
	}
	for (size_t i = 0; !rc && i < json_array_size(keys); i++) {
		rc = read_jwk(bundle, json_array_get(keys, i), reason, sizeof(reason));
		if (rc)
			say(why, capacity, "key %zu of the JWK set: %s", i + 1, rc == MESH_E_NOMEM ? "out of memory" : reason);
	}
	return rc;
}

static int read_jwks(struct mesh__bundle *bundle, const void *data, size_t len, char *why, size_t capacity)
{
	json_error_t error;
	json_t *root = json_loadb(data, len, JSON_REJECT_DUPLICATES, &error);
	int rc;

	if (!root) {
		say(why, capacity, "line %d, column %d: %s", error.line, error.column, error.text);
		return json_error_code(&error) == json_error_out_of_memory ? MESH_E_NOMEM : MESH_E_CORRUPT;
	}
	rc = read_keys(bundle, json_object_get(root, "keys"), why, capacity);
	json_decref(root);
	return rc;
}

/* --- all kinds --- */

static int read_any(struct mesh__bundle *bundle, enum mesh__bundle_format format, const void *data, size_t len, char *why, size_t capacity)
{
	if (len > MESH__BUNDLE_BYTES_MAX) {
		say(why, capacity, "it has %zu bytes, more than %d", len, MESH__BUNDLE_BYTES_MAX);
		return MESH_E_CORRUPT;
	}
	if (format == MESH__BUNDLE_JWKS)
		return read_jwks(bundle, data, len, why, capacity);
	return mesh__certificate_parse_all(&bundle->cas, format == MESH__BUNDLE_DER, data, len, MESH__BUNDLE_CERTIFICATES_MAX, &bundle->count, why,
					   capacity);
}

static int check_all(const struct mesh__bundle *bundle, bool may_be_empty, char *why, size_t capacity)
{
	char reason[REASON_MAX] = "";
	const mbedtls_x509_crt *ca = &bundle->cas;

	if (!bundle->count && !may_be_empty) {
		say(why, capacity, "it is empty: there is no certificate in it");
		return MESH_E_CORRUPT;
	}
	for (uint32_t i = 0; i < bundle->count; i++, ca = ca->next) {
		if (mesh__certificate_check_ca(ca, bundle->domain, reason, sizeof(reason))) {
			say(why, capacity, "certificate %u: %s", i + 1, reason);
			return MESH_E_CORRUPT;
		}
	}
	return 0;
}

static int fill(struct mesh__bundle *bundle, enum mesh__bundle_format format, const void *data, size_t len, bool may_be_empty, char *why,
		size_t capacity)
{
	int rc = read_any(bundle, format, data, len, why, capacity);

	return rc ? rc : check_all(bundle, may_be_empty, why, capacity);
}

int mesh__bundle_parse(struct mesh__bundle **out, const char *domain, enum mesh__bundle_format format, const void *data, size_t len,
		       bool may_be_empty, char *why, size_t capacity)
{
	char reason[REASON_MAX] = "";
	struct mesh__bundle *bundle;
	const char *phrase;
	int rc;

	*out = NULL;
	if (mesh__trust_domain_check(domain, strlen(domain), &phrase)) {
		say(why, capacity, "the bundle is for no trust domain (\"%.64s\"): %s", domain, phrase);
		return MESH_E_CORRUPT;
	}
	bundle = mesh__memory_zalloc(sizeof(*bundle));
	if (!bundle) {
		say(why, capacity, "the bundle of %s: out of memory", domain);
		return MESH_E_NOMEM;
	}
	atomic_init(&bundle->refs, 1);
	mbedtls_x509_crt_init(&bundle->cas);
	memcpy(bundle->domain, domain, strlen(domain) + 1);
	rc = fill(bundle, format, data, len, may_be_empty, reason, sizeof(reason));
	if (rc) {
		say(why, capacity, "the bundle of %s: %s", domain, reason);
		mesh__bundle_unref(bundle);
		return rc;
	}
	*out = bundle;
	return 0;
}

struct mesh__bundle *mesh__bundle_ref(struct mesh__bundle *bundle)
{
	atomic_fetch_add_explicit(&bundle->refs, 1, memory_order_relaxed);
	return bundle;
}

void mesh__bundle_unref(struct mesh__bundle *bundle)
{
	if (!bundle || atomic_fetch_sub_explicit(&bundle->refs, 1, memory_order_acq_rel) != 1)
		return;
	mbedtls_x509_crt_free(&bundle->cas);
	mesh__memory_free(bundle);
}
