/*
 * What the servers of one service have in common for handshakes. One per name, kept as long as the mesh: a helper thread may still be busy with
 * a handshake of a server that has gone.
 */
#ifndef MESH_SERVE_AUTHENTICATE_H
#define MESH_SERVE_AUTHENTICATE_H

#include "wire/secure.h"

struct mesh__server_secure {
	struct mesh__server_secure *next;
	struct mesh__secure_options opts;
	char service[256];
};

/* The one of this name in the list, or a new one that takes what the names have in common from `like`; NULL: out of memory. */
struct mesh__server_secure *mesh__server_secure_of(struct mesh__server_secure **list, const char *service,
						   const struct mesh__secure_options *like);
void mesh__server_secure_free_all(struct mesh__server_secure **list); /* after the workers' end */

#endif
