#include "stats/identity_page.h"

#include "base/clock.h"
#include "stats/stats_internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_MAX = 255, ID_MAX = 2048, FIXED_TEXTS = 6, WORDS = sizeof(struct mesh__identity_page) / sizeof(uint64_t) };

/* False: no room; then nothing is added. */
static bool add_text(struct mesh__identity_page *page, const char *text, size_t longest)
{
	size_t len = text ? strnlen(text, longest) : 0;

	if (page->text_bytes + len + 1 > sizeof(page->texts))
		return false;
	if (len)
		memcpy(page->texts + page->text_bytes, text, len);
	page->texts[page->text_bytes + len] = '\0';
	page->text_bytes += (uint32_t)len + 1;
	return true;
}

static void add_texts(struct mesh__identity_page *page, const struct mesh__stats_identity *identity)
{
	add_text(page, identity->spiffe_id, ID_MAX);
	add_text(page, identity->trust_domain, TEXT_MAX);
	add_text(page, identity->source, TEXT_MAX);
	add_text(page, identity->serial, TEXT_MAX);
	add_text(page, identity->issuer, TEXT_MAX);
	add_text(page, identity->last_failure, TEXT_MAX);
}
_Static_assert(ID_MAX + (FIXED_TEXTS - 1) * TEXT_MAX + FIXED_TEXTS <= MESH__IDENTITY_PAGE_TEXT_BYTES, "the fixed texts always fit");

static uint32_t seconds_between(int64_t from, int64_t to)
{
	return to <= from ? 0 : to - from < UINT32_MAX ? (uint32_t)(to - from) : UINT32_MAX;
}

static void add_bundles(struct mesh__identity_page *page, const struct mesh__stats_identity *identity)
{
	page->bundle_total = identity->bundle_count;
	for (uint32_t i = 0; i < identity->bundle_count && page->bundle_count < MESH__IDENTITY_PAGE_BUNDLES; i++) {
		const struct mesh__stats_bundle *bundle = &identity->bundles[i];

		if (!add_text(page, bundle->trust_domain, TEXT_MAX))
			continue;
		page->bundles[page->bundle_count++] = (struct mesh__identity_page_bundle){
			.earliest_not_after_s = bundle->earliest_not_after_s,
			.certificate_count = bundle->certificate_count,
			.latest_after_s = seconds_between(bundle->earliest_not_after_s, bundle->latest_not_after_s),
		};
	}
}

static void fill_page(struct mesh__identity_page *page, const struct mesh__stats_identity *identity)
{
	page->state = identity->state;
	page->not_before_s = identity->not_before_s;
	page->not_after_s = identity->not_after_s;
	page->last_renewal_s = identity->last_renewal_s;
	page->next_renewal_s = identity->next_renewal_s;
	page->overdue_since_s = identity->overdue_since_s;
	page->last_failure_s = identity->last_failure_s;
	page->issuer_not_after_s = identity->issuer_not_after_s;
	page->generation = identity->generation;
	page->renewals = identity->renewals;
	page->failures = identity->failures;
	add_texts(page, identity);
	add_bundles(page, identity);
}

/* The first word is the sequence; the fence keeps the others behind its odd value, the last store keeps them before its even one. */
static void store_page(mesh__cell *to, const struct mesh__identity_page *page)
{
	uint64_t words[WORDS], sequence = atomic_load_explicit(&to[0], memory_order_relaxed) & ~UINT64_C(1);

	memcpy(words, page, sizeof(words));
	atomic_store_explicit(&to[0], sequence + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	for (size_t i = 1; i < WORDS; i++)
		atomic_store_explicit(&to[i], words[i], memory_order_relaxed);
	atomic_store_explicit(&to[0], sequence + 2, memory_order_release);
}

void mesh__stats_set_identity(struct mesh__stats *stats, const struct mesh__stats_identity *identity)
{
	struct mesh__identity_page page;

	memset(&page, 0, sizeof(page));
	fill_page(&page, identity);
	if (!mesh__stats_lock(stats))
		return;
	store_page(mesh__stats_at(stats, offsetof(struct mesh__layout_header, identity)), &page);
	mesh__stats_unlock(stats);
}

static bool read_at(int fd, void *to, size_t bytes)
{
	ssize_t got;

	do
		got = pread(fd, to, bytes, offsetof(struct mesh__layout_header, identity));
	while (got < 0 && errno == EINTR);
	return got == (ssize_t)bytes;
}

int mesh__identity_page_copy(int fd, struct mesh__identity_page *page)
{
	uint64_t before, after;

	for (int i = 0; i < MESH__IDENTITY_PAGE_TRIES; i++) {
		if (!read_at(fd, &before, sizeof(before)))
			return MESH_E_CORRUPT;
		atomic_thread_fence(memory_order_acquire);
		if (!read_at(fd, page, sizeof(*page)))
			return MESH_E_CORRUPT;
		atomic_thread_fence(memory_order_acquire);
		if (!read_at(fd, &after, sizeof(after)))
			return MESH_E_CORRUPT;
		if (before != after || before % 2)
			continue;
		page->sequence = before;
		return before ? 0 : MESH_E_NOT_FOUND;
	}
	return MESH_E_CORRUPT;
}

/* The text of that number; NULL: there is none, or it does not end. */
static const char *text_at(const struct mesh__identity_page *page, uint32_t number)
{
	const char *at = page->texts, *end;

	if (page->text_bytes > sizeof(page->texts))
		return NULL;
	for (end = page->texts + page->text_bytes; at < end; number--) {
		const char *nul = memchr(at, '\0', (size_t)(end - at));

		if (!nul || !number)
			return nul ? at : NULL;
		at = nul + 1;
	}
	return NULL;
}

/* A process that hangs cannot say that its certificate has expired meanwhile: the reader's clock does. */
static int32_t state_now(const struct mesh__identity_page *page)
{
	if (page->state < MESH_STATS_IDENTITY_UNKNOWN || page->state > MESH_STATS_IDENTITY_OFF)
		return MESH_STATS_IDENTITY_UNKNOWN;
	if (page->state != MESH_STATS_IDENTITY_OK && page->state != MESH_STATS_IDENTITY_OVERDUE)
		return page->state;
	return page->not_after_s <= (int64_t)(mesh__clock_wall_ns() / 1000000000) ? MESH_STATS_IDENTITY_EXPIRED : page->state;
}

int mesh__identity_page_read(const struct mesh__identity_page *page, struct mesh_stats_identity *out)
{
	const char **texts[FIXED_TEXTS] = { &out->spiffe_id, &out->trust_domain, &out->source, &out->serial, &out->issuer, &out->last_failure };

	if (!page->sequence)
		return MESH_E_NOT_FOUND;
	for (uint32_t i = 0; i < FIXED_TEXTS; i++) {
		*texts[i] = text_at(page, i);
		if (!*texts[i])
			return MESH_E_CORRUPT;
	}
	if (page->bundle_count > MESH__IDENTITY_PAGE_BUNDLES)
		return MESH_E_CORRUPT;
	out->state = state_now(page);
	out->not_before_s = page->not_before_s;
	out->not_after_s = page->not_after_s;
	out->last_renewal_s = page->last_renewal_s;
	out->next_renewal_s = page->next_renewal_s;
	out->overdue_since_s = page->overdue_since_s;
	out->last_failure_s = page->last_failure_s;
	out->issuer_not_after_s = page->issuer_not_after_s;
	out->generation = page->generation;
	out->renewals = page->renewals;
	out->failures = page->failures;
	out->bundle_count = page->bundle_count;
	out->bundle_total = page->bundle_total;
	return 0;
}

int mesh__identity_page_bundle(const struct mesh__identity_page *page, uint32_t number, struct mesh_stats_bundle *out)
{
	if (!page->sequence || number >= page->bundle_count || number >= MESH__IDENTITY_PAGE_BUNDLES)
		return MESH_E_NOT_FOUND;
	out->trust_domain = text_at(page, FIXED_TEXTS + number);
	out->certificate_count = page->bundles[number].certificate_count;
	out->earliest_not_after_s = page->bundles[number].earliest_not_after_s;
	if (__builtin_add_overflow(out->earliest_not_after_s, (int64_t)page->bundles[number].latest_after_s, &out->latest_not_after_s))
		return MESH_E_CORRUPT;
	return out->trust_domain ? 0 : MESH_E_CORRUPT;
}
