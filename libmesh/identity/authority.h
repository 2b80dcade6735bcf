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

#include "config/config.h"
#include "identity/credentials.h"
#include "mesh/error.h"

struct mesh__authority;

/* Opens; makes it if there is none and `create`. `domain` NULL: whichever it has; another than it has: MESH_E_STATE with a sentence. */
int mesh__authority_open(const char *dir, const char *domain, bool create, struct mesh__authority **out, struct mesh_error *err);
void mesh__authority_free(struct mesh__authority *authority);
/* Where local: keeps it: "ca" in the state directory (option state.dir, else $XDG_STATE_HOME/mesh, else ~/.local/state/mesh). MESH_E_OPTION: no home. */
int mesh__authority_default_dir(const struct mesh__config *cfg, char *path, size_t capacity, struct mesh_error *err);
bool mesh__authority_was_made(const struct mesh__authority *authority); /* by this very open */
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

/* The same as files, each complete before it is seen: tls.key (0600), tls.crt, ca.crt. Makes the directory (0700) if there is none. */
int mesh__authority_issue_files(struct mesh__authority *authority, const struct mesh__spiffe_id *id, const char *const *dns, uint32_t dns_count,
				int64_t lifetime_s, const char *out_dir, struct mesh_error *err);

/* What certificates may carry as a DNS name: labels of letters, digits and hyphens, the first may be "*"; no IP address. */
bool mesh__authority_is_dns_name(const char *name);
void mesh__authority_facts(const struct mesh__authority *authority, struct mesh__certificate_facts *facts, uint32_t *certificate_count);

#endif
