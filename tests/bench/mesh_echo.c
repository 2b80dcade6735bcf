/* Our side of the benchmarks, serving: a gRPC echo by the public API, everything at its default (limits, deadlines, counters). */
#include "bench.h"

#include "mesh/server.h"

#include <poll.h>

static void echo(mesh_request *request, void *user)
{
	struct mesh_reply reply = { .size = sizeof(reply) };

	(void)user;
	reply.body = mesh_request_body(request, &reply.body_len);
	mesh_request_reply(request, &reply);
}

int main(int argc, char **argv)
{
	struct bench_args args = bench_parse(argc, argv);
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_server_options server_opts = { .size = sizeof(server_opts) };
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_server *server;
	char listen[64];
	mesh *m;

	snprintf(listen, sizeof(listen), "%s:%d", args.host, args.port);
	server_opts.listen = listen;
	opts.service = "echo";
	if (mesh_open(&opts, &m, &err) || mesh_server_new(m, &server_opts, &server, &err) ||
	    mesh_server_handle(server, BENCH_PATH, MESH_HANDLER_GRPC, echo, NULL, &err) || mesh_server_start(server, &err)) {
		fprintf(stderr, "%s\n", err.message);
		return 1;
	}
	for (;;)
		poll(NULL, 0, 1000);
}
