/*
 * Our side of the benchmarks, calling, by the public API.
 *
 *	--mode callback   --streams N calls under way, started again from their callbacks on the loop
 *	--mode blocking   one call at a time, mesh_client_call()
 *	--mode base       as callback, on an event_base that this thread turns
 *	--mode open       --rate calls per second, those of each 0.2 ms at its end, whether others are answered or not, and latency counted
 *	                  from that moment on; ends when all have ended. `good`: in order and within 100 ms
 *	--endpoints N     the server's address under N loopback addresses, 127.0.0.1 to 127.0.0.N, to balance over
 *	--connections N   as many clients, each a mesh of its own: one connection each
 */
#include "bench.h"

#include "mesh/client.h"

#include <event2/event.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

enum { GOOD_US = 100 * 1000, PACE_NS = 200 * 1000 };

static uint8_t *framed;
static size_t framed_len;
static struct bench_window *window;
static struct event_base *base;
static int is_over;

struct slot {
	mesh_client *client;
	uint64_t started_ns;
};

static struct mesh_call_options call_options(void)
{
	return (struct mesh_call_options){
		.size = sizeof(struct mesh_call_options), .flags = MESH_CALL_GRPC, .path = BENCH_PATH, .timeout_ms = 10000,
		.body = framed + BENCH_PREFIX_BYTES, .body_len = framed_len - BENCH_PREFIX_BYTES,
	};
}

static void done(const struct mesh_event *event, void *user);

static void start(struct slot *slot)
{
	struct mesh_call_options opts = call_options();

	opts.on_event = done;
	opts.user = slot;
	slot->started_ns = bench_now_ns();
	if (mesh_client_start(slot->client, &opts, NULL, NULL))
		exit(1);
}

/* Of the first that fails. */
static void tell(const struct mesh_event *event)
{
	static int has_told;
	struct mesh_error err = MESH_ERROR_INIT;

	if (has_told++)
		return;
	mesh_call_error(event->call, &err);
	fprintf(stderr, "%s\n", err.message);
}

static void done(const struct mesh_event *event, void *user)
{
	struct slot *slot = user;

	if (is_over)
		return;
	if (event->code)
		tell(event);
	if (bench_window_add(window, slot->started_ns, bench_now_ns(), event->code == 0)) {
		start(slot);
		return;
	}
	is_over = 1;
	bench_window_print(window);
	_exit(0); /* others are under way, and their end is not what is measured */
}

static mesh_client *open_client(const struct bench_args *args)
{
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	char uri[4096];
	struct mesh_setting setting = { "discovery", uri };
	size_t len = (size_t)snprintf(uri, sizeof(uri), "static:echo=%s:%d", args->host, args->port);
	mesh_client *client;
	mesh *m;

	for (int i = 2; i <= args->endpoints && len < sizeof(uri) - 32; i++)
		len += (size_t)snprintf(uri + len, sizeof(uri) - len, ",127.0.0.%d:%d", i, args->port);
	opts.service = "bench";
	opts.settings = &setting;
	opts.setting_count = 1;
	opts.event_base = base;
	if (mesh_open(&opts, &m, &err) || mesh_client_new(m, "echo", &client, &err)) {
		fprintf(stderr, "%s\n", err.message);
		exit(1);
	}
	return client;
}

static void run_blocking(mesh_client *client)
{
	struct mesh_call_options opts = call_options();
	uint64_t started_ns;
	int rc;

	do {
		started_ns = bench_now_ns();
		rc = mesh_client_call(client, &opts, NULL, NULL);
	} while (bench_window_add(window, started_ns, bench_now_ns(), rc == 0));
	bench_window_print(window);
	_exit(0);
}

/* --- open loop: on our own event_base, so that starting a call wakes nobody --- */

static struct {
	const struct bench_args *args;
	mesh_client *client;
	struct event *tick;
	struct bench_histogram ok;
	uint64_t failed, begun, ended;
	uint64_t next_ns; /* when the next calls are due */
	double owed;      /* calls, of less than a whole one */
	double cpu_us;    /* at the beginning of the window, then of the window */
} paced;

static void paced_print(void)
{
	printf("{\"calls\": %llu, \"failed\": %llu, \"good\": %llu, \"seconds\": %.4f, \"cpu_us\": %.0f, \"p50_us\": %.3f, \"p90_us\": %.3f, "
	       "\"p99_us\": %.3f}\n", (unsigned long long)(paced.ok.count + paced.failed), (unsigned long long)paced.failed,
	       (unsigned long long)bench_count_within(&paced.ok, GOOD_US), paced.args->seconds, paced.cpu_us, bench_quantile_us(&paced.ok, 0.5),
	       bench_quantile_us(&paced.ok, 0.9), bench_quantile_us(&paced.ok, 0.99));
	fflush(stdout);
	_exit(0);
}

static void paced_end_if_done(void)
{
	if (paced.next_ns >= window->ends_ns && paced.ended == paced.begun)
		paced_print();
}

static void paced_done(const struct mesh_event *event, void *user)
{
	uint64_t due_ns = (uint64_t)(uintptr_t)user;

	paced.ended++;
	if (event->code)
		tell(event);
	if (due_ns >= window->begins_ns) {
		if (event->code == 0) {
			paced.ok.count++;
			paced.ok.bucket[bench_bucket_of(bench_now_ns() - due_ns)]++;
		} else {
			paced.failed++;
		}
	}
	paced_end_if_done();
}

static void start_due(uint64_t due_ns)
{
	struct mesh_call_options opts = call_options();

	opts.on_event = paced_done;
	opts.user = (void *)(uintptr_t)due_ns;
	for (paced.owed += paced.args->rate * PACE_NS / 1e9; paced.owed >= 1; paced.owed--) {
		if (mesh_client_start(paced.client, &opts, NULL, NULL) == 0)
			paced.begun++;
		else if (due_ns >= window->begins_ns)
			paced.failed++;
	}
}

static void on_pace(evutil_socket_t fd, short what, void *user)
{
	struct timeval wait = { 0, 0 };
	uint64_t now_ns = bench_now_ns();

	(void)fd, (void)what, (void)user;
	for (; paced.next_ns <= now_ns && paced.next_ns < window->ends_ns; paced.next_ns += PACE_NS) {
		if (paced.cpu_us == 0 && paced.next_ns >= window->begins_ns)
			paced.cpu_us = bench_cpu_us();
		start_due(paced.next_ns);
	}
	if (paced.next_ns < window->ends_ns) {
		wait.tv_usec = (suseconds_t)((paced.next_ns - now_ns + 999) / 1000);
		event_add(paced.tick, &wait);
		return;
	}
	paced.cpu_us = bench_cpu_us() - paced.cpu_us;
	paced_end_if_done();
}

static void run_open(mesh_client *client, const struct bench_args *args)
{
	struct timeval now = { 0, 0 };

	paced.args = args;
	paced.client = client;
	paced.next_ns = bench_now_ns();
	paced.tick = event_new(base, -1, 0, on_pace, NULL);
	event_add(paced.tick, &now);
	event_base_dispatch(base);
}

static struct event_base *new_base(const char *mode)
{
	struct event_config *config = event_config_new();
	struct event_base *made;

	/* Timers in microseconds, which is a timerfd and has its price: for those only who pace by them. */
	if (strcmp(mode, "open") == 0)
		event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER);
	made = event_base_new_with_config(config);
	event_config_free(config);
	return made;
}

int main(int argc, char **argv)
{
	struct bench_args args = bench_parse(argc, argv);
	mesh_client *client = NULL;
	struct slot *slots;

	framed = bench_framed_message((size_t)args.payload, &framed_len);
	if (strcmp(args.mode, "base") == 0 || strcmp(args.mode, "open") == 0)
		base = new_base(args.mode);
	slots = calloc((size_t)args.connections * (size_t)args.streams, sizeof(*slots));
	for (int i = 0; i < args.connections; i++) {
		client = open_client(&args);
		for (int k = 0; k < args.streams; k++)
			slots[i * args.streams + k].client = client;
	}
	window = bench_window_new(&args);
	if (strcmp(args.mode, "open") == 0 && args.rate <= 0)
		bench_usage(argv[0]);
	if (strcmp(args.mode, "blocking") == 0)
		run_blocking(client);
	if (strcmp(args.mode, "open") == 0)
		run_open(client, &args);
	for (int i = 0; i < args.connections * args.streams; i++)
		start(&slots[i]);
	if (base)
		event_base_dispatch(base);
	for (;;)
		poll(NULL, 0, 1000);
}
