/*
 * Our side of the benchmarks, calling, by the public API.
 *
 *	--mode callback   --streams N calls under way, started again from their callbacks on the loop
 *	--mode blocking   one call at a time, mesh_client_call()
 *	--mode base       as callback, on an event_base that this thread turns
 *	--endpoints N     the server's address under N loopback addresses, 127.0.0.1 to 127.0.0.N, to balance over
 *	--connections N   as many clients, each a mesh of its own: one connection each
 */
#include "bench.h"

#include "mesh/client.h"

#include <event2/event.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

static uint8_t framed[BENCH_FRAMED_BYTES];
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
		.body = framed + 5, .body_len = BENCH_MESSAGE_BYTES,
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

static void done(const struct mesh_event *event, void *user)
{
	struct slot *slot = user;
	struct mesh_error err = MESH_ERROR_INIT;

	if (is_over)
		return;
	if (event->code && !window->failed) {
		mesh_call_error(event->call, &err);
		fprintf(stderr, "%s\n", err.message);
	}
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

int main(int argc, char **argv)
{
	struct bench_args args = bench_parse(argc, argv);
	mesh_client *client = NULL;
	struct slot *slots;

	bench_framed_message(framed);
	if (strcmp(args.mode, "base") == 0)
		base = event_base_new();
	slots = calloc((size_t)args.connections * (size_t)args.streams, sizeof(*slots));
	for (int i = 0; i < args.connections; i++) {
		client = open_client(&args);
		for (int k = 0; k < args.streams; k++)
			slots[i * args.streams + k].client = client;
	}
	window = bench_window_new(&args);
	if (strcmp(args.mode, "blocking") == 0)
		run_blocking(client);
	for (int i = 0; i < args.connections * args.streams; i++)
		start(&slots[i]);
	if (base)
		event_base_dispatch(base);
	for (;;)
		poll(NULL, 0, 1000);
}
