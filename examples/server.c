/* The smallest server: announces itself as `hello`, answers, and leaves in order when asked to.   ./server */
#include <mesh/server.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>

/* Runs on the loop: it must not block. It may keep the request and answer later, from any thread. */
static void hello(mesh_request *request, void *user)
{
	struct mesh_reply reply = { .size = sizeof(reply), .body = user, .body_len = strlen(user) };

	mesh_request_reply(request, &reply);
}

int main(void)
{
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_server *server = NULL;
	mesh *m = NULL;
	sigset_t ends;
	int number;

	/* Before mesh_open(), so that the loop's thread inherits it; the library itself touches no signals. */
	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &ends, NULL);

	opts.service = "hello";
	if (mesh_open(&opts, &m, &err) || mesh_server_new(m, NULL, &server, &err) ||
	    mesh_server_handle(server, "*", 0, hello, "Hello from libmesh", &err) || mesh_server_start(server, &err)) {
		fprintf(stderr, "%s\n", err.message);
	} else {
		printf("hello listens on %s\n", mesh_server_address(server));
		fflush(stdout);
		sigwait(&ends, &number);
		mesh_drain(m, NULL); /* out of discovery, GOAWAY to the peers, wait for what is in flight */
	}
	mesh_server_free(server);
	mesh_close(m);
	return err.code != 0;
}
