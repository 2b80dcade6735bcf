/* The smallest client: one call, and what to do when it fails.   ./client SERVICE [PATH] */
#include <mesh/client.h>

#include <stdio.h>

int main(int argc, char **argv)
{
	struct mesh_call_options opts = { .size = sizeof(opts), .path = argc > 2 ? argv[2] : "/", .timeout_ms = 2000 };
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_client *client = NULL;
	mesh_call *call = NULL;
	mesh *m = NULL;
	int rc = 1;

	if (argc < 2 || mesh_open(NULL, &m, &err) || mesh_client_new(m, argv[1], &client, &err)) {
		fprintf(stderr, "client SERVICE [PATH]: %s\n", err.message);
	} else if (mesh_client_call(client, &opts, &call, &err)) {
		/* One sentence that names the cause, and whether it is safe to try again. */
		fprintf(stderr, "%s (retry is %s)\n", err.message, err.retry_safe ? "safe" : "not safe");
	} else {
		uint64_t len;
		const char *body = mesh_call_body(call, &len);

		printf("%d %.*s\n", mesh_call_http_status(call), (int)len, body);
		rc = 0;
	}
	mesh_call_unref(call);
	mesh_client_free(client);
	mesh_close(m);
	return rc;
}
