/* Whole meshes that show each other who they are: encrypted calls, strangers, rules, rotation under load, and what has expired. */
#include "../lib/mesh_test.h"
#include "mesh/identity.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>

static char state_dir[96];

/* A state directory of our own for each test, so that no authority outlives it. */
static int set_up(void **state)
{
	if (make_test_dir(state))
		return -1;
	snprintf(state_dir, sizeof(state_dir), "%s/state", test_dir);
	return setenv("MESH_STATE_DIR", state_dir, 1);
}

static int tear_down(void **state)
{
	return remove_test_dir(state);
}

static void answer_peer(mesh_request *request, void *user)
{
	struct mesh_reply reply = { .size = sizeof(reply) };

	(void)user;
	reply.body = mesh_request_peer_id(request);
	reply.body_len = strlen(reply.body);
	mesh_request_reply(request, &reply);
}

/* A mesh with a server of its own name. */
static mesh *open_server(const char *service, mesh_server **out, const char *const *settings)
{
	mesh *m = open_mesh(service, settings);

	*out = new_server(m, NULL);
	add_handler(*out, "/who", 0, answer_peer, NULL);
	add_handler(*out, "/t.S/Who", MESH_HANDLER_GRPC, answer_peer, NULL);
	add_handler(*out, "/echo", 0, answer_echo, NULL);
	start_server(*out);
	return m;
}

#define OPEN_SERVER(service, out, ...) open_server(service, out, (const char *const[]){ __VA_ARGS__ __VA_OPT__(,) NULL })

static void close_server(mesh *m, mesh_server *server)
{
	mesh_server_free(server);
	mesh_close(m);
}

/* *out is the caller's if the call succeeded. */
static int call(mesh_client *client, const char *path, mesh_call **out, struct mesh_error *err)
{
	struct mesh_call_options opts = strstr(path, "S/") ? grpc_call(path, "x", 1) : http_call(path);
	int rc;

	*err = (struct mesh_error)MESH_ERROR_INIT;
	rc = mesh_client_call(client, &opts, out, err);
	if (rc) {
		mesh_call_unref(*out);
		*out = NULL;
	}
	return rc;
}

static void assert_body(const mesh_call *done, const char *text)
{
	uint64_t len;
	const void *body = mesh_call_body(done, &len);

	assert_int_equal(len, strlen(text));
	assert_memory_equal(body, text, len);
}

static void keep_first(const struct mesh_identity *identity, void *user)
{
	if (identity->is_default)
		snprintf(user, 200, "%s", identity->id);
}

static void count_trusts(const struct mesh_trust *trust, void *user)
{
	assert_int_equal(trust->is_own, 1);
	assert_true(trust->certificate_count >= 1);
	assert_true(trust->not_after_s > time(NULL));
	++*(int *)user;
}

static void both_sides_know_each_other(void **state)
{
	struct mesh_identity_status status = MESH_IDENTITY_STATUS_INIT;
	mesh_server *server;
	mesh *users = OPEN_SERVER("users", &server), *shop = OPEN_MESH("shop");
	mesh_client *client = new_client(shop, "users");
	char own[200] = "";
	struct mesh_error err;
	mesh_call *done;
	int trusts = 0;

	(void)state;
	for (int i = 0; i < 2; i++) {
		if (call(client, i ? "/t.S/Who" : "/who", &done, &err))
			fail_msg("%s", err.message);
		assert_body(done, "spiffe://mesh.local/ns/default/sa/shop");
		assert_string_equal(mesh_call_peer_id(done), "spiffe://mesh.local/ns/default/sa/users");
		mesh_call_unref(done);
	}
	assert_int_equal(mesh_identity_status(shop, &status), 0);
	assert_true(status.is_tls);
	assert_string_equal(status.source, "local:");
	assert_true(status.next_renewal_s > time(NULL) + 1000);
	assert_int_equal(mesh_identity_list(shop, keep_first, own), 0);
	assert_string_equal(own, "spiffe://mesh.local/ns/default/sa/shop");
	assert_int_equal(mesh_identity_trusts(shop, count_trusts, &trusts), 0);
	assert_int_equal(trusts, 1);
	assert_in_range(COUNTED(shop, "mesh_identity_expiration_timestamp_seconds"), time(NULL) + 3500, time(NULL) + 3600);
	assert_int_equal(COUNTED(shop, "mesh_identity_refreshes_total"), 1);
	assert_int_equal(COUNTED(shop, "mesh_handshakes_total", "service", "users", "side", "client"), 1);
	assert_int_equal(COUNTED(users, "mesh_handshakes_total", "service", "users", "side", "server"), 1);
	assert_int_equal(COUNTED(shop, "mesh_plaintext"), 0);
	mesh_client_free(client);
	mesh_close(shop);
	close_server(users, server);
}

static void another_service_cannot_pose(void **state)
{
	char discovery[128];
	mesh_server *server;
	mesh *orders = OPEN_SERVER("orders", &server), *shop;
	mesh_client *client;
	struct mesh_error err;
	mesh_call *done;

	(void)state;
	snprintf(discovery, sizeof(discovery), "static:users=%s", mesh_server_address(server));
	shop = OPEN_MESH("shop", "discovery", discovery);
	client = new_client(shop, "users");
	assert_int_equal(call(client, "/who", &done, &err), MESH_E_HANDSHAKE);
	assert_non_null(strstr(err.message, "/sa/orders"));
	assert_non_null(strstr(err.message, "/sa/users"));
	mesh_client_free(client);
	mesh_close(shop);
	/* Unless it is said that this is who answers. */
	shop = OPEN_MESH("shop", "discovery", discovery, "peer.id@users", "spiffe://mesh.local/ns/default/sa/orders");
	client = new_client(shop, "users");
	if (call(client, "/who", &done, &err))
		fail_msg("%s", err.message);
	mesh_call_unref(done);
	mesh_client_free(client);
	mesh_close(shop);
	close_server(orders, server);
}

/* ---- whom discovery names ---- */

#define ORDERS "spiffe://mesh.local/ns/default/sa/orders"
#define NOBODY "spiffe://mesh.local/ns/default/sa/nobody"

static char endpoints_path[128];

static void write_endpoints(const char *address, const char *id)
{
	char other[160];
	FILE *file;

	snprintf(endpoints_path, sizeof(endpoints_path), "%s/endpoints.json", test_dir);
	snprintf(other, sizeof(other), "%s.new", endpoints_path);
	file = fopen(other, "w");
	assert_non_null(file);
	fprintf(file, "{\"services\": {\"users\": [{\"address\": \"%s\", \"id\": \"%s\"}]}}", address, id);
	fclose(file);
	assert_int_equal(rename(other, endpoints_path), 0);
}

static mesh *open_with_endpoints(const char *peer_id)
{
	char discovery[160];

	snprintf(discovery, sizeof(discovery), "file:%s", endpoints_path);
	return OPEN_MESH("shop", "discovery", discovery, "peer.id@users", peer_id);
}

static mesh_request *_Atomic held;

static void hold_stream(mesh_request *request, void *user)
{
	(void)user;
	atomic_store(&held, mesh_request_ref(request));
}

static mesh_call *start_stream(mesh_client *client)
{
	struct mesh_call_options opts = grpc_call("/t.S/Hold", NULL, 0);
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *stream;

	atomic_store(&held, NULL);
	opts.flags |= MESH_CALL_STREAM;
	opts.timeout_ms = 60000;
	if (mesh_client_start(client, &opts, &stream, &err))
		fail_msg("%s", err.message);
	WAIT_FOR(atomic_load(&held));
	return stream;
}

static void assert_stream_lives(mesh_call *stream)
{
	struct mesh_message message = { .size = sizeof(message) };

	assert_int_equal(mesh_request_send(atomic_load(&held), "tick", 4, 5000), 0);
	assert_int_equal(mesh_call_recv(stream, &message, 5000), 1);
	mesh_message_release(&message);
}

static void end_stream(mesh_call *stream)
{
	struct mesh_reply ok = { .size = sizeof(ok) };

	mesh_request_finish(atomic_load(&held), &ok);
	mesh_request_unref(atomic_load(&held));
	mesh_call_unref(stream);
}

static bool is_refused(mesh_client *client, struct mesh_error *err)
{
	mesh_call *done;

	if (call(client, "/who", &done, err))
		return true;
	mesh_call_unref(done);
	return false;
}

static void discovery_says_who_answers(void **state)
{
	mesh *orders = OPEN_MESH("orders"), *shop;
	mesh_server *server = new_server(orders, NULL);
	mesh_client *client;
	struct mesh_error err;
	mesh_call *done, *stream;

	(void)state;
	add_handler(server, "/who", 0, answer_peer, NULL);
	add_handler(server, "/t.S/Hold", MESH_HANDLER_GRPC | MESH_HANDLER_STREAM, hold_stream, NULL);
	start_server(server);
	write_endpoints(mesh_server_address(server), ORDERS);
	shop = open_with_endpoints("");
	client = new_client(shop, "users");
	if (call(client, "/who", &done, &err))
		fail_msg("%s", err.message);
	assert_string_equal(mesh_call_peer_id(done), ORDERS);
	mesh_call_unref(done);
	stream = start_stream(client);
	assert_int_equal(COUNTED(shop, "mesh_connections_opened_total"), 1);
	/* From now on somebody else should answer: the connection takes no more calls, and those that it has go on. */
	write_endpoints(mesh_server_address(server), NOBODY);
	WAIT_FOR(is_refused(client, &err));
	assert_int_equal(err.code, MESH_E_HANDSHAKE);
	assert_non_null(strstr(err.message, NOBODY " was expected (from discovery), and " ORDERS " answered"));
	assert_stream_lives(stream);
	/* And back: nobody waits until the endpoint would have been tried again. */
	write_endpoints(mesh_server_address(server), ORDERS);
	WAIT_FOR(!is_refused(client, &err));
	assert_stream_lives(stream);
	end_stream(stream);
	WAIT_FOR(COUNTED(shop, "mesh_connections_closed_total", "reason", "other_id") == 1);
	mesh_client_free(client);
	mesh_close(shop);
	/* An option is stronger. */
	shop = open_with_endpoints(NOBODY);
	client = new_client(shop, "users");
	assert_true(is_refused(client, &err));
	assert_non_null(strstr(err.message, NOBODY " was expected (by option peer.id), and " ORDERS " answered"));
	mesh_client_free(client);
	mesh_close(shop);
	close_server(orders, server);
}

/* Between a client and a server, in its own thread: a network that does with connections what it is told, one after the other. */
struct network {
	int listener;
	struct sockaddr_in server;
	_Atomic int accepted; /* of the connection that waits to be closed; -1: none */
	atomic_bool is_over, must_forward;
};

static bool copy_some(int from, int to)
{
	char bytes[16384];
	ssize_t n = read(from, bytes, sizeof(bytes));

	return n > 0 && send(to, bytes, (size_t)n, MSG_NOSIGNAL) == n;
}

static void forward(struct network *network, int fd)
{
	struct pollfd fds[2] = { { .fd = fd, .events = POLLIN }, { .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .events = POLLIN } };
	bool is_alive = connect(fds[1].fd, (struct sockaddr *)&network->server, sizeof(network->server)) == 0;

	while (is_alive && !atomic_load(&network->is_over)) {
		poll(fds, 2, 20);
		for (int i = 0; i < 2; i++)
			if (fds[i].revents)
				is_alive = is_alive && copy_some(fds[i].fd, fds[!i].fd);
	}
	close(fds[1].fd);
	close(fd);
}

static void *run_network(void *user)
{
	struct network *network = user;
	struct pollfd fds = { .fd = network->listener, .events = POLLIN };

	while (!atomic_load(&network->is_over)) {
		if (atomic_load(&network->accepted) >= 0 || poll(&fds, 1, 5) <= 0) {
			poll(NULL, 0, 1);
			continue;
		}
		if (atomic_load(&network->must_forward))
			forward(network, accept(network->listener, NULL, NULL));
		else
			atomic_store(&network->accepted, accept(network->listener, NULL, NULL));
	}
	return NULL;
}

static void open_network(struct network *network, const char *server, char *address, size_t capacity)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(here);

	memset(network, 0, sizeof(*network));
	atomic_store(&network->accepted, -1);
	network->server = here;
	network->server.sin_port = htons((uint16_t)atoi(strrchr(server, ':') + 1));
	network->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(network->listener, (struct sockaddr *)&here, sizeof(here)), 0);
	assert_int_equal(listen(network->listener, 8), 0);
	assert_int_equal(getsockname(network->listener, (struct sockaddr *)&here, &len), 0);
	snprintf(address, capacity, "127.0.0.1:%d", ntohs(here.sin_port));
}

/* In order, without a reset: what came is taken first. */
static void close_accepted(struct network *network)
{
	int fd = atomic_load(&network->accepted);
	char hello[4096];

	assert_true(read(fd, hello, sizeof(hello)) > 0);
	close(fd);
	atomic_store(&network->accepted, -1);
}

/* The endpoint has failed and is tried again; that handshake looks for somebody who is not expected any more when it ends. */
static void discovery_changes_its_mind_during_a_handshake(void **state)
{
	char address[32];
	struct network network;
	mesh_server *server;
	mesh *orders = OPEN_SERVER("orders", &server), *shop;
	mesh_client *client;
	struct mesh_error err;
	pthread_t thread;

	(void)state;
	open_network(&network, mesh_server_address(server), address, sizeof(address));
	assert_int_equal(pthread_create(&thread, NULL, run_network, &network), 0);
	write_endpoints(address, NOBODY);
	shop = open_with_endpoints("");
	client = new_client(shop, "users");
	{
		struct mesh_call_options opts = http_call("/who");
		mesh_call *started;

		opts.timeout_ms = 60000;
		assert_int_equal(mesh_client_start(client, &opts, &started, NULL), 0);
		while (!COUNTED(shop, "mesh_connect_failures_total")) {
			WAIT_FOR(atomic_load(&network.accepted) >= 0);
			close_accepted(&network);
			poll(NULL, 0, 20);
		}
		mesh_call_cancel(started);
		mesh_call_unref(started);
	}
	WAIT_FOR(atomic_load(&network.accepted) >= 0); /* the next try, by itself */
	write_endpoints(address, ORDERS);
	WAIT_FOR(COUNTED(shop, "mesh_discovery_updates_total") >= 2);
	poll(NULL, 0, 50); /* the loop has heard of it, too */
	atomic_store(&network.must_forward, true);
	close_accepted(&network);
	/* Nobody calls: it is tried again all the same, with the new ID. */
	WAIT_FOR(COUNTED(shop, "mesh_connections_opened_total") == 1);
	assert_false(is_refused(client, &err));
	mesh_client_free(client);
	mesh_close(shop);
	atomic_store(&network.is_over, true);
	pthread_join(thread, NULL);
	close(network.listener);
	close_server(orders, server);
}

/* Whoever may write into the registry may do so under any name. */
static void the_registry_does_not_say_who_answers(void **state)
{
	char path[256], text[256];
	mesh_server *server;
	mesh *orders = OPEN_SERVER("orders", &server), *shop = OPEN_MESH("shop");
	mesh_client *client = new_client(shop, "users");
	struct mesh_error err;
	int fd;

	(void)state;
	snprintf(path, sizeof(path), "%s/registry/users", test_dir);
	assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
	snprintf(path, sizeof(path), "%s/registry/users/1.poser", test_dir);
	snprintf(text, sizeof(text), "{\"version\": 1, \"service\": \"users\", \"address\": \"%s\", \"pid\": 1, \"id\": \"" ORDERS "\"}\n",
		 mesh_server_address(server));
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	WAIT_FOR(is_refused(client, &err) && err.code == MESH_E_HANDSHAKE);
	assert_non_null(strstr(err.message, "/sa/users was expected (by the name of the service), and " ORDERS " answered"));
	close(fd);
	mesh_client_free(client);
	mesh_close(shop);
	close_server(orders, server);
}

static void plain_and_secret_do_not_mix(void **state)
{
	char discovery[128];
	struct mesh_error err;
	mesh_server *server;
	mesh_client *client;
	mesh_call *done;
	mesh *m, *shop;

	(void)state;
	for (int is_server_plain = 0; is_server_plain < 2; is_server_plain++) {
		m = OPEN_SERVER("users", &server, "tls", is_server_plain ? "off" : "on");
		snprintf(discovery, sizeof(discovery), "static:users=%s", mesh_server_address(server));
		shop = OPEN_MESH("shop", "discovery", discovery, "tls", is_server_plain ? "on" : "off");
		client = new_client(shop, "users");
		assert_int_not_equal(call(client, "/who", &done, &err), 0);
		assert_true(strstr(err.message, "TLS") || strstr(err.message, "plain"));
		mesh_client_free(client);
		mesh_close(shop);
		close_server(m, server);
	}
}

struct heard {
	atomic_int warnings; /* that say PLAIN TEXT, and why */
	const char *why;
};

static void listen_to_log(int32_t level, const char *line, void *user)
{
	struct heard *heard = user;

	if (level == MESH_LOG_WARN && strstr(line, "PLAIN TEXT") && strstr(line, heard->why))
		atomic_fetch_add(&heard->warnings, 1);
}

/* Either option: it is said when it begins, counted as long as it lasts, and shown to whoever asks. */
static void plain_text_is_never_silent(void **state)
{
	static const char *const off[] = { "tls", "identity" };

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		const struct mesh_setting setting = { off[i], "off" };
		struct mesh_identity_status status = MESH_IDENTITY_STATUS_INIT;
		struct mesh_options opts = MESH_OPTIONS_INIT;
		struct mesh_error err = MESH_ERROR_INIT;
		struct heard heard = { .why = i ? "option identity is off" : "option tls is off" };
		mesh *m = NULL;

		opts.service = "users";
		opts.settings = &setting;
		opts.setting_count = 1;
		opts.log = listen_to_log;
		opts.log_user = &heard;
		if (mesh_open(&opts, &m, &err))
			fail_msg("%s", err.message);
		assert_int_equal(atomic_load(&heard.warnings), 1);
		assert_int_equal(COUNTED(m, "mesh_plaintext"), 1);
		assert_int_equal(mesh_identity_status(m, &status), 0);
		assert_false(status.is_tls);
		assert_string_equal(status.source, "off");
		mesh_close(m);
	}
}

static void write_policy(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static int64_t count_by_reason(mesh *m, const char *metric, const char *reason)
{
	const char *labels[] = { "reason", reason };
	mesh_stats_view *view;
	int64_t number, value = -1;

	assert_int_equal(mesh_stats_open_self(m, &view, NULL), 0);
	number = mesh_stats_find(view, 0, metric, labels, 1);
	if (number >= 0)
		mesh_stats_value(view, (uint64_t)number, &value);
	mesh_stats_close(view);
	return value;
}

static void rules_decide_and_are_named(void **state)
{
	char path[128];
	mesh_server *server;
	mesh *users, *shop = OPEN_MESH("shop");
	mesh_client *client;
	struct mesh_error err;
	mesh_call *done;

	(void)state;
	snprintf(path, sizeof(path), "%s/policy.json", test_dir);
	write_policy(path, "{ \"rules\": [ { \"name\": \"no-echo\", \"deny\": [\"spiffe://mesh.local/*\"], \"paths\": [\"/echo\"] },"
			   " { \"name\": \"no-grpc\", \"deny\": [\"spiffe://mesh.local/ns/default/sa/shop\"], \"paths\": [\"/t.S/*\"] },"
			   " { \"name\": \"on-trial\", \"deny\": [\"spiffe://mesh.local/*\"], \"paths\": [\"/who\"], \"dry_run\": true } ] }");
	users = OPEN_SERVER("users", &server, "policy", path);
	client = new_client(shop, "users");
	if (call(client, "/echo", &done, &err))
		fail_msg("%s", err.message);
	assert_int_equal(mesh_call_http_status(done), 403);
	assert_body(done, "spiffe://mesh.local/ns/default/sa/shop may not call this: rule no-echo of service users denies it");
	mesh_call_unref(done);
	assert_int_equal(call(client, "/t.S/Who", &done, &err), MESH_E_STATUS);
	assert_int_equal(err.grpc_status, 7);
	assert_non_null(strstr(err.message, "no-grpc"));
	if (call(client, "/who", &done, &err)) /* denied on trial only */
		fail_msg("%s", err.message);
	assert_int_equal(mesh_call_http_status(done), 200);
	mesh_call_unref(done);
	assert_int_equal(count_by_reason(users, "mesh_authorization_dry_run_total", "on-trial"), 1);
	assert_int_equal(count_by_reason(users, "mesh_authorization_denied_total", "no-echo"), 1);
	mesh_client_free(client);
	mesh_close(shop);
	close_server(users, server);
}

static void rules_need_identities(void **state)
{
	mesh *m = OPEN_MESH("users", "tls", "off", "allow", "spiffe://mesh.local/*");
	mesh_server *server = new_server(m, NULL);
	struct mesh_error err = MESH_ERROR_INIT;

	(void)state;
	assert_int_equal(mesh_server_start(server, &err), MESH_E_OPTION);
	assert_non_null(strstr(err.message, "allow"));
	close_server(m, server);
}

static void wrong_options_are_named(void **state)
{
	static const char *const wrong[][2] = {
		{ "identity", "nowhere:" },	{ "identity", "file:relative" }, { "identity", "spiffe:unix://relative" },
		{ "identity", "spiffe:tcp://localhost:1" }, { "trust.domain", "Mesh" }, { "namespace", "a/b" },
		{ "peer.id@users", "users" },	{ "peer.id", "spiffe://mesh.local" }, { "allow", "spiffe://mesh.local/a*" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct mesh_setting setting = { wrong[i][0], wrong[i][1] };
		struct mesh_options opts = MESH_OPTIONS_INIT;
		struct mesh_error err = MESH_ERROR_INIT;
		mesh *m = NULL;

		opts.settings = &setting;
		opts.setting_count = 1;
		assert_int_equal(mesh_open(&opts, &m, &err), MESH_E_OPTION);
		if (!strstr(err.message, wrong[i][0]) && !strchr(wrong[i][0], '@'))
			fail_msg("%s = %s: %s", wrong[i][0], wrong[i][1], err.message);
	}
}

/* ---- expiry ---- */

static void what_has_expired_is_not_shown(void **state)
{
	struct mesh_ca_issue_options issue = MESH_CA_ISSUE_OPTIONS_INIT;
	struct mesh_identity_status status = MESH_IDENTITY_STATUS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	char dir[128], uri[136];
	mesh *users = OPEN_MESH("users"), *shop;
	mesh_server *server = new_server(users, NULL);
	mesh_client *client;
	mesh_call *done, *stream;

	(void)state;
	add_handler(server, "/who", 0, answer_peer, NULL);
	add_handler(server, "/t.S/Hold", MESH_HANDLER_GRPC | MESH_HANDLER_STREAM, hold_stream, NULL);
	start_server(server);
	snprintf(dir, sizeof(dir), "%s/shop", test_dir);
	snprintf(uri, sizeof(uri), "file:%s", dir);
	issue.id = "shop";
	issue.lifetime_s = 3;
	issue.out_dir = dir;
	if (mesh_ca_issue(NULL, &issue, &err))
		fail_msg("%s", err.message);
	shop = OPEN_MESH("shop", "identity", uri);
	client = new_client(shop, "users");
	if (call(client, "/who", &done, &err))
		fail_msg("%s", err.message);
	assert_body(done, "spiffe://mesh.local/ns/default/sa/shop");
	mesh_call_unref(done);
	stream = start_stream(client);
	poll(NULL, 0, 4500); /* nobody replaces the files */
	assert_int_equal(mesh_identity_status(shop, &status), 0);
	assert_true(status.overdue_since_s > 0);
	WAIT_FOR(call(client, "/who", &done, &err) || (mesh_call_unref(done), false));
	assert_int_equal(err.code, MESH_E_IDENTITY);
	assert_non_null(strstr(err.message, "expired"));
	assert_stream_lives(stream); /* its end takes nothing away that was begun before */
	end_stream(stream);
	mesh_client_free(client);
	mesh_close(shop);
	close_server(users, server);
}

/* ---- rotation ---- */

static atomic_bool is_loaded;
static atomic_int good_calls, bad_calls;
static char first_failure[600];

static void *load(void *user)
{
	struct mesh_error err;
	mesh_call *done;

	while (atomic_load(&is_loaded)) {
		if (call(user, "/who", &done, &err) == 0) {
			atomic_fetch_add(&good_calls, 1);
			mesh_call_unref(done);
		} else if (atomic_fetch_add(&bad_calls, 1) == 0) {
			snprintf(first_failure, sizeof(first_failure), "%s", err.message);
		}
		poll(NULL, 0, 1);
	}
	return NULL;
}

static void rotation_drops_nothing(void **state)
{
	struct mesh_identity_status status = MESH_IDENTITY_STATUS_INIT;
	mesh *users = OPEN_MESH("users", "identity.lifetime", "2s"), *shop = OPEN_MESH("shop", "identity.lifetime", "2s");
	mesh_server *server = new_server(users, NULL);
	mesh_client *client;
	mesh_call *stream;
	pthread_t thread;

	(void)state;
	add_handler(server, "/who", 0, answer_peer, NULL);
	add_handler(server, "/t.S/Hold", MESH_HANDLER_GRPC | MESH_HANDLER_STREAM, hold_stream, NULL);
	start_server(server);
	client = new_client(shop, "users");
	stream = start_stream(client);
	atomic_store(&is_loaded, true);
	assert_int_equal(pthread_create(&thread, NULL, load, client), 0);
	for (int i = 0; i < 12; i++) {
		poll(NULL, 0, 500);
		assert_stream_lives(stream);
	}
	atomic_store(&is_loaded, false);
	pthread_join(thread, NULL);
	assert_int_equal(mesh_identity_status(shop, &status), 0);
	assert_true(status.renewals >= 4);
	assert_true(COUNTED(shop, "mesh_identity_refreshes_total") >= (int64_t)status.renewals);
	assert_in_range(COUNTED(shop, "mesh_identity_expiration_timestamp_seconds"), time(NULL) - 2, time(NULL) + 2);
	assert_int_equal(status.overdue_since_s, 0);
	if (atomic_load(&bad_calls))
		fail_msg("%d of %d calls failed, the first: %s", atomic_load(&bad_calls), atomic_load(&good_calls) + atomic_load(&bad_calls), first_failure);
	assert_true(atomic_load(&good_calls) > 100);
	end_stream(stream);
	mesh_client_free(client);
	mesh_close(shop);
	close_server(users, server);
}

static void many_lives_leave_nothing(void **state)
{
	int descriptors = 0, threads = 0;

	(void)state;
	for (int i = 0; i < 50; i++) {
		struct mesh_error err;
		mesh_server *server;
		mesh *m = OPEN_SERVER("users", &server);
		mesh_client *client = new_client(m, "users");
		mesh_call *done;

		if (call(client, "/who", &done, &err))
			fail_msg("life %d: %s", i, err.message);
		mesh_call_unref(done);
		mesh_client_free(client);
		close_server(m, server);
		if (i == 4) { /* what is made once is there */
			descriptors = count_descriptors();
			threads = count_threads();
		}
	}
	assert_int_equal(count_threads(), threads);
	assert_int_equal(count_descriptors(), descriptors);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(both_sides_know_each_other, set_up, tear_down),
		cmocka_unit_test_setup_teardown(another_service_cannot_pose, set_up, tear_down),
		cmocka_unit_test_setup_teardown(discovery_says_who_answers, set_up, tear_down),
		cmocka_unit_test_setup_teardown(discovery_changes_its_mind_during_a_handshake, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_registry_does_not_say_who_answers, set_up, tear_down),
		cmocka_unit_test_setup_teardown(plain_and_secret_do_not_mix, set_up, tear_down),
		cmocka_unit_test_setup_teardown(plain_text_is_never_silent, set_up, tear_down),
		cmocka_unit_test_setup_teardown(rules_decide_and_are_named, set_up, tear_down),
		cmocka_unit_test_setup_teardown(rules_need_identities, set_up, tear_down),
		cmocka_unit_test_setup_teardown(wrong_options_are_named, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_has_expired_is_not_shown, set_up, tear_down),
		cmocka_unit_test_setup_teardown(rotation_drops_nothing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(many_lives_leave_nothing, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
