/*
 * A certificate authority in a directory: ca.crt, ca.key (0600, in a directory of 0700 that is ours). Used by source_local.c and
 * `mesh ca`. Blocking file I/O; thread any.
 *
 * Made once: whoever comes first writes both files under a lock on the directory (flock on `lock`), complete before they are seen (write, fsync,
 * rename); twenty processes that start at the same moment use one authority. A key file that others could read, that is a
 * symbolic link or that belongs to somebody else is refused (MESH_E_NOT_PRIVATE), never repaired in silence.
 */
#ifndef MESH_IDENTITY_AUTHORITY_H
#define MESH_IDENTITY_AUTHORITY_H

#include "identity/credentials.h"
#include "mesh/error.h"

struct mesh__authority;

/* Opens; makes it if there is none and `create`. `domain` NULL: whichever it has; another than it has: MESH_E_STATE with a sentence. */
int mesh__authority_open(const char *dir, const char *domain, bool create, struct mesh__authority **out, struct mesh_error *err);
void mesh__authority_free(struct mesh__authority *authority);
const char *mesh__authority_domain(const struct mesh__authority *authority);
const void *mesh__authority_bundle_pem(const struct mesh__authority *authority, size_t *len); /* ends with a NUL that len counts not */

/*
 * A new key and a certificate for it: DER, leaf first. `dns`: further DNS names, may be NULL. Valid from a minute ago for `lifetime_s`, never
 * beyond the authority's own end. The caller frees both with mesh__authority_free_issued().
 */
struct mesh__issued {
	uint8_t *chain, *key; /* concatenated DER; PKCS#8 DER */
	size_t chain_len, key_len;
};
int mesh__authority_issue(struct mesh__authority *authority, const struct mesh__spiffe_id *id, const char *const *dns, uint32_t dns_count,
			  int64_t lifetime_s, struct mesh__issued *out, struct mesh_error *err);
void mesh__authority_free_issued(struct mesh__issued *issued); /* zeroes the key */

#endif
