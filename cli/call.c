/* mesh call: one call, and on request everything that is known about it. */
#include "command.h"
#include "counters.h"
#include "output.h"
#include "payload.h"
#include "session.h"

#include "mesh/endpoint.h"
#include "mesh/identity.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct call_args {
	const char *data, *method, *grpc;
	struct arg_list headers;
	uint64_t timeout_ns;
	bool is_hex, is_verbose, is_json, is_raw, is_patient, is_idempotent;
};

#define AT(field) offsetof(struct call_args, field)

static const struct arg args[] = {
	{ "data", 'd', ARG_TEXT, AT(data), "DATA", "body to send; @FILE reads a file, @- standard input", 0, 0 },
	{ "method", 'X', ARG_TEXT, AT(method), "METHOD", "HTTP method (default: GET, with a body POST)", 0, 0 },
	{ "header", 'H', ARG_LIST, AT(headers), "'NAME: VALUE'", "header or gRPC metadata to send; may be repeated", 0, 0 },
	{ "grpc", 'g', ARG_TEXT, AT(grpc), "METHOD", "a gRPC call of package.Service/Method; the body is one message", 0, 0 },
	{ "hex", 0, ARG_FLAG, AT(is_hex), NULL, "DATA is hexadecimal; a gRPC answer is printed so, too", 0, 0 },
	{ "timeout", 't', ARG_DURATION, AT(timeout_ns), "TIME", "for the whole call (default: option `timeout`)", 0.001, 86400 },
	{ "wait", 'w', ARG_FLAG, AT(is_patient), NULL, "wait for the service to appear, up to the timeout", 0, 0 },
	{ "idempotent", 0, ARG_FLAG, AT(is_idempotent), NULL, "acting twice does no harm: may be retried when in doubt", 0, 0 },
	{ "verbose", 'v', ARG_FLAG, AT(is_verbose), NULL, "explain every step and where the time went", 0, 0 },
	{ "json", 0, ARG_FLAG, AT(is_json), NULL, "print answer, error and times as JSON", 0, 0 },
	{ "raw", 0, ARG_FLAG, AT(is_raw), NULL, "print the body as it is, also to a terminal", 0, 0 },
	{ 0 },
};

/* Where the time of a call goes, in order. */
struct step {
	const char *name, *meaning;
	size_t offset;
};

static const struct step steps[] = {
	{ "queue", "until the loop took the call", offsetof(struct mesh_call_info, queue_ns) },
	{ "resolve", "waiting for the name", offsetof(struct mesh_call_info, resolve_ns) },
	{ "connect", "waiting for a connection, all attempts", offsetof(struct mesh_call_info, connect_ns) },
	{ "send", "until the request was with the socket", offsetof(struct mesh_call_info, send_ns) },
	{ "wait", "until the first byte of the answer", offsetof(struct mesh_call_info, wait_ns) },
	{ "receive", "until its last byte", offsetof(struct mesh_call_info, receive_ns) },
};
enum { STEP_COUNT = sizeof(steps) / sizeof(steps[0]) };

static uint64_t step_ns(const struct mesh_call_info *info, size_t step)
{
	uint64_t ns;

	memcpy(&ns, (const char *)info + steps[step].offset, sizeof(ns));
	return ns;
}

static void print_endpoint(const struct mesh_endpoint_info *info, void *user)
{
	(void)user;
	fprintf(stderr, "*   ");
	print_escaped(stderr, info->address, strlen(info->address), false);
	fprintf(stderr, "  from `%s`, weight %u, %u in flight%s\n", info->source, info->weight, info->in_flight,
		info->is_draining ? ", draining" : "");
}

static void print_header(const char *mark, const struct mesh_header *header)
{
	fprintf(stderr, "%s ", mark);
	print_escaped(stderr, header->name, header->name_len ? header->name_len : strlen(header->name), false);
	fprintf(stderr, ": ");
	print_escaped(stderr, header->value, header->value_len ? header->value_len : strlen(header->value), false);
	fputc('\n', stderr);
}

static void explain_request(const struct target *target, const struct mesh_call_options *opts)
{
	fprintf(stderr, "> %s ", opts->flags & MESH_CALL_GRPC ? "gRPC" : opts->method ? opts->method : opts->body_len ? "POST" : "GET");
	print_escaped(stderr, opts->path, strlen(opts->path), false);
	fprintf(stderr, " of service ");
	print_escaped(stderr, target->service, strlen(target->service), false);
	fputc('\n', stderr);
	for (uint32_t i = 0; i < opts->header_count; i++)
		print_header(">", &opts->headers[i]);
	if (opts->body_len)
		fprintf(stderr, "> (%llu bytes)\n", (unsigned long long)opts->body_len);
}

static void explain_answer(const mesh_call *call, bool is_grpc)
{
	struct mesh_header header;
	int is_trailer;

	if (mesh_call_http_status(call) == 0)
		return;
	fprintf(stderr, "< HTTP %d\n", mesh_call_http_status(call));
	for (uint32_t i = 0; mesh_call_header_at(call, i, &header, &is_trailer) == 0; i++)
		print_header(is_trailer ? "< (trailer)" : "<", &header);
	if (is_grpc)
		fprintf(stderr, "< gRPC status %d %s\n", mesh_call_grpc_status(call), mesh_grpc_status_name(mesh_call_grpc_status(call)));
}

static void explain_time(const struct mesh_call_info *info, bool is_answered, const char *peer_id)
{
	char text[HUMAN_BYTES];
	uint64_t known = 0;

	fprintf(stderr, "* ");
	if (info->endpoint[0]) {
		fprintf(stderr, is_answered ? "answered by " : "last tried ");
		print_escaped(stderr, info->endpoint, strnlen(info->endpoint, sizeof(info->endpoint)), false);
		fprintf(stderr, ", ");
	}
	fprintf(stderr, "%u attempt%s, sent %llu and received %llu bytes of body\n", info->attempts, info->attempts == 1 ? "" : "s",
		(unsigned long long)info->sent_bytes, (unsigned long long)info->received_bytes);
	if (*peer_id) {
		fprintf(stderr, "* encrypted, and the peer showed itself as ");
		print_escaped(stderr, peer_id, strlen(peer_id), false);
		putc('\n', stderr);
	} else if (is_answered) {
		fprintf(stderr, "* PLAIN TEXT: not encrypted, and the peer showed nothing of itself\n");
	}
	fprintf(stderr, "* where the time went:\n");
	for (size_t i = 0; i < STEP_COUNT; i++) {
		uint64_t ns = step_ns(info, i);
		int bar = info->total_ns ? (int)(30.0 * (double)ns / (double)info->total_ns + 0.5) : 0;
		known += ns;
		fprintf(stderr, "*   %-8s %8s  %-30.*s  %s\n", steps[i].name, human_duration(text, ns), bar > 30 ? 30 : bar,
			"##############################", steps[i].meaning);
	}
	if (info->total_ns > known)
		fprintf(stderr, "*   %-8s %8s  %-30s  %s\n", "other", human_duration(text, info->total_ns - known), "", "earlier attempts, and handing over");
	fprintf(stderr, "*   %-8s %8s\n", "total", human_duration(text, info->total_ns));
}

static void explain_error(const struct mesh_error *err)
{
	fprintf(stderr, "* the peer %s; calling again is %s\n", err->in_doubt ? "may have acted on the call" : "has not acted on the call, or has answered",
		err->retry_safe ? "safe" : "safe only if acting twice does no harm");
}

/* ---- the body, on standard output ---- */

static void print_hex(const unsigned char *data, uint64_t len)
{
	for (uint64_t i = 0; i < len; i++)
		printf("%02x", data[i]);
	putchar('\n');
}

static void print_body(const struct call_args *given, const mesh_call *call)
{
	uint64_t len = 0;
	const char *body = mesh_call_body(call, &len);

	if (len == 0)
		return;
	if (given->is_hex) {
		print_hex((const unsigned char *)body, len);
	} else if (given->is_raw || !isatty(STDOUT_FILENO)) {
		print_raw(stdout, body, len);
	} else {
		print_escaped(stdout, body, len, true);
		if (body[len - 1] != '\n')
			putchar('\n');
	}
}

static json_t *headers_json(const mesh_call *call, bool is_trailers)
{
	json_t *list = json_array();
	struct mesh_header header;
	int is_trailer;

	for (uint32_t i = 0; mesh_call_header_at(call, i, &header, &is_trailer) == 0; i++) {
		if (!!is_trailer == is_trailers)
			json_array_append_new(list, json_pack("{s:o, s:o}", "name", json_text(header.name, header.name_len), "value",
							      json_text(header.value, header.value_len)));
	}
	return list;
}

static json_t *times_json(const struct mesh_call_info *info)
{
	json_t *times = json_object();

	for (size_t i = 0; i < STEP_COUNT; i++)
		json_object_set_new(times, steps[i].name, json_real((double)step_ns(info, i) / 1e3));
	json_object_set_new(times, "total", json_real((double)info->total_ns / 1e3));
	return times;
}

static json_t *call_json(const struct target *target, const struct mesh_call_options *opts, const mesh_call *call,
			 const struct mesh_call_info *info, const struct mesh_error *err, bool is_ok)
{
	json_t *root = json_object();
	uint64_t len = 0;
	const void *body = mesh_call_body(call, &len);

	json_object_set_new(root, "ok", json_boolean(is_ok));
	json_object_set_new(root, "service", json_text(target->service, strlen(target->service)));
	json_object_set_new(root, "path", json_text(opts->path, strlen(opts->path)));
	json_object_set_new(root, "endpoint", json_text(info->endpoint, strnlen(info->endpoint, sizeof(info->endpoint))));
	json_object_set_new(root, "attempts", json_integer(info->attempts));
	json_object_set_new(root, "http_status", json_integer(mesh_call_http_status(call)));
	if (opts->flags & MESH_CALL_GRPC) {
		const char *message = mesh_call_grpc_message(call);
		json_object_set_new(root, "grpc_status", json_integer(mesh_call_grpc_status(call)));
		json_object_set_new(root, "grpc_message", json_text(message, strlen(message)));
	}
	json_object_set_new(root, "headers", headers_json(call, false));
	json_object_set_new(root, "trailers", headers_json(call, true));
	json_set_bytes(root, "body", body, len);
	json_object_set_new(root, "time_us", times_json(info));
	json_object_set_new(root, "error", err->code ? json_error(err) : json_null());
	return root;
}

/* ---- the call ---- */

static int finish(const struct call_args *given, const struct target *target, const struct mesh_call_options *opts, const mesh_call *call,
		  const struct mesh_error *err)
{
	struct mesh_call_info info = { .size = sizeof(info) };
	bool is_grpc = opts->flags & MESH_CALL_GRPC;
	int http_status = mesh_call_http_status(call);
	bool is_ok = err->code == 0 && (is_grpc || http_status < 400);

	mesh_call_info(call, &info);
	if (given->is_verbose) {
		explain_answer(call, is_grpc);
		explain_time(&info, mesh_call_http_status(call) != 0, mesh_call_peer_id(call));
	}
	if (given->is_json) {
		int status = print_json(call_json(target, opts, call, &info, err, is_ok));
		return status ? status : is_ok ? EXIT_DONE : err->code ? session_status(err) : EXIT_FAILED;
	}
	print_body(given, call);
	if (is_ok)
		return EXIT_DONE;
	if (err->code == 0) {
		complain("%s answered with HTTP status %d", target->service, http_status);
		return EXIT_FAILED;
	}
	complain_error(err);
	if (err->code == MESH_E_NO_NAME)
		counters_suggest(target->service);
	if (given->is_verbose)
		explain_error(err);
	return session_status(err);
}

static void print_own_identity(const struct mesh_identity *identity, void *user)
{
	(void)user;
	if (!identity->is_default)
		return;
	fprintf(stderr, "* this process shows itself as ");
	print_escaped(stderr, identity->id, strlen(identity->id), false);
	putc('\n', stderr);
}

static int call_service(const struct call_args *given, const struct target *target, const struct mesh_call_options *opts)
{
	struct mesh_error err = MESH_ERROR_INIT;
	mesh *m = NULL;
	mesh_client *client = NULL;
	mesh_call *call = NULL;
	int status = session_open(NULL, NULL, 0, &m);

	if (status != EXIT_DONE)
		return status;
	session_await_identity(m);
	if (mesh_client_new(m, target->service, &client, &err) != 0) {
		complain_error(&err);
		status = session_status(&err);
		goto out;
	}
	if (given->is_verbose)
		explain_request(target, opts);
	mesh_client_call(client, opts, &call, &err);
	if (given->is_verbose && err.code != MESH_E_INVALID) {
		fprintf(stderr, "* endpoints of ");
		print_escaped(stderr, target->service, strlen(target->service), false);
		fprintf(stderr, ":\n");
		if (mesh_endpoints_list(client, print_endpoint, NULL) <= 0)
			fprintf(stderr, "*   none\n");
		mesh_identity_list(m, print_own_identity, NULL);
	}
	if (call) {
		status = finish(given, target, opts, call, &err);
	} else {
		complain_error(&err);
		status = session_status(&err);
	}
out:
	mesh_call_unref(call);
	mesh_client_free(client);
	mesh_close(m);
	return status;
}

static int run_parsed(const struct call_args *given, const char *operand)
{
	struct mesh_call_options opts = { .size = sizeof(opts) };
	struct payload payload = { 0 };
	struct target target;
	int status = EXIT_USAGE;

	if (!target_parse(operand, &target))
		return EXIT_USAGE;
	if (payload_init(&payload, given->data, given->is_hex, given->grpc, &given->headers, target.path)) {
		opts.flags = (given->grpc ? MESH_CALL_GRPC : 0) | (given->is_patient ? 0 : MESH_CALL_FAIL_FAST) |
			     (given->is_idempotent ? MESH_CALL_IDEMPOTENT : 0);
		opts.method = given->method;
		opts.timeout_ms = (uint32_t)((given->timeout_ns + 999999) / 1000000);
		payload_apply(&payload, &opts);
		status = call_service(given, &target, &opts);
	}
	payload_fini(&payload);
	target_fini(&target);
	return status;
}

static int run(const struct command *cmd, int argc, char **argv)
{
	struct call_args given = { 0 };
	int first, status = EXIT_USAGE;
	enum args_result result = args_parse(cmd, argc, argv, &given, &first);

	if (result == ARGS_DONE)
		status = EXIT_DONE;
	else if (result == ARGS_GO && argc - first != 1)
		complain("%s: mesh call NAME[/path]", argc == first ? "which service?" : "one target only");
	else if (result == ARGS_GO)
		status = run_parsed(&given, argv[first]);
	args_list_free(&given.headers);
	return status;
}

const struct command command_call = {
	"call", "NAME[/path]", "one call; -v explains every step and where the time went",
	"  mesh call users/7\n"
	"  mesh call users -d '{\"name\":\"ada\"}' -H 'content-type: application/json'\n"
	"  mesh call users --grpc shop.Users/Get --hex -d 0a0137\n"
	"  mesh call users/7 --json | jq .time_us\n\n"
	"The body of the answer goes to standard output, everything else to standard error. On a terminal, control characters\n"
	"in the body are shown as \\xNN unless --raw is given. An HTTP status of 400 or more, or a gRPC status other than OK,\n"
	"is a failed call: exit status 1. If no server could be reached it is 3.\n",
	args, run, false
};
