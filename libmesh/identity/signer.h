/*
 * Makes keys (P-256) and writes certificates: pure, but for random numbers and the wall clock that its caller hands in. authority.c decides who
 * gets one, and keeps the authority's own.
 */
#ifndef MESH_IDENTITY_SIGNER_H
#define MESH_IDENTITY_SIGNER_H

#include "mesh/error.h"

#include <mbedtls/ctr_drbg.h>
#include <mbedtls/pk.h>
#include <mbedtls/x509_crt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MESH__SIGNER_DNS_MAX = 64, MESH__SIGNER_KEY_BYTES_MAX = 512, MESH__SIGNER_CERTIFICATE_BYTES_MAX = 32768 };

struct mesh__signer_request {
	bool is_ca;
	const char *subject, *issuer; /* distinguished names as mbedTLS writes them: "CN=users" */
	mbedtls_pk_context *subject_key, *issuer_key;
	const char *uri;
	const char *const *dns;
	uint32_t dns_count;
	int64_t not_before_s, not_after_s; /* Unix time */
};

/* An mbedTLS error as one of ours: "what: reason". */
int mesh__signer_fault(struct mesh_error *err, int number, const char *what);

int mesh__signer_make_key(mbedtls_pk_context *key, mbedtls_ctr_drbg_context *rng, struct mesh_error *err); /* `key` is initialised */

/* DER at the end of `der`; its length, or an error. `capacity`: MESH__SIGNER_CERTIFICATE_BYTES_MAX. */
int mesh__signer_write_certificate(const struct mesh__signer_request *request, mbedtls_ctr_drbg_context *rng, unsigned char *der, size_t capacity,
				   struct mesh_error *err);

/* PKCS#8, unencrypted, at the end of `der`; its length, or an error. `capacity`: MESH__SIGNER_KEY_BYTES_MAX. */
int mesh__signer_write_key(const mbedtls_pk_context *key, unsigned char *der, size_t capacity, struct mesh_error *err);

/* PEM of DER, NUL-terminated; mesh__private_files_free() with *len, which does not count the NUL. `label`: "CERTIFICATE". */
int mesh__signer_pem(const char *label, const void *der, size_t der_len, char **pem, size_t *len, struct mesh_error *err);

#endif
