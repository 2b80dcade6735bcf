/*
 * The page of a segment that says who the process is: what `mesh id` and `mesh check` read, and nothing secret.
 *
 * It changes a few times an hour and as a whole, so it is a sequence lock: an odd number while it is written, another even one
 * after. A reader copies it between two looks at the number. The writer's stores are single words, so that it never waits and
 * never tears one. Texts stand one after the other behind the table, since an ID may be 2048 bytes long and seldom is 60.
 */
#ifndef MESH_STATS_IDENTITY_PAGE_H
#define MESH_STATS_IDENTITY_PAGE_H

#include "mesh/stats.h"
#include "stats/layout.h"

#include <stdbool.h>

struct mesh__stats;

enum { MESH__IDENTITY_PAGE_BUNDLES = 32, MESH__IDENTITY_PAGE_TEXT_BYTES = 3448, MESH__IDENTITY_PAGE_TRIES = 64 };

struct mesh__identity_page_bundle {
	int64_t earliest_not_after_s;
	uint32_t certificate_count;
	uint32_t latest_after_s; /* from the earliest to the latest */
};

/* At MESH__LAYOUT_PAGE_BYTES of the segment; documented in mesh-stats(5). */
struct mesh__identity_page {
	uint64_t sequence; /* 0: never written; odd: being written */
	int32_t state;     /* enum mesh_stats_identity_state */
	uint32_t text_bytes;
	int64_t not_before_s, not_after_s, last_renewal_s, next_renewal_s, overdue_since_s, last_failure_s;
	uint64_t generation, renewals, failures;
	uint32_t bundle_count; /* in the table */
	uint32_t bundle_total; /* that the process has */
	int64_t issuer_not_after_s;
	uint64_t reserved[4];
	struct mesh__identity_page_bundle bundles[MESH__IDENTITY_PAGE_BUNDLES]; /* at 136 */
	char texts[MESH__IDENTITY_PAGE_TEXT_BYTES]; /* at 648: ID, trust domain, source, serial, issuer, last failure, the bundles' domains */
};

_Static_assert(offsetof(struct mesh__identity_page, bundles) == 136, "documented offset");
_Static_assert(offsetof(struct mesh__identity_page, texts) == 648, "documented offset");
_Static_assert(sizeof(struct mesh__identity_page) == MESH__LAYOUT_PAGE_BYTES, "documented size");

struct mesh__stats_bundle {
	const char *trust_domain;
	uint32_t certificate_count;
	int64_t earliest_not_after_s, latest_not_after_s; /* Unix time; 0: it has no certificate */
};

/* Texts may be NULL. An ID is never cut, other texts at 255 bytes; bundles without room are only counted. */
struct mesh__stats_identity {
	int32_t state; /* enum mesh_stats_identity_state */
	const char *spiffe_id, *trust_domain, *source, *serial, *issuer, *last_failure;
	int64_t not_before_s, not_after_s, last_renewal_s, next_renewal_s, overdue_since_s, last_failure_s; /* Unix time; 0: never */
	int64_t issuer_not_after_s; /* of the intermediate certificate that ends first; 0: there is none */
	uint64_t generation, renewals, failures;
	const struct mesh__stats_bundle *bundles;
	uint32_t bundle_count;
};

/* Publishes who we are now, in private memory, too. thread any; copies. In a forked child it does nothing. */
void mesh__stats_set_identity(struct mesh__stats *stats, const struct mesh__stats_identity *identity);

/*
 * Copies the page of an open segment. 0; MESH_E_NOT_FOUND: never written; MESH_E_CORRUPT: it could not be had whole, since it
 * is written all the time, or its writer was killed in the middle.
 */
int mesh__identity_page_copy(int fd, struct mesh__identity_page *page);

/* Strings of *out are the page's. MESH_E_NOT_FOUND, MESH_E_CORRUPT: texts do not end, or numbers are impossible. */
int mesh__identity_page_read(const struct mesh__identity_page *page, struct mesh_stats_identity *out);
int mesh__identity_page_bundle(const struct mesh__identity_page *page, uint32_t number, struct mesh_stats_bundle *out);

#endif
