/* Your own protocol over your own socket: libmesh says where, and learns how it went.   ./own_transport SERVICE */
#include <mesh/endpoint.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int try_connect(const struct mesh_pick *pick)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(pick->port) };
	int fd = socket(AF_INET, SOCK_STREAM, 0), rc;

	memcpy(&to.sin_addr, pick->ip, 4);
	rc = connect(fd, (struct sockaddr *)&to, sizeof(to));
	close(fd);
	return rc;
}

int main(int argc, char **argv)
{
	struct mesh_pick pick = { .size = sizeof(pick) };
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_client *client = NULL;
	mesh *m = NULL;
	char address[64];
	int rc = -1;

	if (argc < 2 || mesh_open(NULL, &m, &err) || mesh_client_new(m, argv[1], &client, &err)) {
		fprintf(stderr, "own_transport SERVICE: %s\n", err.message);
		mesh_close(m);
		return 1;
	}
	/* mesh_pick() never waits, so a name that was just asked for may need a moment. */
	for (int i = 0; i < 100 && (rc = mesh_pick(client, &pick, &err)) != 0; i++)
		poll(NULL, 0, 10);
	if (rc == 0) {
		uint64_t start_ns = now_ns();
		int connected = try_connect(&pick);

		mesh_pick_address(&pick, address);
		mesh_report(client, &pick, connected ? MESH_OUTCOME_UNREACHABLE : MESH_OUTCOME_OK, now_ns() - start_ns);
		printf("%s %s\n", address, connected ? "refused" : "is there");
	} else {
		fprintf(stderr, "%s\n", err.message);
	}
	mesh_client_free(client);
	mesh_close(m);
	return rc != 0;
}
