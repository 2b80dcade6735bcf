#include "readings.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* ---- flows ---- */

static bool has_histograms(struct flow *flow)
{
	return (flow->latency || mesh_stats_histogram_new(&flow->latency) == 0) &&
	       (flow->new_latency || mesh_stats_histogram_new(&flow->new_latency) == 0);
}

static void clear_flow(struct flow *flow)
{
	flow->ended = flow->failed = flow->new_ended = flow->new_failed = 0;
	if (flow->latency)
		mesh_stats_histogram_clear(flow->latency);
	if (flow->new_latency)
		mesh_stats_histogram_clear(flow->new_latency);
}

static void free_flow(struct flow *flow)
{
	mesh_stats_histogram_free(flow->latency);
	mesh_stats_histogram_free(flow->new_latency);
}

/* Series keep their numbers; one that the earlier copy does not have began in between. */
static void add_count(struct flow *flow, const struct replica *replica, uint64_t number, const struct mesh_stats_series *series, bool is_failure)
{
	int64_t before = 0;

	if (number < mesh_stats_count(replica->before) && mesh_stats_value(replica->before, number, &before) != 0)
		before = 0;
	uint64_t count = (uint64_t)series->value, new_count = (uint64_t)(series->value - before);
	flow->ended += count;
	flow->new_ended += new_count;
	if (is_failure) {
		flow->failed += count;
		flow->new_failed += new_count;
	}
}

static void add_latency(struct flow *flow, const struct replica *replica, uint64_t number)
{
	if (!has_histograms(flow))
		return;
	mesh_stats_histogram_add(flow->latency, replica->now, number);
	mesh_stats_histogram_add(flow->new_latency, replica->now, number);
	if (number < mesh_stats_count(replica->before))
		mesh_stats_histogram_subtract(flow->new_latency, replica->before, number);
}

/* ---- series ---- */

static const char *label(const struct mesh_stats_series *series, const char *name)
{
	for (uint32_t i = 0; i < series->label_count; i++) {
		if (strcmp(series->label_names[i], name) == 0)
			return series->label_values[i];
	}
	return "";
}

static struct edge *edge_between(struct readings *readings, const char *from, const char *to)
{
	for (size_t i = 0; i < readings->edge_count; i++) {
		struct edge *edge = &readings->edges[i];
		if (strcmp(edge->from, from) == 0 && strcmp(edge->to, to) == 0)
			return edge;
	}
	if (readings->edge_count == EDGES_MAX)
		return NULL;
	struct edge *edge = &readings->edges[readings->edge_count++];
	snprintf(edge->from, sizeof(edge->from), "%s", from);
	mesh_stats_escape(edge->to, sizeof(edge->to), to);
	return edge;
}

static uint64_t value_of(const struct replica *replica, uint64_t number)
{
	int64_t value;

	return mesh_stats_value(replica->now, number, &value) == 0 ? (uint64_t)value : 0;
}

static void add_series(struct readings *readings, struct replica *replica, uint64_t number)
{
	struct mesh_stats_series series = { .size = sizeof(series) };
	struct edge *edge;

	if (mesh_stats_series(replica->now, number, &series) != 0)
		return;
	bool is_failure = strcmp(label(&series, "reason"), "ok") != 0;
	if (strcmp(series.name, "mesh_requests_ended_total") == 0) {
		add_count(&replica->requests, replica, number, &series, is_failure);
	} else if (strcmp(series.name, "mesh_request_latency_ns") == 0) {
		add_latency(&replica->requests, replica, number);
	} else if (strcmp(series.name, "mesh_connections_opened_total") == 0) {
		replica->connections += value_of(replica, number);
	} else if (strcmp(series.name, "mesh_handshakes_total") == 0 && strcmp(label(&series, "side"), "client") == 0) {
		replica->handshakes += value_of(replica, number);
	} else if (strcmp(series.name, "mesh_calls_ended_total") == 0) {
		edge = edge_between(readings, replica->service, label(&series, "service"));
		if (edge)
			add_count(&edge->calls, replica, number, &series, is_failure);
	} else if (strcmp(series.name, "mesh_call_latency_ns") == 0) {
		edge = edge_between(readings, replica->service, label(&series, "service"));
		if (edge)
			add_latency(&edge->calls, replica, number);
	}
}

/* ---- processes ---- */

static bool is_known(const struct readings *readings, const char *path)
{
	for (size_t i = 0; i < readings->replica_count; i++) {
		if (strcmp(readings->replicas[i].path, path) == 0)
			return true;
	}
	return false;
}

static void follow(struct readings *readings, const struct mesh_stats_entry *entry)
{
	if (readings->replica_count == PROCESSES_MAX || entry->error != 0 || is_known(readings, entry->path))
		return;
	struct replica *replica = &readings->replicas[readings->replica_count];
	if (mesh_stats_open(entry->path, &replica->now, NULL) != 0)
		return;
	if (mesh_stats_open(entry->path, &replica->before, NULL) != 0) {
		mesh_stats_close(replica->now);
		return;
	}
	readings->replica_count++;
	snprintf(replica->path, sizeof(replica->path), "%s", entry->path);
	mesh_stats_escape(replica->service, sizeof(replica->service), entry->service);
	replica->pid = entry->pid;
}

static void find_processes(struct readings *readings)
{
	struct mesh_stats_entry entry = { .size = sizeof(entry) };
	mesh_stats_list *list = NULL;

	if (mesh_stats_list_new(readings->dir, &list, NULL) != 0)
		return; /* the next reading tries again */
	for (uint64_t i = 0; i < mesh_stats_list_count(list); i++) {
		if (mesh_stats_list_get(list, i, &entry) == 0)
			follow(readings, &entry);
	}
	mesh_stats_list_free(list);
}

static void read_process(struct readings *readings, struct replica *replica)
{
	struct mesh_stats_process info = { .size = sizeof(info) };
	struct mesh_stats_identity identity = { .size = sizeof(identity) };

	clear_flow(&replica->requests);
	replica->connections = replica->handshakes = 0;
	mesh_stats_read(replica->now, NULL);
	if (mesh_stats_process(replica->now, &info) == 0)
		replica->state = info.state;
	if (mesh_stats_identity(replica->now, &identity) == 0)
		mesh_stats_escape(replica->id, sizeof(replica->id), identity.state == MESH_STATS_IDENTITY_OFF ? "" : identity.spiffe_id);
	for (uint64_t i = 0; i < mesh_stats_count(replica->now); i++)
		add_series(readings, replica, i);
}

void readings_read(struct readings *readings)
{
	find_processes(readings);
	for (size_t i = 0; i < readings->edge_count; i++)
		clear_flow(&readings->edges[i].calls);
	for (size_t i = 0; i < readings->replica_count; i++)
		read_process(readings, &readings->replicas[i]);
	readings->now_ns = now_ns();
}

void readings_turn(struct readings *readings)
{
	for (size_t i = 0; i < readings->replica_count; i++) {
		struct replica *replica = &readings->replicas[i];
		mesh_stats_view *view = replica->before;
		replica->before = replica->now;
		replica->now = view;
	}
	readings->turned_ns = readings->now_ns;
}

double readings_seconds(const struct readings *readings)
{
	return (double)(readings->now_ns - readings->turned_ns) / 1e9;
}

uint64_t readings_failed(const struct readings *readings, const char *visitors, uint64_t *inside)
{
	uint64_t failed = 0;

	*inside = 0;
	for (size_t i = 0; i < readings->edge_count; i++) {
		const struct edge *edge = &readings->edges[i];
		failed += edge->calls.failed;
		if (strcmp(edge->from, visitors) != 0)
			*inside += edge->calls.failed;
	}
	return failed;
}

void readings_fini(struct readings *readings)
{
	for (size_t i = 0; i < readings->edge_count; i++)
		free_flow(&readings->edges[i].calls);
	for (size_t i = 0; i < readings->replica_count; i++) {
		struct replica *replica = &readings->replicas[i];
		free_flow(&replica->requests);
		mesh_stats_close(replica->now);
		mesh_stats_close(replica->before);
	}
}
