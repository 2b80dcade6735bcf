/*
 * Credentials: what a process is (SVIDs with their keys) and whom it trusts (a bundle per trust domain), as one immutable, counted
 * generation. A source makes a whole new one for every change; a handshake takes the newest and keeps it as long as its session
 * lives; the last release frees it. No lock on the path of data.
 */
#ifndef MESH_IDENTITY_CREDENTIALS_H
#define MESH_IDENTITY_CREDENTIALS_H

#include "identity/certificate.h"

#include <mbedtls/pk.h>

enum { MESH__SVIDS_MAX = 64, MESH__BUNDLES_MAX = 256 };

struct mesh__svid {
	struct mesh__certificate_facts facts;
	char hint[128];
	mbedtls_x509_crt chain; /* leaf first */
	mbedtls_pk_context key;
};

struct mesh__credentials {
	atomic_uint refs;
	uint64_t number;       /* of the generation, from 1; set by identity.c */
	uint32_t svid_count, bundle_count;
	struct mesh__svid *svids[MESH__SVIDS_MAX];        /* the first is the default */
	struct mesh__bundle *bundles[MESH__BUNDLES_MAX];  /* one per trust domain */
	struct mesh__revocations revocations;             /* signers are borrowed from the bundles */
};

int mesh__credentials_new(struct mesh__credentials **out); /* empty; MESH_E_NOMEM */
struct mesh__credentials *mesh__credentials_ref(struct mesh__credentials *credentials);
void mesh__credentials_unref(struct mesh__credentials *credentials); /* NULL is fine; keys are zeroed when the last goes */

/*
 * Adds an SVID; checks everything first: the leaf's rules, that the key is the certificate's, that it is not expired and its trust domain's bundle,
 * if it is there by then, vouches for it (add bundles first, then revocation lists). `der`: concatenated DER and PKCS#8 DER, else PEM. PEM data need no NUL.
 * Errors: MESH_E_CORRUPT, MESH_E_IDENTITY (not valid now), MESH_E_NOMEM; `why` is a sentence. Nothing is added then.
 */
int mesh__credentials_add_svid(struct mesh__credentials *credentials, bool der, const void *chain, size_t chain_len, const void *key,
			       size_t key_len, const char *hint, char *why, size_t capacity);
int mesh__credentials_add_bundle(struct mesh__credentials *credentials, struct mesh__bundle *bundle); /* takes it over, unless it fails. MESH_E_NOMEM: full; MESH_E_CORRUPT: twice */
/* Adds one revocation list as DER, or all of a PEM text, once the bundles are there. MESH_E_CORRUPT, MESH_E_NOMEM with a sentence. */
int mesh__credentials_add_crl(struct mesh__credentials *credentials, bool der, const void *data, size_t len, char *why, size_t capacity);

/* Makes the first SVID with this hint the default, before others have seen them. false: there is none; true if `hint` is "". */
bool mesh__credentials_prefer(struct mesh__credentials *credentials, const char *hint);

/* The SVID whose ID is `id` (NULL: the default), else the one with `hint` (NULL or "": none asked for), else the default; NULL: none at all. */
const struct mesh__svid *mesh__credentials_svid(const struct mesh__credentials *credentials, const char *id, const char *hint);
struct mesh__bundle *mesh__credentials_bundle(const struct mesh__credentials *credentials, const char *domain, size_t len); /* borrowed; NULL: none */

#endif
