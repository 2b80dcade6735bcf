/*
 * protobuf-c generated code, as it is: a ProtobufCService that calls a service, and one that is offered.
 *
 * Include after <protobuf-c/protobuf-c.h>. Only unary methods fit ProtobufCService; streams use client.h and server.h with
 * MESH_CALL_GRPC | MESH_CALL_STREAM.
 */
#ifndef MESH_GRPC_H
#define MESH_GRPC_H

#include <mesh/server.h>
#include <protobuf-c/protobuf-c.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * A ProtobufCService whose methods are calls: pass it to the generated functions (`shop__users__get(service, &in, done, x)`).
 * The closure runs once per call, on the call's loop, with NULL for any failure; mesh_grpc_last_error() tells inside it why.
 *
 * thread   any
 * memory   protobuf_c_service_destroy()
 * time     timeout_ms per call; 0 takes the service's option `timeout`
 * errors   MESH_E_INVALID, MESH_E_FORKED, MESH_E_CLOSING, MESH_E_NOMEM
 * since    0.1
 */
MESH_API int mesh_grpc_stub_new(mesh_client *client, const ProtobufCServiceDescriptor *descriptor, uint32_t timeout_ms,
				ProtobufCService **out, struct mesh_error *err);

/*
 * Calls one method of a stub and waits: *out is the unpacked answer.
 *
 * thread   any but a loop's
 * memory   protobuf_c_message_free_unpacked(*out, NULL)
 * errors   as mesh_client_call(); MESH_E_PROTOCOL if the answer does not parse as the method's output
 * since    0.1
 */
MESH_API int mesh_grpc_call(ProtobufCService *stub, const char *method, const ProtobufCMessage *in, ProtobufCMessage **out,
			    struct mesh_error *err);

/* Why the closure that is running on this thread got NULL. Returns its code, 0 if it got a message. thread the closure's. since 0.1 */
MESH_API int mesh_grpc_last_error(const ProtobufCService *stub, struct mesh_error *err);

/*
 * Offers a generated service: each method gets a handler. The implementation may call its closure inside the method or
 * later, from any thread; NULL answers with INTERNAL, or with what mesh_grpc_fail() said.
 *
 * thread   any, before mesh_server_start()
 * memory   service must live until mesh_server_free()
 * errors   as mesh_server_handle()
 * since    0.1
 */
MESH_API int mesh_server_add_service(mesh_server *server, ProtobufCService *service, struct mesh_error *err);

/* The request behind a closure's data, to read metadata and the deadline; valid until the closure is called. since 0.1 */
MESH_API mesh_request *mesh_grpc_request(void *closure_data);

/* Sets the status that the closure answers when it is then called with NULL. thread any. since 0.1 */
MESH_API int mesh_grpc_fail(void *closure_data, int32_t grpc_status, const char *message);

#ifdef __cplusplus
}
#endif

#endif
