/*
 * A small shop, for the demo: one program, several services, each a process of its own.
 *
 *	shop web      GET /ID   asks users and orders, at the same time
 *	shop orders   GET /ID   asks stock and users, at the same time
 *	shop users    GET /ID   answers after 2 ms, as if it had asked a database
 *	shop stock    GET /ID   answers after 20 ms, as if it had asked a warehouse
 *
 * Nothing blocks: a handler starts its calls and returns, and the last one that ends answers. A call that fails is told upwards
 * as 502, and as one line of JSON on standard error, with the library's own sentence about it.
 *
 * SIGUSR1 makes a leaf slow, SIGUSR2 as before; SIGTERM drains the process. It also ends with whoever started it.
 */
#include <mesh/server.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { CALLS_MAX = 2, WAITING_MAX = 4096, BODY_BYTES = 512 };

#define SLOW_NS UINT64_C(150000000)

struct role {
	const char *name;
	const char *calls[CALLS_MAX]; /* services to ask for each request; none: a leaf */
	uint64_t think_ns;	      /* what a leaf takes for an answer */
};

static const struct role roles[] = {
	{ "web", { "users", "orders" }, 0 },
	{ "orders", { "stock", "users" }, 0 },
	{ "users", { NULL }, 2000000 },
	{ "stock", { NULL }, 20000000 },
};

static const struct role *role;
static mesh_client *clients[CALLS_MAX];
static _Atomic uint64_t think_ns;

/* ---- leaves: an answer after some time ---- */

/*
 * Requests in the order in which they came; the thread answers the first when it is due. A queue is enough, since the time to
 * think changes rarely: right after a change some answers come a little late.
 */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	mesh_request *requests[WAITING_MAX];
	uint64_t due_ns[WAITING_MAX];
	size_t first, count;
} waiting = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void reply(mesh_request *request, int status, const char *body)
{
	static const struct mesh_header headers[] = { { "content-type", "application/json", 0, 0 } };
	struct mesh_reply answer = { .size = sizeof(answer), .http_status = status, .headers = headers, .header_count = 1 };

	answer.body = body;
	answer.body_len = strlen(body);
	mesh_request_reply(request, &answer); /* whoever gave up waiting does not need it */
}

static void *answer_leaves(void *nothing)
{
	char body[BODY_BYTES];

	(void)nothing;
	for (;;) {
		pthread_mutex_lock(&waiting.lock);
		while (waiting.count == 0)
			pthread_cond_wait(&waiting.changed, &waiting.lock);
		mesh_request *request = waiting.requests[waiting.first];
		uint64_t due_ns = waiting.due_ns[waiting.first];
		waiting.first = (waiting.first + 1) % WAITING_MAX;
		waiting.count--;
		pthread_mutex_unlock(&waiting.lock);

		struct timespec due = { (time_t)(due_ns / 1000000000), (long)(due_ns % 1000000000) };
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
		snprintf(body, sizeof(body), "{\"service\":\"%s\",\"pid\":%d}\n", role->name, (int)getpid());
		reply(request, 200, body);
		mesh_request_unref(request);
	}
	return NULL;
}

static void on_leaf(mesh_request *request, void *user)
{
	bool is_taken = false;

	(void)user;
	pthread_mutex_lock(&waiting.lock);
	if (waiting.count < WAITING_MAX) {
		size_t last = (waiting.first + waiting.count++) % WAITING_MAX;
		waiting.requests[last] = mesh_request_ref(request);
		waiting.due_ns[last] = now_ns() + atomic_load(&think_ns);
		pthread_cond_signal(&waiting.changed);
		is_taken = true;
	}
	pthread_mutex_unlock(&waiting.lock);
	if (!is_taken)
		reply(request, 503, "{\"error\":\"too many requests wait already\"}\n");
}

/* ---- callers: ask others, then answer ---- */

struct errand {
	mesh_request *request;
	atomic_int open_calls;
	atomic_bool has_failed;
};

static void print_text(FILE *file, const char *text)
{
	for (; *text; text++)
		fprintf(file, (unsigned char)*text < 0x20 || *text == '"' || *text == '\\' ? "\\u%04x" : "%c", (unsigned char)*text);
}

static void report(const char *service, const struct mesh_error *err, int http_status)
{
	flockfile(stderr);
	fprintf(stderr, "{\"from\":\"%s\",\"to\":\"%s\",\"code\":\"%s\",\"http_status\":%d,\"stage\":\"%s\",\"in_doubt\":%s,\"endpoint\":\"", role->name,
		service, mesh_error_name(err->code), http_status, mesh_stage_name(err->stage), err->in_doubt ? "true" : "false");
	print_text(stderr, err->endpoint);
	fprintf(stderr, "\",\"message\":\"");
	print_text(stderr, err->message);
	fprintf(stderr, "\"}\n");
	funlockfile(stderr);
}

static void end_call(struct errand *errand)
{
	char body[BODY_BYTES];

	if (atomic_fetch_sub(&errand->open_calls, 1) > 1)
		return;
	bool has_failed = atomic_load(&errand->has_failed);
	snprintf(body, sizeof(body), "{\"service\":\"%s\",\"pid\":%d%s}\n", role->name, (int)getpid(), has_failed ? ",\"error\":\"a call failed\"" : "");
	reply(errand->request, has_failed ? 502 : 200, body);
	mesh_request_unref(errand->request);
	free(errand);
}

static void fail_call(struct errand *errand, const char *service, const struct mesh_error *err, int http_status)
{
	atomic_store(&errand->has_failed, true);
	report(service, err, http_status);
	end_call(errand);
}

static void on_done(const struct mesh_event *event, void *user, const char *service)
{
	struct errand *errand = user;
	struct mesh_error err = MESH_ERROR_INIT;
	int http_status = mesh_call_http_status(event->call);

	if (event->type != MESH_EVENT_CALL_DONE)
		return;
	if (event->code == 0 && http_status < 400) {
		end_call(errand);
		return;
	}
	mesh_call_error(event->call, &err);
	if (event->code == 0)
		snprintf(err.message, sizeof(err.message), "%s answered with HTTP status %d", service, http_status);
	fail_call(errand, service, &err, http_status);
}

static void on_first_done(const struct mesh_event *event, void *user)
{
	on_done(event, user, role->calls[0]);
}

static void on_second_done(const struct mesh_event *event, void *user)
{
	on_done(event, user, role->calls[1]);
}

static void on_errand(mesh_request *request, void *user)
{
	static const mesh_event_fn on_dones[CALLS_MAX] = { on_first_done, on_second_done };
	struct errand *errand = calloc(1, sizeof(*errand));
	int64_t remaining_ms = mesh_request_remaining_ms(request);

	(void)user;
	if (!errand) {
		reply(request, 503, "{\"error\":\"out of memory\"}\n");
		return;
	}
	errand->request = mesh_request_ref(request);
	atomic_init(&errand->open_calls, CALLS_MAX);
	for (int i = 0; i < CALLS_MAX; i++) {
		struct mesh_call_options opts = { .size = sizeof(opts), .path = mesh_request_path(request), .on_event = on_dones[i], .user = errand };
		struct mesh_error err = MESH_ERROR_INIT;
		if (remaining_ms > 0)
			opts.timeout_ms = (uint32_t)remaining_ms;
		if (mesh_client_start(clients[i], &opts, NULL, &err) != 0)
			fail_call(errand, role->calls[i], &err, 0);
	}
}

/* ---- life ---- */

static int fail(const char *what, const struct mesh_error *err)
{
	fprintf(stderr, "shop %s: %s: %s\n", role ? role->name : "", what, err->message);
	return 1;
}

static const struct role *find_role(const char *name)
{
	for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
		if (strcmp(roles[i].name, name) == 0)
			return &roles[i];
	}
	return NULL;
}

static int start(mesh *m, mesh_server **server, struct mesh_error *err)
{
	struct mesh_server_options opts = { .size = sizeof(opts) };
	pthread_t thread;

	for (int i = 0; i < CALLS_MAX && role->calls[i]; i++) {
		if (mesh_client_new(m, role->calls[i], &clients[i], err) != 0)
			return -1;
	}
	if (!role->calls[0] && pthread_create(&thread, NULL, answer_leaves, NULL) != 0) {
		snprintf(err->message, sizeof(err->message), "no thread for the answers");
		return -1;
	}
	if (mesh_server_new(m, &opts, server, err) != 0 ||
	    mesh_server_handle(*server, "/*", 0, role->calls[0] ? on_errand : on_leaf, NULL, err) != 0)
		return -1;
	return mesh_server_start(*server, err);
}

static void wait_for_end(const sigset_t *signals)
{
	for (;;) {
		int signal_number = sigwaitinfo(signals, NULL);
		if (signal_number == SIGUSR1)
			atomic_store(&think_ns, SLOW_NS);
		else if (signal_number == SIGUSR2)
			atomic_store(&think_ns, role->think_ns);
		else if (signal_number == SIGTERM || signal_number == SIGINT)
			return;
	}
}

int main(int argc, char **argv)
{
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_server *server = NULL;
	mesh *m = NULL;
	sigset_t signals;

	role = argc == 2 ? find_role(argv[1]) : NULL;
	if (!role) {
		fprintf(stderr, "Usage: shop web|orders|users|stock\n");
		return 2;
	}
	atomic_store(&think_ns, role->think_ns);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGUSR1);
	sigaddset(&signals, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);

	opts.service = role->name;
	if (mesh_open(&opts, &m, &err) != 0)
		return fail("cannot open the mesh", &err);
	if (start(m, &server, &err) != 0)
		return fail("cannot start", &err);
	printf("%s %d %s\n", role->name, (int)getpid(), mesh_server_address(server));
	fflush(stdout);
	wait_for_end(&signals);

	int status = mesh_drain(m, &err) == 0 ? 0 : fail("drained with work left", &err);
	for (int i = 0; i < CALLS_MAX; i++)
		mesh_client_free(clients[i]);
	mesh_server_free(server);
	mesh_close(m);
	return status;
}
