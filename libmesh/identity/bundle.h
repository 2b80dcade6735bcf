/*
 * A bundle: the certificates that may sign for one trust domain. Immutable, counted.
 *
 * Read from PEM, from concatenated DER (Workload API), or from a SPIFFE bundle (JWK set: entries with use=x509-svid, the first x5c
 * only, kid ignored). One bad entry refuses the whole. An empty bundle is valid and trusts nobody, except where `may_be_empty` is false.
 */
#ifndef MESH_IDENTITY_BUNDLE_H
#define MESH_IDENTITY_BUNDLE_H

#include <mbedtls/x509_crt.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MESH__BUNDLE_BYTES_MAX = 1024 * 1024, MESH__BUNDLE_CERTIFICATES_MAX = 256 };

struct mesh__bundle {
	atomic_uint refs;
	uint32_t count;      /* of certificates */
	char domain[256];    /* trust domain */
	mbedtls_x509_crt cas; /* a list; meaningless if count is 0 */
};

enum mesh__bundle_format { MESH__BUNDLE_PEM, MESH__BUNDLE_DER, MESH__BUNDLE_JWKS };

/* 0, or a code (MESH_E_CORRUPT, MESH_E_NOMEM) with `why` a sentence: which certificate, what is wrong with it. */
int mesh__bundle_parse(struct mesh__bundle **out, const char *domain, enum mesh__bundle_format format, const void *data, size_t len,
		       bool may_be_empty, char *why, size_t capacity);
struct mesh__bundle *mesh__bundle_ref(struct mesh__bundle *bundle);
void mesh__bundle_unref(struct mesh__bundle *bundle); /* NULL is fine */

#endif
