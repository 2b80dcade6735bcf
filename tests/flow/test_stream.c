/* Streams: all kinds of gRPC, HTTP bodies piece by piece, back-pressure, half-close, cancelling from both ends. */
#include "../lib/mesh_test.h"

static mesh *m;
static mesh_client *peer;
static mesh_server *server;

/* ---- a server in a thread, through the queue: what bindings do ---- */

static mesh_queue *requests;
static pthread_t worker;
static _Atomic int ended_early;

enum token { TOKEN_ECHO = 1, TOKEN_COUNT, TOKEN_SUM, TOKEN_NEVER_READ, TOKEN_STOP_EARLY, TOKEN_ENDLESS };

static void finish(mesh_request *request, int32_t status, const char *message)
{
	struct mesh_header trailer = { "x-done", "yes", 0, 0 };
	struct mesh_reply reply = { .size = sizeof(reply), .grpc_status = status, .grpc_message = message, .trailers = &trailer, .trailer_count = 1 };

	mesh_request_finish(request, &reply);
}

static long number_in(const struct mesh_message *message)
{
	char text[16] = "";

	memcpy(text, message->data, message->len < sizeof(text) ? message->len : sizeof(text) - 1);
	return strtol(text, NULL, 10);
}

static void echo_all(mesh_request *request)
{
	struct mesh_message message = { .size = sizeof(message) };
	int rc;

	while ((rc = mesh_request_recv(request, &message, 10000)) == 1) {
		rc = mesh_request_send(request, message.data, message.len, 10000);
		mesh_message_release(&message);
		if (rc)
			return;
	}
	if (rc == 0)
		finish(request, 0, NULL);
}

static void count_down(mesh_request *request)
{
	struct mesh_message message = { .size = sizeof(message) };
	char text[16];
	int from;

	if (mesh_request_recv(request, &message, 10000) != 1)
		return;
	from = (int)number_in(&message);
	mesh_message_release(&message);
	for (; from > 0; from--) {
		snprintf(text, sizeof(text), "%d", from);
		if (mesh_request_send(request, text, strlen(text), 10000))
			return;
	}
	finish(request, 0, NULL);
}

static void sum(mesh_request *request)
{
	struct mesh_message message = { .size = sizeof(message) };
	char text[24];
	long total = 0;

	while (mesh_request_recv(request, &message, 10000) == 1) {
		total += number_in(&message);
		mesh_message_release(&message);
	}
	snprintf(text, sizeof(text), "%ld", total);
	if (!mesh_request_send(request, text, strlen(text), 10000))
		finish(request, 0, NULL);
}

static void send_for_ever(mesh_request *request)
{
	static char piece[8192];

	while (mesh_request_send(request, piece, sizeof(piece), 10000) == 0)
		;
	atomic_fetch_add(&ended_early, mesh_request_is_cancelled(request));
}

static void *serve(void *unused)
{
	struct mesh_event event;
	int got;

	(void)unused;
	for (;;) {
		event.size = sizeof(event);
		got = mesh_queue_next(requests, &event, 1, UINT32_MAX);
		if (got != 1)
			return NULL;
		if (event.type != MESH_EVENT_REQUEST)
			continue;
		switch ((enum token)event.token) {
		case TOKEN_ECHO: echo_all(event.request); break;
		case TOKEN_COUNT: count_down(event.request); break;
		case TOKEN_SUM: sum(event.request); break;
		case TOKEN_NEVER_READ: poll(NULL, 0, 300); finish(event.request, 0, NULL); break;
		case TOKEN_STOP_EARLY: finish(event.request, 8, "enough"); break;
		case TOKEN_ENDLESS: send_for_ever(event.request); break;
		}
		mesh_request_unref(event.request);
	}
}

static void *begin_elsewhere(void *request)
{
	struct mesh_header header = { "x-begun", "elsewhere", 0, 0 };
	struct mesh_reply reply = { .size = sizeof(reply), .headers = &header, .header_count = 1 };

	mesh_request_begin(request, &reply);
	mesh_request_unref(request);
	return NULL;
}

/* One thread begins while the loop finishes: whoever comes first, the answer has its headers, and ends. */
static void begin_and_finish(mesh_request *request, void *user)
{
	pthread_t thread;

	(void)user;
	assert_int_equal(pthread_create(&thread, NULL, begin_elsewhere, mesh_request_ref(request)), 0);
	pthread_detach(thread);
	finish(request, 0, NULL);
}

static int set_up(void **state)
{
	static const char *const names[] = { NULL, "/t.S/Echo", "/t.S/Count", "/t.S/Sum", "/t.S/NeverRead", "/t.S/StopEarly", "/t.S/Endless" };

	if (make_test_dir(state))
		return -1;
	m = OPEN_MESH("peer", "buffer", "64KiB");
	server = new_server(m, NULL);
	assert_int_equal(mesh_queue_new(m, &requests, NULL), 0);
	for (uint64_t i = TOKEN_ECHO; i <= TOKEN_ENDLESS; i++)
		assert_int_equal(mesh_server_handle_queue(server, names[i], MESH_HANDLER_GRPC | MESH_HANDLER_STREAM, requests, i, NULL), 0);
	assert_int_equal(mesh_server_handle_queue(server, "/echo", MESH_HANDLER_STREAM, requests, TOKEN_ECHO, NULL), 0);
	add_handler(server, "/t.S/BeginAndFinish", MESH_HANDLER_GRPC | MESH_HANDLER_STREAM, begin_and_finish, NULL);
	start_server(server);
	pthread_create(&worker, NULL, serve, NULL);
	peer = new_client(m, "peer");
	return 0;
}

static int tear_down(void **state)
{
	mesh_client_free(peer);
	mesh_server_free(server);
	mesh_queue_free(requests);
	pthread_join(worker, NULL);
	mesh_close(m);
	return remove_test_dir(state);
}

static mesh_call *start(const char *path)
{
	struct mesh_call_options opts = grpc_call(path, NULL, 0);
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *call;

	opts.flags |= MESH_CALL_STREAM;
	opts.timeout_ms = 20000;
	if (mesh_client_start(peer, &opts, &call, &err))
		fail_msg("%s", err.message);
	return call;
}

static void send(mesh_call *call, const char *text, uint32_t flags)
{
	assert_int_equal(mesh_call_send(call, text, text ? strlen(text) : 0, flags, 10000), 0);
}

static void expect(mesh_call *call, const char *text)
{
	struct mesh_message message = { .size = sizeof(message) };

	assert_int_equal(mesh_call_recv(call, &message, 10000), 1);
	assert_int_equal(message.len, strlen(text));
	assert_memory_equal(message.data, text, message.len);
	mesh_message_release(&message);
}

static void expect_end(mesh_call *call, int code)
{
	struct mesh_message message = { .size = sizeof(message) };
	struct mesh_error err = MESH_ERROR_INIT;
	int rc = mesh_call_recv(call, &message, 10000);

	if (rc != (code == MESH_E_STATUS ? rc : code))
		fail_msg("recv said %d instead of %d", rc, code);
	assert_true(rc <= 0);
	assert_int_equal(mesh_call_wait(call, 10000, &err), code);
}

/* ---- the kinds ---- */

static void messages_are_exchanged_in_turn(void **state)
{
	mesh_call *call = start("/t.S/Echo");

	(void)state;
	for (int i = 0; i < 100; i++) {
		char text[32];

		snprintf(text, sizeof(text), "message %d", i);
		send(call, text, 0);
		expect(call, text);
	}
	send(call, "", 0);
	expect(call, "");
	send(call, NULL, MESH_SEND_LAST);
	expect_end(call, 0);
	assert_string_equal(mesh_call_trailer(call, "x-done", NULL), "yes");
	assert_int_equal(mesh_call_send(call, "x", 1, 0, 0), MESH_E_STATE);
	mesh_call_unref(call);
}

static void a_server_streams_many_answers_to_one_question(void **state)
{
	mesh_call *call = start("/t.S/Count");
	char text[16];

	(void)state;
	send(call, "5000", MESH_SEND_LAST);
	for (int i = 5000; i > 0; i--) {
		snprintf(text, sizeof(text), "%d", i);
		expect(call, text);
	}
	expect_end(call, 0);
	mesh_call_unref(call);
}

static void a_client_streams_many_questions_for_one_answer(void **state)
{
	mesh_call *call = start("/t.S/Sum");

	(void)state;
	for (int i = 0; i < 5000; i++)
		send(call, "2", i == 4999 ? MESH_SEND_LAST : 0);
	expect(call, "10000");
	expect_end(call, 0);
	mesh_call_unref(call);
}

static void large_messages_pass_small_buffers(void **state)
{
	mesh_call *call = start("/t.S/Echo");
	struct mesh_message message = { .size = sizeof(message) };
	size_t size = 3 << 20;
	char *large = malloc(size);

	(void)state;
	for (size_t i = 0; i < size; i++)
		large[i] = (char)(i * 7 >> 2);
	assert_int_equal(mesh_call_send(call, large, size, MESH_SEND_LAST, 20000), 0);
	assert_int_equal(mesh_call_recv(call, &message, 20000), 1);
	assert_int_equal(message.len, size);
	assert_memory_equal(message.data, large, size);
	mesh_message_release(&message);
	expect_end(call, 0);
	mesh_call_unref(call);
	free(large);
}

static void http_bodies_stream_in_pieces(void **state)
{
	struct mesh_call_options opts = http_call("/echo");
	struct mesh_message message = { .size = sizeof(message) };
	uint64_t sent = 0, received = 0;
	static char piece[10000];
	mesh_call *call;
	int rc;

	(void)state;
	opts.flags = MESH_CALL_STREAM;
	opts.method = "POST";
	opts.timeout_ms = 20000;
	assert_int_equal(mesh_client_start(peer, &opts, &call, NULL), 0);
	/* More than all buffers between hold: who waits to send must go on receiving, or both sides wait for ever. */
	for (int i = 0; i < 100; i++) {
		while ((rc = mesh_call_send(call, piece, sizeof(piece), i == 99 ? MESH_SEND_LAST : 0, 0)) == MESH_E_AGAIN)
			if (mesh_call_recv(call, &message, 100) == 1) {
				received += message.len;
				mesh_message_release(&message);
			}
		assert_int_equal(rc, 0);
		sent += sizeof(piece);
	}
	while ((rc = mesh_call_recv(call, &message, 10000)) == 1) {
		received += message.len;
		mesh_message_release(&message);
	}
	assert_int_equal(rc, 0);
	assert_int_equal(received, sent);
	assert_int_equal(mesh_call_wait(call, 10000, NULL), 0);
	mesh_call_unref(call);
}

/* ---- pace ---- */

static void a_sender_waits_when_nobody_reads(void **state)
{
	mesh_call *call = start("/t.S/NeverRead");
	static char piece[16384];
	size_t taken = 0;
	int rc;

	(void)state;
	while ((rc = mesh_call_send(call, piece, sizeof(piece), 0, 0)) == 0) {
		taken += sizeof(piece);
		assert_true(taken < (8 << 20));
	}
	assert_int_equal(rc, MESH_E_AGAIN);
	/* and an end comes all the same */
	assert_int_equal(mesh_call_wait(call, 10000, NULL), 0);
	mesh_call_unref(call);
}

/* Far more than window and buffers hold, and read slowly: what waits stays bounded. */
static void a_reader_that_pauses_stops_the_sender_and_loses_nothing(void **state)
{
	mesh_call *call = start("/t.S/Count");
	char text[16];

	(void)state;
	send(call, "200000", MESH_SEND_LAST);
	poll(NULL, 0, 100);
	for (int i = 200000; i > 0; i--) {
		snprintf(text, sizeof(text), "%d", i);
		expect(call, text);
	}
	expect_end(call, 0);
	mesh_call_unref(call);
}

/* ---- ends ---- */

static void a_server_may_answer_before_it_has_read_all(void **state)
{
	mesh_call *call = start("/t.S/StopEarly");
	struct mesh_error err = MESH_ERROR_INIT;
	int rc = 0;

	(void)state;
	for (int i = 0; i < 100000 && !rc; i++)
		rc = mesh_call_send(call, "more", 4, 0, 100);
	assert_int_equal(mesh_call_wait(call, 10000, &err), MESH_E_STATUS);
	assert_int_equal(mesh_call_grpc_status(call), 8);
	assert_string_equal(mesh_call_grpc_message(call), "enough");
	mesh_call_unref(call);
}

static void cancelling_stops_an_endless_answer(void **state)
{
	mesh_call *call = start("/t.S/Endless");
	struct mesh_message message = { .size = sizeof(message) };
	int before = atomic_load(&ended_early), rc;

	(void)state;
	assert_int_equal(mesh_call_recv(call, &message, 10000), 1);
	mesh_message_release(&message);
	mesh_call_cancel(call);
	assert_int_equal(mesh_call_wait(call, 10000, NULL), MESH_E_CANCELLED);
	while ((rc = mesh_call_recv(call, &message, 0)) == 1)
		mesh_message_release(&message);
	assert_int_equal(rc, MESH_E_CANCELLED);
	WAIT_FOR(atomic_load(&ended_early) == before + 1);
	mesh_call_unref(call);
}

static void dropping_the_last_reference_leaves_no_stream_behind(void **state)
{
	mesh_call *call = start("/t.S/Echo");

	(void)state;
	send(call, "hello", 0);
	expect(call, "hello");
	mesh_call_cancel(call);
	mesh_call_unref(call);
	WAIT_FOR(COUNTED(m, "mesh_requests_in_flight") == 0);
	WAIT_FOR(COUNTED(m, "mesh_calls_in_flight") == 0);
}

static void the_deadline_ends_a_stream_too(void **state)
{
	struct mesh_call_options opts = grpc_call("/t.S/Echo", NULL, 0);
	struct mesh_message message = { .size = sizeof(message) };
	mesh_call *call;

	(void)state;
	opts.flags |= MESH_CALL_STREAM;
	opts.timeout_ms = 80;
	assert_int_equal(mesh_client_start(peer, &opts, &call, NULL), 0);
	assert_int_equal(mesh_call_recv(call, &message, 10000), MESH_E_DEADLINE);
	assert_int_equal(mesh_call_wait(call, 10000, NULL), MESH_E_DEADLINE);
	mesh_call_unref(call);
}

static void beginning_and_finishing_may_race(void **state)
{
	int times = getenv("MESH_TEST_FEWER") ? 100 : 1000;

	(void)state;
	for (int i = 0; i < times; i++) {
		struct mesh_error err = MESH_ERROR_INIT;
		mesh_call *call = start("/t.S/BeginAndFinish");

		if (mesh_call_wait(call, 20000, &err))
			fail_msg("%s", err.message);
		assert_non_null(mesh_call_header(call, "content-type", NULL));
		assert_string_equal(mesh_call_trailer(call, "x-done", NULL), "yes");
		mesh_call_unref(call);
	}
}

static void unary_calls_have_no_stream(void **state)
{
	struct mesh_call_options opts = grpc_call("/t.S/Nothing", "", 0);
	struct mesh_message message = { .size = sizeof(message) };
	mesh_call *call;

	(void)state;
	assert_int_equal(mesh_client_start(peer, &opts, &call, NULL), 0);
	assert_int_equal(mesh_call_send(call, "x", 1, 0, 0), MESH_E_STATE);
	assert_int_equal(mesh_call_recv(call, &message, 0), MESH_E_STATE);
	mesh_call_wait(call, 10000, NULL);
	mesh_call_unref(call);
}

/* ---- events ---- */

struct talk {
	mesh_call *call;
	_Atomic int received, ended;
	int sent;
};

static void talk(const struct mesh_event *event, void *user)
{
	struct talk *talk = user;
	struct mesh_message message = { .size = sizeof(message) };

	if (event->type == MESH_EVENT_CALL_DONE) {
		atomic_store(&talk->ended, event->code ? event->code : 1);
		return;
	}
	while (event->type == MESH_EVENT_CALL_READABLE && mesh_call_recv(event->call, &message, 0) == 1) {
		atomic_fetch_add(&talk->received, 1);
		mesh_message_release(&message);
	}
	while (talk->sent < 20000) {
		int rc = mesh_call_send(event->call, "0123456789012345678901234567890123456789", 40, talk->sent == 19999 ? MESH_SEND_LAST : 0, 0);

		if (rc)
			break;
		talk->sent++;
	}
}

static void events_alone_can_drive_a_stream(void **state)
{
	struct mesh_call_options opts = grpc_call("/t.S/Echo", NULL, 0);
	struct talk talked = { 0 };
	mesh_call *call;

	(void)state;
	opts.flags |= MESH_CALL_STREAM;
	opts.timeout_ms = 60000;
	opts.on_event = talk;
	opts.user = &talked;
	assert_int_equal(mesh_client_start(peer, &opts, &call, NULL), 0);
	assert_int_equal(mesh_call_send(call, "first", 5, 0, 10000), 0);
	WAIT_FOR(atomic_load(&talked.ended));
	assert_int_equal(talked.ended, 1);
	assert_int_equal(talked.received, 20001);
	mesh_call_unref(call);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(messages_are_exchanged_in_turn),
		cmocka_unit_test(a_server_streams_many_answers_to_one_question),
		cmocka_unit_test(a_client_streams_many_questions_for_one_answer),
		cmocka_unit_test(large_messages_pass_small_buffers),
		cmocka_unit_test(http_bodies_stream_in_pieces),
		cmocka_unit_test(a_sender_waits_when_nobody_reads),
		cmocka_unit_test(a_reader_that_pauses_stops_the_sender_and_loses_nothing),
		cmocka_unit_test(a_server_may_answer_before_it_has_read_all),
		cmocka_unit_test(cancelling_stops_an_endless_answer),
		cmocka_unit_test(dropping_the_last_reference_leaves_no_stream_behind),
		cmocka_unit_test(the_deadline_ends_a_stream_too),
		cmocka_unit_test(beginning_and_finishing_may_race),
		cmocka_unit_test(unary_calls_have_no_stream),
		cmocka_unit_test(events_alone_can_drive_a_stream),
	};

	cmocka_set_test_filter(getenv("TEST_FILTER")); /* one test alone: TEST_FILTER=name */
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
