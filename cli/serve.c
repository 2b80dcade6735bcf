/*
 * mesh serve: a test backend. HTTP requests are answered with JSON that tells what came and who answered; a gRPC call of any
 * method gets each of its messages back, so that it serves all four kinds: a unary call is a stream of one.
 *
 * Handlers run on the loop and never wait: a delayed answer is handed to the thread of delay.c. A gRPC stream is touched by
 * the loop (its events) and by that thread (the end of its delay), so it has a lock; `pump` is all that happens under it.
 */
#include "command.h"
#include "delay.h"
#include "output.h"
#include "session.h"

#include "mesh/identity.h"
#include "mesh/server.h"
#include "mesh/stats.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct serve_args {
	const char *listen;
	uint64_t port, delay_ns, slow_ns, seconds_ns;
	double fail_percent;
	bool is_grpc, is_quiet;
};

#define AT(field) offsetof(struct serve_args, field)

static const struct arg args[] = {
	{ "grpc", 0, ARG_FLAG, AT(is_grpc), NULL, "gRPC only (without it, HTTP and gRPC)", 0, 0 },
	{ "port", 'p', ARG_COUNT, AT(port), "PORT", "port to listen on (default: a free one)", 0, 65535 },
	{ "listen", 0, ARG_TEXT, AT(listen), "HOST:PORT", "address to listen on (default: option `listen`)", 0, 0 },
	{ "delay", 0, ARG_DURATION, AT(delay_ns), "TIME", "wait before each answer, as in 20ms", 0, 3600 },
	{ "slow", 0, ARG_DURATION, AT(slow_ns), "TIME", "the delay after SIGUSR1, until SIGUSR2 (default: 200ms)", 0, 3600 },
	{ "fail", 0, ARG_PERCENT, AT(fail_percent), "PCT", "answer that many calls with HTTP 500, or gRPC INTERNAL", 0, 100 },
	{ "seconds", 0, ARG_DURATION, AT(seconds_ns), "SECS", "drain and end by itself after that time", 0.001, 0 },
	{ "quiet", 'q', ARG_FLAG, AT(is_quiet), NULL, "print nothing but errors", 0, 0 },
	{ 0 },
};

enum { FAIL_SCALE = 1000000 };

struct backend {
	struct delay *delay;
	const char *service;
	char address[128];
	uint32_t fail_ppm;
	/* any thread */
	_Atomic uint64_t delay_ns;
	_Atomic uint64_t http_count, grpc_count, message_count, failed_count, lost_count;
	_Atomic uint64_t chance;
};

/* An evenly spread sequence (Weyl): of any 100 calls in a row, PCT fail, give or take one. */
static bool has_to_fail(struct backend *backend)
{
	uint64_t step = UINT64_C(0x9e3779b97f4a7c15);

	if (backend->fail_ppm == 0)
		return false;
	uint64_t place = atomic_fetch_add(&backend->chance, step) + step;
	if ((uint64_t)((double)(place >> 11) * 0x1p-53 * FAIL_SCALE) >= backend->fail_ppm)
		return false;
	atomic_fetch_add(&backend->failed_count, 1);
	return true;
}

/* ---- HTTP ---- */

struct pending {
	struct backend *backend;
	mesh_request *request;
};

static json_t *headers_json(const mesh_request *request)
{
	json_t *headers = json_object();
	struct mesh_header header;

	for (uint32_t i = 0; mesh_request_header_at(request, i, &header) == 0; i++) {
		size_t name_len = header.name_len ? header.name_len : strlen(header.name);
		size_t value_len = header.value_len ? header.value_len : strlen(header.value);
		if (name_len > 0 && header.name[0] != ':')
			json_object_setn_new(headers, header.name, name_len, json_text(header.value, value_len));
	}
	return headers;
}

static char *describe_request(struct backend *backend, const mesh_request *request, uint64_t number)
{
	json_t *root = json_object();
	uint64_t len = 0;
	const void *body = mesh_request_body(request, &len);
	const char *path = mesh_request_path(request), *authority = mesh_request_authority(request);

	json_object_set_new(root, "service", json_string(backend->service));
	json_object_set_new(root, "pid", json_integer(getpid()));
	json_object_set_new(root, "address", json_string(backend->address));
	json_object_set_new(root, "request", json_integer((json_int_t)number));
	json_object_set_new(root, "method", json_string(mesh_request_method(request)));
	json_object_set_new(root, "path", json_text(path, strlen(path)));
	json_object_set_new(root, "authority", json_text(authority, strlen(authority)));
	json_object_set_new(root, "peer", json_string(mesh_request_peer(request)));
	json_object_set_new(root, "peer_id", json_string(mesh_request_peer_id(request)));
	json_object_set_new(root, "remaining_ms", json_integer(mesh_request_remaining_ms(request)));
	json_object_set_new(root, "headers", headers_json(request));
	if (len > 0)
		json_set_bytes(root, "body", body, len);
	char *text = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	return text;
}

static void answer_http(struct backend *backend, mesh_request *request)
{
	static const struct mesh_header headers[] = { { "content-type", "application/json", 0, 0 } };
	struct mesh_reply reply = { .size = sizeof(reply), .headers = headers, .header_count = 1 };
	uint64_t number = atomic_fetch_add(&backend->http_count, 1) + 1;
	char *text = NULL;

	if (has_to_fail(backend)) {
		reply.http_status = 500;
		reply.body = "{\"error\":\"this call was chosen to fail (--fail)\"}\n";
		reply.body_len = strlen(reply.body);
	} else {
		text = describe_request(backend, request, number);
		if (text) {
			size_t len = strlen(text);
			text[len] = '\n'; /* in place of the NUL: the length is told */
			reply.body = text;
			reply.body_len = len + 1;
		} else {
			reply.http_status = 500;
		}
	}
	if (mesh_request_reply(request, &reply) != 0)
		atomic_fetch_add(&backend->lost_count, 1);
	free(text);
}

static void answer_pending(void *user)
{
	struct pending *pending = user;

	answer_http(pending->backend, pending->request);
	mesh_request_unref(pending->request);
	free(pending);
}

static void on_http(mesh_request *request, void *user)
{
	struct backend *backend = user;
	uint64_t delay_ns = atomic_load(&backend->delay_ns);
	struct pending *pending = delay_ns ? malloc(sizeof(*pending)) : NULL;

	if (!pending) {
		answer_http(backend, request);
		return;
	}
	*pending = (struct pending){ backend, mesh_request_ref(request) };
	if (!delay_add(backend->delay, now_ns() + delay_ns, answer_pending, pending))
		answer_pending(pending);
}

/* ---- gRPC ---- */

struct stream {
	struct backend *backend;
	mesh_request *request;
	atomic_int refs; /* its events, and its delay */
	pthread_mutex_t lock;
	/* under the lock */
	bool is_delayed, is_done;
	struct mesh_message held; /* could not be sent yet; data NULL and owner NULL: none */
	bool has_held;
};

static void stream_unref(struct stream *stream)
{
	if (atomic_fetch_sub(&stream->refs, 1) > 1)
		return;
	mesh_request_unref(stream->request);
	pthread_mutex_destroy(&stream->lock);
	free(stream);
}

static void finish_stream(struct stream *stream, int32_t status, const char *message)
{
	struct mesh_reply reply = { .size = sizeof(reply), .grpc_status = status, .grpc_message = message };

	stream->is_done = true;
	mesh_request_finish(stream->request, &reply);
}

/* Sends back what has come, until nothing more is there or there is no room. */
static void pump(struct stream *stream)
{
	while (!stream->is_done && !stream->is_delayed) {
		if (!stream->has_held) {
			stream->held = (struct mesh_message){ .size = sizeof(stream->held) };
			int result = mesh_request_recv(stream->request, &stream->held, 0);
			if (result == MESH_E_AGAIN)
				return;
			if (result != 1) {
				finish_stream(stream, result == 0 ? 0 : 13, result == 0 ? NULL : mesh_error_text(result));
				return;
			}
			stream->has_held = true;
		}
		int result = mesh_request_send(stream->request, stream->held.data, stream->held.len, 0);
		if (result == MESH_E_AGAIN)
			return;
		mesh_message_release(&stream->held);
		stream->has_held = false;
		if (result != 0) {
			finish_stream(stream, 13, mesh_error_text(result));
			return;
		}
		atomic_fetch_add(&stream->backend->message_count, 1);
	}
}

static void end_delay(void *user)
{
	struct stream *stream = user;

	pthread_mutex_lock(&stream->lock);
	stream->is_delayed = false;
	pump(stream);
	pthread_mutex_unlock(&stream->lock);
	stream_unref(stream);
}

static void on_stream_event(const struct mesh_event *event, void *user)
{
	struct stream *stream = user;

	pthread_mutex_lock(&stream->lock);
	if (event->type == MESH_EVENT_REQUEST_ENDED) {
		stream->is_done = true;
		if (stream->has_held)
			mesh_message_release(&stream->held);
		stream->has_held = false;
		if (event->code != 0)
			atomic_fetch_add(&stream->backend->lost_count, 1);
	} else {
		pump(stream);
	}
	pthread_mutex_unlock(&stream->lock);
	if (event->type == MESH_EVENT_REQUEST_ENDED)
		stream_unref(stream);
}

static struct stream *stream_new(struct backend *backend, mesh_request *request)
{
	struct stream *stream = calloc(1, sizeof(*stream));

	if (!stream)
		return NULL;
	stream->backend = backend;
	stream->request = mesh_request_ref(request);
	atomic_init(&stream->refs, 1);
	pthread_mutex_init(&stream->lock, NULL);
	return stream;
}

static void on_grpc(mesh_request *request, void *user)
{
	struct backend *backend = user;
	uint64_t delay_ns = atomic_load(&backend->delay_ns);
	struct mesh_reply failure = { .size = sizeof(failure), .grpc_status = 13, .grpc_message = "this call was chosen to fail (--fail)" };

	atomic_fetch_add(&backend->grpc_count, 1);
	if (has_to_fail(backend)) {
		mesh_request_finish(request, &failure);
		return;
	}
	struct stream *stream = stream_new(backend, request);
	if (!stream)
		return; /* unanswered: the library answers for us */
	if (mesh_request_on_event(request, on_stream_event, stream) != 0) {
		stream_unref(stream);
		return;
	}
	pthread_mutex_lock(&stream->lock);
	if (delay_ns) {
		stream->is_delayed = true;
		atomic_fetch_add(&stream->refs, 1);
		if (!delay_add(backend->delay, now_ns() + delay_ns, end_delay, stream)) {
			stream->is_delayed = false;
			atomic_fetch_sub(&stream->refs, 1);
		}
	}
	pump(stream);
	pthread_mutex_unlock(&stream->lock);
}

/* ---- life ---- */

static void print_identity(const struct mesh_identity *identity, void *user)
{
	char id[2049];

	(void)user;
	if (!identity->is_default)
		return;
	mesh_stats_escape(id, sizeof(id), identity->id);
	printf("Calls are encrypted; this process shows itself as %s.\n", id);
}

static void print_encryption(mesh *m)
{
	struct mesh_identity_status status = MESH_IDENTITY_STATUS_INIT;

	fflush(stdout); /* somebody waits for the address */
	session_await_identity(m);
	if (mesh_identity_status(m, &status) || !status.is_tls)
		printf("Calls are plain text: anyone on the way can read and change them. Without MESH_TLS=off or MESH_IDENTITY=off they are encrypted.\n");
	else if (!status.generation)
		printf("Calls are encrypted, and none succeeds before there is an identity: mesh id shows why there is none.\n");
	else
		mesh_identity_list(m, print_identity, NULL);
}

static void print_start(mesh *m, const struct backend *backend, const struct serve_args *given)
{
	char text[HUMAN_BYTES];

	printf("%s listens on %s (process %d): %s\n", backend->service, backend->address, (int)getpid(),
	       given->is_grpc ? "any gRPC method is answered with its request" : "HTTP is answered with JSON, any gRPC method with its request");
	if (given->delay_ns)
		printf("Every answer waits %s.\n", human_duration(text, given->delay_ns));
	if (given->fail_percent > 0)
		printf("%g%% of the calls are answered with an error.\n", given->fail_percent);
	print_encryption(m);
	const char *what = given->is_grpc ? " --grpc any.Service/Method" : "/hello";
	printf("Try: mesh call %s%s     mesh load %s%s     mesh stat        Ctrl-C drains and ends.\n", backend->service, what, backend->service, what);
	fflush(stdout);
}

static void print_summary(struct backend *backend)
{
	char a[HUMAN_BYTES], b[HUMAN_BYTES], c[HUMAN_BYTES], d[HUMAN_BYTES], e[HUMAN_BYTES];

	printf("Served %s HTTP requests and %s gRPC calls (%s messages); %s failed on purpose, %s answers were not waited for.\n",
	       human_count(a, atomic_load(&backend->http_count)), human_count(b, atomic_load(&backend->grpc_count)),
	       human_count(c, atomic_load(&backend->message_count)), human_count(d, atomic_load(&backend->failed_count)),
	       human_count(e, atomic_load(&backend->lost_count)));
}

static void wait_for_end(struct backend *backend, const struct serve_args *given)
{
	uint64_t end_ns = given->seconds_ns ? now_ns() + given->seconds_ns : UINT64_MAX;

	for (;;) {
		uint64_t now = now_ns();
		if (now >= end_ns)
			return;
		int signal_number = signals_wait(end_ns == UINT64_MAX ? UINT64_MAX : end_ns - now);
		if (signal_number == SIGINT || signal_number == SIGTERM)
			return;
		if (signal_number != SIGUSR1 && signal_number != SIGUSR2)
			continue;
		uint64_t delay_ns = signal_number == SIGUSR2 ? given->delay_ns : given->slow_ns ? given->slow_ns : 200000000;
		char text[HUMAN_BYTES];
		atomic_store(&backend->delay_ns, delay_ns);
		if (!given->is_quiet)
			printf("The delay is %s now.\n", human_duration(text, delay_ns));
		fflush(stdout);
	}
}

static int start_server(mesh *m, struct backend *backend, const struct serve_args *given, mesh_server **out, struct mesh_error *err)
{
	char listen[64];
	struct mesh_server_options opts = { .size = sizeof(opts), .listen = given->listen };
	int result;

	if (given->port) {
		snprintf(listen, sizeof(listen), "127.0.0.1:%llu", (unsigned long long)given->port);
		opts.listen = listen;
	}
	result = mesh_server_new(m, &opts, out, err);
	if (result == 0 && !given->is_grpc)
		result = mesh_server_handle(*out, "*", 0, on_http, backend, err);
	if (result == 0)
		result = mesh_server_handle(*out, "*", MESH_HANDLER_GRPC | MESH_HANDLER_STREAM, on_grpc, backend, err);
	if (result == 0)
		result = mesh_server_start(*out, err);
	if (result == 0)
		snprintf(backend->address, sizeof(backend->address), "%s", mesh_server_address(*out));
	return result;
}

static int serve(const struct serve_args *given, const char *name)
{
	struct backend backend = { .service = name, .fail_ppm = (uint32_t)(given->fail_percent * FAIL_SCALE / 100 + 0.5) };
	struct mesh_error err = MESH_ERROR_INIT;
	mesh *m = NULL;
	mesh_server *server = NULL;
	int status;

	atomic_init(&backend.delay_ns, given->delay_ns);
	signals_catch();
	signal(SIGPIPE, SIG_IGN); /* whoever reads what we print may leave: those who call us shall not notice */
	status = session_open(name, NULL, 0, &m);
	if (status != EXIT_DONE)
		return status;
	backend.delay = delay_new();
	if (!backend.delay || start_server(m, &backend, given, &server, &err) != 0) {
		if (backend.delay)
			complain_error(&err);
		else
			complain("cannot start a thread");
		status = err.code ? session_status(&err) : EXIT_FAILED;
		goto out;
	}
	if (!given->is_quiet)
		print_start(m, &backend, given);
	wait_for_end(&backend, given);
	if (!given->is_quiet)
		printf("Draining: no new calls; waiting for those in flight. Once more ends it at once.\n");
	fflush(stdout);
	signals_let_quit();
	if (mesh_drain(m, &err) != 0) {
		complain_error(&err);
		status = EXIT_FAILED;
	}
	if (!given->is_quiet)
		print_summary(&backend);
out:
	delay_free(backend.delay); /* its last answers need the mesh */
	mesh_server_free(server);
	mesh_close(m);
	return status;
}

static int run(const struct command *cmd, int argc, char **argv)
{
	struct serve_args given = { 0 };
	int first;
	enum args_result result = args_parse(cmd, argc, argv, &given, &first);

	if (result != ARGS_GO)
		return result == ARGS_DONE ? EXIT_DONE : EXIT_USAGE;
	if (argc - first != 1) {
		complain("%s: mesh serve NAME", argc == first ? "under which name?" : "one name only");
		return EXIT_USAGE;
	}
	if (given.port && given.listen) {
		complain("--port and --listen both say where to listen: give one of them");
		return EXIT_USAGE;
	}
	return serve(&given, argv[first]);
}

const struct command command_serve = {
	"serve", "NAME", "a test backend that joins the mesh",
	"  mesh serve users                     HTTP and gRPC on a free port\n"
	"  mesh serve users --delay 20ms --fail 5%\n"
	"  mesh serve users --grpc              any gRPC method of any service, unary or streaming\n\n"
	"HTTP is answered with JSON: service, pid, address, method, path, headers and body of the request, and the peer with its ID. A\n"
	"gRPC call gets each of its messages back. HTTP means HTTP/2: curl needs --cert (see mesh-identity(7)). SIGUSR1\n"
	"makes the backend slow (--slow), SIGUSR2 as before. SIGTERM or Ctrl-C drains it: it leaves discovery, finishes what is in\n"
	"flight, and ends with a summary; a second one ends it at once.\n",
	args, run, false
};
