/*
 * The counters of the shop's processes, put together: who called whom (edges), and what each process served (replicas).
 *
 * A process is followed from when it is first seen to the end, since its counters stay readable here after it has left or died.
 */
#ifndef SHOP_READINGS_H
#define SHOP_READINGS_H

#include <mesh/stats.h>

#include <stddef.h>

enum { PROCESSES_MAX = 64, EDGES_MAX = 32, NAME_BYTES = 32 };

/* Totals since the beginning, and what was new since readings_turn(). */
struct flow {
	uint64_t ended, failed;
	uint64_t new_ended, new_failed;
	mesh_stats_histogram *latency, *new_latency;
};

struct edge {
	char from[NAME_BYTES], to[NAME_BYTES];
	struct flow calls;
};

struct replica {
	char service[NAME_BYTES];
	int64_t pid;
	int32_t state; /* enum mesh_stats_state */
	const char *mark; /* what the demo has done to it; NULL: nothing */
	struct flow requests;
	uint64_t connections, handshakes; /* that it opened as a client: those that became ready, and those with TLS */
	char id[128]; /* the SPIFFE ID that it shows; "": none, or plain text */
	mesh_stats_view *now, *before; /* two copies of the same counters */
	char path[256];
};

struct readings {
	const char *dir; /* NULL: as the environment has it */
	uint64_t now_ns, turned_ns;
	struct replica replicas[PROCESSES_MAX];
	struct edge edges[EDGES_MAX];
	size_t replica_count, edge_count;
};

/* Looks for new processes and reads all counters again. */
void readings_read(struct readings *readings);

/* What is new counts from the last reading on. */
void readings_turn(struct readings *readings);

/* Calls that failed on all edges, of which `inside` are those between services of the shop. */
uint64_t readings_failed(const struct readings *readings, const char *visitors, uint64_t *inside);

double readings_seconds(const struct readings *readings); /* since readings_turn() */
void readings_fini(struct readings *readings);

#endif
