/*
 * Services, their snapshots, and what the sources say.
 *
 * A snapshot is an array of pointers to endpoints, published by RCU: readers (picks, from any thread) are inside a read section
 * for a few dozen nanoseconds. Changing a set happens on the control loop: build the new array, publish it, wait for a grace
 * period (which is as long as those read sections), free the old one. Removed endpoints stay until nothing is in flight on them
 * and nobody holds a long reference; a sweep looks once a second.
 */
#include "discovery/source.h"

#include "base/clock.h"
#include "base/distance.h"
#include "base/fault.h"
#include "base/map.h"
#include "base/memory.h"
#include "base/text.h"
#include "config/config.h"
#include "discovery/set.h"
#include "stats/stats.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#ifdef __SANITIZE_THREAD__
char mesh__set_grace_period;
#endif

void mesh__set_wait_for_readers(void)
{
	urcu_bp_synchronize_rcu();
	MESH__SET_READERS_GONE();
}

#define SWEEP_NS MESH__NS_PER_SEC

enum { WHY_MAX = 200, NAME_DISTANCE_MAX = 3 };

enum answer { ANSWER_NONE, ANSWER_ABSENT, ANSWER_SET };

/* An endpoint with what no pick reads. `ep` comes first: pointers to either are the same. */
struct entry {
	struct mesh__endpoint ep;
	atomic_uint refs;
	_Atomic(struct mesh__discovered_id *) id; /* published as sets are: see mesh__endpoint_discovered_id() */
	struct mesh__discovered_id *old_id;       /* on_loop: until nobody can be about to take a reference to it */
	uint64_t first_seen_ns, last_seen_ns;
	uint64_t mark;
	struct mesh__service *service;
	struct mesh__list node; /* in service->leaving, once removed */
};

/* What one source said of one service. */
struct told {
	struct mesh__source *source;
	enum answer answer;
	struct mesh__found *found;
	uint32_t count;
	uint64_t updated_ns;
	char why[WHY_MAX]; /* of absence, or of the last failure */
	bool is_failing;
	int32_t code; /* of the failure */
	bool must_ask_again; /* on_loop: memory was out; the sweep asks the source once more */
};

struct mesh__service {
	struct mesh__directory *dir;
	struct mesh__service *next;
	mesh__set_slot set;
	_Atomic int state;

	struct { /* under lock: written on the control loop, read by whoever asks why */
		pthread_mutex_t lock;
		struct told told[MESH__SOURCES_MAX];
		uint32_t told_count;
		struct mesh__list leaving;
	} shared;

	/* on_loop (control) */
	struct mesh__map entries; /* by address */
	struct mesh__list watches;
	struct mesh__task follow;
	uint64_t mark;
	bool must_settle; /* memory was out when the set was to be published */
	mesh__cell *endpoints;
	char name[];
};

struct mesh__announcement {
	struct mesh__directory *dir;
	struct {
		struct mesh__source *source;
		void *announced;
	} parts[MESH__SOURCES_MAX];
	uint32_t count;
};

struct mesh__directory {
	struct mesh__directory_options opts;
	struct mesh__source *sources[MESH__SOURCES_MAX];
	uint32_t source_count, default_count; /* the first default_count serve every service without a list of its own */
	pthread_mutex_t lock;
	struct mesh__map services;
	struct mesh__service *first;
	struct mesh__timer sweep;
	struct mesh__task start;
	bool is_stopped;
};

int32_t mesh__endpoint_in_flight(const struct mesh__endpoint *ep)
{
	return mesh__endpoint_load(ep, MESH__SHARD_COUNT);
}

const mesh__set_slot *mesh__service_set(const struct mesh__service *service)
{
	return &service->set;
}

const char *mesh__service_name(const struct mesh__service *service)
{
	return service->name;
}

enum mesh__service_state mesh__service_state(const struct mesh__service *service)
{
	return (enum mesh__service_state)atomic_load_explicit(&service->state, memory_order_acquire);
}

/* --- endpoints' lives --- */

void mesh__endpoint_ref(struct mesh__endpoint *ep)
{
	atomic_fetch_add_explicit(&((struct entry *)(void *)ep)->refs, 1, memory_order_relaxed);
}

void mesh__endpoint_unref(struct mesh__endpoint *ep)
{
	/* Never frees: the sweep does, on the control loop. */
	atomic_fetch_sub_explicit(&((struct entry *)(void *)ep)->refs, 1, memory_order_release);
}

struct mesh__discovered_id *mesh__endpoint_discovered_id(const struct mesh__endpoint *ep)
{
	const struct entry *entry = (const struct entry *)(const void *)ep;
	struct mesh__discovered_id *id;

	mesh__set_read_enter();
	id = mesh__discovered_id_ref(atomic_load_explicit(&entry->id, memory_order_acquire));
	mesh__set_read_end();
	return id;
}

static void free_entry(struct mesh__directory *dir, struct entry *entry)
{
	mesh__discovered_id_unref(atomic_load_explicit(&entry->id, memory_order_relaxed));
	if (dir->opts.on_endpoint_free)
		dir->opts.on_endpoint_free(&entry->ep, dir->opts.user);
	mesh__memory_free(entry);
}

static void settle(struct mesh__service *service);

static void ask_again(struct mesh__service *service)
{
	for (uint32_t i = 0; i < service->shared.told_count; i++) {
		struct told *told = &service->shared.told[i];

		if (told->must_ask_again) {
			told->must_ask_again = false;
			told->source->ops->follow(told->source, service);
		}
	}
}

static void sweep_service(struct mesh__service *service)
{
	struct mesh__list gone, *node, *next;

	ask_again(service);
	if (service->must_settle)
		settle(service);
	mesh__list_init(&gone);
	pthread_mutex_lock(&service->shared.lock);
	for (node = service->shared.leaving.next; node != &service->shared.leaving; node = next) {
		struct entry *entry = MESH__CONTAINER(node, struct entry, node);

		next = node->next;
		if (atomic_load_explicit(&entry->refs, memory_order_acquire) || mesh__endpoint_in_flight(&entry->ep))
			continue;
		mesh__list_remove(node);
		mesh__list_append(&gone, node);
	}
	pthread_mutex_unlock(&service->shared.lock);
	atomic_thread_fence(memory_order_acquire); /* see mesh__endpoint_done() */
	while ((node = mesh__list_take_first(&gone)))
		free_entry(service->dir, MESH__CONTAINER(node, struct entry, node));
}

static void sweep(struct mesh__timer *timer, struct mesh__loop *lp)
{
	struct mesh__directory *dir = MESH__CONTAINER(timer, struct mesh__directory, sweep);

	pthread_mutex_lock(&dir->lock);
	for (struct mesh__service *service = dir->first; service; service = service->next)
		sweep_service(service);
	pthread_mutex_unlock(&dir->lock);
	mesh__timer_set(lp, timer, lp->now_ns + SWEEP_NS);
}

/* --- changing a set --- */

static struct entry *find_or_make(struct mesh__service *service, const struct mesh__found *found, uint64_t now_ns)
{
	struct entry *entry = mesh__map_get(&service->entries, (const char *)&found->address, sizeof(found->address));

	if (entry)
		return entry;
	entry = mesh__memory_zalloc(sizeof(*entry));
	if (!entry)
		return NULL;
	entry->ep.address = found->address;
	entry->first_seen_ns = now_ns;
	entry->service = service;
	mesh__list_init(&entry->node);
	if (mesh__map_put(&service->entries, (const char *)&found->address, sizeof(found->address), entry)) {
		mesh__memory_free(entry);
		return NULL;
	}
	return entry;
}

static void remove_unmarked(struct mesh__service *service)
{
	struct entry *entry;
	uint32_t at = 0;

	while ((entry = mesh__map_next(&service->entries, &at, NULL))) {
		if (entry->mark == service->mark)
			continue;
		mesh__map_remove(&service->entries, (const char *)&entry->ep.address, sizeof(entry->ep.address));
		atomic_store_explicit(&entry->ep.is_removed, true, memory_order_release);
		pthread_mutex_lock(&service->shared.lock);
		mesh__list_append(&service->shared.leaving, &entry->node);
		pthread_mutex_unlock(&service->shared.lock);
	}
}

static void tell_watches(struct mesh__service *service)
{
	struct mesh__list *node, *next;

	for (node = service->watches.next; node != &service->watches; node = next) {
		struct mesh__service_watch *watch = MESH__CONTAINER(node, struct mesh__service_watch, node);

		next = node->next;
		watch->changed(watch, service);
	}
}

static void publish_id(struct entry *entry, struct mesh__discovered_id *id)
{
	if (atomic_load_explicit(&entry->id, memory_order_relaxed) != id)
		entry->old_id = atomic_exchange_explicit(&entry->id, mesh__discovered_id_ref(id), memory_order_acq_rel);
}

static void free_old_ids(const struct mesh__set *set)
{
	for (uint32_t i = 0; i < set->count; i++) {
		struct entry *entry = (struct entry *)(void *)set->eps[i];

		mesh__discovered_id_unref(entry->old_id);
		entry->old_id = NULL;
	}
}

/* Publishes what `told` says. Out of memory keeps the set that is there; the sweep tries again. */
static void publish(struct mesh__service *service, const struct told *told)
{
	uint64_t now_ns = mesh__clock_now_ns();
	uint32_t wanted = told ? told->count : 0;
	struct mesh__set *set = mesh__memory_alloc(sizeof(*set) + wanted * sizeof(set->eps[0])), *old;

	service->must_settle = !set;
	if (!set)
		return;
	set->count = 0;
	service->mark++;
	pthread_mutex_lock(&service->shared.lock); /* who lists the endpoints reads what is written here */
	for (uint32_t i = 0; i < wanted; i++) {
		struct entry *entry = find_or_make(service, &told->found[i], now_ns);

		if (!entry)
			service->must_settle = true; /* out of memory: without this one for now */
		if (!entry || entry->mark == service->mark) /* listed twice */
			continue;
		entry->mark = service->mark;
		entry->last_seen_ns = now_ns;
		atomic_store_explicit(&entry->ep.weight, told->found[i].weight ? told->found[i].weight : 1, memory_order_relaxed);
		entry->ep.source = told->source->index;
		publish_id(entry, told->found[i].id);
		set->eps[set->count++] = &entry->ep;
	}
	pthread_mutex_unlock(&service->shared.lock);
	old = atomic_exchange_explicit(&service->set, set, memory_order_acq_rel);
	remove_unmarked(service);
	mesh__gauge_set(service->endpoints, set->count);
	mesh__set_wait_for_readers();
	free_old_ids(set);
	mesh__memory_free(old);
}

/* First match wins; nobody matches only when everybody has answered. */
static void settle(struct mesh__service *service)
{
	const struct told *match = NULL;
	enum mesh__service_state state = MESH__SERVICE_UNKNOWN;

	for (uint32_t i = 0; i < service->shared.told_count; i++) {
		const struct told *told = &service->shared.told[i];

		if (told->answer == ANSWER_SET && told->count) {
			match = told;
			state = MESH__SERVICE_READY;
			break;
		}
		if (told->answer == ANSWER_NONE)
			state = MESH__SERVICE_RESOLVING;
		else if (told->answer == ANSWER_SET && state == MESH__SERVICE_UNKNOWN)
			state = MESH__SERVICE_EMPTY;
	}
	publish(service, match);
	atomic_store_explicit(&service->state, (int)state, memory_order_release);
	tell_watches(service);
}

static struct told *told_by(struct mesh__service *service, const struct mesh__source *source)
{
	for (uint32_t i = 0; i < service->shared.told_count; i++)
		if (service->shared.told[i].source == source)
			return &service->shared.told[i];
	return NULL;
}

static void count_event(struct mesh__source *source, enum mesh__metric metric)
{
	struct mesh__stats *stats = source->dir->opts.stats;
	struct mesh__labels labels = { .reason = source->ops->scheme };

	if (stats)
		mesh__counter_add(mesh__stats_counter(stats, metric, &labels), mesh__shard_mine(), 1);
}

static bool is_same(const struct told *told, const struct mesh__found *found, uint32_t count)
{
	if (told->answer != ANSWER_SET || told->count != count)
		return false;
	for (uint32_t i = 0; i < count; i++)
		if (!mesh__address_equal(&told->found[i].address, &found[i].address) || told->found[i].weight != found[i].weight ||
		    !mesh__discovered_id_equal(told->found[i].id, found[i].id))
			return false;
	return true;
}

static void free_found(struct mesh__found *found, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		mesh__discovered_id_unref(found[i].id);
	mesh__memory_free(found);
}

static void answer(struct mesh__source *source, struct mesh__service *service, enum answer kind, const struct mesh__found *found, uint32_t count,
		   const char *why)
{
	struct told *told = told_by(service, source);
	struct mesh__found *copy = NULL, *old;
	uint32_t old_count;
	bool is_news;

	if (!told)
		return;
	if (count) {
		copy = mesh__memory_alloc(count * sizeof(*copy));
		if (!copy) {
			told->must_ask_again = true;
			return;
		}
		memcpy(copy, found, count * sizeof(*copy));
		for (uint32_t i = 0; i < count; i++)
			mesh__discovered_id_ref(copy[i].id);
	}
	is_news = kind == ANSWER_SET ? !is_same(told, found, count) : told->answer != kind;
	pthread_mutex_lock(&service->shared.lock);
	old = told->found;
	old_count = told->count;
	told->found = copy;
	told->count = count;
	told->answer = kind;
	told->is_failing = false;
	told->code = 0;
	told->updated_ns = mesh__clock_now_ns();
	snprintf(told->why, sizeof(told->why), "%s", why);
	pthread_mutex_unlock(&service->shared.lock);
	free_found(old, old_count);
	count_event(source, MESH__METRIC_DISCOVERY_UPDATES_TOTAL);
	if (is_news)
		settle(service);
}

void mesh__directory_deliver(struct mesh__source *source, struct mesh__service *service, const struct mesh__found *found, uint32_t count)
{
	answer(source, service, ANSWER_SET, found, count, count ? "" : "no server of it is running");
}

void mesh__directory_absent(struct mesh__source *source, struct mesh__service *service, const char *why)
{
	answer(source, service, ANSWER_ABSENT, NULL, 0, why);
}

void mesh__directory_failed(struct mesh__source *source, struct mesh__service *service, int32_t code, const char *why)
{
	struct told *told = told_by(service, source);
	bool is_first;

	if (!told)
		return;
	is_first = told->answer == ANSWER_NONE;
	pthread_mutex_lock(&service->shared.lock);
	snprintf(told->why, sizeof(told->why), "%s", why);
	told->is_failing = true;
	told->code = code;
	if (is_first) /* it cannot say; waiting for it would only delay the answer of the others */
		told->answer = ANSWER_ABSENT;
	pthread_mutex_unlock(&service->shared.lock);
	count_event(source, MESH__METRIC_DISCOVERY_ERRORS_TOTAL);
	mesh__log_write(source->dir->opts.log, MESH_LOG_WARN, "discovery by %s of %s: %s", source->uri, service->name, why);
	if (is_first)
		settle(service);
}

void mesh__directory_out_of_memory(struct mesh__source *source, struct mesh__service *service)
{
	struct told *told = told_by(service, source);

	if (told)
		told->must_ask_again = true;
	mesh__directory_failed(source, service, MESH_E_NOMEM, "out of memory");
}

/* --- services --- */

static void follow(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh__service *service = MESH__CONTAINER(task, struct mesh__service, follow);

	(void)lp;
	for (uint32_t i = 0; i < service->shared.told_count && !service->dir->is_stopped; i++)
		service->shared.told[i].source->ops->follow(service->shared.told[i].source, service);
}

static int open_sources(struct mesh__directory *dir, const char *list, struct mesh__source **out, uint32_t *count, struct mesh_error *err);

static int choose_sources(struct mesh__directory *dir, struct mesh__service *service, struct mesh_error *err)
{
	const char *general = mesh__config_text(dir->opts.config, MESH__OPTION_DISCOVERY, NULL);
	const char *own = mesh__config_text(dir->opts.config, MESH__OPTION_DISCOVERY, service->name);
	struct mesh__source *sources[MESH__SOURCES_MAX];
	uint32_t count = dir->default_count;
	int rc;

	memcpy(sources, dir->sources, sizeof(sources));
	if (own != general) {
		rc = open_sources(dir, own, sources, &count, err);
		if (rc)
			return rc;
	}
	for (uint32_t i = 0; i < count; i++)
		service->shared.told[i].source = sources[i];
	service->shared.told_count = count;
	return 0;
}

static void free_service(struct mesh__service *service)
{
	pthread_mutex_destroy(&service->shared.lock);
	mesh__map_fini(&service->entries);
	mesh__memory_free(service);
}

static int new_service(struct mesh__directory *dir, const char *name, struct mesh__service **out, struct mesh_error *err)
{
	size_t len = strlen(name);
	struct mesh__service *service = mesh__memory_zalloc(sizeof(*service) + len + 1);
	struct mesh__labels labels = { .service = name };
	static mesh__cell nowhere[MESH__SHARD_COUNT]; /* without counters: one writer, nobody reads */
	int rc;

	if (!service)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_RESOLVE, "out of memory for the service %s", name);
	service->dir = dir;
	memcpy(service->name, name, len);
	pthread_mutex_init(&service->shared.lock, NULL);
	mesh__list_init(&service->shared.leaving);
	mesh__list_init(&service->watches);
	mesh__map_init(&service->entries);
	service->follow.run = follow;
	service->endpoints = dir->opts.stats ? mesh__stats_counter(dir->opts.stats, MESH__METRIC_ENDPOINTS, &labels) : nowhere;
	rc = choose_sources(dir, service, err);
	if (!rc && mesh__map_put(&dir->services, name, len, service))
		rc = mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_RESOLVE, "out of memory for the service %s", name);
	if (rc) {
		free_service(service);
		return rc;
	}
	service->next = dir->first;
	dir->first = service;
	*out = service;
	return 0;
}

int mesh__directory_service(struct mesh__directory *dir, const char *name, struct mesh__service **out, struct mesh_error *err)
{
	bool is_new = false;
	int rc = 0;

	pthread_mutex_lock(&dir->lock);
	*out = mesh__map_get(&dir->services, name, strlen(name));
	if (!*out) {
		rc = new_service(dir, name, out, err);
		is_new = rc == 0;
	}
	pthread_mutex_unlock(&dir->lock);
	if (is_new)
		mesh__loop_post(dir->opts.control, &(*out)->follow);
	return rc;
}

static void suggest(struct mesh__service *service, struct mesh__text *text)
{
	const char *best = NULL;
	uint32_t best_distance = NAME_DISTANCE_MAX;

	pthread_mutex_lock(&service->dir->lock);
	for (struct mesh__service *other = service->dir->first; other; other = other->next) {
		uint32_t distance = other == service || mesh__service_state(other) != MESH__SERVICE_READY
					    ? NAME_DISTANCE_MAX
					    : mesh__distance(service->name, other->name, best_distance);

		if (distance < best_distance) {
			best_distance = distance;
			best = other->name;
		}
	}
	if (best)
		mesh__text_addf(text, " (did you mean %s?)", best);
	pthread_mutex_unlock(&service->dir->lock);
}

int32_t mesh__service_explain(struct mesh__service *service, char *storage, size_t capacity)
{
	uint64_t now_ns = mesh__clock_now_ns();
	struct mesh__text text;
	int32_t code = 0;

	mesh__text_init(&text, storage, capacity);
	pthread_mutex_lock(&service->shared.lock);
	for (uint32_t i = 0; i < service->shared.told_count; i++) {
		const struct told *told = &service->shared.told[i];

		if (told->code == MESH_E_NO_DESCRIPTORS || told->code == MESH_E_NOMEM)
			code = told->code;
		mesh__text_addf(&text, "%s%s: ", i ? "; " : "", told->source->ops->scheme);
		if (told->answer == ANSWER_NONE)
			mesh__text_add(&text, "has not answered yet");
		else if (told->count && told->is_failing)
			mesh__text_addf(&text, "said %u endpoints %.1f s ago, and fails since: %s", told->count,
					(double)(now_ns - told->updated_ns) / (double)MESH__NS_PER_SEC, told->why);
		else if (told->count)
			mesh__text_addf(&text, "%u endpoints", told->count);
		else
			mesh__text_addf(&text, "%s", told->why);
	}
	if (!service->shared.told_count)
		mesh__text_add(&text, "no discovery source is configured");
	pthread_mutex_unlock(&service->shared.lock);
	suggest(service, &text);
	return code;
}

void mesh__service_watch_add(struct mesh__service *service, struct mesh__service_watch *watch)
{
	mesh__list_append(&service->watches, &watch->node);
}

void mesh__service_watch_remove(struct mesh__service_watch *watch)
{
	if (watch->node.next)
		mesh__list_remove(&watch->node);
}

/* Under lock. The reference keeps what the view points to. */
static struct mesh__endpoint_view view_of(struct mesh__service *service, struct entry *entry, bool is_draining)
{
	struct mesh__endpoint_view view = { &entry->ep, "", entry->first_seen_ns, entry->last_seen_ns, is_draining };

	for (uint32_t i = 0; i < service->shared.told_count; i++)
		if (service->shared.told[i].source->index == entry->ep.source)
			view.source = service->shared.told[i].source->ops->scheme;
	mesh__endpoint_ref(&entry->ep);
	return view;
}

/* Under lock and inside a read section. NULL: out of memory. */
static struct mesh__endpoint_view *take_views(struct mesh__service *service, const struct mesh__set *set, uint32_t *count)
{
	uint32_t wanted = set ? set->count : 0, n = 0;
	struct mesh__endpoint_view *views;
	struct mesh__list *node;

	for (node = service->shared.leaving.next; node != &service->shared.leaving; node = node->next)
		wanted++;
	views = mesh__memory_zalloc_array(wanted + 1, sizeof(*views));
	if (!views)
		return NULL;
	for (uint32_t i = 0; set && i < set->count; i++)
		views[n++] = view_of(service, (struct entry *)(void *)set->eps[i], false);
	for (node = service->shared.leaving.next; node != &service->shared.leaving; node = node->next)
		views[n++] = view_of(service, MESH__CONTAINER(node, struct entry, node), true);
	*count = n;
	return views;
}

int mesh__service_list(struct mesh__service *service, void (*fn)(const struct mesh__endpoint_view *view, void *user), void *user)
{
	struct mesh__endpoint_view *views;
	uint32_t count = 0;

	/* `fn` is a stranger's: it may take its time, or ask us again, so nothing may be held while it runs. */
	pthread_mutex_lock(&service->shared.lock);
	views = take_views(service, mesh__set_read_begin(&service->set), &count);
	mesh__set_read_end();
	pthread_mutex_unlock(&service->shared.lock);
	if (!views)
		return MESH_E_NOMEM;
	for (uint32_t i = 0; i < count; i++) {
		fn(&views[i], user);
		mesh__endpoint_unref((struct mesh__endpoint *)(uintptr_t)views[i].ep);
	}
	mesh__memory_free(views);
	return (int)count;
}

/* --- announcing --- */

int mesh__directory_announce(struct mesh__directory *dir, const char *service, const struct mesh__address *address,
			     struct mesh__announcement **out, struct mesh_error *err)
{
	struct mesh__announcement *announcement = mesh__memory_zalloc(sizeof(*announcement));
	int rc = 0;

	if (!announcement)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_ACCEPT, "out of memory to announce %s", service);
	announcement->dir = dir;
	for (uint32_t i = 0; !rc && i < dir->default_count; i++) {
		struct mesh__source *source = dir->sources[i];

		if (!source->ops->announce)
			continue;
		rc = source->ops->announce(source, service, address, &announcement->parts[announcement->count].announced, err);
		if (!rc)
			announcement->parts[announcement->count++].source = source;
	}
	if (rc) {
		mesh__announcement_withdraw(announcement);
		return rc;
	}
	*out = announcement;
	return 0;
}

void mesh__announcement_withdraw(struct mesh__announcement *announcement)
{
	if (!announcement)
		return;
	for (uint32_t i = 0; i < announcement->count; i++)
		announcement->parts[i].source->ops->withdraw(announcement->parts[i].source, announcement->parts[i].announced);
	mesh__memory_free(announcement);
}

/* --- life --- */

static const struct mesh__source_ops *const known_sources[] = { &mesh__source_local, &mesh__source_static, &mesh__source_file };

static int too_many_sources(struct mesh_error *err)
{
	return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "discovery: more than %d sources", MESH__SOURCES_MAX);
}

static int parse_source(struct mesh__source *source, const char *uri, size_t len, struct mesh_error *err)
{
	size_t scheme_len = strcspn(uri, ": ");
	char *rest;
	int rc;

	snprintf(source->uri, sizeof(source->uri), "%.*s", (int)len, uri);
	for (size_t i = 0; i < sizeof(known_sources) / sizeof(known_sources[0]); i++)
		if (scheme_len < len && strlen(known_sources[i]->scheme) == scheme_len && memcmp(known_sources[i]->scheme, uri, scheme_len) == 0)
			source->ops = known_sources[i];
	if (!source->ops)
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "discovery: \"%.*s\" is no source; known are local:, static: and file:", (int)len, uri);
	rest = mesh__memory_strndup(uri + scheme_len + 1, len - scheme_len - 1);
	rc = rest ? source->ops->open(source, rest, err) : mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for a discovery source");
	mesh__memory_free(rest);
	return rc;
}

int mesh__directory_check(const char *list, struct mesh_error *err)
{
	uint32_t count = 0;

	while (*(list += strspn(list, " \t"))) {
		struct mesh__source source = { 0 };
		size_t len = strcspn(list, " \t");
		int rc = count++ == MESH__SOURCES_MAX ? too_many_sources(err) : parse_source(&source, list, len, err);

		if (rc)
			return rc;
		source.ops->close(&source);
		list += len;
	}
	return 0;
}

static int open_source(struct mesh__directory *dir, const char *uri, size_t len, struct mesh__source **out, struct mesh_error *err)
{
	struct mesh__source *source;
	int rc;

	for (uint32_t i = 0; i < dir->source_count; i++)
		if (strlen(dir->sources[i]->uri) == len && memcmp(dir->sources[i]->uri, uri, len) == 0) {
			*out = dir->sources[i]; /* named before: one is enough */
			return 0;
		}
	if (dir->source_count == MESH__SOURCES_MAX)
		return too_many_sources(err);
	source = mesh__memory_zalloc(sizeof(*source));
	if (!source)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for a discovery source");
	source->dir = dir;
	rc = parse_source(source, uri, len, err);
	if (rc) {
		mesh__memory_free(source);
		return rc;
	}
	source->index = (uint8_t)dir->source_count;
	dir->sources[dir->source_count++] = source;
	*out = source;
	return 0;
}

static int open_sources(struct mesh__directory *dir, const char *list, struct mesh__source **out, uint32_t *count, struct mesh_error *err)
{
	int rc;

	*count = 0;
	while (*(list += strspn(list, " \t"))) {
		size_t len = strcspn(list, " \t");

		if (*count == MESH__SOURCES_MAX)
			return too_many_sources(err);
		rc = open_source(dir, list, len, &out[*count], err);
		if (rc)
			return rc;
		(*count)++;
		list += len;
	}
	return 0;
}

const struct mesh__directory_options *mesh__directory_opts(const struct mesh__directory *dir)
{
	return &dir->opts;
}

static void start(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh__directory *dir = MESH__CONTAINER(task, struct mesh__directory, start);

	dir->sweep.fire = sweep;
	mesh__timer_set(lp, &dir->sweep, lp->now_ns + SWEEP_NS);
}

static void watch_fork(void)
{
	/* Without this, a child that changes a set would wait for readers that only exist in its parent. */
	pthread_atfork(urcu_bp_before_fork, urcu_bp_after_fork_parent, urcu_bp_after_fork_child);
}

int mesh__directory_open(const struct mesh__directory_options *opts, struct mesh__directory **out, struct mesh_error *err)
{
	static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
	struct mesh__directory *dir = mesh__memory_zalloc(sizeof(*dir));
	struct mesh__source *ordered[MESH__SOURCES_MAX];
	int rc;

	if (!dir)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for the directory");
	pthread_once(&fork_once, watch_fork);
	dir->opts = *opts;
	pthread_mutex_init(&dir->lock, NULL);
	mesh__map_init(&dir->services);
	rc = open_sources(dir, mesh__config_text(opts->config, MESH__OPTION_DISCOVERY, NULL), ordered, &dir->default_count, err);
	if (rc) {
		mesh__directory_free(dir);
		return rc;
	}
	dir->default_count = dir->source_count; /* naming one twice is naming it once */
	dir->start.run = start;
	mesh__loop_post(opts->control, &dir->start);
	*out = dir;
	return 0;
}

void mesh__directory_stop(struct mesh__directory *dir)
{
	if (dir->is_stopped)
		return;
	dir->is_stopped = true;
	mesh__timer_cancel(&dir->sweep);
	for (uint32_t i = 0; i < dir->source_count; i++)
		dir->sources[i]->ops->stop(dir->sources[i]);
	for (struct mesh__service *service = dir->first; service; service = service->next)
		mesh__list_init(&service->watches);
}

static void free_set(struct mesh__service *service)
{
	struct mesh__list *node;
	struct entry *entry;
	uint32_t at = 0;

	while ((entry = mesh__map_next(&service->entries, &at, NULL)))
		free_entry(service->dir, entry);
	while ((node = mesh__list_take_first(&service->shared.leaving)))
		free_entry(service->dir, MESH__CONTAINER(node, struct entry, node));
	mesh__memory_free(atomic_load(&service->set));
	for (uint32_t i = 0; i < service->shared.told_count; i++)
		free_found(service->shared.told[i].found, service->shared.told[i].count);
}

void mesh__directory_free(struct mesh__directory *dir)
{
	if (!dir)
		return;
	for (struct mesh__service *service = dir->first, *next; service; service = next) {
		next = service->next;
		free_set(service);
		free_service(service);
	}
	for (uint32_t i = 0; i < dir->source_count; i++) {
		dir->sources[i]->ops->close(dir->sources[i]);
		mesh__memory_free(dir->sources[i]);
	}
	mesh__map_fini(&dir->services);
	pthread_mutex_destroy(&dir->lock);
	mesh__memory_free(dir);
}
