/*
 * The demo's screen and its judge: reads the shop's counters from shared memory, hears from demo/run on standard input what is
 * done to the shop, shows both, and at the end says whether all that the demo claims is true.
 *
 *	watch DIR [SECONDS]     DIR: where demo/run keeps what the processes said
 *
 * Lines on standard input:
 *	begin PROCESSES         visitors come
 *	note TEXT               worth a line
 *	change TEXT             a planned change begins: from here to the next one no call may fail
 *	outage PID TEXT         an unplanned one begins: what fails from here on must be explained
 *	mark PID STATE          what to show as that process' state; "-": what its counters say
 *	outcome TEXT            how the last change went
 *	expect TEXT / broken TEXT  something that was checked elsewhere, and held, or did not
 *	summary                 everything has ended: judge
 *
 * Exit status: 0 all claims are true; 1 one is not; 2 wrong usage.
 */
#include "readings.h"

#include <jansson.h>

#include <errno.h>
#include <glob.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { CHANGES_MAX = 16, CHECKS_MAX = 32, REASONS_MAX = 32, TEXT_BYTES = 256, LINE_BYTES = 1024, LIVE_MS = 1000, PLAIN_MS = 5000 };

#define VISITORS "visitors"

#define PLAIN ""
#define BOLD "\033[1m"
#define FAINT "\033[2m"
#define RED "\033[31m"
#define GREEN "\033[32m"
#define YELLOW "\033[33m"

struct change {
	double at_s;
	bool is_planned;
	char text[TEXT_BYTES], outcome[TEXT_BYTES];
	uint64_t failed_before, inside_before; /* calls that had failed when it began */
};

struct check {
	bool holds;
	char text[TEXT_BYTES];
};

/* Failed calls that their callers explained in the same words. */
struct reason {
	char from[NAME_BYTES], to[NAME_BYTES], code[NAME_BYTES], message[512];
	uint64_t count;
};

static struct readings readings;
static struct change changes[CHANGES_MAX];
static struct check checks[CHECKS_MAX];
static struct reason reasons[REASONS_MAX];
static size_t change_count, check_count, reason_count;
static uint64_t explained_count;
static struct { int64_t pid; char state[NAME_BYTES]; } marks[PROCESSES_MAX];
static size_t mark_count;
static int64_t killed_pid;
static char last_note[TEXT_BYTES];

static const char *dir;
static double planned_s; /* 0: until Ctrl-C */
static uint64_t began_ns; /* 0: not yet */
static int process_count;
static bool is_live, has_colours;
static size_t width = 100;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static double run_s(void)
{
	return began_ns ? (double)(now_ns() - began_ns) / 1e9 : 0;
}

/* ---- printing ---- */

/* One line; on a terminal cut at its width, so that the lines of a screen stay where they are. */
__attribute__((format(printf, 2, 3))) static void line(const char *colour, const char *format, ...)
{
	char text[LINE_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (is_live && width < sizeof(text))
		text[width] = '\0';
	if (has_colours && *colour)
		printf("%s%s\033[0m", colour, text);
	else
		fputs(text, stdout);
	fputs(is_live ? "\033[K\n" : "\n", stdout);
}

static const char *time_text(char *text, size_t capacity, uint64_t ns)
{
	if (ns == 0)
		snprintf(text, capacity, "-");
	else if (ns < 1000000)
		snprintf(text, capacity, "%.0fus", (double)ns / 1e3);
	else if (ns < 100000000)
		snprintf(text, capacity, "%.1fms", (double)ns / 1e6);
	else if (ns < 1000000000)
		snprintf(text, capacity, "%.0fms", (double)ns / 1e6);
	else
		snprintf(text, capacity, "%.2fs", (double)ns / 1e9);
	return text;
}

static const char *quantile_text(char *text, size_t capacity, const mesh_stats_histogram *h, double quantile)
{
	return time_text(text, capacity, h ? mesh_stats_histogram_quantile(h, quantile) : 0);
}

/* Rounded down: 100% means that not one failed. */
static const char *success_text(char *text, size_t capacity, uint64_t ended, uint64_t failed)
{
	uint64_t hundredths = ended ? (ended - failed) * 10000 / ended : 0;

	if (ended == 0)
		snprintf(text, capacity, "-");
	else
		snprintf(text, capacity, "%llu.%02llu%%", (unsigned long long)hundredths / 100, (unsigned long long)hundredths % 100);
	return text;
}

static void print_edges(bool is_summary)
{
	char success[16], p50[16], p99[16];
	double seconds = is_summary ? run_s() : readings_seconds(&readings);

	line(BOLD, "%-12s    %-9s %9s %9s %9s %9s %9s %8s", "WHO CALLS", "WHOM", "CALLS", "RATE", "SUCCESS", "P50", "P99", "FAILED");
	for (size_t i = 0; i < readings.edge_count; i++) {
		const struct edge *edge = &readings.edges[i];
		const struct flow *calls = &edge->calls;
		uint64_t ended = is_summary ? calls->ended : calls->new_ended, failed = is_summary ? calls->failed : calls->new_failed;
		const mesh_stats_histogram *latency = is_summary ? calls->latency : calls->new_latency;
		line(failed ? RED : PLAIN, "%-12s -> %-9s %9llu %7.0f/s %9s %9s %9s %8llu", edge->from, edge->to, (unsigned long long)calls->ended,
		     seconds > 0 ? (double)ended / seconds : 0, success_text(success, sizeof(success), ended, failed),
		     quantile_text(p50, sizeof(p50), latency, 0.5), quantile_text(p99, sizeof(p99), latency, 0.99),
		     (unsigned long long)calls->failed);
	}
}

static const char *mark_of(int64_t pid)
{
	for (size_t i = 0; i < mark_count; i++) {
		if (marks[i].pid == pid && strcmp(marks[i].state, "-") != 0)
			return marks[i].state;
	}
	return NULL;
}

static const char *state_text(const struct replica *replica)
{
	static const char *const names[] = { "unknown", "serving", "stuck", "killed", "left" };
	const char *mark = mark_of(replica->pid);

	if (replica->state == MESH_STATS_ALIVE && mark)
		return mark;
	return replica->state >= 0 && replica->state < 5 ? names[replica->state] : "unknown";
}

static void print_replicas(void)
{
	char p50[16], p99[16], name[64];
	double seconds = readings_seconds(&readings);

	line(BOLD, "%-16s%-9s %12s %9s %9s %9s %9s", "REPLICA", "STATE", "SERVED", "RATE", "", "P50", "P99");
	for (size_t i = 0; i < readings.replica_count; i++) {
		const struct replica *replica = &readings.replicas[i];
		const struct flow *requests = &replica->requests;
		const char *state = state_text(replica);
		const char *colour = replica->state == MESH_STATS_ALIVE ? strcmp(state, "serving") == 0 ? PLAIN : YELLOW : FAINT;
		if (strcmp(replica->service, VISITORS) == 0)
			continue;
		if (replica->state == MESH_STATS_DEAD)
			colour = RED;
		snprintf(name, sizeof(name), "%s.%lld", replica->service, (long long)replica->pid);
		line(colour, "%-16s%-9s %12llu %7.0f/s %9s %9s %9s", name, state, (unsigned long long)requests->ended,
		     seconds > 0 ? (double)requests->new_ended / seconds : 0, "", quantile_text(p50, sizeof(p50), requests->new_latency, 0.5),
		     quantile_text(p99, sizeof(p99), requests->new_latency, 0.99));
	}
}

/* ---- changes ---- */

/* Calls that failed between the beginning of a change and that of the next one. */
static uint64_t failed_during(size_t i, uint64_t *inside)
{
	uint64_t inside_after, failed_after = readings_failed(&readings, VISITORS, &inside_after);

	if (i + 1 < change_count) {
		failed_after = changes[i + 1].failed_before;
		inside_after = changes[i + 1].inside_before;
	}
	if (inside)
		*inside = inside_after - changes[i].inside_before;
	return failed_after - changes[i].failed_before;
}

static void print_change(size_t i, bool is_summary)
{
	const struct change *change = &changes[i];
	uint64_t inside, failed = failed_during(i, &inside);

	line(PLAIN, "%5.1f s  %s%s%s", change->at_s, change->text, *change->outcome ? ": " : "", change->outcome);
	if (change->is_planned) {
		line(failed ? RED : GREEN, "         failed calls during it: %llu", (unsigned long long)failed);
		return;
	}
	line(failed ? YELLOW : PLAIN, "         calls lost with it: %llu, seen by %llu visitors", (unsigned long long)inside, (unsigned long long)(failed - inside));
	for (size_t j = 0; is_summary && j < reason_count; j++)
		line(PLAIN, "         %llu x %s -> %s, %s: %s", (unsigned long long)reasons[j].count, reasons[j].from, reasons[j].to, reasons[j].code, reasons[j].message);
}

static void print_changes(bool is_summary)
{
	for (size_t i = 0; i < change_count; i++)
		print_change(i, is_summary);
}

static void begin_change(const char *text, bool is_planned)
{
	if (change_count == CHANGES_MAX)
		return;
	struct change *change = &changes[change_count++];
	*change = (struct change){ .at_s = run_s(), .is_planned = is_planned };
	snprintf(change->text, sizeof(change->text), "%s", text);
	readings_read(&readings);
	change->failed_before = readings_failed(&readings, VISITORS, &change->inside_before);
	if (!is_live)
		line(PLAIN, "%5.1f s  %s", change->at_s, text);
}

static void end_change(const char *text)
{
	if (change_count == 0)
		return;
	struct change *change = &changes[change_count - 1];
	snprintf(change->outcome, sizeof(change->outcome), "%s", text);
	if (!is_live)
		line(PLAIN, "%5.1f s    %s", run_s(), text);
}

static void mark(int64_t pid, const char *state)
{
	size_t i = 0;

	while (i < mark_count && marks[i].pid != pid)
		i++;
	if (i == PROCESSES_MAX)
		return;
	if (i == mark_count)
		mark_count++;
	marks[i].pid = pid;
	snprintf(marks[i].state, sizeof(marks[i].state), "%s", state);
}

/* ---- the screen ---- */

static void draw(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		width = size.ws_col;
	fputs("\033[H", stdout);
	if (planned_s > 0)
		line(BOLD, "libmesh demo: a small shop of %d processes, no sidecar.   %.0f of %.0f s", process_count, run_s(), planned_s);
	else
		line(BOLD, "libmesh demo: a small shop of %d processes, no sidecar.   %.0f s, Ctrl-C ends it with a summary", process_count, run_s());
	line(FAINT, "All numbers come from shared memory; rates and latencies are those of the last second.");
	line(PLAIN, "%s", "");
	print_edges(false);
	line(PLAIN, "%s", "");
	print_replicas();
	line(PLAIN, "%s", "");
	line(BOLD, "WHAT HAPPENS TO IT");
	if (change_count == 0)
		line(FAINT, "%s", last_note);
	print_changes(false);
	fputs("\033[J", stdout);
	fflush(stdout);
}

static void show(void)
{
	if (!began_ns)
		return;
	readings_read(&readings);
	if (is_live) {
		draw();
	} else {
		line(FAINT, "%s", "");
		line(FAINT, "%5.1f s  the last %.0f s:", run_s(), readings_seconds(&readings));
		print_edges(false);
		line(FAINT, "%s", "");
		fflush(stdout);
	}
	readings_turn(&readings);
}

/* ---- the judge ---- */

__attribute__((format(printf, 2, 3))) static void check(bool holds, const char *format, ...)
{
	va_list args;

	if (check_count == CHECKS_MAX)
		exit(1); /* cannot be: their number does not depend on what happens */
	checks[check_count].holds = holds;
	va_start(args, format);
	vsnprintf(checks[check_count].text, sizeof(checks[0].text), format, args);
	va_end(args);
	check_count++;
}

static const char *text_of(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "";
}

static void add_reason(const json_t *said)
{
	const char *from = text_of(said, "from"), *to = text_of(said, "to"), *code = text_of(said, "code"), *message = text_of(said, "message");
	size_t i = 0;

	if (!*from || !*to || !*code || !*message)
		return; /* no explanation */
	explained_count++;
	while (i < reason_count && (strcmp(reasons[i].from, from) != 0 || strcmp(reasons[i].to, to) != 0 || strcmp(reasons[i].message, message) != 0))
		i++;
	if (i == REASONS_MAX)
		return;
	if (i == reason_count) {
		reason_count++;
		snprintf(reasons[i].from, sizeof(reasons[i].from), "%s", from);
		snprintf(reasons[i].to, sizeof(reasons[i].to), "%s", to);
		snprintf(reasons[i].code, sizeof(reasons[i].code), "%s", code);
		snprintf(reasons[i].message, sizeof(reasons[i].message), "%s", message);
	}
	reasons[i].count++;
}

/* What the services said on standard error: one JSON object a line for each failed call. */
static void read_explanations(void)
{
	char pattern[LINE_BYTES], text[4 * LINE_BYTES];
	glob_t files;

	snprintf(pattern, sizeof(pattern), "%s/*.err", dir);
	if (glob(pattern, 0, NULL, &files) != 0)
		return;
	for (size_t i = 0; i < files.gl_pathc; i++) {
		FILE *file = fopen(files.gl_pathv[i], "re");
		while (file && fgets(text, sizeof(text), file)) {
			json_t *said = json_loads(text, 0, NULL);
			if (said)
				add_reason(said);
			json_decref(said);
		}
		if (file)
			fclose(file);
	}
	globfree(&files);
}

static void check_services(void)
{
	static const char *const services[] = { "web", "users", "orders", "stock" };
	uint64_t served[4] = { 0 };
	bool holds = true;

	for (size_t i = 0; i < readings.replica_count; i++) {
		for (size_t j = 0; j < 4; j++)
			served[j] += strcmp(readings.replicas[i].service, services[j]) == 0 ? readings.replicas[i].requests.ended : 0;
	}
	for (size_t j = 0; j < 4; j++)
		holds = holds && served[j] > 0;
	check(holds, "every service was called: web %llu, users %llu, orders %llu, stock %llu times", (unsigned long long)served[0],
	      (unsigned long long)served[1], (unsigned long long)served[2], (unsigned long long)served[3]);
}

static void check_changes(void)
{
	uint64_t failed = change_count ? changes[0].failed_before : readings_failed(&readings, VISITORS, &(uint64_t){ 0 });
	size_t planned_count = 0;

	for (size_t i = 0; i < change_count; i++) {
		planned_count += changes[i].is_planned;
		failed += changes[i].is_planned ? failed_during(i, NULL) : 0;
	}
	check(failed == 0, "%zu planned changes, and before them: %llu calls failed", planned_count, (unsigned long long)failed);
}

static void check_explanations(void)
{
	uint64_t inside;

	readings_failed(&readings, VISITORS, &inside);
	check(explained_count == inside, "%llu calls between services failed, %llu of them with an explained error", (unsigned long long)inside,
	      (unsigned long long)explained_count);
}

/* The load generator counts by itself: both must agree. */
static void check_visitors(void)
{
	char path[LINE_BYTES];
	uint64_t ended = 0, failed = 0;

	snprintf(path, sizeof(path), "%s/load.json", dir);
	json_t *load = json_load_file(path, 0, NULL);
	json_int_t requests = json_integer_value(json_object_get(load, "requests")), load_failed = json_integer_value(json_object_get(load, "failed"));
	for (size_t i = 0; i < readings.edge_count; i++) {
		ended += strcmp(readings.edges[i].from, VISITORS) == 0 ? readings.edges[i].calls.ended : 0;
		failed += strcmp(readings.edges[i].from, VISITORS) == 0 ? readings.edges[i].calls.failed : 0;
	}
	check(load && requests > 0 && (uint64_t)requests == ended && (uint64_t)load_failed == failed,
	      "`mesh load` counted %lld visits, %lld failed; the counters say %llu and %llu", (long long)requests, (long long)load_failed,
	      (unsigned long long)ended, (unsigned long long)failed);
	json_decref(load);
}

static void check_killed(void)
{
	char path[LINE_BYTES];
	const char *state = "";
	json_int_t requests = 0;
	json_t *row;
	size_t i;

	if (!killed_pid)
		return;
	snprintf(path, sizeof(path), "%s/dead.json", dir);
	json_t *rows = json_load_file(path, 0, NULL);
	json_array_foreach(rows, i, row) {
		if (json_integer_value(json_object_get(row, "pid")) != killed_pid || strcmp(text_of(row, "side"), "server") != 0)
			continue;
		state = text_of(row, "state");
		requests = json_integer_value(json_object_get(row, "requests"));
	}
	check(strcmp(state, "dead") == 0 && requests > 0, "`mesh stat --dead` says of %lld: \"%s\", and can still read its %lld requests",
	      (long long)killed_pid, state, (long long)requests);
	json_decref(rows);
}

static int judge(void)
{
	int status = 0;

	readings_read(&readings);
	read_explanations();
	check_changes();
	check_services();
	check_visitors();
	check_explanations();
	check_killed();
	if (is_live)
		fputs("\033[H\033[J", stdout);
	is_live = false; /* lines may be as long as they are */
	line(PLAIN, "%s", "");
	line(BOLD, "The shop ran for %.1f s. Over all of it:", run_s());
	line(PLAIN, "%s", "");
	print_edges(true);
	line(PLAIN, "%s", "");
	line(BOLD, "WHAT HAPPENED TO IT");
	print_changes(true);
	line(PLAIN, "%s", "");
	line(BOLD, "IS IT ALL TRUE?");
	for (size_t i = 0; i < check_count; i++) {
		line(checks[i].holds ? GREEN : RED, "  %-6s %s", checks[i].holds ? "yes" : "NO", checks[i].text);
		status |= !checks[i].holds;
	}
	return status;
}

/* ---- what demo/run says ---- */

static bool obey(char *text, int *status)
{
	char *rest = strchr(text, ' ');
	char *end = text;

	if (rest)
		*rest++ = '\0';
	else
		rest = text + strlen(text);
	if (strcmp(text, "begin") == 0) {
		began_ns = now_ns();
		process_count = atoi(rest);
		readings_read(&readings);
		readings_turn(&readings);
		if (is_live)
			fputs("\033[2J", stdout);
	} else if (strcmp(text, "note") == 0) {
		snprintf(last_note, sizeof(last_note), "%s", rest);
		if (!is_live || !began_ns)
			line(PLAIN, "%s", rest);
	} else if (strcmp(text, "change") == 0) {
		begin_change(rest, true);
	} else if (strcmp(text, "outage") == 0) {
		killed_pid = strtoll(rest, &end, 10);
		begin_change(end + (*end == ' '), false);
	} else if (strcmp(text, "mark") == 0) {
		int64_t pid = strtoll(rest, &end, 10);
		mark(pid, end + (*end == ' '));
	} else if (strcmp(text, "outcome") == 0) {
		end_change(rest);
	} else if (strcmp(text, "expect") == 0 || strcmp(text, "broken") == 0) {
		check(strcmp(text, "expect") == 0, "%s", rest);
	} else if (strcmp(text, "summary") == 0) {
		*status = judge();
		return false;
	}
	fflush(stdout);
	return true;
}

/* Reads what there is; false at the end. */
static bool hear(int *status)
{
	static char heard[8 * LINE_BYTES];
	static size_t used;
	char *newline;
	ssize_t n = read(STDIN_FILENO, heard + used, sizeof(heard) - 1 - used);

	if (n < 0 && errno == EINTR)
		return true;
	if (n <= 0)
		return false;
	used += (size_t)n;
	heard[used] = '\0';
	while ((newline = strchr(heard, '\n'))) {
		*newline = '\0';
		if (!obey(heard, status))
			return false;
		used -= (size_t)(newline + 1 - heard);
		memmove(heard, newline + 1, used + 1);
	}
	return used < sizeof(heard) - 1;
}

static int watch(void)
{
	uint64_t interval_ns = (is_live ? LIVE_MS : PLAIN_MS) * UINT64_C(1000000), next_ns = now_ns() + interval_ns;
	int status = 1; /* until it has been judged */

	for (;;) {
		struct pollfd from_run = { .fd = STDIN_FILENO, .events = POLLIN };
		uint64_t now = now_ns();
		if (now >= next_ns) {
			show();
			next_ns = now + interval_ns;
		}
		if (poll(&from_run, 1, now < next_ns ? (int)((next_ns - now) / 1000000) + 1 : 0) > 0 && !hear(&status))
			return status;
	}
}

int main(int argc, char **argv)
{
	const char *no_colour = getenv("NO_COLOR"), *term = getenv("TERM");

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "Usage: watch DIR [SECONDS]\n");
		return 2;
	}
	dir = argv[1];
	planned_s = argc == 3 ? atof(argv[2]) : 0;
	is_live = isatty(STDOUT_FILENO) && term && *term && strcmp(term, "dumb") != 0;
	has_colours = is_live && !(no_colour && *no_colour);
	int status = watch();
	readings_fini(&readings);
	return status;
}
