/*
 * Certificates as SPIFFE wants them.
 *
 * mbedTLS parses and does the arithmetic of the chain; which certificate may be a workload's is decided here. What mbedTLS does not
 * keep (is keyUsage critical?) is read from the extensions once more. The sentences name a certificate by its subject, as people
 * find it again in their files. How bytes become certificates: certificate_read.c.
 */
#include "identity/certificate.h"

#include "base/text.h"
#include "identity/name_constraints.h"

#include <mbedtls/asn1.h>
#include <mbedtls/oid.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { NAME_BYTES_MAX = 1024, RSA_BITS_MIN = 2048 };

/* SHA-2, RSA from 2048 bits on, and the curves of at least 255 bits. */
static const mbedtls_x509_crt_profile profile = {
	.allowed_mds = MBEDTLS_X509_ID_FLAG(MBEDTLS_MD_SHA256) | MBEDTLS_X509_ID_FLAG(MBEDTLS_MD_SHA384) | MBEDTLS_X509_ID_FLAG(MBEDTLS_MD_SHA512),
	.allowed_pks = 0xfffffff,
	.allowed_curves = MBEDTLS_X509_ID_FLAG(MBEDTLS_ECP_DP_SECP256R1) | MBEDTLS_X509_ID_FLAG(MBEDTLS_ECP_DP_SECP384R1) |
			  MBEDTLS_X509_ID_FLAG(MBEDTLS_ECP_DP_SECP521R1) | MBEDTLS_X509_ID_FLAG(MBEDTLS_ECP_DP_BP256R1) |
			  MBEDTLS_X509_ID_FLAG(MBEDTLS_ECP_DP_BP384R1) | MBEDTLS_X509_ID_FLAG(MBEDTLS_ECP_DP_BP512R1),
	.rsa_min_bitlen = RSA_BITS_MIN,
};

const char *mesh__refusal_name(enum mesh__refusal refusal)
{
	static const char *const names[] = {
		[MESH__REFUSAL_NONE] = "",
#define REFUSAL_NAME(NAME, text) [MESH__REFUSAL_##NAME] = text,
		MESH__REFUSALS(REFUSAL_NAME)
#undef REFUSAL_NAME
	};

	return (unsigned)refusal < MESH__REFUSAL_COUNT ? names[refusal] : "other";
}

void mesh__certificate_say(char *why, size_t capacity, const char *format, ...)
{
	struct mesh__text text;
	va_list args;

	if (!why || !capacity)
		return;
	mesh__text_init(&text, why, capacity);
	va_start(args, format);
	mesh__text_addv_escaped(&text, format, args);
	va_end(args);
}
#define say mesh__certificate_say

/* --- facts --- */

static int64_t to_unix(const mbedtls_x509_time *when)
{
	struct tm tm = {
		.tm_year = when->year - 1900, .tm_mon = when->mon - 1, .tm_mday = when->day,
		.tm_hour = when->hour, .tm_min = when->min, .tm_sec = when->sec,
	};

	return (int64_t)timegm(&tm);
}

static void print_name(char *out, size_t capacity, const mbedtls_x509_name *name)
{
	char raw[NAME_BYTES_MAX];
	struct mesh__text text;
	int len = name->oid.p ? mbedtls_x509_dn_gets(raw, sizeof(raw), name) : 0;

	mesh__text_init(&text, out, capacity);
	if (len < 0)
		mesh__text_add(&text, "(a name that is too long to show)");
	else
		mesh__text_add_escaped(&text, raw, (size_t)len);
}

static void print_serial(char *out, size_t capacity, const mbedtls_x509_buf *serial)
{
	struct mesh__text text;
	size_t i = 0;

	mesh__text_init(&text, out, capacity);
	while (i + 1 < serial->len && !serial->p[i])
		i++;
	for (; i < serial->len; i++)
		mesh__text_addf(&text, "%02x", serial->p[i]);
}

static bool is_uri(const mbedtls_x509_sequence *san)
{
	return san->buf.p && (san->buf.tag & (MBEDTLS_ASN1_TAG_CLASS_MASK | MBEDTLS_ASN1_TAG_VALUE_MASK)) ==
				     (MBEDTLS_ASN1_CONTEXT_SPECIFIC | MBEDTLS_X509_SAN_UNIFORM_RESOURCE_IDENTIFIER);
}

static const mbedtls_x509_buf *first_uri(const mbedtls_x509_crt *crt, uint32_t *count)
{
	const mbedtls_x509_buf *first = NULL;

	*count = 0;
	for (const mbedtls_x509_sequence *san = &crt->subject_alt_names; san; san = san->next) {
		if (!is_uri(san))
			continue;
		if (!first)
			first = &san->buf;
		++*count;
	}
	return first;
}

void mesh__certificate_facts(const mbedtls_x509_crt *crt, struct mesh__certificate_facts *facts)
{
	const mbedtls_x509_buf *uri;
	const char *phrase;
	uint32_t count;

	memset(facts, 0, sizeof(*facts));
	uri = first_uri(crt, &count);
	if (count == 1)
		mesh__spiffe_id_parse(&facts->id, (const char *)uri->p, uri->len, &phrase);
	facts->not_before_s = to_unix(&crt->valid_from);
	facts->not_after_s = to_unix(&crt->valid_to);
	print_serial(facts->serial, sizeof(facts->serial), &crt->serial);
	print_name(facts->issuer, sizeof(facts->issuer), &crt->issuer);
	print_name(facts->subject, sizeof(facts->subject), &crt->subject);
}

void mesh__certificate_ends(const mbedtls_x509_crt *list, int64_t *earliest_s, int64_t *latest_s)
{
	int64_t earliest = 0, latest = 0;

	for (; list && list->raw.p; list = list->next) {
		int64_t end = to_unix(&list->valid_to);

		earliest = !earliest || end < earliest ? end : earliest;
		latest = end > latest ? end : latest;
	}
	if (earliest_s)
		*earliest_s = earliest;
	if (latest_s)
		*latest_s = latest;
}

/* --- the rules for one certificate --- */

/* mbedTLS has parsed all this before, so that malformed ones do not get here. */
static bool next_extension(unsigned char **at, unsigned char *end, mbedtls_x509_buf *oid, struct mesh__extension *out)
{
	unsigned char *here, *next;
	int is_critical = 0;
	size_t len;

	if (*at >= end || mbedtls_asn1_get_tag(at, end, &len, MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE))
		return false;
	here = *at;
	*at = next = here + len;
	if (mbedtls_asn1_get_tag(&here, next, &oid->len, MBEDTLS_ASN1_OID))
		return false;
	oid->p = here;
	here += oid->len;
	(void)mbedtls_asn1_get_bool(&here, next, &is_critical); /* none: not critical */
	if (mbedtls_asn1_get_tag(&here, next, &len, MBEDTLS_ASN1_OCTET_STRING))
		return false;
	*out = (struct mesh__extension){ is_critical != 0, here, len };
	return true;
}

uint32_t mesh__certificate_extension(const mbedtls_x509_crt *crt, const char *oid, size_t oid_len, struct mesh__extension *out)
{
	unsigned char *at = crt->v3_ext.p, *end = at + crt->v3_ext.len;
	struct mesh__extension extension;
	mbedtls_x509_buf name;
	uint32_t count = 0;
	size_t len;

	if (!at || mbedtls_asn1_get_tag(&at, end, &len, MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE))
		return 0;
	while (next_extension(&at, end, &name, &extension))
		if (name.len == oid_len && !memcmp(name.p, oid, oid_len) && ++count == 1)
			*out = extension;
	return count;
}

static bool is_key_usage_critical(const mbedtls_x509_crt *crt)
{
	struct mesh__extension extension;

	return mesh__certificate_extension(crt, MBEDTLS_OID_KEY_USAGE, MBEDTLS_OID_SIZE(MBEDTLS_OID_KEY_USAGE), &extension) && extension.is_critical;
}

static bool has_usage(const mbedtls_x509_crt *crt, unsigned usage)
{
	return !mbedtls_x509_crt_check_key_usage(crt, usage);
}

static const char *judge_key_usage(const mbedtls_x509_crt *leaf)
{
	if (!mbedtls_x509_crt_has_ext_type(leaf, MBEDTLS_X509_EXT_KEY_USAGE))
		return "it has no keyUsage";
	if (!is_key_usage_critical(leaf))
		return "its keyUsage is not marked critical";
	if (has_usage(leaf, MBEDTLS_X509_KU_KEY_CERT_SIGN))
		return "its keyUsage has keyCertSign, which belongs to an authority";
	if (has_usage(leaf, MBEDTLS_X509_KU_CRL_SIGN))
		return "its keyUsage has cRLSign, which belongs to an authority";
	if (!has_usage(leaf, MBEDTLS_X509_KU_DIGITAL_SIGNATURE))
		return "its keyUsage has no digitalSignature";
	return NULL;
}

static bool has_extended_usage(const mbedtls_x509_crt *leaf, const char *oid, size_t len)
{
	for (const mbedtls_x509_sequence *use = &leaf->ext_key_usage; use; use = use->next)
		if (use->buf.p && use->buf.len == len && !memcmp(use->buf.p, oid, len))
			return true;
	return false;
}

static const char *judge_extended_key_usage(const mbedtls_x509_crt *leaf)
{
	bool is_server = has_extended_usage(leaf, MBEDTLS_OID_SERVER_AUTH, MBEDTLS_OID_SIZE(MBEDTLS_OID_SERVER_AUTH));
	bool is_client = has_extended_usage(leaf, MBEDTLS_OID_CLIENT_AUTH, MBEDTLS_OID_SIZE(MBEDTLS_OID_CLIENT_AUTH));

	if (!mbedtls_x509_crt_has_ext_type(leaf, MBEDTLS_X509_EXT_EXTENDED_KEY_USAGE) || (is_server && is_client))
		return NULL;
	return is_server   ? "its extendedKeyUsage has serverAuth, but no clientAuth: a workload needs both"
	       : is_client ? "its extendedKeyUsage has clientAuth, but no serverAuth: a workload needs both"
			   : "its extendedKeyUsage has neither serverAuth nor clientAuth: a workload needs both";
}

/* As the profile has it; asked before, so that the sentence names the key and not the chain. */
static const char *judge_key(const mbedtls_x509_crt *crt)
{
	mbedtls_pk_type_t type = mbedtls_pk_get_type(&crt->pk);
	size_t bits = mbedtls_pk_get_bitlen(&crt->pk);

	if (type == MBEDTLS_PK_RSA)
		return bits < RSA_BITS_MIN ? "its RSA key has fewer than 2048 bits" : NULL;
	if (type != MBEDTLS_PK_ECKEY && type != MBEDTLS_PK_ECDSA)
		return "its key can sign nothing that TLS knows";
	if (!(profile.allowed_curves & MBEDTLS_X509_ID_FLAG(mbedtls_ecp_keypair_get_group_id(mbedtls_pk_ec(crt->pk)))))
		return "its key is on a curve weaker than P-256, or on an unusual one";
	return NULL;
}

static enum mesh__refusal refuse(char *why, size_t capacity, enum mesh__refusal refusal, const char *phrase)
{
	say(why, capacity, "the certificate is no X.509-SVID: %s", phrase);
	return refusal;
}

static bool has_critical_name_constraints(const mbedtls_x509_crt *leaf)
{
	struct mesh__extension extension;

	return mesh__certificate_extension(leaf, MBEDTLS_OID_NAME_CONSTRAINTS, MBEDTLS_OID_SIZE(MBEDTLS_OID_NAME_CONSTRAINTS), &extension) &&
	       extension.is_critical;
}

static enum mesh__refusal check_id(const mbedtls_x509_crt *leaf, struct mesh__spiffe_id *id, char *why, size_t capacity)
{
	const mbedtls_x509_buf *uri;
	const char *phrase;
	uint32_t count;

	uri = first_uri(leaf, &count);
	if (!uri)
		return refuse(why, capacity, MESH__REFUSAL_NO_URI, "it has no URI among its alternative names, so no SPIFFE ID");
	if (count > 1)
		return refuse(why, capacity, MESH__REFUSAL_SEVERAL_URIS, "it has more than one URI among its alternative names");
	if (mesh__spiffe_id_parse(id, (const char *)uri->p, uri->len, &phrase)) {
		say(why, capacity, "the certificate is no X.509-SVID: its ID \"%.*s\" is wrong: %s",
		    (int)(uri->len > 128 ? 128 : uri->len), (const char *)uri->p, phrase);
		return MESH__REFUSAL_BAD_ID;
	}
	if (!*mesh__spiffe_id_path(id))
		return refuse(why, capacity, MESH__REFUSAL_NO_PATH, "its ID names a trust domain, but no workload in it: it has no path");
	return MESH__REFUSAL_NONE;
}

enum mesh__refusal mesh__certificate_check_leaf(const mbedtls_x509_crt *leaf, struct mesh__spiffe_id *id, char *why, size_t capacity)
{
	enum mesh__refusal refusal;
	const char *phrase;

	id->len = id->domain_len = 0;
	id->text[0] = '\0';
	refusal = check_id(leaf, id, why, capacity);
	if (refusal)
		return refusal;
	if (mbedtls_x509_crt_has_ext_type(leaf, MBEDTLS_X509_EXT_BASIC_CONSTRAINTS) && mbedtls_x509_crt_get_ca_istrue(leaf) > 0)
		return refuse(why, capacity, MESH__REFUSAL_IS_CA, "it is an authority's (CA=true), which may sign, but not speak");
	phrase = judge_key_usage(leaf);
	if (phrase)
		return refuse(why, capacity, MESH__REFUSAL_KEY_USAGE, phrase);
	phrase = judge_extended_key_usage(leaf);
	if (phrase)
		return refuse(why, capacity, MESH__REFUSAL_EXTENDED_KEY_USAGE, phrase);
	if (has_critical_name_constraints(leaf))
		return refuse(why, capacity, MESH__REFUSAL_CRITICAL_EXTENSION, "it has critical name constraints, which belong to an authority");
	phrase = judge_key(leaf);
	return phrase ? refuse(why, capacity, MESH__REFUSAL_WEAK_KEY, phrase) : MESH__REFUSAL_NONE;
}

static enum mesh__refusal refuse_ca(const mbedtls_x509_crt *ca, char *why, size_t capacity, enum mesh__refusal refusal, const char *phrase)
{
	char subject[MESH__ISSUER_TEXT_MAX];

	print_name(subject, sizeof(subject), &ca->subject);
	say(why, capacity, "the authority's certificate \"%s\" may not sign: %s", subject, phrase);
	return refusal;
}

/* An authority need not have an ID; a URI of another kind is none. */
static const char *judge_ca_id(const mbedtls_x509_crt *ca, const char *domain)
{
	struct mesh__spiffe_id id;
	const mbedtls_x509_buf *uri;
	const char *phrase;
	uint32_t count;

	uri = first_uri(ca, &count);
	if (!uri)
		return NULL;
	if (count > 1)
		return "it has more than one URI among its alternative names";
	if (uri->len < 7 || strncasecmp((const char *)uri->p, "spiffe:", 7))
		return NULL;
	if (mesh__spiffe_id_parse(&id, (const char *)uri->p, uri->len, &phrase))
		return phrase;
	if (*mesh__spiffe_id_path(&id))
		return "its SPIFFE ID has a path, so it is a workload's";
	if (domain && !mesh__spiffe_id_is_member(&id, domain))
		return "its SPIFFE ID is of another trust domain";
	return NULL;
}

enum mesh__refusal mesh__certificate_check_ca(const mbedtls_x509_crt *ca, const char *domain, char *why, size_t capacity)
{
	const char *phrase = NULL;

	if (!mbedtls_x509_crt_has_ext_type(ca, MBEDTLS_X509_EXT_BASIC_CONSTRAINTS) || mbedtls_x509_crt_get_ca_istrue(ca) <= 0)
		phrase = "it is not an authority's: its basicConstraints lack CA=true";
	else if (!mbedtls_x509_crt_has_ext_type(ca, MBEDTLS_X509_EXT_KEY_USAGE))
		phrase = "it has no keyUsage; an authority's must have keyCertSign";
	else if (!has_usage(ca, MBEDTLS_X509_KU_KEY_CERT_SIGN))
		phrase = "its keyUsage has no keyCertSign";
	else
		phrase = judge_ca_id(ca, domain);
	if (!phrase)
		phrase = mesh__name_constraints_check(ca);
	if (phrase)
		return refuse_ca(ca, why, capacity, MESH__REFUSAL_BAD_ISSUER, phrase);
	phrase = judge_key(ca);
	return phrase ? refuse_ca(ca, why, capacity, MESH__REFUSAL_WEAK_KEY, phrase) : MESH__REFUSAL_NONE;
}

/* --- the chain --- */

/* What is wrong, and with which certificate: mbedTLS shows each of the path that it found, from the root down. */
struct walk {
	uint32_t flags;
	const mbedtls_x509_crt *culprit[32]; /* by bit */
	const mbedtls_x509_crt *path[MBEDTLS_X509_MAX_VERIFY_CHAIN_SIZE]; /* by depth: 0 is the leaf */
	int path_len;
};

static int note_flags(void *user, mbedtls_x509_crt *crt, int depth, uint32_t *flags)
{
	struct walk *walk = user;

	if (depth >= 0 && depth < MBEDTLS_X509_MAX_VERIFY_CHAIN_SIZE) {
		walk->path[depth] = crt;
		walk->path_len = depth >= walk->path_len ? depth + 1 : walk->path_len;
	}
	for (unsigned bit = 0; bit < 32; bit++)
		if (*flags & (UINT32_C(1) << bit) && !walk->culprit[bit])
			walk->culprit[bit] = crt;
	walk->flags |= *flags;
	return 0;
}

static const struct verdict {
	uint32_t flag;
	enum mesh__refusal refusal;
	const char *phrase;
} verdicts[] = {
	{ MBEDTLS_X509_BADCERT_BAD_KEY, MESH__REFUSAL_WEAK_KEY, "is signed with a key that is too weak" },
	{ MBEDTLS_X509_BADCERT_BAD_MD, MESH__REFUSAL_WEAK_KEY, "is signed with a hash that is too weak" },
	{ MBEDTLS_X509_BADCERT_BAD_PK, MESH__REFUSAL_WEAK_KEY, "is signed with an algorithm that is not allowed" },
	{ MBEDTLS_X509_BADCERT_NOT_TRUSTED, MESH__REFUSAL_UNTRUSTED, NULL },
	{ MBEDTLS_X509_BADCERT_EXPIRED, MESH__REFUSAL_EXPIRED, "expired at" },
	{ MBEDTLS_X509_BADCERT_FUTURE, MESH__REFUSAL_NOT_YET_VALID, "is not valid before" },
};

static void print_time(char *out, size_t capacity, const mbedtls_x509_time *when)
{
	snprintf(out, capacity, "%04d-%02d-%02dT%02d:%02d:%02dZ", when->year, when->mon, when->day, when->hour, when->min, when->sec);
}

static const mbedtls_x509_crt *culprit_of(const struct walk *walk, uint32_t flag)
{
	for (unsigned bit = 0; bit < 32; bit++)
		if (flag == UINT32_C(1) << bit)
			return walk->culprit[bit];
	return NULL;
}

static bool is_self_issued(const mbedtls_x509_crt *crt)
{
	return crt->subject_raw.len == crt->issuer_raw.len && !memcmp(crt->subject_raw.p, crt->issuer_raw.p, crt->issuer_raw.len);
}

static enum mesh__refusal explain(const struct verdict *verdict, const mbedtls_x509_crt *crt, const struct mesh__spiffe_id *id, const char *domain,
				  char *why, size_t capacity)
{
	char subject[MESH__ISSUER_TEXT_MAX], issuer[MESH__ISSUER_TEXT_MAX], when[64] = "";

	print_name(subject, sizeof(subject), &crt->subject);
	print_name(issuer, sizeof(issuer), &crt->issuer);
	if (verdict->refusal == MESH__REFUSAL_UNTRUSTED) {
		say(why, capacity, "the certificate of %.256s is not signed by an authority in the bundle of %s: \"%s\" names \"%s\" as its issuer%s",
		    id->text, domain, subject, issuer, is_self_issued(crt) ? ", which is itself" : "");
		return verdict->refusal;
	}
	if (verdict->refusal == MESH__REFUSAL_EXPIRED)
		print_time(when, sizeof(when), &crt->valid_to);
	else if (verdict->refusal == MESH__REFUSAL_NOT_YET_VALID)
		print_time(when, sizeof(when), &crt->valid_from);
	say(why, capacity, "in the chain of %.256s, the certificate \"%s\" of \"%s\" %s%s%s", id->text, subject, issuer, verdict->phrase,
	    *when ? " " : "", when);
	return verdict->refusal;
}

/* Of the path, the one at `depth` has signed the one below it. The last is from the bundle. */
static enum mesh__refusal check_revocation(const struct mesh__revocations *revocations, const struct walk *walk, int depth,
					   const struct mesh__spiffe_id *id, char *why, size_t capacity)
{
	const mbedtls_x509_crt *crt = walk->path[depth - 1], *issuer = walk->path[depth];
	char subject[MESH__ISSUER_TEXT_MAX], serial[MESH__SERIAL_TEXT_MAX], when[64] = "";
	mbedtls_x509_time at;
	enum mesh__revocation found = mesh__revocations_find(revocations, crt, issuer, depth == walk->path_len - 1, &at);

	if (found == MESH__REVOCATION_NONE)
		return MESH__REFUSAL_NONE;
	print_name(subject, sizeof(subject), &(found == MESH__REVOCATION_REVOKED ? crt : issuer)->subject);
	print_serial(serial, sizeof(serial), &crt->serial);
	print_time(when, sizeof(when), &at);
	if (found == MESH__REVOCATION_REVOKED) {
		say(why, capacity, "in the chain of %.256s, the certificate \"%s\" with serial number %s was revoked by who signed it, at %s", id->text, subject,
		    serial, when);
		return MESH__REFUSAL_REVOKED;
	}
	say(why, capacity, "whether the certificate of %.256s is revoked cannot be known: the newest revocation list of \"%s\" %s %s", id->text, subject,
	    found == MESH__REVOCATION_EARLY ? "is not valid before" : "should have been renewed by", when);
	return MESH__REFUSAL_STALE_CRL;
}

/* Does what signed the first `depth` of the path allow the names in it? Its own do not count, nor those of a CA that only changed its key. */
static enum mesh__refusal check_names(const struct walk *walk, int depth, const struct mesh__spiffe_id *id, char *why, size_t capacity)
{
	const mbedtls_x509_crt *ca = walk->path[depth];
	struct mesh__name_violation violation;
	char subject[MESH__ISSUER_TEXT_MAX];

	for (int below = depth - 1; below >= 0; below--) {
		if ((below > 0 && is_self_issued(walk->path[below])) || !mesh__name_constraints_break(ca, walk->path[below], &violation))
			continue;
		print_name(subject, sizeof(subject), &ca->subject);
		say(why, capacity, "in the chain of %.256s, the name constraints of the authority \"%s\" %s %s%s%.*s%s", id->text, subject,
		    violation.is_excluded ? "exclude" : "do not permit", violation.kind, violation.len ? " \"" : "",
		    (int)(violation.len > 256 ? 256 : violation.len), violation.name, violation.len ? "\"" : "");
		return MESH__REFUSAL_NAME_CONSTRAINTS;
	}
	return MESH__REFUSAL_NONE;
}

/* What mbedTLS does not look at, or not as we need it. */
static enum mesh__refusal check_path(const struct walk *walk, const struct mesh__revocations *revocations, const struct mesh__spiffe_id *id, char *why,
				     size_t capacity)
{
	enum mesh__refusal refusal = MESH__REFUSAL_NONE;

	for (int depth = 1; !refusal && depth < walk->path_len; depth++) {
		if (revocations)
			refusal = check_revocation(revocations, walk, depth, id, why, capacity);
		if (!refusal)
			refusal = check_names(walk, depth, id, why, capacity);
	}
	return refusal;
}

static enum mesh__refusal verify_chain(mbedtls_x509_crt *chain, struct mesh__bundle *bundle, const struct mesh__revocations *revocations,
				       const struct mesh__spiffe_id *id, char *why, size_t capacity)
{
	struct walk walk = { 0 };
	const mbedtls_x509_crt *culprit;
	uint32_t flags;
	int rc = mbedtls_x509_crt_verify_with_profile(chain, &bundle->cas, NULL, &profile, NULL, &flags, note_flags, &walk);

	if (!rc)
		return check_path(&walk, revocations, id, why, capacity);
	for (size_t i = 0; rc == MBEDTLS_ERR_X509_CERT_VERIFY_FAILED && i < sizeof(verdicts) / sizeof(*verdicts); i++) {
		culprit = walk.flags & verdicts[i].flag ? culprit_of(&walk, verdicts[i].flag) : NULL;
		if (culprit)
			return explain(&verdicts[i], culprit, id, bundle->domain, why, capacity);
	}
	if (rc == MBEDTLS_ERR_X509_FATAL_ERROR) {
		say(why, capacity, "the chain of %.256s is longer than %d certificates", id->text, MBEDTLS_X509_MAX_VERIFY_CHAIN_SIZE);
		return MESH__REFUSAL_UNTRUSTED;
	}
	say(why, capacity, "the chain of %.256s could not be verified (mbedTLS error -0x%04x, flags 0x%x)", id->text, (unsigned)-rc, (unsigned)flags);
	return MESH__REFUSAL_OTHER;
}

static enum mesh__refusal check_between(const mbedtls_x509_crt *chain, const char *domain, char *why, size_t capacity)
{
	enum mesh__refusal refusal = MESH__REFUSAL_NONE;

	for (const mbedtls_x509_crt *ca = chain->next; ca && !refusal; ca = ca->next)
		refusal = mesh__certificate_check_ca(ca, domain, why, capacity);
	return refusal;
}

enum mesh__refusal mesh__certificate_verify(mbedtls_x509_crt *chain, struct mesh__bundle *bundle, const struct mesh__revocations *revocations,
					    struct mesh__spiffe_id *id, char *why, size_t capacity)
{
	enum mesh__refusal refusal;

	id->len = id->domain_len = 0;
	id->text[0] = '\0';
	if (!chain || !chain->raw.p) {
		say(why, capacity, "the peer showed no certificate");
		return MESH__REFUSAL_NO_CERTIFICATE;
	}
	refusal = mesh__certificate_check_leaf(chain, id, why, capacity);
	if (refusal)
		return refusal;
	/* Never another bundle than that of the ID's own trust domain, or one domain could name the workloads of another. */
	if (!bundle || !mesh__spiffe_id_is_member(id, bundle->domain)) {
		say(why, capacity, "there is no bundle for trust domain %.*s, to which %.256s belongs", (int)id->domain_len,
		    mesh__spiffe_id_domain(id), id->text);
		return MESH__REFUSAL_UNKNOWN_DOMAIN;
	}
	if (!bundle->count) {
		say(why, capacity, "the bundle of trust domain %s is empty, so nobody of it is trusted: not %.256s either", bundle->domain, id->text);
		return MESH__REFUSAL_UNTRUSTED;
	}
	refusal = check_between(chain, bundle->domain, why, capacity);
	return refusal ? refusal : verify_chain(chain, bundle, revocations, id, why, capacity);
}
