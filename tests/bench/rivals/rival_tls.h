/*
 * mbedTLS for the bare rivals, as well as one can do it by hand: TLS 1.3, both sides verified, AES-128-GCM, full records, memory on both
 * sides of it, so that reading and writing are one system call per 64 KiB rather than one per record.
 */
#ifndef TESTS_BENCH_RIVAL_TLS_H
#define TESTS_BENCH_RIVAL_TLS_H

#include "rival.h"

#include <limits.h>
#include <mbedtls/psa_util.h>
#include <mbedtls/ssl.h>
#include <psa/crypto.h>

enum { RIVAL_BUFFER_BYTES = 64 * 1024, RIVAL_SEALED_BYTES = RIVAL_BUFFER_BYTES + 4096 };

struct rival_tls_config {
	mbedtls_ssl_config config;
	mbedtls_x509_crt own, ca;
	mbedtls_pk_context key;
};

struct rival_tls {
	mbedtls_ssl_context ssl;
	const uint8_t *in;
	size_t in_len;
	int is_open;
};

static uint8_t rival_sealed[RIVAL_SEALED_BYTES];
static size_t rival_sealed_len;

static inline int rival_tls_send(void *user, const unsigned char *data, size_t len)
{
	(void)user;
	if (len > sizeof(rival_sealed) - rival_sealed_len)
		return MBEDTLS_ERR_SSL_BUFFER_TOO_SMALL;
	memcpy(rival_sealed + rival_sealed_len, data, len);
	rival_sealed_len += len;
	return (int)len;
}

static inline int rival_tls_recv(void *user, unsigned char *data, size_t len)
{
	struct rival_tls *tls = user;

	if (!tls->in_len)
		return MBEDTLS_ERR_SSL_WANT_READ;
	if (len > tls->in_len)
		len = tls->in_len;
	memcpy(data, tls->in, len);
	tls->in += len;
	tls->in_len -= len;
	return (int)len;
}

static inline int rival_tls_flush(int fd)
{
	size_t len = rival_sealed_len;

	rival_sealed_len = 0;
	return rival_write(fd, rival_sealed, len);
}

/* `folder` has tls.crt, tls.key and ca.crt, as `mesh ca issue` writes them. */
static inline struct rival_tls_config *rival_tls_config_new(const char *folder, int is_server)
{
	static const int suites[] = { MBEDTLS_TLS1_3_AES_128_GCM_SHA256, 0 };
	/* As libmesh has them; gRPC C++ takes the second only. */
	static const uint16_t groups[] = { MBEDTLS_SSL_IANA_TLS_GROUP_X25519, MBEDTLS_SSL_IANA_TLS_GROUP_SECP256R1, MBEDTLS_SSL_IANA_TLS_GROUP_NONE };
	static const char *protocols[] = { "h2", NULL };
	struct rival_tls_config *all = calloc(1, sizeof(*all));
	char certificate[PATH_MAX], key[PATH_MAX], ca[PATH_MAX];

	snprintf(certificate, sizeof(certificate), "%s/tls.crt", folder);
	snprintf(key, sizeof(key), "%s/tls.key", folder);
	snprintf(ca, sizeof(ca), "%s/ca.crt", folder);
	if (psa_crypto_init() != PSA_SUCCESS)
		exit(1);
	mbedtls_ssl_config_init(&all->config);
	mbedtls_x509_crt_init(&all->own);
	mbedtls_x509_crt_init(&all->ca);
	mbedtls_pk_init(&all->key);
	if (mbedtls_x509_crt_parse_file(&all->own, certificate) || mbedtls_x509_crt_parse_file(&all->ca, ca) ||
	    mbedtls_pk_parse_keyfile(&all->key, key, NULL, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE) ||
	    mbedtls_ssl_config_defaults(&all->config, is_server ? MBEDTLS_SSL_IS_SERVER : MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
					MBEDTLS_SSL_PRESET_DEFAULT)) {
		fprintf(stderr, "no certificates in %s\n", folder);
		exit(1);
	}
	mbedtls_ssl_conf_min_tls_version(&all->config, MBEDTLS_SSL_VERSION_TLS1_3);
	mbedtls_ssl_conf_ciphersuites(&all->config, suites);
	mbedtls_ssl_conf_groups(&all->config, groups);
	mbedtls_ssl_conf_rng(&all->config, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE);
	mbedtls_ssl_conf_authmode(&all->config, MBEDTLS_SSL_VERIFY_REQUIRED);
	mbedtls_ssl_conf_ca_chain(&all->config, &all->ca, NULL);
	mbedtls_ssl_conf_session_tickets(&all->config, MBEDTLS_SSL_SESSION_TICKETS_DISABLED);
	if (is_server)
		mbedtls_ssl_conf_new_session_tickets(&all->config, 0);
	if (mbedtls_ssl_conf_own_cert(&all->config, &all->own, &all->key) || mbedtls_ssl_conf_alpn_protocols(&all->config, protocols))
		exit(1);
	return all;
}

static inline struct rival_tls *rival_tls_new(const struct rival_tls_config *config)
{
	struct rival_tls *tls = calloc(1, sizeof(*tls));

	mbedtls_ssl_init(&tls->ssl);
	if (mbedtls_ssl_setup(&tls->ssl, &config->config) || mbedtls_ssl_set_hostname(&tls->ssl, NULL))
		exit(1);
	mbedtls_ssl_set_bio(&tls->ssl, tls, rival_tls_send, rival_tls_recv, NULL);
	return tls;
}

static inline void rival_tls_free(struct rival_tls *tls)
{
	if (!tls)
		return;
	mbedtls_ssl_free(&tls->ssl);
	free(tls);
}

/* 1: done; 0: more is needed of the peer; -1: it failed. What it says is written. */
static inline int rival_tls_handshake(struct rival_tls *tls, int fd)
{
	int rc = mbedtls_ssl_handshake(&tls->ssl);

	if (rival_tls_flush(fd) || (rc && rc != MBEDTLS_ERR_SSL_WANT_READ))
		return -1;
	tls->is_open = rc == 0;
	return tls->is_open;
}

/* At most RIVAL_BUFFER_BYTES, in full records, in one write. */
static inline int rival_tls_write(struct rival_tls *tls, int fd, const uint8_t *data, size_t len)
{
	int n;

	for (; len; data += n, len -= (size_t)n) {
		n = mbedtls_ssl_write(&tls->ssl, data, len);
		if (n <= 0)
			return -1;
	}
	return rival_tls_flush(fd);
}

#endif
