/*
 * One TLS session, either side, on mbedTLS: bytes in, bytes out, no sockets. TLS 1.3 only, both sides show a certificate, nothing is
 * resumed: each handshake verifies the peer anew, as identity/certificate.h says, against the bundle of its own trust domain, and a
 * client also that it is the one expected.
 *
 * A session belongs to one thread at a time: a worker's during the handshake, its loop's afterwards. It holds the credentials with
 * which it was made as long as it lives.
 */
#ifndef MESH_WIRE_TLS_H
#define MESH_WIRE_TLS_H

#include "identity/credentials.h"

#include <sys/types.h>

enum {
	MESH__TLS_RECORD_BYTES_MAX = 16 * 1024,
	MESH__TLS_OVERHEAD_BYTES = 64, /* of a record, at most */
	MESH__TLS_WHY_MAX = 512
};

struct mesh__tls;

struct mesh__tls_options {
	struct mesh__credentials *credentials;   /* a reference is taken */
	const struct mesh__svid *svid;           /* of these, the one that is shown */
	const struct mesh__spiffe_id *expected;  /* who must answer; copied; NULL: whoever is verified */
	const char *expected_from;               /* who says so, a phrase for the refusal; kept by pointer; NULL: it is not said */
	bool (*is_hopeless)(void *user, const struct mesh__spiffe_id *peer, const struct mesh__credentials *ours, char *why, size_t capacity); /* may be NULL */
	void *user;
	bool is_server;
};

int mesh__tls_new(const struct mesh__tls_options *opts, struct mesh__tls **out); /* MESH_E_NOMEM, MESH_E_INTERNAL */
void mesh__tls_free(struct mesh__tls *tls); /* NULL is fine */

/* A buffer that grows, for what a handshake has to say. */
struct mesh__tls_output {
	uint8_t *data;
	size_t len, capacity;
};

enum mesh__tls_progress {
	MESH__TLS_MORE,   /* it needs more bytes of the peer */
	MESH__TLS_DONE,   /* verified; bytes that were not used belong to mesh__tls_decrypt() */
	MESH__TLS_FAILED  /* see mesh__tls_reason(); the output, if any, tells the peer */
};

/* Goes on as far as `in` allows. `*used` of its bytes are consumed. Milliseconds of processor time: on a worker. */
enum mesh__tls_progress mesh__tls_handshake_step(struct mesh__tls *tls, const void *in, size_t len, size_t *used, struct mesh__tls_output *out);

/*
 * The handshake is done: gives up what only it needed, the peer's certificate too, and soon its buffers for records. Then it uses those of
 * `shared`, which all sessions of one thread share and which outlive them: two pointers, NULL at first, to be freed by
 * mesh__memory_free() after the last session. Not called, a session keeps its own. An ID got before is not valid any more.
 */
void mesh__tls_settle(struct mesh__tls *tls, uint8_t *shared[2]);

/*
 * Records for `len` bytes, as full as they get, into `out`, which has room for them: mesh__tls_sealed_max(len). The number of bytes
 * written, or -1: it failed, and the session is of no more use.
 */
ssize_t mesh__tls_encrypt(struct mesh__tls *tls, const void *plain, size_t len, uint8_t *out, size_t capacity);
size_t mesh__tls_record_room(const struct mesh__tls *tls); /* what fills one record */
ssize_t mesh__tls_close_notify(struct mesh__tls *tls, uint8_t *out, size_t capacity);
static inline size_t mesh__tls_sealed_max(size_t len)
{
	/* One record more than full ones would need: those of a peer that wants them smaller are not foreseen (RFC 8449 is off). */
	return len + (len / (MESH__TLS_RECORD_BYTES_MAX - MESH__TLS_OVERHEAD_BYTES) + 1) * MESH__TLS_OVERHEAD_BYTES;
}

/*
 * Received bytes: once fed, all of them, to be drained at once by mesh__tls_decrypt() until it returns MESH__TLS_MORE_IN. They stay the caller's.
 * decrypt: plain bytes, never 0, at most one record's; or one of these.
 */
enum {
	MESH__TLS_MORE_IN = 0,
	MESH__TLS_END = -1,   /* the peer said that it closes */
	MESH__TLS_BROKEN = -2, /* see mesh__tls_reason() */
	MESH__TLS_DEAF = -3    /* the same, but the peer still understands what we say */
};
void mesh__tls_feed(struct mesh__tls *tls, const void *in, size_t len);
ssize_t mesh__tls_decrypt(struct mesh__tls *tls, uint8_t *plain, size_t capacity);

/* Once the handshake is done. */
const struct mesh__spiffe_id *mesh__tls_peer_id(const struct mesh__tls *tls);
const uint8_t *mesh__tls_peer_chain(const struct mesh__tls *tls, size_t *len); /* what it showed, leaf first, as DER; borrowed */
int64_t mesh__tls_peer_not_after_s(const struct mesh__tls *tls);
const char *mesh__tls_suite(const struct mesh__tls *tls);
const struct mesh__credentials *mesh__tls_credentials(const struct mesh__tls *tls);
const struct mesh__svid *mesh__tls_svid(const struct mesh__tls *tls);

/* Why it failed: a label (mesh__refusal_name(), "alert", "alpn", "key_update", "protocol", "nomem"), and a sentence. */
const char *mesh__tls_reason(const struct mesh__tls *tls);
const char *mesh__tls_why(const struct mesh__tls *tls);
bool mesh__tls_is_alert(const struct mesh__tls *tls); /* the peer ended it */

/* What somebody says who does not speak TLS, or does where plain text is spoken: NULL, it could be TLS (or there is too little yet). */
const char *mesh__tls_name_plaintext(const uint8_t *data, size_t len);
bool mesh__tls_is_hello(const uint8_t *data, size_t len);
bool mesh__tls_is_alert_record(const uint8_t *data, size_t len);

/* An alert in the clear (internal error), for a client with whom no session can begin. */
extern const uint8_t mesh__tls_cannot_begin[7];

#endif
