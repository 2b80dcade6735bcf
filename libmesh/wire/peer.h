/*
 * Who is at the other end of a secure connection: its verified ID, and the trust domain that we were in when it was verified. Immutable and
 * counted, since calls and requests may be asked for it after their connection has gone.
 */
#ifndef MESH_WIRE_PEER_H
#define MESH_WIRE_PEER_H

#include "identity/credentials.h"

struct mesh__peer {
	atomic_uint refs;
	char own_domain[MESH__TRUST_DOMAIN_MAX + 1];
	struct mesh__spiffe_id id; /* the last: no more of it is allocated than its text needs */
};

struct mesh__peer *mesh__peer_new(const struct mesh__spiffe_id *id, const struct mesh__svid *own); /* NULL: out of memory */
struct mesh__peer *mesh__peer_ref(struct mesh__peer *peer); /* NULL is fine */
void mesh__peer_unref(struct mesh__peer *peer);             /* NULL is fine */

#endif
