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
 * The closure runs once per call with NULL for any failure; mesh_grpc_last_error() tells inside it why. It runs on the call's
 * loop, except when the call could not even start: then inside the generated function, which has no other way to say so.
 *
 * thread   any
 * memory   protobuf_c_service_destroy(), at any time: calls in flight go on; `client` must live until then
 * time     timeout_ms per call; 0 takes the service's option `timeout`
 * errors   MESH_E_INVALID, MESH_E_NOMEM; a closing mesh or a forked child is told to each call
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

/*
 * Why the closure that is running on this thread got NULL. It is the only thing in this library that is found by thread, since
 * a protobuf-c closure has no room for an error.
 *
 * thread   the closure's, inside it
 * returns  the call's code; 0 if the closure got a message; MESH_E_STATE outside a closure of this stub
 * since    0.1
 */
MESH_API int mesh_grpc_last_error(const ProtobufCService *stub, struct mesh_error *err);

/*
 * Offers a generated service: each method gets a handler. The implementation may call its closure inside the method or
 * later, from any thread; NULL answers with INTERNAL, or with what mesh_grpc_fail() said. Its input is valid until the closure
 * has been called. A request that does not parse is answered with INVALID_ARGUMENT and never reaches the implementation.
 *
 * thread   any, before mesh_server_start(); methods run on the request's loop and must not block it
 * once     the closure must be called once; again, while the method still runs, is harmless
 * memory   service must live until mesh_server_free()
 * errors   as mesh_server_handle()
 * since    0.1
 */
MESH_API int mesh_server_add_service(mesh_server *server, ProtobufCService *service, struct mesh_error *err);

/* The request behind a closure's data, to read metadata and the deadline. thread any; memory valid until the closure is called. since 0.1 */
MESH_API mesh_request *mesh_grpc_request(void *closure_data);

/*
 * Sets the status that the closure answers when it is then called with NULL.
 *
 * thread   the one that calls the closure next
 * errors   MESH_E_INVALID (grpc_status is not 1 to 16), MESH_E_NOMEM
 * since    0.1
 */
MESH_API int mesh_grpc_fail(void *closure_data, int32_t grpc_status, const char *message);

#ifdef __cplusplus
}
#endif

#endif
