/*
 * mesh load: load on a service, and honest latencies.
 *
 * Closed loop (-c): N calls are always under way; each end starts the next one, on the loop. Open loop (-r): calls are started
 * at times that are planned beforehand, whatever the service does, and a latency counts from the planned time: a service that
 * stalls cannot hide it by slowing the load down (no coordinated omission). What is due and cannot be started, since the limit
 * of calls under way is reached, waits, and its waiting counts.
 *
 * The first call does not wait for the service to appear: if it reaches nobody, there is nothing to measure, and we say so at
 * once. The others do not wait for it, since that would be coordination, too. After a failure a slot of the closed loop rests
 * until the next tick, so that a dead service is not hammered.
 */
#include "command.h"
#include "counters.h"
#include "histogram.h"
#include "output.h"
#include "payload.h"
#include "session.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { REASONS_MAX = 32, OPEN_LIMIT_DEFAULT = 10000, CLOSED_DEFAULT = 16 };

#define TICK_NS UINT64_C(10000000)      /* how often resting slots start again, and signals are looked for */
#define CATCH_UP_NS UINT64_C(500000000) /* how long after its end an open loop starts what was due: we, too, may be late */
#define PROGRESS_NS UINT64_C(500000000) /* how often the live line is drawn */
#define DURATION_DEFAULT_NS UINT64_C(10000000000)

struct load_args {
	const char *data, *method, *grpc;
	struct arg_list headers;
	uint64_t concurrency, duration_ns, total, timeout_ns;
	double rate;
	bool is_poisson, is_hex, is_json, is_patient, is_quiet, is_idempotent;
};

#define AT(field) offsetof(struct load_args, field)

static const struct arg args[] = {
	{ "concurrency", 'c', ARG_COUNT, AT(concurrency), "N", "closed loop: N calls always under way (default: 16)\nwith --rate: at most N under way (default: 10k)", 1, 1000000 },
	{ "rate", 'r', ARG_RATE, AT(rate), "RATE", "open loop: start RATE calls per second, come what may", 0.001, 1e6 },
	{ "poisson", 0, ARG_FLAG, AT(is_poisson), NULL, "open loop with random gaps (a Poisson process)\ninstead of equal ones", 0, 0 },
	{ "duration", 'd', ARG_DURATION, AT(duration_ns), "SECS", "how long (default: 10s; with -n: until all are done)", 0.001, 0 },
	{ "requests", 'n', ARG_COUNT, AT(total), "TOTAL", "stop after that many calls", 1, 0 },
	{ "data", 0, ARG_TEXT, AT(data), "DATA", "body to send; @FILE reads a file, @- standard input", 0, 0 },
	{ "hex", 0, ARG_FLAG, AT(is_hex), NULL, "DATA is hexadecimal", 0, 0 },
	{ "method", 'X', ARG_TEXT, AT(method), "METHOD", "HTTP method (default: GET, with a body POST)", 0, 0 },
	{ "header", 'H', ARG_LIST, AT(headers), "'NAME: VALUE'", "header or gRPC metadata to send; may be repeated", 0, 0 },
	{ "grpc", 'g', ARG_TEXT, AT(grpc), "METHOD", "gRPC calls of package.Service/Method", 0, 0 },
	{ "timeout", 't', ARG_DURATION, AT(timeout_ns), "TIME", "for each call (default: option `timeout`)", 0.001, 86400 },
	{ "wait", 'w', ARG_FLAG, AT(is_patient), NULL, "wait for the service to appear, up to the timeout", 0, 0 },
	{ "idempotent", 0, ARG_FLAG, AT(is_idempotent), NULL, "acting twice does no harm: calls may be retried", 0, 0 },
	{ "json", 0, ARG_FLAG, AT(is_json), NULL, "print the result as JSON", 0, 0 },
	{ "quiet", 'q', ARG_FLAG, AT(is_quiet), NULL, "no live line", 0, 0 },
	{ 0 },
};

struct reason {
	char name[48];
	uint64_t count;
	char example[512]; /* the first sentence of its kind */
};

struct load;

/* One call under way, or free to become one. */
struct slot {
	struct load *load;
	struct slot *next_free;
	uint64_t planned_ns; /* 0: free */
	bool is_first;       /* it holds the first call */
};

struct load {
	const struct load_args *given;
	mesh_client *client;
	struct mesh_call_options opts;
	uint64_t random;
	struct slot *slots;
	uint64_t limit; /* of calls under way */

	pthread_mutex_t lock;
	pthread_cond_t changed; /* a slot became free in an open loop, or the last call has ended */
	/* under the lock */
	struct slot *free_slots;
	uint64_t started, ended, ok, received_bytes, last_end_ns;
	bool is_ending;
	bool is_restarting; /* an end starts the next call: closed loop */
	bool is_abandoned;  /* the result stands: what ends now is not counted */
	struct mesh_error unreached; /* why the first call reached nobody, before any other did */
	struct histogram latencies;
	struct reason reasons[REASONS_MAX];
	size_t reason_count;
};

/* ---- recording, under the lock ---- */

static void count_reason(struct load *load, const char *name, const char *example)
{
	struct reason *reason = load->reasons;

	for (size_t i = 0; i < load->reason_count; i++, reason++) {
		if (strcmp(reason->name, name) == 0) {
			reason->count++;
			return;
		}
	}
	if (load->reason_count == REASONS_MAX) {
		load->reasons[REASONS_MAX - 1].count++;
		return;
	}
	load->reason_count++;
	snprintf(reason->name, sizeof(reason->name), "%s", load->reason_count == REASONS_MAX ? "other" : name);
	snprintf(reason->example, sizeof(reason->example), "%s", example);
	reason->count = 1;
}

/* `call` is NULL for a call that was refused at once. */
static void record_failure(struct load *load, const mesh_call *call, const struct mesh_error *err)
{
	struct mesh_call_info info = { .size = sizeof(info) };
	char name[48], answered[160];

	if (err->code == 0) {
		mesh_call_info(call, &info);
		snprintf(name, sizeof(name), "HTTP %d", mesh_call_http_status(call));
		snprintf(answered, sizeof(answered), "%s answered so", info.endpoint);
		count_reason(load, name, answered);
		return;
	}
	if (err->code == MESH_E_STATUS)
		snprintf(name, sizeof(name), "gRPC %s", mesh_grpc_status_name(err->grpc_status));
	else
		snprintf(name, sizeof(name), "%s", mesh_error_name(err->code));
	count_reason(load, name, err->message);
}

static void record_end(struct load *load, uint64_t planned_ns, uint64_t end_ns)
{
	histogram_add(&load->latencies, end_ns > planned_ns ? end_ns - planned_ns : 0);
	load->ended++;
	load->last_end_ns = end_ns;
}

static bool is_unreached(int32_t code)
{
	struct mesh_error err = { .code = code };
	int status = session_status(&err);

	return status == EXIT_UNREACHABLE || status == EXIT_USAGE;
}

static void record_first(struct load *load, struct slot *slot, const struct mesh_error *err)
{
	if (slot->is_first && load->ok == 0 && is_unreached(err->code)) {
		load->unreached = *err;
		load->is_ending = true;
	}
	slot->is_first = false;
}

static bool may_start(const struct load *load)
{
	return !load->is_ending && (load->given->total == 0 || load->started < load->given->total);
}

static void release_slot(struct load *load, struct slot *slot)
{
	slot->planned_ns = 0;
	slot->next_free = load->free_slots;
	load->free_slots = slot;
}

static struct slot *take_slot(struct load *load, uint64_t planned_ns)
{
	struct slot *slot = load->free_slots;

	if (slot) {
		load->free_slots = slot->next_free;
		slot->planned_ns = planned_ns;
		load->started++;
	}
	return slot;
}

/* ---- calls; never under the lock ---- */

static void on_event(const struct mesh_event *event, void *user);

static void start_call(struct slot *slot, uint32_t more_flags)
{
	struct load *load = slot->load;
	struct mesh_call_options opts = load->opts;
	struct mesh_error err = MESH_ERROR_INIT;

	opts.user = slot;
	opts.flags |= more_flags;
	if (mesh_client_start(load->client, &opts, NULL, &err) == 0)
		return;
	pthread_mutex_lock(&load->lock);
	if (!load->is_abandoned) {
		record_end(load, slot->planned_ns, now_ns());
		record_failure(load, NULL, &err);
		record_first(load, slot, &err);
		release_slot(load, slot);
		pthread_cond_signal(&load->changed);
	}
	pthread_mutex_unlock(&load->lock);
}

static void on_event(const struct mesh_event *event, void *user)
{
	struct slot *slot = user;
	struct load *load = slot->load;
	uint64_t end_ns = now_ns(), len = 0;
	struct mesh_error err = MESH_ERROR_INIT;

	if (event->type != MESH_EVENT_CALL_DONE)
		return;
	bool is_ok = event->code == 0 && (load->given->grpc || mesh_call_http_status(event->call) < 400);
	if (!is_ok)
		mesh_call_error(event->call, &err);
	mesh_call_body(event->call, &len);

	pthread_mutex_lock(&load->lock);
	if (load->is_abandoned) {
		pthread_mutex_unlock(&load->lock);
		return;
	}
	record_end(load, slot->planned_ns, end_ns);
	load->received_bytes += len;
	if (is_ok)
		load->ok++;
	else
		record_failure(load, event->call, &err);
	record_first(load, slot, &err);
	bool starts_next = is_ok && load->is_restarting && may_start(load);
	if (starts_next) {
		slot->planned_ns = end_ns;
		load->started++;
	} else {
		release_slot(load, slot);
		pthread_cond_signal(&load->changed);
	}
	pthread_mutex_unlock(&load->lock);
	if (starts_next)
		start_call(slot, 0);
}

/* ---- waiting; under the lock, which the wait gives up ---- */

static void wait_until(struct load *load, uint64_t when_ns)
{
	struct timespec when = { (time_t)(when_ns / 1000000000), (long)(when_ns % 1000000000) };

	pthread_cond_timedwait(&load->changed, &load->lock, &when);
}

static void print_progress(struct load *load, uint64_t begin_ns, uint64_t now)
{
	char a[HUMAN_BYTES], b[HUMAN_BYTES], c[HUMAN_BYTES], d[HUMAN_BYTES], e[HUMAN_BYTES];
	double seconds = (double)(now - begin_ns) / 1e9;

	fprintf(stderr, "\r\033[K%5.1fs  %s requests  %s/s  p50 %s  p99 %s  under way %llu  ", seconds, human_count(a, load->ended),
		human_rate(b, (double)load->ended / seconds), human_duration(c, histogram_quantile(&load->latencies, 0.5)),
		human_duration(d, histogram_quantile(&load->latencies, 0.99)), (unsigned long long)(load->started - load->ended));
	paint(stderr, load->ended > load->ok ? RED : PLAIN, "failed %s", human_count(e, load->ended - load->ok));
	fflush(stderr);
}

/* What comes up now and then while a load runs: the live line, and the wish to stop. */
struct pulse {
	uint64_t begin_ns, tick_ns, progress_ns;
	bool has_progress;
	int stop_count; /* how often we were asked to stop */
};

static void beat(struct load *load, struct pulse *pulse, uint64_t now)
{
	if (now < pulse->tick_ns)
		return;
	pulse->tick_ns = now + TICK_NS;
	int signal_number = signals_wait(0);
	if (signal_number == SIGINT || signal_number == SIGTERM) {
		load->is_ending = true;
		pulse->stop_count++;
	}
	if (pulse->has_progress && now >= pulse->progress_ns) {
		print_progress(load, pulse->begin_ns, now);
		pulse->progress_ns = now + PROGRESS_NS;
	}
}

/* ---- the two loops ---- */

/* The first call, planned for the very beginning. Gives up the lock meanwhile. */
static void start_first(struct load *load, uint64_t planned_ns)
{
	struct slot *slot = take_slot(load, planned_ns);

	slot->is_first = true;
	pthread_mutex_unlock(&load->lock);
	start_call(slot, load->given->is_patient ? 0 : MESH_CALL_FAIL_FAST);
	pthread_mutex_lock(&load->lock);
}

/* Starts what may start now. Gives up the lock meanwhile. */
static void start_free_slots(struct load *load)
{
	while (load->free_slots && may_start(load)) {
		struct slot *slot = take_slot(load, now_ns());
		pthread_mutex_unlock(&load->lock);
		start_call(slot, 0);
		pthread_mutex_lock(&load->lock);
		if (load->free_slots == slot)
			break; /* refused at once: not before the next tick */
	}
}

static void run_closed(struct load *load, struct pulse *pulse, uint64_t end_ns)
{
	while (!load->is_ending) {
		uint64_t now = now_ns();
		if (now >= end_ns || (!may_start(load) && load->ended == load->started))
			break;
		start_free_slots(load);
		beat(load, pulse, now_ns());
		wait_until(load, pulse->tick_ns < end_ns ? pulse->tick_ns : end_ns);
		/* Ends of calls wake us, too; resting slots stay at rest until the tick. */
		while (!load->is_ending && now_ns() < pulse->tick_ns && now_ns() < end_ns && may_start(load))
			wait_until(load, pulse->tick_ns < end_ns ? pulse->tick_ns : end_ns);
	}
	load->is_restarting = false;
}

static double random_share(struct load *load)
{
	load->random ^= load->random << 13;
	load->random ^= load->random >> 7;
	load->random ^= load->random << 17;
	return ((double)(load->random >> 11) + 0.5) * 0x1p-53;
}

static double next_gap_ns(struct load *load)
{
	double mean = 1e9 / load->given->rate;

	return load->given->is_poisson ? -log(random_share(load)) * mean : mean;
}

/* Calls that were due and never started: each is a failure, and has waited at least so long. */
static void record_unstarted(struct load *load, double planned_ns, uint64_t end_ns)
{
	const char *why = load->free_slots ? "this machine does not keep up with starting so many calls" :
					     "the limit of calls under way (-c) was reached until the end: the service does not keep up with this rate";

	for (; planned_ns < (double)end_ns && may_start(load); planned_ns += next_gap_ns(load)) {
		load->started++;
		record_end(load, (uint64_t)planned_ns, end_ns);
		count_reason(load, "not started in time", why);
	}
}

static void run_open(struct load *load, struct pulse *pulse, uint64_t end_ns)
{
	double planned_ns = (double)pulse->begin_ns + next_gap_ns(load);

	prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
	while (may_start(load)) {
		uint64_t now = now_ns();
		bool is_due = (double)now >= planned_ns && planned_ns < (double)end_ns && load->free_slots;
		if (now >= end_ns && (!is_due || now >= end_ns + CATCH_UP_NS))
			break;
		beat(load, pulse, now);
		if (is_due) {
			struct slot *slot = take_slot(load, (uint64_t)planned_ns);
			pthread_mutex_unlock(&load->lock);
			start_call(slot, 0);
			pthread_mutex_lock(&load->lock);
			planned_ns += next_gap_ns(load);
			continue;
		}
		uint64_t until = (double)now >= planned_ns ? pulse->tick_ns : (uint64_t)planned_ns;
		until = until < pulse->tick_ns ? until : pulse->tick_ns;
		wait_until(load, until < end_ns ? until : end_ns);
	}
	if (!load->is_ending)
		record_unstarted(load, planned_ns, end_ns);
}

/* The result stands: what is still under way has failed, and has taken at least so long. */
static void abandon_rest(struct load *load, const char *name, const char *example)
{
	uint64_t now = now_ns();

	load->is_abandoned = true;
	for (uint64_t i = 0; i < load->limit; i++) {
		if (load->slots[i].planned_ns) {
			record_end(load, load->slots[i].planned_ns, now);
			count_reason(load, name, example);
		}
	}
}

/* Waits for the last calls, whose deadlines bound it; being asked to stop (again) ends that, too. */
static void wait_for_rest(struct load *load, struct pulse *pulse)
{
	int stop_count = pulse->stop_count;

	load->is_ending = true;
	while (load->ended < load->started && pulse->stop_count == stop_count && !load->unreached.code) {
		beat(load, pulse, now_ns());
		wait_until(load, now_ns() + TICK_NS);
	}
	if (load->unreached.code)
		load->is_abandoned = true;
	else
		abandon_rest(load, "not waited for", "the load was interrupted while the call was under way");
}

/* Returns false if nobody could be reached. */
static bool run_load(struct load *load, struct pulse *pulse)
{
	const struct load_args *given = load->given;
	uint64_t duration_ns = given->duration_ns ? given->duration_ns : given->total ? UINT64_MAX / 4 : DURATION_DEFAULT_NS;
	uint64_t end_ns = pulse->begin_ns + duration_ns;

	pthread_mutex_lock(&load->lock);
	load->is_restarting = given->rate <= 0;
	start_first(load, pulse->begin_ns);
	if (given->rate > 0)
		run_open(load, pulse, end_ns);
	else
		run_closed(load, pulse, end_ns);
	uint64_t stop_ns = now_ns();
	wait_for_rest(load, pulse);
	/* A slow open loop has had nothing to do for a while: that is part of the time. */
	if (!given->total && load->last_end_ns < stop_ns)
		load->last_end_ns = stop_ns;
	pthread_mutex_unlock(&load->lock);
	if (pulse->has_progress)
		fprintf(stderr, "\r\033[K");
	return !load->unreached.code;
}

/* ---- results ---- */

struct quantile {
	const char *name, *title;
	double share;
};

static const struct quantile quantiles[] = { { "p50", "p50", 0.5 },    { "p90", "p90", 0.9 },	     { "p95", "p95", 0.95 },
					     { "p99", "p99", 0.99 }, { "p999", "p99.9", 0.999 }, { "max", "max", 1.0 } };
enum { QUANTILE_COUNT = sizeof(quantiles) / sizeof(quantiles[0]) };

static const char *arrivals(const struct load_args *given)
{
	return given->rate <= 0 ? "on completion" : given->is_poisson ? "poisson" : "constant";
}

static int print_result_json(const struct load *load, const struct target *target, double seconds)
{
	json_t *root = json_object(), *latency = json_object(), *errors = json_object(), *examples = json_object();

	json_object_set_new(root, "service", json_text(target->service, strlen(target->service)));
	json_object_set_new(root, "path", json_text(load->opts.path, strlen(load->opts.path)));
	json_object_set_new(root, "loop", json_string(load->given->rate > 0 ? "open" : "closed"));
	json_object_set_new(root, "arrivals", json_string(arrivals(load->given)));
	json_object_set_new(root, "concurrency", json_integer((json_int_t)load->limit));
	json_object_set_new(root, "rate", load->given->rate > 0 ? json_real(load->given->rate) : json_null());
	json_object_set_new(root, "seconds", json_real(seconds));
	json_object_set_new(root, "requests", json_integer((json_int_t)load->ended));
	json_object_set_new(root, "ok", json_integer((json_int_t)load->ok));
	json_object_set_new(root, "failed", json_integer((json_int_t)(load->ended - load->ok)));
	json_object_set_new(root, "rps", json_real(seconds > 0 ? (double)load->ended / seconds : 0));
	json_object_set_new(root, "received_bytes", json_integer((json_int_t)load->received_bytes));
	for (size_t i = 0; i < QUANTILE_COUNT; i++)
		json_object_set_new(latency, quantiles[i].name,
				    json_real((double)histogram_quantile(&load->latencies, quantiles[i].share) / 1e3));
	json_object_set_new(root, "latency_us", latency);
	for (size_t i = 0; i < load->reason_count; i++) {
		const struct reason *reason = &load->reasons[i];
		json_object_set_new(errors, reason->name, json_integer((json_int_t)reason->count));
		json_object_set_new(examples, reason->name, json_text(reason->example, strlen(reason->example)));
	}
	json_object_set_new(root, "errors", errors);
	json_object_set_new(root, "examples", examples);
	return print_json(root);
}

static void print_title(const struct load *load, const struct target *target, double seconds)
{
	const struct load_args *given = load->given;

	print_escaped(stdout, target->service, strlen(target->service), false);
	printf(" ");
	print_escaped(stdout, load->opts.path, strlen(load->opts.path), false);
	printf(" for %.1fs: ", seconds);
	if (given->rate > 0)
		printf("open loop, %g calls per second with %s gaps; latencies count from the planned time\n", given->rate,
		       given->is_poisson ? "random (Poisson)" : "equal");
	else
		printf("closed loop, %llu calls always under way\n", (unsigned long long)load->limit);
}

static void print_result(const struct load *load, const struct target *target, double seconds)
{
	uint64_t failed = load->ended - load->ok;
	char a[HUMAN_BYTES], b[HUMAN_BYTES];

	print_title(load, target, seconds);
	printf("\n  requests   %12s   %s/s\n", human_count(a, load->ended), human_rate(b, seconds > 0 ? (double)load->ended / seconds : 0));
	printf("  succeeded  %12s   %s\n", human_count(a, load->ok), human_share(b, load->ok, load->ended));
	printf("  failed     ");
	paint(stdout, failed ? RED : PLAIN, "%12s\n", human_count(a, failed));
	printf("  received   %12s\n\n ", human_bytes(a, load->received_bytes));
	for (size_t i = 0; i < QUANTILE_COUNT; i++)
		paint(stdout, BOLD, " %9s", quantiles[i].title);
	printf("\n ");
	for (size_t i = 0; i < QUANTILE_COUNT; i++)
		printf(" %9s", human_duration(a, histogram_quantile(&load->latencies, quantiles[i].share)));
	printf("\n");
	if (load->reason_count > 0)
		printf("\nFailures:\n");
	for (size_t i = 0; i < load->reason_count; i++) {
		const struct reason *reason = &load->reasons[i];
		paint(stdout, RED, "%12s  %s", human_count(a, reason->count), reason->name);
		printf("%s", *reason->example ? ", for example: " : "");
		print_escaped(stdout, reason->example, strlen(reason->example), false);
		putchar('\n');
	}
}

/* ---- set up ---- */

static bool load_init(struct load *load, const struct load_args *given)
{
	pthread_condattr_t attributes;

	load->given = given;
	load->limit = given->concurrency ? given->concurrency : given->rate > 0 ? OPEN_LIMIT_DEFAULT : CLOSED_DEFAULT;
	load->random = now_ns() | 1;
	pthread_mutex_init(&load->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&load->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	load->slots = calloc(load->limit, sizeof(*load->slots));
	for (uint64_t i = 0; load->slots && i < load->limit; i++) {
		load->slots[i].load = load;
		release_slot(load, &load->slots[i]);
	}
	return load->slots != NULL;
}

static void load_fini(struct load *load)
{
	free(load->slots);
	pthread_cond_destroy(&load->changed);
	pthread_mutex_destroy(&load->lock);
}

static int measure(struct load *load, const struct target *target)
{
	struct mesh_error err = MESH_ERROR_INIT;
	struct pulse pulse = { 0 };
	mesh *m = NULL;
	int status;

	signals_catch();
	status = session_open(NULL, NULL, 0, &m);
	if (status != EXIT_DONE)
		return status;
	session_await_identity(m);
	if (mesh_client_new(m, target->service, &load->client, &err) != 0) {
		complain_error(&err);
		status = session_status(&err);
		goto out;
	}
	pulse.begin_ns = now_ns();
	pulse.progress_ns = pulse.begin_ns + PROGRESS_NS;
	pulse.has_progress = !load->given->is_quiet && isatty(STDERR_FILENO);
	bool is_reached = run_load(load, &pulse);
	double seconds = (double)(load->last_end_ns - pulse.begin_ns) / 1e9;
	if (load->given->is_json)
		status = print_result_json(load, target, seconds);
	else if (is_reached)
		print_result(load, target, seconds);
	if (!is_reached) {
		complain_error(&load->unreached);
		if (load->unreached.code == MESH_E_NO_NAME)
			counters_suggest(target->service);
		status = session_status(&load->unreached);
	}
	if (status == EXIT_DONE && load->ok < load->ended)
		status = EXIT_FAILED;
out:
	mesh_client_free(load->client);
	mesh_close(m);
	return status;
}

static int run_parsed(const struct load_args *given, const char *operand)
{
	struct load *load = calloc(1, sizeof(*load));
	struct payload payload = { 0 };
	struct target target;
	int status = EXIT_USAGE;

	if (!load) {
		complain("out of memory");
		return EXIT_FAILED;
	}
	if (!target_parse(operand, &target)) {
		free(load);
		return EXIT_USAGE;
	}
	if (payload_init(&payload, given->data, given->is_hex, given->grpc, &given->headers, target.path)) {
		load->opts = (struct mesh_call_options){ .size = sizeof(load->opts), .method = given->method, .on_event = on_event };
		load->opts.flags = (given->grpc ? MESH_CALL_GRPC : 0) | (given->is_idempotent ? MESH_CALL_IDEMPOTENT : 0);
		load->opts.timeout_ms = (uint32_t)((given->timeout_ns + 999999) / 1000000);
		payload_apply(&payload, &load->opts);
		if (load_init(load, given)) {
			status = measure(load, &target);
		} else {
			complain("out of memory");
			status = EXIT_FAILED;
		}
		load_fini(load);
	}
	payload_fini(&payload);
	target_fini(&target);
	free(load);
	return status;
}

static int run(const struct command *cmd, int argc, char **argv)
{
	struct load_args given = { 0 };
	int first, status = EXIT_USAGE;
	enum args_result result = args_parse(cmd, argc, argv, &given, &first);

	if (result == ARGS_DONE)
		status = EXIT_DONE;
	else if (result == ARGS_GO && argc - first != 1)
		complain("%s: mesh load NAME[/path]", argc == first ? "which service?" : "one target only");
	else if (result == ARGS_GO && given.is_poisson && given.rate <= 0)
		complain("--poisson is for an open loop: it needs --rate");
	else if (result == ARGS_GO)
		status = run_parsed(&given, argv[first]);
	args_list_free(&given.headers);
	return status;
}

const struct command command_load = {
	"load", "NAME[/path]", "load: closed loop with -c, open loop with -r",
	"  mesh load users/7 -c 64 -d 30\n"
	"  mesh load users/7 -r 500 --poisson --json\n"
	"  mesh load users --grpc shop.Users/Get --hex --data 0a0137 -n 10k\n\n"
	"A closed loop starts a call when another one ends: it finds out what a service can do. An open loop starts calls at\n"
	"planned times and counts latencies from there: it shows what users feel, also when the service stalls. Latencies are\n"
	"those of all calls, failed ones too. Ctrl-C ends early, with the summary. Exit status 1 if any call failed (an HTTP\n"
	"status of 400 or more, a gRPC status other than OK, no answer), 3 if the first one could reach nobody.\n",
	args, run, false
};
