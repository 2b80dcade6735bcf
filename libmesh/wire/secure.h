/*
 * What makes a connection a secure one: TLS 1.3 with both sides verified as workloads. h2.c moves the bytes; what they need of
 * processor time before the first request is done by helper threads (loop/workers.h), never on the loop.
 *
 * A handshake is a row of jobs, one for each time that the peer has said something whole; while one is under way the loop reads nothing
 * more. A connection may end meanwhile: what the job needs lives on until it is done.
 */
#ifndef MESH_WIRE_SECURE_H
#define MESH_WIRE_SECURE_H

#include "identity/identity.h"
#include "loop/workers.h"
#include "stats/stats.h"
#include "wire/tls.h"

/*
 * For mesh__conn_accept() and mesh__conn_connect(); NULL there is plain text. Kept by pointer: it and all that it points to outlive the
 * connections made with it and the jobs that the workers had for them, thus the workers' end.
 */
struct mesh__secure_options {
	struct mesh__identity *identity;
	struct mesh__workers *workers; /* servers and clients each have their own, so that neither waits for the other */
	const char *service;           /* whose SVID is shown; NULL: the mesh's own */
	const char *expected_service;  /* client: who must answer, see mesh__identity_expected(); a server takes any verified ID */
	uint64_t timeout_ns;           /* option handshake.timeout: from the TCP connection to the verified peer */
	/* Server: may this peer be turned away before any request? NULL: none is. thread: a worker. */
	bool (*is_hopeless)(void *user, const struct mesh__spiffe_id *peer, const struct mesh__credentials *ours, char *why, size_t capacity);
	void *user;
	struct mesh__stats *stats;     /* for failures by reason: mesh_handshake_failures_total; NULL: not counted */
	const char *counted_as;        /* label `service`: a server its own name, a client that of the service it calls */
	mesh__cell *handshakes;        /* mesh_handshakes_total; may be NULL */
	struct mesh__histogram *latency; /* mesh_handshake_latency_ns; may be NULL */
};

struct mesh__conn;

/* Between secure.c and h2.c. */
struct mesh__secure {
	struct mesh__job job;
	const struct mesh__secure_options *opts;
	struct mesh__discovered_id *discovered; /* client: whom discovery says that it is; NULL: nothing */
	struct mesh__list node;  /* in lp->secured, while it is open */
	struct mesh__conn *conn; /* NULL: it has ended, and the job has not */
	bool is_server, is_busy; /* busy: all below is the worker's */
	bool is_confirmed;       /* the handshake is known to have succeeded on both sides */
	struct mesh__tls *tls;
	uint8_t *in;
	size_t in_len, in_capacity; /* begins with a record */
	struct mesh__tls_output out;
	enum mesh__tls_progress progress;
	int32_t code; /* once it failed */
	char reason[32];
	char why[MESH__TLS_WHY_MAX];
	uint64_t began_ns, took_ns;
	uint64_t retire_ns; /* when it makes way for newer credentials; 0: not yet */
};

/* All on_loop. MESH_E_NOMEM. */
int mesh__secure_new(struct mesh__conn *conn, const struct mesh__secure_options *opts, bool is_server, struct mesh__secure **out);
void mesh__secure_release(struct mesh__secure *secure); /* the connection has ended; NULL is fine */
void mesh__secure_shrink(struct mesh__secure *secure); /* the handshake failed, and the connection stays a moment: frees what only it needed */

int mesh__secure_add(struct mesh__secure *secure, const uint8_t *data, size_t len); /* not while busy; MESH_E_NOMEM */
bool mesh__secure_has_record(const struct mesh__secure *secure); /* something whole to go on with */
bool mesh__secure_step(struct mesh__secure *secure); /* mesh__h2_handshake_stepped() follows; false: too many wait */

void mesh__secure_confirm(struct mesh__secure *secure);
void mesh__secure_count_failure(struct mesh__secure *secure, const char *reason);

/* Client, once it is open: is the peer whom we would expect now, when discovery says this (NULL: nothing) of it? */
bool mesh__secure_is_expected(const struct mesh__secure *secure, const struct mesh__discovered_id *discovered);

/*
 * Once a second, and when something that was trusted is no more: what becomes of the connection, now that other credentials may be
 * there. STAYS, until its turn has come.
 */
enum mesh__verdict_on_old mesh__secure_judge(struct mesh__secure *secure, struct mesh__loop *lp);

#endif
