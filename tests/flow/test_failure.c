/* What happens when something runs out: memory, descriptors, limits of our own, patience. Every call ends, and says why. */
#include "../lib/mesh_test.h"

#include "base/memory.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

static void park(mesh_request *request, void *user)
{
	mesh_request_unref(atomic_exchange((mesh_request *_Atomic *)user, mesh_request_ref(request)));
}

static void answer_and_let_go(mesh_request *_Atomic *parked)
{
	mesh_request *request = atomic_exchange(parked, NULL);

	mesh_request_reply(request, &(struct mesh_reply){ .size = sizeof(struct mesh_reply) });
	mesh_request_unref(request);
}

struct pair {
	mesh *m;
	mesh_server *server;
	mesh_client *client;
	mesh_request *_Atomic parked;
};

static void open_pair(struct pair *pair, const char *const *settings)
{
	pair->m = open_mesh("self", settings);
	pair->server = new_server(pair->m, NULL);
	atomic_init(&pair->parked, NULL);
	add_handler(pair->server, "/t.S/Park", MESH_HANDLER_GRPC, park, (void *)(uintptr_t)&pair->parked);
	add_handler(pair->server, "*", MESH_HANDLER_GRPC, answer_echo, NULL);
	add_handler(pair->server, "*", 0, answer_echo, NULL);
	start_server(pair->server);
	pair->client = new_client(pair->m, "self");
}

#define OPEN_PAIR(pair, ...) open_pair(pair, (const char *const[]){ __VA_ARGS__ __VA_OPT__(,) NULL })

static void close_pair(struct pair *pair)
{
	mesh_request_unref(atomic_load(&pair->parked));
	mesh_client_free(pair->client);
	mesh_server_free(pair->server);
	mesh_close(pair->m);
}

static int call(struct pair *pair, const char *path, struct mesh_error *err)
{
	struct mesh_call_options opts = grpc_call(path, "x", 1);

	*err = (struct mesh_error)MESH_ERROR_INIT;
	return mesh_client_call(pair->client, &opts, NULL, err);
}

/* ---- limits ---- */

static void a_full_client_refuses_at_once_and_names_the_option(void **state)
{
	struct mesh_call_options opts = grpc_call("/t.S/Park", "x", 1);
	struct mesh_error err;
	struct pair pair;
	mesh_call *started[4];

	(void)state;
	OPEN_PAIR(&pair, "calls.max", "4");
	for (int i = 0; i < 4; i++)
		assert_int_equal(mesh_client_start(pair.client, &opts, &started[i], NULL), 0);
	assert_int_equal(call(&pair, "/t.S/Echo", &err), MESH_E_REFUSED_LOCALLY);
	assert_non_null(strstr(err.message, "calls.max"));
	assert_int_equal(err.in_doubt, 0);
	assert_int_equal(err.retry_safe, 1);
	for (int i = 0; i < 4; i++) {
		mesh_call_cancel(started[i]);
		mesh_call_wait(started[i], 5000, NULL);
		mesh_call_unref(started[i]);
	}
	assert_int_equal(call(&pair, "/t.S/Echo", &err), 0);
	assert_int_equal(COUNTED(pair.m, "mesh_calls_refused_total", "service", "self"), 1);
	close_pair(&pair);
}

static void a_full_server_refuses_in_a_way_that_is_safe_to_repeat(void **state)
{
	struct mesh_call_options opts = grpc_call("/t.S/Park", "x", 1);
	struct mesh_error err;
	struct pair pair;
	mesh_call *started;

	(void)state;
	OPEN_PAIR(&pair, "server.requests.max", "1");
	assert_int_equal(mesh_client_start(pair.client, &opts, &started, NULL), 0);
	WAIT_FOR(atomic_load(&pair.parked));
	assert_int_not_equal(call(&pair, "/t.S/Echo", &err), 0);
	assert_int_equal(err.retry_safe, 1);
	assert_int_equal(err.in_doubt, 0);
	assert_true(err.attempts > 1);
	assert_true(COUNTED(pair.m, "mesh_server_refused_total", "service", "self") > 0);
	answer_and_let_go(&pair.parked);
	assert_int_equal(mesh_call_wait(started, 5000, NULL), 0);
	mesh_call_unref(started);
	WAIT_FOR(call(&pair, "/t.S/Echo", &err) == 0);
	close_pair(&pair);
}

static void more_streams_than_a_connection_has_wait_for_one(void **state)
{
	struct mesh_call_options opts = grpc_call("/t.S/Echo", "x", 1);
	struct mesh_error err;
	struct pair pair;
	mesh_call *started[200];

	(void)state;
	OPEN_PAIR(&pair, "streams.max", "3");
	for (int i = 0; i < 200; i++)
		assert_int_equal(mesh_client_start(pair.client, &opts, &started[i], NULL), 0);
	for (int i = 0; i < 200; i++) {
		err = (struct mesh_error)MESH_ERROR_INIT;
		if (mesh_call_wait(started[i], 10000, &err))
			fail_msg("%s", err.message);
		mesh_call_unref(started[i]);
	}
	close_pair(&pair);
}

/* ---- memory ---- */

/* Whichever allocation fails, opening, calling and closing end with 0 or a named error; afterwards all works. */
static void every_failing_allocation_is_an_ordinary_error(void **state)
{
	struct mesh_error err;
	struct pair pair;
	int failed = 0;

	(void)state;
	OPEN_PAIR(&pair);
	for (int nth = 0; nth < 600; nth += getenv("MESH_TEST_FEWER") ? 5 : 1) {
		struct mesh_options opts = MESH_OPTIONS_INIT;
		mesh *m = NULL;
		int rc;

		err = (struct mesh_error)MESH_ERROR_INIT;
		opts.service = "self";
		mesh__memory_fail_after(nth);
		rc = mesh_open(&opts, &m, &err);
		if (rc == 0) {
			mesh_client *client = NULL;

			rc = mesh_client_new(m, "self", &client, &err);
			if (rc == 0) {
				struct mesh_call_options call_opts = grpc_call("/t.S/Echo", "x", 1);

				call_opts.timeout_ms = 500;
				err = (struct mesh_error)MESH_ERROR_INIT;
				rc = mesh_client_call(client, &call_opts, NULL, &err);
				if (rc)
					assert_true(strlen(err.message) > 0);
			}
			mesh_client_free(client);
			mesh_close(m);
		} else {
			assert_null(m);
			assert_true(rc == MESH_E_NOMEM || rc == MESH_E_SYSTEM || rc == MESH_E_NO_DESCRIPTORS);
		}
		failed += rc != 0;
		mesh__memory_fail_after(-1);
	}
	assert_true(failed > (getenv("MESH_TEST_FEWER") ? 4 : 20));
	if (call(&pair, "/t.S/Echo", &err)) /* once may still meet what failed */
		print_message("%s\n", err.message);
	WAIT_FOR(call(&pair, "/t.S/Echo", &err) == 0);
	close_pair(&pair);
}

/* ---- descriptors ---- */

static void without_descriptors_calls_fail_with_that_reason(void **state)
{
	struct rlimit before, none;
	struct mesh_error err = MESH_ERROR_INIT;
	struct mesh_options opts = MESH_OPTIONS_INIT;
	mesh *backend = OPEN_MESH("backend"), *m, *none_left = NULL;
	mesh_server *server = new_server(backend, NULL);
	struct mesh_call_options one = grpc_call("/t.S/Echo", "x", 1);
	mesh_client *client;
	char uri[96];
	int rc;

	(void)state;
	add_handler(server, "*", MESH_HANDLER_GRPC, answer_echo, NULL);
	start_server(server);
	snprintf(uri, sizeof(uri), "static:backend=%s", mesh_server_address(server));
	m = OPEN_MESH("caller", "discovery", uri);
	client = new_client(m, "backend");
	getrlimit(RLIMIT_NOFILE, &before);
	none = before;
	none.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	one.timeout_ms = 1000;
	rc = mesh_client_call(client, &one, NULL, &err);
	opts.service = "self";
	assert_int_equal(mesh_open(&opts, &none_left, NULL), MESH_E_NO_DESCRIPTORS);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_true(rc == MESH_E_NO_DESCRIPTORS || rc == MESH_E_CONNECT);
	if (!strstr(err.message, "open files"))
		fail_msg("%s", err.message);
	assert_int_equal(err.retry_safe, 1);
	WAIT_FOR(mesh_client_call(client, &one, NULL, &err) == 0);
	mesh_client_free(client);
	mesh_close(m);
	mesh_server_free(server);
	mesh_close(backend);
}

static int connect_to(const char *address)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(strchr(address, ':') + 1)),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		close(fd);
		return -1;
	}
	return fd;
}

/* A server that has no descriptors left does not spin, and serves again as soon as it can. */
static void a_server_without_descriptors_recovers(void **state)
{
	struct rlimit before, few;
	struct mesh_error err;
	struct timespec cpu_before, cpu_after;
	struct pair pair;
	int fds[64], count = 0, used;

	(void)state;
	OPEN_PAIR(&pair);
	assert_int_equal(call(&pair, "/t.S/Echo", &err), 0);
	for (count = 0; count < 16; count++) /* made while there are descriptors, used when there are none */
		fds[count] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	used = count_descriptors();
	getrlimit(RLIMIT_NOFILE, &before);
	few = before;
	few.rlim_cur = (rlim_t)used;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	for (int i = 0; i < count; i++) {
		struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
					  .sin_port = htons((uint16_t)atoi(strchr(mesh_server_address(pair.server), ':') + 1)) };

		connect(fds[i], (struct sockaddr *)&to, sizeof(to));
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu_before);
	poll(NULL, 0, 500);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu_after);
	/* Calls on connections that exist go on meanwhile. */
	assert_int_equal(call(&pair, "/t.S/Echo", &err), 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	for (int i = 0; i < count; i++)
		close(fds[i]);
	assert_true((cpu_after.tv_sec - cpu_before.tv_sec) * 1000 + (cpu_after.tv_nsec - cpu_before.tv_nsec) / 1000000 < 250);
	{
		mesh *m = OPEN_MESH("other");
		mesh_client *client = new_client(m, "self");
		struct mesh_call_options one = grpc_call("/t.S/Echo", "x", 1);

		WAIT_FOR(mesh_client_call(client, &one, NULL, &err) == 0);
		mesh_client_free(client);
		mesh_close(m);
	}
	close_pair(&pair);
}

static void attempts_that_fail_alike_are_told_once(void **state)
{
	mesh *m = OPEN_MESH("caller", "discovery", "static:gone=127.0.0.1:1", "attempts", "3");
	mesh_client *client = new_client(m, "gone");
	struct mesh_call_options opts = grpc_call("/t.S/Any", "x", 1);
	struct mesh_error err = MESH_ERROR_INIT;

	(void)state;
	assert_int_equal(mesh_client_call(client, &opts, NULL, &err), MESH_E_CONNECT);
	assert_string_equal(err.message, "gone: 127.0.0.1:1 Connection refused (3 times) (no attempt is left: option attempts)");
	mesh_client_free(client);
	mesh_close(m);
}

static void more_connections_than_allowed_are_refused_and_counted(void **state)
{
	struct mesh_error err;
	struct pair pair;
	int fds[20];

	(void)state;
	OPEN_PAIR(&pair, "server.connections.max", "5");
	assert_int_equal(call(&pair, "/t.S/Echo", &err), 0);
	for (int i = 0; i < 20; i++)
		fds[i] = connect_to(mesh_server_address(pair.server));
	WAIT_FOR(COUNTED(pair.m, "mesh_server_refused_total", "service", "self") >= 10);
	assert_true(COUNTED(pair.m, "mesh_server_connections", "service", "self") <= 5);
	assert_int_equal(call(&pair, "/t.S/Echo", &err), 0);
	for (int i = 0; i < 20; i++)
		close(fds[i]);
	close_pair(&pair);
}

/* ---- peers that do not answer ---- */

static int listen_silently(char *uri, size_t capacity)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0 && !bind(fd, (struct sockaddr *)&at, len) && !listen(fd, 16) && !getsockname(fd, (struct sockaddr *)&at, &len));
	snprintf(uri, capacity, "static:silent=127.0.0.1:%u", ntohs(at.sin_port));
	return fd;
}

static void a_server_that_never_answers_is_named_when_the_deadline_passes(void **state)
{
	char uri[96];
	int fd = listen_silently(uri, sizeof(uri));
	mesh *m = OPEN_MESH("caller", "discovery", uri, "timeout", "100ms");
	mesh_client *client = new_client(m, "silent");
	struct mesh_call_options one = grpc_call("/t.S/Echo", "x", 1);
	struct mesh_error err = MESH_ERROR_INIT;

	(void)state;
	assert_int_equal(mesh_client_call(client, &one, NULL, &err), MESH_E_DEADLINE);
	assert_non_null(strstr(err.message, strchr(uri, '=') + 1));
	mesh_client_free(client);
	mesh_close(m);
	close(fd);
}

static void a_silent_server_is_found_out_by_keepalive(void **state)
{
	char uri[96];
	int fd = listen_silently(uri, sizeof(uri));
	mesh *m = OPEN_MESH("caller", "discovery", uri, "timeout", "20s", "keepalive.interval", "1s", "keepalive.timeout", "1s", "attempts", "1",
			    "tls", "off");
	mesh_client *client = new_client(m, "silent");
	struct mesh_call_options one = grpc_call("/t.S/Echo", "x", 1);
	struct mesh_error err = MESH_ERROR_INIT;
	int rc;

	(void)state;
	rc = mesh_client_call(client, &one, NULL, &err);
	if (rc != MESH_E_LOST && rc != MESH_E_CONNECT)
		fail_msg("%s: %s", mesh_error_name(rc), err.message);
	mesh_client_free(client);
	mesh_close(m);
	close(fd);
}

static void a_silent_server_is_found_out_by_the_handshake(void **state)
{
	char uri[96];
	int fd = listen_silently(uri, sizeof(uri));
	mesh *m = OPEN_MESH("caller", "discovery", uri, "timeout", "20s", "handshake.timeout", "300ms", "attempts", "1", "tls", "on");
	mesh_client *client = new_client(m, "silent");
	struct mesh_call_options one = grpc_call("/t.S/Echo", "x", 1);
	struct mesh_error err = MESH_ERROR_INIT;

	(void)state;
	assert_int_equal(mesh_client_call(client, &one, NULL, &err), MESH_E_HANDSHAKE);
	assert_non_null(strstr(err.message, strchr(uri, '=') + 1));
	assert_non_null(strstr(err.message, "0.3 s"));
	assert_int_equal(err.in_doubt, 0);
	mesh_client_free(client);
	mesh_close(m);
	close(fd);
}

static void hang_up_on_a_caller(const char *tls)
{
	char uri[96];
	int fd = listen_silently(uri, sizeof(uri)), peer;
	mesh *m = OPEN_MESH("caller", "discovery", uri, "timeout", "5s", "attempts", "1", "tls", tls);
	mesh_client *client = new_client(m, "silent");
	struct mesh_call_options one = grpc_call("/t.S/Echo", "x", 1);
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *call;
	char bytes[512];

	assert_int_equal(mesh_client_start(client, &one, &call, NULL), 0);
	peer = accept(fd, NULL, NULL);
	while (recv(peer, bytes, sizeof(bytes), 0) == sizeof(bytes))
		;
	close(peer);
	assert_int_not_equal(mesh_call_wait(call, 10000, &err), MESH_E_AGAIN);
	if (!strcmp(tls, "on"))
		assert_int_equal(err.code, MESH_E_HANDSHAKE);
	else
		assert_true(err.code == MESH_E_LOST || err.code == MESH_E_CONNECT || err.code == MESH_E_PROTOCOL || err.code == MESH_E_UNPROCESSED);
	assert_true(strlen(err.endpoint) > 0);
	assert_true(strlen(err.message) > 10);
	mesh_call_unref(call);
	mesh_client_free(client);
	mesh_close(m);
	close(fd);
}

static void a_server_that_hangs_up_is_explained(void **state)
{
	(void)state;
	hang_up_on_a_caller("off");
	hang_up_on_a_caller("on");
}

/* More to say than there is room for: the sentence ends with dots, and what follows it is whole. */
static void many_reasons_end_with_dots(void **state)
{
	struct mesh_call_options one = http_call("/");
	struct mesh_error err = MESH_ERROR_INIT;
	char uri[512] = "static:gone=";
	mesh_client *client;
	mesh *m;

	(void)state;
	for (int i = 0; i < 10; i++)
		snprintf(uri + strlen(uri), sizeof(uri) - strlen(uri), "%s127.100.100.10%d:1", i ? "," : "", i);
	m = OPEN_MESH("caller", "discovery", uri, "attempts", "10");
	client = new_client(m, "gone");
	assert_int_equal(mesh_client_call(client, &one, NULL, &err), MESH_E_CONNECT);
	if (!strstr(err.message, "... (no attempt is left: option attempts)"))
		fail_msg("%s", err.message);
	mesh_client_free(client);
	mesh_close(m);
}

/* ---- two at once ---- */

static void a_busy_address_is_named(void **state)
{
	mesh *m = OPEN_MESH("self");
	mesh_server *first = new_server(m, "127.0.0.1:0"), *second;
	struct mesh_error err = MESH_ERROR_INIT;

	(void)state;
	add_handler(first, "*", 0, answer_echo, NULL);
	start_server(first);
	second = new_server(m, mesh_server_address(first));
	assert_int_equal(mesh_server_start(second, &err), MESH_E_SYSTEM);
	assert_non_null(strstr(err.message, mesh_server_address(first)));
	assert_int_equal(mesh_server_start(first, &err), MESH_E_STATE);
	assert_int_equal(mesh_server_handle(first, "/late", 0, answer_echo, NULL, &err), MESH_E_STATE);
	mesh_server_free(second);
	mesh_server_free(first);
	mesh_close(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_full_client_refuses_at_once_and_names_the_option),
		cmocka_unit_test(a_full_server_refuses_in_a_way_that_is_safe_to_repeat),
		cmocka_unit_test(more_streams_than_a_connection_has_wait_for_one),
		cmocka_unit_test(every_failing_allocation_is_an_ordinary_error),
		cmocka_unit_test(without_descriptors_calls_fail_with_that_reason),
		cmocka_unit_test(a_server_without_descriptors_recovers),
		cmocka_unit_test(attempts_that_fail_alike_are_told_once),
		cmocka_unit_test(more_connections_than_allowed_are_refused_and_counted),
		cmocka_unit_test(a_server_that_never_answers_is_named_when_the_deadline_passes),
		cmocka_unit_test(a_silent_server_is_found_out_by_keepalive),
		cmocka_unit_test(a_silent_server_is_found_out_by_the_handshake),
		cmocka_unit_test(a_server_that_hangs_up_is_explained),
		cmocka_unit_test(many_reasons_end_with_dots),
		cmocka_unit_test(a_busy_address_is_named),
	};

	cmocka_set_test_filter(getenv("TEST_FILTER")); /* one test alone: TEST_FILTER=name */
	return cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
}
