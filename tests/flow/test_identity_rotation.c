/*
 * Certificates and authorities that change every second, under two processes that call each other all the time: short calls, large ones, streams
 * that outlive several generations, and newcomers whose handshakes are under way when the change comes. Nothing may fail.
 *
 * Step n has the authority n: it signs the certificates of that step, is in the bundles from the step before on, as SPIRE does it, and for one
 * step more, so that two processes may be a step apart.
 */
#include "../lib/agent.h"
#include "../lib/mesh_test.h"
#include "mesh/identity.h"

#include <fcntl.h>
#include <psa/crypto.h>
#include <spawn.h>

enum {
	STEPS = 11,
	GENERATIONS_MIN = 8,
	LIFETIME_S = 15, /* connections of older generations retire within a tenth of what is left of it */
	BIG_BYTES = 256 * 1024,
	WORKERS = 5
};

#define ID_OF "spiffe://prod.example/ns/default/sa/"

extern char **environ;

/* ---- one process ---- */

static struct {
	mesh *m;
	mesh_server *server;
	const char *name, *peer, *uri;
	atomic_bool is_over;
	atomic_int calls, messages, streams, newcomers, failures;
	pthread_mutex_t lock;
	char first_failure[512];
} side = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void note_failure(const char *what, const char *why)
{
	pthread_mutex_lock(&side.lock);
	if (!side.first_failure[0])
		snprintf(side.first_failure, sizeof(side.first_failure), "%s: %.450s", what, why);
	pthread_mutex_unlock(&side.lock);
	atomic_fetch_add(&side.failures, 1);
}

/* A stream gives back what it gets. */
static void on_stream_event(const struct mesh_event *event, void *user)
{
	mesh_request *request = user;
	struct mesh_message message = { .size = sizeof(message) };
	struct mesh_reply ok = { .size = sizeof(ok) };
	int rc = MESH_E_AGAIN;

	if (event->type == MESH_EVENT_REQUEST_ENDED) {
		mesh_request_unref(request);
		return;
	}
	while ((rc = mesh_request_recv(request, &message, 0)) == 1) {
		mesh_request_send(request, message.data, message.len, 0);
		mesh_message_release(&message);
	}
	if (rc == 0)
		mesh_request_finish(request, &ok);
}

static void answer_stream(mesh_request *request, void *user)
{
	(void)user;
	mesh_request_on_event(request, on_stream_event, mesh_request_ref(request));
}

static bool call_with(mesh_client *client, const char *what, const void *body, uint64_t len)
{
	struct mesh_call_options opts = grpc_call("/t.S/Echo", body, len);
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *done = NULL;
	uint64_t got;
	int rc;

	opts.timeout_ms = 30000;
	rc = mesh_client_call(client, &opts, &done, &err);
	if (rc)
		note_failure(what, err.message);
	else if (!mesh_call_body(done, &got) || got != len)
		note_failure(what, "another answer");
	mesh_call_unref(done);
	return !rc;
}

static void *call_small(void *user)
{
	while (!atomic_load(&side.is_over)) {
		call_with(user, "a call", "x", 1);
		atomic_fetch_add(&side.calls, 1);
		poll(NULL, 0, 1);
	}
	return NULL;
}

/* GOAWAY comes while much of it is still to be sent. */
static void *call_big(void *user)
{
	static const char big[BIG_BYTES];

	while (!atomic_load(&side.is_over)) {
		call_with(user, "a large call", big, sizeof(big));
		atomic_fetch_add(&side.calls, 1);
	}
	return NULL;
}

static void stream_for(mesh_client *client, const char *what, int rounds)
{
	struct mesh_call_options opts = grpc_call("/t.S/Stream", NULL, 0);
	struct mesh_message message = { .size = sizeof(message) };
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *stream = NULL;
	int rc;

	opts.flags |= MESH_CALL_STREAM;
	opts.timeout_ms = 120000;
	rc = mesh_client_start(client, &opts, &stream, &err);
	for (int i = 0; !rc && i < rounds && !atomic_load(&side.is_over); i++) {
		rc = mesh_call_send(stream, "tick", 4, 0, 30000);
		if (!rc && mesh_call_recv(stream, &message, 30000) == 1) {
			mesh_message_release(&message);
			atomic_fetch_add(&side.messages, 1);
		} else {
			rc = -1;
		}
		poll(NULL, 0, 2);
	}
	if (!rc)
		rc = mesh_call_send(stream, NULL, 0, MESH_SEND_LAST, 30000);
	if (!rc)
		rc = mesh_call_wait(stream, 30000, &err);
	if (rc && stream && !err.code)
		mesh_call_error(stream, &err);
	if (rc)
		note_failure(what, err.message);
	atomic_fetch_add(&side.streams, 1);
	mesh_call_unref(stream);
}

static void *stream_all_the_time(void *user)
{
	stream_for(user, "the long stream", INT32_MAX);
	return NULL;
}

static void *stream_by_turns(void *user)
{
	while (!atomic_load(&side.is_over))
		stream_for(user, "a stream", 250);
	return NULL;
}

static bool has_identity(mesh *m)
{
	struct mesh_identity_status status = MESH_IDENTITY_STATUS_INIT;

	return !mesh_identity_status(m, &status) && status.generation;
}

static void come_anew(void)
{
	const struct mesh_setting settings[] = { { "tls", "on" }, { "stats", "off" }, { "identity", side.uri } };
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_client *client = NULL;
	mesh *m = NULL;

	opts.service = side.name;
	opts.settings = settings;
	opts.setting_count = 3;
	if (mesh_open(&opts, &m, &err) || mesh_client_new(m, side.peer, &client, &err))
		note_failure("a newcomer", err.message);
	while (client && !has_identity(m) && !atomic_load(&side.is_over))
		poll(NULL, 0, 1);
	if (client && has_identity(m) && call_with(client, "a newcomer's call", "x", 1))
		atomic_fetch_add(&side.newcomers, 1);
	mesh_client_free(client);
	mesh_close(m);
}

/* Each shakes hands anew: with many of them, some do so while the change comes. */
static void *come_all_the_time(void *user)
{
	(void)user;
	while (!atomic_load(&side.is_over))
		come_anew();
	return NULL;
}

static void open_side(const char *name, const char *peer, const char *uri)
{
	side.name = name;
	side.peer = peer;
	side.uri = uri;
	side.m = OPEN_MESH(name, "tls", "on", "identity", uri, "loops", "2");
	side.server = new_server(side.m, NULL);
	add_handler(side.server, "/t.S/Echo", MESH_HANDLER_GRPC, answer_echo, NULL);
	add_handler(side.server, "/t.S/Stream", MESH_HANDLER_GRPC | MESH_HANDLER_STREAM, answer_stream, NULL);
	start_server(side.server);
}

static uint64_t generation_of(mesh *m)
{
	struct mesh_identity_status status = MESH_IDENTITY_STATUS_INIT;

	assert_int_equal(mesh_identity_status(m, &status), 0);
	assert_int_equal(status.overdue_since_s, 0);
	return status.generation;
}

static pthread_t threads[WORKERS];

static void forget_all(void)
{
	atomic_store(&side.failures, 0);
	atomic_store(&side.calls, 0);
	atomic_store(&side.messages, 0);
	atomic_store(&side.streams, 0);
	atomic_store(&side.newcomers, 0);
	side.first_failure[0] = '\0';
}

static void begin_load(mesh_client *client)
{
	static void *(*const work[WORKERS])(void *) = { call_small, call_big, stream_all_the_time, stream_by_turns, come_all_the_time };

	forget_all();
	atomic_store(&side.is_over, false);
	for (int i = 0; i < WORKERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, work[i], client), 0);
}

static void end_load(void)
{
	atomic_store(&side.is_over, true);
	for (int i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
}

/* What became of it, in one line; also what a failed test says. */
static void report(FILE *to, int64_t retired)
{
	fprintf(to, "%d %d %d %d %d %llu %lld %s\n", atomic_load(&side.failures), atomic_load(&side.calls), atomic_load(&side.messages),
		atomic_load(&side.streams), atomic_load(&side.newcomers), (unsigned long long)generation_of(side.m), (long long)retired, side.first_failure);
	fflush(to);
}

static int64_t count_retired(void)
{
	return COUNTED(side.m, "mesh_server_connections_closed_total", "reason", "rotated") +
	       COUNTED(side.m, "mesh_connections_closed_total", "reason", "rotated");
}

static void close_side(mesh_client *client)
{
	mesh_client_free(client);
	mesh_server_free(side.server);
	mesh_close(side.m);
}

/* ---- the other process: begins to call when told so, ends when told so, says what became of it ---- */

static int run_other(const char *uri)
{
	mesh_client *client;
	char line[16];

	open_side("users", "shop", uri);
	client = new_client(side.m, "shop");
	WAIT_FOR(has_identity(side.m));
	printf("ready\n");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	begin_load(client);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	end_load();
	report(stdout, count_retired());
	/* The first may still have calls on its way here. */
	if (fgets(line, sizeof(line), stdin))
		return 1;
	close_side(client);
	return 0;
}

struct other {
	pid_t pid;
	FILE *to, *from;
};

static char program[512];

static void start_other(struct other *other, const char *uri)
{
	char *const argv[] = { program, (char *)(uintptr_t)uri, NULL };
	posix_spawn_file_actions_t actions;
	int in[2], out[2];

	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in[0], 0);
	posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	for (int i = 0; i < 2; i++) {
		posix_spawn_file_actions_addclose(&actions, in[i]);
		posix_spawn_file_actions_addclose(&actions, out[i]);
	}
	assert_int_equal(posix_spawn(&other->pid, program, &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(in[0]);
	close(out[1]);
	other->to = fdopen(in[1], "w");
	other->from = fdopen(out[0], "r");
	assert_true(other->to && other->from);
}

static void tell(struct other *other, const char *what)
{
	fprintf(other->to, "%s\n", what);
	fflush(other->to);
}

static void assert_good(const char *who, const char *line)
{
	int failures = -1, calls = 0, messages = 0, streams = 0, newcomers_seen = 0;
	unsigned long long generations = 0;
	long long retired = 0;

	sscanf(line, "%d %d %d %d %d %llu %lld", &failures, &calls, &messages, &streams, &newcomers_seen, &generations, &retired);
	if (failures)
		fail_msg("%s: %d failures (calls, messages, streams, newcomers, generations, retired, the first failure): %s", who, failures, line);
	assert_true(generations >= GENERATIONS_MIN);
	if (calls < 20 || messages < 20 || streams < 2 || newcomers_seen < 3) /* a slow machine does less, and that much */
		fail_msg("%s: too little was tried: %s", who, line);
	assert_true(retired >= 4);
}

/* ---- the issuer ---- */

struct step {
	struct certificate authorities[3]; /* of the step before, of this one, of the next */
	struct certificate leaves[2];      /* shop's, users' */
};

static void make_authority(struct certificate *out, int number)
{
	char subject[32];

	snprintf(subject, sizeof(subject), "CN=authority %d", number);
	make_certificate(out, &(struct certificate_spec){ .subject = subject, .uris = { "spiffe://prod.example" }, .is_ca = true });
}

/* Step 0 has no predecessor: it begins with three authorities. */
static void make_step(struct step *step, int number)
{
	static const char *const ids[] = { ID_OF "shop", ID_OF "users" };

	if (number == 0) {
		make_authority(&step->authorities[0], -1);
		make_authority(&step->authorities[1], 0);
	} else {
		free_certificate(&step->authorities[0]);
		free_certificate(&step->leaves[0]);
		free_certificate(&step->leaves[1]);
		step->authorities[0] = step->authorities[1];
		step->authorities[1] = step->authorities[2];
	}
	make_authority(&step->authorities[2], number + 1);
	for (int i = 0; i < 2; i++)
		make_certificate(&step->leaves[i], &(struct certificate_spec){ .issuer = &step->authorities[1], .uris = { ids[i] }, .from_s = -60,
									       .until_s = LIFETIME_S });
}

static void free_step(struct step *step)
{
	for (int i = 0; i < 3; i++)
		free_certificate(&step->authorities[i]);
	for (int i = 0; i < 2; i++)
		free_certificate(&step->leaves[i]);
}

/* How the two learn of a step. */
struct issuer {
	void (*publish)(const struct step *step, int number);
	const char *uris[2]; /* shop's, users' */
};

static void rotate_under_load(const struct issuer *issuer)
{
	static struct step step;
	struct other other;
	mesh_client *client;
	char line[1024], *mine = NULL;
	size_t mine_len;
	FILE *memory;
	int status;

	make_step(&step, 0);
	issuer->publish(&step, 0);
	start_other(&other, issuer->uris[1]);
	open_side("shop", "users", issuer->uris[0]);
	client = new_client(side.m, "users");
	assert_non_null(fgets(line, sizeof(line), other.from));
	assert_string_equal(line, "ready\n");
	WAIT_FOR(has_identity(side.m));
	tell(&other, "go");
	begin_load(client);
	for (int i = 1; i < STEPS; i++) {
		uint64_t next_ns = test_now_ns() + UINT64_C(1000000000);

		make_step(&step, i);
		issuer->publish(&step, i);
		while (test_now_ns() < next_ns)
			poll(NULL, 0, 10);
	}
	tell(&other, "stop");
	end_load();
	assert_non_null(fgets(line, sizeof(line), other.from));
	memory = open_memstream(&mine, &mine_len);
	report(memory, count_retired());
	fclose(memory);
	fclose(other.to);
	assert_int_equal(waitpid(other.pid, &status, 0), other.pid);
	fclose(other.from);
	close_side(client);
	free_step(&step);
	assert_good("shop", mine);
	assert_good("users", line);
	assert_int_equal(status, 0);
	free(mine);
}

/* ---- file:, as Kubernetes mounts a Secret: files are links into ..data, which is a link that is replaced ---- */

static const char *const names[] = { "shop", "users" };

static void write_file(const char *path, const char *const *texts, unsigned mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);

	assert_true(fd >= 0);
	for (; *texts; texts++)
		assert_int_equal(write(fd, *texts, strlen(*texts)), strlen(*texts));
	close(fd);
}

static void write_version(const struct step *step, int number, int who)
{
	const struct certificate *leaf = &step->leaves[who], *cas = step->authorities;
	char dir[160], path[256];

	snprintf(dir, sizeof(dir), "%s/id-%s/..v%d", test_dir, names[who], number);
	assert_int_equal(mkdir(dir, 0700), 0);
	snprintf(path, sizeof(path), "%s/tls.crt", dir);
	write_file(path, (const char *const[]){ leaf->pem, NULL }, 0644);
	snprintf(path, sizeof(path), "%s/tls.key", dir);
	write_file(path, (const char *const[]){ leaf->key_pem, NULL }, 0600);
	snprintf(path, sizeof(path), "%s/ca.crt", dir);
	write_file(path, (const char *const[]){ cas[0].pem, cas[1].pem, cas[2].pem, NULL }, 0644);
}

static void publish_files(const struct step *step, int number)
{
	static const char *const leaves[] = { "tls.crt", "tls.key", "ca.crt" };
	char dir[128], path[256], link[256], to[64];

	for (int who = 0; who < 2; who++) {
		snprintf(dir, sizeof(dir), "%s/id-%s", test_dir, names[who]);
		if (number == 0)
			assert_int_equal(mkdir(dir, 0700), 0);
		write_version(step, number, who);
		snprintf(to, sizeof(to), "..v%d", number);
		snprintf(path, sizeof(path), "%s/..data_tmp", dir);
		snprintf(link, sizeof(link), "%s/..data", dir);
		assert_int_equal(symlink(to, path), 0);
		assert_int_equal(rename(path, link), 0);
		for (int i = 0; number == 0 && i < 3; i++) {
			snprintf(path, sizeof(path), "%s/%s", dir, leaves[i]);
			snprintf(to, sizeof(to), "..data/%s", leaves[i]);
			assert_int_equal(symlink(to, path), 0);
		}
		if (number > 0) {
			snprintf(path, sizeof(path), "%s/..v%d", dir, number - 1);
			remove_tree(path);
		}
	}
}

static void files_that_change_every_second_fail_nothing(void **state)
{
	static char uris[2][160];
	struct issuer issuer = { publish_files, { uris[0], uris[1] } };

	(void)state;
	for (int who = 0; who < 2; who++)
		snprintf(uris[who], sizeof(uris[who]), "file:%s/id-%s", test_dir, names[who]);
	rotate_under_load(&issuer);
}

/* ---- spiffe:, each with an agent of its own ---- */

static struct agent agents[2];

static void publish_by_agents(const struct step *step, int number)
{
	static const char *const ids[] = { ID_OF "shop", ID_OF "users" };
	static struct agent_message message;
	const struct certificate *cas[] = { &step->authorities[0], &step->authorities[1], &step->authorities[2] };

	(void)number;
	for (int who = 0; who < 2; who++) {
		message.len = 0;
		add_svid(&message, ids[who], &step->leaves[who], cas, 3);
		agent_say(&agents[who], &message);
	}
}

static void an_agent_that_says_something_new_every_second_fails_nothing(void **state)
{
	struct issuer issuer = { publish_by_agents, { agents[0].endpoint, agents[1].endpoint } };

	(void)state;
	agent_start(&agents[0]);
	agent_start(&agents[1]);
	rotate_under_load(&issuer);
	agent_stop(&agents[0]);
	agent_stop(&agents[1]);
}

static int set_up(void **state)
{
	return make_test_dir(state) || psa_crypto_init() != PSA_SUCCESS;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files_that_change_every_second_fail_nothing),
		cmocka_unit_test(an_agent_that_says_something_new_every_second_fails_nothing),
	};
	ssize_t len;

	if (argc > 1)
		return run_other(argv[1]);
	len = readlink("/proc/self/exe", program, sizeof(program) - 1);
	if (len <= 0)
		return 1;
	return cmocka_run_group_tests(tests, set_up, remove_test_dir);
}
