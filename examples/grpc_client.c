/* A gRPC client with protobuf-c's generated code: once waiting, once with a closure.   ./grpc_client [NAME] */
#include "examples/greeter.pb-c.h"

#include <mesh/grpc.h>

#include <semaphore.h>
#include <stdio.h>

static void on_reply(const Example__HelloReply *reply, void *closure_data)
{
	/* On the loop. NULL stands for any failure; mesh_grpc_last_error() tells which. */
	printf("closure: %s\n", reply ? reply->text : "failed");
	sem_post(closure_data);
}

int main(int argc, char **argv)
{
	Example__HelloRequest request = EXAMPLE__HELLO_REQUEST__INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	ProtobufCService *greeter = NULL;
	ProtobufCMessage *reply = NULL;
	mesh_client *client = NULL;
	mesh *m = NULL;
	sem_t done;

	sem_init(&done, 0, 0);
	request.name = argc > 1 ? argv[1] : "world";
	if (!mesh_open(NULL, &m, &err) && !mesh_client_new(m, "greeter", &client, &err) &&
	    !mesh_grpc_stub_new(client, &example__greeter__descriptor, 2000, &greeter, &err) &&
	    !mesh_grpc_call(greeter, "SayHello", &request.base, &reply, &err)) {
		printf("waiting: %s\n", ((Example__HelloReply *)reply)->text);
		protobuf_c_message_free_unpacked(reply, NULL);
		example__greeter__say_hello(greeter, &request, on_reply, &done);
		sem_wait(&done);
	} else {
		fprintf(stderr, "%s\n", err.message);
	}
	if (greeter)
		protobuf_c_service_destroy(greeter);
	mesh_client_free(client);
	mesh_close(m);
	return err.code != 0;
}
