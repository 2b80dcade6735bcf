/* A completion queue: many calls at once from one thread, with a descriptor that any loop can poll.   ./queue SERVICE */
#include <mesh/client.h>

#include <poll.h>
#include <stdio.h>

enum { CALLS = 10 };

int main(int argc, char **argv)
{
	struct mesh_call_options opts = { .size = sizeof(opts), .path = "/" };
	struct mesh_event events[4];
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_client *client = NULL;
	mesh_queue *queue = NULL;
	mesh *m = NULL;
	int ended = 0, ok = 0;

	if (argc < 2 || mesh_open(NULL, &m, &err) || mesh_client_new(m, argv[1], &client, &err) || mesh_queue_new(m, &queue, &err)) {
		fprintf(stderr, "queue SERVICE: %s\n", err.message);
		mesh_close(m);
		return 1;
	}
	opts.queue = queue;
	for (opts.token = 0; opts.token < CALLS; opts.token++)
		ended += mesh_client_start(client, &opts, NULL, &err) != 0; /* not started: no event will come */
	while (ended < CALLS) {
		struct pollfd ready = { .fd = mesh_queue_fd(queue), .events = POLLIN };
		int count;

		poll(&ready, 1, -1); /* here your own descriptors wait, too */
		events[0].size = sizeof(events[0]);
		count = mesh_queue_next(queue, events, sizeof(events) / sizeof(events[0]), 0);
		for (int i = 0; i < count; i++, ended++)
			ok += events[i].code == 0; /* events[i].token says which call it was */
	}
	printf("%d of %d calls succeeded\n", ok, CALLS);
	mesh_queue_free(queue);
	mesh_client_free(client);
	mesh_close(m);
	return ok != CALLS;
}
