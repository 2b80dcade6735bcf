/* One process that calls itself over a real connection: the three ways of calling, what arrives, and how calls end. */
#include "../lib/mesh_test.h"

static mesh *m;
static mesh_client *users;
static mesh_server *server;

/* ---- handlers ---- */

static mesh_request *_Atomic parked;

static void answer_metadata(mesh_request *request, void *user)
{
	struct mesh_header headers[3] = { { "x-seen", NULL, 0, 0 }, { "x-bytes-bin", "\0\1\xff", 0, 3 }, { "x-two", "b", 0, 0 } };
	struct mesh_header trailers[1] = { { "x-trailer", "end", 0, 0 } };
	struct mesh_reply reply = { .size = sizeof(reply), .headers = headers, .header_count = 3, .trailers = trailers, .trailer_count = 1 };
	uint64_t len;

	(void)user;
	headers[0].value = mesh_request_header(request, "x-asked", &len);
	assert_non_null(mesh_request_header(request, "x-raw-bin", &len));
	assert_int_equal(len, 4);
	assert_memory_equal(mesh_request_header(request, "x-raw-bin", NULL), "a\0b\xfe", 4);
	mesh_request_reply(request, &reply);
}

static void answer_status(mesh_request *request, void *user)
{
	struct mesh_reply reply = { .size = sizeof(reply), .grpc_status = 9, .grpc_message = "50% of \xc3\xbc\nfailed", .http_status = 418 };

	(void)user;
	mesh_request_reply(request, &reply);
}

static void answer_unheard_of(mesh_request *request, void *user)
{
	struct mesh_reply reply = { .size = sizeof(reply), .grpc_status = 99, .grpc_message = "of another age" };

	(void)user;
	mesh_request_reply(request, &reply);
}

static void park(mesh_request *request, void *user)
{
	(void)user;
	atomic_store(&parked, mesh_request_ref(request));
}

static void forget(mesh_request *request, void *user)
{
	(void)request;
	(void)user;
}

static void answer_remaining(mesh_request *request, void *user)
{
	struct mesh_reply reply = { .size = sizeof(reply) };
	char text[24];

	(void)user;
	snprintf(text, sizeof(text), "%lld", (long long)mesh_request_remaining_ms(request));
	reply.body = text;
	reply.body_len = strlen(text);
	mesh_request_reply(request, &reply);
}

static int set_up(void **state)
{
	if (make_test_dir(state))
		return -1;
	m = OPEN_MESH("users");
	server = new_server(m, NULL);
	add_handler(server, "/echo", 0, answer_echo, NULL);
	add_handler(server, "/t.S/Echo", MESH_HANDLER_GRPC, answer_echo, NULL);
	add_handler(server, "/t.S/Metadata", MESH_HANDLER_GRPC, answer_metadata, NULL);
	add_handler(server, "/t.S/Status", MESH_HANDLER_GRPC, answer_status, NULL);
	add_handler(server, "/t.S/UnheardOf", MESH_HANDLER_GRPC, answer_unheard_of, NULL);
	add_handler(server, "/teapot", 0, answer_status, NULL);
	add_handler(server, "/park", 0, park, NULL);
	add_handler(server, "/t.S/Park", MESH_HANDLER_GRPC, park, NULL);
	add_handler(server, "/t.S/Forget", MESH_HANDLER_GRPC, forget, NULL);
	add_handler(server, "/forget", 0, forget, NULL);
	add_handler(server, "/t.S/Remaining", MESH_HANDLER_GRPC, answer_remaining, NULL);
	add_handler(server, "/files/*", 0, answer_echo, NULL);
	start_server(server);
	users = new_client(m, "users");
	return 0;
}

static int tear_down(void **state)
{
	mesh_client_free(users);
	mesh_server_free(server);
	mesh_close(m);
	return remove_test_dir(state);
}

static int call(struct mesh_call_options opts, mesh_call **out, struct mesh_error *err)
{
	*err = (struct mesh_error)MESH_ERROR_INIT;
	return mesh_client_call(users, &opts, out, err);
}

/* ---- unary ---- */

static void http_bodies_of_every_size_come_back(void **state)
{
	static const size_t sizes[] = { 0, 1, 100, 16383, 16384, 16385, 65535, 65536, 300000, 4000000 };
	uint8_t *body = malloc(4000000);
	struct mesh_error err;

	(void)state;
	for (size_t i = 0; i < 4000000; i++)
		body[i] = (uint8_t)(i * 31 >> 3);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		struct mesh_call_options opts = http_call("/echo");
		const void *back;
		mesh_call *done;
		uint64_t len;

		opts.body = body;
		opts.body_len = sizes[i];
		opts.method = "PUT";
		if (call(opts, &done, &err))
			fail_msg("%zu bytes: %s", sizes[i], err.message);
		assert_int_equal(mesh_call_http_status(done), 200);
		back = mesh_call_body(done, &len);
		assert_int_equal(len, sizes[i]);
		if (len)
			assert_memory_equal(back, body, len);
		mesh_call_unref(done);
		opts = grpc_call("/t.S/Echo", body, sizes[i]);
		if (call(opts, &done, &err))
			fail_msg("gRPC, %zu bytes: %s", sizes[i], err.message);
		back = mesh_call_body(done, &len);
		assert_int_equal(len, sizes[i]);
		if (len)
			assert_memory_equal(back, body, len);
		assert_int_equal(mesh_call_grpc_status(done), 0);
		mesh_call_unref(done);
	}
	free(body);
}

static void metadata_travels_both_ways(void **state)
{
	struct mesh_header headers[] = { { "x-asked", "yes", 0, 0 }, { "x-raw-bin", "a\0b\xfe", 0, 4 } };
	struct mesh_call_options opts = grpc_call("/t.S/Metadata", "", 0);
	struct mesh_error err;
	struct mesh_header field;
	mesh_call *done;
	uint64_t len;
	int is_trailer, trailers = 0;

	(void)state;
	opts.headers = headers;
	opts.header_count = 2;
	assert_int_equal(call(opts, &done, &err), 0);
	assert_string_equal(mesh_call_header(done, "x-seen", &len), "yes");
	assert_non_null(mesh_call_header(done, "x-bytes-bin", &len));
	assert_int_equal(len, 3);
	assert_memory_equal(mesh_call_header(done, "x-bytes-bin", NULL), "\0\1\xff", 3);
	assert_string_equal(mesh_call_trailer(done, "x-trailer", &len), "end");
	assert_null(mesh_call_trailer(done, "x-seen", &len));
	for (uint32_t i = 0; mesh_call_header_at(done, i, &field, &is_trailer) == 0; i++)
		trailers += is_trailer;
	assert_true(trailers >= 1);
	mesh_call_unref(done);
}

static void statuses_and_messages_arrive_as_they_were_said(void **state)
{
	struct mesh_error err;
	mesh_call *done;

	(void)state;
	assert_int_equal(call(grpc_call("/t.S/Status", "", 0), &done, &err), MESH_E_STATUS);
	assert_int_equal(mesh_call_grpc_status(done), 9);
	assert_string_equal(mesh_call_grpc_message(done), "50% of \xc3\xbc\nfailed");
	assert_int_equal(err.grpc_status, 9);
	assert_int_equal(err.in_doubt, 1);
	mesh_call_unref(done);
	/* A number that is none of gRPC's is UNKNOWN; what was said with it stays. */
	assert_int_equal(call(grpc_call("/t.S/UnheardOf", "", 0), &done, &err), MESH_E_STATUS);
	assert_int_equal(mesh_call_grpc_status(done), 2);
	assert_int_equal(err.grpc_status, 2);
	assert_string_equal(mesh_call_grpc_message(done), "of another age");
	mesh_call_unref(done);
	assert_int_equal(call(http_call("/teapot"), &done, &err), 0);
	assert_int_equal(mesh_call_http_status(done), 418);
	mesh_call_unref(done);
}

static void what_nobody_handles_is_said_so(void **state)
{
	struct mesh_error err;
	mesh_call *done;

	(void)state;
	assert_int_equal(call(http_call("/nowhere"), &done, &err), 0);
	assert_int_equal(mesh_call_http_status(done), 404);
	mesh_call_unref(done);
	assert_int_equal(call(grpc_call("/t.S/Nothing", "", 0), &done, &err), MESH_E_STATUS);
	assert_int_equal(mesh_call_grpc_status(done), 12);
	mesh_call_unref(done);
	/* The longest match wins; the query is not part of it. */
	assert_int_equal(call(http_call("/files/a/b?c=d"), &done, &err), 0);
	assert_int_equal(mesh_call_http_status(done), 200);
	mesh_call_unref(done);
}

static void a_handler_that_forgets_to_answer_is_answered_for(void **state)
{
	struct mesh_error err;
	mesh_call *done;

	(void)state;
	assert_int_equal(call(grpc_call("/t.S/Forget", "", 0), &done, &err), MESH_E_STATUS);
	assert_int_equal(mesh_call_grpc_status(done), 2);
	mesh_call_unref(done);
	assert_int_equal(call(http_call("/forget"), &done, &err), 0);
	assert_int_equal(mesh_call_http_status(done), 500);
	mesh_call_unref(done);
}

/* A newer client may send more than we know: fields of every wire type, and numbers whose tags take two bytes. */
static void the_health_service_skips_what_it_does_not_know(void **state)
{
	static const struct {
		const char *bytes;
		uint64_t len;
		int code;
	} requests[] = {
		{ "\x0a\5users", 7, 0 },
		{ "\x10\x96\1\x0a\5users", 10, 0 },                                    /* varint */
		{ "\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\1\x0a\5users", 18, 0 }, /* varint, -1 */
		{ "\x11\x0a\2no\4abc\x0a\5users", 16, 0 },                              /* fixed64 */
		{ "\x15\xff\xff\xff\xff\x0a\5users", 12, 0 },                          /* fixed32 */
		{ "\x1a\3abc\x0a\5users", 12, 0 },                                      /* bytes */
		{ "\x8a\1\5other\x0a\5users", 15, 0 },                                  /* field 17 */
		{ "\x11\1\2\3", 4, MESH_E_STATUS },
		{ "\x15\1\2\3", 4, MESH_E_STATUS },
		{ "\x8a", 1, MESH_E_STATUS },
		{ "\x0a\6users", 7, MESH_E_STATUS },
		{ "\x13\x14\x0a\5users", 9, MESH_E_STATUS }, /* a group */
	};
	struct mesh_error err;

	(void)state;
	for (size_t i = 0; i < sizeof(requests) / sizeof(*requests); i++) {
		struct mesh_call_options opts = grpc_call("/grpc.health.v1.Health/Check", requests[i].bytes, requests[i].len);
		mesh_call *done = NULL;
		const char *body;
		uint64_t len;

		if (call(opts, &done, &err) != requests[i].code)
			fail_msg("request %zu: %d %s", i, err.code, err.message);
		if (requests[i].code) {
			assert_int_equal(mesh_call_grpc_status(done), 3);
		} else {
			body = mesh_call_body(done, &len);
			assert_int_equal(len, 2);
			assert_memory_equal(body, "\x08\1", 2);
		}
		mesh_call_unref(done);
	}
}

static void wrong_arguments_start_nothing(void **state)
{
	struct mesh_header bad[] = { { "Bad Name", "x", 0, 0 } }, pseudo[] = { { ":path", "/x", 0, 0 } }, newline[] = { { "x-a", "a\nb", 0, 0 } };
	struct mesh_header connection[] = { { "connection", "close", 0, 0 } };
	static const char *const values[] = { " a", "a ", "\ta", "a\x7f" }, *const methods[] = { "", "GE(T", "G T", "CONNECT" };
	struct mesh_call_options opts = grpc_call(NULL, "", 0);
	struct mesh_error err = MESH_ERROR_INIT;
	struct mesh_pick pick = { .size = sizeof(pick) };
	char text[64] = "x";
	mesh_client *client = NULL;
	mesh_call *none = NULL;

	(void)state;
	assert_int_equal(mesh_client_start(users, &opts, &none, &err), MESH_E_INVALID);
	assert_null(none);
	opts.path = "no-slash";
	assert_int_equal(mesh_client_start(users, &opts, &none, &err), MESH_E_INVALID);
	opts.path = "/a b";
	assert_int_equal(mesh_client_start(users, &opts, &none, &err), MESH_E_INVALID);
	opts.path = "/t.S/Echo";
	opts.size = 4;
	assert_int_equal(mesh_client_start(users, &opts, &none, &err), MESH_E_VERSION);
	opts.size = sizeof(opts);
	opts.flags = 1u << 30;
	assert_int_equal(mesh_client_start(users, &opts, &none, &err), MESH_E_INVALID);
	opts.flags = MESH_CALL_GRPC;
	opts.header_count = 1;
	opts.headers = bad;
	assert_int_equal(mesh_client_start(users, &opts, &none, &err), MESH_E_INVALID);
	opts.headers = pseudo;
	assert_int_equal(mesh_client_start(users, &opts, &none, &err), MESH_E_INVALID);
	opts.headers = newline;
	assert_int_equal(mesh_client_start(users, &opts, &none, &err), MESH_E_INVALID);
	opts.headers = connection;
	assert_int_equal(mesh_client_start(users, &opts, &none, &err), MESH_E_INVALID);
	opts.headers = NULL;
	assert_int_equal(mesh_client_start(users, &opts, &none, &err), MESH_E_INVALID);
	/* What a peer would have to refuse is not sent: the peer is not to blame. */
	for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
		struct mesh_header value = { "x-a", values[i], 0, 0 };

		opts.headers = &value;
		assert_int_equal(mesh_client_start(users, &opts, &none, &err), MESH_E_INVALID);
	}
	opts.header_count = 0;
	opts.flags = 0;
	for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
		opts.method = methods[i];
		assert_int_equal(mesh_client_start(users, &opts, &none, &err), MESH_E_INVALID);
	}
	assert_int_equal(mesh_client_start(NULL, &opts, &none, &err), MESH_E_INVALID);
	assert_int_equal(mesh_client_start(users, NULL, &none, &err), MESH_E_INVALID);
	assert_int_equal(mesh_client_new(m, "no/such name", &client, &err), MESH_E_INVALID);
	assert_int_equal(mesh_client_new(m, "", &client, &err), MESH_E_INVALID);
	assert_int_equal(mesh_client_new(m, NULL, &client, &err), MESH_E_INVALID);
	mesh_pick_address(&pick, NULL);
	mesh_pick_address(NULL, text);
	assert_string_equal(text, "");
	assert_true(mesh_options_get(m, "timeout", NULL, NULL, 10) > 0);
	assert_true(strlen(err.message) > 0);
}

/* ---- the three ways ---- */

struct heard {
	_Atomic int count;
	_Atomic int32_t code;
	pthread_t thread;
	int status, waited;
	struct mesh_error err;
};

static void hear(const struct mesh_event *event, void *user)
{
	struct heard *heard = user;

	if (event->type != MESH_EVENT_CALL_DONE)
		return;
	heard->thread = pthread_self();
	/* Inside the callback all can be asked already. */
	heard->status = mesh_call_grpc_status(event->call);
	heard->waited = mesh_call_wait(event->call, 0, NULL);
	mesh_call_error(event->call, &heard->err);
	atomic_store(&heard->code, event->code);
	atomic_fetch_add(&heard->count, 1);
}

static void a_callback_comes_exactly_once_on_the_loop(void **state)
{
	static struct heard heard[500];
	struct mesh_error err = MESH_ERROR_INIT;

	(void)state;
	memset(heard, 0, sizeof(heard));
	for (int i = 0; i < 500; i++) {
		struct mesh_call_options opts = grpc_call(i % 3 ? "/t.S/Echo" : "/t.S/Status", "x", 1);

		opts.on_event = hear;
		opts.user = &heard[i];
		heard[i].err.size = sizeof(heard[i].err);
		assert_int_equal(mesh_client_start(users, &opts, NULL, &err), 0);
	}
	for (int i = 0; i < 500; i++) {
		WAIT_FOR(atomic_load(&heard[i].count));
		assert_int_equal(heard[i].code, i % 3 ? 0 : MESH_E_STATUS);
		assert_int_equal(heard[i].waited, heard[i].code);
		assert_int_equal(heard[i].status, i % 3 ? 0 : 9);
		assert_int_equal(heard[i].err.code, heard[i].code);
		assert_false(pthread_equal(heard[i].thread, pthread_self()));
	}
	poll(NULL, 0, 20);
	for (int i = 0; i < 500; i++)
		assert_int_equal(heard[i].count, 1);
}

static void a_queue_gives_each_event_once_and_its_descriptor_tells(void **state)
{
	struct mesh_event events[64];
	struct mesh_error err = MESH_ERROR_INIT;
	bool seen[300] = { false };
	mesh_queue *q;
	int total = 0;

	(void)state;
	assert_int_equal(mesh_queue_new(m, &q, &err), 0);
	for (int i = 0; i < 300; i++) {
		struct mesh_call_options opts = grpc_call("/t.S/Echo", &i, sizeof(i));

		opts.queue = q;
		opts.token = (uint64_t)i;
		assert_int_equal(mesh_client_start(users, &opts, NULL, &err), 0);
	}
	while (total < 300) {
		struct pollfd ready = { .fd = mesh_queue_fd(q), .events = POLLIN };
		int got;

		assert_int_equal(poll(&ready, 1, 10000), 1);
		events[0].size = sizeof(events[0]);
		got = mesh_queue_next(q, events, 64, 0);
		assert_true(got > 0);
		for (int i = 0; i < got; i++) {
			assert_int_equal(events[i].type, MESH_EVENT_CALL_DONE);
			assert_int_equal(events[i].code, 0);
			assert_true(events[i].token < 300 && !seen[events[i].token]);
			seen[events[i].token] = true;
		}
		total += got;
	}
	assert_int_equal(mesh_queue_next(q, events, 64, 0), 0);
	{
		struct pollfd ready = { .fd = mesh_queue_fd(q), .events = POLLIN };

		assert_int_equal(poll(&ready, 1, 0), 0);
	}
	mesh_queue_free(q);
}

static _Atomic bool is_about_to_wait;

static void *wait_for_queue(void *queue)
{
	struct mesh_event event = { .size = sizeof(event) };

	atomic_store(&is_about_to_wait, true);
	return (void *)(intptr_t)mesh_queue_next(queue, &event, 1, UINT32_MAX);
}

static void freeing_a_queue_wakes_those_who_wait(void **state)
{
	mesh_queue *q;
	pthread_t thread;
	void *result;

	(void)state;
	assert_int_equal(mesh_queue_new(m, &q, NULL), 0);
	pthread_create(&thread, NULL, wait_for_queue, q);
	WAIT_FOR(atomic_load(&is_about_to_wait));
	poll(NULL, 0, getenv("MESH_TEST_FEWER") ? 1000 : 50); /* only who waits already may be freed under */
	mesh_queue_free(q);
	pthread_join(thread, &result);
	assert_int_equal((intptr_t)result, MESH_E_CLOSING);
}

static void *call_many(void *unused)
{
	struct mesh_error err;
	mesh_call *done;

	(void)unused;
	for (int i = 0; i < 300; i++) {
		if (call(grpc_call("/t.S/Echo", "x", 1), &done, &err))
			return (void *)1;
		mesh_call_unref(done);
	}
	return NULL;
}

static void one_client_serves_many_threads(void **state)
{
	pthread_t threads[12]; /* more than there are shards of their own */
	void *failed;

	(void)state;
	for (int i = 0; i < 12; i++)
		pthread_create(&threads[i], NULL, call_many, NULL);
	for (int i = 0; i < 12; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	WAIT_FOR(COUNTED(m, "mesh_calls_in_flight", "service", "users") == 0);
	WAIT_FOR(COUNTED(m, "mesh_requests_in_flight", "service", "users") == 0);
}

static void a_call_is_waited_for_at_most_as_long_as_asked(void **state)
{
	struct mesh_call_options opts = http_call("/park");
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *started;

	(void)state;
	assert_int_equal(mesh_client_start(users, &opts, &started, &err), 0);
	assert_int_equal(mesh_call_wait(started, 0, &err), MESH_E_AGAIN);
	assert_int_equal(mesh_call_wait(started, 30, &err), MESH_E_AGAIN);
	assert_int_equal(mesh_call_http_status(started), 0);
	WAIT_FOR(atomic_load(&parked));
	assert_int_equal(mesh_request_reply(parked, &(struct mesh_reply){ .size = sizeof(struct mesh_reply), .http_status = 204 }), 0);
	assert_int_equal(mesh_request_reply(parked, &(struct mesh_reply){ .size = sizeof(struct mesh_reply) }), MESH_E_STATE);
	assert_int_equal(mesh_call_wait(started, UINT32_MAX, &err), 0);
	assert_int_equal(mesh_call_http_status(started), 204);
	mesh_request_unref(atomic_exchange(&parked, NULL));
	mesh_call_unref(started);
}

static int waited_inside;

static void wait_inside(const struct mesh_event *event, void *user)
{
	struct mesh_call_options opts = http_call("/echo");
	mesh_call *out = NULL;

	(void)event;
	waited_inside = mesh_client_call(users, &opts, &out, NULL);
	atomic_fetch_add((_Atomic int *)user, 1);
}

static void waiting_on_a_loop_is_refused_instead_of_hanging(void **state)
{
	struct mesh_call_options opts = http_call("/echo");
	_Atomic int done = 0;

	(void)state;
	opts.on_event = wait_inside;
	opts.user = (void *)(uintptr_t)&done;
	assert_int_equal(mesh_client_start(users, &opts, NULL, NULL), 0);
	WAIT_FOR(atomic_load(&done));
	assert_int_equal(waited_inside, MESH_E_WRONG_THREAD);
}

/* ---- deadlines and cancelling ---- */

/* The steps follow each other: none of the time is told twice. */
static uint64_t sum_of_steps(const struct mesh_call_info *info)
{
	return info->queue_ns + info->resolve_ns + info->connect_ns + info->send_ns + info->wait_ns + info->receive_ns;
}

static void the_deadline_travels_and_is_kept_at_both_ends(void **state)
{
	struct mesh_call_options opts = grpc_call("/t.S/Remaining", "", 0);
	struct mesh_call_info info = { .size = sizeof(info) };
	struct mesh_error err;
	char text[24] = "";
	const void *body;
	mesh_call *done;
	uint64_t len;
	int remaining;

	(void)state;
	opts.timeout_ms = 3000;
	assert_int_equal(call(opts, &done, &err), 0);
	body = mesh_call_body(done, &len);
	assert_in_range(len, 1, sizeof(text) - 1);
	memcpy(text, body, len);
	remaining = (int)strtol(text, NULL, 10);
	assert_in_range(remaining, 1, 3000);
	mesh_call_unref(done);

	opts = grpc_call("/t.S/Park", "", 0);
	opts.timeout_ms = 60;
	assert_int_equal(call(opts, &done, &err), MESH_E_DEADLINE);
	assert_int_equal(err.grpc_status, 4);
	assert_int_equal(err.in_doubt, 1);
	assert_int_equal(err.retry_safe, 0);
	assert_true(strlen(err.endpoint) > 0);
	assert_int_equal(mesh_call_info(done, &info), 0);
	assert_true(info.wait_ns > 0 && sum_of_steps(&info) <= info.total_ns); /* it waited, if in vain */
	/* A smaller structure, of whatever size, holds a text that ends. */
	memset(info.endpoint, 'x', sizeof(info.endpoint));
	info.size = offsetof(struct mesh_call_info, endpoint) + 4;
	assert_int_equal(mesh_call_info(done, &info), 0);
	assert_memory_equal(info.endpoint, "127\0x", 5);
	mesh_call_unref(done);
	WAIT_FOR(atomic_load(&parked));
	WAIT_FOR(mesh_request_is_cancelled(parked));
	assert_int_equal(mesh_request_remaining_ms(parked), 0);
	assert_int_equal(mesh_request_reply(parked, &(struct mesh_reply){ .size = sizeof(struct mesh_reply) }), MESH_E_CANCELLED);
	mesh_request_unref(atomic_exchange(&parked, NULL));
}

static void cancelling_ends_the_call_and_tells_the_peer(void **state)
{
	struct mesh_call_options opts = grpc_call("/t.S/Park", "", 0);
	struct mesh_error err = MESH_ERROR_INIT;
	struct heard heard = { .err = MESH_ERROR_INIT };
	mesh_call *started;

	(void)state;
	opts.on_event = hear;
	opts.user = &heard;
	assert_int_equal(mesh_client_start(users, &opts, &started, &err), 0);
	WAIT_FOR(atomic_load(&parked));
	mesh_call_cancel(started);
	mesh_call_cancel(started);
	assert_int_equal(mesh_call_wait(started, UINT32_MAX, &err), MESH_E_CANCELLED);
	WAIT_FOR(atomic_load(&heard.count));
	assert_int_equal(heard.code, MESH_E_CANCELLED);
	WAIT_FOR(mesh_request_is_cancelled(parked));
	mesh_call_cancel(started);
	mesh_request_unref(atomic_exchange(&parked, NULL));
	mesh_call_unref(started);
	assert_int_equal(heard.count, 1);
}

/* ---- how calls that cannot work end ---- */

static void unknown_names_are_explained(void **state)
{
	struct mesh_call_options opts = http_call("/");
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_client *nobody = new_client(m, "nobody");
	mesh_call *done;

	(void)state;
	opts.flags = MESH_CALL_FAIL_FAST;
	assert_int_equal(mesh_client_call(nobody, &opts, &done, &err), MESH_E_NO_NAME);
	assert_int_equal(err.stage, MESH_STAGE_RESOLVE);
	assert_non_null(strstr(err.message, "nobody"));
	assert_int_equal(err.in_doubt, 0);
	assert_int_equal(err.retry_safe, 1);
	mesh_call_unref(done);
	mesh_client_free(nobody);
}

static void messages_beyond_the_limit_are_refused_with_the_option(void **state)
{
	char *large = calloc(1, 5 << 20);
	struct mesh_error err;
	mesh_call *done;

	(void)state;
	assert_int_equal(call(grpc_call("/t.S/Echo", large, 5 << 20), &done, &err), MESH_E_TOO_LARGE);
	assert_non_null(strstr(err.message, "message.max"));
	mesh_call_unref(done);
	free(large);
}

static void headers_beyond_the_limit_are_refused_and_the_connection_lives(void **state)
{
	static char value[40000];
	struct mesh_header header = { "x-large", value, 0, 0 };
	struct mesh_call_options opts = http_call("/echo");
	int64_t opened = COUNTED(m, "mesh_connections_opened_total");
	struct mesh_error err;
	mesh_call *done;

	(void)state;
	memset(value, 'v', sizeof(value) - 1);
	opts.headers = &header;
	opts.header_count = 1;
	if (call(opts, &done, &err) == 0)
		assert_int_equal(mesh_call_http_status(done), 431);
	mesh_call_unref(done);
	assert_int_equal(call(http_call("/echo"), &done, &err), 0);
	mesh_call_unref(done);
	assert_int_equal(COUNTED(m, "mesh_connections_opened_total"), opened);
}

/* ---- what is counted ---- */

static void every_call_is_counted_on_both_sides(void **state)
{
	int64_t ok = COUNTED(m, "mesh_calls_ended_total", "service", "users", "reason", "ok");
	int64_t served = COUNTED(m, "mesh_requests_ended_total", "service", "users", "reason", "ok");
	int64_t failed = COUNTED(m, "mesh_calls_ended_total", "service", "users", "reason", "status:FAILED_PRECONDITION");
	int64_t latencies = COUNTED(m, "mesh_call_latency_ns", "service", "users");
	struct mesh_call_info info = { .size = sizeof(info) };
	struct mesh_error err;
	mesh_call *done;

	(void)state;
	for (int i = 0; i < 50; i++) {
		assert_int_equal(call(grpc_call("/t.S/Echo", "0123456789", 10), &done, &err), 0);
		assert_int_equal(mesh_call_info(done, &info), 0);
		assert_int_equal(info.attempts, 1);
		assert_int_equal(info.sent_bytes, 15);
		assert_int_equal(info.received_bytes, 15);
		assert_true(info.total_ns > 0 && sum_of_steps(&info) <= info.total_ns);
		assert_string_equal(info.endpoint, mesh_server_address(server));
		mesh_call_unref(done);
	}
	for (int i = 0; i < 7; i++) {
		call(grpc_call("/t.S/Status", "", 0), &done, &err);
		mesh_call_unref(done);
	}
	WAIT_FOR(COUNTED(m, "mesh_calls_ended_total", "service", "users", "reason", "ok") == ok + 50);
	WAIT_FOR(COUNTED(m, "mesh_requests_ended_total", "service", "users", "reason", "ok") == served + 50);
	WAIT_FOR(COUNTED(m, "mesh_calls_ended_total", "service", "users", "reason", "status:FAILED_PRECONDITION") == failed + 7);
	WAIT_FOR(COUNTED(m, "mesh_call_latency_ns", "service", "users") == latencies + 57);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(http_bodies_of_every_size_come_back),
		cmocka_unit_test(metadata_travels_both_ways),
		cmocka_unit_test(statuses_and_messages_arrive_as_they_were_said),
		cmocka_unit_test(what_nobody_handles_is_said_so),
		cmocka_unit_test(a_handler_that_forgets_to_answer_is_answered_for),
		cmocka_unit_test(the_health_service_skips_what_it_does_not_know),
		cmocka_unit_test(wrong_arguments_start_nothing),
		cmocka_unit_test(a_callback_comes_exactly_once_on_the_loop),
		cmocka_unit_test(a_queue_gives_each_event_once_and_its_descriptor_tells),
		cmocka_unit_test(freeing_a_queue_wakes_those_who_wait),
		cmocka_unit_test(one_client_serves_many_threads),
		cmocka_unit_test(a_call_is_waited_for_at_most_as_long_as_asked),
		cmocka_unit_test(waiting_on_a_loop_is_refused_instead_of_hanging),
		cmocka_unit_test(the_deadline_travels_and_is_kept_at_both_ends),
		cmocka_unit_test(cancelling_ends_the_call_and_tells_the_peer),
		cmocka_unit_test(unknown_names_are_explained),
		cmocka_unit_test(messages_beyond_the_limit_are_refused_with_the_option),
		cmocka_unit_test(headers_beyond_the_limit_are_refused_and_the_connection_lives),
		cmocka_unit_test(every_call_is_counted_on_both_sides),
	};

	cmocka_set_test_filter(getenv("TEST_FILTER")); /* one test alone: TEST_FILTER=name */
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
