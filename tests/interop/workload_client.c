/*
 * For tests/interop/workload: opens a mesh whose identity comes from SPIFFE_ENDPOINT_SOCKET and writes one line whenever that changes:
 *
 *	GENERATION identity ID BUNDLES SERIAL
 *	GENERATION none SENTENCE
 *
 * until its input ends.
 */
#include "api/handle.h"

#include "mesh/options.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

static void describe(mesh *m, char *line, size_t capacity)
{
	char why[512] = "";
	struct mesh__credentials *now = mesh__identity_take(m->identity, why, sizeof(why));
	struct mesh__identity_status status;

	mesh__identity_status(m->identity, &status);
	if (now)
		snprintf(line, capacity, "%u identity %.300s %u %s", (unsigned)now->number, now->svids[0]->facts.id.text, now->bundle_count,
			 now->svids[0]->facts.serial);
	else
		snprintf(line, capacity, "%u none %s", (unsigned)mesh__identity_generation(m->identity), status.last_failure);
	mesh__credentials_unref(now);
}

int main(void)
{
	const struct mesh_setting settings[] = { { "tls", "on" } };
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	struct pollfd input = { .fd = 0, .events = POLLIN };
	char line[1024], said[1024] = "";
	mesh *m;

	opts.service = "users";
	opts.settings = settings;
	opts.setting_count = 1;
	if (mesh_open(&opts, &m, &err)) {
		printf("error %s\n", err.message);
		return 1;
	}
	while (poll(&input, 1, 10) == 0) {
		describe(m, line, sizeof(line));
		if (strcmp(line, said) != 0) {
			puts(line);
			fflush(stdout);
			strcpy(said, line);
		}
	}
	mesh_close(m);
	return 0;
}
