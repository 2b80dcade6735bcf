/* Reading counters from outside: every process of this user, also those that were killed.   ./counters [METRIC] */
#include <mesh/stats.h>

#include <stdio.h>

static void show(const char *path, const char *metric)
{
	struct mesh_stats_process process = { .size = sizeof(process) };
	struct mesh_stats_series series = { .size = sizeof(series) };
	mesh_stats_view *view = NULL;
	char name[256], value[256];
	int64_t at = -1;

	if (mesh_stats_open(path, &view, NULL))
		return;
	mesh_stats_process(view, &process);
	while ((at = mesh_stats_find(view, (uint64_t)(at + 1), metric, NULL, 0)) >= 0) {
		if (mesh_stats_series(view, (uint64_t)at, &series))
			continue;
		/* Texts come from another process: escape them before a terminal sees them. */
		mesh_stats_escape(name, sizeof(name), process.service);
		printf("%s[%lld]%s", name, (long long)process.pid, process.state == MESH_STATS_DEAD ? " (dead)" : "");
		for (uint32_t i = 0; i < series.label_count; i++) {
			mesh_stats_escape(value, sizeof(value), series.label_values[i]);
			printf(" %s=%s", series.label_names[i], value);
		}
		printf(" %lld %s\n", (long long)series.value, series.unit);
	}
	mesh_stats_close(view);
}

int main(int argc, char **argv)
{
	struct mesh_stats_entry entry = { .size = sizeof(entry) };
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_stats_list *list = NULL;

	if (mesh_stats_list_new(NULL, &list, &err)) {
		fprintf(stderr, "%s\n", err.message);
		return 1;
	}
	for (uint64_t i = 0; mesh_stats_list_get(list, i, &entry) == 0; i++)
		if (!entry.error)
			show(entry.path, argc > 1 ? argv[1] : "mesh_requests_total");
	mesh_stats_list_free(list);
	return 0;
}
