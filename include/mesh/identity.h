/*
 * Identity: who we are, who calls, who answered; and certificate authorities for tests and small installations. See mesh-identity(7).
 */
#ifndef MESH_IDENTITY_H
#define MESH_IDENTITY_H

#include <mesh/server.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * --- authorities, as `mesh ca` uses them ---
 *
 * A mesh on its own needs none of this: identity local: makes its authority by itself, and file: and spiffe: have theirs elsewhere. An authority is a
 * directory of mode 0700 with ca.crt and ca.key (0600). Whoever can read the key can be anybody in its trust domain.
 */

/*
 * Makes an authority: a P-256 key and a certificate of ten years. One that is there already is never overwritten.
 *
 * dir      is made if it is missing; NULL: where identity local: has its own (see option `state.dir` in mesh-options(7))
 * domain   the trust domain, as in "prod.example"; NULL: option `trust.domain`
 * thread   any that may call getenv(); blocks on files
 * errors   MESH_E_STATE         there is one already: the sentence says of which trust domain
 *          MESH_E_NOT_PRIVATE   the directory or what is in it is open to others, or not ours
 *          MESH_E_CORRUPT, MESH_E_IDENTITY (it has expired), MESH_E_OPTION, MESH_E_INVALID, MESH_E_NO_DESCRIPTORS, MESH_E_SYSTEM, MESH_E_NOMEM
 * since    0.1
 */
MESH_API int mesh_ca_init(const char *dir, const char *domain, struct mesh_error *err);

struct mesh_ca_issue_options {
	uint32_t size;          /* sizeof(struct mesh_ca_issue_options) */
	uint32_t dns_count;     /* up to 64 */
	const char *id;         /* "spiffe://DOMAIN/PATH"; or "/PATH"; or a service's name: /ns/NAMESPACE/sa/NAME, by option `namespace` */
	const char *const *dns; /* names for clients that know no SPIFFE, as in "users.example" or "*.example" */
	int64_t lifetime_s;     /* 0: option `identity.lifetime`. It never goes beyond the authority's own end */
	const char *out_dir;    /* is made (0700) if it is missing */
};

#define MESH_CA_ISSUE_OPTIONS_INIT { sizeof(struct mesh_ca_issue_options), 0, 0, 0, 0, 0 }

/*
 * Makes a key and a certificate for it, an X.509-SVID, and writes tls.key (0600), tls.crt and ca.crt, as identity file: reads them. Each file is replaced as
 * a whole.
 *
 * dir      of the authority; NULL as in mesh_ca_init()
 * thread   any that may call getenv(); blocks on files
 * errors   MESH_E_NOT_FOUND     there is no authority
 *          MESH_E_INVALID       a wrong ID, DNS name or lifetime, or an ID of another trust domain
 *          MESH_E_STATE         out_dir holds an authority: none is ever overwritten
 *          MESH_E_VERSION, and as mesh_ca_init()
 * since    0.1
 */
MESH_API int mesh_ca_issue(const char *dir, const struct mesh_ca_issue_options *opts, struct mesh_error *err);

/* An authority as it is now. */
struct mesh_ca_info {
	uint32_t size;              /* sizeof(struct mesh_ca_info); set by the caller */
	uint32_t certificate_count; /* in ca.crt: more than one where an older authority is still trusted */
	int64_t not_before_s, not_after_s; /* Unix time */
	char dir[1024];
	char domain[256];           /* trust domain */
	char serial[64];            /* hexadecimal */
	char subject[256];
};

#define MESH_CA_INFO_INIT { sizeof(struct mesh_ca_info), 0, 0, 0, { 0 }, { 0 }, { 0 }, { 0 } }

/*
 * Looks at an authority, and checks it as whoever would use it: that it is private, that key and certificate belong together, that it is valid now.
 *
 * dir      NULL as in mesh_ca_init()
 * thread   any that may call getenv(); blocks on files
 * errors   MESH_E_NOT_FOUND, and as mesh_ca_issue()
 * since    0.1
 */
MESH_API int mesh_ca_show(const char *dir, struct mesh_ca_info *out, struct mesh_error *err);

/* --- who we are, and who others are --- */

/* Where our identity comes from, and how it fares. Set `size` before the call. Times are Unix time; 0: never. */
struct mesh_identity_status {
	uint32_t size;
	int32_t is_tls;          /* 0: connections are plain text, and there is no identity */
	uint64_t generation;     /* grows with every change of identities or bundles */
	uint64_t renewals, failures;
	int64_t last_renewal_s, next_renewal_s;
	int64_t overdue_since_s; /* a renewal that should have happened has not, since then */
	int64_t last_failure_s;
	char source[512];        /* "local:", "file:/etc/tls", "spiffe:unix:///run/spire.sock", "off" */
	char last_failure[512];  /* why the last renewal that failed did so; "" */
};

#define MESH_IDENTITY_STATUS_INIT { sizeof(struct mesh_identity_status), 0, 0, 0, 0, 0, 0, 0, 0, { 0 }, { 0 } }

/* One identity that we can show. Strings are valid inside the callback. Structures grow at their end: `size` says how far. */
struct mesh_identity {
	uint32_t size;
	int32_t is_default;      /* shown by clients, and by servers that have none of their own */
	const char *id;          /* "spiffe://mesh.local/ns/default/sa/users" */
	const char *serial;      /* hexadecimal */
	const char *issuer;      /* its distinguished name */
	const char *hint;        /* of the Workload API; "" */
	int64_t not_before_s, not_after_s;
	int64_t issuer_not_after_s; /* of the intermediate certificate that ends first; 0: a root signed ours itself */
};

/* What signs for one trust domain, as far as we believe it. */
struct mesh_trust {
	uint32_t size;
	uint32_t certificate_count; /* 0: nobody of this domain is believed */
	const char *domain;
	int64_t not_after_s;        /* of the certificate that ends last; 0: there is none */
	int32_t is_own;             /* the domain of our own identity */
	uint32_t reserved;
};

typedef void (*mesh_identity_fn)(const struct mesh_identity *identity, void *user);
typedef void (*mesh_trust_fn)(const struct mesh_trust *trust, void *user);

/*
 * How our identity fares.
 *
 * thread   any
 * errors   MESH_E_INVALID (NULL, or `size` is not set), MESH_E_CLOSING, MESH_E_FORKED
 * since    0.1
 */
MESH_API int mesh_identity_status(mesh *m, struct mesh_identity_status *out);

/*
 * Runs `fn` for each identity that we hold, the default first; also for those that have expired. With plain text there are none.
 *
 * thread   any; `fn` runs in it
 * errors   MESH_E_INVALID (NULL), MESH_E_CLOSING, MESH_E_FORKED
 * since    0.1
 */
MESH_API int mesh_identity_list(mesh *m, mesh_identity_fn fn, void *user);

/* The same for each trust domain whose bundle we hold. thread any; errors as mesh_identity_list(). since 0.1 */
MESH_API int mesh_identity_trusts(mesh *m, mesh_trust_fn fn, void *user);

/*
 * The verified SPIFFE ID of who calls; "" on a plain text connection.
 *
 * thread   any
 * memory   lives as long as the request
 * since    0.1
 */
MESH_API const char *mesh_request_peer_id(const mesh_request *request);

/*
 * The verified SPIFFE ID of the server that the last attempt was sent to; "" if none was, or in plain text.
 *
 * thread   any, once the call has ended
 * memory   lives as long as the call
 * since    0.1
 */
MESH_API const char *mesh_call_peer_id(const mesh_call *call);

#ifdef __cplusplus
}
#endif

#endif
