/*
 * A ProtobufCService whose methods are calls.
 *
 * Generated code calls service->invoke(); the input is packed there and then, so it may be freed at once. The closure runs
 * when the call has ended, with the unpacked answer or NULL. The stub may be destroyed while its calls are under way: what
 * they need is in `struct pending`.
 *
 * If the call cannot even start (out of memory, mesh closing, forked child), invoke() has no return value to say so and no
 * loop to run the closure on: then, and only then, the closure runs inside invoke().
 */
#include "mesh/grpc.h"

#include "api/grpc_codec.h"
#include "base/fault.h"
#include "base/memory.h"

#include <string.h>

struct stub {
	ProtobufCService service; /* first: generated code sees only this */
	mesh_client *client;
	uint32_t timeout_ms;
	const char **paths; /* one per method */
};

struct pending {
	const ProtobufCService *service; /* compared, never followed: it may be gone */
	const ProtobufCMethodDescriptor *method;
	ProtobufCClosure closure;
	void *closure_data;
};

struct ending {
	const ProtobufCService *service;
	struct mesh_error error;
};

/*
 * How the call of the closure that runs on this thread ended. Global state, and why: protobuf-c's closure has no room for an
 * error, so it has to be found by thread. It is set only while a closure runs.
 */
static _Thread_local const struct ending *current;

static void run_closure(const struct pending *pending, const ProtobufCMessage *answer, const struct ending *ending)
{
	const struct ending *outer = current;

	current = ending;
	if (pending->closure)
		pending->closure(answer, pending->closure_data);
	current = outer;
}

static void fail_closure(const struct pending *pending, const struct ending *ending)
{
	run_closure(pending, NULL, ending);
}

static int unpack_answer(const mesh_call *call, const ProtobufCMethodDescriptor *method, ProtobufCMessage **out,
			 struct mesh_error *err)
{
	const char *why = "it would take far more memory than its size justifies";
	uint64_t len = 0;
	const void *body = mesh_call_body(call, &len);
	int code = mesh__grpc_codec_unpack(method->output, body, (size_t)len, out);

	if (code == MESH_E_NOMEM)
		return mesh__fault(err, code, MESH_STAGE_RECORD, "out of memory while unpacking the answer of %s", method->name);
	if (code == MESH_E_PROTOCOL)
		why = "the bytes do not parse; do both sides use the same .proto?";
	if (code)
		return mesh__fault(err, code, MESH_STAGE_RECORD, "%s answered %llu bytes that cannot be unpacked as %s: %s", method->name,
				   (unsigned long long)len, method->output->name, why);
	return 0;
}

static void on_done(const struct mesh_event *event, void *user)
{
	struct pending *pending = user;
	struct ending ending = { pending->service, MESH_ERROR_INIT };
	ProtobufCMessage *answer = NULL;

	if (event->type != MESH_EVENT_CALL_DONE)
		return;
	if (event->code)
		mesh_call_error(event->call, &ending.error);
	else
		unpack_answer(event->call, pending->method, &answer, &ending.error);
	run_closure(pending, answer, &ending);
	if (answer)
		protobuf_c_message_free_unpacked(answer, NULL);
	mesh__memory_free(pending);
}

/* Fills the options of a call and packs its input, which the caller releases. */
static int prepare_call(const struct stub *stub, const ProtobufCMethodDescriptor *method, const ProtobufCMessage *input,
			struct mesh_call_options *opts, struct mesh__grpc_packed *packed, struct mesh_error *err)
{
	int code;

	packed->heap = NULL;
	if (!input || input->descriptor != method->input)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "%s takes a %s, not a %s", method->name, method->input->name,
				   input && input->descriptor ? input->descriptor->name : "NULL");
	code = mesh__grpc_codec_pack(input, packed);
	if (code)
		return mesh__fault(err, code, MESH_STAGE_NONE, "out of memory while packing the input of %s", method->name);
	*opts = (struct mesh_call_options){
		.size = sizeof(*opts),
		.flags = MESH_CALL_GRPC,
		.path = stub->paths[method - stub->service.descriptor->methods],
		.timeout_ms = stub->timeout_ms,
		.body = packed->data,
		.body_len = packed->len,
	};
	return 0;
}

static int start_call(const struct stub *stub, const struct pending *wanted, const ProtobufCMessage *input, struct mesh_error *err)
{
	struct mesh__grpc_packed packed;
	struct mesh_call_options opts;
	struct pending *pending = NULL;
	int code = prepare_call(stub, wanted->method, input, &opts, &packed, err);

	if (code)
		goto out;
	pending = mesh__memory_alloc(sizeof(*pending));
	if (!pending) {
		code = mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while starting %s", wanted->method->name);
		goto out;
	}
	*pending = *wanted;
	opts.on_event = on_done;
	opts.user = pending;
	code = mesh_client_start(stub->client, &opts, NULL, err);
	if (code)
		mesh__memory_free(pending);
out:
	mesh__grpc_codec_release(&packed);
	return code;
}

static void invoke_stub(ProtobufCService *service, unsigned method_index, const ProtobufCMessage *input, ProtobufCClosure closure,
			void *closure_data)
{
	struct stub *stub = (struct stub *)(void *)service;
	struct ending ending = { service, MESH_ERROR_INIT };
	struct pending pending = { service, NULL, closure, closure_data };

	if (method_index >= service->descriptor->n_methods) {
		mesh__fault(&ending.error, MESH_E_INVALID, MESH_STAGE_NONE, "%s has no method %u", service->descriptor->name, method_index);
		fail_closure(&pending, &ending);
		return;
	}
	pending.method = &service->descriptor->methods[method_index];
	if (start_call(stub, &pending, input, &ending.error))
		fail_closure(&pending, &ending);
}

static void destroy_stub(ProtobufCService *service)
{
	struct stub *stub = (struct stub *)(void *)service;

	for (unsigned i = 0; stub->paths && i < service->descriptor->n_methods; i++)
		mesh__memory_free((void *)(uintptr_t)stub->paths[i]);
	mesh__memory_free(stub->paths);
	mesh__memory_free(stub);
}

static int fill_paths(struct stub *stub, struct mesh_error *err)
{
	const ProtobufCServiceDescriptor *descriptor = stub->service.descriptor;
	char path[MESH__GRPC_CODEC_PATH];

	/* One more than there are methods, so that an empty service does not look like a failure. */
	stub->paths = mesh__memory_zalloc_array((size_t)descriptor->n_methods + 1, sizeof(*stub->paths));
	for (unsigned i = 0; stub->paths && i < descriptor->n_methods; i++) {
		if (mesh__grpc_codec_path(path, descriptor, &descriptor->methods[i]))
			return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the name of method %u of %s is too long", i, descriptor->name);
		stub->paths[i] = mesh__memory_strdup(path);
		if (!stub->paths[i])
			break;
	}
	if (!stub->paths || (descriptor->n_methods && !stub->paths[descriptor->n_methods - 1]))
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while making a stub of %s", descriptor->name);
	return 0;
}

int mesh_grpc_stub_new(mesh_client *client, const ProtobufCServiceDescriptor *descriptor, uint32_t timeout_ms, ProtobufCService **out,
		       struct mesh_error *err)
{
	struct stub *stub;
	int code;

	if (!client || !out || !descriptor || descriptor->magic != PROTOBUF_C__SERVICE_DESCRIPTOR_MAGIC)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "mesh_grpc_stub_new() needs a client, a service descriptor and a place for the stub");
	*out = NULL;
	stub = mesh__memory_zalloc(sizeof(*stub));
	if (!stub)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while making a stub of %s", descriptor->name);
	stub->service = (ProtobufCService){ descriptor, invoke_stub, destroy_stub };
	stub->client = client;
	stub->timeout_ms = timeout_ms;
	code = fill_paths(stub, err);
	if (code) {
		destroy_stub(&stub->service);
		return code;
	}
	*out = &stub->service;
	return 0;
}

int mesh_grpc_call(ProtobufCService *service, const char *method_name, const ProtobufCMessage *in, ProtobufCMessage **out,
		   struct mesh_error *err)
{
	struct stub *stub = (struct stub *)(void *)service;
	const ProtobufCMethodDescriptor *method;
	struct mesh__grpc_packed packed;
	struct mesh_call_options opts;
	mesh_call *call = NULL;
	int code;

	if (!service || !method_name || !out || service->invoke != invoke_stub)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "mesh_grpc_call() needs a stub of mesh_grpc_stub_new(), a method and a place for the answer");
	*out = NULL;
	method = protobuf_c_service_descriptor_get_method_by_name(service->descriptor, method_name);
	if (!method)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "%s has no method %s", service->descriptor->name, method_name);
	code = prepare_call(stub, method, in, &opts, &packed, err);
	if (!code)
		code = mesh_client_call(stub->client, &opts, &call, err);
	if (!code)
		code = unpack_answer(call, method, out, err);
	mesh_call_unref(call);
	mesh__grpc_codec_release(&packed);
	return code;
}

int mesh_grpc_last_error(const ProtobufCService *service, struct mesh_error *err)
{
	if (!current || current->service != service)
		return mesh__fault(err, MESH_E_STATE, MESH_STAGE_NONE, "mesh_grpc_last_error() was called outside a closure of this stub");
	if (current->error.code && err)
		mesh__fault_copy(err, &current->error);
	return current->error.code;
}
