/* Inside your own libevent loop: no thread of the library, callbacks run where you turn the loop.   ./foreign_loop SERVICE */
#include <mesh/client.h>

#include <event2/event.h>
#include <stdio.h>

static void on_done(const struct mesh_event *event, void *base)
{
	struct mesh_error err = MESH_ERROR_INIT;

	mesh_call_error(event->call, &err);
	if (event->code)
		printf("failed: %s\n", err.message);
	else
		printf("HTTP %d, in the caller's own loop\n", mesh_call_http_status(event->call));
	event_base_loopbreak(base);
}

int main(int argc, char **argv)
{
	struct event_base *base = event_base_new();
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_call_options call = { .size = sizeof(call), .path = "/", .on_event = on_done, .user = base };
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_client *client = NULL;
	mesh *m = NULL;

	opts.event_base = base;
	if (argc < 2 || mesh_open(&opts, &m, &err) || mesh_client_new(m, argv[1], &client, &err) ||
	    mesh_client_start(client, &call, NULL, &err))
		fprintf(stderr, "foreign_loop SERVICE: %s\n", err.message);
	else
		event_base_dispatch(base); /* your timers and sockets run here, too */
	mesh_client_free(client);
	mesh_close(m);
	event_base_free(base);
	return err.code != 0;
}
