/*
 * The outgoing path: what a mesh keeps for all its calls. One target per service that is called; one reach per endpoint that
 * was ever connected to; one call per call.
 *
 *   route -> resolve -> balance -> admit -> attempt -> (retry) -> record
 *
 * Each step is a file with one job and answers with a verdict; call.c drives them and is the only one to know the order.
 */
#ifndef MESH_FLOW_FLOW_H
#define MESH_FLOW_FLOW_H

#include "base/map.h"
#include "config/config.h"
#include "discovery/directory.h"
#include "identity/identity.h"
#include "stats/outcome.h"
#include "wire/channel.h"
#include "wire/secure.h"

struct mesh_call;
struct mesh__target;

/* What one loop keeps of one target. on_loop, but for `wake`. */
struct mesh__target_loop {
	struct mesh__target *target;
	struct mesh__list waiting_name; /* calls that wait for the name to resolve */
	uint32_t pending;               /* calls that wait for a name or a connection */
	uint32_t in_flight;
	struct mesh__task wake;
	atomic_bool wake_posted;
};

/* One service, as a client of it sees it. Made by the first mesh_client of that name, lives as long as the flow. */
struct mesh__target {
	struct mesh__flow *flow;
	const char *name;
	struct mesh__service *service;
	const mesh__set_slot *set; /* its endpoints */
	const struct mesh__service_config *cfg;
	struct mesh__service_watch watch; /* on the control loop */
	struct mesh__task watch_task;
	mesh__cell *calls, *in_flight, *picks;
	struct mesh__histogram *latency;
	struct mesh__outcome_cells ended, refused, retries, reports;
	struct mesh__secure_options secure; /* identity NULL: plain text */
	struct mesh__target *next;
	struct mesh__target_loop loops[]; /* by loop index */
};

/* What hangs off a connected endpoint: its counters and a channel per loop. */
struct mesh__reach {
	struct mesh__flow *flow;
	struct mesh__endpoint *ep;
	const char *service; /* the target's */
	char name[MESH__ADDRESS_TEXT_MAX];
	mesh__cell *attempts, *in_flight, *sent_bytes, *received_bytes, *conns, *opened, *connect_failures;
	struct mesh__histogram *latency;
	struct mesh__outcome_cells ended;
	struct mesh__reach_loop {
		struct mesh__channel channel;
		struct mesh__list node; /* in flow_loop.reaches */
		struct mesh__reach *reach;
		bool is_open;
	} loops[];
};

struct mesh__flow_loop {
	struct mesh__flow *flow;
	struct mesh__loop *lp;
	struct mesh__list calls;   /* every call of this loop that has not ended */
	struct mesh__list reaches; /* with an open channel */
	struct mesh__list waiting_identity; /* calls: see resolve.c */
	struct mesh__timer sweep;
	struct mesh__task start, stop;
	bool is_closing;
};

struct mesh__flow {
	const struct mesh__config *config;
	struct mesh__stats *stats;
	struct mesh__directory *directory;
	const struct mesh__log *log;
	struct mesh__identity *identity;
	struct mesh__workers *workers;
	struct mesh__loop *const *lps;
	uint32_t loop_count;
	struct mesh__conn_limits conn_limits;
	uint64_t header_bytes_max;
	struct {
		pthread_mutex_t lock;
		struct mesh__map targets;
		struct mesh__target *first;
	} shared;
	atomic_uint next_loop;
	atomic_bool is_closing; /* no new calls */
	_Atomic int64_t *live_calls; /* the mesh's: counted by who starts one, counted down here */
	struct mesh__flow_loop loops[];
};

struct mesh__flow_options {
	const struct mesh__config *config;
	struct mesh__stats *stats;
	const struct mesh__log *log;
	struct mesh__loop *const *lps;
	uint32_t loop_count;
	_Atomic int64_t *live_calls;
	struct mesh__identity *identity;
	struct mesh__workers *workers; /* for handshakes; NULL: connections are plain text */
};

int mesh__flow_new(const struct mesh__flow_options *opts, struct mesh__flow **out);
/* The directory needs to tell us of dying endpoints, and we need the directory: it is set right after it was opened. */
void mesh__flow_start(struct mesh__flow *flow, struct mesh__directory *directory);
void mesh__flow_stop_loop(struct mesh__flow *flow, uint32_t loop_index); /* on that loop: ends its calls and channels */
void mesh__flow_identity_came(struct mesh__flow *flow, struct mesh__loop *lp); /* on that loop: our first is here, calls may go */
void mesh__flow_free(struct mesh__flow *flow);                          /* after all loops have stopped */
void mesh__flow_endpoint_freed(struct mesh__endpoint *ep, void *flow);

/* thread any */
int mesh__flow_target(struct mesh__flow *flow, const char *service, struct mesh__target **out, struct mesh_error *err);

/*
 * Picks an endpoint and counts it as in flight; mesh__endpoint_done() must follow. NULL: there is none.
 * thread any, without a lock; `random` is the thread's own.
 */
struct mesh__endpoint *mesh__balance_pick(struct mesh__target *target, struct mesh__random *random, uint32_t shard,
					  struct mesh__endpoint *const *tried, uint32_t tried_count);

/* on_loop: what it takes to reach the endpoint from this loop; NULL: out of memory. */
struct mesh__reach_loop *mesh__flow_reach(struct mesh__target *target, struct mesh__endpoint *ep, struct mesh__loop *lp);

#endif
