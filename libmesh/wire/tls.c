/*
 * The TLS of a connection. mbedTLS reads and writes through two callbacks that see memory only: `in`, the bytes at hand, and either
 * `growing` (a handshake's output) or `fixed` (records into the caller's buffer), which always have room, so that writing never waits.
 *
 * Whom to trust is not mbedTLS's to decide: it would take any certificate that any of a set of authorities signed. Its own verdict
 * is cleared, and at the leaf ours is given: the rules for workloads, the one bundle of the peer's trust domain, the expected
 * ID. A handshake in which ours was never asked for fails: only finish() opens a session.
 *
 * A session of mbedTLS owns two buffers of nearly 17 KiB each for as long as it lives, most of what an idle connection costs. Between
 * records nothing in them is of use but the number of the next one. So once the handshake is over, sessions that one thread turns by turns
 * share theirs: borrow() before mbedTLS needs them, give_back() when no part of a record is in them.
 */
#define MBEDTLS_ALLOW_PRIVATE_ACCESS /* 3.6 has no getter for the description of a received alert, nor for the message at hand, and keeps its buffers: see borrow() */
#include "wire/tls.h"

#include "base/fork_gate.h"
#include "base/memory.h"
#include "base/text.h"
#include "mesh/error.h"

#include <malloc.h>
#include <mbedtls/error.h>
#include <mbedtls/platform.h>
#include <mbedtls/psa_util.h>
#include <mbedtls/ssl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_HEAD_BYTES = 4, LIST_HEAD_BYTES = 4, LENGTH_BYTES = 3 };
enum {
	SEQUENCE_BYTES = 8, /* how a buffer of mbedTLS begins: the number of the record, then the record */
	BUFFER_BYTES = (MBEDTLS_SSL_IN_CONTENT_LEN > MBEDTLS_SSL_OUT_CONTENT_LEN ? MBEDTLS_SSL_IN_CONTENT_LEN : MBEDTLS_SSL_OUT_CONTENT_LEN) + 1024,
	OUTPUT_FIRST_BYTES = 4096,
	OUTPUT_BYTES_MAX = 1024 * 1024,
	RECORD_ALERT = 21,
	RECORD_HANDSHAKE = 22,
	RECORD_HEADER_BYTES = 5,
	MESSAGE_KEY_UPDATE = 24 /* RFC 8446, section 4; mbedTLS has no name for it */
};

/*
 * Not in the public headers of 3.6, but in its libraries; if one should hide it, it is NULL. It frees what a handshake needed, 6 KiB with
 * secrets in them. mbedTLS calls it where older versions of TLS end their handshakes, and keeps all that in TLS 1.3, for tickets.
 */
extern void mbedtls_ssl_handshake_wrapup_free_hs_transform(mbedtls_ssl_context *ssl) __attribute__((weak));

struct mesh__tls {
	mbedtls_ssl_context ssl;
	mbedtls_ssl_config config; /* of this session alone: it must not change while it is used */
	struct mesh__credentials *credentials;
	const struct mesh__svid *svid;
	bool (*is_hopeless)(void *user, const struct mesh__spiffe_id *peer, const struct mesh__credentials *ours, char *why, size_t capacity);
	void *user;
	const uint8_t *in;
	size_t in_len;
	uint8_t **shared; /* buffers for in and out, lent to one session at a time; NULL: it has its own */
	uint8_t in_sequence[SEQUENCE_BYTES]; /* while it has none */
	bool has_own_buffers;                /* still those of the handshake */
	struct mesh__tls_output *growing;
	uint8_t *fixed;
	size_t fixed_len, fixed_capacity;
	bool is_verified, is_alert;
	bool is_open;  /* the handshake is over, and the peer is verified: nothing it says is taken before */
	bool has_data; /* the peer has sent something that we could read */
	enum mesh__refusal refusal;
	char reason[32];
	char why[MESH__TLS_WHY_MAX];
	int64_t peer_not_after_s;
	struct mesh__spiffe_id *peer_id;
	uint8_t *chain; /* what the peer showed, as DER: it may be revoked later */
	size_t chain_len;
	struct mesh__spiffe_id *expected; /* for the handshake; NULL: whoever is verified */
	const char *expected_from; /* NULL: it is not said */
};

/* An ID may have 2 KiB and seldom has 100 bytes. */
static size_t id_bytes(const struct mesh__spiffe_id *id)
{
	return offsetof(struct mesh__spiffe_id, text) + id->len + 1u;
}

/* --- configuration --- */

static const int suites[] = { MBEDTLS_TLS1_3_AES_128_GCM_SHA256, MBEDTLS_TLS1_3_CHACHA20_POLY1305_SHA256, MBEDTLS_TLS1_3_AES_256_GCM_SHA384, 0 };
static const uint16_t groups[] = { MBEDTLS_SSL_IANA_TLS_GROUP_X25519, MBEDTLS_SSL_IANA_TLS_GROUP_SECP256R1, MBEDTLS_SSL_IANA_TLS_GROUP_NONE };
static const uint16_t signatures[] = {
	MBEDTLS_TLS1_3_SIG_ECDSA_SECP256R1_SHA256, MBEDTLS_TLS1_3_SIG_ECDSA_SECP384R1_SHA384, MBEDTLS_TLS1_3_SIG_RSA_PSS_RSAE_SHA256,
	MBEDTLS_TLS1_3_SIG_RSA_PSS_RSAE_SHA384, MBEDTLS_TLS1_3_SIG_RSA_PSS_RSAE_SHA512, MBEDTLS_TLS1_3_SIG_NONE,
};
static const char *protocols[] = { "h2", NULL };

/* Sentences hold the peer's names: what does not fit is cut, and no terminal obeys the rest. */
static void say(char *sentence, size_t capacity, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void say(char *sentence, size_t capacity, const char *format, ...)
{
	struct mesh__text text;
	va_list args;

	mesh__text_init(&text, sentence, capacity);
	va_start(args, format);
	mesh__text_addv_escaped(&text, format, args);
	va_end(args);
}

static void remember(struct mesh__tls *tls, const char *reason, const char *why)
{
	if (tls->reason[0])
		return;
	snprintf(tls->reason, sizeof(tls->reason), "%s", reason);
	snprintf(tls->why, sizeof(tls->why), "%s", why);
}

static int send_out(void *user, const unsigned char *data, size_t len)
{
	struct mesh__tls *tls = user;
	struct mesh__tls_output *out = tls->growing;

	if (!out) {
		if (len > tls->fixed_capacity - tls->fixed_len)
			return MBEDTLS_ERR_SSL_BUFFER_TOO_SMALL;
		memcpy(tls->fixed + tls->fixed_len, data, len);
		tls->fixed_len += len;
		return (int)len;
	}
	if (len > out->capacity - out->len) {
		size_t capacity = (out->len + len) * 2 > OUTPUT_FIRST_BYTES ? (out->len + len) * 2 : OUTPUT_FIRST_BYTES;
		uint8_t *bigger = capacity > OUTPUT_BYTES_MAX ? NULL : mesh__memory_realloc(out->data, capacity);

		if (!bigger)
			return MBEDTLS_ERR_SSL_ALLOC_FAILED;
		out->data = bigger;
		out->capacity = capacity;
	}
	memcpy(out->data + out->len, data, len);
	out->len += len;
	return (int)len;
}

static int take_in(void *user, unsigned char *data, size_t len)
{
	struct mesh__tls *tls = user;

	if (!tls->in_len)
		return MBEDTLS_ERR_SSL_WANT_READ;
	if (len > tls->in_len)
		len = tls->in_len;
	memcpy(data, tls->in, len);
	tls->in += len;
	tls->in_len -= len;
	return (int)len;
}

/* What the peer is told: it should be able to say more than that it was refused. */
static uint8_t alert_of(enum mesh__refusal refusal)
{
	switch (refusal) {
	case MESH__REFUSAL_NO_CERTIFICATE:
		return MBEDTLS_SSL_ALERT_MSG_CERT_REQUIRED;
	case MESH__REFUSAL_MALFORMED:
		return MBEDTLS_SSL_ALERT_MSG_BAD_CERT;
	case MESH__REFUSAL_EXPIRED:
	case MESH__REFUSAL_NOT_YET_VALID:
		return MBEDTLS_SSL_ALERT_MSG_CERT_EXPIRED;
	case MESH__REFUSAL_REVOKED:
		return MBEDTLS_SSL_ALERT_MSG_CERT_REVOKED;
	case MESH__REFUSAL_UNTRUSTED:
	case MESH__REFUSAL_UNKNOWN_DOMAIN:
	case MESH__REFUSAL_BAD_ISSUER:
		return MBEDTLS_SSL_ALERT_MSG_UNKNOWN_CA;
	case MESH__REFUSAL_KEY_USAGE:
	case MESH__REFUSAL_EXTENDED_KEY_USAGE:
	case MESH__REFUSAL_WEAK_KEY:
		return MBEDTLS_SSL_ALERT_MSG_UNSUPPORTED_CERT;
	default:
		return MBEDTLS_SSL_ALERT_MSG_ACCESS_DENIED;
	}
}

/* The same as flags of mbedTLS, from which it makes the alert itself. */
static uint32_t flags_of(enum mesh__refusal refusal)
{
	switch (alert_of(refusal)) {
	case MBEDTLS_SSL_ALERT_MSG_CERT_EXPIRED:
		return MBEDTLS_X509_BADCERT_EXPIRED;
	case MBEDTLS_SSL_ALERT_MSG_CERT_REVOKED:
		return MBEDTLS_X509_BADCERT_REVOKED;
	case MBEDTLS_SSL_ALERT_MSG_UNKNOWN_CA:
		return MBEDTLS_X509_BADCERT_NOT_TRUSTED;
	case MBEDTLS_SSL_ALERT_MSG_UNSUPPORTED_CERT:
		return MBEDTLS_X509_BADCERT_KEY_USAGE;
	default:
		return MBEDTLS_X509_BADCERT_OTHER;
	}
}

/* --- the peer's certificates --- */

static size_t read_length(const uint8_t *at, size_t bytes)
{
	size_t len = 0;

	while (bytes--)
		len = len << 8 | *at++;
	return len;
}

/* The next of a Certificate message (RFC 8446, 4.4.2). *at begins behind the head of the list. false: no more, or it is cut off. */
static bool next_certificate(uint8_t *message, size_t len, size_t *at, uint8_t **der, size_t *der_len)
{
	size_t begin = *at + LENGTH_BYTES, extensions;

	if (begin > len)
		return false;
	*der_len = read_length(message + *at, LENGTH_BYTES);
	if (*der_len > len - begin || len - begin - *der_len < 2)
		return false;
	*der = message + begin;
	extensions = read_length(*der + *der_len, 2);
	if (extensions > len - begin - *der_len - 2)
		return false;
	*at = begin + *der_len + 2 + extensions;
	return true;
}

/* The next step takes the peer's certificate. */
static bool is_certificate_next(const mbedtls_ssl_context *ssl)
{
	bool is_client = mbedtls_ssl_conf_get_endpoint(ssl->conf) == MBEDTLS_SSL_IS_CLIENT;

	return ssl->state == (is_client ? MBEDTLS_SSL_SERVER_CERTIFICATE : MBEDTLS_SSL_CLIENT_CERTIFICATE);
}

/* The next step takes the peer's signature, by which it shows that it has the key of its certificate. */
static bool is_proof_next(const mbedtls_ssl_context *ssl)
{
	bool is_client = mbedtls_ssl_conf_get_endpoint(ssl->conf) == MBEDTLS_SSL_IS_CLIENT;

	return ssl->state == (is_client ? MBEDTLS_SSL_CERTIFICATE_VERIFY : MBEDTLS_SSL_CLIENT_CERTIFICATE_VERIFY);
}

/* It is at hand. mbedTLS takes no message with a context here, so that the head has a fixed length. */
static bool is_at_certificate(const mbedtls_ssl_context *ssl)
{
	return is_certificate_next(ssl) && ssl->in_msgtype == MBEDTLS_SSL_MSG_HANDSHAKE && ssl->in_hslen > MESSAGE_HEAD_BYTES + LIST_HEAD_BYTES && ssl->in_msg[0] == MBEDTLS_SSL_HS_CERTIFICATE &&
	       ssl->in_msg[MESSAGE_HEAD_BYTES] == 0;
}

static enum mesh__refusal read_chain(mbedtls_x509_crt *chain, uint8_t *message, size_t len, char *why, size_t capacity)
{
	enum mesh__refusal refusal = MESH__REFUSAL_NONE;
	size_t at = MESSAGE_HEAD_BYTES + LIST_HEAD_BYTES, der_len;
	char reason[MESH__TLS_WHY_MAX / 2];
	uint8_t *der;

	for (unsigned number = 1; !refusal && next_certificate(message, len, &at, &der, &der_len); number++) {
		refusal = mesh__certificate_parse(chain, der, der_len, reason, sizeof(reason));
		if (refusal)
			say(why, capacity, "certificate %u of what it showed: %s", number, reason);
	}
	return refusal;
}

/* A server's log has the reason beside it; the error of a call has the sentence alone, and the reason is what the manual goes by. */
static void remember_refusal(struct mesh__tls *tls, const char *why)
{
	const char *reason = mesh__refusal_name(tls->refusal);
	char sentence[MESH__TLS_WHY_MAX];

	if (mbedtls_ssl_conf_get_endpoint(&tls->config) == MBEDTLS_SSL_IS_CLIENT)
		say(sentence, sizeof(sentence), "the peer is refused (%s): %s", reason, why);
	else
		say(sentence, sizeof(sentence), "the peer is refused: %s", why);
	remember(tls, reason, sentence);
}

/* What our own parse takes, and that of a handshake does not: mbedTLS 3.6 asks nobody there about extensions that it does not know. */
static enum mesh__refusal find_unreadable(const mbedtls_x509_crt *chain, char *why, size_t capacity)
{
	for (unsigned number = 1; chain && chain->raw.p; chain = chain->next, number++) {
		mbedtls_x509_crt crt;
		int rc;

		mbedtls_x509_crt_init(&crt);
		rc = mbedtls_x509_crt_parse_der_nocopy(&crt, chain->raw.p, chain->raw.len);
		mbedtls_x509_crt_free(&crt);
		if (!rc)
			continue;
		say(why, capacity, "certificate %u of what it showed: it has critical name constraints, which mbedTLS 3.6 cannot take in a handshake (it can where they "
				   "are not critical, or the root's)", number);
		return MESH__REFUSAL_CRITICAL_EXTENSION;
	}
	return MESH__REFUSAL_NONE;
}

/* mbedTLS has given up at the peer's certificate: which, and why? false: not there. */
static bool explain_certificate(struct mesh__tls *tls)
{
	char why[MESH__TLS_WHY_MAX - 32] = "";
	mbedtls_x509_crt chain;

	if (tls->refusal || !is_at_certificate(&tls->ssl))
		return false;
	mbedtls_x509_crt_init(&chain);
	tls->refusal = read_chain(&chain, tls->ssl.in_msg, tls->ssl.in_hslen, why, sizeof(why));
	if (!tls->refusal)
		tls->refusal = find_unreadable(&chain, why, sizeof(why));
	mbedtls_x509_crt_free(&chain);
	if (!tls->refusal)
		return false;
	remember_refusal(tls, why);
	return true;
}

static enum mesh__refusal judge(struct mesh__tls *tls, mbedtls_x509_crt *chain, char *why, size_t capacity)
{
	struct mesh__bundle *bundle;
	char by[160] = "";
	enum mesh__refusal refusal = mesh__certificate_check_leaf(chain, tls->peer_id, why, capacity);

	if (refusal)
		return refusal;
	bundle = mesh__credentials_bundle(tls->credentials, mesh__spiffe_id_domain(tls->peer_id), tls->peer_id->domain_len);
	refusal = mesh__certificate_verify(chain, bundle, &tls->credentials->revocations, tls->peer_id, why, capacity);
	if (refusal)
		return refusal;
	if (tls->expected && !mesh__spiffe_id_equal(tls->peer_id, tls->expected)) {
		say(why, capacity, "%s was expected%s%s%s, and %s answered", tls->expected->text, tls->expected_from ? " (" : "",
		    tls->expected_from ? tls->expected_from : "", tls->expected_from ? ")" : "", tls->peer_id->text);
		return MESH__REFUSAL_WRONG_ID;
	}
	if (tls->is_hopeless && tls->is_hopeless(tls->user, tls->peer_id, tls->credentials, by, sizeof(by))) {
		say(why, capacity, "%s may call nothing here: %s", tls->peer_id->text, by);
		return MESH__REFUSAL_NOT_ALLOWED;
	}
	return MESH__REFUSAL_NONE;
}

static int verify(void *user, mbedtls_x509_crt *crt, int depth, uint32_t *flags)
{
	struct mesh__tls *tls = user;
	struct mesh__certificate_facts facts;
	char why[MESH__TLS_WHY_MAX - 32] = "";

	*flags = 0;
	if (depth > 0)
		return 0;
	tls->refusal = judge(tls, crt, why, sizeof(why));
	tls->is_verified = tls->refusal == MESH__REFUSAL_NONE;
	if (tls->refusal) {
		/* A server ends the handshake first: see configure(). */
		if (mbedtls_ssl_conf_get_endpoint(&tls->config) == MBEDTLS_SSL_IS_CLIENT)
			*flags = flags_of(tls->refusal);
		remember_refusal(tls, why);
		return 0;
	}
	mesh__certificate_facts(crt, &facts);
	tls->peer_not_after_s = facts.not_after_s;
	return 0;
}

static int configure(struct mesh__tls *tls, bool is_server)
{
	mbedtls_ssl_config *config = &tls->config;
	mbedtls_x509_crt *own = (mbedtls_x509_crt *)(uintptr_t)&tls->svid->chain; /* read only, whatever the signature says */
	mbedtls_pk_context *key = (mbedtls_pk_context *)(uintptr_t)&tls->svid->key;

	if (mbedtls_ssl_config_defaults(config, is_server ? MBEDTLS_SSL_IS_SERVER : MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
					MBEDTLS_SSL_PRESET_DEFAULT))
		return -1;
	mbedtls_ssl_conf_min_tls_version(config, MBEDTLS_SSL_VERSION_TLS1_3);
	mbedtls_ssl_conf_max_tls_version(config, MBEDTLS_SSL_VERSION_TLS1_3);
	/* A resumed session shows no certificate: nobody would be verified. */
	mbedtls_ssl_conf_tls13_key_exchange_modes(config, MBEDTLS_SSL_TLS1_3_KEY_EXCHANGE_MODE_EPHEMERAL);
	mbedtls_ssl_conf_session_tickets(config, MBEDTLS_SSL_SESSION_TICKETS_DISABLED);
	mbedtls_ssl_conf_ciphersuites(config, suites);
	mbedtls_ssl_conf_groups(config, groups);
	mbedtls_ssl_conf_sig_algs(config, signatures);
	mbedtls_ssl_conf_rng(config, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE);
	/*
	 * For mbedTLS it is optional what a client shows; finish() requires it. Were it mbedTLS that refuses, its alert would be encrypted
	 * with keys that the client has left behind (3.6), and nobody could read why.
	 */
	mbedtls_ssl_conf_authmode(config, is_server ? MBEDTLS_SSL_VERIFY_OPTIONAL : MBEDTLS_SSL_VERIFY_REQUIRED);
	mbedtls_ssl_conf_verify(config, verify, tls);
	/* mbedTLS wants authorities to try; verify() asks others. Their names would be told to the peer, which might then show nothing. */
	mbedtls_ssl_conf_ca_chain(config, own, NULL);
	if (is_server) {
		mbedtls_ssl_conf_new_session_tickets(config, 0);
		mbedtls_ssl_conf_cert_req_ca_list(config, MBEDTLS_SSL_CERT_REQ_CA_LIST_DISABLED);
	}
	return mbedtls_ssl_conf_alpn_protocols(config, protocols) || mbedtls_ssl_conf_own_cert(config, own, key) ? -1 : 0;
}

/* --- buffers --- */

/* Where mbedTLS has its pointers between two records of TLS 1.3. What borrow() sets; a version that has them elsewhere keeps its buffers. */
static bool has_known_layout(const mbedtls_ssl_context *ssl)
{
	const uint8_t *in = ssl->in_buf, *out = ssl->out_buf;

	return ssl->in_ctr == in && ssl->in_hdr == in + SEQUENCE_BYTES && ssl->in_len == ssl->in_hdr + 3 && ssl->in_iv == ssl->in_hdr + RECORD_HEADER_BYTES &&
	       ssl->out_ctr == out && ssl->out_hdr == out + SEQUENCE_BYTES && ssl->out_len == ssl->out_hdr + 3 &&
	       ssl->out_iv == ssl->out_hdr + RECORD_HEADER_BYTES && ssl->out_msg == ssl->out_iv &&
	       malloc_usable_size(ssl->in_buf) <= BUFFER_BYTES && malloc_usable_size(ssl->out_buf) <= BUFFER_BYTES;
}

/* No byte of a record that has begun or of a message that has come in pieces, and none that still has to leave. */
static bool is_between_records(const mbedtls_ssl_context *ssl)
{
	return ssl->in_left == 0 && !ssl->in_offt && ssl->in_msglen == 0 && ssl->badmac_seen_or_in_hsfraglen == 0 && !ssl->keep_current_message &&
	       ssl->out_left == 0;
}

static void set_in(mbedtls_ssl_context *ssl, uint8_t *buffer)
{
	ssl->in_buf = ssl->in_ctr = buffer;
	ssl->in_hdr = buffer + SEQUENCE_BYTES;
	ssl->in_len = ssl->in_hdr + 3;
	ssl->in_iv = ssl->in_msg = ssl->in_hdr + RECORD_HEADER_BYTES;
#ifdef MBEDTLS_SSL_DTLS_CONNECTION_ID
	ssl->in_cid = ssl->in_len;
#endif
}

static void set_out(mbedtls_ssl_context *ssl, uint8_t *buffer)
{
	ssl->out_buf = ssl->out_ctr = buffer;
	ssl->out_hdr = buffer + SEQUENCE_BYTES;
	ssl->out_len = ssl->out_hdr + 3;
	ssl->out_iv = ssl->out_msg = ssl->out_hdr + RECORD_HEADER_BYTES;
#ifdef MBEDTLS_SSL_DTLS_CONNECTION_ID
	ssl->out_cid = ssl->out_len;
#endif
}

/* 0, or -1: out of memory. Others may have taken the shared ones along, with parts of records in them. */
static int borrow(struct mesh__tls *tls)
{
	if (!tls->shared || tls->ssl.in_buf)
		return 0;
	for (int i = 0; i < 2; i++) {
		if (!tls->shared[i])
			tls->shared[i] = mesh__memory_zalloc(BUFFER_BYTES);
		if (!tls->shared[i]) {
			remember(tls, "nomem", "out of memory for TLS records");
			return -1;
		}
	}
	set_in(&tls->ssl, tls->shared[0]);
	set_out(&tls->ssl, tls->shared[1]);
	memcpy(tls->ssl.in_ctr, tls->in_sequence, SEQUENCE_BYTES);
	tls->shared[0] = tls->shared[1] = NULL;
	return 0;
}

static void give_back_one(uint8_t **shared, uint8_t *buffer)
{
	if (*shared)
		mesh__memory_free(buffer);
	else
		*shared = buffer;
}

static void give_back(struct mesh__tls *tls)
{
	mbedtls_ssl_context *ssl = &tls->ssl;

	if (!ssl->in_buf)
		return;
	memcpy(tls->in_sequence, ssl->in_ctr, SEQUENCE_BYTES);
	if (tls->has_own_buffers) {
		mbedtls_free(ssl->in_buf);
		mbedtls_free(ssl->out_buf);
	} else {
		give_back_one(&tls->shared[0], ssl->in_buf);
		give_back_one(&tls->shared[1], ssl->out_buf);
	}
	ssl->in_buf = ssl->out_buf = NULL;
	tls->has_own_buffers = false;
}

static void give_back_if_idle(struct mesh__tls *tls)
{
	if (tls->shared && is_between_records(&tls->ssl))
		give_back(tls);
}

static void forget_certificate(mbedtls_ssl_session *session)
{
	mbedtls_x509_crt_free(session->peer_cert);
	mbedtls_free(session->peer_cert);
	session->peer_cert = NULL;
}

void mesh__tls_settle(struct mesh__tls *tls, uint8_t *shared[2])
{
	mbedtls_ssl_context *ssl = &tls->ssl;
	struct mesh__spiffe_id *smaller = mesh__memory_realloc(tls->peer_id, id_bytes(tls->peer_id));

	if (smaller)
		tls->peer_id = smaller;
	mesh__memory_free(tls->expected);
	tls->expected = NULL;
	mesh__fork_gate_enter();
	forget_certificate(ssl->session);
	if (mbedtls_ssl_handshake_wrapup_free_hs_transform)
		mbedtls_ssl_handshake_wrapup_free_hs_transform(ssl);
	mesh__fork_gate_leave();
	if (!has_known_layout(ssl))
		return;
	tls->shared = shared;
	tls->has_own_buffers = true; /* the last message of the handshake may still be in them: until it is not */
	give_back_if_idle(tls);
}

/* --- life --- */

static int copy_expected(struct mesh__tls *tls, const struct mesh__spiffe_id *expected)
{
	if (!expected)
		return 0;
	tls->expected = mesh__memory_alloc(id_bytes(expected));
	if (!tls->expected)
		return -1;
	memcpy(tls->expected, expected, id_bytes(expected));
	return 0;
}

int mesh__tls_new(const struct mesh__tls_options *opts, struct mesh__tls **out)
{
	struct mesh__tls *tls = mesh__memory_zalloc(sizeof(*tls));
	bool is_made;

	if (!tls)
		return MESH_E_NOMEM;
	mbedtls_ssl_init(&tls->ssl);
	mbedtls_ssl_config_init(&tls->config);
	tls->credentials = mesh__credentials_ref(opts->credentials);
	tls->svid = opts->svid;
	tls->is_hopeless = opts->is_hopeless;
	tls->user = opts->user;
	tls->expected_from = opts->expected_from;
	tls->peer_id = mesh__memory_zalloc(sizeof(*tls->peer_id));
	mesh__fork_gate_enter();
	/* Without a name on purpose: the ID is what counts, and verify() knows it. */
	is_made = tls->peer_id && !copy_expected(tls, opts->expected) && !configure(tls, opts->is_server) && !mbedtls_ssl_setup(&tls->ssl, &tls->config) &&
		  (opts->is_server || !mbedtls_ssl_set_hostname(&tls->ssl, NULL));
	mesh__fork_gate_leave();
	if (!is_made) {
		mesh__tls_free(tls);
		return MESH_E_NOMEM;
	}
	mbedtls_ssl_set_bio(&tls->ssl, tls, send_out, take_in, NULL);
	*out = tls;
	return 0;
}

void mesh__tls_free(struct mesh__tls *tls)
{
	if (!tls)
		return;
	if (tls->shared)
		give_back(tls);
	mesh__fork_gate_enter();
	mbedtls_ssl_free(&tls->ssl);
	mbedtls_ssl_config_free(&tls->config);
	mesh__fork_gate_leave();
	mesh__credentials_unref(tls->credentials);
	mesh__memory_free(tls->peer_id);
	mesh__memory_free(tls->chain);
	mesh__memory_free(tls->expected);
	mesh__memory_free(tls);
}

/* --- what went wrong --- */

static const struct {
	uint8_t number;
	bool is_about_us; /* about our certificate */
	const char *text;
} alerts[] = {
	{ MBEDTLS_SSL_ALERT_MSG_UNEXPECTED_MESSAGE, false, "unexpected message" },
	{ MBEDTLS_SSL_ALERT_MSG_BAD_RECORD_MAC, false, "a record did not decrypt" },
	{ MBEDTLS_SSL_ALERT_MSG_RECORD_OVERFLOW, false, "a record is too large" },
	{ MBEDTLS_SSL_ALERT_MSG_HANDSHAKE_FAILURE, false, "nothing in common (handshake failure)" },
	{ MBEDTLS_SSL_ALERT_MSG_BAD_CERT, true, "bad certificate" },
	{ MBEDTLS_SSL_ALERT_MSG_UNSUPPORTED_CERT, true, "unsupported certificate" },
	{ MBEDTLS_SSL_ALERT_MSG_CERT_REVOKED, true, "certificate revoked" },
	{ MBEDTLS_SSL_ALERT_MSG_CERT_EXPIRED, true, "certificate expired" },
	{ MBEDTLS_SSL_ALERT_MSG_CERT_UNKNOWN, true, "certificate not accepted (unknown)" },
	{ MBEDTLS_SSL_ALERT_MSG_ILLEGAL_PARAMETER, false, "illegal parameter" },
	{ MBEDTLS_SSL_ALERT_MSG_UNKNOWN_CA, true, "it does not trust who signed it (unknown authority)" },
	{ MBEDTLS_SSL_ALERT_MSG_ACCESS_DENIED, true, "access denied" }, /* see remember_alert() */
	{ MBEDTLS_SSL_ALERT_MSG_DECODE_ERROR, false, "a message could not be read" },
	{ MBEDTLS_SSL_ALERT_MSG_DECRYPT_ERROR, false, "a signature or a key did not fit" },
	{ MBEDTLS_SSL_ALERT_MSG_PROTOCOL_VERSION, false, "it does not speak TLS 1.3" },
	{ MBEDTLS_SSL_ALERT_MSG_INSUFFICIENT_SECURITY, false, "insufficient security" },
	{ MBEDTLS_SSL_ALERT_MSG_INTERNAL_ERROR, false, "internal error, or it has no identity to show (see mesh id there)" },
	{ MBEDTLS_SSL_ALERT_MSG_USER_CANCELED, false, "cancelled" },
	{ MBEDTLS_SSL_ALERT_MSG_MISSING_EXTENSION, false, "an extension is missing" },
	{ MBEDTLS_SSL_ALERT_MSG_UNSUPPORTED_EXT, false, "unsupported extension" },
	{ MBEDTLS_SSL_ALERT_MSG_UNRECOGNIZED_NAME, false, "unrecognized name" },
	{ MBEDTLS_SSL_ALERT_MSG_CERT_REQUIRED, true, "it got none" },
	{ MBEDTLS_SSL_ALERT_MSG_NO_APPLICATION_PROTOCOL, false, "it does not speak HTTP/2 (no application protocol)" },
};

static void remember_alert(struct mesh__tls *tls, uint8_t number)
{
	char sentence[MESH__TLS_WHY_MAX];

	tls->is_alert = true;
	say(sentence, sizeof(sentence), "the peer ended the TLS session with alert %u", number);
	for (size_t i = 0; i < sizeof(alerts) / sizeof(alerts[0]); i++)
		if (alerts[i].number == number)
			say(sentence, sizeof(sentence), "%s: %s",
				 alerts[i].is_about_us ? "the peer refused our certificate" : "the peer ended the TLS session", alerts[i].text);
	/* A server of ours says so to whom no rule lets in, a client of ours to whom it did not mean. */
	if (number == MBEDTLS_SSL_ALERT_MSG_ACCESS_DENIED)
		say(sentence, sizeof(sentence), "the peer refused our certificate: %s (access denied)",
			 mbedtls_ssl_conf_get_endpoint(&tls->config) == MBEDTLS_SSL_IS_CLIENT ? "no rule there lets us in" : "it expected another ID here");
	remember(tls, "alert", sentence);
}

static void remember_error(struct mesh__tls *tls, int rc)
{
	char text[128], sentence[MESH__TLS_WHY_MAX];

	switch (rc) {
	case MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE:
		remember_alert(tls, tls->ssl.in_msg[1]);
		return;
	case MBEDTLS_ERR_SSL_NO_APPLICATION_PROTOCOL:
		remember(tls, "alpn", "the peer does not offer HTTP/2 (ALPN h2)");
		return;
	case MBEDTLS_ERR_SSL_BAD_PROTOCOL_VERSION:
		remember(tls, "protocol", "the peer does not speak TLS 1.3, and nothing older is spoken here");
		return;
	case MBEDTLS_ERR_SSL_HANDSHAKE_FAILURE:
		if (is_proof_next(&tls->ssl)) {
			remember(tls, "protocol", "the peer cannot prove that the certificate it shows is its own: what it signed does not fit");
			return;
		}
		remember(tls, "protocol",
			 "the peer offers nothing that is accepted here: TLS 1.3 with AES-GCM or ChaCha20, X25519 or P-256, ECDSA (P-256, P-384) or RSA-PSS");
		return;
	case MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY:
		remember(tls, "alert", "the peer closed the TLS session during the handshake");
		return;
	default:
		if (rc == MBEDTLS_ERR_SSL_ALLOC_FAILED || mesh__certificate_is_out_of_memory(rc)) {
			remember(tls, "nomem", "out of memory during a TLS handshake");
			return;
		}
		mbedtls_strerror(rc, text, sizeof(text));
		say(sentence, sizeof(sentence), "the peer's TLS cannot be understood: %s", text);
		remember(tls, "protocol", sentence);
	}
}

/*
 * A client that refuses us before it has keys of its own says so in the clear, where mbedTLS expects an encrypted record and finds
 * that it does not decrypt.
 */
static bool is_clear_alert(const uint8_t *in, size_t len)
{
	return len == RECORD_HEADER_BYTES + 2 && in[0] == RECORD_ALERT && in[1] == 3 && in[3] == 0 && in[4] == 2;
}

/* --- handshake --- */

/* Without a verdict of verify() there was no certificate, or none that mbedTLS came to the end of. */
static void refuse(struct mesh__tls *tls, uint32_t flags)
{
	if (!tls->refusal && flags & MBEDTLS_X509_BADCERT_MISSING) {
		tls->refusal = MESH__REFUSAL_NO_CERTIFICATE;
		remember_refusal(tls, "it showed no certificate");
	} else if (!tls->refusal) {
		tls->refusal = flags & (MBEDTLS_X509_BADCERT_KEY_USAGE | MBEDTLS_X509_BADCERT_EXT_KEY_USAGE) ? MESH__REFUSAL_KEY_USAGE : MESH__REFUSAL_MALFORMED;
		remember_refusal(tls, "its certificate could not be verified");
	}
	mbedtls_ssl_send_alert_message(&tls->ssl, MBEDTLS_SSL_ALERT_LEVEL_FATAL, alert_of(tls->refusal));
}

static int keep_chain(struct mesh__tls *tls)
{
	const mbedtls_x509_crt *shown = mbedtls_ssl_get_peer_cert(&tls->ssl);
	size_t len = 0;

	for (const mbedtls_x509_crt *crt = shown; crt; crt = crt->next)
		len += crt->raw.len;
	tls->chain = mesh__memory_alloc(len + 1);
	if (!tls->chain)
		return -1;
	for (const mbedtls_x509_crt *crt = shown; crt; crt = crt->next) {
		memcpy(tls->chain + tls->chain_len, crt->raw.p, crt->raw.len);
		tls->chain_len += crt->raw.len;
	}
	return 0;
}

static enum mesh__tls_progress finish(struct mesh__tls *tls)
{
	const char *protocol = mbedtls_ssl_get_alpn_protocol(&tls->ssl);
	uint32_t flags = mbedtls_ssl_get_verify_result(&tls->ssl);

	if (!tls->is_verified || flags) {
		refuse(tls, flags);
		return MESH__TLS_FAILED;
	}
	if (keep_chain(tls)) {
		remember(tls, "nomem", "out of memory during a TLS handshake");
		return MESH__TLS_FAILED;
	}
	if (protocol && !strcmp(protocol, protocols[0])) {
		tls->is_open = true;
		return MESH__TLS_DONE;
	}
	remember(tls, "alpn", "the peer does not say that it speaks HTTP/2 (ALPN h2)");
	mbedtls_ssl_send_alert_message(&tls->ssl, MBEDTLS_SSL_ALERT_LEVEL_FATAL, MBEDTLS_SSL_ALERT_MSG_NO_APPLICATION_PROTOCOL);
	return MESH__TLS_FAILED;
}

/* mbedTLS says nothing in some cases, as when there is no group in common. */
static void tell_failure(struct mesh__tls *tls, int rc)
{
	uint8_t alert = rc == MBEDTLS_ERR_SSL_HANDSHAKE_FAILURE ? MBEDTLS_SSL_ALERT_MSG_HANDSHAKE_FAILURE : MBEDTLS_SSL_ALERT_MSG_DECODE_ERROR;

	if (rc != MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY)
		mbedtls_ssl_send_alert_message(&tls->ssl, MBEDTLS_SSL_ALERT_LEVEL_FATAL, alert);
}

enum mesh__tls_progress mesh__tls_handshake_step(struct mesh__tls *tls, const void *in, size_t len, size_t *used, struct mesh__tls_output *out)
{
	enum mesh__tls_progress progress = MESH__TLS_FAILED;
	size_t said = out->len;
	int rc;

	tls->in = in;
	tls->in_len = len;
	tls->growing = out;
	mesh__fork_gate_enter();
	rc = mbedtls_ssl_handshake(&tls->ssl);
	mesh__fork_gate_leave();
	if (rc == MBEDTLS_ERR_SSL_WANT_READ)
		progress = MESH__TLS_MORE;
	else if (rc == 0)
		progress = finish(tls);
	else if (rc != MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE && is_clear_alert(in, len))
		remember_alert(tls, ((const uint8_t *)in)[RECORD_HEADER_BYTES + 1]);
	else if (!explain_certificate(tls))
		remember_error(tls, rc);
	if (progress == MESH__TLS_FAILED && tls->is_alert)
		out->len = said; /* who has ended it does not listen */
	else if (progress == MESH__TLS_FAILED && out->len == said)
		tell_failure(tls, rc);
	*used = len - tls->in_len;
	tls->in = NULL;
	tls->in_len = 0;
	tls->growing = NULL;
	return progress;
}

/* --- data --- */

ssize_t mesh__tls_encrypt(struct mesh__tls *tls, const void *plain, size_t len, uint8_t *out, size_t capacity)
{
	const uint8_t *data = plain;
	int n;

	tls->fixed = out;
	tls->fixed_len = 0;
	tls->fixed_capacity = capacity;
	if (borrow(tls))
		return -1;
	while (len) {
		n = mbedtls_ssl_write(&tls->ssl, data, len);
		if (n <= 0) {
			remember_error(tls, n);
			return -1;
		}
		data += n;
		len -= (size_t)n;
	}
	give_back_if_idle(tls);
	return (ssize_t)tls->fixed_len;
}

size_t mesh__tls_record_room(const struct mesh__tls *tls)
{
	int room = mbedtls_ssl_get_max_out_record_payload(&tls->ssl);

	return room > 0 ? (size_t)room : MBEDTLS_SSL_OUT_CONTENT_LEN;
}

ssize_t mesh__tls_close_notify(struct mesh__tls *tls, uint8_t *out, size_t capacity)
{
	tls->fixed = out;
	tls->fixed_len = 0;
	tls->fixed_capacity = capacity;
	return borrow(tls) || mbedtls_ssl_close_notify(&tls->ssl) ? -1 : (ssize_t)tls->fixed_len;
}

void mesh__tls_feed(struct mesh__tls *tls, const void *in, size_t len)
{
	tls->in = in;
	tls->in_len = len;
}

static bool is_key_update(const struct mesh__tls *tls)
{
	return tls->ssl.in_msgtype == RECORD_HANDSHAKE && tls->ssl.in_msglen && tls->ssl.in_msg[0] == MESSAGE_KEY_UPDATE;
}

ssize_t mesh__tls_decrypt(struct mesh__tls *tls, uint8_t *plain, size_t capacity)
{
	int n;

	if (!tls->is_open || borrow(tls))
		return MESH__TLS_BROKEN;
	do
		n = mbedtls_ssl_read(&tls->ssl, plain, capacity);
	while (n == 0 || n == MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET); /* records with nothing in them; nothing is resumed */
	if (n > 0) {
		tls->has_data = true;
		return n;
	}
	if (n == MBEDTLS_ERR_SSL_WANT_READ) {
		give_back_if_idle(tls);
		return MESH__TLS_MORE_IN;
	}
	if (n == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY)
		return MESH__TLS_END;
	if (n == MBEDTLS_ERR_SSL_INVALID_MAC && !tls->has_data && mbedtls_ssl_conf_get_endpoint(&tls->config) == MBEDTLS_SSL_IS_CLIENT) {
		/* The alert of a server that is made with mbedTLS, too, and has refused us at once. */
		tls->is_alert = true;
		remember(tls, "alert", "the peer refused our certificate, it seems: it ended the TLS session when it had it");
	}
	if (n == MBEDTLS_ERR_SSL_UNEXPECTED_MESSAGE && is_key_update(tls)) {
		remember(tls, "key_update", "the peer changes its keys (TLS 1.3 KeyUpdate), which mbedTLS cannot follow: a new connection is needed");
		return MESH__TLS_DEAF;
	}
	remember_error(tls, n);
	return MESH__TLS_BROKEN;
}

/* --- what is known --- */

const struct mesh__spiffe_id *mesh__tls_peer_id(const struct mesh__tls *tls)
{
	return tls->peer_id;
}

const uint8_t *mesh__tls_peer_chain(const struct mesh__tls *tls, size_t *len)
{
	*len = tls->chain_len;
	return tls->chain;
}

int64_t mesh__tls_peer_not_after_s(const struct mesh__tls *tls)
{
	return tls->peer_not_after_s;
}

const char *mesh__tls_suite(const struct mesh__tls *tls)
{
	return mbedtls_ssl_get_ciphersuite(&tls->ssl);
}

const struct mesh__credentials *mesh__tls_credentials(const struct mesh__tls *tls)
{
	return tls->credentials;
}

const struct mesh__svid *mesh__tls_svid(const struct mesh__tls *tls)
{
	return tls->svid;
}

const char *mesh__tls_reason(const struct mesh__tls *tls)
{
	return tls->reason;
}

const char *mesh__tls_why(const struct mesh__tls *tls)
{
	return tls->why;
}

bool mesh__tls_is_alert(const struct mesh__tls *tls)
{
	return tls->is_alert;
}

const uint8_t mesh__tls_cannot_begin[7] = {
	RECORD_ALERT, 3, 3, 0, 2, MBEDTLS_SSL_ALERT_LEVEL_FATAL, MBEDTLS_SSL_ALERT_MSG_INTERNAL_ERROR,
};

bool mesh__tls_is_hello(const uint8_t *data, size_t len)
{
	return len >= 2 && data[0] == RECORD_HANDSHAKE && data[1] == 3;
}

bool mesh__tls_is_alert_record(const uint8_t *data, size_t len)
{
	return len >= 2 && data[0] == RECORD_ALERT && data[1] == 3;
}

const char *mesh__tls_name_plaintext(const uint8_t *data, size_t len)
{
	static const char preface[] = "PRI * HTTP/2.0", version[] = " HTTP/1.";

	if (!len || data[0] == RECORD_HANDSHAKE || data[0] == RECORD_ALERT)
		return NULL;
	if (!memcmp(data, preface, len < sizeof(preface) - 1 ? len : sizeof(preface) - 1))
		return "the peer speaks HTTP/2 in plain text (MESH_TLS=off there?), this side TLS";
	if (memmem(data, len, version, sizeof(version) - 1) || !memcmp(data, "HTTP/1.", len < 7 ? len : 7))
		return "the peer speaks HTTP/1 in plain text, this side TLS and HTTP/2";
	if (len >= 9 && data[0] == 0 && data[3] == 4 && !data[5] && !data[6] && !data[7] && !data[8])
		return "the peer speaks HTTP/2 in plain text (MESH_TLS=off there?), this side TLS"; /* a SETTINGS frame */
	return "the peer does not speak TLS";
}
