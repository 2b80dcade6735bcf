/* Opening and closing, foreign loops, fork, drain: nothing is left behind, nothing hangs, every call ends. */
#include "../lib/mesh_test.h"

#include <event2/event.h>
#include <fcntl.h>
#include <sys/resource.h>

static mesh_server *serve_echo(mesh *m)
{
	mesh_server *server = new_server(m, NULL);

	add_handler(server, "*", 0, answer_echo, NULL);
	add_handler(server, "*", MESH_HANDLER_GRPC, answer_echo, NULL);
	start_server(server);
	return server;
}

static void expect_call(mesh_client *client, int code)
{
	struct mesh_call_options opts = grpc_call("/t.S/Echo", "x", 1);
	struct mesh_error err = MESH_ERROR_INIT;
	int rc = mesh_client_call(client, &opts, NULL, &err);

	if (rc != code)
		fail_msg("%s instead of %s: %s", mesh_error_name(rc), mesh_error_name(code), err.message);
}

struct load {
	mesh_client *client;
	_Atomic bool stop;
	_Atomic int calls, failed;
};

static void *call_on(void *user)
{
	struct load *load = user;

	while (!atomic_load(&load->stop)) {
		struct mesh_call_options opts = grpc_call("/t.S/Echo", "x", 1);
		struct mesh_error err = MESH_ERROR_INIT;

		if (mesh_client_call(load->client, &opts, NULL, &err)) {
			print_message("%s\n", err.message);
			atomic_fetch_add(&load->failed, 1);
		}
		atomic_fetch_add(&load->calls, 1);
	}
	return NULL;
}

static void open_and_close_a_thousand_times_leaks_nothing(void **state)
{
	int descriptors = 0, threads = 0, times = getenv("MESH_TEST_FEWER") ? 100 : 1000;

	(void)state;
	for (int i = 0; i < times; i++) {
		mesh *m = OPEN_MESH("self");

		if (i % 10 == 0) {
			mesh_server *server = serve_echo(m);
			mesh_client *client = new_client(m, "self");

			expect_call(client, 0);
			mesh_client_free(client);
			mesh_server_free(server);
		}
		mesh_close(m);
		if (i == 20) {
			descriptors = count_descriptors();
			threads = count_threads();
		}
	}
	assert_int_equal(count_descriptors(), descriptors);
	assert_int_equal(count_threads(), threads);
}

static void things_may_be_freed_after_their_mesh(void **state)
{
	mesh *m = OPEN_MESH("self");
	mesh_server *server = serve_echo(m);
	mesh_client *client = new_client(m, "self");
	struct mesh_call_options opts = grpc_call("/t.S/Echo", "x", 1);
	mesh_queue *q;
	mesh_call *call, *done;
	struct mesh_event event = { .size = sizeof(event) };
	uint64_t len;

	(void)state;
	assert_int_equal(mesh_queue_new(m, &q, NULL), 0);
	assert_int_equal(mesh_client_call(client, &opts, &done, NULL), 0);
	opts.queue = q;
	assert_int_equal(mesh_client_start(client, &opts, &call, NULL), 0);
	mesh_close(m);
	/* The last event is there, whichever way the call went; then the queue says that no more will come. */
	assert_int_equal(mesh_queue_next(q, &event, 1, 5000), 1);
	assert_int_equal(event.type, MESH_EVENT_CALL_DONE);
	assert_int_equal(mesh_queue_next(q, &event, 1, 5000), MESH_E_CLOSING);
	assert_memory_equal(mesh_call_body(done, &len), "x", 1);
	assert_int_equal(mesh_client_start(client, &opts, NULL, NULL), MESH_E_CLOSING);
	mesh_call_cancel(call);
	mesh_call_unref(call);
	mesh_call_unref(done);
	mesh_client_free(client);
	mesh_server_free(server);
	mesh_queue_free(q);
}

static void park(mesh_request *request, void *user)
{
	mesh_request_unref(atomic_exchange((mesh_request *_Atomic *)user, mesh_request_ref(request)));
}

static void closing_ends_every_call_once_with_its_reason(void **state)
{
	mesh *m = OPEN_MESH("self");
	mesh_server *server = new_server(m, NULL);
	mesh_client *client = new_client(m, "self");
	struct mesh_call_options opts = grpc_call("/t.S/Park", "x", 1);
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_request *_Atomic parked = NULL;
	mesh_call *calls[50];

	(void)state;
	add_handler(server, "/t.S/Park", MESH_HANDLER_GRPC, park, (void *)(uintptr_t)&parked);
	start_server(server);
	for (int i = 0; i < 50; i++)
		assert_int_equal(mesh_client_start(client, &opts, &calls[i], NULL), 0);
	WAIT_FOR(atomic_load(&parked));
	mesh_close(m);
	for (int i = 0; i < 50; i++) {
		int code = mesh_call_wait(calls[i], 0, &err);

		assert_true(code == MESH_E_CLOSING || code == MESH_E_LOST || code == MESH_E_STATUS);
		assert_true(strlen(err.message) > 0);
		mesh_call_unref(calls[i]);
	}
	mesh_request_unref(parked);
	mesh_client_free(client);
	mesh_server_free(server);
}

static void requests_may_outlive_server_and_mesh(void **state)
{
	mesh *m = OPEN_MESH("self");
	mesh_server *server = new_server(m, NULL);
	mesh_client *client = new_client(m, "self");
	struct mesh_call_options opts = grpc_call("/t.S/Park", "x", 1);
	mesh_request *_Atomic parked = NULL;
	mesh_call *call;

	(void)state;
	add_handler(server, "/t.S/Park", MESH_HANDLER_GRPC, park, (void *)(uintptr_t)&parked);
	start_server(server);
	assert_int_equal(mesh_client_start(client, &opts, &call, NULL), 0);
	WAIT_FOR(atomic_load(&parked));
	mesh_server_free(server);
	assert_int_equal(mesh_call_wait(call, 5000, NULL) != MESH_E_AGAIN, 1);
	mesh_close(m);
	assert_int_equal(mesh_request_is_cancelled(parked), 1);
	assert_int_equal(mesh_request_reply(parked, &(struct mesh_reply){ .size = sizeof(struct mesh_reply) }), MESH_E_CANCELLED);
	mesh_request_unref(parked);
	mesh_call_unref(call);
	mesh_client_free(client);
}

/* ---- closing while others are at it ---- */

struct busy {
	mesh *m;
	mesh_client *client;
	mesh_server *server;
	_Atomic int begun;
};

static void ignore_endpoint(const struct mesh_endpoint_info *info, void *user)
{
	(void)info;
	(void)user;
}

/* Whatever it does, it does until it hears that the mesh is closing. */
static void *start_until_closed(void *user)
{
	struct busy *busy = user;
	struct mesh_call_options opts = grpc_call("/t.S/Echo", "x", 1);
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *call;
	int rc;

	while ((rc = mesh_client_start(busy->client, &opts, &call, &err)) == 0) {
		if (atomic_fetch_add(&busy->begun, 1) % 3 == 0)
			mesh_call_cancel(call);
		if (mesh_call_wait(call, 10000, &err) == MESH_E_AGAIN)
			rc = MESH_E_AGAIN;
		mesh_call_unref(call);
		if (rc)
			break;
	}
	return (void *)(intptr_t)rc;
}

static void *manage_until_closed(void *user)
{
	struct busy *busy = user;
	mesh_client *client;
	mesh_queue *q;
	char text[32];
	int rc;

	while ((rc = mesh_client_new(busy->m, "self", &client, NULL)) == 0) {
		mesh_client_free(client);
		rc = mesh_queue_new(busy->m, &q, NULL);
		if (rc)
			break;
		mesh_queue_free(q);
		rc = mesh_options_set(busy->m, "timeout@self", "10s", NULL);
		if (rc)
			break;
		rc = (int)mesh_options_get(busy->m, "timeout", "self", text, sizeof(text));
		if (rc < 0)
			break;
		rc = mesh_endpoints_list(busy->client, ignore_endpoint, NULL);
		if (rc < 0 && rc != MESH_E_NO_NAME && rc != MESH_E_NO_ENDPOINT)
			break;
	}
	return (void *)(intptr_t)rc;
}

static void *pick_until_closed(void *user)
{
	struct busy *busy = user;
	struct mesh_pick pick = { .size = sizeof(pick) };
	int rc;

	do {
		rc = mesh_pick(busy->client, &pick, NULL);
		if (rc == 0)
			rc = mesh_report(busy->client, &pick, MESH_OUTCOME_OK, 1);
	} while (rc == 0 || rc == MESH_E_NO_NAME || rc == MESH_E_NO_ENDPOINT);
	return (void *)(intptr_t)rc;
}

static void closing_stops_whoever_is_about_to_start(void **state)
{
	static void *(*const run[])(void *) = { start_until_closed, start_until_closed, start_until_closed, manage_until_closed, pick_until_closed };
	int times = getenv("MESH_TEST_FEWER") ? 10 : 50;

	(void)state;
	for (int i = 0; i < times; i++) {
		struct busy busy = { .m = OPEN_MESH("self") };
		pthread_t threads[5];
		void *result;

		busy.server = serve_echo(busy.m);
		busy.client = new_client(busy.m, "self");
		for (int k = 0; k < 5; k++)
			pthread_create(&threads[k], NULL, run[k], &busy);
		WAIT_FOR(atomic_load(&busy.begun) > 5);
		mesh_close(busy.m);
		for (int k = 0; k < 5; k++) {
			pthread_join(threads[k], &result);
			assert_int_equal((intptr_t)result, MESH_E_CLOSING);
		}
		mesh_client_free(busy.client);
		mesh_server_free(busy.server);
	}
}

static void *free_server(void *server)
{
	mesh_server_free(server);
	return NULL;
}

static void a_server_may_be_freed_while_its_mesh_drains_or_closes(void **state)
{
	int times = getenv("MESH_TEST_FEWER") ? 10 : 50;

	(void)state;
	for (int i = 0; i < times; i++) {
		mesh *m = OPEN_MESH("self", "drain.delay", "0");
		mesh_server *servers[2] = { serve_echo(m), serve_echo(m) };
		pthread_t threads[2];

		for (int k = 0; k < 2; k++)
			pthread_create(&threads[k], NULL, free_server, servers[k]);
		if (i % 2)
			mesh_drain(m, NULL);
		mesh_close(m);
		for (int k = 0; k < 2; k++)
			pthread_join(threads[k], NULL);
	}
}

struct unwise {
	mesh *m;
	mesh_server *server;
	_Atomic int calls;
};

static void close_inside(mesh_request *request, void *user)
{
	struct unwise *unwise = user;

	mesh_close(unwise->m);
	mesh_server_free(unwise->server);
	atomic_fetch_add(&unwise->calls, 1);
	answer_echo(request, NULL);
}

/* It would wait for itself. So it does nothing but say so, and all goes on. */
static void closing_inside_a_callback_is_refused(void **state)
{
	struct unwise unwise = { .m = OPEN_MESH("self") };
	mesh_client *client;

	(void)state;
	alarm(60);
	unwise.server = new_server(unwise.m, NULL);
	add_handler(unwise.server, "*", MESH_HANDLER_GRPC, close_inside, &unwise);
	start_server(unwise.server);
	client = new_client(unwise.m, "self");
	expect_call(client, 0);
	expect_call(client, 0);
	assert_int_equal(atomic_load(&unwise.calls), 2);
	mesh_client_free(client);
	mesh_server_free(unwise.server);
	mesh_close(unwise.m);
	alarm(0);
}

/* ---- the caller's loop ---- */

static void count_done(const struct mesh_event *event, void *user)
{
	if (event->type == MESH_EVENT_CALL_DONE && event->code == 0)
		++*(int *)user;
}

/* Handshakes have threads of their own, one for each direction. */
enum { HANDSHAKE_THREADS = 2 };

static void a_foreign_loop_runs_everything_in_its_own_thread(void **state)
{
	struct event_base *base = event_base_new();
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_call_options call = grpc_call("/t.S/Echo", "x", 1);
	mesh_server *server;
	mesh_client *client;
	int threads = count_threads(), done = 0;
	uint64_t until_ns;
	mesh *m;

	(void)state;
	opts.service = "self";
	opts.event_base = base;
	assert_int_equal(mesh_open(&opts, &m, NULL), 0);
	server = serve_echo(m);
	client = new_client(m, "self");
	call.on_event = count_done;
	call.user = &done;
	for (int i = 0; i < 200; i++)
		assert_int_equal(mesh_client_start(client, &call, NULL, NULL), 0);
	assert_int_equal(done, 0);
	until_ns = test_now_ns() + UINT64_C(20000000000);
	while (done < 200 && test_now_ns() < until_ns)
		event_base_loop(base, EVLOOP_ONCE);
	assert_int_equal(done, 200);
	assert_true(count_threads() <= threads + HANDSHAKE_THREADS);
	assert_int_equal(mesh_drain(m, NULL), 0);
	mesh_client_free(client);
	mesh_server_free(server);
	mesh_close(m);
	/* Nothing of ours is left in it. */
	assert_int_equal(event_base_get_num_events(base, EVENT_BASE_COUNT_ADDED | EVENT_BASE_COUNT_ACTIVE), 0);
	event_base_free(base);
}

/* Whoever waits on a foreign base in its own thread turns it: nobody else would. */
static void waiting_turns_a_foreign_loop(void **state)
{
	struct event_base *base = event_base_new();
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_call_options one = grpc_call("/t.S/Park", "x", 1), stream = grpc_call("/t.S/Echo", NULL, 0);
	struct mesh_message message = { .size = sizeof(message) };
	mesh *m, *backend = OPEN_MESH("self");
	mesh_server *server = new_server(backend, NULL);
	mesh_request *_Atomic parked = NULL;
	mesh_client *client;
	mesh_call *call;
	uint64_t before_ns;

	(void)state;
	alarm(60);
	add_handler(server, "/t.S/Park", MESH_HANDLER_GRPC, park, (void *)(uintptr_t)&parked);
	add_handler(server, "*", MESH_HANDLER_GRPC, answer_echo, NULL);
	start_server(server);
	opts.service = "caller";
	opts.event_base = base;
	assert_int_equal(mesh_open(&opts, &m, NULL), 0);
	client = new_client(m, "self");
	stream.flags |= MESH_CALL_STREAM;
	assert_int_equal(mesh_client_start(client, &stream, &call, NULL), 0);
	assert_int_equal(mesh_call_recv(call, &message, 20), MESH_E_AGAIN);
	assert_int_equal(mesh_call_send(call, "hello", 5, MESH_SEND_LAST, UINT32_MAX), 0);
	assert_int_equal(mesh_call_recv(call, &message, UINT32_MAX), 1);
	assert_memory_equal(message.data, "hello", 5);
	mesh_message_release(&message);
	assert_int_equal(mesh_call_recv(call, &message, UINT32_MAX), 0);
	mesh_call_unref(call);
	/* And no longer than it was told to: the loop's own timers are a second apart. */
	assert_int_equal(mesh_client_start(client, &one, &call, NULL), 0);
	before_ns = test_now_ns();
	for (int i = 0; i < 20; i++)
		assert_int_equal(mesh_call_wait(call, 2, NULL), MESH_E_AGAIN);
	assert_true(test_now_ns() - before_ns < UINT64_C(10000000000));
	mesh_call_cancel(call);
	assert_int_equal(mesh_call_wait(call, UINT32_MAX, NULL), MESH_E_CANCELLED);
	mesh_call_unref(call);
	mesh_client_free(client);
	mesh_close(m);
	event_base_free(base);
	mesh_request_unref(parked);
	mesh_server_free(server);
	mesh_close(backend);
	alarm(0);
}

static void *call_twenty_times(void *user)
{
	struct load *load = user;
	struct mesh_call_options opts = grpc_call("/t.S/Echo", "x", 1);

	for (int i = 0; i < 20; i++)
		load->failed += mesh_client_call(load->client, &opts, NULL, NULL) != 0;
	atomic_store(&load->stop, true);
	return NULL;
}

/* Only one thread may turn it: another that waits for a call just waits. */
static void others_may_wait_while_a_foreign_loop_turns(void **state)
{
	struct event_base *base = event_base_new();
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct load load = { 0 };
	mesh_server *server;
	pthread_t thread;
	mesh *m;

	(void)state;
	opts.service = "self";
	opts.event_base = base;
	assert_int_equal(mesh_open(&opts, &m, NULL), 0);
	server = serve_echo(m);
	load.client = new_client(m, "self");
	pthread_create(&thread, NULL, call_twenty_times, &load);
	while (!atomic_load(&load.stop))
		event_base_loop(base, EVLOOP_ONCE);
	pthread_join(thread, NULL);
	assert_int_equal(load.failed, 0);
	mesh_client_free(load.client);
	mesh_server_free(server);
	mesh_close(m);
	event_base_free(base);
}

static void several_loops_share_the_work(void **state)
{
	mesh *m = OPEN_MESH("self", "loops", "3");
	mesh_server *server = serve_echo(m);
	mesh_client *client = new_client(m, "self");

	(void)state;
	for (int i = 0; i < 300; i++)
		expect_call(client, 0);
	mesh_client_free(client);
	mesh_server_free(server);
	mesh_close(m);
}

/* ---- fork ---- */

#ifndef TEST_UNDER_THREAD_SANITIZER
static int run_child(void (*child)(mesh *m, mesh_client *client), mesh *m, mesh_client *client)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		alarm(20);
		child(m, client);
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

#define CHILD_EXPECTS(condition, number) \
	do {                             \
		if (!(condition))        \
			_exit(number);   \
	} while (0)

static void use_and_close_in_child(mesh *m, mesh_client *client)
{
	struct mesh_call_options opts = grpc_call("/t.S/Echo", "x", 1);
	struct mesh_error err = MESH_ERROR_INIT;
	struct mesh_pick pick = { .size = sizeof(pick) };
	mesh_client *other = NULL;
	mesh_queue *q = NULL;

	CHILD_EXPECTS(mesh_client_call(client, &opts, NULL, &err) == MESH_E_FORKED, 1);
	CHILD_EXPECTS(strlen(err.message) > 0, 2);
	CHILD_EXPECTS(mesh_client_new(m, "self", &other, &err) == MESH_E_FORKED, 3);
	CHILD_EXPECTS(mesh_queue_new(m, &q, &err) == MESH_E_FORKED, 4);
	CHILD_EXPECTS(mesh_pick(client, &pick, &err) == MESH_E_FORKED, 5);
	CHILD_EXPECTS(mesh_options_set(m, "timeout", "1s", &err) == MESH_E_FORKED, 6);
	CHILD_EXPECTS(mesh_drain(m, &err) == MESH_E_FORKED, 7);
	mesh_client_free(client);
	mesh_close(m);
	/* A mesh of its own, at once, that finds the parent's server. */
	m = OPEN_MESH("child");
	client = new_client(m, "self");
	CHILD_EXPECTS(mesh_client_call(client, &opts, NULL, &err) == 0, 8);
	mesh_client_free(client);
	mesh_close(m);
}

static void a_child_disturbs_neither_connections_nor_counters(void **state)
{
	mesh *m = OPEN_MESH("self");
	mesh_server *server = serve_echo(m);
	mesh_client *client = new_client(m, "self");
	int64_t opened, calls;

	(void)state;
	expect_call(client, 0);
	opened = COUNTED(m, "mesh_connections_opened_total", "side", "client");
	calls = COUNTED(m, "mesh_calls_total", "service", "self");
	for (int i = 0; i < 5; i++) {
		assert_int_equal(run_child(use_and_close_in_child, m, client), 0);
		expect_call(client, 0);
	}
	assert_int_equal(COUNTED(m, "mesh_connections_opened_total", "side", "client"), opened);
	assert_int_equal(COUNTED(m, "mesh_calls_total", "service", "self"), calls + 5);
	mesh_client_free(client);
	mesh_server_free(server);
	mesh_close(m);
}

static _Atomic pid_t forked_pid;

/* A handler that forks: the child is not on a loop, whatever its stack says. */
static void fork_inside(mesh_request *request, void *user)
{
	pid_t pid = fork();

	if (pid == 0) {
		struct mesh_call_options opts = grpc_call("/t.S/Echo", "x", 1);
		mesh_client *client;
		mesh *m;

		alarm(20);
		m = OPEN_MESH("child");
		client = new_client(m, "self");
		CHILD_EXPECTS(mesh_client_call(client, &opts, NULL, NULL) == 0, 1);
		mesh_client_free(client);
		mesh_close(m);
		_exit(0);
	}
	*(mesh_request **)user = mesh_request_ref(request); /* answered by the thread that waits for the child, not here */
	atomic_store(&forked_pid, pid);
}

static void a_child_of_a_handler_is_on_no_loop(void **state)
{
	mesh *m = OPEN_MESH("self");
	mesh_server *server = new_server(m, NULL);
	mesh_client *client = new_client(m, "self");
	struct mesh_call_options opts = grpc_call("/t.S/Fork", "x", 1);
	mesh_request *request = NULL;
	mesh_call *call;
	int status;

	(void)state;
	add_handler(server, "/t.S/Fork", MESH_HANDLER_GRPC, fork_inside, &request);
	add_handler(server, "*", MESH_HANDLER_GRPC, answer_echo, NULL);
	start_server(server);
	assert_int_equal(mesh_client_start(client, &opts, &call, NULL), 0);
	WAIT_FOR(atomic_load(&forked_pid));
	assert_int_equal(waitpid(forked_pid, &status, 0), forked_pid);
	assert_int_equal(status, 0);
	answer_echo(request, NULL);
	mesh_request_unref(request);
	assert_int_equal(mesh_call_wait(call, UINT32_MAX, NULL), 0);
	mesh_call_unref(call);
	mesh_client_free(client);
	mesh_server_free(server);
	mesh_close(m);
}

#ifndef TEST_UNDER_ADDRESS_SANITIZER
/* Prefork: eight children at once, out of a process whose threads call all the time. */
static void children_work_while_their_parent_does(void **state)
{
	enum { CHILDREN = 8 };
	int calls = getenv("MESH_TEST_FEWER") ? 100 : 1000, status;
	mesh *m = OPEN_MESH("self");
	mesh_server *server = serve_echo(m);
	struct load load = { .client = new_client(m, "self") };
	pthread_t threads[2];
	pid_t pids[CHILDREN];

	(void)state;
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, call_on, &load);
	for (int i = 0; i < CHILDREN; i++) {
		WAIT_FOR(atomic_load(&load.calls) > i * 20);
		pids[i] = fork();
		if (pids[i] == 0) {
			struct mesh_call_options opts = grpc_call("/t.S/Echo", "x", 1);
			mesh_client *client;

			alarm(60);
			mesh_client_free(load.client);
			mesh_close(m);
			m = OPEN_MESH("child");
			client = new_client(m, "self");
			for (int k = 0; k < calls; k++)
				CHILD_EXPECTS(mesh_client_call(client, &opts, NULL, NULL) == 0, 1);
			mesh_client_free(client);
			mesh_close(m);
			_exit(0);
		}
		assert_true(pids[i] > 0);
	}
	for (int i = 0; i < CHILDREN; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	atomic_store(&load.stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(load.failed, 0);
	mesh_client_free(load.client);
	mesh_server_free(server);
	mesh_close(m);
}
#endif

static void exit_without_closing(mesh *m, mesh_client *client)
{
	(void)m;
	(void)client;
	exit(0); /* runs what atexit() and destructors there are */
}

static void a_child_may_end_without_closing_anything(void **state)
{
	mesh *m = OPEN_MESH("self");
	mesh_server *server = serve_echo(m);
	mesh_client *client = new_client(m, "self");

	(void)state;
	expect_call(client, 0);
	assert_int_equal(run_child(exit_without_closing, m, client), 0);
	expect_call(client, 0);
	mesh_client_free(client);
	mesh_server_free(server);
	mesh_close(m);
}

#endif

static void exec_leaks_no_descriptor(void **state)
{
	mesh *m = OPEN_MESH("self");
	mesh_server *server = serve_echo(m);
	mesh_client *client = new_client(m, "self");
	struct rlimit limit;

	(void)state;
	expect_call(client, 0);
	getrlimit(RLIMIT_NOFILE, &limit);
	for (int fd = 3; fd < 1024 && fd < (int)limit.rlim_cur; fd++) {
		char path[64], target[256];
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		if (n < 0 || !strncmp(target, "/dev/null", 9) || strstr(path, "/pipe"))
			continue;
		target[n] = '\0';
		if (strstr(target, "socket") || strstr(target, "eventfd") || strstr(target, "timerfd") || strstr(target, "epoll") ||
		    strstr(target, "mesh"))
			if (!(fcntl(fd, F_GETFD) & FD_CLOEXEC))
				fail_msg("%s would survive exec", target);
	}
	mesh_client_free(client);
	mesh_server_free(server);
	mesh_close(m);
}

/* ---- draining ---- */

static void *drain(void *mesh_pointer)
{
	return (void *)(intptr_t)mesh_drain(mesh_pointer, NULL);
}

static void draining_lets_what_is_in_flight_end(void **state)
{
	mesh *backend = OPEN_MESH("self", "drain.delay", "10ms"), *m = OPEN_MESH("caller");
	mesh_server *server = new_server(backend, NULL);
	mesh_client *client = new_client(m, "self");
	struct mesh_call_options opts = grpc_call("/t.S/Park", "x", 1);
	mesh_request *_Atomic parked = NULL;
	pthread_t thread;
	mesh_call *call;
	void *result;

	(void)state;
	add_handler(server, "/t.S/Park", MESH_HANDLER_GRPC, park, (void *)(uintptr_t)&parked);
	start_server(server);
	assert_int_equal(mesh_client_start(client, &opts, &call, NULL), 0);
	WAIT_FOR(atomic_load(&parked));
	pthread_create(&thread, NULL, drain, backend);
	poll(NULL, 0, 200);
	assert_int_equal(mesh_call_wait(call, 0, NULL), MESH_E_AGAIN);
	assert_int_equal(mesh_request_reply(parked, &(struct mesh_reply){ .size = sizeof(struct mesh_reply) }), 0);
	mesh_request_unref(parked);
	assert_int_equal(mesh_call_wait(call, 5000, NULL), 0);
	pthread_join(thread, &result);
	assert_int_equal((intptr_t)result, 0);
	mesh_call_unref(call);
	mesh_client_free(client);
	mesh_server_free(server);
	mesh_close(backend);
	mesh_close(m);
}

static void a_drain_that_takes_too_long_says_so(void **state)
{
	mesh *m = OPEN_MESH("self", "drain.delay", "0", "drain.timeout", "100ms");
	mesh_server *server = new_server(m, NULL);
	mesh_client *client = new_client(m, "self");
	struct mesh_call_options opts = grpc_call("/t.S/Park", "x", 1);
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_request *_Atomic parked = NULL;
	mesh_call *call;

	(void)state;
	add_handler(server, "/t.S/Park", MESH_HANDLER_GRPC, park, (void *)(uintptr_t)&parked);
	start_server(server);
	assert_int_equal(mesh_client_start(client, &opts, &call, NULL), 0);
	WAIT_FOR(atomic_load(&parked));
	assert_int_equal(mesh_drain(m, &err), MESH_E_DEADLINE);
	assert_true(strlen(err.message) > 0);
	mesh_request_unref(parked);
	mesh_call_unref(call);
	mesh_client_free(client);
	mesh_server_free(server);
	mesh_close(m);
}

static void closing_ends_a_drain(void **state)
{
	mesh *m = OPEN_MESH("self", "drain.delay", "0", "drain.timeout", "60s");
	mesh_server *server = new_server(m, NULL);
	mesh_client *client = new_client(m, "self");
	struct mesh_call_options opts = grpc_call("/t.S/Park", "x", 1);
	mesh_request *_Atomic parked = NULL;
	pthread_t thread;
	mesh_call *call;
	void *result;

	(void)state;
	alarm(50);
	add_handler(server, "/t.S/Park", MESH_HANDLER_GRPC, park, (void *)(uintptr_t)&parked);
	start_server(server);
	assert_int_equal(mesh_client_start(client, &opts, &call, NULL), 0);
	WAIT_FOR(atomic_load(&parked));
	pthread_create(&thread, NULL, drain, m);
	poll(NULL, 0, 50);
	mesh_close(m);
	pthread_join(thread, &result);
	assert_int_equal((intptr_t)result, MESH_E_CLOSING);
	mesh_request_unref(parked);
	mesh_call_unref(call);
	mesh_client_free(client);
	mesh_server_free(server);
	alarm(0);
}

#define ANSWERED(m, address) COUNTED(m, "mesh_attempts_ended_total", "endpoint", address, "reason", "ok")

/* Whoever draws addresses from elsewhere does not hear that a server is about to go: it finds the door shut, and goes to the next. */
static void a_restart_behind_a_fixed_address_loses_no_call(void **state)
{
	mesh *replicas[2], *m;
	mesh_server *servers[2];
	struct load load = { 0 };
	char addresses[2][64], uri[160];
	pthread_t threads[4];

	(void)state;
	for (int i = 0; i < 2; i++) {
		replicas[i] = OPEN_MESH("self", "drain.delay", "1ms");
		servers[i] = serve_echo(replicas[i]);
		snprintf(addresses[i], sizeof(addresses[i]), "%s", mesh_server_address(servers[i]));
	}
	snprintf(uri, sizeof(uri), "static:self=%s,%s", addresses[0], addresses[1]);
	m = OPEN_MESH("caller", "discovery", uri, "age.max", "100ms");
	load.client = new_client(m, "self");
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, call_on, &load);
	for (int round = 0; round < (getenv("MESH_TEST_FEWER") ? 4 : 30); round++) {
		int i = round % 2;
		int64_t before = ANSWERED(m, addresses[!i]);

		/* The other one is back, and known to be. */
		WAIT_FOR(ANSWERED(m, addresses[!i]) > before + 50);
		assert_int_equal(mesh_drain(replicas[i], NULL), 0);
		mesh_server_free(servers[i]);
		servers[i] = new_server(replicas[i], addresses[i]);
		add_handler(servers[i], "*", MESH_HANDLER_GRPC, answer_echo, NULL);
		add_handler(servers[i], "*", 0, answer_echo, NULL);
		start_server(servers[i]);
	}
	atomic_store(&load.stop, true);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(load.failed, 0);
	mesh_client_free(load.client);
	mesh_close(m);
	for (int i = 0; i < 2; i++) {
		mesh_server_free(servers[i]);
		mesh_close(replicas[i]);
	}
}

/* A peer that watches the health service, and one that comes back again and again, hold up no drain. */
static void watches_and_newcomers_hold_up_no_drain(void **state)
{
	mesh *backend = OPEN_MESH("self", "drain.delay", "1ms", "drain.timeout", "20s"), *m;
	mesh_server *server = serve_echo(backend);
	struct mesh_call_options opts = grpc_call("/grpc.health.v1.Health/Watch", "", 0);
	struct mesh_error err = MESH_ERROR_INIT;
	struct load load = { 0 };
	char uri[96];
	mesh_call *watch;
	pthread_t thread;
	uint64_t began_ns;

	(void)state;
	snprintf(uri, sizeof(uri), "static:self=%s", mesh_server_address(server));
	m = OPEN_MESH("caller", "discovery", uri);
	load.client = new_client(m, "self");
	opts.flags |= MESH_CALL_STREAM;
	opts.timeout_ms = 60000;
	assert_int_equal(mesh_client_start(load.client, &opts, &watch, NULL), 0);
	assert_int_equal(mesh_call_send(watch, "", 0, MESH_SEND_LAST, 1000), 0);
	pthread_create(&thread, NULL, call_on, &load);
	WAIT_FOR(atomic_load(&load.calls) > 50);
	began_ns = test_now_ns();
	assert_int_equal(mesh_drain(backend, NULL), 0);
	assert_true(test_now_ns() - began_ns < UINT64_C(10000000000));
	assert_int_equal(mesh_call_wait(watch, 10000, &err), MESH_E_STATUS);
	assert_int_equal(mesh_call_grpc_status(watch), 14);
	atomic_store(&load.stop, true);
	pthread_join(thread, NULL);
	mesh_call_unref(watch);
	mesh_client_free(load.client);
	mesh_close(m);
	mesh_server_free(server);
	mesh_close(backend);
}

/* Replicas are replaced one by one under load, from several threads: nobody notices. */
static void a_rolling_restart_loses_no_call(void **state)
{
	mesh *m = OPEN_MESH("caller"), *replicas[3];
	mesh_server *servers[3];
	struct load load = { .client = new_client(m, "self") };
	pthread_t threads[4];

	(void)state;
	for (int i = 0; i < 3; i++) {
		replicas[i] = OPEN_MESH("self");
		servers[i] = serve_echo(replicas[i]);
	}
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, call_on, &load);
	for (int round = 0; round < 6; round++) {
		int i = round % 3, before = atomic_load(&load.calls);

		WAIT_FOR(atomic_load(&load.calls) > before + 200);
		assert_int_equal(mesh_drain(replicas[i], NULL), 0);
		mesh_server_free(servers[i]);
		mesh_close(replicas[i]);
		replicas[i] = OPEN_MESH("self");
		servers[i] = serve_echo(replicas[i]);
	}
	atomic_store(&load.stop, true);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(load.failed, 0);
	assert_true(load.calls > 1200);
	mesh_client_free(load.client);
	for (int i = 0; i < 3; i++) {
		mesh_server_free(servers[i]);
		mesh_close(replicas[i]);
	}
	mesh_close(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(open_and_close_a_thousand_times_leaks_nothing),
		cmocka_unit_test(things_may_be_freed_after_their_mesh),
		cmocka_unit_test(closing_ends_every_call_once_with_its_reason),
		cmocka_unit_test(requests_may_outlive_server_and_mesh),
		cmocka_unit_test(closing_stops_whoever_is_about_to_start),
		cmocka_unit_test(a_server_may_be_freed_while_its_mesh_drains_or_closes),
		cmocka_unit_test(closing_inside_a_callback_is_refused),
		cmocka_unit_test(a_foreign_loop_runs_everything_in_its_own_thread),
		cmocka_unit_test(waiting_turns_a_foreign_loop),
		cmocka_unit_test(others_may_wait_while_a_foreign_loop_turns),
		cmocka_unit_test(several_loops_share_the_work),
#ifndef TEST_UNDER_THREAD_SANITIZER /* it cannot follow a fork of several threads */
		cmocka_unit_test(a_child_disturbs_neither_connections_nor_counters),
		cmocka_unit_test(a_child_may_end_without_closing_anything),
		cmocka_unit_test(a_child_of_a_handler_is_on_no_loop),
#ifndef TEST_UNDER_ADDRESS_SANITIZER /* its allocator does not survive the fork of a busy process */
		cmocka_unit_test(children_work_while_their_parent_does),
#endif
#endif
		cmocka_unit_test(exec_leaks_no_descriptor),
		cmocka_unit_test(draining_lets_what_is_in_flight_end),
		cmocka_unit_test(a_drain_that_takes_too_long_says_so),
		cmocka_unit_test(closing_ends_a_drain),
		cmocka_unit_test(a_rolling_restart_loses_no_call),
		cmocka_unit_test(a_restart_behind_a_fixed_address_loses_no_call),
		cmocka_unit_test(watches_and_newcomers_hold_up_no_drain),
	};

	cmocka_set_test_filter(getenv("TEST_FILTER")); /* one test alone: TEST_FILTER=name */
	return cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
}
