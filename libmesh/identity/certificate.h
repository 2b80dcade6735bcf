/*
 * X.509-SVIDs: which certificate may stand for a workload, and whether a bundle vouches for it. Pure, but for the wall clock that
 * mbedTLS reads for validity.
 *
 * The order (X509-SVID, sections 4 and 5): exactly one URI SAN; it is a SPIFFE ID with a path; basicConstraints CA=false; keyUsage
 * present, critical, with digitalSignature and without keyCertSign and cRLSign; extended key usage, if present, has both serverAuth and
 * clientAuth. Then the chain, against the bundle of the ID's own trust domain and no other; certificates between are CAs with
 * keyCertSign, and their SPIFFE ID, if any, has no path and is of the same trust domain. Then, for the path that was found: the revocation
 * lists of those who signed (revocation.h), and their name constraints (name_constraints.h).
 */
#ifndef MESH_IDENTITY_CERTIFICATE_H
#define MESH_IDENTITY_CERTIFICATE_H

#include "identity/bundle.h"
#include "identity/revocation.h"
#include "identity/spiffe_id.h"

enum { MESH__SERIAL_TEXT_MAX = 64, MESH__ISSUER_TEXT_MAX = 256 };

/* Why a peer is refused: the label of mesh_handshake_failures_total, in this spelling. */
enum mesh__refusal {
	MESH__REFUSAL_NONE,
#define MESH__REFUSALS(X)                                                                                                            \
	X(NO_CERTIFICATE, "no_certificate") X(MALFORMED, "malformed") X(NO_URI, "no_uri") X(SEVERAL_URIS, "several_uris")            \
	X(BAD_ID, "bad_id") X(NO_PATH, "no_path") X(IS_CA, "is_ca") X(KEY_USAGE, "key_usage") X(EXTENDED_KEY_USAGE, "extended_key_usage") \
	X(WEAK_KEY, "weak_key") X(UNKNOWN_DOMAIN, "unknown_domain") X(UNTRUSTED, "untrusted") X(EXPIRED, "expired")                  \
	X(NOT_YET_VALID, "not_yet_valid") X(REVOKED, "revoked") X(STALE_CRL, "stale_crl") X(NAME_CONSTRAINTS, "name_constraints")    \
	X(BAD_ISSUER, "bad_issuer") X(CRITICAL_EXTENSION, "critical_extension") X(WRONG_ID, "wrong_id") X(NOT_ALLOWED, "not_allowed") X(OTHER, "other")
#define MESH__REFUSAL_ENUM(NAME, text) MESH__REFUSAL_##NAME,
	MESH__REFUSALS(MESH__REFUSAL_ENUM)
#undef MESH__REFUSAL_ENUM
	MESH__REFUSAL_COUNT
};
const char *mesh__refusal_name(enum mesh__refusal refusal); /* "expired"; "" for NONE */

/* Fills `why`: foreign names in it are escaped, whatever they hold. NULL or no capacity: nothing. */
void mesh__certificate_say(char *why, size_t capacity, const char *format, ...) __attribute__((format(printf, 3, 4)));

/*
 * Adds one certificate to the list, copying it: NONE, MALFORMED, CRITICAL_EXTENSION (one that nobody here understands), or OTHER: out of memory.
 */
enum mesh__refusal mesh__certificate_parse(mbedtls_x509_crt *list, const uint8_t *der, size_t len, char *why, size_t capacity);

/*
 * Adds all of a file or message to the list: concatenated DER, or PEM (which needs no NUL; text around the blocks is fine, blocks of
 * another kind are not). Nothing at all is no error: *count is 0. The first that is wrong ends it: MESH_E_CORRUPT or MESH_E_NOMEM;
 * the list then holds those before it.
 */
int mesh__certificate_parse_all(mbedtls_x509_crt *list, bool der, const void *data, size_t len, uint32_t max, uint32_t *count, char *why,
				size_t capacity);

bool mesh__certificate_is_out_of_memory(int rc); /* is that what an error of mbedTLS means? Below others it is added to them. */

struct mesh__certificate_facts {
	struct mesh__spiffe_id id;
	int64_t not_before_s, not_after_s; /* Unix time */
	char serial[MESH__SERIAL_TEXT_MAX]; /* hexadecimal, no colons */
	char issuer[MESH__ISSUER_TEXT_MAX]; /* its distinguished name, escaped for a terminal */
	char subject[MESH__ISSUER_TEXT_MAX];
};

/* The rules for a leaf alone. NONE, or what is broken, with `why` a sentence. `id` is filled as soon as it is known. */
enum mesh__refusal mesh__certificate_check_leaf(const mbedtls_x509_crt *leaf, struct mesh__spiffe_id *id, char *why, size_t capacity);

/* The rules for one that signs, between leaf and root or in a bundle (`domain`: whose; NULL: any). */
enum mesh__refusal mesh__certificate_check_ca(const mbedtls_x509_crt *ca, const char *domain, char *why, size_t capacity);

/*
 * The whole: leaf (first of `chain`), then the chain against `bundle`, which must be that of the leaf's trust domain (NULL: there is
 * none, UNKNOWN_DOMAIN), with what authorities took back (NULL: nothing).
 */
enum mesh__refusal mesh__certificate_verify(mbedtls_x509_crt *chain, struct mesh__bundle *bundle, const struct mesh__revocations *revocations,
					    struct mesh__spiffe_id *id, char *why, size_t capacity);

/* How often the certificate has that extension; the first one's mark and content. Of a certificate that was parsed. */
struct mesh__extension {
	bool is_critical;
	const uint8_t *content;
	size_t len;
};
uint32_t mesh__certificate_extension(const mbedtls_x509_crt *crt, const char *oid, size_t oid_len, struct mesh__extension *out);

void mesh__certificate_facts(const mbedtls_x509_crt *crt, struct mesh__certificate_facts *facts); /* id.len 0: it has none */

/* When the first and the last of a list end (either may be NULL); 0: it is empty. */
void mesh__certificate_ends(const mbedtls_x509_crt *list, int64_t *earliest_s, int64_t *latest_s);

#endif
