/*
 * From bytes to a list of certificates: PEM or concatenated DER.
 *
 * mbedTLS goes on behind a PEM block that it cannot read, and takes one DER certificate at a time. Here whatever is wrong ends it,
 * with the number of the certificate: half a file is one that somebody is just writing.
 */
#include "identity/certificate.h"

#include "base/memory.h"
#include "mesh/error.h"

#include <mbedtls/asn1.h>
#include <mbedtls/error.h>
#include <mbedtls/oid.h>
#include <mbedtls/pem.h>
#include <mbedtls/platform_util.h>
#include <stdio.h>
#include <string.h>

#define say mesh__certificate_say

enum { OID_TEXT_MAX = 64, LABEL_AT = sizeof("-----BEGIN ") - 1 };

/* The extension that mbedTLS does not know, if it must be understood. */
static int note_critical(void *user, const mbedtls_x509_crt *crt, const mbedtls_x509_buf *oid, int is_critical, const unsigned char *p,
			 const unsigned char *end)
{
	char *text = user;

	(void)crt;
	(void)p;
	(void)end;
	/* These are known here: name_constraints.c. */
	if (!MBEDTLS_OID_CMP(MBEDTLS_OID_NAME_CONSTRAINTS, oid))
		return 0;
	if (is_critical && mbedtls_oid_get_numeric_string(text, OID_TEXT_MAX, oid) < 0)
		snprintf(text, OID_TEXT_MAX, "with an OID that is too long");
	return MBEDTLS_ERR_X509_FEATURE_UNAVAILABLE;
}

bool mesh__certificate_is_out_of_memory(int rc)
{
	static const int codes[] = { MBEDTLS_ERR_X509_ALLOC_FAILED, MBEDTLS_ERR_PEM_ALLOC_FAILED, MBEDTLS_ERR_PK_ALLOC_FAILED, MBEDTLS_ERR_ECP_ALLOC_FAILED };

	for (size_t i = 0; i < sizeof(codes) / sizeof(*codes); i++)
		if (rc == codes[i] || (-rc & ~0x7f) == -codes[i])
			return true;
	return (-rc & 0x7f) == -MBEDTLS_ERR_ASN1_ALLOC_FAILED || (-rc & 0x7f) == -MBEDTLS_ERR_MPI_ALLOC_FAILED;
}

enum mesh__refusal mesh__certificate_parse(mbedtls_x509_crt *list, const uint8_t *der, size_t len, char *why, size_t capacity)
{
	char critical[OID_TEXT_MAX] = "", reason[128];
	int rc = mbedtls_x509_crt_parse_der_with_ext_cb(list, der, len, 1, note_critical, critical);

	if (!rc)
		return MESH__REFUSAL_NONE;
	if (*critical) {
		say(why, capacity, "it has a critical extension that libmesh does not know (%s)", critical);
		return MESH__REFUSAL_CRITICAL_EXTENSION;
	}
	if (mesh__certificate_is_out_of_memory(rc)) {
		say(why, capacity, "out of memory");
		return MESH__REFUSAL_OTHER;
	}
	mbedtls_strerror(rc, reason, sizeof(reason));
	say(why, capacity, "it is no certificate that can be read (%s)", reason);
	return MESH__REFUSAL_MALFORMED;
}

/* --- many --- */

struct reading {
	mbedtls_x509_crt *list;
	uint32_t count, max;
	char *why;
	size_t capacity;
};

static int read_one(struct reading *reading, const uint8_t *der, size_t len)
{
	char reason[256] = "";
	enum mesh__refusal refusal;

	if (reading->count == reading->max) {
		say(reading->why, reading->capacity, "there are more than %u certificates", reading->max);
		return MESH_E_CORRUPT;
	}
	refusal = mesh__certificate_parse(reading->list, der, len, reason, sizeof(reason));
	if (refusal == MESH__REFUSAL_OTHER) {
		say(reading->why, reading->capacity, "out of memory");
		return MESH_E_NOMEM;
	}
	if (refusal) {
		say(reading->why, reading->capacity, "certificate %u: %s", reading->count + 1, reason);
		return MESH_E_CORRUPT;
	}
	reading->count++;
	return 0;
}

/* Of the SEQUENCE at the start, with its head; 0: there is none, or it goes beyond the end. */
static size_t measure_der(const uint8_t *der, size_t len)
{
	size_t digits, inner = 0;

	if (len < 2 || der[0] != (MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE))
		return 0;
	if (der[1] < 0x80)
		return der[1] + 2u <= len ? der[1] + 2u : 0;
	digits = der[1] & 0x7fu;
	if (!digits || digits > 4 || len < 2 + digits)
		return 0;
	for (size_t i = 0; i < digits; i++)
		inner = inner << 8 | der[2 + i];
	return inner <= len - 2 - digits ? inner + 2 + digits : 0;
}

/* Each begins with its own length, and nothing is between them. */
static int read_der(struct reading *reading, const uint8_t *der, size_t len)
{
	size_t at = 0, bytes;
	int rc = 0;

	for (; !rc && at < len; at += bytes) {
		bytes = measure_der(der + at, len - at);
		if (!bytes) {
			say(reading->why, reading->capacity, "certificate %u, %zu bytes from the start, is cut off or is not DER",
			    reading->count + 1, at);
			return MESH_E_CORRUPT;
		}
		rc = read_one(reading, der + at, bytes);
	}
	return rc;
}

static int complain_about_pem(struct reading *reading, int rc)
{
	if (mesh__certificate_is_out_of_memory(rc)) {
		say(reading->why, reading->capacity, "out of memory");
		return MESH_E_NOMEM;
	}
	if (rc == MBEDTLS_ERR_PEM_NO_HEADER_FOOTER_PRESENT)
		say(reading->why, reading->capacity, "certificate %u is cut off: its END line is missing", reading->count + 1);
	else
		say(reading->why, reading->capacity, "certificate %u is not PEM: there is something else than base64 between its BEGIN and END",
		    reading->count + 1);
	return MESH_E_CORRUPT;
}

static const char pem_begin[] = "-----BEGIN CERTIFICATE-----", pem_end[] = "-----END CERTIFICATE-----";

/* `at` is at a BEGIN line; *next is behind its block. */
static int read_pem_block(struct reading *reading, const char *at, const char **next)
{
	mbedtls_pem_context pem;
	const unsigned char *der;
	size_t used, len;
	int rc;

	if (strncmp(at, pem_begin, sizeof(pem_begin) - 1)) {
		size_t label = strcspn(at + LABEL_AT, "-\r\n");

		say(reading->why, reading->capacity, "there is a block \"%.*s\" where only certificates belong",
		    (int)(label > 40 ? 40 : label), at + LABEL_AT);
		return MESH_E_CORRUPT;
	}
	mbedtls_pem_init(&pem);
	rc = mbedtls_pem_read_buffer(&pem, pem_begin, pem_end, (const unsigned char *)at, NULL, 0, &used);
	if (rc) {
		rc = complain_about_pem(reading, rc);
	} else {
		der = mbedtls_pem_get_buffer(&pem, &len);
		rc = read_one(reading, der, len);
		*next = at + used;
	}
	mbedtls_pem_free(&pem);
	return rc;
}

static int read_pem(struct reading *reading, const char *text)
{
	const char *at = text;
	int rc = 0;

	while (!rc && (at = strstr(at, "-----BEGIN ")))
		rc = read_pem_block(reading, at, &at);
	if (!rc && !reading->count && text[strspn(text, " \t\r\n")]) {
		say(reading->why, reading->capacity, "there is no certificate in it, but other text: no line is %s", pem_begin);
		rc = MESH_E_CORRUPT;
	}
	return rc;
}

static int read_pem_bytes(struct reading *reading, const char *data, size_t len)
{
	char *text;
	int rc;

	/* A caller may have counted the NUL. */
	if (len && !data[len - 1])
		len--;
	if (len && memchr(data, 0, len)) {
		say(reading->why, reading->capacity, "it is not PEM: it has bytes that are not text");
		return MESH_E_CORRUPT;
	}
	text = mesh__memory_strndup(len ? data : "", len);
	if (!text) {
		say(reading->why, reading->capacity, "out of memory");
		return MESH_E_NOMEM;
	}
	rc = read_pem(reading, text);
	/* Whoever mixed up the files has given us a key. */
	mbedtls_platform_zeroize(text, len);
	mesh__memory_free(text);
	return rc;
}

int mesh__certificate_parse_all(mbedtls_x509_crt *list, bool der, const void *data, size_t len, uint32_t max, uint32_t *count, char *why,
				size_t capacity)
{
	struct reading reading = { .list = list, .max = max, .why = why, .capacity = capacity };
	int rc = der ? read_der(&reading, data, len) : read_pem_bytes(&reading, data, len);

	*count = reading.count;
	return rc;
}
