#include "counters.h"

#include "args.h"
#include "output.h"
#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Which series make up a row, on either side. */
enum part { PART_ENDED, PART_IN_FLIGHT, PART_LATENCY };

struct metric {
	const char *name;
	bool is_client, has_endpoint;
	enum part part;
};

static const struct metric metrics[] = {
	{ "mesh_calls_ended_total", true, false, PART_ENDED },
	{ "mesh_calls_in_flight", true, false, PART_IN_FLIGHT },
	{ "mesh_call_latency_ns", true, false, PART_LATENCY },
	{ "mesh_attempts_ended_total", true, true, PART_ENDED },
	{ "mesh_endpoint_in_flight", true, true, PART_IN_FLIGHT },
	{ "mesh_attempt_latency_ns", true, true, PART_LATENCY },
	{ "mesh_pick_reports_total", true, false, PART_ENDED },
	{ "mesh_requests_ended_total", false, false, PART_ENDED },
	{ "mesh_requests_in_flight", false, false, PART_IN_FLIGHT },
	{ "mesh_request_latency_ns", false, false, PART_LATENCY },
};

bool counters_is_failure(const char *reason)
{
	static const char *const fine[] = { "ok", "http_4xx", "CANCELLED", "status:CANCELLED", "status:INVALID_ARGUMENT", "status:NOT_FOUND",
					    "status:ALREADY_EXISTS", "status:PERMISSION_DENIED", "status:FAILED_PRECONDITION",
					    "status:ABORTED", "status:OUT_OF_RANGE", "status:UNIMPLEMENTED", "status:UNAUTHENTICATED" };

	for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++) {
		if (strcmp(reason, fine[i]) == 0)
			return false;
	}
	return true;
}

static const struct metric *find_metric(const char *name)
{
	for (size_t i = 0; i < sizeof(metrics) / sizeof(metrics[0]); i++) {
		if (strcmp(metrics[i].name, name) == 0)
			return &metrics[i];
	}
	return NULL;
}

static const char *label(const struct mesh_stats_series *series, const char *name)
{
	for (uint32_t i = 0; i < series->label_count; i++) {
		if (strcmp(series->label_names[i], name) == 0)
			return series->label_values[i];
	}
	return "";
}

/* Rows of one process stand together, and series of one endpoint near each other: the search begins at the end. */
static struct counters_row *row_for(struct counters *counters, size_t process, bool is_client, const char *service, const char *endpoint)
{
	for (size_t i = counters->row_count; i > 0 && counters->rows[i - 1].process == process; i--) {
		struct counters_row *row = &counters->rows[i - 1];
		if (row->is_client == is_client && strcmp(row->endpoint, endpoint) == 0 && strcmp(row->service, service) == 0)
			return row;
	}
	if (counters->row_count == counters->row_capacity) {
		size_t capacity = counters->row_capacity ? 2 * counters->row_capacity : 64;
		struct counters_row *rows = realloc(counters->rows, capacity * sizeof(*rows));
		if (!rows)
			return NULL;
		counters->rows = rows;
		counters->row_capacity = capacity;
	}
	struct counters_row row = { .process = process, .is_client = is_client, .latency_series = -1 };
	row.service = strdup(service);
	row.endpoint = strdup(endpoint);
	if (!row.service || !row.endpoint) {
		free(row.service);
		free(row.endpoint);
		return NULL;
	}
	counters->rows[counters->row_count] = row;
	return &counters->rows[counters->row_count++];
}

static void add_reason(struct counters_row *row, const char *name, uint64_t count)
{
	row->ended += count;
	if (counters_is_failure(name))
		row->failed += count;
	else
		row->ok += count;
	if (count == 0 || row->reason_count == REASONS_PER_ROW)
		return;
	char *copy = strdup(name);
	if (copy)
		row->reasons[row->reason_count++] = (struct counters_reason){ copy, count };
}

const struct counters_reason *counters_reason(const struct counters_row *row, const char *name)
{
	for (size_t i = 0; i < row->reason_count; i++) {
		if (strcmp(row->reasons[i].name, name) == 0)
			return &row->reasons[i];
	}
	return NULL;
}

static void add_series(struct counters *counters, size_t process, uint64_t number)
{
	struct mesh_stats_series series = { .size = sizeof(series) };

	if (mesh_stats_series(counters->processes[process].view, number, &series) != 0)
		return;
	const struct metric *metric = find_metric(series.name);
	if (!metric)
		return;
	struct counters_row *row =
		row_for(counters, process, metric->is_client, label(&series, "service"), metric->has_endpoint ? label(&series, "endpoint") : "");
	if (!row)
		return;
	switch (metric->part) {
	case PART_ENDED: add_reason(row, label(&series, "reason"), series.value > 0 ? (uint64_t)series.value : 0); break;
	case PART_IN_FLIGHT: row->in_flight += series.value; break;
	case PART_LATENCY: row->latency_series = (int64_t)number; break;
	}
}

static void add_process(struct counters *counters, const struct mesh_stats_entry *entry, bool with_dead)
{
	struct counters_process *process = &counters->processes[counters->process_count];
	struct mesh_error err = MESH_ERROR_INIT;

	if (entry->state == MESH_STATS_DEAD && !with_dead) {
		counters->dead_count++;
		return;
	}
	if (entry->error == MESH_E_NOT_FOUND)
		return; /* ended between the listing and now */
	if (entry->error || mesh_stats_open(entry->path, &process->view, &err) != 0) {
		if (!entry->error && err.code == MESH_E_NOT_FOUND)
			return;
		counters->unreadable_count++;
		snprintf(counters->problem, sizeof(counters->problem), "%s", entry->error ? entry->message : err.message);
		return;
	}
	process->info.size = sizeof(process->info);
	mesh_stats_process(process->view, &process->info);
	size_t index = counters->process_count++;
	for (uint64_t i = 0, count = mesh_stats_count(process->view); i < count; i++)
		add_series(counters, index, i);
}

struct counters *counters_read(const char *dir, bool with_dead, struct mesh_error *err)
{
	struct counters *counters = calloc(1, sizeof(*counters));
	struct mesh_stats_entry entry = { .size = sizeof(entry) };
	mesh_stats_list *list = NULL;

	if (!counters || mesh_stats_list_new(dir, &list, err) != 0)
		goto failed;
	uint64_t count = mesh_stats_list_count(list);
	counters->processes = calloc(count + 1, sizeof(*counters->processes));
	if (!counters->processes)
		goto failed;
	counters->read_ns = now_ns();
	for (uint64_t i = 0; i < count; i++) {
		if (mesh_stats_list_get(list, i, &entry) == 0)
			add_process(counters, &entry, with_dead);
	}
	mesh_stats_list_free(list);
	return counters;

failed:
	if (err->code == 0) {
		err->code = MESH_E_NOMEM;
		snprintf(err->message, sizeof(err->message), "out of memory while reading counters");
	}
	mesh_stats_list_free(list);
	counters_free(counters);
	return NULL;
}

void counters_free(struct counters *counters)
{
	if (!counters)
		return;
	for (size_t i = 0; i < counters->row_count; i++) {
		struct counters_row *row = &counters->rows[i];
		for (size_t j = 0; j < row->reason_count; j++)
			free(row->reasons[j].name);
		free(row->service);
		free(row->endpoint);
	}
	for (size_t i = 0; i < counters->process_count; i++)
		mesh_stats_close(counters->processes[i].view);
	free(counters->rows);
	free(counters->processes);
	free(counters);
}

const char *counters_nearest(const struct counters *counters, const char *wrong)
{
	const char **names = calloc(counters->row_count + 1, sizeof(*names)), *nearest = NULL;
	size_t count = 0;

	if (!names)
		return NULL;
	for (size_t i = 0; i < counters->row_count; i++) {
		if (!counters->rows[i].is_client)
			names[count++] = counters->rows[i].service;
	}
	nearest = args_nearest(wrong, names);
	free(names);
	return nearest;
}

void counters_suggest(const char *wrong)
{
	struct mesh_error err = MESH_ERROR_INIT;
	struct counters *counters = counters_read(NULL, false, &err);
	const char *nearest = counters ? counters_nearest(counters, wrong) : NULL;

	if (nearest) {
		fprintf(stderr, "  Did you mean ");
		print_escaped(stderr, nearest, strlen(nearest), false);
		fprintf(stderr, "? It is served here.\n");
	}
	counters_free(counters);
}

const struct counters_row *counters_find(const struct counters *earlier, const struct counters *now, const struct counters_row *row)
{
	const char *path = now->processes[row->process].info.path;

	for (size_t i = 0; i < earlier->row_count; i++) {
		const struct counters_row *old = &earlier->rows[i];
		if (old->is_client == row->is_client && strcmp(old->endpoint, row->endpoint) == 0 && strcmp(old->service, row->service) == 0 &&
		    strcmp(earlier->processes[old->process].info.path, path) == 0)
			return old;
	}
	return NULL;
}
