#include "identity/signer.h"

#include "base/fault.h"
#include "base/memory.h"
#include "identity/certificate.h"

#include <mbedtls/asn1write.h>
#include <mbedtls/ecp.h>
#include <mbedtls/error.h>
#include <mbedtls/oid.h>
#include <mbedtls/pem.h>
#include <mbedtls/platform_util.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { SERIAL_BYTES = 16, STAMP_BYTES = 16 };

int mesh__signer_fault(struct mesh_error *err, int number, const char *what)
{
	char reason[160] = "";

	if (mesh__certificate_is_out_of_memory(number))
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "%s: out of memory", what);
	mbedtls_strerror(number, reason, sizeof(reason));
	return mesh__fault(err, MESH_E_SYSTEM, MESH_STAGE_NONE, "%s: mbedTLS says: %s", what, reason);
}

int mesh__signer_make_key(mbedtls_pk_context *key, mbedtls_ctr_drbg_context *rng, struct mesh_error *err)
{
	int rc = mbedtls_pk_setup(key, mbedtls_pk_info_from_type(MBEDTLS_PK_ECKEY));

	if (!rc)
		rc = mbedtls_ecp_gen_key(MBEDTLS_ECP_DP_SECP256R1, mbedtls_pk_ec(*key), mbedtls_ctr_drbg_random, rng);
	return rc ? mesh__signer_fault(err, rc, "a key could not be made") : 0;
}

/* Positive, of full length, and never the same twice: no one keeps a list of those that were used. */
static int set_serial(mbedtls_x509write_cert *crt, mbedtls_ctr_drbg_context *rng)
{
	unsigned char serial[SERIAL_BYTES];
	int rc = mbedtls_ctr_drbg_random(rng, serial, sizeof(serial));

	serial[0] = (serial[0] & 0x3f) | 0x40;
	return rc ? rc : mbedtls_x509write_crt_set_serial_raw(crt, serial, sizeof(serial));
}

static int set_validity(mbedtls_x509write_cert *crt, int64_t not_before_s, int64_t not_after_s)
{
	char from[STAMP_BYTES], until[STAMP_BYTES];
	time_t first = (time_t)not_before_s, last = (time_t)not_after_s;
	struct tm parts;

	if (!gmtime_r(&first, &parts) || strftime(from, sizeof(from), "%Y%m%d%H%M%S", &parts) != STAMP_BYTES - 2 || !gmtime_r(&last, &parts) ||
	    strftime(until, sizeof(until), "%Y%m%d%H%M%S", &parts) != STAMP_BYTES - 2)
		return MBEDTLS_ERR_X509_BAD_INPUT_DATA;
	return mbedtls_x509write_crt_set_validity(crt, from, until);
}

static void fill_name(mbedtls_x509_san_list *san, int type, const char *text, mbedtls_x509_san_list *next)
{
	san->node.type = type;
	/* Only read, though mbedTLS has no const there. */
	san->node.san.unstructured_name.p = (unsigned char *)(uintptr_t)text;
	san->node.san.unstructured_name.len = strlen(text);
	san->next = next;
}

static int set_names(mbedtls_x509write_cert *crt, const struct mesh__signer_request *request)
{
	mbedtls_x509_san_list names[MESH__SIGNER_DNS_MAX + 1];

	if (request->dns_count > MESH__SIGNER_DNS_MAX)
		return MBEDTLS_ERR_X509_BAD_INPUT_DATA;
	memset(names, 0, sizeof(names));
	for (uint32_t i = 0; i < request->dns_count; i++)
		fill_name(&names[i + 1], MBEDTLS_X509_SAN_DNS_NAME, request->dns[i], i + 1 < request->dns_count ? &names[i + 2] : NULL);
	fill_name(&names[0], MBEDTLS_X509_SAN_UNIFORM_RESOURCE_IDENTIFIER, request->uri, request->dns_count ? &names[1] : NULL);
	return mbedtls_x509write_crt_set_subject_alternative_name(crt, names);
}

static int set_extended_usage(mbedtls_x509write_cert *crt)
{
	mbedtls_asn1_sequence client, server;

	memset(&client, 0, sizeof(client));
	memset(&server, 0, sizeof(server));
	client.buf.tag = server.buf.tag = MBEDTLS_ASN1_OID;
	client.buf.p = (unsigned char *)(uintptr_t)MBEDTLS_OID_CLIENT_AUTH;
	client.buf.len = MBEDTLS_OID_SIZE(MBEDTLS_OID_CLIENT_AUTH);
	server.buf.p = (unsigned char *)(uintptr_t)MBEDTLS_OID_SERVER_AUTH;
	server.buf.len = MBEDTLS_OID_SIZE(MBEDTLS_OID_SERVER_AUTH);
	server.next = &client;
	return mbedtls_x509write_crt_set_ext_key_usage(crt, &server);
}

/* X509-SVID, section 4: what one that signs and what a workload's must and must not have. */
static int set_usage(mbedtls_x509write_cert *crt, bool is_ca)
{
	unsigned usage = is_ca ? MBEDTLS_X509_KU_KEY_CERT_SIGN | MBEDTLS_X509_KU_CRL_SIGN : MBEDTLS_X509_KU_DIGITAL_SIGNATURE;
	int rc = mbedtls_x509write_crt_set_basic_constraints(crt, is_ca, is_ca ? 0 : -1);

	if (!rc)
		rc = mbedtls_x509write_crt_set_key_usage(crt, usage);
	if (!rc && !is_ca)
		rc = set_extended_usage(crt);
	return rc;
}

static int fill(mbedtls_x509write_cert *crt, const struct mesh__signer_request *request, mbedtls_ctr_drbg_context *rng)
{
	int rc;

	mbedtls_x509write_crt_set_version(crt, MBEDTLS_X509_CRT_VERSION_3);
	mbedtls_x509write_crt_set_md_alg(crt, MBEDTLS_MD_SHA256);
	mbedtls_x509write_crt_set_subject_key(crt, request->subject_key);
	mbedtls_x509write_crt_set_issuer_key(crt, request->issuer_key);
	if ((rc = mbedtls_x509write_crt_set_subject_name(crt, request->subject)) || (rc = mbedtls_x509write_crt_set_issuer_name(crt, request->issuer)) ||
	    (rc = set_serial(crt, rng)) || (rc = set_validity(crt, request->not_before_s, request->not_after_s)) ||
	    (rc = set_usage(crt, request->is_ca)) || (rc = mbedtls_x509write_crt_set_subject_key_identifier(crt)) ||
	    (rc = mbedtls_x509write_crt_set_authority_key_identifier(crt)))
		return rc;
	return set_names(crt, request);
}

int mesh__signer_write_certificate(const struct mesh__signer_request *request, mbedtls_ctr_drbg_context *rng, unsigned char *der, size_t capacity,
				   struct mesh_error *err)
{
	mbedtls_x509write_cert crt;
	int rc;

	mbedtls_x509write_crt_init(&crt);
	rc = fill(&crt, request, rng);
	if (!rc)
		rc = mbedtls_x509write_crt_der(&crt, der, capacity, mbedtls_ctr_drbg_random, rng);
	mbedtls_x509write_crt_free(&crt);
	return rc < 0 ? mesh__signer_fault(err, rc, "a certificate could not be written") : rc;
}

/* Around the key of RFC 5915 that mbedTLS has written at the end of `der`. Negative: an error of mbedTLS. */
static int wrap_key(unsigned char *der, unsigned char *end, size_t key_len)
{
	unsigned char *at = end - key_len;
	size_t len = key_len, oid_len = 0;
	int ret;

	MBEDTLS_ASN1_CHK_ADD(len, mbedtls_asn1_write_len(&at, der, len));
	MBEDTLS_ASN1_CHK_ADD(len, mbedtls_asn1_write_tag(&at, der, MBEDTLS_ASN1_OCTET_STRING));
	ret = mbedtls_asn1_write_oid(&at, der, MBEDTLS_OID_EC_GRP_SECP256R1, MBEDTLS_OID_SIZE(MBEDTLS_OID_EC_GRP_SECP256R1));
	if (ret < 0)
		return ret;
	oid_len = (size_t)ret;
	MBEDTLS_ASN1_CHK_ADD(len, mbedtls_asn1_write_algorithm_identifier(&at, der, MBEDTLS_OID_EC_ALG_UNRESTRICTED,
									  MBEDTLS_OID_SIZE(MBEDTLS_OID_EC_ALG_UNRESTRICTED), oid_len));
	MBEDTLS_ASN1_CHK_ADD(len, mbedtls_asn1_write_int(&at, der, 0));
	MBEDTLS_ASN1_CHK_ADD(len, mbedtls_asn1_write_len(&at, der, len));
	MBEDTLS_ASN1_CHK_ADD(len, mbedtls_asn1_write_tag(&at, der, MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE));
	return (int)len;
}

int mesh__signer_write_key(const mbedtls_pk_context *key, unsigned char *der, size_t capacity, struct mesh_error *err)
{
	int rc = mbedtls_pk_write_key_der(key, der, capacity);

	if (rc >= 0)
		rc = wrap_key(der, der + capacity, (size_t)rc);
	return rc < 0 ? mesh__signer_fault(err, rc, "a key could not be written") : rc;
}

int mesh__signer_pem(const char *label, const void *der, size_t der_len, char **pem, size_t *len, struct mesh_error *err)
{
	char header[64], footer[64], *text;
	size_t needed = 0;
	int rc;

	snprintf(header, sizeof(header), "-----BEGIN %s-----\n", label);
	snprintf(footer, sizeof(footer), "-----END %s-----\n", label);
	mbedtls_pem_write_buffer(header, footer, der, der_len, NULL, 0, &needed);
	text = mesh__memory_alloc(needed);
	if (!text)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while writing PEM");
	rc = mbedtls_pem_write_buffer(header, footer, der, der_len, (unsigned char *)text, needed, &needed);
	if (rc) {
		mesh__memory_free(text);
		return mesh__signer_fault(err, rc, "PEM could not be written");
	}
	*pem = text;
	*len = needed - 1;
	return 0;
}
