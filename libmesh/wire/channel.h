/*
 * A channel: the connections from one loop to one endpoint, made when somebody needs them.
 *
 * An attempt asks for a connection with room for a stream; if there is none, it waits in line while one is made. When a
 * connection cannot be made, everybody in line is told why, and for a while (backoff) newcomers are told at once. When it is over the
 * channel tries again by itself: nobody picks an endpoint that is said to be unreachable, so nobody else would find out.
 * All on_loop.
 */
#ifndef MESH_WIRE_CHANNEL_H
#define MESH_WIRE_CHANNEL_H

#include "wire/h2.h"
#include "wire/peer.h"

enum { MESH__CHANNEL_CONNS_MAX = 16 };

struct mesh__channel;

/* Somebody in line; owned by the attempt. Exactly one of the two is called, later, unless it leaves the line. */
struct mesh__channel_wait {
	struct mesh__list node;
	void (*ready)(struct mesh__channel_wait *wait, struct mesh__conn *conn); /* opens its stream right there */
	void (*failed)(struct mesh__channel_wait *wait, int32_t code, const char *why);
};

struct mesh__channel_options {
	struct mesh__loop *lp;
	struct mesh__address address;
	struct mesh__conn_limits limits;
	const struct mesh__secure_options *secure; /* NULL: plain text */
	struct mesh__discovered_id *discovered;    /* whom discovery says that the endpoint is; a reference is taken; NULL: nothing */
	uint32_t conns_max;
	/* Counters; none may be NULL. */
	mesh__cell *conns, *opened, *connect_failures, *sent_bytes, *received_bytes;
	void (*on_closed)(struct mesh__channel *channel, const char *reason); /* one connection that had been open ended */
	void (*on_reachable)(struct mesh__channel *channel, bool is_reachable); /* when that changes */
	void *owner;
};

struct mesh__channel {
	struct mesh__channel_options opts;
	struct mesh__list waiting;
	struct mesh__channel_conn *conns[MESH__CHANNEL_CONNS_MAX]; /* open or connecting, usable */
	uint32_t conn_count, connecting, leaving; /* leaving: draining, not in conns */
	uint32_t failures;       /* in a row */
	uint64_t backoff_ns, retry_ns, last_failure_ns;
	int32_t last_code;
	char last_failure[384];
	struct mesh__list leaving_conns;
	struct mesh__timer again; /* tries to connect when the backoff is over */
	bool is_closing, is_draining;
};

void mesh__channel_init(struct mesh__channel *channel, const struct mesh__channel_options *opts);

/*
 * Discovery says something else of the endpoint (NULL: nothing any more): handshakes that begin now expect that, and connections
 * whose peer is somebody else take no new streams. A reference is taken.
 */
void mesh__channel_expect(struct mesh__channel *channel, struct mesh__discovered_id *discovered);

/* Gives back what it holds; its last connection has gone. */
void mesh__channel_fini(struct mesh__channel *channel);

/* Ends all connections now; those in line are told. For the loop's end, outside of connections' callbacks. */
void mesh__channel_abort(struct mesh__channel *channel);

/* The connection with most room, or NULL: then wait. */
struct mesh__conn *mesh__channel_take(struct mesh__channel *channel);
struct mesh__peer *mesh__channel_peer(struct mesh__conn *conn); /* of one that was open; borrowed; NULL: plain text */
void mesh__channel_wait(struct mesh__channel *channel, struct mesh__channel_wait *wait);
void mesh__channel_leave(struct mesh__channel_wait *wait); /* not in line: nothing happens */

/* Drains all connections; for an endpoint that left the set. */
void mesh__channel_drain(struct mesh__channel *channel);
bool mesh__channel_is_empty(const struct mesh__channel *channel); /* no connection of any kind, nobody in line */

#endif
