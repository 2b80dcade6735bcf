/*
 * Certificates for tests, made in memory: authorities, intermediates and leaves, right by default and wrong in whichever way is asked for.
 *
 *	struct certificate root, leaf;
 *
 *	make_certificate(&root, &(struct certificate_spec){ AUTHORITY("prod.example") });
 *	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &root, .uris = { "spiffe://prod.example/ns/shop/sa/users" } });
 *
 * The test calls psa_crypto_init() once before, and free_certificate() for each.
 */
#ifndef TESTS_LIB_CERTIFICATES_H
#define TESTS_LIB_CERTIFICATES_H

#include <mbedtls/asn1write.h>
#include <mbedtls/oid.h>
#include <mbedtls/pem.h>
#include <mbedtls/pk.h>
#include <mbedtls/psa_util.h>
#include <mbedtls/rsa.h>
#include <mbedtls/x509_crt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum certificate_key { KEY_P256, KEY_P384, KEY_P192, KEY_RSA_1024, KEY_RSA_2048 };
enum { EKU_SERVER = 1, EKU_CLIENT = 2, EKU_OTHER = 4 };

struct certificate {
	uint8_t der[8192], key_der[4096]; /* the key: PKCS#8 */
	size_t len, key_len;
	char pem[12288], key_pem[8192];
	char subject[256];
	mbedtls_pk_context key;
};

/* All zero: a leaf that may be used, self-signed, without an ID. */
struct certificate_spec {
	const struct certificate *issuer; /* NULL: signs itself */
	const struct certificate *same_key; /* NULL: a new one */
	const char *subject;              /* "CN=test" */
	const char *issuer_name;          /* another than the issuer's subject */
	const char *uris[4], *dns[4];
	bool is_ca, is_without_constraints;
	int path_length;                  /* of an authority; 0: unlimited, n: n - 1 below it */
	unsigned key_usage;               /* first octet; 0: digitalSignature, or an authority's keyCertSign and cRLSign */
	bool is_without_key_usage, is_key_usage_optional;
	unsigned extended; /* EKU_...; 0: no such extension */
	int64_t from_s, until_s; /* from now; 0, 0: a minute ago, in an hour */
	enum certificate_key key;
	mbedtls_md_type_t hash; /* 0: SHA-256 */
	const char *extension;  /* OID in its encoding: one more, holding NULL */
	size_t extension_len;
	bool is_extension_critical, is_tampered;
	const char *permitted[3], *excluded[3]; /* name constraints: "uri:HOST", "dns:NAME", "ip:", "dn:", "mail:" */
	bool is_name_constraints_optional;
};

/* A revocation list, signed by `issuer`. All zero else: it revokes nothing, began a minute ago and ends in an hour. */
struct crl_spec {
	const struct certificate *issuer, *revoked[16];
	int64_t from_s, until_s;
	bool is_without_end, is_tampered, has_critical_extension;
};

struct crl {
	uint8_t der[4096];
	size_t len;
	char pem[6144];
};

#define AUTHORITY(domain) .subject = "CN=authority of " domain, .uris = { "spiffe://" domain }, .is_ca = true

static inline void make_certificate_key(mbedtls_pk_context *key, enum certificate_key kind)
{
	static const mbedtls_ecp_group_id curves[] = { MBEDTLS_ECP_DP_SECP256R1, MBEDTLS_ECP_DP_SECP384R1, MBEDTLS_ECP_DP_SECP192R1 };

	if (kind >= KEY_RSA_1024) {
		assert_int_equal(mbedtls_pk_setup(key, mbedtls_pk_info_from_type(MBEDTLS_PK_RSA)), 0);
		assert_int_equal(mbedtls_rsa_gen_key(mbedtls_pk_rsa(*key), mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE,
						     kind == KEY_RSA_1024 ? 1024 : 2048, 65537), 0);
		return;
	}
	assert_int_equal(mbedtls_pk_setup(key, mbedtls_pk_info_from_type(MBEDTLS_PK_ECKEY)), 0);
	assert_int_equal(mbedtls_ecp_gen_key(curves[kind], mbedtls_pk_ec(*key), mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE), 0);
}

/* PKCS#8 around what mbedTLS writes; the algorithm is copied from the public key, which has the same. */
static inline size_t write_pkcs8(mbedtls_pk_context *key, uint8_t *out, size_t room)
{
	uint8_t inner[3072], public_key[2048], *at = out + room, *algorithm, *end = public_key + sizeof(public_key);
	int inner_len = mbedtls_pk_write_key_der(key, inner, sizeof(inner)), public_len = mbedtls_pk_write_pubkey_der(key, public_key, sizeof(public_key));
	size_t len = 0, part;

	assert_true(inner_len > 0 && public_len > 0);
	algorithm = end - public_len;
	assert_int_equal(mbedtls_asn1_get_tag(&algorithm, end, &part, MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE), 0);
	len += (size_t)mbedtls_asn1_write_octet_string(&at, out, inner + sizeof(inner) - inner_len, (size_t)inner_len);
	assert_true(algorithm[1] < 0x80);
	len += (size_t)mbedtls_asn1_write_raw_buffer(&at, out, algorithm, algorithm[1] + 2u);
	len += (size_t)mbedtls_asn1_write_int(&at, out, 0);
	len += (size_t)mbedtls_asn1_write_len(&at, out, len);
	len += (size_t)mbedtls_asn1_write_tag(&at, out, MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE);
	memmove(out, at, len);
	return len;
}

static inline void take_certificate_key(struct certificate *out, const struct certificate_spec *spec)
{
	size_t used;

	mbedtls_pk_init(&out->key);
	if (spec->same_key)
		assert_int_equal(mbedtls_pk_parse_key(&out->key, spec->same_key->key_der, spec->same_key->key_len, NULL, 0, mbedtls_psa_get_random,
						      MBEDTLS_PSA_RANDOM_STATE), 0);
	else
		make_certificate_key(&out->key, spec->key);
	out->key_len = write_pkcs8(&out->key, out->key_der, sizeof(out->key_der));
	assert_int_equal(mbedtls_pem_write_buffer("-----BEGIN PRIVATE KEY-----\n", "-----END PRIVATE KEY-----\n", out->key_der, out->key_len,
						  (unsigned char *)out->key_pem, sizeof(out->key_pem), &used), 0);
}

static inline void set_certificate_times(mbedtls_x509write_cert *writer, const struct certificate_spec *spec)
{
	time_t now = time(NULL), from = now + (spec->from_s || spec->until_s ? spec->from_s : -60);
	time_t until = now + (spec->from_s || spec->until_s ? spec->until_s : 3600);
	char texts[2][16];
	struct tm tm;

	strftime(texts[0], sizeof(texts[0]), "%Y%m%d%H%M%S", gmtime_r(&from, &tm));
	strftime(texts[1], sizeof(texts[1]), "%Y%m%d%H%M%S", gmtime_r(&until, &tm));
	assert_int_equal(mbedtls_x509write_crt_set_validity(writer, texts[0], texts[1]), 0);
}

static inline void set_certificate_names(mbedtls_x509write_cert *writer, const struct certificate_spec *spec)
{
	mbedtls_x509_san_list list[8] = { 0 };
	size_t count = 0;

	for (size_t i = 0; i < 8; i++) {
		const char *name = i < 4 ? spec->uris[i] : spec->dns[i - 4];
		mbedtls_x509_san_list *item = &list[count];

		if (!name)
			continue;
		item->node.type = i < 4 ? MBEDTLS_X509_SAN_UNIFORM_RESOURCE_IDENTIFIER : MBEDTLS_X509_SAN_DNS_NAME;
		item->node.san.unstructured_name.p = (unsigned char *)(uintptr_t)name;
		item->node.san.unstructured_name.len = strlen(name);
		if (count++)
			list[count - 2].next = item;
	}
	if (count)
		assert_int_equal(mbedtls_x509write_crt_set_subject_alternative_name(writer, list), 0);
}

static inline void set_certificate_usage(mbedtls_x509write_cert *writer, const struct certificate_spec *spec)
{
	unsigned usual = spec->is_ca ? MBEDTLS_X509_KU_KEY_CERT_SIGN | MBEDTLS_X509_KU_CRL_SIGN : MBEDTLS_X509_KU_DIGITAL_SIGNATURE;
	unsigned usage = spec->key_usage ? spec->key_usage : usual;
	uint8_t bits[] = { MBEDTLS_ASN1_BIT_STRING, 2, (uint8_t)__builtin_ctz(usage), (uint8_t)usage };

	if (!spec->is_without_key_usage)
		assert_int_equal(mbedtls_x509write_crt_set_extension(writer, MBEDTLS_OID_KEY_USAGE, MBEDTLS_OID_SIZE(MBEDTLS_OID_KEY_USAGE),
								     !spec->is_key_usage_optional, bits, sizeof(bits)), 0);
}

static inline void set_certificate_extended_usage(mbedtls_x509write_cert *writer, unsigned extended)
{
	static const char *const oids[] = { MBEDTLS_OID_SERVER_AUTH, MBEDTLS_OID_CLIENT_AUTH, MBEDTLS_OID_CODE_SIGNING };
	mbedtls_asn1_sequence uses[3] = { 0 };
	size_t count = 0;

	for (size_t i = 0; i < 3; i++) {
		if (!(extended & 1u << i))
			continue;
		uses[count].buf.tag = MBEDTLS_ASN1_OID;
		uses[count].buf.p = (unsigned char *)(uintptr_t)oids[i];
		uses[count].buf.len = strlen(oids[i]);
		if (count++)
			uses[count - 2].next = &uses[count - 1];
	}
	if (count)
		assert_int_equal(mbedtls_x509write_crt_set_ext_key_usage(writer, uses), 0);
}

static inline void write_certificate(struct certificate *out, const struct certificate_spec *spec, mbedtls_x509write_cert *writer)
{
	int len = mbedtls_x509write_crt_der(writer, out->der, sizeof(out->der), mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE);
	size_t used;

	assert_true(len > 0);
	out->len = (size_t)len;
	memmove(out->der, out->der + sizeof(out->der) - out->len, out->len);
	if (spec->is_tampered)
		out->der[out->len - 1] ^= 1;
	assert_int_equal(mbedtls_pem_write_buffer("-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n", out->der, out->len,
						  (unsigned char *)out->pem, sizeof(out->pem), &used), 0);
}

static inline size_t write_subtrees(uint8_t **at, uint8_t *start, const char *const subtrees[3], unsigned char list)
{
	static const struct {
		const char *prefix;
		unsigned char tag;
	} kinds[] = { { "mail:", 0x81 }, { "dns:", 0x82 }, { "dn:", 0xa4 }, { "uri:", 0x86 }, { "ip:", 0x87 } };
	size_t len = 0;

	for (int i = 2; i >= 0; i--) {
		for (size_t kind = 0; subtrees[i] && kind < sizeof(kinds) / sizeof(*kinds); kind++) {
			size_t prefix = strlen(kinds[kind].prefix), one = 0;

			if (strncmp(subtrees[i], kinds[kind].prefix, prefix))
				continue;
			one += (size_t)mbedtls_asn1_write_raw_buffer(at, start, (const uint8_t *)subtrees[i] + prefix, strlen(subtrees[i]) - prefix);
			one += (size_t)mbedtls_asn1_write_len(at, start, one);
			one += (size_t)mbedtls_asn1_write_tag(at, start, kinds[kind].tag);
			one += (size_t)mbedtls_asn1_write_len(at, start, one);
			one += (size_t)mbedtls_asn1_write_tag(at, start, MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE);
			len += one;
		}
	}
	if (!len)
		return 0;
	len += (size_t)mbedtls_asn1_write_len(at, start, len);
	return len + (size_t)mbedtls_asn1_write_tag(at, start, list);
}

static inline void set_certificate_name_constraints(mbedtls_x509write_cert *writer, const struct certificate_spec *spec)
{
	uint8_t room[512], *at = room + sizeof(room);
	size_t len = write_subtrees(&at, room, spec->excluded, 0xa1);

	len += write_subtrees(&at, room, spec->permitted, 0xa0);
	if (!len)
		return;
	len += (size_t)mbedtls_asn1_write_len(&at, room, len);
	len += (size_t)mbedtls_asn1_write_tag(&at, room, MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE);
	assert_int_equal(mbedtls_x509write_crt_set_extension(writer, MBEDTLS_OID_NAME_CONSTRAINTS, MBEDTLS_OID_SIZE(MBEDTLS_OID_NAME_CONSTRAINTS),
							     !spec->is_name_constraints_optional, at, len), 0);
}

static inline void make_certificate(struct certificate *out, const struct certificate_spec *spec)
{
	static uint32_t serials;
	uint8_t serial[4] = { 0x10, (uint8_t)(serials >> 16), (uint8_t)(serials >> 8), (uint8_t)serials }, null[] = { 5, 0 };
	mbedtls_x509write_cert writer;
	const char *issuer_name;

	serials++;
	memset(out, 0, sizeof(*out));
	take_certificate_key(out, spec);
	snprintf(out->subject, sizeof(out->subject), "%s", spec->subject ? spec->subject : "CN=test");
	issuer_name = spec->issuer_name ? spec->issuer_name : spec->issuer ? spec->issuer->subject : out->subject;
	mbedtls_x509write_crt_init(&writer);
	mbedtls_x509write_crt_set_version(&writer, MBEDTLS_X509_CRT_VERSION_3);
	mbedtls_x509write_crt_set_md_alg(&writer, spec->hash ? spec->hash : MBEDTLS_MD_SHA256);
	mbedtls_x509write_crt_set_subject_key(&writer, &out->key);
	mbedtls_x509write_crt_set_issuer_key(&writer, spec->issuer ? (mbedtls_pk_context *)(uintptr_t)&spec->issuer->key : &out->key);
	assert_int_equal(mbedtls_x509write_crt_set_serial_raw(&writer, serial, sizeof(serial)), 0);
	assert_int_equal(mbedtls_x509write_crt_set_subject_name(&writer, out->subject), 0);
	assert_int_equal(mbedtls_x509write_crt_set_issuer_name(&writer, issuer_name), 0);
	set_certificate_times(&writer, spec);
	if (!spec->is_without_constraints)
		assert_int_equal(mbedtls_x509write_crt_set_basic_constraints(&writer, spec->is_ca, spec->is_ca ? spec->path_length - 1 : -1), 0);
	set_certificate_usage(&writer, spec);
	set_certificate_extended_usage(&writer, spec->extended);
	set_certificate_names(&writer, spec);
	if (spec->extension)
		assert_int_equal(mbedtls_x509write_crt_set_extension(&writer, spec->extension, spec->extension_len, spec->is_extension_critical, null,
								     sizeof(null)), 0);
	set_certificate_name_constraints(&writer, spec);
	write_certificate(out, spec, &writer);
	mbedtls_x509write_crt_free(&writer);
}

static inline size_t write_crl_time(uint8_t **at, uint8_t *start, int64_t from_now_s)
{
	time_t when = time(NULL) + from_now_s;
	char text[16];
	struct tm tm;
	size_t len;

	strftime(text, sizeof(text), "%Y%m%d%H%M%SZ", gmtime_r(&when, &tm));
	len = (size_t)mbedtls_asn1_write_raw_buffer(at, start, (const uint8_t *)text, strlen(text));
	len += (size_t)mbedtls_asn1_write_len(at, start, len);
	return len + (size_t)mbedtls_asn1_write_tag(at, start, MBEDTLS_ASN1_GENERALIZED_TIME);
}

static inline size_t wrap_crl_part(uint8_t **at, uint8_t *start, size_t len, unsigned char tag)
{
	len += (size_t)mbedtls_asn1_write_len(at, start, len);
	return len + (size_t)mbedtls_asn1_write_tag(at, start, tag);
}

static inline size_t write_crl_algorithm(uint8_t **at, uint8_t *start)
{
	size_t len = (size_t)mbedtls_asn1_write_oid(at, start, MBEDTLS_OID_ECDSA_SHA256, MBEDTLS_OID_SIZE(MBEDTLS_OID_ECDSA_SHA256));

	return wrap_crl_part(at, start, len, MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE);
}

static inline size_t write_crl_entry(uint8_t **at, uint8_t *start, const struct certificate *revoked)
{
	size_t len = write_crl_time(at, start, -30);
	mbedtls_x509_crt crt;

	mbedtls_x509_crt_init(&crt);
	assert_int_equal(mbedtls_x509_crt_parse_der_with_ext_cb(&crt, revoked->der, revoked->len, 0, NULL, NULL), 0);
	len += (size_t)mbedtls_asn1_write_raw_buffer(at, start, crt.serial.p, crt.serial.len);
	len += (size_t)mbedtls_asn1_write_len(at, start, crt.serial.len);
	len += (size_t)mbedtls_asn1_write_tag(at, start, MBEDTLS_ASN1_INTEGER);
	mbedtls_x509_crt_free(&crt);
	return wrap_crl_part(at, start, len, MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE);
}

/* mbedTLS 3.6 reads revocation lists, but writes none. Source: RFC 5280, section 5.1 */
static inline void make_crl(struct crl *out, const struct crl_spec *spec)
{
	static const uint8_t extensions[] = { 0xa0, 0x11, 0x30, 0x0f, 0x30, 0x0d, 6, 3, 0x55, 0x1d, 0x1b, 1, 1, 0xff, 4, 3, 2, 1, 1 };
	const unsigned char sequence = MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE;
	uint8_t room[4096] = { 0 }, *at = room + sizeof(room), signature[MBEDTLS_PK_SIGNATURE_MAX_SIZE], hash[32], *tbs;
	int64_t until_s = spec->from_s || spec->until_s ? spec->until_s : 3600;
	size_t len = 0, list = 0, signature_len, tbs_len, used;
	mbedtls_x509_crt ca;

	if (spec->has_critical_extension)
		len += (size_t)mbedtls_asn1_write_raw_buffer(&at, room, extensions, sizeof(extensions));
	for (size_t i = 0; i < sizeof(spec->revoked) / sizeof(*spec->revoked); i++)
		if (spec->revoked[i])
			list += write_crl_entry(&at, room, spec->revoked[i]);
	len += list ? wrap_crl_part(&at, room, list, sequence) : 0;
	if (!spec->is_without_end)
		len += write_crl_time(&at, room, until_s);
	len += write_crl_time(&at, room, spec->from_s || spec->until_s ? spec->from_s : -60);
	mbedtls_x509_crt_init(&ca);
	assert_int_equal(mbedtls_x509_crt_parse_der_with_ext_cb(&ca, spec->issuer->der, spec->issuer->len, 0, NULL, NULL), 0);
	len += (size_t)mbedtls_asn1_write_raw_buffer(&at, room, ca.subject_raw.p, ca.subject_raw.len);
	mbedtls_x509_crt_free(&ca);
	len += write_crl_algorithm(&at, room);
	len += (size_t)mbedtls_asn1_write_int(&at, room, 1);
	tbs_len = wrap_crl_part(&at, room, len, sequence);
	tbs = at;
	assert_int_equal(mbedtls_md(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), tbs, tbs_len, hash), 0);
	assert_int_equal(mbedtls_pk_sign((mbedtls_pk_context *)(uintptr_t)&spec->issuer->key, MBEDTLS_MD_SHA256, hash, sizeof(hash), signature, sizeof(signature),
					 &signature_len, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE), 0);
	if (spec->is_tampered)
		signature[signature_len - 1] ^= 1;
	at = out->der + sizeof(out->der);
	len = (size_t)mbedtls_asn1_write_bitstring(&at, out->der, signature, signature_len * 8);
	len += write_crl_algorithm(&at, out->der);
	len += (size_t)mbedtls_asn1_write_raw_buffer(&at, out->der, tbs, tbs_len);
	out->len = wrap_crl_part(&at, out->der, len, sequence);
	memmove(out->der, at, out->len);
	assert_int_equal(mbedtls_pem_write_buffer("-----BEGIN X509 CRL-----\n", "-----END X509 CRL-----\n", out->der, out->len, (unsigned char *)out->pem,
						  sizeof(out->pem), &used), 0);
}

static inline void free_certificate(struct certificate *certificate)
{
	mbedtls_pk_free(&certificate->key);
}

#endif
