#include "test_stats_lib.h"

#include "base/clock.h"
#include "stats/identity_page.h"
#include "stats/layout.h"

#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/file.h>
#include <sched.h>

enum { THREADS = 12, ADDS = 100000 };

struct job {
	mesh__cell *counter, *gauge;
	struct mesh__histogram *latency;
	pthread_barrier_t *start;
};

static void *add_many(void *user)
{
	struct job *job = user;
	uint32_t shard = mesh__shard_mine();

	pthread_barrier_wait(job->start);
	for (uint64_t i = 0; i < ADDS; i++) {
		mesh__counter_add(job->counter, shard, 1);
		mesh__gauge_add(job->gauge, shard, i % 2 ? -1 : 1);
		mesh__histogram_record(job->latency, shard, i * 977);
	}
	return NULL;
}

static void run_many(struct job *job)
{
	pthread_t threads[THREADS];
	pthread_barrier_t start;

	pthread_barrier_init(&start, NULL, THREADS);
	job->start = &start;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, add_many, job), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	pthread_barrier_destroy(&start);
}

/* More threads than shards, so that owners and those who share are both at work. */
static void concurrent_adds_lose_nothing(void **state)
{
	struct mesh__stats *stats = open_stats();
	struct mesh__labels labels = { .service = "users" };
	struct job job = {
		.counter = calls_of(stats, "users"),
		.gauge = mesh__stats_counter(stats, MESH__METRIC_CALLS_IN_FLIGHT, &labels),
		.latency = mesh__stats_histogram(stats, MESH__METRIC_CALL_LATENCY_NS, &labels),
	};
	mesh_stats_view *view;
	struct mesh_stats_series series = { .size = sizeof(series) };
	int64_t number;

	(void)state;
	run_many(&job);
	assert_int_equal(mesh__counter_read(job.counter), (uint64_t)THREADS * ADDS);
	view = open_view(mesh__stats_path(stats));
	assert_int_equal(value_of(view, "mesh_calls_total", "users"), (int64_t)THREADS * ADDS);
	assert_int_equal(value_of(view, "mesh_calls_in_flight", "users"), 0);
	number = mesh_stats_find(view, 0, "mesh_call_latency_ns", NULL, 0);
	assert_int_equal(mesh_stats_series(view, (uint64_t)number, &series), 0);
	assert_int_equal(series.value, (int64_t)THREADS * ADDS);
	assert_int_equal(series.sum, (uint64_t)THREADS * 977 * ((uint64_t)ADDS * (ADDS - 1) / 2));
	assert_int_equal(series.max, (uint64_t)(ADDS - 1) * 977);
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

static void *make_many(void *user)
{
	struct mesh__stats *stats = user;
	char name[16];

	for (int i = 0; i < 500; i++) {
		snprintf(name, sizeof(name), "s%d", i);
		mesh__counter_add(calls_of(stats, name), mesh__shard_mine(), 1);
	}
	return NULL;
}

static void threads_that_make_the_same_series_share_it(void **state)
{
	struct mesh__stats *stats = open_stats();
	pthread_t threads[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, make_many, stats), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(mesh__counter_read(calls_of(stats, "s0")), 4);
	assert_int_equal(mesh__counter_read(calls_of(stats, "s499")), 4);
	mesh__stats_close(stats);
}

static void shards_never_share_a_cache_line(void **state)
{
	struct mesh__stats *stats = open_stats();
	mesh__cell *cell = calls_of(stats, "users");

	(void)state;
	for (uint32_t shard = 1; shard < MESH__SHARD_COUNT; shard++)
		assert_true((size_t)(mesh__counter_cell(cell, shard) - mesh__counter_cell(cell, shard - 1)) * sizeof(*cell) >= 128);
	mesh__stats_close(stats);
}

static void labels_that_a_metric_does_not_use_make_no_series(void **state)
{
	struct mesh__stats *stats = open_stats();
	struct mesh__labels more = { .service = "users", .endpoint = "10.0.0.1:80", .reason = "x" };

	(void)state;
	assert_ptr_equal(mesh__stats_counter(stats, MESH__METRIC_CALLS_TOTAL, &more), calls_of(stats, "users"));
	assert_ptr_not_equal(calls_of(stats, "orders"), calls_of(stats, "users"));
	mesh__stats_close(stats);
}

static void labels_are_cut_not_refused(void **state)
{
	struct mesh__stats *stats = open_stats();
	char longer[2000];

	(void)state;
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	mesh__counter_add(calls_of(stats, longer), 0, 3);
	longer[300] = '\0';
	assert_int_equal(mesh__counter_read(calls_of(stats, longer)), 3);
	mesh__stats_close(stats);
}

static void a_metric_of_the_other_kind_gives_a_cell_that_nobody_reads(void **state)
{
	struct mesh__stats *stats = open_stats();
	mesh__cell *cell = mesh__stats_counter(stats, MESH__METRIC_CALL_LATENCY_NS, NULL);
	struct mesh__histogram *h = mesh__stats_histogram(stats, MESH__METRIC_CALLS_TOTAL, NULL);
	mesh_stats_view *view;

	(void)state;
	for (uint32_t shard = 0; shard < MESH__SHARD_COUNT; shard++) {
		mesh__counter_add(cell, shard, 1);
		mesh__histogram_record(h, shard, 1000000);
	}
	view = open_view(mesh__stats_path(stats));
	for (uint64_t i = 0; i < mesh_stats_count(view); i++) {
		int64_t value;

		assert_int_equal(mesh_stats_value(view, i, &value), 0);
		assert_int_equal(value, 0);
	}
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

static void what_does_not_fit_is_counted_together_and_said(void **state)
{
	struct mesh__stats *stats = open_stats_with(20);
	mesh_stats_view *view;
	int64_t others = 0, all = 0;
	char name[32];

	(void)state;
	for (int i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "service-%d", i);
		mesh__counter_add(calls_of(stats, name), mesh__shard_mine(), 1);
	}
	view = open_view(mesh__stats_path(stats));
	for (int64_t n = -1; (n = mesh_stats_find(view, (uint64_t)(n + 1), "mesh_calls_total", NULL, 0)) >= 0;) {
		int64_t value;

		mesh_stats_value(view, (uint64_t)n, &value);
		all += value;
	}
	others = value_of(view, "mesh_calls_total", "other");
	assert_int_equal(all, 50);
	assert_in_range(others, 30, 40);
	assert_int_equal(value_of(view, "mesh_series_overflow_total", NULL), others);
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

static void a_segment_that_is_full_goes_on_counting(void **state)
{
	struct rlimit before, tight = { .rlim_cur = 128 * 1024, .rlim_max = RLIM_INFINITY };
	struct mesh__stats *stats = open_stats_with(100000);
	char name[300];
	mesh_stats_view *view;
	int64_t overflow;

	(void)state;
	getrlimit(RLIMIT_FSIZE, &before);
	tight.rlim_max = before.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0); /* stands for a full file system; SIGXFSZ would end this test */
	for (int i = 0; i < 2000; i++) {
		snprintf(name, sizeof(name), "%0200d", i);
		mesh__counter_add(calls_of(stats, name), mesh__shard_mine(), 1);
		mesh__histogram_record(mesh__stats_histogram(stats, MESH__METRIC_CALL_LATENCY_NS, &(struct mesh__labels){ .service = name }),
				       mesh__shard_mine(), UINT64_C(1) << (i % 64));
	}
	setrlimit(RLIMIT_FSIZE, &before);
	view = open_view(mesh__stats_path(stats));
	overflow = value_of(view, "mesh_series_overflow_total", NULL);
	assert_in_range(overflow, 1000, 100000);
	assert_true(mesh_stats_count(view) < 1000);
	for (uint64_t i = 0; i < mesh_stats_count(view); i++) {
		struct mesh_stats_series series = { .size = sizeof(series) };

		assert_int_equal(mesh_stats_series(view, i, &series), 0);
	}
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

static char last_line[1024];

static void keep_line(int32_t level, const char *line, void *user)
{
	(void)level;
	(void)user;
	snprintf(last_line, sizeof(last_line), "%s", line);
}

/* Opens with this directory, expects private memory, a reason in the log, and counters that work. */
static void expect_private(const char *dir, const char *because)
{
	struct mesh__log log = { .fn = keep_line, .level = MESH_LOG_WARN };
	struct mesh__stats_options opts = { .service = "shop", .dir = dir, .log = &log };
	struct mesh__stats *stats;
	mesh_stats_view *view;

	last_line[0] = '\0';
	assert_int_equal(mesh__stats_open(&opts, &stats, NULL), 0);
	assert_string_equal(mesh__stats_path(stats), "");
	if (!strstr(last_line, because))
		fail_msg("the log says: %s", last_line);
	mesh__counter_add(calls_of(stats, "users"), mesh__shard_mine(), 7);
	assert_int_equal(mesh__stats_view_self(stats, &view, NULL), 0);
	assert_int_equal(value_of(view, "mesh_calls_total", "users"), 7);
	assert_int_equal(value_of(view, "mesh_stats_private", NULL), 1);
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

static void without_a_place_for_the_file_counters_are_private(void **state)
{
	char path[128], target[128];

	(void)state;
	expect_private("/proc/no-such-thing", "cannot be made");
	snprintf(path, sizeof(path), "%s/file", test_dir);
	close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	expect_private(path, "is not a directory");
	snprintf(target, sizeof(target), "%s/target", test_dir);
	mkdir(target, 0700);
	unlink(path);
	assert_int_equal(symlink(target, path), 0);
	expect_private(path, "is not a directory");
	chmod(target, 0777);
	expect_private(target, "others may write");
	if (geteuid() == 0) {
		chmod(target, 0755);
		assert_int_equal(chown(target, 12345, 12345), 0);
		expect_private(target, "belongs to user 12345");
	}
}

static void a_file_size_limit_makes_counters_private_and_no_signal(void **state)
{
	struct rlimit before, none;

	(void)state;
	getrlimit(RLIMIT_FSIZE, &before);
	none = before;
	none.rlim_cur = 4096;
	setrlimit(RLIMIT_FSIZE, &none);
	expect_private(test_dir, "no room for the counters");
	setrlimit(RLIMIT_FSIZE, &before);
}

/* In a child, since it mounts: a file system of 48 KiB, where the first allocation already does not fit. */
static void a_full_file_system_makes_counters_private(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	if (pid == 0) {
		struct mesh__stats_options opts = { .service = "shop", .dir = test_dir };
		struct mesh__stats *stats;
		bool is_private;

		if (unshare(geteuid() ? CLONE_NEWUSER | CLONE_NEWNS : CLONE_NEWNS) || mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) ||
		    mount("none", test_dir, "tmpfs", 0, "size=48k,mode=0700"))
			_exit(77);
		if (mesh__stats_open(&opts, &stats, NULL))
			_exit(1);
		is_private = mesh__stats_path(stats)[0] == '\0';
		mesh__counter_add(calls_of(stats, "users"), 0, 1);
		is_private = is_private && mesh__counter_read(calls_of(stats, "users")) == 1;
		mesh__stats_close(stats);
		_exit(is_private ? 0 : 2);
	}
	waitpid(pid, &status, 0);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void switched_off_it_leaves_no_trace_and_counts(void **state)
{
	struct mesh__stats_options opts = { .service = "shop", .dir = test_dir, .is_off = true };
	struct mesh__stats *stats;
	char path[128];

	(void)state;
	assert_int_equal(mesh__stats_open(&opts, &stats, NULL), 0);
	mesh__counter_add(calls_of(stats, "users"), 0, 1);
	assert_int_equal(mesh__counter_read(calls_of(stats, "users")), 1);
	snprintf(path, sizeof(path), "%s/stats", test_dir);
	assert_int_equal(access(path, F_OK), -1);
	mesh__stats_close(stats);
}

static void two_meshes_in_one_process_have_files_of_their_own(void **state)
{
	struct mesh__stats *one = open_stats(), *two = open_stats();
	mesh_stats_view *view;
	char path[256];

	(void)state;
	assert_string_not_equal(mesh__stats_path(one), mesh__stats_path(two));
	mesh__counter_add(calls_of(one, "users"), 0, 1);
	mesh__counter_add(calls_of(two, "users"), 0, 2);
	view = open_view(mesh__stats_path(two));
	assert_int_equal(value_of(view, "mesh_calls_total", "users"), 2);
	mesh_stats_close(view);
	snprintf(path, sizeof(path), "%s", mesh__stats_path(one));
	mesh__stats_close(one);
	assert_int_equal(access(path, F_OK), -1);
	view = open_view(mesh__stats_path(two));
	mesh_stats_close(view);
	mesh__stats_close(two);
}

static void a_forked_child_disturbs_nothing(void **state)
{
	struct mesh__stats *stats = open_stats();
	mesh__cell *cell = calls_of(stats, "users");
	mesh_stats_view *view;
	struct mesh_stats_process process = { .size = sizeof(process) };
	int status;
	pid_t pid;

	(void)state;
	mesh__counter_add(cell, 0, 5);
	pid = fork();
	if (pid == 0) {
		struct mesh__stats_options opts = { .service = "child", .dir = test_dir };
		struct mesh__stats *own;

		/* A new series in the parent's segment cannot be had, and asking does not hang. */
		mesh__counter_add(calls_of(stats, "orders"), 0, 1);
		mesh__stats_close(stats);
		if (mesh__stats_open(&opts, &own, NULL) || !mesh__stats_path(own)[0])
			_exit(1);
		mesh__counter_add(calls_of(own, "users"), 0, 1);
		mesh__stats_close(own);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	mesh__counter_add(cell, 0, 5);
	view = open_view(mesh__stats_path(stats));
	assert_int_equal(value_of(view, "mesh_calls_total", "users"), 10);
	assert_int_equal(mesh_stats_find(view, 0, "mesh_calls_total", (const char *[]){ "service", "orders" }, 1), MESH_E_NOT_FOUND);
	assert_int_equal(mesh_stats_process(view, &process), 0);
	assert_int_equal(process.state, MESH_STATS_ALIVE);
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

static unsigned count_descriptors(void)
{
	DIR *names = opendir("/proc/self/fd");
	unsigned count = 0;

	while (readdir(names))
		count++;
	closedir(names);
	return count;
}

static void open_and_close_a_thousand_times_leaves_nothing(void **state)
{
	unsigned before = count_descriptors();
	char path[128];

	(void)state;
	for (int i = 0; i < 1000; i++) {
		struct mesh__stats *stats = open_stats();

		mesh__histogram_record(mesh__stats_histogram(stats, MESH__METRIC_CALL_LATENCY_NS, NULL), mesh__shard_mine(), 100);
		mesh__stats_close(stats);
	}
	assert_int_equal(count_descriptors(), before);
	snprintf(path, sizeof(path), "%s/stats", test_dir);
	assert_int_equal(rmdir(path), 0); /* empty */
}

static void every_failed_allocation_is_survived(void **state)
{
	struct mesh__stats_options opts = { .service = "shop", .dir = test_dir };
	bool has_failed = true;

	(void)state;
	for (int64_t nth = 0; has_failed; nth++) {
		struct mesh__stats *stats = NULL;
		mesh_stats_view *view = NULL;
		int result;

		mesh__memory_fail_after(nth);
		result = mesh__stats_open(&opts, &stats, NULL);
		if (result) {
			assert_int_equal(result, MESH_E_NOMEM);
			assert_null(stats);
		} else {
			mesh__counter_add(calls_of(stats, "users"), mesh__shard_mine(), 1);
			mesh__histogram_record(mesh__stats_histogram(stats, MESH__METRIC_CALL_LATENCY_NS, NULL), mesh__shard_mine(), 1);
			result = mesh__stats_view_self(stats, &view, NULL);
			assert_true(result == 0 || result == MESH_E_NOMEM);
		}
		mesh__memory_fail_after(-1);
		has_failed = result != 0 || nth < 12;
		mesh_stats_close(view);
		mesh__stats_close(stats);
		assert_true(nth < 1000);
	}
}

static mesh_stats_view *view_of(struct mesh__stats *stats)
{
	mesh_stats_view *view = NULL;

	assert_int_equal(mesh__stats_view_self(stats, &view, NULL), 0);
	return view;
}

/* The longest of everything, and more bundles than there is room for: the ID stays whole, and what was left out is counted. */
static void a_long_identity_is_kept_and_the_rest_cut(void **state)
{
	struct mesh__stats_options opts = { .service = "shop", .is_off = true };
	struct mesh_stats_identity identity = { .size = sizeof(identity) };
	struct mesh__stats_bundle bundles[100];
	struct mesh__stats *stats = NULL;
	char text[2049];
	mesh_stats_view *view;

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	for (int i = 0; i < 100; i++)
		bundles[i] = (struct mesh__stats_bundle){ i ? "a.example" : text, 1, 1, 1 };
	assert_int_equal(mesh__stats_open(&opts, &stats, NULL), 0); /* in private memory */
	mesh__stats_set_identity(stats, &(struct mesh__stats_identity){ MESH_STATS_IDENTITY_NONE, text, text, text, text, text, text, .bundles = bundles,
									.bundle_count = 100 });
	view = view_of(stats);
	assert_int_equal(mesh_stats_identity(view, &identity), 0);
	assert_int_equal(identity.state, MESH_STATS_IDENTITY_NONE);
	assert_int_equal(strlen(identity.spiffe_id), 2048);
	assert_int_equal(strlen(identity.last_failure), 255);
	assert_in_range(identity.bundle_count, 1, 32);
	assert_int_equal(identity.bundle_total, 100);
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_test_dir, remove_test_dir)
	const struct CMUnitTest tests[] = {
		TEST(concurrent_adds_lose_nothing),
		TEST(a_long_identity_is_kept_and_the_rest_cut),
		TEST(threads_that_make_the_same_series_share_it),
		TEST(shards_never_share_a_cache_line),
		TEST(labels_that_a_metric_does_not_use_make_no_series),
		TEST(labels_are_cut_not_refused),
		TEST(a_metric_of_the_other_kind_gives_a_cell_that_nobody_reads),
		TEST(what_does_not_fit_is_counted_together_and_said),
		TEST(a_segment_that_is_full_goes_on_counting),
		TEST(without_a_place_for_the_file_counters_are_private),
		TEST(a_file_size_limit_makes_counters_private_and_no_signal),
		TEST(a_full_file_system_makes_counters_private),
		TEST(switched_off_it_leaves_no_trace_and_counts),
		TEST(two_meshes_in_one_process_have_files_of_their_own),
		TEST(a_forked_child_disturbs_nothing),
		TEST(open_and_close_a_thousand_times_leaves_nothing),
		TEST(every_failed_allocation_is_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
