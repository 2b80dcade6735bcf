#include "test_stats_lib.h"

#include "base/clock.h"
#include "stats/identity_page.h"
#include "stats/layout.h"

#include <sys/file.h>
#include <time.h>

static void a_view_says_who_wrote_it(void **state)
{
	struct mesh__stats *stats = open_stats();
	struct mesh_stats_process process = { .size = sizeof(process) };
	mesh_stats_view *view;

	(void)state;
	mesh__stats_beat(stats, 0, mesh__clock_now_ns());
	view = open_view(mesh__stats_path(stats));
	assert_int_equal(mesh_stats_process(view, &process), 0);
	assert_string_equal(process.service, "shop");
	assert_string_equal(process.version, "0.1.0");
	assert_string_equal(process.path, mesh__stats_path(stats));
	assert_int_equal(process.pid, getpid());
	assert_true(process.start_ticks > 0);
	assert_int_equal(process.loop_count, 1);
	assert_int_equal(process.state, MESH_STATS_ALIVE);
	assert_true(process.beat_age_ns[0] < UINT64_C(60) * 1000000000);
	assert_true(process.beat_age_ns[1] == UINT64_MAX);
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

static void a_series_brings_its_own_description(void **state)
{
	struct mesh__stats *stats = open_stats();
	struct mesh__labels labels = { .service = "users", .endpoint = "10.0.0.4:9000" }; /* reason: not applicable */
	struct mesh_stats_series series = { .size = sizeof(series) };
	mesh_stats_view *view;
	int64_t number;

	(void)state;
	mesh__counter_add(mesh__stats_counter(stats, MESH__METRIC_ATTEMPTS_ENDED_TOTAL, &labels), 0, 42);
	view = open_view(mesh__stats_path(stats));
	number = mesh_stats_find(view, 0, "mesh_attempts_ended_total", NULL, 0);
	assert_int_equal(mesh_stats_series(view, (uint64_t)number, &series), 0);
	assert_string_equal(series.name, "mesh_attempts_ended_total");
	assert_string_equal(series.unit, "attempts");
	assert_true(strlen(series.help) > 10);
	assert_int_equal(series.type, MESH_STATS_COUNTER);
	assert_int_equal(series.value, 42);
	assert_int_equal(series.label_count, 2);
	assert_string_equal(series.label_names[0], "service");
	assert_string_equal(series.label_values[0], "users");
	assert_string_equal(series.label_names[1], "endpoint");
	assert_string_equal(series.label_values[1], "10.0.0.4:9000");
	assert_int_equal(mesh_stats_series(view, mesh_stats_count(view), &series), MESH_E_NOT_FOUND);
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

static void structures_of_an_older_caller_are_not_overrun(void **state)
{
	struct mesh__stats *stats = open_stats();
	struct {
		struct mesh_stats_series series;
		uint64_t behind;
	} old = { .behind = 77 };
	mesh_stats_view *view = open_view(mesh__stats_path(stats));

	(void)state;
	old.series.size = offsetof(struct mesh_stats_series, unit);
	old.series.unit = "untouched";
	assert_int_equal(mesh_stats_series(view, 0, &old.series), 0);
	assert_string_equal(old.series.unit, "untouched");
	assert_int_equal(old.series.size, offsetof(struct mesh_stats_series, unit));
	old.series.size = 0;
	assert_int_equal(mesh_stats_series(view, 0, &old.series), MESH_E_INVALID);
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

static void reading_again_finds_new_values_and_new_series_behind_the_old(void **state)
{
	struct mesh__stats *stats = open_stats();
	mesh__cell *cell = calls_of(stats, "users");
	mesh_stats_view *view = open_view(mesh__stats_path(stats));
	uint64_t before = mesh_stats_count(view);
	char name[64];

	(void)state;
	for (int i = 0; i < 3000; i++) { /* the file grows several times */
		snprintf(name, sizeof(name), "service-%d", i);
		mesh__counter_add(calls_of(stats, name), 0, (uint64_t)i);
	}
	mesh__counter_add(cell, 3, 9);
	assert_int_equal(value_of(view, "mesh_calls_total", "users"), 0);
	assert_int_equal(mesh_stats_read(view, NULL), 0);
	assert_int_equal(value_of(view, "mesh_calls_total", "users"), 9);
	assert_int_equal(value_of(view, "mesh_calls_total", "service-2999"), 2999);
	assert_int_equal(mesh_stats_count(view), before + 3000);
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

struct writing {
	struct mesh__stats *stats;
	atomic_bool must_stop;
};

static void *write_on(void *user)
{
	struct writing *writing = user;
	uint32_t shard = mesh__shard_mine();
	char name[64];

	for (uint64_t i = 0; !atomic_load(&writing->must_stop); i++) {
		snprintf(name, sizeof(name), "service-%llu", (unsigned long long)(i % 5000));
		mesh__counter_add(calls_of(writing->stats, name), shard, 1);
		mesh__histogram_record(mesh__stats_histogram(writing->stats, MESH__METRIC_CALL_LATENCY_NS,
							     &(struct mesh__labels){ .service = name }), shard, i * i * 31);
	}
	return NULL;
}

/* What a reader sees while things are made is whole: every series readable, values never going back. */
static void a_reader_beside_a_writer_sees_only_whole_things(void **state)
{
	struct writing writing = { .stats = open_stats() };
	mesh_stats_view *file = open_view(mesh__stats_path(writing.stats)), *self;
	int64_t before = 0;
	pthread_t thread;

	(void)state;
	assert_int_equal(mesh__stats_view_self(writing.stats, &self, NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, write_on, &writing), 0);
	for (int round = 0; round < 60; round++) {
		mesh_stats_view *view = round % 2 ? file : self;
		struct mesh_error err = MESH_ERROR_INIT;
		int64_t all = 0;

		if (mesh_stats_read(view, &err))
			fail_msg("%s", err.message);
		for (uint64_t i = 0; i < mesh_stats_count(view); i++) {
			struct mesh_stats_series series = { .size = sizeof(series) };

			assert_int_equal(mesh_stats_series(view, i, &series), 0);
			all += strcmp(series.name, "mesh_calls_total") == 0 ? series.value : 0;
		}
		assert_true(all >= before);
		before = all;
	}
	atomic_store(&writing.must_stop, true);
	pthread_join(thread, NULL);
	mesh_stats_close(file);
	mesh_stats_close(self);
	mesh__stats_close(writing.stats);
}

/* A child that counts to a number of its choice, says so, and waits to be killed. Gives its pid; *path is its segment. */
static pid_t start_writer(uint64_t count, char *path, size_t capacity)
{
	int pipe_fds[2];
	ssize_t got;
	pid_t pid;

	assert_int_equal(pipe(pipe_fds), 0);
	pid = fork();
	if (pid == 0) {
		struct mesh__stats *stats = open_stats();
		mesh__cell *cell = calls_of(stats, "users");
		struct mesh__histogram *h = mesh__stats_histogram(stats, MESH__METRIC_CALL_LATENCY_NS, NULL);

		for (uint64_t i = 0; i < count; i++) {
			mesh__counter_add(cell, mesh__shard_mine(), 1);
			mesh__histogram_record(h, mesh__shard_mine(), 1000 + i);
		}
		if (write(pipe_fds[1], mesh__stats_path(stats), strlen(mesh__stats_path(stats)) + 1) < 0)
			_exit(1);
		for (;;)
			pause();
	}
	close(pipe_fds[1]);
	got = read(pipe_fds[0], path, capacity);
	assert_true(got > 1);
	close(pipe_fds[0]);
	return pid;
}

static void finish(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void counters_of_a_killed_process_are_exact(void **state)
{
	char path[512];
	pid_t pid = start_writer(123457, path, sizeof(path));
	struct mesh_stats_process process = { .size = sizeof(process) };
	mesh_stats_view *view;

	(void)state;
	view = open_view(path);
	mesh_stats_process(view, &process);
	assert_int_equal(process.state, MESH_STATS_ALIVE);
	finish(pid);
	assert_int_equal(mesh_stats_read(view, NULL), 0);
	mesh_stats_process(view, &process);
	assert_int_equal(process.state, MESH_STATS_DEAD);
	assert_int_equal(process.pid, pid);
	mesh_stats_close(view);
	view = open_view(path);
	assert_int_equal(value_of(view, "mesh_calls_total", "users"), 123457);
	assert_int_equal(value_of(view, "mesh_call_latency_ns", NULL), 123457);
	mesh_stats_close(view);
}

/* Writes a word of a segment from outside, as time or another writer would have. */
static void poke(const char *path, size_t offset, uint64_t word)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	assert_int_equal(pwrite(fd, &word, sizeof(word), (off_t)offset), sizeof(word));
	close(fd);
}

static uint64_t peek(const char *path, size_t offset)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t word = 0;

	assert_int_equal(pread(fd, &word, sizeof(word), (off_t)offset), sizeof(word));
	close(fd);
	return word;
}

static void a_loop_that_does_not_turn_is_stuck(void **state)
{
	struct mesh__stats *stats = open_stats();
	struct mesh_stats_process process = { .size = sizeof(process) };
	mesh_stats_view *view;

	(void)state;
	mesh__stats_beat(stats, 0, mesh__clock_now_ns() - UINT64_C(6) * 1000000000);
	view = open_view(mesh__stats_path(stats));
	mesh_stats_process(view, &process);
	assert_int_equal(process.state, MESH_STATS_STUCK);
	mesh__stats_beat(stats, 0, mesh__clock_now_ns());
	mesh_stats_read(view, NULL);
	mesh_stats_process(view, &process);
	assert_int_equal(process.state, MESH_STATS_ALIVE);
	mesh__stats_close(stats);
	assert_int_equal(mesh_stats_read(view, NULL), 0);
	mesh_stats_process(view, &process);
	assert_int_equal(process.state, MESH_STATS_CLOSED);
	mesh_stats_close(view);
}

/* A held lock is not life: this one's process, by number and start time, does not exist. */
static void a_lock_that_outlived_its_process_is_seen_through(void **state)
{
	struct mesh__stats *stats = open_stats();
	struct mesh_stats_process process = { .size = sizeof(process) };
	mesh_stats_view *view;

	(void)state;
	poke(mesh__stats_path(stats), offsetof(struct mesh__layout_header, start_ticks), 1);
	view = open_view(mesh__stats_path(stats));
	mesh_stats_process(view, &process);
	assert_int_equal(process.state, MESH_STATS_DEAD);
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

static void a_list_shows_the_living_the_dead_and_the_unreadable(void **state)
{
	struct mesh__stats *stats = open_stats();
	struct mesh_stats_entry entry = { .size = sizeof(entry) };
	int seen[5] = { 0 };
	char path[512];
	mesh_stats_list *list;

	(void)state;
	finish(start_writer(1, path, sizeof(path)));
	snprintf(path, sizeof(path), "%s/stats/garbage", test_dir);
	close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	snprintf(path, sizeof(path), "%s/stats/fifo", test_dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(mesh_stats_list_new(test_dir, &list, NULL), 0);
	assert_int_equal(mesh_stats_list_count(list), 4);
	for (uint64_t i = 0; i < 4; i++) {
		assert_int_equal(mesh_stats_list_get(list, i, &entry), 0);
		seen[entry.state]++;
		if (entry.state == MESH_STATS_UNKNOWN)
			assert_true(strlen(entry.message) > 0);
		else
			assert_string_equal(entry.service, "shop");
	}
	assert_int_equal(seen[MESH_STATS_ALIVE], 1);
	assert_int_equal(seen[MESH_STATS_DEAD], 1);
	assert_int_equal(seen[MESH_STATS_UNKNOWN], 2);
	assert_int_equal(mesh_stats_list_get(list, 4, &entry), MESH_E_NOT_FOUND);
	mesh_stats_list_free(list);
	mesh__stats_close(stats);
}

static void a_directory_that_is_not_there_is_an_empty_list(void **state)
{
	mesh_stats_list *list;
	char path[128];

	(void)state;
	snprintf(path, sizeof(path), "%s/nowhere", test_dir);
	assert_int_equal(mesh_stats_list_new(path, &list, NULL), 0);
	assert_int_equal(mesh_stats_list_count(list), 0);
	mesh_stats_list_free(list);
	assert_int_equal(mesh_stats_reap(path, NULL), 0);
}

/* Moves a segment's start and heartbeats a minute and more into the past. */
static void make_old(const char *path)
{
	uint64_t start_ns = peek(path, offsetof(struct mesh__layout_header, start_ns));
	uint64_t age_ns = UINT64_C(61) * 1000000000;

	poke(path, offsetof(struct mesh__layout_header, start_ns), start_ns > age_ns ? start_ns - age_ns : 0);
}

static void only_what_is_dead_and_silent_is_reaped(void **state)
{
	struct mesh__stats *living = open_stats(), *next;
	char old[512], fresh[512], other[512], half_made[512];
	struct timespec long_ago[2] = { { .tv_sec = 1000 }, { .tv_sec = 1000 } };

	(void)state;
	finish(start_writer(1, old, sizeof(old)));
	finish(start_writer(1, fresh, sizeof(fresh)));
	snprintf(other, sizeof(other), "%s/stats/not-ours", test_dir);
	close(open(other, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	utimensat(AT_FDCWD, other, long_ago, 0);
	snprintf(half_made, sizeof(half_made), "%s/stats/.tmp.1.0", test_dir);
	close(open(half_made, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	make_old(old);
	make_old(mesh__stats_path(living));
	assert_int_equal(mesh_stats_reap(test_dir, NULL), 1);
	assert_int_equal(access(old, F_OK), -1);
	assert_int_equal(access(fresh, F_OK), 0);
	assert_int_equal(access(mesh__stats_path(living), F_OK), 0);
	assert_int_equal(access(other, F_OK), 0);
	assert_int_equal(access(half_made, F_OK), 0);
	/* A mesh that opens cleans up as well. */
	make_old(fresh);
	utimensat(AT_FDCWD, half_made, long_ago, 0);
	next = open_stats();
	assert_int_equal(access(fresh, F_OK), -1);
	assert_int_equal(access(half_made, F_OK), -1);
	mesh__stats_close(next);
	mesh__stats_close(living);
}

static void expect_error(const char *path, int code)
{
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_stats_view *view = (void *)1;
	int result = mesh_stats_open(path, &view, &err);

	if (result != code)
		fail_msg("%s: %s instead of %s (%s)", path, mesh_error_name(result), mesh_error_name(code), err.message);
	assert_null(view);
	assert_true(strstr(err.message, path) != NULL);
}

static void what_is_no_segment_is_refused_without_waiting(void **state)
{
	char path[512], link_path[512];
	struct mesh__stats *stats = open_stats();

	(void)state;
	snprintf(path, sizeof(path), "%s/x", test_dir);
	expect_error(path, MESH_E_NOT_FOUND);
	assert_int_equal(mkfifo(path, 0600), 0);
	expect_error(path, MESH_E_NOT_PRIVATE);
	unlink(path);
	assert_int_equal(mkdir(path, 0700), 0);
	expect_error(path, MESH_E_NOT_PRIVATE);
	rmdir(path);
	snprintf(link_path, sizeof(link_path), "%s/link", test_dir);
	assert_int_equal(symlink(mesh__stats_path(stats), link_path), 0);
	expect_error(link_path, MESH_E_NOT_PRIVATE);
	expect_error("/dev/zero", MESH_E_NOT_PRIVATE);
	close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	expect_error(path, MESH_E_CORRUPT);
	mesh__stats_close(stats);
}

static void a_segment_of_another_user_is_refused(void **state)
{
	static struct mesh__stats *stats;
	int status;
	pid_t pid;

	(void)state;
	if (geteuid() != 0)
		skip();
	stats = open_stats();
	chmod(test_dir, 0755);
	pid = fork();
	if (pid == 0) {
		char path[512], stats_dir[128];
		mesh_stats_view *view;
		mesh_stats_list *list;

		/* Even one that may be read by its mode. */
		snprintf(path, sizeof(path), "%s", mesh__stats_path(stats));
		snprintf(stats_dir, sizeof(stats_dir), "%s/stats", test_dir);
		chmod(path, 0644);
		chmod(stats_dir, 0755);
		if (setresuid(12345, 12345, 12345))
			_exit(1);
		if (mesh_stats_open(path, &view, NULL) != MESH_E_NOT_PRIVATE)
			_exit(2);
		_exit(mesh_stats_list_new(test_dir, &list, NULL) == MESH_E_NOT_PRIVATE ? 0 : 3);
	}
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	mesh__stats_close(stats);
}

static void other_layouts_are_named_not_guessed(void **state)
{
	struct mesh__stats *stats = open_stats();
	const char *path = mesh__stats_path(stats);
	uint64_t word = peek(path, 8);

	(void)state;
	poke(path, 8, (word & ~(UINT64_C(0xffff) << 32)) | UINT64_C(2) << 32);
	expect_error(path, MESH_E_VERSION);
	poke(path, 8, (word & ~UINT64_C(0xffffffff)) | 0x04030201);
	expect_error(path, MESH_E_VERSION);
	poke(path, 8, word | UINT64_C(7) << 48); /* minor: only adds */
	mesh_stats_close(open_view(path));
	mesh__stats_close(stats);
}

static void a_file_that_was_cut_off_is_an_error_and_no_signal(void **state)
{
	struct mesh__stats *stats = open_stats();
	char path[512];
	pid_t pid = start_writer(1, path, sizeof(path));
	mesh_stats_view *view = open_view(path);
	const long sizes[] = { 65536 - 1, 40960, 8192, 8191, 513, 8, 0 };

	(void)state;
	finish(pid);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		assert_int_equal(truncate(path, sizes[i]), 0);
		expect_error(path, MESH_E_CORRUPT);
		assert_int_equal(mesh_stats_read(view, NULL), MESH_E_CORRUPT);
		assert_int_equal(mesh_stats_count(view), 0);
	}
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

static void strangers_texts_can_be_printed(void **state)
{
	char text[64];

	(void)state;
	assert_int_equal(mesh_stats_escape(text, sizeof(text), "a\x1b[31m\n"), 4 + 1 + 4 + 4);
	assert_string_equal(text, "a\\x1b[31m\\x0a");
	assert_int_equal(mesh_stats_escape(text, 3, "abcdef"), 6);
	assert_string_equal(text, "ab");
	assert_int_equal(mesh_stats_escape(NULL, 0, "abc"), 3);
}

static void a_view_of_the_parent_is_refused_in_a_child(void **state)
{
	static struct mesh__stats *stats; /* a leak checker in the child, which leaves it alone, still finds it */
	mesh_stats_view *file, *self;
	int status;
	pid_t pid;

	(void)state;
	stats = open_stats();
	file = open_view(mesh__stats_path(stats));
	assert_int_equal(mesh__stats_view_self(stats, &self, NULL), 0);
	pid = fork();
	if (pid == 0) {
		if (mesh_stats_read(file, NULL) != MESH_E_FORKED || mesh_stats_read(self, NULL) != MESH_E_FORKED)
			_exit(1);
		mesh_stats_close(file);
		mesh_stats_close(self);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	assert_int_equal(mesh_stats_read(file, NULL), 0);
	mesh_stats_close(file);
	mesh_stats_close(self);
	mesh__stats_close(stats);
}

static struct mesh__stats_identity identity_until(int64_t not_after_s)
{
	static const struct mesh__stats_bundle bundles[] = { { "mesh.local", 2, 2000000000, 2100000000 }, { "other.example", 0, 0, 0 } };

	return (struct mesh__stats_identity){ .state = MESH_STATS_IDENTITY_OK, .spiffe_id = "spiffe://mesh.local/ns/default/sa/shop",
					      .trust_domain = "mesh.local", .source = "local:", .serial = "0a1b", .not_after_s = not_after_s,
					      .issuer_not_after_s = 1900000000, .generation = 3, .bundles = bundles, .bundle_count = 2 };
}

static void an_identity_is_read_as_it_was_written(void **state)
{
	struct mesh__stats *stats = open_stats();
	struct mesh__stats_identity written = identity_until(4000000000);
	struct mesh_stats_identity identity = { .size = sizeof(identity) };
	struct mesh_stats_bundle bundle = { .size = sizeof(bundle) };
	mesh_stats_view *view = open_view(mesh__stats_path(stats));

	(void)state;
	assert_int_equal(mesh_stats_identity(view, &identity), MESH_E_NOT_FOUND);
	mesh__stats_set_identity(stats, &written);
	assert_int_equal(mesh_stats_read(view, NULL), 0);
	assert_int_equal(mesh_stats_identity(view, &identity), 0);
	assert_int_equal(identity.state, MESH_STATS_IDENTITY_OK);
	assert_string_equal(identity.spiffe_id, written.spiffe_id);
	assert_string_equal(identity.source, "local:");
	assert_string_equal(identity.serial, "0a1b");
	assert_string_equal(identity.issuer, "");
	assert_int_equal(identity.generation, 3);
	assert_int_equal(identity.issuer_not_after_s, 1900000000);
	assert_int_equal(identity.bundle_count, 2);
	assert_int_equal(mesh_stats_identity_bundle(view, 0, &bundle), 0);
	assert_string_equal(bundle.trust_domain, "mesh.local");
	assert_int_equal(bundle.certificate_count, 2);
	assert_int_equal(bundle.earliest_not_after_s, 2000000000);
	assert_int_equal(bundle.latest_not_after_s, 2100000000);
	assert_int_equal(mesh_stats_identity_bundle(view, 1, &bundle), 0);
	assert_string_equal(bundle.trust_domain, "other.example");
	assert_int_equal(mesh_stats_identity_bundle(view, 2, &bundle), MESH_E_NOT_FOUND);
	identity.size = 0;
	assert_int_equal(mesh_stats_identity(view, &identity), MESH_E_INVALID);
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

/* Its writer may hang and not know. */
static void an_identity_expires_by_the_readers_clock(void **state)
{
	struct mesh__stats *stats = open_stats();
	struct mesh__stats_identity written = identity_until(1000000000);
	struct mesh_stats_identity identity = { .size = sizeof(identity) };
	mesh_stats_view *view;

	(void)state;
	mesh__stats_set_identity(stats, &written);
	view = open_view(mesh__stats_path(stats));
	assert_int_equal(mesh_stats_identity(view, &identity), 0);
	assert_int_equal(identity.state, MESH_STATS_IDENTITY_EXPIRED);
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

struct changing {
	struct mesh__stats *stats;
	atomic_bool must_stop;
};

static void *change_identity(void *user)
{
	struct changing *changing = user;
	char text[201];

	for (uint64_t i = 0; !atomic_load(&changing->must_stop); i++) {
		struct mesh__stats_identity identity = identity_until(4000000000);

		memset(text, 'a' + (int)(i % 26), i % 2 ? 200 : 20);
		text[i % 2 ? 200 : 20] = '\0';
		identity.spiffe_id = identity.last_failure = text;
		identity.generation = i % 26;
		mesh__stats_set_identity(changing->stats, &identity);
	}
	return NULL;
}

static void an_identity_that_changes_is_never_read_in_parts(void **state)
{
	struct changing changing = { .stats = open_stats() };
	struct mesh_stats_identity identity = { .size = sizeof(identity) };
	mesh_stats_view *view = open_view(mesh__stats_path(changing.stats));
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, change_identity, &changing), 0);
	for (int i = 0; i < 3000; i++) {
		assert_int_equal(mesh_stats_read(view, NULL), 0);
		if (mesh_stats_identity(view, &identity) != 0)
			continue;
		assert_string_equal(identity.spiffe_id, identity.last_failure);
		assert_int_equal(identity.spiffe_id[0], 'a' + (int)identity.generation);
		assert_int_equal(strspn(identity.spiffe_id, (char[]){ identity.spiffe_id[0], '\0' }), strlen(identity.spiffe_id));
	}
	atomic_store(&changing.must_stop, true);
	pthread_join(thread, NULL);
	mesh_stats_close(view);
	mesh__stats_close(changing.stats);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_test_dir, remove_test_dir)
	const struct CMUnitTest tests[] = {
		TEST(a_view_says_who_wrote_it),
		TEST(an_identity_is_read_as_it_was_written),
		TEST(an_identity_expires_by_the_readers_clock),
		TEST(an_identity_that_changes_is_never_read_in_parts),
		TEST(a_series_brings_its_own_description),
		TEST(structures_of_an_older_caller_are_not_overrun),
		TEST(reading_again_finds_new_values_and_new_series_behind_the_old),
		TEST(a_reader_beside_a_writer_sees_only_whole_things),
		TEST(counters_of_a_killed_process_are_exact),
		TEST(a_loop_that_does_not_turn_is_stuck),
		TEST(a_lock_that_outlived_its_process_is_seen_through),
		TEST(a_list_shows_the_living_the_dead_and_the_unreadable),
		TEST(a_directory_that_is_not_there_is_an_empty_list),
		TEST(only_what_is_dead_and_silent_is_reaped),
		TEST(what_is_no_segment_is_refused_without_waiting),
		TEST(a_segment_of_another_user_is_refused),
		TEST(other_layouts_are_named_not_guessed),
		TEST(a_file_that_was_cut_off_is_an_error_and_no_signal),
		TEST(strangers_texts_can_be_printed),
		TEST(a_view_of_the_parent_is_refused_in_a_child),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
