/*
 * The identity of a mesh: the newest credentials, kept fresh.
 *
 * A source (source_local.c, source_file.c, source_spiffe.c) delivers whole generations on the control loop; identity.c publishes the newest
 * by one counted pointer under a short lock (never on the path of a call: once per handshake), asks the source to renew at half of
 * the leaf's life with jitter, and counts what came and what did not. Validity goes by the wall clock, renewal by the monotonic one; each
 * tick compares the two (and the boot clock), and a step or a suspend makes it look again at once.
 */
#ifndef MESH_IDENTITY_IDENTITY_H
#define MESH_IDENTITY_IDENTITY_H

#include "config/config.h"
#include "identity/credentials.h"
#include "identity/discovered_id.h"
#include "identity/policy.h"
#include "loop/loop.h"
#include "mesh/error.h"
#include "stats/stats.h"

struct mesh__identity;
struct mesh__workers;

/* How the source that speaks the Workload API gets its streams: our own gRPC client, which stands right of us; wire/grpc_stream.c. on_loop */
struct mesh__stream_client {
	/*
	 * Starts a server-streaming gRPC call, plain text, to `target` ("unix:///PATH" or "tcp://IP:PORT") with one metadata pair. `message` runs
	 * for each message, `ended` exactly once, last, never inside open: gRPC status (0..16) and text. NULL: out of memory.
	 */
	void *(*open)(struct mesh__loop *lp, const char *target, const char *path, const char *key, const char *value, const void *request, size_t len,
		      size_t message_max_bytes, void (*message)(void *user, const void *data, size_t len),
		      void (*ended)(void *user, int status, const char *text), void *user);
	void (*cancel)(void *stream); /* no more callbacks */
};

struct mesh__identity_options {
	const struct mesh__config *config;
	struct mesh__stats *stats;
	const struct mesh__log *log;
	struct mesh__loop *control;
	const char *service;
	const struct mesh__stream_client *streams;
	/*
	 * Our first identity is there: who waits for it may go on. Or one of ours, or the bundle of a trust domain, is there no more: connections are
	 * to be judged now. Not before mesh__identity_start(). thread any, under no lock
	 */
	void (*on_change)(void *user);
	void *user;
};

/*
 * Reads the options tls, identity, trust.domain, ...; local: makes its first certificate right here, file: reads its directory. A source that has
 * nothing yet is no error, but a wrong option, a key that is not private or a broken authority is.
 * Errors: MESH_E_OPTION, MESH_E_NOT_PRIVATE, MESH_E_IDENTITY, MESH_E_NOMEM, MESH_E_SYSTEM. thread: the opener's.
 */
int mesh__identity_open(const struct mesh__identity_options *opts, struct mesh__identity **out, struct mesh_error *err);
void mesh__identity_start(struct mesh__identity *identity); /* once the loops exist: posts itself to the control loop */
void mesh__identity_stop(struct mesh__identity *identity);  /* on the control loop */
void mesh__identity_free(struct mesh__identity *identity);  /* after all loops have stopped */

bool mesh__identity_is_tls(const struct mesh__identity *identity); /* false: MESH_TLS=off, or identity off */
bool mesh__identity_is_ending(const struct mesh__identity *identity); /* it was taken back, or less than a tenth of its life is left; on_change says when */

/*
 * A server of this name will show itself: local: issues a certificate for it (blocking, a few ms), others choose among what they have. thread any but a loop's.
 */
int mesh__identity_add_service(struct mesh__identity *identity, const char *service, struct mesh_error *err);

/* The newest generation that may be used now, one reference; NULL: there is none, `why` says so ("..., expired 3 s ago"). thread any */
struct mesh__credentials *mesh__identity_take(struct mesh__identity *identity, char *why, size_t capacity);
uint64_t mesh__identity_generation(const struct mesh__identity *identity); /* thread any, no lock */

/* The SVID to show as `service` (NULL: as the mesh itself). Borrowed from credentials; NULL: none. */
const struct mesh__svid *mesh__identity_svid(const struct mesh__identity *identity, const struct mesh__credentials *credentials, const char *service);

/*
 * The ID that a client of `service` accepts: option peer.id@service, else what discovery says of the endpoint (`discovered`; NULL:
 * nothing), else the template in our own trust domain. 0, and *from is a phrase that says which of these it was; or -1 with *why.
 */
int mesh__identity_expected(const struct mesh__identity *identity, const struct mesh__credentials *credentials, const char *service,
			    const struct mesh__discovered_id *discovered, struct mesh__spiffe_id *id, const char **from, const char **why);

/* Between whom a connection is. */
struct mesh__session {
	const char *own_id;                /* of the SVID that we have shown; "": not known */
	const struct mesh__spiffe_id *peer;
	const uint8_t *peer_chain;         /* what the peer has shown, as DER */
	size_t peer_chain_len;
	int64_t peer_not_after_s;
};

/*
 * What connections made with an older generation have to do now: nothing, go away gently (GOAWAY: a newer generation is there, spread over time by the
 * caller; or it expires soon), or end at once (its SVID, the peer's, or the peer's trust domain was revoked). thread any, cheap:
 * asked once a second per connection, and after on_change().
 */
enum mesh__verdict_on_old { MESH__OLD_STAYS, MESH__OLD_DRAINS, MESH__OLD_ENDS };
enum mesh__verdict_on_old mesh__identity_judge(struct mesh__identity *identity, const struct mesh__credentials *used,
					       const struct mesh__session *session);

/* For mesh_identity_list() and the shared-memory page: filled under a short lock. thread any */
struct mesh__identity_status {
	const char *source;         /* "local:", "file:/etc/tls", "spiffe:unix:///run/spire.sock", "off" */
	bool is_tls;
	uint64_t generation;
	int64_t last_renewal_s, next_renewal_s; /* Unix time; 0: never */
	int64_t overdue_since_s;                /* 0: it is not */
	uint64_t renewals, failures;
	char last_failure[512];
	int64_t last_failure_s;
};
void mesh__identity_status(struct mesh__identity *identity, struct mesh__identity_status *out);

uint32_t mesh__identity_tls_version(void); /* of the mbedTLS that is loaded: 0x03060600 */

/* Puts all that into shared memory. thread: the opener's before the loops run, then the control loop's: what is newer must not be overwritten. */
void mesh__identity_show(struct mesh__identity *identity, struct mesh__stats *stats);
struct mesh__credentials *mesh__identity_peek(struct mesh__identity *identity); /* as take, for showing: also what has expired */

#endif
