/*
 * The ID that discovery says an endpoint has: checked once, where it was read, then shared by endpoints, channels and handshakes of
 * any thread. Immutable and counted.
 */
#ifndef MESH_IDENTITY_DISCOVERED_ID_H
#define MESH_IDENTITY_DISCOVERED_ID_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct mesh__discovered_id {
	atomic_uint refs;
	char text[]; /* a workload's SPIFFE ID */
};

/* 0; -1 with *why a static phrase that names what is wrong with the text; MESH_E_NOMEM. */
int mesh__discovered_id_parse(struct mesh__discovered_id **out, const char *text, size_t len, const char **why);

struct mesh__discovered_id *mesh__discovered_id_ref(struct mesh__discovered_id *id); /* NULL is fine */
void mesh__discovered_id_unref(struct mesh__discovered_id *id);                      /* NULL is fine */
/* NULL is equal to NULL. */
bool mesh__discovered_id_equal(const struct mesh__discovered_id *a, const struct mesh__discovered_id *b);

#endif
