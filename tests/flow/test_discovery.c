/* Names and endpoints with real files, real locks and real processes. */
#include "../lib/mesh_test.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>

static void answer_service(mesh_request *request, void *user)
{
	struct mesh_reply reply = { .size = sizeof(reply), .body = user, .body_len = strlen(user) };

	mesh_request_reply(request, &reply);
}

static mesh_server *serve_as(mesh *m, const char *service, const char *listen, const char *says)
{
	struct mesh_server_options opts = { .size = sizeof(opts), .service = service, .listen = listen };
	mesh_server *server;

	assert_int_equal(mesh_server_new(m, &opts, &server, NULL), 0);
	add_handler(server, "*", 0, answer_service, (void *)(uintptr_t)says);
	start_server(server);
	return server;
}

struct listed {
	int count, draining;
	uint64_t first_seen_ns;
	char addresses[512];
};

static void list_one(const struct mesh_endpoint_info *info, void *user)
{
	struct listed *listed = user;
	size_t len = strlen(listed->addresses);

	listed->count += !info->is_draining;
	listed->draining += info->is_draining;
	if (!listed->first_seen_ns || info->first_seen_ns < listed->first_seen_ns)
		listed->first_seen_ns = info->first_seen_ns;
	snprintf(listed->addresses + len, sizeof(listed->addresses) - len, "%s ", info->address);
}

static struct listed list(mesh_client *client)
{
	struct listed listed = { 0 };

	mesh_endpoints_list(client, list_one, &listed);
	return listed;
}

static int call_once(mesh_client *client, char *said, size_t capacity, struct mesh_error *err)
{
	struct mesh_call_options opts = http_call("/");
	const char *body;
	mesh_call *done;
	uint64_t len;
	int rc;

	*err = (struct mesh_error)MESH_ERROR_INIT;
	opts.flags = MESH_CALL_FAIL_FAST;
	rc = mesh_client_call(client, &opts, &done, err);
	body = done ? mesh_call_body(done, &len) : NULL;
	snprintf(said, capacity, "%.*s", body ? (int)len : 0, body ? body : "");
	mesh_call_unref(done);
	return rc;
}

/* ---- local: ---- */

#ifndef TEST_UNDER_THREAD_SANITIZER
/* A process that serves `users` until it is killed; its pid, after it can be found. */
static pid_t start_process(void)
{
	int ready[2];
	pid_t pid;
	char byte;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		mesh *m = OPEN_MESH("users");

		alarm(60);
		serve_as(m, "users", NULL, "process");
		if (write(ready[1], "x", 1) == 1)
			for (;;)
				pause();
		_exit(1);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void processes_find_each_other_and_a_killed_one_is_gone_at_once(void **state)
{
	pid_t first = start_process(), second = start_process();
	mesh *m = OPEN_MESH("caller");
	mesh_client *client = new_client(m, "users");
	struct mesh_error err;
	char said[32];

	(void)state;
	WAIT_FOR(list(client).count == 2);
	for (int i = 0; i < 20; i++)
		assert_int_equal(call_once(client, said, sizeof(said), &err), 0);
	assert_string_equal(said, "process");
	kill(first, SIGKILL);
	waitpid(first, NULL, 0);
	WAIT_FOR(list(client).count == 1);
	for (int i = 0; i < 20; i++)
		assert_int_equal(call_once(client, said, sizeof(said), &err), 0);
	kill(second, SIGKILL);
	waitpid(second, NULL, 0);
	WAIT_FOR(list(client).count == 0);
	assert_int_not_equal(call_once(client, said, sizeof(said), &err), 0);
	assert_true(err.code == MESH_E_NO_NAME || err.code == MESH_E_NO_ENDPOINT);
	assert_non_null(strstr(err.message, "users"));
	mesh_client_free(client);
	mesh_close(m);
}
#endif

static void a_call_waits_for_a_server_that_is_about_to_start(void **state)
{
	mesh *m = OPEN_MESH("caller", "resolve.timeout", "20s", "timeout", "20s");
	mesh_client *client = new_client(m, "late");
	struct mesh_call_options opts = http_call("/");
	mesh_call *call;
	mesh_server *server;

	(void)state;
	assert_int_equal(mesh_client_start(client, &opts, &call, NULL), 0);
	assert_int_equal(mesh_call_wait(call, 100, NULL), MESH_E_AGAIN);
	server = serve_as(m, "late", NULL, "late");
	assert_int_equal(mesh_call_wait(call, 20000, NULL), 0);
	mesh_call_unref(call);
	mesh_server_free(server);
	mesh_client_free(client);
	mesh_close(m);
}

/* Entries of strangers: garbage, a symbolic link, a FIFO, an entry without its lock, one for another service. */
static void what_others_put_into_the_registry_changes_nothing(void **state)
{
	static const char lie[] = "{\"version\": 1, \"service\": \"orders\", \"address\": \"127.0.0.1:9\"}";
	mesh *m = OPEN_MESH("caller");
	mesh_server *server = serve_as(m, "users", NULL, "true");
	mesh_client *client = new_client(m, "users");
	struct mesh_error err;
	char path[256], said[32];
	int held;

	(void)state;
	WAIT_FOR(list(client).count == 1);
	snprintf(path, sizeof(path), "%s/registry/users/garbage", test_dir);
	held = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(held >= 0 && flock(held, LOCK_EX) == 0 && write(held, "\x1b[2J{{{{", 8) == 8);
	snprintf(path, sizeof(path), "%s/registry/users/link", test_dir);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	snprintf(path, sizeof(path), "%s/registry/users/fifo", test_dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	snprintf(path, sizeof(path), "%s/registry/users/other", test_dir);
	{
		int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

		assert_true(fd >= 0 && flock(fd, LOCK_EX) == 0 && write(fd, lie, sizeof(lie) - 1) > 0);
		poll(NULL, 0, 200);
		for (int i = 0; i < 20; i++) {
			assert_int_equal(call_once(client, said, sizeof(said), &err), 0);
			assert_string_equal(said, "true");
		}
		assert_int_equal(list(client).count, 1);
		close(fd);
	}
	close(held);
	mesh_client_free(client);
	mesh_server_free(server);
	mesh_close(m);
}

static _Atomic bool stop_sweeping;

static void *sweep_directory(void *path)
{
	unsigned int seed = 1;

	while (!atomic_load(&stop_sweeping)) {
		/* Never in step with who makes it, or a machine with one core has the two take turns for ever. */
		const struct timespec pause = { 0, 1000 + rand_r(&seed) % 200000 };

		rmdir(path);
		nanosleep(&pause, NULL);
	}
	return NULL;
}

/* Clients that leave remove an empty directory of a service, which may be just when its server starts. */
static void a_server_can_start_while_its_directory_comes_and_goes(void **state)
{
	mesh *m = OPEN_MESH("flap");
	pthread_t thread;
	char path[128];

	(void)state;
	snprintf(path, sizeof(path), "%s/registry/flap", test_dir);
	atomic_store(&stop_sweeping, false);
	pthread_create(&thread, NULL, sweep_directory, path);
	for (int i = 0; i < (getenv("MESH_TEST_FEWER") ? 200 : 2000); i++)
		mesh_server_free(serve_as(m, "flap", NULL, "x"));
	atomic_store(&stop_sweeping, true);
	pthread_join(thread, NULL);
	mesh_close(m);
}

static void whoever_leaves_last_leaves_no_directory_behind(void **state)
{
	mesh *m = OPEN_MESH("caller", "stats", "off"), *second = OPEN_MESH("caller");
	mesh_server *one = serve_as(m, "leaving", NULL, "x"), *two = serve_as(second, "leaving", NULL, "x");
	mesh_client *nobody = new_client(m, "nobody");
	char path[128];

	(void)state;
	snprintf(path, sizeof(path), "%s/registry/nobody", test_dir);
	WAIT_FOR(access(path, F_OK) == 0);
	mesh_client_free(nobody);
	mesh_server_free(one);
	mesh_close(m);
	assert_int_equal(access(path, F_OK), -1);
	snprintf(path, sizeof(path), "%s/registry/leaving", test_dir);
	assert_int_equal(access(path, F_OK), 0);
	mesh_close(second);
	assert_int_equal(access(path, F_OK), -1);
	mesh_server_free(two);
}

/* A login session that ends, or who tidies up: the registry goes away under living servers, and they come back. */
static void servers_return_to_a_registry_that_was_removed(void **state)
{
	mesh *m = OPEN_MESH("caller");
	mesh_server *server = serve_as(m, "users", NULL, "here"), *gone = serve_as(m, "gone", NULL, "x");
	mesh_client *client = new_client(m, "users"), *other = new_client(m, "gone");
	struct mesh_error err;
	char path[128], said[32];

	(void)state;
	WAIT_FOR(list(client).count == 1 && list(other).count == 1);
	snprintf(path, sizeof(path), "%s/registry", test_dir);
	remove_tree(path);
	mesh_server_free(gone);
	WAIT_FOR(list(other).count == 0);
	WAIT_FOR(list(client).count == 1 && call_once(client, said, sizeof(said), &err) == 0);
	assert_string_equal(said, "here");
	mesh_server_free(server); /* and leave it as always */
	WAIT_FOR(list(client).count == 0);
	assert_int_equal(list(other).count, 0);
	mesh_client_free(client);
	mesh_client_free(other);
	mesh_close(m);
}

static void a_registry_that_is_not_private_is_refused(void **state)
{
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	struct mesh_setting setting;
	char path[128];
	mesh *m = NULL;
	int rc;

	(void)state;
	snprintf(path, sizeof(path), "%s/open", test_dir);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(chmod(path, 0777), 0);
	setting = (struct mesh_setting){ "runtime.dir", path };
	opts.service = "users";
	opts.settings = &setting;
	opts.setting_count = 1;
	rc = mesh_open(&opts, &m, &err);
	if (rc == 0) {
		struct mesh_server_options server_opts = { .size = sizeof(server_opts) };
		mesh_server *server;

		assert_int_equal(mesh_server_new(m, &server_opts, &server, &err), 0);
		rc = mesh_server_start(server, &err);
		mesh_server_free(server);
		mesh_close(m);
	}
	assert_int_equal(rc, MESH_E_NOT_PRIVATE);
	assert_non_null(strstr(err.message, path));
}

/* ---- static: ---- */

static void a_static_list_needs_no_file(void **state)
{
	mesh *backend = OPEN_MESH("users");
	mesh_server *server = serve_as(backend, "users", NULL, "here");
	char uri[128], said[32];
	struct mesh_error err;
	mesh_client *client;
	mesh *m;

	(void)state;
	snprintf(uri, sizeof(uri), "static:users=%s,127.0.0.1:1;orders=127.0.0.1:1", mesh_server_address(server));
	m = OPEN_MESH("caller", "discovery", uri);
	client = new_client(m, "users");
	for (int i = 0; i < 20; i++) /* the endpoint that refuses is tried, and the call goes elsewhere */
		assert_int_equal(call_once(client, said, sizeof(said), &err), 0);
	assert_string_equal(said, "here");
	mesh_client_free(client);
	client = new_client(m, "orders");
	assert_int_equal(call_once(client, said, sizeof(said), &err), MESH_E_CONNECT);
	assert_non_null(strstr(err.message, "127.0.0.1:1"));
	assert_non_null(strstr(err.message, "refused"));
	assert_int_equal(err.in_doubt, 0);
	assert_true(err.attempts >= 1);
	mesh_client_free(client);
	mesh_close(m);
	mesh_server_free(server);
	mesh_close(backend);
}

static void wrong_sources_are_refused_with_what_is_wrong(void **state)
{
	static const char *const bad[][2] = {
		{ "statik:users=127.0.0.1:1", "statik" },
		{ "static:users", "static" },
		{ "static:users=localhost:1", "localhost:1" },
		{ "static:users=127.0.0.1:99999", "127.0.0.1:99999" },
		{ "static:=127.0.0.1:1", "static" },
		{ "static:users=127.0.0.1:1,127.0.0.1:0", "\"127.0.0.1:0\" of users" },
		{ "static:users=127.0.0.1:1;orders=127.0.0.1:2;users=127.0.0.1:3", "users is named twice, again in \"users=127.0.0.1:3\"" },
		{ "file:", "file" },
		{ "local: nonsense", "nonsense" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct mesh_setting setting = { "discovery", bad[i][0] };
		struct mesh_options opts = MESH_OPTIONS_INIT;
		struct mesh_error err = MESH_ERROR_INIT;
		mesh *m = NULL;

		opts.service = "users";
		opts.settings = &setting;
		opts.setting_count = 1;
		if (mesh_open(&opts, &m, &err) != MESH_E_OPTION)
			fail_msg("%s was taken", bad[i][0]);
		if (!strstr(err.message, bad[i][1]))
			fail_msg("%s: \"%s\" does not say what is wrong", bad[i][0], err.message);
		assert_null(m);
	}
}

static void wrong_sources_and_names_are_told_with_all_other_problems(void **state)
{
	static const struct mesh_setting settings[] = {
		{ "timeout", "never" }, { "service", "a b" }, { "discovery", "local: static:users" }, { "discovery@orders", "statik:" },
		{ "attempts", "99" },
	};
	static const char *const wanted[] = { "timeout = \"never\"", "\"a b\" is no service name", "\"users\" is not NAME", "\"statik:\" is no source", "attempts" };
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	mesh *m = NULL;

	(void)state;
	opts.settings = settings;
	opts.setting_count = sizeof(settings) / sizeof(settings[0]);
	assert_int_equal(mesh_open(&opts, &m, &err), MESH_E_OPTION);
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		if (!strstr(err.message, wanted[i]))
			fail_msg("\"%s\" does not say %s", err.message, wanted[i]);
}

/* ---- file: ---- */

static char file_path[128];

static void replace_file(const char *text)
{
	char other[160];
	FILE *file;

	snprintf(other, sizeof(other), "%s.new", file_path);
	file = fopen(other, "w");
	fputs(text, file);
	fclose(file);
	assert_int_equal(rename(other, file_path), 0);
}

static void a_file_is_followed_and_a_broken_one_changes_nothing(void **state)
{
	mesh *backend = OPEN_MESH("backend");
	mesh_server *a = serve_as(backend, "users", NULL, "a"), *b = serve_as(backend, "users", NULL, "b");
	char uri[160], text[512], said[32];
	struct mesh_error err;
	mesh_client *client;
	uint64_t first_seen_ns;
	mesh *m;

	(void)state;
	snprintf(file_path, sizeof(file_path), "%s/endpoints.json", test_dir);
	snprintf(text, sizeof(text), "{\"services\": {\"users\": [\"%s\"]}}", mesh_server_address(a));
	replace_file(text);
	snprintf(uri, sizeof(uri), "file:%s", file_path);
	m = OPEN_MESH("caller", "discovery", uri);
	client = new_client(m, "users");
	WAIT_FOR(list(client).count == 1);
	if (call_once(client, said, sizeof(said), &err))
		fail_msg("%s", err.message);
	assert_string_equal(said, "a");
	first_seen_ns = list(client).first_seen_ns;

	/* One more: the first keeps its history. */
	snprintf(text, sizeof(text), "{\"services\": {\"users\": [\"%s\", \"%s\"]}}", mesh_server_address(a), mesh_server_address(b));
	replace_file(text);
	WAIT_FOR(list(client).count == 2);
	assert_true(list(client).first_seen_ns == first_seen_ns);

	/* Broken, empty, gone: the last good set stays, and the errors are counted. */
	replace_file("{\"services\": {\"users\": [\"nonsense\"]}}");
	WAIT_FOR(COUNTED(m, "mesh_discovery_errors_total") > 0);
	replace_file("");
	poll(NULL, 0, 100);
	assert_int_equal(unlink(file_path), 0);
	poll(NULL, 0, 100);
	assert_int_equal(list(client).count, 2);
	assert_int_equal(call_once(client, said, sizeof(said), &err), 0);

	/* Written in place, as an editor may do. */
	{
		FILE *file = fopen(file_path, "w");

		fprintf(file, "{\"services\": {\"users\": [\"%s\"]}}", mesh_server_address(b));
		fclose(file);
	}
	WAIT_FOR(list(client).count == 1);
	assert_int_equal(call_once(client, said, sizeof(said), &err), 0);
	assert_string_equal(said, "b");

	/* The service leaves the file. */
	replace_file("{\"services\": {\"others\": [\"127.0.0.1:1\"]}}");
	WAIT_FOR(list(client).count == 0);
	assert_int_not_equal(call_once(client, said, sizeof(said), &err), 0);
	assert_non_null(strstr(err.message, "users"));
	mesh_client_free(client);
	mesh_close(m);
	mesh_server_free(a);
	mesh_server_free(b);
	mesh_close(backend);
}

/* A copy that keeps times, or two changes within one tick of the clock: same inode, size and time, another text. */
static void a_file_changed_in_place_is_read_though_its_time_is_the_same(void **state)
{
	char uri[160];
	struct stat info;
	mesh_client *client;
	FILE *file;
	mesh *m;

	(void)state;
	snprintf(file_path, sizeof(file_path), "%s/in-place.json", test_dir);
	replace_file("{\"services\": {\"users\": [\"10.0.0.1:1\"]}}");
	snprintf(uri, sizeof(uri), "file:%s", file_path);
	m = OPEN_MESH("caller", "discovery", uri);
	client = new_client(m, "users");
	WAIT_FOR(strstr(list(client).addresses, "10.0.0.1:1"));
	assert_int_equal(stat(file_path, &info), 0);
	file = fopen(file_path, "r+");
	fputs("{\"services\": {\"users\": [\"10.0.0.2:1\"]}}", file);
	fflush(file);
	assert_int_equal(futimens(fileno(file), (struct timespec[]){ info.st_atim, info.st_mtim }), 0);
	fclose(file);
	WAIT_FOR(strstr(list(client).addresses, "10.0.0.2:1"));
	mesh_client_free(client);
	mesh_close(m);
}

static void a_deadline_in_the_name_says_what_is_known_of_it(void **state)
{
	mesh *m = OPEN_MESH("caller");
	mesh_client *client = new_client(m, "nobody");
	struct mesh_call_options opts = http_call("/");
	struct mesh_error err = MESH_ERROR_INIT;

	(void)state;
	opts.timeout_ms = 50;
	assert_int_equal(mesh_client_call(client, &opts, NULL, &err), MESH_E_DEADLINE);
	assert_non_null(strstr(err.message, "nobody"));
	assert_non_null(strstr(err.message, "local: no server of it"));
	assert_int_equal(err.stage, MESH_STAGE_RESOLVE);
	assert_int_equal(err.in_doubt, 0);
	assert_int_equal(err.retry_safe, 1);
	mesh_client_free(client);
	mesh_close(m);
}

static void the_first_source_that_knows_a_name_wins(void **state)
{
	mesh *backend = OPEN_MESH("backend");
	mesh_server *local = serve_as(backend, "users", NULL, "local"), *other = serve_as(backend, "other", NULL, "static");
	char uri[160], said[32];
	struct mesh_error err;
	mesh_client *client;
	mesh *m;

	(void)state;
	snprintf(uri, sizeof(uri), "static:users=%s local:", mesh_server_address(other));
	m = OPEN_MESH("caller", "discovery", uri, "peer.id@users", "spiffe://mesh.local/ns/default/sa/other");
	client = new_client(m, "users");
	assert_int_equal(call_once(client, said, sizeof(said), &err), 0);
	assert_string_equal(said, "static");
	mesh_client_free(client);
	client = new_client(m, "other"); /* static: does not know it; local: does */
	assert_int_equal(call_once(client, said, sizeof(said), &err), 0);
	assert_string_equal(said, "static");
	mesh_client_free(client);
	mesh_close(m);
	mesh_server_free(local);
	mesh_server_free(other);
	mesh_close(backend);
}

/* ---- pick and report ---- */

static void *pick_many(void *user)
{
	struct mesh_pick pick = { .size = sizeof(pick) };
	intptr_t failed = 0;
	char address[64];

	for (int i = 0; i < 20000; i++) {
		failed += mesh_pick(user, &pick, NULL) != 0;
		mesh_pick_address(&pick, address);
		failed += strncmp(address, "10.0.0.", 7) != 0;
		failed += mesh_report(user, &pick, i % 10 ? MESH_OUTCOME_OK : MESH_OUTCOME_FAILED, 1000) != 0;
	}
	return (void *)failed;
}

static void picks_come_from_any_thread_and_are_spread_and_counted(void **state)
{
	mesh *m = OPEN_MESH("caller", "discovery", "static:db=10.0.0.1:5432,10.0.0.2:5432,10.0.0.3:5432");
	mesh_client *client = new_client(m, "db");
	struct mesh_pick held[300] = { { 0 } }, bad = { .size = sizeof(bad) };
	int seen[4] = { 0 };
	pthread_t threads[10];
	void *failed;

	(void)state;
	WAIT_FOR(list(client).count == 3); /* a pick never waits for a name */
	for (int i = 0; i < 10; i++)
		pthread_create(&threads[i], NULL, pick_many, client);
	for (int i = 0; i < 10; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	WAIT_FOR(COUNTED(m, "mesh_pick_reports_total", "service", "db") == 200000);
	for (int i = 0; i < 300; i++) { /* what is held is load: the least loaded of two wins */
		held[i].size = sizeof(held[i]);
		assert_int_equal(mesh_pick(client, &held[i], NULL), 0);
		assert_int_equal(held[i].family, 4);
		assert_int_equal(held[i].port, 5432);
		seen[held[i].ip[3]]++;
	}
	for (int i = 1; i <= 3; i++)
		assert_in_range(seen[i], 95, 105);
	for (int i = 0; i < 300; i++)
		assert_int_equal(mesh_report(client, &held[i], MESH_OUTCOME_OK, 1), 0);
	assert_int_equal(mesh_report(client, &held[0], MESH_OUTCOME_OK, 1), MESH_E_INVALID);
	assert_int_equal(mesh_report(client, &bad, MESH_OUTCOME_OK, 1), MESH_E_INVALID);
	mesh_client_free(client);
	mesh_close(m);
}

static void picking_an_unknown_name_says_so(void **state)
{
	mesh *m = OPEN_MESH("caller");
	mesh_client *client = new_client(m, "nobody");
	struct mesh_pick pick = { .size = sizeof(pick) };
	struct mesh_error err = MESH_ERROR_INIT;

	(void)state;
	assert_int_equal(mesh_pick(client, &pick, &err), MESH_E_NO_NAME);
	assert_non_null(strstr(err.message, "nobody"));
	pick.size = 4;
	assert_int_equal(mesh_pick(client, &pick, &err), MESH_E_VERSION);
	mesh_client_free(client);
	mesh_close(m);
}

struct asking {
	mesh_client *client;
	int listed, draining, inner;
};

static void count_inner(const struct mesh_endpoint_info *info, void *user)
{
	(void)info;
	++*(int *)user;
}

static void ask_again_inside(const struct mesh_endpoint_info *info, void *user)
{
	struct asking *asking = user;
	struct mesh_pick pick = { .size = sizeof(pick) };
	struct mesh_error err = MESH_ERROR_INIT;

	asking->listed++;
	asking->draining += info->is_draining;
	assert_string_equal(info->source, "file");
	assert_int_equal(mesh_pick(asking->client, &pick, &err), MESH_E_NO_NAME);
	mesh_endpoints_list(asking->client, count_inner, &asking->inner);
}

/* Who lists holds nothing of ours: it may list, pick and fail again, inside. */
static void a_listing_may_be_interrupted_by_another(void **state)
{
	struct mesh_pick held = { .size = sizeof(held) };
	struct asking asking = { 0 };
	char uri[160];
	mesh *m;

	(void)state;
	alarm(60);
	snprintf(file_path, sizeof(file_path), "%s/listing.json", test_dir);
	replace_file("{\"services\": {\"users\": [\"10.0.0.1:1\"]}}");
	snprintf(uri, sizeof(uri), "file:%s", file_path);
	m = OPEN_MESH("caller", "discovery", uri);
	asking.client = new_client(m, "users");
	WAIT_FOR(mesh_pick(asking.client, &held, NULL) == 0);
	replace_file("{\"services\": {}}");
	WAIT_FOR(list(asking.client).draining == 1);
	assert_int_equal(mesh_endpoints_list(asking.client, ask_again_inside, &asking), 1);
	assert_int_equal(asking.listed, 1);
	assert_int_equal(asking.draining, 1);
	assert_int_equal(asking.inner, 1);
	assert_int_equal(mesh_report(asking.client, &held, MESH_OUTCOME_OK, 1), 0);
	mesh_client_free(asking.client);
	mesh_close(m);
	alarm(0);
}

/* The only server goes while a call is on its way to it, and its successor is not there yet. */
static void a_call_that_was_not_taken_waits_for_the_successor(void **state)
{
	static const unsigned char never_mind[] = { 0, 0, 0, 4, 0, 0, 0, 0, 0, /* SETTINGS, then GOAWAY: stream 0 was the last */
						    0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t at_size = sizeof(at);
	int leaving = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), conn;
	mesh *backend = OPEN_MESH("backend", "tls", "off"), *m;
	mesh_server *server = serve_as(backend, "backend", NULL, "successor");
	struct mesh_call_options opts = http_call("/");
	struct mesh_pick pick = { .size = sizeof(pick) };
	struct mesh_error err = MESH_ERROR_INIT;
	char uri[160], text[256], bytes[512];
	mesh_client *client;
	const char *body;
	mesh_call *call;
	uint64_t len;

	(void)state;
	assert_true(bind(leaving, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(leaving, 8) == 0);
	getsockname(leaving, (struct sockaddr *)&at, &at_size);
	snprintf(file_path, sizeof(file_path), "%s/successor.json", test_dir);
	snprintf(text, sizeof(text), "{\"services\": {\"users\": [\"127.0.0.1:%d\"]}}", ntohs(at.sin_port));
	replace_file(text);
	snprintf(uri, sizeof(uri), "file:%s", file_path);
	m = OPEN_MESH("caller", "discovery", uri, "resolve.timeout", "20s", "timeout", "20s", "tls", "off");
	client = new_client(m, "users");
	assert_int_equal(mesh_client_start(client, &opts, &call, &err), 0);
	conn = accept(leaving, NULL, NULL);
	assert_true(recv(conn, bytes, sizeof(bytes), 0) > 0);
	replace_file("{\"services\": {\"users\": []}}");
	WAIT_FOR(mesh_pick(client, &pick, NULL) == MESH_E_NO_ENDPOINT);
	assert_int_equal(send(conn, never_mind, sizeof(never_mind), MSG_NOSIGNAL), sizeof(never_mind));
	close(leaving);
	assert_int_equal(mesh_call_wait(call, 200, NULL), MESH_E_AGAIN);
	snprintf(text, sizeof(text), "{\"services\": {\"users\": [\"%s\"]}}", mesh_server_address(server));
	replace_file(text);
	if (mesh_call_wait(call, 20000, &err))
		fail_msg("%s", err.message);
	body = mesh_call_body(call, &len);
	assert_int_equal(len, 9);
	assert_memory_equal(body, "successor", 9);
	mesh_call_unref(call);
	close(conn);
	mesh_client_free(client);
	mesh_close(m);
	mesh_server_free(server);
	mesh_close(backend);
}

struct picking {
	mesh_client *client;
	_Atomic bool stop;
};

static void *pick_and_list(void *user)
{
	struct picking *picking = user;
	struct mesh_pick pick = { .size = sizeof(pick) };

	while (!atomic_load(&picking->stop)) {
		if (mesh_pick(picking->client, &pick, NULL) == 0)
			mesh_report(picking->client, &pick, MESH_OUTCOME_OK, 1);
		list(picking->client);
	}
	return NULL;
}

static void sets_and_weights_change_while_others_pick(void **state)
{
	struct picking picking = { 0 };
	char uri[160], text[256];
	pthread_t threads[3];
	mesh *m;

	(void)state;
	snprintf(file_path, sizeof(file_path), "%s/weights.json", test_dir);
	replace_file("{\"services\": {\"users\": [\"10.0.0.1:1\", \"10.0.0.2:1\"]}}");
	snprintf(uri, sizeof(uri), "file:%s", file_path);
	m = OPEN_MESH("caller", "discovery", uri);
	picking.client = new_client(m, "users");
	WAIT_FOR(list(picking.client).count == 2);
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, pick_and_list, &picking);
	for (int i = 1; i <= 50; i++) {
		snprintf(text, sizeof(text), "{\"services\": {\"users\": [{\"address\": \"10.0.0.1:1\", \"weight\": %d}, \"10.0.0.%d:1\"]}}", i, i + 2);
		replace_file(text);
		poll(NULL, 0, 2);
	}
	WAIT_FOR(strstr(list(picking.client).addresses, "10.0.0.52:1"));
	atomic_store(&picking.stop, true);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	mesh_client_free(picking.client);
	mesh_close(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#ifndef TEST_UNDER_THREAD_SANITIZER /* it cannot follow a fork of several threads */
		cmocka_unit_test(processes_find_each_other_and_a_killed_one_is_gone_at_once),
#endif
		cmocka_unit_test(a_call_waits_for_a_server_that_is_about_to_start),
		cmocka_unit_test(what_others_put_into_the_registry_changes_nothing),
		cmocka_unit_test(a_server_can_start_while_its_directory_comes_and_goes),
		cmocka_unit_test(whoever_leaves_last_leaves_no_directory_behind),
		cmocka_unit_test(servers_return_to_a_registry_that_was_removed),
		cmocka_unit_test(a_registry_that_is_not_private_is_refused),
		cmocka_unit_test(a_static_list_needs_no_file),
		cmocka_unit_test(wrong_sources_are_refused_with_what_is_wrong),
		cmocka_unit_test(wrong_sources_and_names_are_told_with_all_other_problems),
		cmocka_unit_test(a_file_is_followed_and_a_broken_one_changes_nothing),
		cmocka_unit_test(a_file_changed_in_place_is_read_though_its_time_is_the_same),
		cmocka_unit_test(a_deadline_in_the_name_says_what_is_known_of_it),
		cmocka_unit_test(the_first_source_that_knows_a_name_wins),
		cmocka_unit_test(picks_come_from_any_thread_and_are_spread_and_counted),
		cmocka_unit_test(picking_an_unknown_name_says_so),
		cmocka_unit_test(a_listing_may_be_interrupted_by_another),
		cmocka_unit_test(sets_and_weights_change_while_others_pick),
		cmocka_unit_test(a_call_that_was_not_taken_waits_for_the_successor),
	};

	cmocka_set_test_filter(getenv("TEST_FILTER")); /* one test alone: TEST_FILTER=name */
	return cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
}
