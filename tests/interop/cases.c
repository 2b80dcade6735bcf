/*
 * gRPC's official interop cases with our client and our server, and its negative HTTP/2 cases with our client. What each case
 * does and expects is told in grpc/grpc's doc/interop-test-descriptions.md and doc/negative-http2-interop-test-descriptions.md.
 *
 *	cases serve                      serves grpc.testing.TestService until it is killed; prints its address
 *	cases call HOST:PORT [CASE...]   runs these cases, or all but the negative ones, against a foreign server
 *
 * Unary methods are answered on the loop. Streams come out of a queue and each gets a thread that waits, as a program would
 * that does not want to think in events.
 */
#include "tests/interop/cases.pb-c.h"

#include "mesh/options.h"
#include "mesh/server.h"

#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SERVICE "/grpc.testing.TestService/"
#define INITIAL "x-grpc-test-echo-initial"
#define TRAILING "x-grpc-test-echo-trailing-bin"

enum { PATIENCE_MS = 20000, LARGE_REQUEST = 271828, LARGE_RESPONSE = 314159, STEPS = 4, PARALLEL = 10, TEXT_MAX = 256 };

typedef Grpc__Testing__Payload payload;
typedef Grpc__Testing__EchoStatus echo_status;
typedef Grpc__Testing__SimpleRequest simple_request;
typedef Grpc__Testing__SimpleResponse simple_response;
typedef Grpc__Testing__StreamingInputCallRequest input_request;
typedef Grpc__Testing__StreamingInputCallResponse input_response;
typedef Grpc__Testing__StreamingOutputCallRequest output_request;
typedef Grpc__Testing__StreamingOutputCallResponse output_response;
typedef Grpc__Testing__ResponseParameters parameters;

static const int request_sizes[STEPS] = { 27182, 8, 1828, 45904 };
static const int response_sizes[STEPS] = { 31415, 9, 2653, 58979 };
static uint8_t zeros[LARGE_RESPONSE];

/* A message as it goes over the wire; free(). */
static void *pack(const ProtobufCMessage *message, uint64_t *len)
{
	void *data = malloc(protobuf_c_message_get_packed_size(message) + 1);

	if (!data)
		exit(3);
	*len = protobuf_c_message_pack(message, data);
	return data;
}

static payload payload_of(int size)
{
	payload body = GRPC__TESTING__PAYLOAD__INIT;

	body.body = (ProtobufCBinaryData){ (size_t)size, zeros };
	return body;
}

/* ---- serving ---- */

/* What custom_metadata wants back. */
static void echo_metadata(const mesh_request *request, struct mesh_reply *reply, struct mesh_header *initial, struct mesh_header *trailing)
{
	uint64_t len;

	initial->name = INITIAL;
	initial->value = mesh_request_header(request, INITIAL, &len);
	initial->value_len = initial->value ? (uint32_t)len : 0;
	reply->headers = initial;
	reply->header_count = initial->value != NULL;
	trailing->name = TRAILING;
	trailing->value = mesh_request_header(request, TRAILING, &len);
	trailing->value_len = trailing->value ? (uint32_t)len : 0;
	reply->trailers = trailing;
	reply->trailer_count = trailing->value != NULL;
}

static void empty_call(mesh_request *request, void *user)
{
	struct mesh_reply reply = { .size = sizeof(reply) };

	(void)user;
	mesh_request_reply(request, &reply);
}

static void unary_call(mesh_request *request, void *user)
{
	struct mesh_header initial = { 0 }, trailing = { 0 };
	struct mesh_reply reply = { .size = sizeof(reply) };
	simple_response answer = GRPC__TESTING__SIMPLE_RESPONSE__INIT;
	payload body;
	uint64_t len;
	const void *data = mesh_request_body(request, &len);
	simple_request *asked = grpc__testing__simple_request__unpack(NULL, len, data);
	void *packed = NULL;

	(void)user;
	echo_metadata(request, &reply, &initial, &trailing);
	if (!asked || asked->response_size < 0 || asked->response_size > LARGE_RESPONSE) {
		reply.grpc_status = 3; /* INVALID_ARGUMENT */
	} else if (asked->response_status && asked->response_status->code) {
		reply.grpc_status = asked->response_status->code;
		reply.grpc_message = asked->response_status->message;
	} else {
		body = payload_of(asked->response_size);
		answer.payload = &body;
		packed = pack(&answer.base, &reply.body_len);
		reply.body = packed;
	}
	mesh_request_reply(request, &reply);
	free(packed);
	if (asked)
		grpc__testing__simple_request__free_unpacked(asked, NULL);
}

enum stream_kind { OUTPUT = 1, INPUT, DUPLEX };

struct stream {
	mesh_request *request;
	enum stream_kind kind;
	int32_t aggregated;
	struct mesh_reply reply; /* how it will finish */
	char message[TEXT_MAX];
};

/* Sends what one message of StreamingOutputCall or FullDuplexCall asks for; false when the stream is to finish. */
static bool send_responses(struct stream *stream, const output_request *asked)
{
	for (size_t i = 0; i < asked->n_response_parameters; i++) {
		output_response answer = GRPC__TESTING__STREAMING_OUTPUT_CALL_RESPONSE__INIT;
		int size = asked->response_parameters[i]->size, rc;
		uint64_t len;
		payload body;
		void *packed;

		if (size < 0 || size > LARGE_RESPONSE) {
			stream->reply.grpc_status = 3;
			return false;
		}
		poll(NULL, 0, asked->response_parameters[i]->interval_us / 1000);
		body = payload_of(size);
		answer.payload = &body;
		packed = pack(&answer.base, &len);
		rc = mesh_request_send(stream->request, packed, len, PATIENCE_MS);
		free(packed);
		if (rc)
			return false;
	}
	if (asked->response_status && asked->response_status->code) {
		stream->reply.grpc_status = asked->response_status->code;
		snprintf(stream->message, sizeof(stream->message), "%s", asked->response_status->message);
		stream->reply.grpc_message = stream->message;
		return false;
	}
	return true;
}

static bool take_input(struct stream *stream, const struct mesh_message *message)
{
	input_request *asked = grpc__testing__streaming_input_call_request__unpack(NULL, message->len, message->data);

	if (!asked) {
		stream->reply.grpc_status = 3;
		return false;
	}
	if (asked->payload)
		stream->aggregated += (int32_t)asked->payload->body.len;
	grpc__testing__streaming_input_call_request__free_unpacked(asked, NULL);
	return true;
}

static bool take_output(struct stream *stream, const struct mesh_message *message)
{
	output_request *asked = grpc__testing__streaming_output_call_request__unpack(NULL, message->len, message->data);
	bool goes_on;

	if (!asked) {
		stream->reply.grpc_status = 3;
		return false;
	}
	goes_on = send_responses(stream, asked);
	grpc__testing__streaming_output_call_request__free_unpacked(asked, NULL);
	return goes_on;
}

static void *serve_stream(void *user)
{
	struct stream *stream = user;
	struct mesh_message message = { .size = sizeof(message) };
	struct mesh_header initial = { 0 }, trailing = { 0 };
	bool goes_on = true;

	stream->reply = (struct mesh_reply){ .size = sizeof(stream->reply) };
	echo_metadata(stream->request, &stream->reply, &initial, &trailing);
	mesh_request_begin(stream->request, &stream->reply);
	while (goes_on && mesh_request_recv(stream->request, &message, UINT32_MAX) == 1) {
		goes_on = stream->kind == INPUT ? take_input(stream, &message) : take_output(stream, &message);
		mesh_message_release(&message);
	}
	if (goes_on && stream->kind == INPUT) {
		input_response answer = GRPC__TESTING__STREAMING_INPUT_CALL_RESPONSE__INIT;
		uint64_t len;
		void *packed;

		answer.aggregated_payload_size = stream->aggregated;
		packed = pack(&answer.base, &len);
		mesh_request_send(stream->request, packed, len, PATIENCE_MS);
		free(packed);
	}
	mesh_request_finish(stream->request, &stream->reply);
	mesh_request_unref(stream->request);
	free(stream);
	return NULL;
}

static void serve_streams(mesh_queue *queue)
{
	struct mesh_event event = { .size = sizeof(event) };

	while (mesh_queue_next(queue, &event, 1, UINT32_MAX) >= 0) {
		struct stream *stream;
		pthread_t thread;

		if (event.type != MESH_EVENT_REQUEST)
			continue;
		stream = calloc(1, sizeof(*stream));
		if (!stream)
			exit(3);
		stream->request = event.request;
		stream->kind = (enum stream_kind)event.token;
		if (pthread_create(&thread, NULL, serve_stream, stream))
			exit(3);
		pthread_detach(thread);
	}
}

static int serve(void)
{
	static const char *const names[] = { [OUTPUT] = SERVICE "StreamingOutputCall", [INPUT] = SERVICE "StreamingInputCall",
					     [DUPLEX] = SERVICE "FullDuplexCall" };
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_server *server = NULL;
	mesh_queue *queue = NULL;
	mesh *m = NULL;
	int rc;

	opts.service = "cases";
	rc = mesh_open(&opts, &m, &err);
	if (!rc)
		rc = mesh_server_new(m, NULL, &server, &err);
	if (!rc)
		rc = mesh_queue_new(m, &queue, &err);
	if (!rc)
		rc = mesh_server_handle(server, SERVICE "EmptyCall", MESH_HANDLER_GRPC, empty_call, NULL, &err);
	if (!rc)
		rc = mesh_server_handle(server, SERVICE "UnaryCall", MESH_HANDLER_GRPC, unary_call, NULL, &err);
	for (uint64_t kind = OUTPUT; !rc && kind <= DUPLEX; kind++)
		rc = mesh_server_handle_queue(server, names[kind], MESH_HANDLER_GRPC | MESH_HANDLER_STREAM, queue, kind, &err);
	if (!rc)
		rc = mesh_server_start(server, &err);
	if (rc) {
		fprintf(stderr, "%s\n", err.message);
		return 1;
	}
	printf("%s\n", mesh_server_address(server));
	fflush(stdout);
	serve_streams(queue);
	return 0;
}

/* ---- calling ---- */

static mesh_client *client;
static const char *running;

#define CHECK(condition, ...)                                                                                \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			fprintf(stderr, "FAILED: %s: %s:%d: %s: ", running, __FILE__, __LINE__, #condition); \
			fprintf(stderr, __VA_ARGS__);                                                        \
			fputc('\n', stderr);                                                                 \
			exit(1);                                                                             \
		}                                                                                            \
	} while (0)

static int call(const char *path, const ProtobufCMessage *request, struct mesh_call_options opts, mesh_call **done, struct mesh_error *err)
{
	uint64_t len;
	void *packed = pack(request, &len);
	int rc;

	opts.size = sizeof(opts);
	opts.flags = MESH_CALL_GRPC;
	opts.path = path;
	opts.body = packed;
	opts.body_len = len;
	if (!opts.timeout_ms)
		opts.timeout_ms = PATIENCE_MS;
	*err = (struct mesh_error)MESH_ERROR_INIT;
	rc = mesh_client_call(client, &opts, done, err);
	free(packed);
	return rc;
}

/* UnaryCall of those sizes, with or without a status to be answered. */
static int simple_call(int request_size, int response_size, echo_status *status, struct mesh_call_options opts, mesh_call **done,
		       struct mesh_error *err)
{
	simple_request request = GRPC__TESTING__SIMPLE_REQUEST__INIT;
	payload body = payload_of(request_size);

	request.response_size = response_size;
	request.payload = &body;
	request.response_status = status;
	return call(SERVICE "UnaryCall", &request.base, opts, done, err);
}

static void check_body(const mesh_call *done, int size)
{
	uint64_t len;
	const void *data = mesh_call_body(done, &len);
	simple_response *answer = grpc__testing__simple_response__unpack(NULL, len, data);

	CHECK(answer && answer->payload, "no payload");
	CHECK(answer->payload->body.len == (size_t)size, "%zu bytes", answer->payload->body.len);
	grpc__testing__simple_response__free_unpacked(answer, NULL);
}

static void large_unary(void)
{
	struct mesh_error err;
	mesh_call *done;

	CHECK(simple_call(LARGE_REQUEST, LARGE_RESPONSE, NULL, (struct mesh_call_options){ 0 }, &done, &err) == 0, "%s", err.message);
	check_body(done, LARGE_RESPONSE);
	mesh_call_unref(done);
}

static void empty_unary(void)
{
	Grpc__Testing__Empty empty = GRPC__TESTING__EMPTY__INIT;
	struct mesh_error err;
	mesh_call *done;
	uint64_t len;

	CHECK(call(SERVICE "EmptyCall", &empty.base, (struct mesh_call_options){ 0 }, &done, &err) == 0, "%s", err.message);
	mesh_call_body(done, &len);
	CHECK(len == 0, "%llu bytes", (unsigned long long)len);
	mesh_call_unref(done);
}

static mesh_call *start(const char *path, struct mesh_call_options opts)
{
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *started;

	opts.size = sizeof(opts);
	opts.flags = MESH_CALL_GRPC | MESH_CALL_STREAM;
	opts.path = path;
	if (!opts.timeout_ms)
		opts.timeout_ms = PATIENCE_MS;
	CHECK(mesh_client_start(client, &opts, &started, &err) == 0, "%s", err.message);
	return started;
}

static int send_packed(mesh_call *started, const ProtobufCMessage *message, uint32_t flags)
{
	uint64_t len;
	void *packed = pack(message, &len);
	int rc = mesh_call_send(started, packed, len, flags, PATIENCE_MS);

	free(packed);
	return rc;
}

/* A request for responses of these sizes. */
static int send_output_request(mesh_call *started, const int *sizes, int count, int request_size, echo_status *status, uint32_t flags)
{
	output_request request = GRPC__TESTING__STREAMING_OUTPUT_CALL_REQUEST__INIT;
	payload body = payload_of(request_size);
	parameters list[STEPS], *pointers[STEPS];

	for (int i = 0; i < count; i++) {
		list[i] = (parameters)GRPC__TESTING__RESPONSE_PARAMETERS__INIT;
		list[i].size = sizes[i];
		pointers[i] = &list[i];
	}
	request.response_parameters = pointers;
	request.n_response_parameters = (size_t)count;
	request.payload = &body;
	request.response_status = status;
	return send_packed(started, &request.base, flags);
}

static void expect_output(mesh_call *started, int size)
{
	struct mesh_message message = { .size = sizeof(message) };
	output_response *answer;
	int rc = mesh_call_recv(started, &message, PATIENCE_MS);

	CHECK(rc == 1, "%s instead of a message", mesh_error_name(rc));
	answer = grpc__testing__streaming_output_call_response__unpack(NULL, message.len, message.data);
	CHECK(answer && answer->payload && answer->payload->body.len == (size_t)size, "%llu bytes", (unsigned long long)message.len);
	grpc__testing__streaming_output_call_response__free_unpacked(answer, NULL);
	mesh_message_release(&message);
}

static void expect_end(mesh_call *started)
{
	struct mesh_message message = { .size = sizeof(message) };
	struct mesh_error err = MESH_ERROR_INIT;
	int rc = mesh_call_recv(started, &message, PATIENCE_MS);

	CHECK(rc == 0, "%s instead of the end", mesh_error_name(rc));
	CHECK(mesh_call_wait(started, PATIENCE_MS, &err) == 0, "%s", err.message);
}

static void client_streaming(void)
{
	mesh_call *started = start(SERVICE "StreamingInputCall", (struct mesh_call_options){ 0 });
	struct mesh_message message = { .size = sizeof(message) };
	input_response *answer;

	for (int i = 0; i < STEPS; i++) {
		input_request request = GRPC__TESTING__STREAMING_INPUT_CALL_REQUEST__INIT;
		payload body = payload_of(request_sizes[i]);

		request.payload = &body;
		CHECK(send_packed(started, &request.base, i == STEPS - 1 ? MESH_SEND_LAST : 0) == 0, "send %d", i);
	}
	CHECK(mesh_call_recv(started, &message, PATIENCE_MS) == 1, "no answer");
	answer = grpc__testing__streaming_input_call_response__unpack(NULL, message.len, message.data);
	CHECK(answer && answer->aggregated_payload_size == 74922, "%d", answer ? answer->aggregated_payload_size : -1);
	grpc__testing__streaming_input_call_response__free_unpacked(answer, NULL);
	mesh_message_release(&message);
	expect_end(started);
	mesh_call_unref(started);
}

static void server_streaming(void)
{
	mesh_call *started = start(SERVICE "StreamingOutputCall", (struct mesh_call_options){ 0 });

	CHECK(send_output_request(started, response_sizes, STEPS, 0, NULL, MESH_SEND_LAST) == 0, "send");
	for (int i = 0; i < STEPS; i++)
		expect_output(started, response_sizes[i]);
	expect_end(started);
	mesh_call_unref(started);
}

static void ping_pong(void)
{
	mesh_call *started = start(SERVICE "FullDuplexCall", (struct mesh_call_options){ 0 });

	for (int i = 0; i < STEPS; i++) {
		CHECK(send_output_request(started, &response_sizes[i], 1, request_sizes[i], NULL, 0) == 0, "send %d", i);
		expect_output(started, response_sizes[i]);
	}
	CHECK(mesh_call_send(started, NULL, 0, MESH_SEND_LAST, PATIENCE_MS) == 0, "half-close");
	expect_end(started);
	mesh_call_unref(started);
}

static void empty_stream(void)
{
	mesh_call *started = start(SERVICE "FullDuplexCall", (struct mesh_call_options){ 0 });

	CHECK(mesh_call_send(started, NULL, 0, MESH_SEND_LAST, PATIENCE_MS) == 0, "half-close");
	expect_end(started);
	mesh_call_unref(started);
}

static void timeout_on_sleeping_server(void)
{
	mesh_call *started = start(SERVICE "FullDuplexCall", (struct mesh_call_options){ .timeout_ms = 1 });
	struct mesh_error err = MESH_ERROR_INIT;
	int rc;

	send_output_request(started, NULL, 0, 27182, NULL, 0);
	rc = mesh_call_wait(started, PATIENCE_MS, &err);
	CHECK(rc && mesh_call_grpc_status(started) == 4, "%s: %s", mesh_grpc_status_name(mesh_call_grpc_status(started)), err.message);
	mesh_call_unref(started);
}

static void cancel_and_check(mesh_call *started)
{
	struct mesh_error err = MESH_ERROR_INIT;

	mesh_call_cancel(started);
	CHECK(mesh_call_wait(started, PATIENCE_MS, &err) == MESH_E_CANCELLED, "%s", err.message);
	CHECK(mesh_call_grpc_status(started) == 1, "%s", mesh_grpc_status_name(mesh_call_grpc_status(started)));
	mesh_call_unref(started);
}

static void cancel_after_begin(void)
{
	cancel_and_check(start(SERVICE "StreamingInputCall", (struct mesh_call_options){ 0 }));
}

static void cancel_after_first_response(void)
{
	mesh_call *started = start(SERVICE "FullDuplexCall", (struct mesh_call_options){ 0 });

	CHECK(send_output_request(started, response_sizes, 1, request_sizes[0], NULL, 0) == 0, "send");
	expect_output(started, response_sizes[0]);
	cancel_and_check(started);
}

static void expect_status(const mesh_call *done, int rc, int status, const char *message)
{
	CHECK(rc == MESH_E_STATUS, "%s", mesh_error_name(rc));
	CHECK(mesh_call_grpc_status(done) == status, "%s", mesh_grpc_status_name(mesh_call_grpc_status(done)));
	CHECK(!message || !strcmp(mesh_call_grpc_message(done), message), "\"%s\"", mesh_call_grpc_message(done));
}

static void expect_unary_status(char *message)
{
	echo_status status = GRPC__TESTING__ECHO_STATUS__INIT;
	struct mesh_error err;
	mesh_call *done;
	int rc;

	status.code = 2;
	status.message = message;
	rc = simple_call(0, 0, &status, (struct mesh_call_options){ 0 }, &done, &err);
	expect_status(done, rc, 2, message);
	mesh_call_unref(done);
}

static void status_code_and_message(void)
{
	static char message[] = "test status message";
	echo_status status = GRPC__TESTING__ECHO_STATUS__INIT;
	struct mesh_message none = { .size = sizeof(none) };
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *started;

	expect_unary_status(message);
	status.code = 2;
	status.message = message;
	started = start(SERVICE "FullDuplexCall", (struct mesh_call_options){ 0 });
	CHECK(send_output_request(started, NULL, 0, 0, &status, MESH_SEND_LAST) == 0, "send");
	CHECK(mesh_call_recv(started, &none, PATIENCE_MS) != 1, "a message");
	expect_status(started, mesh_call_wait(started, PATIENCE_MS, &err), 2, message);
	mesh_call_unref(started);
}

static void special_status_message(void)
{
	static char message[] = "\t\ntest with whitespace\r\nand Unicode BMP \xe2\x98\xba and non-BMP \xf0\x9f\x98\x88\t\n";

	expect_unary_status(message);
}

static void expect_unimplemented(const char *path)
{
	Grpc__Testing__Empty empty = GRPC__TESTING__EMPTY__INIT;
	struct mesh_error err;
	mesh_call *done;
	int rc = call(path, &empty.base, (struct mesh_call_options){ 0 }, &done, &err);

	expect_status(done, rc, 12, NULL);
	mesh_call_unref(done);
}

static void unimplemented_method(void)
{
	expect_unimplemented(SERVICE "UnimplementedCall");
}

static void unimplemented_service(void)
{
	expect_unimplemented("/grpc.testing.UnimplementedService/UnimplementedCall");
}

static void check_metadata(const mesh_call *done)
{
	uint64_t len = 0;
	const char *value = mesh_call_header(done, INITIAL, &len);

	CHECK(value && len == 27 && !memcmp(value, "test_initial_metadata_value", 27), "%s", value ? value : "none");
	value = mesh_call_trailer(done, TRAILING, &len);
	CHECK(value && len == 3 && !memcmp(value, "\xab\xab\xab", 3), "%llu bytes", (unsigned long long)len);
}

static void custom_metadata(void)
{
	static const struct mesh_header headers[] = { { INITIAL, "test_initial_metadata_value", 0, 0 }, { TRAILING, "\xab\xab\xab", 0, 3 } };
	struct mesh_call_options opts = { .headers = headers, .header_count = 2 };
	struct mesh_error err;
	mesh_call *done;

	CHECK(simple_call(LARGE_REQUEST, LARGE_RESPONSE, NULL, opts, &done, &err) == 0, "%s", err.message);
	check_body(done, LARGE_RESPONSE);
	check_metadata(done);
	mesh_call_unref(done);

	done = start(SERVICE "FullDuplexCall", opts);
	CHECK(send_output_request(done, response_sizes, 1, request_sizes[0], NULL, MESH_SEND_LAST) == 0, "send");
	expect_output(done, response_sizes[0]);
	expect_end(done);
	check_metadata(done);
	mesh_call_unref(done);
}

/* ---- the negative cases: the server does what no server should ---- */

static void goaway(void)
{
	large_unary();
	poll(NULL, 0, 1000);
	large_unary();
}

static void expect_broken(bool has_whole_message)
{
	struct mesh_error err;
	mesh_call *done;
	uint64_t len;
	int rc = simple_call(LARGE_REQUEST, LARGE_RESPONSE, NULL, (struct mesh_call_options){ 0 }, &done, &err);

	CHECK(rc && mesh_call_grpc_status(done) != 0, "%s: %s", mesh_error_name(rc), err.message);
	CHECK(err.in_doubt, "the server may have acted");
	mesh_call_body(done, &len);
	if (has_whole_message)
		check_body(done, LARGE_RESPONSE);
	else
		CHECK(len == 0, "%llu bytes of a message that was cut off", (unsigned long long)len);
	mesh_call_unref(done);
}

static void rst_inside_message(void)
{
	expect_broken(false);
}

/* The message was there in full; only its status was not. A reader of a stream gets it before the error. */
static void rst_after_data(void)
{
	struct mesh_message message = { .size = sizeof(message) };
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *started;
	int rc;

	expect_broken(true);
	started = start(SERVICE "UnaryCall", (struct mesh_call_options){ 0 });
	CHECK(mesh_call_send(started, "", 0, MESH_SEND_LAST, PATIENCE_MS) == 0, "send");
	rc = mesh_call_recv(started, &message, PATIENCE_MS);
	CHECK(rc == 1, "%s", mesh_error_name(rc));
	mesh_message_release(&message);
	rc = mesh_call_wait(started, PATIENCE_MS, &err);
	CHECK(rc && mesh_call_grpc_status(started) != 0, "%s", mesh_error_name(rc));
	mesh_call_unref(started);
}

static void max_streams(void)
{
	simple_request request = GRPC__TESTING__SIMPLE_REQUEST__INIT;
	payload body = payload_of(LARGE_REQUEST);
	struct mesh_call_options opts = { .size = sizeof(opts), .flags = MESH_CALL_GRPC, .path = SERVICE "UnaryCall", .timeout_ms = PATIENCE_MS };
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *started[PARALLEL];
	void *packed;

	large_unary();
	request.response_size = LARGE_RESPONSE;
	request.payload = &body;
	packed = pack(&request.base, &opts.body_len);
	opts.body = packed;
	for (int i = 0; i < PARALLEL; i++)
		CHECK(mesh_client_start(client, &opts, &started[i], &err) == 0, "%s", err.message);
	free(packed);
	for (int i = 0; i < PARALLEL; i++) {
		CHECK(mesh_call_wait(started[i], PATIENCE_MS, &err) == 0, "%d: %s", i, err.message);
		check_body(started[i], LARGE_RESPONSE);
		mesh_call_unref(started[i]);
	}
}

#define CASE(name) { #name, name, false }
#define NEGATIVE(name, run) { #name, run, true }

static const struct {
	const char *name;
	void (*run)(void);
	bool is_negative;
} cases[] = {
	CASE(empty_unary), CASE(large_unary), CASE(client_streaming), CASE(server_streaming), CASE(ping_pong), CASE(empty_stream),
	CASE(timeout_on_sleeping_server), CASE(cancel_after_begin), CASE(cancel_after_first_response), CASE(status_code_and_message),
	CASE(special_status_message), CASE(unimplemented_method), CASE(unimplemented_service), CASE(custom_metadata),
	NEGATIVE(goaway, goaway), NEGATIVE(rst_after_header, rst_inside_message), NEGATIVE(rst_during_data, rst_inside_message),
	NEGATIVE(rst_after_data, rst_after_data), NEGATIVE(ping, large_unary), NEGATIVE(max_streams, max_streams),
	NEGATIVE(data_frame_padding, large_unary),
};

static bool is_wanted(size_t at, int count, char **names)
{
	for (int i = 0; i < count; i++)
		if (!strcmp(names[i], cases[at].name))
			return true;
	return count == 0 && !cases[at].is_negative;
}

static int call_all(const char *address, int count, char **names)
{
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	char uri[TEXT_MAX];
	struct mesh_setting setting = { "discovery", uri };
	int done = 0;
	mesh *m;

	running = "open";
	snprintf(uri, sizeof(uri), "static:cases=%s", address);
	opts.service = "cases-client";
	opts.settings = &setting;
	opts.setting_count = 1;
	CHECK(mesh_open(&opts, &m, &err) == 0 && mesh_client_new(m, "cases", &client, &err) == 0, "%s", err.message);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (!is_wanted(i, count, names))
			continue;
		running = cases[i].name;
		cases[i].run();
		printf("ok  our client: %s\n", running);
		fflush(stdout);
		done++;
	}
	mesh_client_free(client);
	mesh_close(m);
	return done > 0 && done >= count ? 0 : 2;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "serve"))
		return serve();
	if (argc >= 3 && !strcmp(argv[1], "call"))
		return call_all(argv[2], argc - 3, argv + 3);
	fputs("Usage: cases serve | cases call HOST:PORT [CASE...]\n", stderr);
	return 2;
}
