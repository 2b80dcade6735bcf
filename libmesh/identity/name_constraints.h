/*
 * Name constraints: for which names an authority may sign. RFC 5280, section 4.2.1.10; of SPIFFE IDs it is the trust domain that counts.
 *
 * mbedTLS 3.6 does not know them. URIs and DNS names are compared; where a constraint is of another kind (addresses, directory names, ...), a
 * certificate that has a name of that kind is refused, as nobody here can tell. Pure.
 */
#ifndef MESH_IDENTITY_NAME_CONSTRAINTS_H
#define MESH_IDENTITY_NAME_CONSTRAINTS_H

#include <mbedtls/x509_crt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* NULL: it has none, or they can be read. Else a phrase. */
const char *mesh__name_constraints_check(const mbedtls_x509_crt *ca);

struct mesh__name_violation {
	const char *kind; /* "the URI" */
	const char *name; /* not terminated, of foreign bytes; len 0: none that can be shown */
	size_t len;
	bool is_excluded; /* else it is not among what is permitted */
};

/* Does a name of the certificate `below`, however far below, break what `ca` may sign? What cannot be read breaks it. */
bool mesh__name_constraints_break(const mbedtls_x509_crt *ca, const mbedtls_x509_crt *below, struct mesh__name_violation *out);

/* Does the host of that URI fall under the constraint: "host" as it is, ".domain" anything in it? false, too, for a URI without a host that has a name. */
bool mesh__name_constraints_has_uri(const char *uri, size_t uri_len, const char *base, size_t base_len);
bool mesh__name_constraints_has_dns(const char *name, size_t name_len, const char *base, size_t base_len);

#endif
