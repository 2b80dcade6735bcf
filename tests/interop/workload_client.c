/*
 * For tests/interop/workload: opens a mesh whose identity comes from SPIFFE_ENDPOINT_SOCKET and writes one line whenever that changes:
 *
 *	GENERATION identity ID BUNDLES SERIAL
 *	GENERATION none SENTENCE
 *
 * until its input ends. "serve": it offers the service users, too, and
 * begins with "listens ADDRESS". "call": it calls users all the time, and writes "call ok" or "call failed SENTENCE" instead.
 */
#include "api/handle.h"

#include "mesh/client.h"
#include "mesh/options.h"
#include "mesh/server.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

static void describe(mesh *m, char *line, size_t capacity)
{
	char why[512] = "";
	struct mesh__credentials *now = mesh__identity_take(m->identity, why, sizeof(why));
	struct mesh__identity_status status;
	const struct mesh__svid *svid = now ? mesh__identity_svid(m->identity, now, NULL) : NULL;

	mesh__identity_status(m->identity, &status);
	if (svid)
		snprintf(line, capacity, "%u identity %.300s %u %s", (unsigned)now->number, svid->facts.id.text, now->bundle_count, svid->facts.serial);
	else
		snprintf(line, capacity, "%u none %s", (unsigned)mesh__identity_generation(m->identity), status.last_failure);
	mesh__credentials_unref(now);
}

static void answer(mesh_request *request, void *user)
{
	struct mesh_reply reply = { .size = sizeof(reply) };

	(void)user;
	mesh_request_reply(request, &reply);
}

static int serve(mesh *m, mesh_server **out, struct mesh_error *err)
{
	struct mesh_server_options opts = { .size = sizeof(opts) };
	int rc = mesh_server_new(m, &opts, out, err);

	if (!rc)
		rc = mesh_server_handle(*out, "/", 0, answer, NULL, err);
	return rc ? rc : mesh_server_start(*out, err);
}

static void call(mesh_client *client, char *line, size_t capacity)
{
	struct mesh_call_options opts = { .size = sizeof(opts), .path = "/" };
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *done = NULL;

	if (mesh_client_call(client, &opts, &done, &err))
		snprintf(line, capacity, "call failed %.900s", err.message);
	else
		snprintf(line, capacity, "call ok");
	mesh_call_unref(done);
}

int main(int argc, char **argv)
{
	const struct mesh_setting settings[] = { { "tls", "on" } };
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	struct pollfd input = { .fd = 0, .events = POLLIN };
	char line[1024], said[1024] = "";
	bool is_server = argc > 1 && strcmp(argv[1], "serve") == 0, is_caller = argc > 1 && strcmp(argv[1], "call") == 0;
	mesh_server *server = NULL;
	mesh_client *client = NULL;
	mesh *m;

	opts.service = is_caller ? "shop" : "users";
	opts.settings = settings;
	opts.setting_count = 1;
	if (mesh_open(&opts, &m, &err) || (is_server && serve(m, &server, &err)) || (is_caller && mesh_client_new(m, "users", &client, &err))) {
		printf("error %s\n", err.message);
		return 1;
	}
	if (is_server)
		printf("listens %s\n", mesh_server_address(server));
	while (poll(&input, 1, 10) == 0) {
		if (is_caller)
			call(client, line, sizeof(line));
		else
			describe(m, line, sizeof(line));
		if (strcmp(line, said) != 0) {
			puts(line);
			fflush(stdout);
			strcpy(said, line);
		}
	}
	mesh_client_free(client);
	mesh_server_free(server);
	mesh_close(m);
	return 0;
}
