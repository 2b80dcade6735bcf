#define MBEDTLS_ALLOW_PRIVATE_ACCESS /* the signature of a list has no getter in 3.6 */
#include "identity/revocation.h"

#include "base/memory.h"
#include "identity/certificate.h"
#include "mesh/error.h"

#include <mbedtls/asn1.h>
#include <mbedtls/error.h>
#include <mbedtls/md.h>
#include <mbedtls/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define say mesh__certificate_say

enum { REASON_MAX = 128 };

static void free_crl(struct mesh__crl *crl)
{
	mbedtls_x509_crl_free(&crl->list);
	mesh__memory_free(crl->by_serial);
	mesh__memory_free(crl);
}

void mesh__revocations_fini(struct mesh__revocations *revocations)
{
	struct mesh__crl *next;

	for (struct mesh__crl *crl = revocations->first; crl; crl = next) {
		next = crl->next;
		free_crl(crl);
	}
	*revocations = (struct mesh__revocations){ 0 };
}

static bool is_same(const mbedtls_x509_buf *a, const mbedtls_x509_buf *b)
{
	return a->len == b->len && !memcmp(a->p, b->p, a->len);
}

/* --- who signed it --- */

static bool is_signed_by(const mbedtls_x509_crl *list, const mbedtls_x509_crt *ca)
{
	const mbedtls_md_info_t *md = mbedtls_md_info_from_type(list->sig_md);
	unsigned char hash[MBEDTLS_MD_MAX_SIZE];

	if (!is_same(&list->issuer_raw, &ca->subject_raw) || mbedtls_x509_crt_check_key_usage(ca, MBEDTLS_X509_KU_CRL_SIGN))
		return false;
	if (list->sig_md != MBEDTLS_MD_SHA256 && list->sig_md != MBEDTLS_MD_SHA384 && list->sig_md != MBEDTLS_MD_SHA512)
		return false;
	return md && !mbedtls_md(md, list->tbs.p, list->tbs.len, hash) &&
	       !mbedtls_pk_verify_ext(list->sig_pk, list->sig_opts, (mbedtls_pk_context *)(uintptr_t)&ca->pk, list->sig_md, hash, mbedtls_md_get_size(md),
				      list->sig.p, list->sig.len);
}

static const mbedtls_x509_crt *find_signer(const mbedtls_x509_crl *list, struct mesh__bundle *const *bundles, uint32_t bundle_count)
{
	for (uint32_t i = 0; i < bundle_count; i++)
		for (const mbedtls_x509_crt *ca = bundles[i]->count ? &bundles[i]->cas : NULL; ca; ca = ca->next)
			if (is_signed_by(list, ca))
				return ca;
	return NULL;
}

/* --- reading --- */

struct reading {
	struct mesh__revocations *revocations;
	struct mesh__bundle *const *bundles;
	uint32_t bundle_count;
	char *why;
	size_t capacity;
};

static int fail(const struct reading *reading, int code, const char *phrase)
{
	if (code == MESH_E_NOMEM)
		say(reading->why, reading->capacity, "out of memory");
	else
		say(reading->why, reading->capacity, "revocation list %u: %s", reading->revocations->count + 1, phrase);
	return code;
}

static int complain(const struct reading *reading, int rc)
{
	char reason[REASON_MAX], phrase[2 * REASON_MAX];

	if (rc == MBEDTLS_ERR_X509_ALLOC_FAILED)
		return fail(reading, MESH_E_NOMEM, NULL);
	mbedtls_strerror(rc, reason, sizeof(reason));
	snprintf(phrase, sizeof(phrase), "it is none that can be read, or not of all certificates of its authority (%s)", reason);
	return fail(reading, MESH_E_CORRUPT, phrase);
}

static int compare_serials(const mbedtls_x509_buf *a, const mbedtls_x509_buf *b)
{
	if (a->len != b->len)
		return a->len < b->len ? -1 : 1;
	return memcmp(a->p, b->p, a->len);
}

static int compare_entries(const void *a, const void *b)
{
	return compare_serials(&(*(const mbedtls_x509_crl_entry *const *)a)->serial, &(*(const mbedtls_x509_crl_entry *const *)b)->serial);
}

static int compare_to_entry(const void *serial, const void *entry)
{
	return compare_serials(serial, &(*(const mbedtls_x509_crl_entry *const *)entry)->serial);
}

/* mbedTLS has them in a row, and a list without any has one that is empty. */
static int sort_entries(struct mesh__crl *crl)
{
	const mbedtls_x509_crl_entry *entry;
	size_t count = 0;

	for (entry = &crl->list.entry; entry && entry->serial.len; entry = entry->next)
		count++;
	crl->by_serial = count ? mesh__memory_zalloc_array(count, sizeof(entry)) : NULL;
	if (count && !crl->by_serial)
		return -1;
	for (entry = &crl->list.entry; crl->entry_count < count; entry = entry->next)
		crl->by_serial[crl->entry_count++] = entry;
	if (count)
		qsort(crl->by_serial, count, sizeof(entry), compare_entries);
	return 0;
}

static int read_list(struct reading *reading, struct mesh__crl *crl, const uint8_t *der, size_t len)
{
	int rc = mbedtls_x509_crl_parse_der(&crl->list, der, len);

	if (rc)
		return complain(reading, rc);
	if (!crl->list.next_update.year)
		return fail(reading, MESH_E_CORRUPT, "it has no nextUpdate, so that nobody knows until when it is good");
	return sort_entries(crl) ? fail(reading, MESH_E_NOMEM, NULL) : 0;
}

static int read_one(struct reading *reading, const uint8_t *der, size_t len)
{
	struct mesh__revocations *revocations = reading->revocations;
	struct mesh__crl *crl;
	int rc;

	if (revocations->count == MESH__CRLS_MAX)
		return fail(reading, MESH_E_CORRUPT, "there are too many");
	if (!len || len > MESH__CRL_BYTES_MAX)
		return fail(reading, MESH_E_CORRUPT, len ? "it is too long" : "it is empty");
	crl = mesh__memory_zalloc(sizeof(*crl));
	if (!crl)
		return fail(reading, MESH_E_NOMEM, NULL);
	mbedtls_x509_crl_init(&crl->list);
	rc = read_list(reading, crl, der, len);
	if (rc) {
		free_crl(crl);
		return rc;
	}
	crl->signer = find_signer(&crl->list, reading->bundles, reading->bundle_count);
	crl->next = revocations->first;
	revocations->first = crl;
	revocations->count++;
	revocations->stranger_count += !crl->signer;
	return 0;
}

static const char pem_begin[] = "-----BEGIN X509 CRL-----", pem_end[] = "-----END X509 CRL-----";

/* `at` is at a BEGIN line; *next is behind its block. */
static int read_pem_block(struct reading *reading, const char *at, const char **next)
{
	mbedtls_pem_context pem;
	const unsigned char *der;
	size_t used, len;
	int rc;

	if (strncmp(at, pem_begin, sizeof(pem_begin) - 1))
		return fail(reading, MESH_E_CORRUPT, "there is a block of another kind where only X509 CRL belongs");
	mbedtls_pem_init(&pem);
	rc = mbedtls_pem_read_buffer(&pem, pem_begin, pem_end, (const unsigned char *)at, NULL, 0, &used);
	if (rc) {
		rc = fail(reading, rc == MBEDTLS_ERR_PEM_ALLOC_FAILED ? MESH_E_NOMEM : MESH_E_CORRUPT, "it is cut off, or not base64");
	} else {
		der = mbedtls_pem_get_buffer(&pem, &len);
		rc = read_one(reading, der, len);
		*next = at + used;
	}
	mbedtls_pem_free(&pem);
	return rc;
}

/* An empty text is fine: nobody has taken anything back. */
static int read_pem(struct reading *reading, const char *data, size_t len)
{
	char *text = mesh__memory_strndup(len ? data : "", len);
	const char *at = text;
	int rc = 0;

	if (!text)
		return fail(reading, MESH_E_NOMEM, NULL);
	if (strlen(text) != len)
		rc = fail(reading, MESH_E_CORRUPT, "it is not PEM: it has bytes that are not text");
	else if (text[strspn(text, " \t\r\n")] && !strstr(text, "-----BEGIN "))
		rc = fail(reading, MESH_E_CORRUPT, "it is not PEM: no line begins with -----BEGIN X509 CRL-----");
	while (!rc && (at = strstr(at, "-----BEGIN ")))
		rc = read_pem_block(reading, at, &at);
	mesh__memory_free(text);
	return rc;
}

int mesh__revocations_add(struct mesh__revocations *revocations, struct mesh__bundle *const *bundles, uint32_t bundle_count, bool der, const void *data,
			  size_t len, char *why, size_t capacity)
{
	struct reading reading = { revocations, bundles, bundle_count, why, capacity };

	return der ? read_one(&reading, data, len) : read_pem(&reading, data, len);
}

/* --- asking --- */

static bool is_of(const struct mesh__crl *crl, const mbedtls_x509_crt *issuer, bool is_in_bundle)
{
	if (crl->signer)
		return is_same(&crl->signer->subject_raw, &issuer->subject_raw) && is_same(&crl->signer->pk_raw, &issuer->pk_raw);
	return !is_in_bundle && is_signed_by(&crl->list, issuer);
}

static const mbedtls_x509_crl_entry *find_entry(const struct mesh__crl *crl, const mbedtls_x509_buf *serial)
{
	const mbedtls_x509_crl_entry **at = NULL;

	if (crl->entry_count)
		at = bsearch(serial, crl->by_serial, crl->entry_count, sizeof(*crl->by_serial), compare_to_entry);
	return at ? *at : NULL;
}

static int compare_times(const mbedtls_x509_time *a, const mbedtls_x509_time *b)
{
	const int parts[][2] = { { a->year, b->year }, { a->mon, b->mon }, { a->day, b->day }, { a->hour, b->hour }, { a->min, b->min }, { a->sec, b->sec } };

	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
		if (parts[i][0] != parts[i][1])
			return parts[i][0] < parts[i][1] ? -1 : 1;
	return 0;
}

enum mesh__revocation mesh__revocations_find(const struct mesh__revocations *revocations, const mbedtls_x509_crt *crt, const mbedtls_x509_crt *issuer,
					     bool is_in_bundle, mbedtls_x509_time *at)
{
	const mbedtls_x509_crl *newest = NULL;
	const mbedtls_x509_crl_entry *entry;

	for (const struct mesh__crl *crl = revocations->first; crl; crl = crl->next) {
		if (!is_same(&crl->list.issuer_raw, &issuer->subject_raw) || !is_of(crl, issuer, is_in_bundle))
			continue;
		entry = find_entry(crl, &crt->serial);
		if (entry) {
			*at = entry->revocation_date;
			return MESH__REVOCATION_REVOKED;
		}
		if (!newest || compare_times(&crl->list.next_update, &newest->next_update) > 0)
			newest = &crl->list;
	}
	if (newest && mbedtls_x509_time_is_past(&newest->next_update)) {
		*at = newest->next_update;
		return MESH__REVOCATION_LATE;
	}
	if (newest && mbedtls_x509_time_is_future(&newest->this_update)) {
		*at = newest->this_update;
		return MESH__REVOCATION_EARLY;
	}
	return MESH__REVOCATION_NONE;
}

static bool is_named(const struct mesh__revocations *revocations, const mbedtls_x509_buf *issuer, const mbedtls_x509_buf *serial)
{
	for (const struct mesh__crl *crl = revocations->first; crl; crl = crl->next)
		if (is_same(&crl->list.issuer_raw, issuer) && find_entry(crl, serial))
			return true;
	return false;
}

enum { SEQUENCE = MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE, WITH_VERSION = MBEDTLS_ASN1_CONTEXT_SPECIFIC | MBEDTLS_ASN1_CONSTRUCTED };

/* Of the certificate at *at (RFC 5280, 4.1), which then is behind it, what a list names it by. A parser reads its key, too, which takes a hundred times as long. */
static bool read_names(uint8_t **at, const uint8_t *end, mbedtls_x509_buf *issuer, mbedtls_x509_buf *serial)
{
	uint8_t *p = *at;
	size_t len;

	if (mbedtls_asn1_get_tag(&p, end, &len, SEQUENCE))
		return false;
	end = *at = p + len;
	if (mbedtls_asn1_get_tag(&p, end, &len, SEQUENCE)) /* what is signed */
		return false;
	end = p + len;
	if (!mbedtls_asn1_get_tag(&p, end, &len, WITH_VERSION))
		p += len;
	if (mbedtls_asn1_get_tag(&p, end, &serial->len, MBEDTLS_ASN1_INTEGER))
		return false;
	serial->p = p;
	p += serial->len;
	if (mbedtls_asn1_get_tag(&p, end, &len, SEQUENCE)) /* the algorithm */
		return false;
	issuer->p = p += len;
	if (mbedtls_asn1_get_tag(&p, end, &len, SEQUENCE))
		return false;
	issuer->len = (size_t)(p - issuer->p) + len;
	return true;
}

bool mesh__revocations_name(const struct mesh__revocations *revocations, const uint8_t *chain, size_t len)
{
	uint8_t *at = (uint8_t *)(uintptr_t)chain; /* read only, whatever mbedTLS's signatures say */
	mbedtls_x509_buf issuer, serial;

	while (at < chain + len)
		if (!read_names(&at, chain + len, &issuer, &serial) || is_named(revocations, &issuer, &serial))
			return true;
	return false;
}
