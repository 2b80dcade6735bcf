/*
 * SPIFFE IDs, to the letter of the SPIFFE-ID standard (section 2) and X509-SVID (section 2): a pure parser.
 *
 * spiffe://TRUST-DOMAIN/PATH. The scheme is lower case here: an upper-case one is refused, as go-spiffe does. A trust domain has 1 to
 * 255 of [a-z0-9._-]; a path has segments of [A-Za-z0-9._-], none empty, none "." or ".."; no trailing '/', no user, port,
 * query, fragment or percent sign. An ID has at most 2048 bytes.
 */
#ifndef MESH_IDENTITY_SPIFFE_ID_H
#define MESH_IDENTITY_SPIFFE_ID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MESH__SPIFFE_ID_MAX = 2048, MESH__TRUST_DOMAIN_MAX = 255 };

struct mesh__spiffe_id {
	uint16_t len, domain_len; /* of text; of the trust domain, which begins at text + 9 */
	char text[MESH__SPIFFE_ID_MAX + 1];
};

/* 0, or -1 with *why a static phrase that names what is wrong ("the trust domain has an upper-case letter"). */
int mesh__spiffe_id_parse(struct mesh__spiffe_id *id, const char *text, size_t len, const char **why);
int mesh__trust_domain_check(const char *text, size_t len, const char **why);

/* The default template: spiffe://DOMAIN/ns/NAMESPACE/sa/SERVICE. 0, or -1 with *why. */
int mesh__spiffe_id_of_service(struct mesh__spiffe_id *id, const char *domain, const char *name_space, const char *service, const char **why);

static inline const char *mesh__spiffe_id_domain(const struct mesh__spiffe_id *id) /* domain_len bytes, not ended */
{
	return id->text + 9;
}
static inline const char *mesh__spiffe_id_path(const struct mesh__spiffe_id *id) /* "/ns/..."; "" for a trust domain's own ID */
{
	return id->text + 9 + id->domain_len;
}
void mesh__spiffe_id_copy_domain(const struct mesh__spiffe_id *id, char domain[MESH__TRUST_DOMAIN_MAX + 1]);
bool mesh__spiffe_id_is_member(const struct mesh__spiffe_id *id, const char *domain);
bool mesh__spiffe_id_equal(const struct mesh__spiffe_id *a, const struct mesh__spiffe_id *b);

#endif
