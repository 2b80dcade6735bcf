/*
 * Our side of the interop tests, by the public API alone.
 *
 *	peer serve                 serves `interop` until it is killed; prints its address
 *	peer call HOST:PORT        calls a foreign server that offers the same methods, and checks what comes back
 *
 * The methods of /interop.Test/, messages being plain bytes:
 *	Unary         the request; metadata "x-echo" and "x-echo-bin" come back as header and trailer
 *	ServerStream  the request is a number N: N messages "0", "1", ...
 *	ClientStream  the number of messages and their bytes: "N BYTES"
 *	Bidi          each message comes back
 *	Status        the request is a status number: that status, with the message "status N: \u00fc %"
 *	Deadline      the milliseconds that are left, as text
 *	Peer          the SPIFFE ID of who calls
 *	Park          never answers; Cancelled then tells how many parked calls were cancelled
 */
#include "mesh/identity.h"
#include "mesh/options.h"
#include "mesh/server.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Atomic int cancelled;

/* ---- serving ---- */

static void answer(mesh_request *request, const void *body, uint64_t len)
{
	struct mesh_reply reply = { .size = sizeof(reply), .body = body, .body_len = len };

	mesh_request_reply(request, &reply);
}

static void unary(mesh_request *request, void *user)
{
	struct mesh_header headers[2], trailers[2];
	struct mesh_reply reply = { .size = sizeof(reply), .headers = headers, .trailers = trailers };
	static const char *const names[] = { "x-echo", "x-echo-bin" };

	(void)user;
	for (int i = 0; i < 2; i++) {
		uint64_t len;
		const char *value = mesh_request_header(request, names[i], &len);

		if (!value)
			continue;
		headers[reply.header_count++] = (struct mesh_header){ names[i], value, 0, (uint32_t)len };
		trailers[reply.trailer_count++] = (struct mesh_header){ i ? "x-trailer-bin" : "x-trailer", value, 0, (uint32_t)len };
	}
	reply.body = mesh_request_body(request, &reply.body_len);
	mesh_request_reply(request, &reply);
}

static int number_in(const void *data, uint64_t len)
{
	char text[16] = "";

	memcpy(text, data, len < sizeof(text) ? len : sizeof(text) - 1);
	return atoi(text);
}

static void status(mesh_request *request, void *user)
{
	struct mesh_reply reply = { .size = sizeof(reply) };
	uint64_t len;
	const void *body = mesh_request_body(request, &len);
	char message[64];

	(void)user;
	reply.grpc_status = number_in(body, len);
	snprintf(message, sizeof(message), "status %d: \xc3\xbc %%", (int)reply.grpc_status);
	reply.grpc_message = message;
	mesh_request_reply(request, &reply);
}

static void deadline(mesh_request *request, void *user)
{
	char text[24];

	(void)user;
	answer(request, text, (uint64_t)snprintf(text, sizeof(text), "%lld", (long long)mesh_request_remaining_ms(request)));
}

static void peer(mesh_request *request, void *user)
{
	const char *id = mesh_request_peer_id(request);

	(void)user;
	answer(request, id, strlen(id));
}

static void count_cancelled(mesh_request *request, void *user)
{
	char text[24];

	(void)user;
	answer(request, text, (uint64_t)snprintf(text, sizeof(text), "%d", atomic_load(&cancelled)));
}

/* A streaming request in the making; driven by events on the loop. */
struct stream {
	enum { SERVER_STREAM, CLIENT_STREAM, BIDI, PARK } kind;
	int left, next, count;
	uint64_t bytes;
	bool is_input_over, is_finished;
	struct mesh_message held; /* bidi: what did not fit yet */
};

static void finish(mesh_request *request, struct stream *stream)
{
	struct mesh_reply reply = { .size = sizeof(reply) };

	stream->is_finished = true;
	mesh_request_finish(request, &reply);
}

static void read_all(mesh_request *request, struct stream *stream)
{
	struct mesh_message message = { .size = sizeof(message) };
	int rc = 1;

	while (!stream->is_input_over) {
		if (stream->held.data || stream->held.owner) {
			if (mesh_request_send(request, stream->held.data, stream->held.len, 0))
				return;
			mesh_message_release(&stream->held);
		}
		rc = mesh_request_recv(request, &message, 0);
		if (rc == MESH_E_AGAIN)
			return;
		stream->is_input_over = rc != 1;
		if (rc != 1)
			break;
		stream->count++;
		stream->bytes += message.len;
		if (stream->kind == SERVER_STREAM)
			stream->left = number_in(message.data, message.len);
		if (stream->kind == BIDI)
			stream->held = message;
		else
			mesh_message_release(&message);
	}
}

static void drive(mesh_request *request, struct stream *stream)
{
	char text[48];

	read_all(request, stream);
	if (stream->kind == SERVER_STREAM)
		while (stream->next < stream->left) {
			if (mesh_request_send(request, text, (uint64_t)snprintf(text, sizeof(text), "%d", stream->next), 0))
				return;
			stream->next++;
		}
	if (!stream->is_input_over || stream->is_finished || stream->kind == PARK)
		return;
	if (stream->kind == CLIENT_STREAM)
		mesh_request_send(request, text, (uint64_t)snprintf(text, sizeof(text), "%d %llu", stream->count, (unsigned long long)stream->bytes), 0);
	finish(request, stream);
}

static void on_stream(const struct mesh_event *event, void *user)
{
	struct stream *stream = user;

	if (event->type != MESH_EVENT_REQUEST_ENDED) {
		drive(event->request, stream);
		return;
	}
	if (stream->kind == PARK && event->code)
		atomic_fetch_add(&cancelled, 1);
	mesh_message_release(&stream->held);
	free(stream);
	mesh_request_unref(event->request);
}

static void start_stream(mesh_request *request, void *user)
{
	struct stream *stream = calloc(1, sizeof(*stream));

	stream->kind = *(int *)user;
	mesh_request_on_event(mesh_request_ref(request), on_stream, stream);
}

static int serve(void)
{
	static int kinds[] = { SERVER_STREAM, CLIENT_STREAM, BIDI, PARK };
	static const char *const stream_names[] = { "/interop.Test/ServerStream", "/interop.Test/ClientStream", "/interop.Test/Bidi", "/interop.Test/Park" };
	static const struct {
		const char *path;
		mesh_request_fn fn;
	} handlers[] = { { "/interop.Test/Unary", unary }, { "/interop.Test/Status", status }, { "/interop.Test/Deadline", deadline },
			 { "/interop.Test/Cancelled", count_cancelled }, { "/interop.Test/Peer", peer } };
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_server *server;
	mesh *m;
	int rc;

	opts.service = "interop";
	rc = mesh_open(&opts, &m, &err);
	if (!rc)
		rc = mesh_server_new(m, NULL, &server, &err);
	for (size_t i = 0; !rc && i < sizeof(handlers) / sizeof(*handlers); i++)
		rc = mesh_server_handle(server, handlers[i].path, MESH_HANDLER_GRPC, handlers[i].fn, NULL, &err);
	for (size_t i = 0; !rc && i < 4; i++)
		rc = mesh_server_handle(server, stream_names[i], MESH_HANDLER_GRPC | MESH_HANDLER_STREAM, start_stream, &kinds[i], &err);
	if (!rc)
		rc = mesh_server_start(server, &err);
	if (rc) {
		fprintf(stderr, "%s\n", err.message);
		return 1;
	}
	printf("%s\n", mesh_server_address(server));
	fflush(stdout);
	for (;;)
		poll(NULL, 0, 1000);
}

/* ---- calling ---- */

static mesh_client *client;
static int checks;

#define CHECK(condition, ...)                                                      \
	do {                                                                       \
		checks++;                                                          \
		if (!(condition)) {                                                \
			fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
			fprintf(stderr, __VA_ARGS__);                              \
			fputc('\n', stderr);                                       \
			exit(1);                                                   \
		}                                                                  \
	} while (0)

static int call(const char *method, const void *body, uint64_t len, uint32_t timeout_ms, mesh_call **done, struct mesh_error *err)
{
	struct mesh_header headers[] = { { "x-echo", "a value", 0, 0 }, { "x-echo-bin", "\0\1\xff,", 0, 4 } };
	struct mesh_call_options opts = { .size = sizeof(opts), .flags = MESH_CALL_GRPC, .path = method, .body = body, .body_len = len,
					  .headers = headers, .header_count = 2, .timeout_ms = timeout_ms };

	*err = (struct mesh_error)MESH_ERROR_INIT;
	return mesh_client_call(client, &opts, done, err);
}

static void check_unary(void)
{
	static const size_t sizes[] = { 0, 1, 1000, 16384, 100000, 3000000 };
	char *body = malloc(3000000);
	struct mesh_error err;
	mesh_call *done;
	uint64_t len;

	for (size_t i = 0; i < 3000000; i++)
		body[i] = (char)(i * 131 >> 4);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		int rc = call("/interop.Test/Unary", body, sizes[i], 20000, &done, &err);
		const void *back = mesh_call_body(done, &len);

		CHECK(rc == 0, "%zu bytes: %s", sizes[i], err.message);
		CHECK(len == sizes[i] && (!len || !memcmp(back, body, len)), "%zu bytes came back as %llu", sizes[i], (unsigned long long)len);
		CHECK(mesh_call_header(done, "x-echo", &len) && !strcmp(mesh_call_header(done, "x-echo", NULL), "a value"), "header");
		CHECK(mesh_call_header(done, "x-echo-bin", &len) && len == 4 && !memcmp(mesh_call_header(done, "x-echo-bin", NULL), "\0\1\xff,", 4), "binary header");
		CHECK(mesh_call_trailer(done, "x-trailer", &len) && !strcmp(mesh_call_trailer(done, "x-trailer", NULL), "a value"), "trailer");
		CHECK(mesh_call_trailer(done, "x-trailer-bin", &len) && len == 4, "binary trailer");
		mesh_call_unref(done);
	}
	free(body);
}

static void check_statuses(void)
{
	struct mesh_error err;
	mesh_call *done;
	char text[8], message[64];

	for (int number = 1; number <= 16; number++) {
		int rc = call("/interop.Test/Status", text, (uint64_t)snprintf(text, sizeof(text), "%d", number), 5000, &done, &err);

		snprintf(message, sizeof(message), "status %d: \xc3\xbc %%", number);
		CHECK(rc == MESH_E_STATUS, "%d: %s", number, err.message);
		CHECK(mesh_call_grpc_status(done) == number, "%d", mesh_call_grpc_status(done));
		CHECK(!strcmp(mesh_call_grpc_message(done), message), "\"%s\"", mesh_call_grpc_message(done));
		mesh_call_unref(done);
	}
	CHECK(call("/interop.Test/Nothing", "", 0, 5000, &done, &err) == MESH_E_STATUS && err.grpc_status == 12, "%s", err.message);
	mesh_call_unref(done);
}

static void check_deadlines(void)
{
	struct mesh_error err;
	mesh_call *done;
	uint64_t len;
	int left, rc;

	rc = call("/interop.Test/Deadline", "", 0, 5000, &done, &err);
	CHECK(rc == 0, "%s", err.message);
	left = number_in(mesh_call_body(done, &len), len);
	CHECK(left > 1000 && left <= 5000, "%d ms left", left);
	mesh_call_unref(done);
	rc = call("/interop.Test/Park", "", 0, 200, &done, &err);
	CHECK(rc == MESH_E_DEADLINE || (rc == MESH_E_STATUS && err.grpc_status == 4), "%d %s", rc, err.message);
	mesh_call_unref(done);
}

static mesh_call *start(const char *method)
{
	struct mesh_call_options opts = { .size = sizeof(opts), .flags = MESH_CALL_GRPC | MESH_CALL_STREAM, .path = method, .timeout_ms = 20000 };
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *started;

	CHECK(mesh_client_start(client, &opts, &started, &err) == 0, "%s", err.message);
	return started;
}

static void end(mesh_call *started)
{
	struct mesh_error err = MESH_ERROR_INIT;

	CHECK(mesh_call_wait(started, 20000, &err) == 0, "%s", err.message);
	mesh_call_unref(started);
}

static void check_streams(void)
{
	struct mesh_message message = { .size = sizeof(message) };
	mesh_call *started = start("/interop.Test/ServerStream");
	static char large[50000];
	int count = 0, rc;

	CHECK(mesh_call_send(started, "3000", 4, MESH_SEND_LAST, 5000) == 0, "send");
	while ((rc = mesh_call_recv(started, &message, 10000)) == 1) {
		CHECK(number_in(message.data, message.len) == count, "%d", count);
		mesh_message_release(&message);
		count++;
	}
	CHECK(rc == 0 && count == 3000, "%d, %d messages", rc, count);
	end(started);

	started = start("/interop.Test/ClientStream");
	for (int i = 0; i < 300; i++)
		CHECK(mesh_call_send(started, large, sizeof(large), i == 299 ? MESH_SEND_LAST : 0, 10000) == 0, "send %d", i);
	CHECK(mesh_call_recv(started, &message, 10000) == 1, "no answer");
	CHECK(message.len == 12 && !memcmp(message.data, "300 15000000", 12), "%.*s", (int)message.len, (const char *)message.data);
	mesh_message_release(&message);
	CHECK(mesh_call_recv(started, &message, 10000) == 0, "more than one answer");
	end(started);

	started = start("/interop.Test/Bidi");
	for (int i = 0; i < 500; i++) {
		char text[16];
		uint64_t len = (uint64_t)snprintf(text, sizeof(text), "message %d", i);

		CHECK(mesh_call_send(started, text, len, 0, 5000) == 0, "send %d", i);
		CHECK(mesh_call_recv(started, &message, 10000) == 1, "message %d did not come back", i);
		CHECK(message.len == len && !memcmp(message.data, text, len), "message %d", i);
		mesh_message_release(&message);
	}
	CHECK(mesh_call_send(started, NULL, 0, MESH_SEND_LAST, 5000) == 0, "last");
	CHECK(mesh_call_recv(started, &message, 10000) == 0, "the end");
	end(started);
}

static void check_cancelling(void)
{
	mesh_call *started = start("/interop.Test/Park"), *done;
	struct mesh_error err;
	uint64_t len;
	int count = 0;

	CHECK(mesh_call_send(started, "x", 1, 0, 5000) == 0, "send");
	poll(NULL, 0, 200);
	mesh_call_cancel(started);
	CHECK(mesh_call_wait(started, 5000, &err) == MESH_E_CANCELLED, "%s", err.message);
	mesh_call_unref(started);
	for (int i = 0; i < 100 && count < 1; i++) {
		CHECK(call("/interop.Test/Cancelled", "", 0, 5000, &done, &err) == 0, "%s", err.message);
		count = number_in(mesh_call_body(done, &len), len);
		mesh_call_unref(done);
		poll(NULL, 0, 50);
	}
	CHECK(count >= 1, "the server has not seen that a call was cancelled");
}

static void check_limits(void)
{
	char *large = calloc(1, 5000000);
	struct mesh_error err;
	mesh_call *done;
	int rc = call("/interop.Test/Unary", large, 5000000, 20000, &done, &err);

	CHECK(rc == MESH_E_TOO_LARGE && err.grpc_status == 8, "%d %s", rc, err.message);
	mesh_call_unref(done);
	free(large);
}

static int call_all(const char *address)
{
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	char uri[128];
	struct mesh_setting setting = { "discovery", uri };
	mesh *m;

	snprintf(uri, sizeof(uri), "static:interop=%s", address);
	opts.service = "interop-client";
	opts.settings = &setting;
	opts.setting_count = 1;
	CHECK(mesh_open(&opts, &m, &err) == 0 && mesh_client_new(m, "interop", &client, &err) == 0, "%s", err.message);
	check_unary();
	check_statuses();
	check_deadlines();
	check_streams();
	check_cancelling();
	check_limits();
	mesh_client_free(client);
	mesh_close(m);
	printf("ok  our client, their server: %d checks\n", checks);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "serve"))
		return serve();
	if (argc == 3 && !strcmp(argv[1], "call"))
		return call_all(argv[2]);
	fputs("Usage: peer serve | peer call HOST:PORT\n", stderr);
	return 2;
}
