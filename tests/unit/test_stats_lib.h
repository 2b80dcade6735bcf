/* What the tests of stats/ share: a directory of their own on a memory file system, and short names for the usual steps. */
#ifndef TEST_STATS_LIB_H
#define TEST_STATS_LIB_H

#include "base/descriptors.h"
#include "base/memory.h"
#include "mesh/stats.h"
#include "stats/stats.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char test_dir[64];

static inline int make_test_dir(void **state)
{
	(void)state;
	strcpy(test_dir, access("/dev/shm", W_OK) ? "/tmp/mesh-test-XXXXXX" : "/dev/shm/mesh-test-XXXXXX");
	assert_int_equal(mesh__descriptors_watch_fork(), 0);
	return mkdtemp(test_dir) ? 0 : -1;
}

static inline void remove_names_in(const char *dir)
{
	DIR *names = opendir(dir);
	struct dirent *found;
	char path[1024];

	while (names && (found = readdir(names))) {
		snprintf(path, sizeof(path), "%s/%s", dir, found->d_name);
		if (strcmp(found->d_name, ".") && strcmp(found->d_name, "..") && unlink(path))
			rmdir(path);
	}
	if (names)
		closedir(names);
}

static inline int remove_test_dir(void **state)
{
	char path[128];

	(void)state;
	snprintf(path, sizeof(path), "%s/stats", test_dir);
	remove_names_in(path);
	rmdir(path);
	remove_names_in(test_dir);
	return rmdir(test_dir);
}

static inline struct mesh__stats *open_stats_with(uint32_t series_max)
{
	struct mesh__stats_options opts = { .service = "shop", .dir = test_dir, .series_max = series_max, .loops = 1 };
	struct mesh__stats *stats = NULL;

	assert_int_equal(mesh__stats_open(&opts, &stats, NULL), 0);
	assert_non_null(stats);
	return stats;
}

static inline struct mesh__stats *open_stats(void)
{
	return open_stats_with(0);
}

static inline mesh_stats_view *open_view(const char *path)
{
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_stats_view *view = NULL;
	int result = mesh_stats_open(path, &view, &err);

	if (result)
		fail_msg("%s: %s", path, err.message);
	return view;
}

/* The value of the series with this name and, if not NULL, this service; fails the test when there is none. */
static inline int64_t value_of(const mesh_stats_view *view, const char *name, const char *service)
{
	const char *labels[] = { "service", service };
	int64_t number = mesh_stats_find(view, 0, name, labels, service != NULL), value = 0;

	if (number < 0)
		fail_msg("no series %s of %s", name, service ? service : "(none)");
	assert_int_equal(mesh_stats_value(view, (uint64_t)number, &value), 0);
	return value;
}

static inline mesh__cell *calls_of(struct mesh__stats *stats, const char *service)
{
	return mesh__stats_counter(stats, MESH__METRIC_CALLS_TOTAL, &(struct mesh__labels){ .service = service });
}

#endif
