/* S18: what opening a mesh and one call to one server add to the memory of a process (PSS, from smaps_rollup). One line of JSON. */
#include "bench.h"

#include "mesh/client.h"

static long pss_kb(void)
{
	FILE *file = fopen("/proc/self/smaps_rollup", "r");
	char line[256];
	long kb = -1;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "Pss: %ld", &kb) == 1)
			break;
	if (file)
		fclose(file);
	return kb;
}

int main(int argc, char **argv)
{
	struct bench_args args = bench_parse(argc, argv);
	struct mesh_call_options opts = { .size = sizeof(opts), .flags = MESH_CALL_GRPC, .path = BENCH_PATH };
	struct mesh_options mesh_opts = MESH_OPTIONS_INIT;
	char uri[64];
	struct mesh_setting setting = { "discovery", uri };
	mesh_client *client;
	mesh *m;
	long before = pss_kb(), opened, called;

	before = pss_kb(); /* once more: reading itself has brought in pages */
	snprintf(uri, sizeof(uri), "static:echo=%s:%d", args.host, args.port);
	mesh_opts.settings = &setting;
	mesh_opts.setting_count = 1;
	mesh_opts.service = "bench";
	if (mesh_open(&mesh_opts, &m, NULL))
		return 1;
	opened = pss_kb();
	if (mesh_client_new(m, "echo", &client, NULL) || mesh_client_call(client, &opts, NULL, NULL))
		return 1;
	called = pss_kb();
	printf("{\"before_kb\": %ld, \"open_kb\": %ld, \"call_kb\": %ld}\n", before, opened - before, called - before);
	return 0;
}
