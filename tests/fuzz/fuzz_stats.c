/* A segment of counters written by nobody knows whom. */
#include "fuzz.h"

#include "mesh/stats.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static void read_all(mesh_stats_view *view)
{
	struct mesh_stats_process process = { .size = sizeof(process) };
	struct mesh_stats_series series = { .size = sizeof(series) };
	mesh_stats_histogram *histogram = NULL;
	uint64_t lower, upper, count;
	uint32_t at = 0;
	char escaped[256];

	mesh_stats_process(view, &process);
	mesh_stats_histogram_new(&histogram);
	for (uint64_t i = 0; i < mesh_stats_count(view) && i < 10000; i++) {
		if (mesh_stats_series(view, i, &series))
			continue;
		mesh_stats_escape(escaped, sizeof(escaped), series.name);
		for (uint32_t k = 0; k < series.label_count; k++)
			mesh_stats_escape(escaped, sizeof(escaped), series.label_values[k]);
		mesh_stats_histogram_add(histogram, view, i);
	}
	mesh_stats_histogram_quantile(histogram, 0.99);
	while (mesh_stats_histogram_next(histogram, &at, &lower, &upper, &count))
		if (lower >= upper)
			abort();
	mesh_stats_histogram_free(histogram);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static char path[64];
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_stats_view *view = NULL;
	int fd;

	if (!*path)
		snprintf(path, sizeof(path), "%s/mesh-fuzz-stats-%ld", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", (long)getpid());
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, data, len) != (ssize_t)len)
		abort();
	if (mesh_stats_open(path, &view, &err) == 0) {
		read_all(view);
		if (ftruncate(fd, (off_t)(len / 2)) == 0)
			mesh_stats_read(view, &err);
		read_all(view);
	} else if (!*err.message) {
		abort();
	}
	mesh_stats_close(view);
	close(fd);
	unlink(path);
	return 0;
}
