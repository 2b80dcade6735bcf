/*
 * The counters of all processes of this user, as rows: one for each (process, side, service, endpoint). The client side has a
 * row for the service as a whole, with an empty endpoint, and one for each endpoint; the server side has one for the service.
 */
#ifndef MESH_CLI_COUNTERS_H
#define MESH_CLI_COUNTERS_H

#include "mesh/stats.h"

#include <stdbool.h>
#include <stddef.h>

enum { REASONS_PER_ROW = 48 };

struct counters_reason {
	char *name;
	uint64_t count;
};

struct counters_row {
	size_t process; /* index into the processes */
	bool is_client;
	char *service, *endpoint;
	uint64_t ended, ok, failed;
	int64_t in_flight;
	struct counters_reason reasons[REASONS_PER_ROW];
	size_t reason_count;
	int64_t latency_series; /* -1: none */
};

struct counters_process {
	mesh_stats_view *view;
	struct mesh_stats_process info; /* strings are the view's */
};

struct counters {
	uint64_t read_ns;
	struct counters_process *processes;
	size_t process_count, dead_count, unreadable_count; /* dead: how many were left out */
	struct counters_row *rows;
	size_t row_count, row_capacity;
	char problem[512]; /* of one that could not be read */
};

/* Reads everything there is in `dir`; NULL takes the one of the environment, else the library's own choice. NULL: the reason is in err. */
struct counters *counters_read(const char *dir, bool with_dead, struct mesh_error *err);
void counters_free(struct counters *counters);

/* The service that processes here serve and whose name is nearest to one that nobody serves; NULL if none is near. */
const char *counters_nearest(const struct counters *counters, const char *wrong);
/* Says so on standard error. */
void counters_suggest(const char *wrong);

/* The same row in an earlier reading; NULL if it was not there. */
const struct counters_row *counters_find(const struct counters *earlier, const struct counters *now, const struct counters_row *row);

const struct counters_reason *counters_reason(const struct counters_row *row, const char *name);

/* Answers and errors that are not the service's fault count as success, as Linkerd has it: HTTP below 500, gRPC's NOT_FOUND, ... */
bool counters_is_failure(const char *reason);

#endif
