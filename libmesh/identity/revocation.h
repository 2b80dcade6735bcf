/*
 * Certificate revocation lists (CRLs): what authorities have taken back before its time. Part of a generation of credentials.
 *
 * A list counts for the certificates of the authority, name and key, that has signed it; whose bundle that authority is in does not matter then. One that is
 * signed by no authority in a bundle may be of one between leaf and root: that is seen when a chain shows it; else it is not looked at.
 * Several of one authority count together. If the newest of them is past its nextUpdate (or before its thisUpdate), whether a certificate of that authority
 * is revoked cannot be known, and it is refused, as mbedTLS and OpenSSL do; what any of them revokes is revoked.
 *
 * Whole lists only: one for a part of the certificates, a delta, or one that speaks for another authority says so in a critical extension, and is refused.
 * Source: RFC 5280, sections 5 and 6.3.
 */
#ifndef MESH_IDENTITY_REVOCATION_H
#define MESH_IDENTITY_REVOCATION_H

#include "identity/bundle.h"

#include <mbedtls/x509_crl.h>

enum { MESH__CRLS_MAX = 256, MESH__CRL_BYTES_MAX = 8 * 1024 * 1024 };

struct mesh__crl {
	struct mesh__crl *next;
	mbedtls_x509_crl list;
	const mbedtls_x509_crl_entry **by_serial; /* the entries of `list`, in order: lists may have hundreds of thousands */
	size_t entry_count;
	const mbedtls_x509_crt *signer; /* in a bundle, borrowed; NULL: none there */
};

struct mesh__revocations {
	struct mesh__crl *first;
	uint32_t count, stranger_count; /* without a signer in a bundle */
};

void mesh__revocations_fini(struct mesh__revocations *revocations);

/*
 * Adds one list as DER, or all of a PEM text; of the bundles, which must be the same generation's, comes who signed it. MESH_E_CORRUPT, MESH_E_NOMEM with a
 * sentence: the whole is of no use then.
 */
int mesh__revocations_add(struct mesh__revocations *revocations, struct mesh__bundle *const *bundles, uint32_t bundle_count, bool der, const void *data,
			  size_t len, char *why, size_t capacity);

enum mesh__revocation { MESH__REVOCATION_NONE, MESH__REVOCATION_REVOKED, MESH__REVOCATION_LATE, MESH__REVOCATION_EARLY };

/*
 * `issuer` has signed `crt`: that was verified. `is_in_bundle`: it is from one of the bundles, so that what it has signed was found out before.
 * *at: when it was revoked, or the list should have been renewed, or begins.
 */
enum mesh__revocation mesh__revocations_find(const struct mesh__revocations *revocations, const mbedtls_x509_crt *crt, const mbedtls_x509_crt *issuer,
					     bool is_in_bundle, mbedtls_x509_time *at);

/*
 * Is one of these certificates, as DER one after the other, named in a list that has its issuer's name? Not yet proof: the issuer's key is not compared.
 * What cannot be read counts as named. Cheap, and allocates nothing: a loop asks for each of its connections.
 */
bool mesh__revocations_name(const struct mesh__revocations *revocations, const uint8_t *chain, size_t len);

#endif
