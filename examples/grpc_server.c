/* A gRPC server with protobuf-c's generated code, as it is.   ./grpc_server */
#include "examples/greeter.pb-c.h"

#include <mesh/grpc.h>

#include <signal.h>
#include <stdio.h>

/* What protobuf-c wants of an implementation: fill the answer, call the closure once, here or later. */
static void greeter__say_hello(Example__Greeter_Service *service, const Example__HelloRequest *in, Example__HelloReply_Closure closure,
			       void *closure_data)
{
	Example__HelloReply reply = EXAMPLE__HELLO_REPLY__INIT;
	char text[256];

	(void)service;
	if (!*in->name) {
		mesh_grpc_fail(closure_data, 3 /* INVALID_ARGUMENT */, "who are you?");
		closure(NULL, closure_data);
		return;
	}
	snprintf(text, sizeof(text), "Hello, %s", in->name);
	reply.text = text;
	closure(&reply, closure_data);
}

int main(void)
{
	static Example__Greeter_Service greeter = EXAMPLE__GREETER__INIT(greeter__);
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_server *server = NULL;
	mesh *m = NULL;
	sigset_t ends;
	int number;

	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &ends, NULL);
	opts.service = "greeter";
	if (mesh_open(&opts, &m, &err) || mesh_server_new(m, NULL, &server, &err) ||
	    mesh_server_add_service(server, &greeter.base, &err) || mesh_server_start(server, &err)) {
		fprintf(stderr, "%s\n", err.message);
	} else {
		printf("greeter listens on %s\n", mesh_server_address(server));
		fflush(stdout);
		sigwait(&ends, &number);
		mesh_drain(m, NULL);
	}
	mesh_server_free(server);
	mesh_close(m);
	return err.code != 0;
}
