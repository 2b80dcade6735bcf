/*
 * mesh stat: who calls whom, how often, how fast and with what success, read from the shared memory of all processes of this
 * user, living and dead. They do not notice.
 */
#include "command.h"
#include "counters.h"
#include "identity.h"
#include "output.h"
#include "session.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct stat_args {
	const char *dir;
	uint64_t watch_ns, interval_ns;
	bool is_json, with_dead, is_short, is_wide;
};

#define AT(field) offsetof(struct stat_args, field)

static const struct arg args[] = {
	{ "json", 0, ARG_FLAG, AT(is_json), NULL, "print as JSON: a list of rows", 0, 0 },
	{ "interval", 'i', ARG_DURATION, AT(interval_ns), "SECS", "measure for that time, instead of since the start", 0.01, 86400 },
	{ "watch", 'w', ARG_DURATION, AT(watch_ns), "SECS", "print again and again, each time what was new", 0.01, 86400 },
	{ "dead", 0, ARG_FLAG, AT(with_dead), NULL, "also processes that have died, for as long as their counters stay", 0, 0 },
	{ "short", 's', ARG_FLAG, AT(is_short), NULL, "one row per service and side, without endpoints", 0, 0 },
	{ "wide", 0, ARG_FLAG, AT(is_wide), NULL, "also the reasons of failures", 0, 0 },
	{ "dir", 0, ARG_TEXT, AT(dir), "DIR", "where the counters are (default: option `stats.dir`)", 0, 0 },
	{ 0 },
};

/* One row as it is shown: the difference to an earlier reading, if there is one. */
struct shown {
	const struct counters_process *process;
	const struct counters_row *row, *old;
	uint64_t ended, ok, failed, count, max_ns;
	uint64_t p50_ns, p90_ns, p95_ns, p99_ns;
	double seconds;
};

static const char *state_name(int32_t state)
{
	switch (state) {
	case MESH_STATS_ALIVE: return "alive";
	case MESH_STATS_STUCK: return "stuck";
	case MESH_STATS_DEAD: return "dead";
	case MESH_STATS_CLOSED: return "closed";
	default: return "unknown";
	}
}

static void measure_latency(struct shown *shown, const struct counters *earlier)
{
	mesh_stats_histogram *h = NULL;

	if (shown->row->latency_series < 0 || mesh_stats_histogram_new(&h) != 0)
		return;
	mesh_stats_histogram_add(h, shown->process->view, (uint64_t)shown->row->latency_series);
	if (shown->old && shown->old->latency_series >= 0)
		mesh_stats_histogram_subtract(h, earlier->processes[shown->old->process].view, (uint64_t)shown->old->latency_series);
	shown->count = mesh_stats_histogram_count(h);
	shown->max_ns = mesh_stats_histogram_max(h);
	shown->p50_ns = mesh_stats_histogram_quantile(h, 0.5);
	shown->p90_ns = mesh_stats_histogram_quantile(h, 0.9);
	shown->p95_ns = mesh_stats_histogram_quantile(h, 0.95);
	shown->p99_ns = mesh_stats_histogram_quantile(h, 0.99);
	mesh_stats_histogram_free(h);
}

static struct shown show(const struct counters *now, const struct counters *earlier, const struct counters_row *row)
{
	struct shown shown = { .process = &now->processes[row->process], .row = row };

	shown.old = earlier ? counters_find(earlier, now, row) : NULL;
	shown.ended = row->ended - (shown.old ? shown.old->ended : 0);
	shown.ok = row->ok - (shown.old ? shown.old->ok : 0);
	shown.failed = row->failed - (shown.old ? shown.old->failed : 0);
	shown.seconds = (double)(earlier ? now->read_ns - earlier->read_ns : shown.process->info.uptime_ns) / 1e9;
	measure_latency(&shown, earlier);
	return shown;
}

static bool is_wanted(const struct stat_args *given, const struct counters *now, const struct counters_row *row, char **names)
{
	if (given->is_short && *row->endpoint)
		return false;
	if (!*names)
		return true;
	for (; *names; names++) {
		if (strcmp(*names, row->service) == 0 || strcmp(*names, now->processes[row->process].info.service) == 0)
			return true;
	}
	return false;
}

/* By process, then the server's side, then by service, the whole before its endpoints. */
static const struct counters *sorted_counters;

static int compare_rows(const void *a, const void *b)
{
	const struct counters_row *x = &sorted_counters->rows[*(const size_t *)a], *y = &sorted_counters->rows[*(const size_t *)b];
	const struct counters_process *p = &sorted_counters->processes[x->process], *q = &sorted_counters->processes[y->process];
	int order = strcmp(p->info.service, q->info.service);

	if (order == 0)
		order = (p->info.pid > q->info.pid) - (p->info.pid < q->info.pid);
	if (order == 0)
		order = (int)x->is_client - (int)y->is_client;
	if (order == 0)
		order = strcmp(x->service, y->service);
	return order ? order : strcmp(x->endpoint, y->endpoint);
}

static size_t *sort_rows(const struct counters *now)
{
	size_t *order = calloc(now->row_count + 1, sizeof(*order));

	if (!order)
		return NULL;
	for (size_t i = 0; i < now->row_count; i++)
		order[i] = i;
	sorted_counters = now;
	qsort(order, now->row_count, sizeof(*order), compare_rows);
	return order;
}

/* ---- for people ---- */

static void add_cells(struct table *table, const struct shown *shown, bool is_wide)
{
	const struct counters_row *row = shown->row;
	char text[HUMAN_BYTES], reasons[512] = "";
	int32_t state = shown->process->info.state;

	table_addf(table, state == MESH_STATS_ALIVE ? PLAIN : RED, "%s.%lld%s%s", shown->process->info.service, (long long)shown->process->info.pid,
		   state == MESH_STATS_ALIVE ? "" : " ", state == MESH_STATS_ALIVE ? "" : state_name(state));
	table_add(table, PLAIN, row->is_client ? "out" : "in");
	table_add(table, BOLD, row->service);
	table_add(table, PLAIN, *row->endpoint ? row->endpoint : row->is_client ? "(all)" : "-");
	table_add(table, PLAIN, human_count(text, shown->ended));
	table_add(table, shown->failed ? RED : PLAIN, human_share(text, shown->ok, shown->ended));
	table_add(table, PLAIN, human_rate(text, shown->seconds > 0 ? (double)shown->ended / shown->seconds : 0));
	table_add(table, PLAIN, shown->count ? human_duration(text, shown->p50_ns) : "-");
	table_add(table, PLAIN, shown->count ? human_duration(text, shown->p95_ns) : "-");
	table_add(table, PLAIN, shown->count ? human_duration(text, shown->p99_ns) : "-");
	table_addf(table, PLAIN, "%lld", (long long)row->in_flight);
	for (size_t i = 0; is_wide && i < row->reason_count; i++) {
		const struct counters_reason *old = shown->old ? counters_reason(shown->old, row->reasons[i].name) : NULL;
		uint64_t count = row->reasons[i].count - (old ? old->count : 0);
		size_t used = strlen(reasons);
		if (count > 0 && counters_is_failure(row->reasons[i].name))
			snprintf(reasons + used, sizeof(reasons) - used, "%s%s %llu", used ? ", " : "", row->reasons[i].name, (unsigned long long)count);
	}
	if (is_wide)
		table_add(table, RED, reasons);
}

static void tell_plaintext(const struct counters *now)
{
	size_t count = 0;

	for (size_t i = 0; i < now->process_count; i++) {
		struct identity identity;
		if (now->processes[i].info.state == MESH_STATS_DEAD)
			continue;
		identity_read(&now->processes[i], &identity);
		count += identity.info.state == MESH_STATS_IDENTITY_OFF;
	}
	if (count > 0)
		paint(stdout, RED, "%zu process%s PLAIN TEXT: `mesh id` shows which.\n", count, count == 1 ? " speaks" : "es speak");
}

static void print_table(const struct stat_args *given, const struct counters *now, const struct counters *earlier, char **names, const size_t *order)
{
	static const struct table_column columns[] = { { "PROCESS", false, 0 }, { "SIDE", false, 0 },	 { "SERVICE", false, 0 },
						       { "ENDPOINT", false, 0 }, { "REQUESTS", true, 2 }, { "SUCCESS", true, 0 },
						       { "RPS", true, 0 },	 { "P50", true, 4 },	  { "P95", true, 3 },
						       { "P99", true, 0 },	 { "IN_FLIGHT", true, 1 }, { "FAILED BECAUSE", false, 0 } };
	struct table *table = table_new(columns, given->is_wide ? 12 : 11);

	if (!table)
		return;
	for (size_t i = 0; i < now->row_count; i++) {
		const struct counters_row *row = &now->rows[order[i]];
		if (!is_wanted(given, now, row, names))
			continue;
		struct shown shown = show(now, earlier, row);
		add_cells(table, &shown, given->is_wide);
	}
	if (table_rows(table) > 0)
		table_print(table, stdout);
	else if (now->process_count > 0)
		printf("%zu process%s on this host, and no calls%s yet.\n", now->process_count, now->process_count == 1 ? "" : "es",
		       *names ? " of that name" : "");
	table_free(table);
	tell_plaintext(now);
}

/* ---- for programs ---- */

static json_t *latency_json(const struct shown *shown)
{
	json_t *latency = json_object();

	json_object_set_new(latency, "count", json_integer((json_int_t)shown->count));
	json_object_set_new(latency, "p50", json_real((double)shown->p50_ns / 1e3));
	json_object_set_new(latency, "p90", json_real((double)shown->p90_ns / 1e3));
	json_object_set_new(latency, "p95", json_real((double)shown->p95_ns / 1e3));
	json_object_set_new(latency, "p99", json_real((double)shown->p99_ns / 1e3));
	json_object_set_new(latency, "max", json_real((double)shown->max_ns / 1e3));
	return latency;
}

static json_t *reasons_json(const struct shown *shown)
{
	json_t *reasons = json_object();

	for (size_t i = 0; i < shown->row->reason_count; i++) {
		const struct counters_reason *reason = &shown->row->reasons[i];
		const struct counters_reason *old = shown->old ? counters_reason(shown->old, reason->name) : NULL;
		uint64_t count = reason->count - (old ? old->count : 0);
		if (count > 0)
			json_object_setn_new(reasons, reason->name, strlen(reason->name), json_integer((json_int_t)count));
	}
	return reasons;
}

static json_t *row_json(const struct shown *shown)
{
	const struct mesh_stats_process *info = &shown->process->info;
	json_t *row = json_object();
	char name[512];

	snprintf(name, sizeof(name), "%s.%lld", info->service, (long long)info->pid);
	json_object_set_new(row, "process", json_text(name, strlen(name)));
	json_object_set_new(row, "process_service", json_text(info->service, strlen(info->service)));
	json_object_set_new(row, "pid", json_integer(info->pid));
	json_object_set_new(row, "state", json_string(state_name(info->state)));
	json_object_set_new(row, "service", json_text(shown->row->service, strlen(shown->row->service)));
	json_object_set_new(row, "side", json_string(shown->row->is_client ? "client" : "server"));
	json_object_set_new(row, "endpoint", json_text(shown->row->endpoint, strlen(shown->row->endpoint)));
	json_object_set_new(row, "seconds", json_real(shown->seconds));
	json_object_set_new(row, "requests", json_integer((json_int_t)shown->ended));
	json_object_set_new(row, "ok", json_integer((json_int_t)shown->ok));
	json_object_set_new(row, "failed", json_integer((json_int_t)shown->failed));
	json_object_set_new(row, "in_flight", json_integer(shown->row->in_flight));
	json_object_set_new(row, "rps", json_real(shown->seconds > 0 ? (double)shown->ended / shown->seconds : 0));
	json_object_set_new(row, "latency_us", latency_json(shown));
	json_object_set_new(row, "reasons", reasons_json(shown));
	return row;
}

static int print_rows_json(const struct stat_args *given, const struct counters *now, const struct counters *earlier, char **names, const size_t *order)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < now->row_count; i++) {
		const struct counters_row *row = &now->rows[order[i]];
		if (!is_wanted(given, now, row, names))
			continue;
		struct shown shown = show(now, earlier, row);
		json_array_append_new(rows, row_json(&shown));
	}
	return print_json(rows);
}

/* ---- reading ---- */

static bool is_known(const struct counters *now, const char *name)
{
	for (size_t i = 0; i < now->row_count; i++) {
		if (strcmp(now->rows[i].service, name) == 0)
			return true;
	}
	for (size_t i = 0; i < now->process_count; i++) {
		if (strcmp(now->processes[i].info.service, name) == 0)
			return true;
	}
	return false;
}

/* True if each name is one that a process here has, serves or calls. */
static bool complain_about_names(const struct counters *now, char **names)
{
	bool are_known = true;

	for (; *names; names++) {
		if (is_known(now, *names))
			continue;
		const char *nearest = counters_nearest(now, *names);
		complain("no process here serves or calls %s%s%s%s", *names, nearest ? ": did you mean " : "", nearest ? nearest : "", nearest ? "?" : "");
		are_known = false;
	}
	return are_known;
}

static int print_once(const struct stat_args *given, const struct counters *now, const struct counters *earlier, char **names)
{
	size_t *order = sort_rows(now);
	int status = EXIT_DONE;

	if (!order) {
		complain("out of memory");
		return EXIT_FAILED;
	}
	if (given->is_json)
		status = print_rows_json(given, now, earlier, names, order);
	else
		print_table(given, now, earlier, names, order);
	free(order);
	if (now->process_count > 0)
		status = complain_about_names(now, names) ? status : EXIT_UNREACHABLE;
	if (now->unreadable_count > 0)
		complain("%zu file%s of counters cannot be read: %s", now->unreadable_count, now->unreadable_count == 1 ? "" : "s", now->problem);
	if (!given->is_json && now->dead_count > 0)
		printf("%s%zu process%s died lately: --dead shows %s.\n", now->process_count ? "\n" : "", now->dead_count,
		       now->dead_count == 1 ? "" : "es", now->dead_count == 1 ? "it" : "them");
	if (now->process_count > 0)
		return status;
	if (now->unreadable_count + now->dead_count == 0 || given->is_json)
		complain("no process of this user publishes counters here: start one with `mesh serve hello`");
	return EXIT_UNREACHABLE;
}

static bool is_stopped(uint64_t wait_ns)
{
	int signal_number = signals_wait(wait_ns);

	return signal_number == SIGINT || signal_number == SIGTERM;
}

static int run_parsed(const struct stat_args *given, char **names)
{
	uint64_t interval_ns = given->watch_ns ? given->watch_ns : given->interval_ns;
	struct counters *now = NULL, *earlier = NULL;
	struct mesh_error err = MESH_ERROR_INIT;
	char dir[1024];
	int status = session_stats_dir(given->dir, dir, sizeof(dir));

	if (status != EXIT_DONE)
		return status;
	if (interval_ns)
		signals_catch();
	do {
		now = counters_read(*dir ? dir : NULL, given->with_dead, &err);
		if (!now) {
			complain_error(&err);
			status = EXIT_UNREACHABLE;
			break;
		}
		if (!interval_ns || earlier) {
			if (given->watch_ns && !given->is_json && isatty(STDOUT_FILENO))
				printf("\033[H\033[2J"); /* home, clear */
			status = print_once(given, now, earlier, names);
			fflush(stdout);
		}
		bool is_last = !interval_ns || (earlier && !given->watch_ns);
		counters_free(earlier);
		earlier = now;
		if (is_last)
			break;
	} while (!is_stopped(interval_ns));
	counters_free(earlier);
	return status;
}

static int run(const struct command *cmd, int argc, char **argv)
{
	struct stat_args given = { 0 };
	int first;
	enum args_result result = args_parse(cmd, argc, argv, &given, &first);

	if (result != ARGS_GO)
		return result == ARGS_DONE ? EXIT_DONE : EXIT_USAGE;
	if (given.watch_ns && given.interval_ns) {
		complain("--watch and --interval both say how long to measure: give one of them");
		return EXIT_USAGE;
	}
	return run_parsed(&given, argv + first);
}

const struct command command_stat = {
	"stat", "[NAME...]", "success, rate and latencies of all processes on this host",
	"  mesh stat                        since each process began\n"
	"  mesh stat users -i 2             of users and of who calls it, over two seconds\n"
	"  mesh stat -w 1                   again every second\n"
	"  mesh stat --dead --wide          also those that were killed, and why calls failed\n"
	"  mesh stat --json | jq '.[] | select(.failed > 0)'\n\n"
	"`in` is what a process serves, `out` what it calls: (all) is the call as its caller saw it, the rows below are the\n"
	"attempts on each endpoint. SUCCESS counts what was not the service's fault: HTTP below 500, gRPC NOT_FOUND and the like.\n"
	"Everything is read from shared memory; the processes do not notice. Exit status 3 if there is none,\n"
	"or none that has, serves or calls NAME.\n",
	args, run, false
};
