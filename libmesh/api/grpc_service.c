/*
 * A ProtobufCService that is offered: each of its methods becomes a gRPC handler.
 *
 * A request is unpacked, the method is invoked with a closure of ours, and the closure packs the answer and replies. The
 * implementation may call the closure inside the method or later, from any thread. `struct answer` has two holders: the
 * invocation, until the method returns, and the closure, until it has been called; the last one frees it. So the input stays
 * valid as long as either needs it, and a second call of the closure inside the method is harmless.
 */
#include "mesh/grpc.h"

#include "api/grpc_codec.h"
#include "base/fault.h"
#include "base/memory.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { GRPC_OK = 0, GRPC_INVALID_ARGUMENT = 3, GRPC_RESOURCE_EXHAUSTED = 8, GRPC_UNIMPLEMENTED = 12, GRPC_INTERNAL = 13, GRPC_LAST = 16 };

struct answer {
	mesh_request *request; /* one reference */
	ProtobufCMessage *input;
	const ProtobufCMethodDescriptor *method;
	atomic_uint holders;
	atomic_bool is_answered;
	int32_t grpc_status; /* what mesh_grpc_fail() said; 0: nothing */
	char *grpc_message;
};

static void let_go(struct answer *answer)
{
	if (atomic_fetch_sub_explicit(&answer->holders, 1, memory_order_acq_rel) != 1)
		return;
	if (answer->input)
		protobuf_c_message_free_unpacked(answer->input, NULL);
	mesh_request_unref(answer->request);
	mesh__memory_free(answer->grpc_message);
	mesh__memory_free(answer);
}

/* A reply that fails has nobody left to be told: the caller is gone, or the request is answered when its last reference goes. */
static void reply_status(mesh_request *request, int32_t status, const char *message)
{
	struct mesh_reply reply = { .size = sizeof(reply), .grpc_status = status, .grpc_message = message };

	mesh_request_reply(request, &reply);
}

static void reply_message(struct answer *answer, const ProtobufCMessage *message)
{
	struct mesh_reply reply = { .size = sizeof(reply) };
	struct mesh__grpc_packed packed;

	if (mesh__grpc_codec_pack(message, &packed)) {
		reply_status(answer->request, GRPC_RESOURCE_EXHAUSTED, "out of memory while packing the answer");
		return;
	}
	reply.body = packed.data;
	reply.body_len = packed.len;
	if (mesh_request_reply(answer->request, &reply) == MESH_E_TOO_LARGE)
		reply_status(answer->request, GRPC_RESOURCE_EXHAUSTED, "the answer is larger than option message.max allows");
	mesh__grpc_codec_release(&packed);
}

static void close_answer(const ProtobufCMessage *message, void *closure_data)
{
	struct answer *answer = closure_data;

	if (atomic_exchange(&answer->is_answered, true))
		return;
	if (message && message->descriptor == answer->method->output)
		reply_message(answer, message);
	else if (message)
		reply_status(answer->request, GRPC_INTERNAL, "the method answered with a message of another type");
	else if (answer->grpc_status)
		reply_status(answer->request, answer->grpc_status, answer->grpc_message);
	else
		reply_status(answer->request, GRPC_INTERNAL, "the method gave no answer");
	let_go(answer);
}

static void refuse_input(mesh_request *request, const ProtobufCMethodDescriptor *method, int code)
{
	char why[256];

	if (code == MESH_E_NOMEM) {
		reply_status(request, GRPC_RESOURCE_EXHAUSTED, "out of memory while unpacking the request");
		return;
	}
	snprintf(why, sizeof(why), "the request cannot be unpacked as %s%s", method->input->name,
		 code == MESH_E_TOO_LARGE ? ": it would take far more memory than its size justifies" : "");
	reply_status(request, code == MESH_E_TOO_LARGE ? GRPC_RESOURCE_EXHAUSTED : GRPC_INVALID_ARGUMENT, why);
}

/* By name, since one handler function serves all methods of a service; the path is ours, registered below. */
static const ProtobufCMethodDescriptor *method_of(const ProtobufCService *service, const mesh_request *request)
{
	const char *path = mesh_request_path(request), *slash = path ? strrchr(path, '/') : NULL;

	return slash ? protobuf_c_service_descriptor_get_method_by_name(service->descriptor, slash + 1) : NULL;
}

static void invoke_method(ProtobufCService *service, const ProtobufCMethodDescriptor *method, mesh_request *request,
			  ProtobufCMessage *input)
{
	struct answer *answer = mesh__memory_zalloc(sizeof(*answer));

	if (!answer) {
		protobuf_c_message_free_unpacked(input, NULL);
		reply_status(request, GRPC_RESOURCE_EXHAUSTED, "out of memory while dispatching the request");
		return;
	}
	answer->request = mesh_request_ref(request);
	answer->input = input;
	answer->method = method;
	atomic_init(&answer->holders, 2);
	atomic_init(&answer->is_answered, false);
	service->invoke(service, (unsigned)(method - service->descriptor->methods), input, close_answer, answer);
	let_go(answer);
}

static void on_request(mesh_request *request, void *user)
{
	ProtobufCService *service = user;
	const ProtobufCMethodDescriptor *method = method_of(service, request);
	ProtobufCMessage *input = NULL;
	uint64_t len = 0;
	const void *body = mesh_request_body(request, &len);
	int code;

	if (!method) {
		reply_status(request, GRPC_UNIMPLEMENTED, "the service has no such method");
		return;
	}
	code = mesh__grpc_codec_unpack(method->input, body, (size_t)len, &input);
	if (code)
		refuse_input(request, method, code);
	else
		invoke_method(service, method, request, input);
}

int mesh_server_add_service(mesh_server *server, ProtobufCService *service, struct mesh_error *err)
{
	const ProtobufCServiceDescriptor *descriptor = service ? service->descriptor : NULL;
	char path[MESH__GRPC_CODEC_PATH];
	int code = 0;

	if (!server || !descriptor || descriptor->magic != PROTOBUF_C__SERVICE_DESCRIPTOR_MAGIC || !service->invoke)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "mesh_server_add_service() needs a server and a generated service");
	for (unsigned i = 0; !code && i < descriptor->n_methods; i++) {
		if (mesh__grpc_codec_path(path, descriptor, &descriptor->methods[i]))
			return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the name of method %u of %s is too long", i, descriptor->name);
		code = mesh_server_handle(server, path, MESH_HANDLER_GRPC, on_request, service, err);
	}
	return code;
}

mesh_request *mesh_grpc_request(void *closure_data)
{
	return closure_data ? ((struct answer *)closure_data)->request : NULL;
}

int mesh_grpc_fail(void *closure_data, int32_t grpc_status, const char *message)
{
	struct answer *answer = closure_data;
	char *copy = NULL;

	if (!answer || grpc_status <= GRPC_OK || grpc_status > GRPC_LAST)
		return MESH_E_INVALID;
	if (message) {
		copy = mesh__memory_strdup(message);
		if (!copy)
			return MESH_E_NOMEM;
	}
	mesh__memory_free(answer->grpc_message);
	answer->grpc_message = copy;
	answer->grpc_status = grpc_status;
	return 0;
}
