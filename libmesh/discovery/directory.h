/*
 * Names and endpoints: who offers a service, kept as immutable snapshots that every thread may read without a lock.
 *
 * Sources (one file each: source_local.c, source_static.c, source_file.c) live on the control loop, the mesh's first, and
 * deliver whole sets; the directory compares them with what it has (an endpoint that stays keeps its history), publishes a new
 * snapshot by RCU, and tells those who watch. A source that fails never empties a set: the last known good stays.
 *
 * An endpoint is alive while it is in a set, while a call is in flight on it (the count is the reference: see below), and while
 * somebody holds a long reference (a connection pool).
 */
#ifndef MESH_DISCOVERY_DIRECTORY_H
#define MESH_DISCOVERY_DIRECTORY_H

#include "base/address.h"
#include "base/list.h"
#include "base/shard.h"
#include "loop/loop.h"
#include "mesh/error.h"

struct mesh__config;
struct mesh__stats;
struct mesh__directory;
struct mesh__service;
struct mesh__announcement;
struct mesh__discovered_id;

/* At most 64 bytes (scoreboard S19); what is only needed once it is connected hangs off `connected`. */
struct mesh__endpoint {
	_Atomic int32_t in_flight[MESH__SHARD_COUNT]; /* by thread; only the sum means something */
	struct mesh__address address;
	_Atomic uint16_t weight; /* may change while picks read it */
	atomic_bool is_removed;
	atomic_bool is_unreachable; /* the last try to connect failed: picked only if nothing better is there */
	uint8_t source;        /* index of the directory's source */
	_Atomic(void *) connected; /* flow's: pools per loop and counters, made on first use */
};

enum mesh__service_state {
	MESH__SERVICE_RESOLVING, /* no source has answered yet */
	MESH__SERVICE_READY,     /* at least one endpoint */
	MESH__SERVICE_EMPTY,     /* a source knows the name, and it has no endpoint */
	MESH__SERVICE_UNKNOWN,   /* all sources have answered, and none knows the name */
};

struct mesh__directory_options {
	const struct mesh__config *config;
	struct mesh__stats *stats;
	const struct mesh__log *log;
	struct mesh__loop *control; /* sources live here */
	void (*on_endpoint_free)(struct mesh__endpoint *ep, void *user); /* on the control loop, before an endpoint is freed */
	void *user;
};

/* Whether the text can be option `discovery`. thread any. Errors: MESH_E_OPTION (names what is wrong in it), MESH_E_NOMEM. */
int mesh__directory_check(const char *list, struct mesh_error *err);

/* thread: the opener's; sources start on the control loop. Errors: MESH_E_OPTION (names what is wrong in `discovery`), NOMEM, ... */
int mesh__directory_open(const struct mesh__directory_options *opts, struct mesh__directory **out, struct mesh_error *err);
void mesh__directory_stop(struct mesh__directory *dir);  /* on the control loop: sources end, watchers are forgotten */
void mesh__directory_free(struct mesh__directory *dir);  /* after all loops have stopped */

/* thread any (takes a lock; not on the call path). The service lives as long as the directory; asking again gives the same one. */
int mesh__directory_service(struct mesh__directory *dir, const char *name, struct mesh__service **out, struct mesh_error *err);

const char *mesh__service_name(const struct mesh__service *service);
enum mesh__service_state mesh__service_state(const struct mesh__service *service); /* thread any, no lock */

/*
 * Why it is in this state, as a sentence about sources ("local: no server of `users` on this machine; static: not listed"). thread
 * any. Returns MESH_E_NO_DESCRIPTORS or MESH_E_NOMEM if a source lacks those, else 0.
 */
int32_t mesh__service_explain(struct mesh__service *service, char *text, size_t capacity);

/* Where the service's snapshot stands; read it with discovery/set.h. thread any; lives as long as the service. */
struct mesh__set;
typedef _Atomic(struct mesh__set *) mesh__set_slot;
const mesh__set_slot *mesh__service_set(const struct mesh__service *service);

/* One more, one less in flight. What is in flight keeps the endpoint alive; begin inside a read section. thread any. */
static inline void mesh__endpoint_begin(struct mesh__endpoint *ep, uint32_t shard)
{
	mesh__shard_add_i32(&ep->in_flight[shard], shard, 1);
}
static inline void mesh__endpoint_done(struct mesh__endpoint *ep, uint32_t shard)
{
	/* With it the endpoint may be freed: what was read of it was read before. */
	atomic_thread_fence(memory_order_release);
	mesh__shard_add_i32(&ep->in_flight[shard], shard, -1);
}
/* The sum over the first `shards` shards: mesh__shard_used of them have ever been written. */
static inline int32_t mesh__endpoint_load(const struct mesh__endpoint *ep, uint32_t shards)
{
	int32_t sum = 0;

	for (uint32_t i = 0; i < shards; i++)
		sum += atomic_load_explicit(&ep->in_flight[i], memory_order_relaxed);
	return sum;
}
int32_t mesh__endpoint_in_flight(const struct mesh__endpoint *ep);

/* Who answers there, as the source says, one reference; NULL: it says nothing, which is the rule. thread any, without a lock */
struct mesh__discovered_id *mesh__endpoint_discovered_id(const struct mesh__endpoint *ep);

/* A long reference, for pools. thread any. */
void mesh__endpoint_ref(struct mesh__endpoint *ep);
void mesh__endpoint_unref(struct mesh__endpoint *ep);

/* Told, on the control loop, whenever state or set of the service changes. The watch belongs to the caller; it may remove itself. */
struct mesh__service_watch {
	struct mesh__list node;
	void (*changed)(struct mesh__service_watch *watch, struct mesh__service *service);
};
void mesh__service_watch_add(struct mesh__service *service, struct mesh__service_watch *watch); /* on the control loop */
void mesh__service_watch_remove(struct mesh__service_watch *watch);

/*
 * Lists the endpoints, also those that left the set and still have calls. thread any; `fn` runs in it, under no lock.
 * Returns their number, or MESH_E_NOMEM.
 */
struct mesh__endpoint_view {
	const struct mesh__endpoint *ep;
	const char *source;
	uint64_t first_seen_ns, last_seen_ns;
	bool is_draining;
};
int mesh__service_list(struct mesh__service *service, void (*fn)(const struct mesh__endpoint_view *view, void *user), void *user);

/*
 * Offers `service` at `address` to others, through every source that can (local:). thread any but the loop's... see each source.
 * withdraw takes it out at once and frees the announcement. Errors: MESH_E_SYSTEM, MESH_E_NOT_PRIVATE, MESH_E_NO_DESCRIPTORS, NOMEM.
 */
int mesh__directory_announce(struct mesh__directory *dir, const char *service, const struct mesh__address *address,
			     struct mesh__announcement **out, struct mesh_error *err);
void mesh__announcement_withdraw(struct mesh__announcement *announcement);

#endif
