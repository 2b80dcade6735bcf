#include "../lib/certificates.h"

#include "identity/bundle.h"
#include "mesh/error.h"

#include <mbedtls/base64.h>
#include <psa/crypto.h>
#include <stdlib.h>

static struct certificate first, second, leaf;

static int make_authorities(void **state)
{
	(void)state;
	if (psa_crypto_init() != PSA_SUCCESS)
		return -1;
	make_certificate(&first, &(struct certificate_spec){ AUTHORITY("prod.example") });
	make_certificate(&second, &(struct certificate_spec){ .subject = "CN=second", .is_ca = true });
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &first, .uris = { "spiffe://prod.example/a" } });
	return 0;
}

static int free_authorities(void **state)
{
	(void)state;
	free_certificate(&first);
	free_certificate(&second);
	free_certificate(&leaf);
	return 0;
}

static void expect_good(enum mesh__bundle_format format, const void *data, size_t len, uint32_t count)
{
	struct mesh__bundle *bundle;
	char why[512] = "";
	uint32_t listed = 0;

	if (mesh__bundle_parse(&bundle, "prod.example", format, data, len, true, why, sizeof(why)))
		fail_msg("%s", why);
	assert_int_equal(bundle->count, count);
	assert_string_equal(bundle->domain, "prod.example");
	for (const mbedtls_x509_crt *ca = &bundle->cas; ca && ca->raw.p; ca = ca->next)
		listed++;
	assert_int_equal(listed, count);
	assert_ptr_equal(mesh__bundle_ref(bundle), bundle);
	mesh__bundle_unref(bundle);
	mesh__bundle_unref(bundle);
}

static void expect_bad(enum mesh__bundle_format format, const void *data, size_t len, bool may_be_empty, const char *phrase)
{
	struct mesh__bundle *bundle;
	char why[512] = "";

	assert_int_equal(mesh__bundle_parse(&bundle, "prod.example", format, data, len, may_be_empty, why, sizeof(why)), MESH_E_CORRUPT);
	assert_null(bundle);
	if (!strstr(why, phrase) || strncmp(why, "the bundle of prod.example: ", 28))
		fail_msg("not \"%s\": %s", phrase, why);
}

static void pem_is_read_with_whatever_text_is_around(void **state)
{
	char text[32768];

	(void)state;
	expect_good(MESH__BUNDLE_PEM, first.pem, strlen(first.pem), 1);
	expect_good(MESH__BUNDLE_PEM, first.pem, strlen(first.pem) + 1, 1);
	snprintf(text, sizeof(text), "# ours\n%s\n\nsubject=CN = second\n%s# end", first.pem, second.pem);
	expect_good(MESH__BUNDLE_PEM, text, strlen(text), 2);
	expect_good(MESH__BUNDLE_PEM, "", 0, 0);
	expect_good(MESH__BUNDLE_PEM, NULL, 0, 0);
	expect_good(MESH__BUNDLE_PEM, " \n\n", 3, 0);
}

static void one_bad_block_of_pem_refuses_the_whole(void **state)
{
	char text[32768], *at;

	(void)state;
	snprintf(text, sizeof(text), "%s%s", first.pem, second.pem);
	expect_bad(MESH__BUNDLE_PEM, text, strlen(text) - 30, true, "certificate 2 is cut off");
	at = strstr(text + strlen(first.pem), "\n");
	at[9] = '!';
	expect_bad(MESH__BUNDLE_PEM, text, strlen(text), true, "certificate 2 is not PEM");
	snprintf(text, sizeof(text), "%s%s", first.pem, second.pem);
	at = strstr(text, "-----END");
	memmove(at, strstr(at, "-----BEGIN"), strlen(strstr(at, "-----BEGIN")) + 1);
	expect_bad(MESH__BUNDLE_PEM, text, strlen(text), true, "certificate 1 is not PEM");
	snprintf(text, sizeof(text), "%s%s", first.pem, first.key_pem);
	expect_bad(MESH__BUNDLE_PEM, text, strlen(text), true, "a block \"PRIVATE KEY\" where only certificates belong");
	snprintf(text, sizeof(text), "%s%s", first.pem, leaf.pem);
	expect_bad(MESH__BUNDLE_PEM, text, strlen(text), true, "certificate 2: the authority's certificate \"CN=test\" may not sign");
	expect_bad(MESH__BUNDLE_PEM, "hello", 5, true, "there is no certificate in it, but other text");
	expect_bad(MESH__BUNDLE_PEM, first.der, first.len, true, "it is not PEM: it has bytes that are not text");
	expect_bad(MESH__BUNDLE_PEM, "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", 54, true, "certificate 1");
	expect_bad(MESH__BUNDLE_PEM, "", 0, false, "it is empty");
	expect_bad(MESH__BUNDLE_PEM, "-----BEGIN \033[2J-----", 20, true, "\\x1b[2J");
}

static void der_is_split_by_its_own_lengths(void **state)
{
	uint8_t bytes[32768];
	size_t len = first.len + second.len;

	(void)state;
	memcpy(bytes, first.der, first.len);
	memcpy(bytes + first.len, second.der, second.len);
	expect_good(MESH__BUNDLE_DER, bytes, len, 2);
	expect_good(MESH__BUNDLE_DER, bytes, first.len, 1);
	expect_good(MESH__BUNDLE_DER, NULL, 0, 0);
	for (size_t cut = first.len + 1; cut < len; cut++)
		expect_bad(MESH__BUNDLE_DER, bytes, cut, true, "certificate 2, ");
	bytes[len] = 0;
	expect_bad(MESH__BUNDLE_DER, bytes, len + 1, true, "certificate 3, ");
	expect_bad(MESH__BUNDLE_DER, "\x30\x80\x00\x00", 4, true, "certificate 1, 0 bytes from the start, is cut off");
	expect_bad(MESH__BUNDLE_DER, "\x30\x84\xff\xff\xff\xff\x30", 7, true, "certificate 1, 0 bytes from the start, is cut off");
	expect_bad(MESH__BUNDLE_DER, "\x30\x00", 2, true, "certificate 1: it is no certificate that can be read");
	expect_bad(MESH__BUNDLE_DER, first.pem, strlen(first.pem), true, "is not DER");
	expect_bad(MESH__BUNDLE_DER, "", 0, false, "it is empty");
}

static void what_may_not_sign_may_not_be_in_a_bundle(void **state)
{
	static const struct {
		struct certificate_spec spec;
		const char *phrase;
	} bad[] = {
		{ { .uris = { "spiffe://prod.example/a" } }, "lack CA=true" },
		{ { .is_ca = true, .is_without_key_usage = true }, "has no keyUsage; an authority's must have keyCertSign" },
		{ { .is_ca = true, .key_usage = 0x02 }, "has no keyCertSign" },
		{ { .is_ca = true, .uris = { "spiffe://prod.example/a" } }, "has a path" },
		{ { AUTHORITY("staging.example") }, "is of another trust domain" },
		{ { .is_ca = true, .key = KEY_RSA_1024 }, "fewer than 2048 bits" },
		{ { .is_ca = true, .subject = "CN=\\1b[2J", .is_without_constraints = true }, "may not sign" },
		{ { .is_ca = true, .extension = "\x2a\x03", .extension_len = 2, .is_extension_critical = true }, "critical extension that libmesh does not know (1.2.3)" },
	};
	struct certificate ca;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		make_certificate(&ca, &bad[i].spec);
		expect_bad(MESH__BUNDLE_DER, ca.der, ca.len, true, bad[i].phrase);
		free_certificate(&ca);
	}
	/* An authority that has expired is no error of the bundle: those beside it are still good. */
	make_certificate(&ca, &(struct certificate_spec){ .is_ca = true, .from_s = -100, .until_s = -50, .uris = { "https://ca.example/" } });
	expect_good(MESH__BUNDLE_DER, ca.der, ca.len, 1);
	free_certificate(&ca);
}

static const char *base64(const struct certificate *certificate, size_t extra)
{
	static char text[4][16384];
	static unsigned turn;
	char *out = text[turn++ % 4];
	size_t len;

	assert_int_equal(mbedtls_base64_encode((unsigned char *)out, sizeof(text[0]), &len, certificate->der, certificate->len + extra), 0);
	return out;
}

static void a_jwk_set_is_read_for_its_x509_keys(void **state)
{
	char text[65536];

	(void)state;
	snprintf(text, sizeof(text),
		 "{\"spiffe_sequence\": 7, \"spiffe_refresh_hint\": 600, \"keys\": ["
		 "{\"kty\": \"EC\", \"use\": \"x509-svid\", \"kid\": \"1\", \"x5c\": [\"%s\", \"not read\"]},"
		 "{\"kty\": \"EC\", \"use\": \"jwt-svid\", \"kid\": \"1\", \"x5c\": [\"?\"]}, {\"kty\": \"EC\"}, {\"use\": 5},"
		 "{\"use\": \"x509-svid\", \"x5c\": [\"%s\"]}]}",
		 base64(&first, 0), base64(&second, 0));
	expect_good(MESH__BUNDLE_JWKS, text, strlen(text), 2);
	expect_good(MESH__BUNDLE_JWKS, "{\"keys\": []}", 12, 0);
	expect_bad(MESH__BUNDLE_JWKS, "{\"keys\": []}", 12, false, "it is empty");
}

static void one_bad_key_of_a_jwk_set_refuses_the_whole(void **state)
{
	static const struct {
		const char *text, *phrase;
	} bad[] = {
		{ "", "line 1, column 0" },
		{ "{\"keys\": [}", "line 1, column 11" },
		{ "{\"keys\": []} x", "line 1" },
		{ "{\"keys\": [], \"keys\": []}", "duplicate" },
		{ "[]", "it has no array \"keys\"" },
		{ "{}", "it has no array \"keys\"" },
		{ "{\"keys\": {}}", "it has no array \"keys\"" },
		{ "{\"keys\": [5]}", "key 1 of the JWK set: it is not an object" },
		{ "{\"keys\": [{}, {\"use\": \"x509-svid\"}]}", "key 2 of the JWK set: its use is x509-svid, but it has no x5c" },
		{ "{\"keys\": [{\"use\": \"x509-svid\", \"x5c\": []}]}", "key 1 of the JWK set: its use is x509-svid, but it has no x5c" },
		{ "{\"keys\": [{\"use\": \"x509-svid\", \"x5c\": [7]}]}", "but it has no x5c" },
		{ "{\"keys\": [{\"use\": \"x509-svid\", \"x5c\": [\"\"]}]}", "its x5c is empty" },
		{ "{\"keys\": [{\"use\": \"x509-svid\", \"x5c\": [\"%%\"]}]}", "its x5c is not base64" },
		{ "{\"keys\": [{\"use\": \"x509-svid\", \"x5c\": [\"MAA=\"]}]}", "no certificate that can be read" },
	};
	char text[65536];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		expect_bad(MESH__BUNDLE_JWKS, bad[i].text, strlen(bad[i].text), true, bad[i].phrase);
	snprintf(text, sizeof(text), "{\"keys\": [{\"use\": \"x509-svid\", \"x5c\": [\"%s\"]}]}", base64(&first, 3));
	expect_bad(MESH__BUNDLE_JWKS, text, strlen(text), true, "key 1 of the JWK set");
	snprintf(text, sizeof(text), "{\"keys\": [{\"use\": \"x509-svid\", \"x5c\": [\"%s\"]}]}", base64(&leaf, 0));
	expect_bad(MESH__BUNDLE_JWKS, text, strlen(text), true, "may not sign");
}

static void limits_of_size_and_count_hold(void **state)
{
	size_t len = second.len * (MESH__BUNDLE_CERTIFICATES_MAX + 1);
	char *bytes = malloc(MESH__BUNDLE_BYTES_MAX + 1);

	(void)state;
	assert_true(bytes && len < MESH__BUNDLE_BYTES_MAX);
	for (size_t i = 0; i <= MESH__BUNDLE_CERTIFICATES_MAX; i++)
		memcpy(bytes + i * second.len, second.der, second.len);
	expect_good(MESH__BUNDLE_DER, bytes, len - second.len, MESH__BUNDLE_CERTIFICATES_MAX);
	expect_bad(MESH__BUNDLE_DER, bytes, len, true, "more than 256 certificates");
	memset(bytes, ' ', MESH__BUNDLE_BYTES_MAX + 1);
	expect_good(MESH__BUNDLE_PEM, bytes, MESH__BUNDLE_BYTES_MAX, 0);
	expect_bad(MESH__BUNDLE_PEM, bytes, MESH__BUNDLE_BYTES_MAX + 1, true, "more than 1048576");
	free(bytes);
}

static void a_bundle_is_for_a_trust_domain(void **state)
{
	struct mesh__bundle *bundle;
	char why[256];

	(void)state;
	assert_int_equal(mesh__bundle_parse(&bundle, "Prod", MESH__BUNDLE_DER, "", 0, true, why, sizeof(why)), MESH_E_CORRUPT);
	assert_non_null(strstr(why, "upper-case"));
	assert_null(bundle);
	assert_int_equal(mesh__bundle_parse(&bundle, "", MESH__BUNDLE_DER, "", 0, true, NULL, 0), MESH_E_CORRUPT);
	mesh__bundle_unref(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pem_is_read_with_whatever_text_is_around), cmocka_unit_test(one_bad_block_of_pem_refuses_the_whole),
		cmocka_unit_test(der_is_split_by_its_own_lengths),	    cmocka_unit_test(what_may_not_sign_may_not_be_in_a_bundle),
		cmocka_unit_test(a_jwk_set_is_read_for_its_x509_keys),	    cmocka_unit_test(one_bad_key_of_a_jwk_set_refuses_the_whole),
		cmocka_unit_test(limits_of_size_and_count_hold),	    cmocka_unit_test(a_bundle_is_for_a_trust_domain),
	};

	return cmocka_run_group_tests(tests, make_authorities, free_authorities);
}
