/*
 * The demo: starts the shop as real processes, puts load on it, changes things while it runs, and shows from the processes' own
 * counters what that did to the calls. With --seconds it ends by itself; its exit status is 0 only if what it claims was true.
 *
 *	demo [--seconds N] [--shop PATH] [--mesh PATH]
 */
#include "readings.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CHILDREN_MAX = 64, EVENTS_MAX = 64, SECONDS_MIN = 10, SECONDS_OF_A_ROUND = 60, START_WAIT_MS = 10000, RATE = 250 };

struct child {
	pid_t pid;
	const char *role;
	int number, status; /* status as waitpid() says it, once it has ended */
	bool has_ended, is_drained, is_killed;
};

/* Something that the demo does, and what it cost. */
struct happening {
	double at; /* seconds since the beginning */
	const char *title;
	char who[32];
	bool is_planned;
	uint64_t failed_before, failed;
};

static struct child children[CHILDREN_MAX];
static size_t child_count;
static struct happening happenings[EVENTS_MAX];
static size_t happening_count;
static struct readings readings;
static const char *shop_path = "demo/shop", *mesh_path = "./mesh";
static char dir[64], errors_path[96];
static uint64_t start_ns;
static double total_seconds; /* 0: until Ctrl-C */
static volatile sig_atomic_t is_over;
static bool is_terminal, has_colour;
static int drawn_lines;

static const char *bold = "", *dim = "", *red = "", *green = "", *yellow = "", *plain = "";

/* ---- time ---- */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static double elapsed(void)
{
	return (double)(now_ns() - start_ns) / 1e9;
}

/* ---- processes ---- */

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static void end_children(void)
{
	for (size_t i = 0; i < child_count; i++)
		if (!children[i].has_ended)
			kill(children[i].pid, SIGKILL);
	for (size_t i = 0; i < child_count; i++)
		if (!children[i].has_ended)
			waitpid(children[i].pid, &children[i].status, 0);
}

/* Files of this demo only: <dir>/errors, <dir>/stats/..., <dir>/registry/SERVICE/... */
static void remove_dir(void)
{
	pid_t pid = *dir ? fork() : -1;

	if (pid == 0) {
		execlp("rm", "rm", "-rf", "--", dir, (char *)NULL);
		_exit(127);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

static void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fprintf(stderr, "%sdemo: ", red);
	vfprintf(stderr, format, args);
	fprintf(stderr, "%s\n", plain);
	va_end(args);
	end_children();
	remove_dir();
	exit(1);
}

static struct child *start(const char *role, int number, char *const *arguments)
{
	struct child *child = &children[child_count];
	int errors;

	if (child_count == CHILDREN_MAX)
		die("too many processes");
	*child = (struct child){ .role = role, .number = number };
	child->pid = fork();
	if (child->pid < 0)
		die("cannot start %s: %s", role, strerror(errno));
	if (child->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0); /* Ctrl-C is for the demo: it ends the others in order */
		errors = open(errors_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		dup2(errors, STDERR_FILENO);
		dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDOUT_FILENO);
		execv(arguments[0], arguments);
		fprintf(stderr, "{\"message\":\"cannot run %s: %s\"}\n", arguments[0], strerror(errno));
		_exit(127);
	}
	child_count++;
	return child;
}

static struct child *start_shop(const char *role, int number)
{
	char *arguments[] = { (char *)(uintptr_t)shop_path, (char *)(uintptr_t)role, NULL };

	return start(role, number, arguments);
}

static void start_load(void)
{
	static char rate[16];
	char *arguments[] = { (char *)(uintptr_t)mesh_path, "load", "web/cart", "--rate", rate, "--duration", "86400", "--wait", "--json", "--quiet", NULL };

	snprintf(rate, sizeof(rate), "%d", RATE);
	setenv("MESH_SERVICE", "visitors", 1);
	start("visitors", 0, arguments);
	unsetenv("MESH_SERVICE");
}

static void reap(void)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (size_t i = 0; i < child_count; i++)
			if (children[i].pid == pid) {
				children[i].has_ended = true;
				children[i].status = status;
			}
}

static struct child *find_running(const char *role)
{
	for (size_t i = 0; i < child_count; i++)
		if (!children[i].has_ended && !children[i].is_drained && !children[i].is_killed && !strcmp(children[i].role, role))
			return &children[i];
	die("no %s is running any more; see what the processes said:\n%s", role, errors_path);
}

static int count_started(const char *role)
{
	int count = 0;

	for (size_t i = 0; i < child_count; i++)
		count += !strcmp(children[i].role, role);
	return count;
}

static struct replica *replica_of(const struct child *child)
{
	for (size_t i = 0; i < readings.replica_count; i++)
		if (readings.replicas[i].pid == child->pid)
			return &readings.replicas[i];
	return NULL;
}

/* ---- what happens, and when ---- */

static void close_happening(void)
{
	struct happening *last = happening_count ? &happenings[happening_count - 1] : NULL;
	uint64_t inside;

	if (last)
		last->failed = readings_failed(&readings, "visitors", &inside) - last->failed_before;
}

static void happen(const char *title, const struct child *child, bool is_planned)
{
	struct happening *happening;
	uint64_t inside;

	readings_read(&readings);
	close_happening();
	if (happening_count == EVENTS_MAX) { /* only the newest are of interest in a long run */
		memmove(happenings, happenings + 1, sizeof(happenings) - sizeof(happenings[0]));
		happening_count--;
	}
	happening = &happenings[happening_count++];
	*happening = (struct happening){ .at = elapsed(), .title = title, .is_planned = is_planned };
	happening->failed_before = readings_failed(&readings, "visitors", &inside);
	snprintf(happening->who, sizeof(happening->who), "%s-%d", child->role, child->number);
	if (!is_terminal) {
		printf("%5.1f s  %s %s\n", happening->at, happening->who, title);
		fflush(stdout);
	}
}

static void drain_users(void)
{
	struct child *child = find_running("users");

	child->is_drained = true;
	happen("drains and leaves", child, true);
	kill(child->pid, SIGTERM);
}

static void add_users(void)
{
	happen("is started and joins", start_shop("users", count_started("users") + 1), true);
}

static struct child *slow;

static void slow_stock(void)
{
	slow = find_running("stock");
	happen("turns slow: 150 ms instead of 20", slow, true);
	kill(slow->pid, SIGUSR1);
}

static void heal_stock(void)
{
	if (!slow || slow->has_ended)
		return;
	happen("is as fast as before", slow, true);
	kill(slow->pid, SIGUSR2);
}

static void restart_orders(void)
{
	struct child *child = find_running("orders");

	child->is_drained = true;
	happen("is replaced by a new version", child, true);
	start_shop("orders", count_started("orders") + 1);
	kill(child->pid, SIGTERM);
}

static void kill_orders(void)
{
	struct child *child = find_running("orders");

	child->is_killed = true;
	happen("is killed with kill -9", child, false);
	kill(child->pid, SIGKILL);
}

static void add_orders(void)
{
	happen("is started in its place", start_shop("orders", count_started("orders") + 1), true);
}

/* Shares of a round. */
static const struct {
	double at;
	void (*run)(void);
} plan[] = {
	{ 0.12, drain_users }, { 0.24, add_users },	{ 0.36, slow_stock }, { 0.54, heal_stock },
	{ 0.64, restart_orders }, { 0.78, kill_orders }, { 0.88, add_orders },
};

enum { PLAN_COUNT = sizeof(plan) / sizeof(plan[0]) };

static void follow_plan(size_t *step)
{
	double round = total_seconds ? total_seconds : SECONDS_OF_A_ROUND;

	if (total_seconds && *step == PLAN_COUNT)
		return;
	if (elapsed() < round * ((double)(*step / PLAN_COUNT) + plan[*step % PLAN_COUNT].at))
		return;
	plan[*step % PLAN_COUNT].run();
	++*step;
}

/* ---- showing ---- */

static void line(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void line(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	fputs(is_terminal ? "\x1b[K\n" : "\n", stdout);
	drawn_lines++;
}

static double ms(const mesh_stats_histogram *histogram, double quantile)
{
	return histogram ? (double)mesh_stats_histogram_quantile(histogram, quantile) / 1e6 : 0;
}

static void draw_edges(bool is_total, double seconds)
{
	line("%s%-10s %-10s %10s %9s %9s %9s %9s%s", bold, "FROM", "TO", is_total ? "CALLS" : "RATE", "SUCCESS", "FAILED", "P50", "P99", plain);
	for (size_t i = 0; i < readings.edge_count; i++) {
		const struct edge *edge = &readings.edges[i];
		uint64_t ended = is_total ? edge->calls.ended : edge->calls.new_ended, failed = is_total ? edge->calls.failed : edge->calls.new_failed;
		const mesh_stats_histogram *latency = is_total ? edge->calls.latency : edge->calls.new_latency;
		char count[24];

		if (is_total)
			snprintf(count, sizeof(count), "%llu", (unsigned long long)ended);
		else
			snprintf(count, sizeof(count), "%.0f/s", seconds > 0 ? (double)ended / seconds : 0);
		line("%-10s %-10s %10s %s%8.2f%%%s %9llu %6.1f ms %6.1f ms", edge->from, edge->to, count, failed ? red : green,
		     ended ? 100.0 * (double)(ended - failed) / (double)ended : 100.0, plain, (unsigned long long)failed, ms(latency, 0.5), ms(latency, 0.99));
	}
}

/* Somebody else has killed it. */
static bool is_lost(const struct child *child)
{
	return child->has_ended && !child->is_killed && WIFSIGNALED(child->status);
}

static const char *state_of(const struct child *child, const struct replica *replica)
{
	if (child->is_killed)
		return replica && replica->state == MESH_STATS_DEAD ? "killed; its counters are still read" : "killed";
	if (is_lost(child))
		return "killed, and not by the demo";
	if (child->has_ended)
		return "drained and gone";
	if (child->is_drained)
		return "draining";
	if (child == slow)
		return happening_count && !strncmp(happenings[happening_count - 1].title, "turns slow", 10) ? "slow" : "";
	return "";
}

static void draw_replicas(bool is_total, double seconds)
{
	line("%s%-10s %8s %10s %9s %9s   %s%s", bold, "PROCESS", "PID", is_total ? "SERVED" : "RATE", "P50", "P99", "", plain);
	for (size_t i = 0; i < child_count; i++) {
		const struct child *child = &children[i];
		const struct replica *replica = replica_of(child);
		const char *state = state_of(child, replica);
		char name[32], count[24] = "-";

		if (!strcmp(child->role, "visitors") || (!is_total && child->has_ended && !child->is_killed))
			continue;
		snprintf(name, sizeof(name), "%s-%d", child->role, child->number);
		if (replica && is_total)
			snprintf(count, sizeof(count), "%llu", (unsigned long long)replica->requests.ended);
		else if (replica)
			snprintf(count, sizeof(count), "%.0f/s", seconds > 0 ? (double)replica->requests.new_ended / seconds : 0);
		line("%-10s %8d %10s %6.1f ms %6.1f ms   %s%s%s", name, (int)child->pid, count,
		     replica ? ms(is_total ? replica->requests.latency : replica->requests.new_latency, 0.5) : 0,
		     replica ? ms(is_total ? replica->requests.latency : replica->requests.new_latency, 0.99) : 0, yellow, state, plain);
	}
}

/* The latest, as many as the terminal has lines left below the tables: what scrolls away is drawn anew twice a second. */
static void draw_happenings(void)
{
	struct winsize size = { 0 };
	int room = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row ? size.ws_row - drawn_lines - 3 : 8;
	size_t most = room < 1 ? 1 : room > 8 ? 8 : (size_t)room, first = happening_count > most ? happening_count - most : 0;

	for (size_t i = first; i < happening_count; i++) {
		const struct happening *happening = &happenings[i];
		const char *colour = !happening->failed ? green : happening->is_planned ? red : yellow;

		line("%5.1f s  %-10s %-34s %s%llu failed calls%s", happening->at, happening->who, happening->title, colour,
		     (unsigned long long)happening->failed, plain);
	}
}

static void draw(bool is_total)
{
	double seconds = readings_seconds(&readings);

	if (is_terminal && !is_total)
		printf("\x1b[H");
	drawn_lines = 0;
	if (!is_total)
		line("%slibmesh demo%s  a shop of real processes, %d visits a second; %s%.0f s; Ctrl-C ends%s", bold, plain, RATE, dim, elapsed(), plain);
	line("%s", "");
	draw_edges(is_total, seconds);
	line("%s", "");
	draw_replicas(is_total, seconds);
	line("%s", "");
	if (is_terminal && !is_total) {
		draw_happenings();
		line("%s", "");
		/* No line break: the last line of a terminal that is just high enough must not scroll the first one away. */
		printf("%sFrom outside: MESH_RUNTIME_DIR=%s %s stat%s\x1b[K", dim, dir, mesh_path, plain);
		printf("\x1b[J");
	}
	fflush(stdout);
}

/* ---- the verdict ---- */

static bool is_true = true;

static void claim(bool holds, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void claim(bool holds, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("  %s%s%s ", holds ? green : red, holds ? "ok    " : "FALSE ", plain);
	vprintf(format, args);
	putchar('\n');
	va_end(args);
	is_true = is_true && holds;
}

/* Lines in which a process of the shop told why a call of it failed; shows the first, without control characters. */
static uint64_t count_explained(char *sample, size_t capacity)
{
	FILE *file = fopen(errors_path, "r");
	char text[2048], *message;
	uint64_t count = 0;

	*sample = '\0';
	while (file && fgets(text, sizeof(text), file)) {
		message = strstr(text, "\"message\":\"");
		if (!message || strlen(message) < 30)
			continue;
		if (!count++) {
			message[strcspn(message, "\n")] = '\0';
			message += strlen("\"message\":\"");
			snprintf(sample, capacity, "%.*s", (int)(strlen(message) > 2 ? strlen(message) - 2 : 0), message);
		}
	}
	if (file)
		fclose(file);
	return count;
}

static size_t killed_count(void)
{
	size_t count = 0;

	for (size_t i = 0; i < child_count; i++)
		count += children[i].is_killed;
	return count;
}

static void judge_encryption(void)
{
	uint64_t connections = 0, handshakes = 0;
	char id[128];
	bool are_known = true;

	for (size_t i = 0; i < readings.replica_count; i++) {
		const struct replica *replica = &readings.replicas[i];

		connections += replica->connections;
		handshakes += replica->handshakes;
		snprintf(id, sizeof(id), "spiffe://mesh.local/ns/default/sa/%s", replica->service);
		are_known = are_known && strcmp(replica->id, id) == 0;
	}
	/* A connection that was lost between its handshake and the first word of HTTP/2 never became ready. */
	claim(connections && handshakes >= connections && are_known, "every connection was encrypted, and both ends showed who they are (%llu handshakes)",
	      (unsigned long long)handshakes);
}

static void judge(void)
{
	uint64_t inside, failed = readings_failed(&readings, "visitors", &inside), explained, unplanned = 0;
	char sample[512];

	printf("\n%sWhat was claimed%s\n", bold, plain);
	for (size_t i = 0; i < happening_count; i++) {
		const struct happening *happening = &happenings[i];

		if (happening->is_planned)
			claim(happening->failed == 0, "%-10s %-34s %llu failed calls", happening->who, happening->title, (unsigned long long)happening->failed);
		else
			unplanned += happening->failed;
	}
	for (size_t i = 0; i < child_count; i++) {
		const struct child *child = &children[i];
		const struct replica *replica = replica_of(child);

		if (strcmp(child->role, "visitors") && (!replica || !replica->requests.ended))
			claim(false, "%s-%d got no call", child->role, child->number);
		if (is_lost(child))
			claim(false, "%s-%d was ended by signal %d, which the demo did not send", child->role, child->number, WTERMSIG(child->status));
		if (child->is_drained)
			claim(child->has_ended && WIFEXITED(child->status) && WEXITSTATUS(child->status) == 0, "%s-%d finished its work before it left",
			      child->role, child->number);
		if (child->is_killed)
			claim(replica && replica->state == MESH_STATS_DEAD && replica->requests.ended, "%s-%d is known to be dead, and its counters are still there",
			      child->role, child->number);
	}
	judge_encryption();
	explained = count_explained(sample, sizeof(sample));
	if (killed_count())
		claim(failed == unplanned, "no call failed but at the kill -9: %llu of those in flight, counted at each hop", (unsigned long long)unplanned);
	else
		claim(failed == 0, "no call failed");
	claim(explained >= inside, "each of them was explained by the process that made the call (%llu sentences)", (unsigned long long)explained);
	if (*sample)
		printf("         for example: %s%s%s\n", dim, sample, plain);
}

/* ---- the whole ---- */

static void on_signal(int number)
{
	(void)number;
	is_over = 1;
}

static void look(bool shall_turn)
{
	reap();
	readings_read(&readings);
	close_happening();
	if (shall_turn) {
		draw(false);
		readings_turn(&readings);
	}
}

/* Until every process has been called: the counters tell. */
static void wait_for_shop(void)
{
	uint64_t until_ns = now_ns() + START_WAIT_MS * UINT64_C(1000000);

	for (;;) {
		bool is_ready = true;

		reap();
		readings_read(&readings);
		for (size_t i = 0; i < child_count; i++) {
			const struct replica *replica = replica_of(&children[i]);

			if (children[i].has_ended)
				die("%s-%d has ended; what the processes said is in %s", children[i].role, children[i].number, errors_path);
			is_ready = is_ready && replica && (replica->requests.ended || !strcmp(children[i].role, "visitors"));
		}
		if (is_ready || is_over)
			return;
		if (now_ns() > until_ns)
			die("the shop did not come to life within %d s", START_WAIT_MS / 1000);
		poll(NULL, 0, 20);
	}
}

static void run(void)
{
	uint64_t next_draw_ns = 0;
	size_t step = 0;

	start_ns = now_ns();
	readings_turn(&readings);
	while (!is_over && (!total_seconds || elapsed() < total_seconds)) {
		bool shall_draw = now_ns() >= next_draw_ns;

		look(shall_draw && next_draw_ns);
		if (shall_draw)
			next_draw_ns = now_ns() + (is_terminal ? UINT64_C(500000000) : UINT64_C(5000000000));
		follow_plan(&step);
		poll(NULL, 0, 50);
	}
}

/* The visitors leave first, then the shop closes: nothing is cut off. */
static void end_in_order(void)
{
	static const char *const order[] = { "visitors", "web", "orders", "users", "stock" };

	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		uint64_t until_ns = now_ns() + UINT64_C(10000000000);
		bool is_open = true;

		for (size_t k = 0; k < child_count; k++)
			if (!children[k].has_ended && !strcmp(children[k].role, order[i]))
				kill(children[k].pid, SIGTERM);
		while (is_open && now_ns() < until_ns) {
			reap();
			if (i == 0)
				readings_read(&readings);
			is_open = false;
			for (size_t k = 0; k < child_count; k++)
				is_open = is_open || (!children[k].has_ended && !strcmp(children[k].role, order[i]));
			poll(NULL, 0, 10);
		}
		readings_read(&readings);
		close_happening();
	}
}

static void read_arguments(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;
		char *end = NULL;

		if (!strcmp(argv[i], "--shop") && value) {
			shop_path = argv[++i];
		} else if (!strcmp(argv[i], "--mesh") && value) {
			mesh_path = argv[++i];
		} else if (!strcmp(argv[i], "--seconds") && value) {
			total_seconds = strtod(argv[++i], &end);
			if (*end || !(total_seconds >= SECONDS_MIN && total_seconds <= 86400)) {
				fprintf(stderr, "demo: --seconds is a number from %d to 86400, not \"%s\"\n", SECONDS_MIN, value);
				exit(2);
			}
		} else {
			fprintf(stderr, "Usage: demo [--seconds N] [--shop PATH] [--mesh PATH]\n");
			exit(2);
		}
	}
}

static void use_terminal(void)
{
	const char *no_colour = getenv("NO_COLOR"), *term = getenv("TERM");

	is_terminal = isatty(STDOUT_FILENO) && term && strcmp(term, "dumb");
	has_colour = is_terminal && !(no_colour && *no_colour);
	if (has_colour) {
		bold = "\x1b[1m";
		dim = "\x1b[2m";
		red = "\x1b[31m";
		green = "\x1b[32m";
		yellow = "\x1b[33m";
		plain = "\x1b[0m";
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *role;
		int count;
	} shop[] = { { "stock", 2 }, { "users", 3 }, { "orders", 2 }, { "web", 1 } };
	/* The demo shows what happens with nothing configured. */
	static const char *const not_ours[] = { "MESH_STATS_DIR", "MESH_DISCOVERY", "MESH_TLS",	 "MESH_IDENTITY", "SPIFFE_ENDPOINT_SOCKET",
						"MESH_TRUST_DOMAIN", "MESH_NAMESPACE", "MESH_PEER_ID", "MESH_POLICY", "MESH_ALLOW" };
	char state_dir[sizeof(dir) + 8];
	struct sigaction action = { .sa_handler = on_signal };

	read_arguments(argc, argv);
	use_terminal();
	strcpy(dir, access("/dev/shm", W_OK) ? "/tmp/mesh-demo-XXXXXX" : "/dev/shm/mesh-demo-XXXXXX");
	if (!mkdtemp(dir))
		die("cannot make a directory: %s", strerror(errno));
	snprintf(errors_path, sizeof(errors_path), "%s/errors", dir);
	setenv("MESH_RUNTIME_DIR", dir, 1);
	snprintf(state_dir, sizeof(state_dir), "%s/state", dir);
	setenv("MESH_STATE_DIR", state_dir, 1);
	for (size_t i = 0; i < sizeof(not_ours) / sizeof(not_ours[0]); i++)
		unsetenv(not_ours[i]);
	readings.dir = dir;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	for (size_t i = 0; i < sizeof(shop) / sizeof(shop[0]); i++)
		for (int k = 0; k < shop[i].count; k++)
			start_shop(shop[i].role, k + 1);
	start_load();
	if (is_terminal)
		printf("\x1b[2J\x1b[HStarting the shop: web, users x3, orders x2, stock x2 ...\n");
	else
		printf("Starting the shop: web, users x3, orders x2, stock x2; visitors come at %d a second.\n", RATE);
	fflush(stdout);
	wait_for_shop();
	run();
	end_in_order();
	if (is_terminal)
		printf("\x1b[2J\x1b[H");
	printf("\n%sThe demo ran %.0f seconds: %zu processes, %zu of them killed, and no sidecar, agent or control plane.%s\n", bold, elapsed(),
	       child_count, killed_count(), plain);
	draw(true);
	judge();
	printf("\n%s\n", is_true ? "Everything that this demo claims was true." : "Not everything that this demo claims was true.");
	readings_fini(&readings);
	end_children();
	remove_dir();
	return is_true ? 0 : 1;
}
