/*
 * Identities from a directory that others keep, and from a Workload API that is there, takes back what it gave, or is not there; and what is seen of a
 * renewal that does not come.
 */
#include "../lib/mesh_test.h"

#include "../lib/agent.h"
#include "../lib/certificates.h"

#include "api/handle.h"
#include "mesh/identity.h"

#include <psa/crypto.h>
#include <sys/socket.h>
#include <sys/un.h>

#define USERS "spiffe://prod.example/ns/shop/sa/users"

static struct certificate root, stranger, users, renewed, late;
static char dir[128], uri[160];

static int make_all(void **state)
{
	if (make_test_dir(state) || psa_crypto_init() != PSA_SUCCESS)
		return -1;
	make_certificate(&root, &(struct certificate_spec){ AUTHORITY("prod.example") });
	make_certificate(&stranger, &(struct certificate_spec){ AUTHORITY("partner.example") });
	make_certificate(&users, &(struct certificate_spec){ .issuer = &root, .uris = { USERS } });
	make_certificate(&renewed, &(struct certificate_spec){ .issuer = &root, .uris = { USERS } });
	make_certificate(&late, &(struct certificate_spec){ .issuer = &root, .uris = { USERS }, .from_s = -100, .until_s = -10 });
	return 0;
}

static int free_all(void **state)
{
	free_certificate(&root);
	free_certificate(&stranger);
	free_certificate(&users);
	free_certificate(&renewed);
	free_certificate(&late);
	return remove_test_dir(state);
}

static int make_dir(void **state)
{
	static int count;

	(void)state;
	snprintf(dir, sizeof(dir), "%s/identity%d", test_dir, count++);
	snprintf(uri, sizeof(uri), "file:%s", dir);
	return mkdir(dir, 0700);
}

static void write_file(const char *leaf, const char *text, unsigned mode)
{
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, leaf);
	remove(path);
	file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
	assert_int_equal(chmod(path, mode), 0);
}

static void write_spiffe_helper(const struct certificate *leaf)
{
	write_file("svid.pem", leaf->pem, 0644);
	write_file("svid_key.pem", leaf->key_pem, 0600);
	write_file("svid_bundle.pem", root.pem, 0644);
}

static uint64_t generation(mesh *m)
{
	return mesh__identity_generation(m->identity);
}

static bool has_failed(mesh *m, const char *because)
{
	struct mesh__identity_status status;

	mesh__identity_status(m->identity, &status);
	return strstr(status.last_failure, because) != NULL;
}

static void a_directory_gives_an_identity(void **state)
{
	struct mesh__credentials *now;
	char why[512];
	mesh *m;

	(void)state;
	write_spiffe_helper(&users);
	assert_int_equal(mkdir(strcat(strcpy(why, dir), "/bundles"), 0700), 0);
	write_file("bundles/partner.example.pem", stranger.pem, 0644);
	write_file("bundles/README", "not a bundle", 0644);
	m = OPEN_MESH("users", "tls", "on", "identity", uri);
	now = mesh__identity_take(m->identity, why, sizeof(why));
	assert_non_null(now);
	assert_string_equal(now->svids[0]->facts.id.text, USERS);
	assert_int_equal(now->bundle_count, 2);
	assert_non_null(mesh__credentials_bundle(now, "partner.example", 15));
	mesh__credentials_unref(now);
	/* An authority of another trust domain: refused, and what there was stays. */
	write_file("bundles/partner.example.pem", root.pem, 0644);
	WAIT_FOR(has_failed(m, "bundles/partner.example.pem"));
	assert_int_equal(generation(m), 1);
	write_file("bundles/partner.example.pem", "", 0644);
	assert_int_equal(remove(strcat(strcpy(why, dir), "/bundles/partner.example.pem")), 0);
	WAIT_FOR(generation(m) == 2);
	mesh_close(m);
}

static void take_issuer_end(const struct mesh_identity *identity, void *user)
{
	*(int64_t *)user = identity->issuer_not_after_s;
}

/* When certificate, issuer and root end: what `mesh id` and `mesh check` tell. */
static void the_ends_of_a_whole_chain_are_told(void **state)
{
	struct mesh_stats_identity page = { .size = sizeof(page) };
	struct mesh_stats_bundle bundle = { .size = sizeof(bundle) };
	struct certificate middle, leaf, old_root;
	mesh_stats_view *view = NULL;
	int64_t now_s = time(NULL), issuer_end_s = 0;
	char text[26000];
	mesh *m;

	(void)state;
	make_certificate(&old_root, &(struct certificate_spec){ AUTHORITY("prod.example"), .from_s = -60, .until_s = 600 });
	make_certificate(&middle, &(struct certificate_spec){ AUTHORITY("prod.example"), .issuer = &root, .from_s = -60, .until_s = 1800 });
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &middle, .uris = { USERS }, .from_s = -60, .until_s = 900 });
	write_spiffe_helper(&leaf);
	snprintf(text, sizeof(text), "%s%s", leaf.pem, middle.pem);
	write_file("svid.pem", text, 0644);
	snprintf(text, sizeof(text), "%s%s", root.pem, old_root.pem);
	write_file("svid_bundle.pem", text, 0644);
	m = OPEN_MESH("users", "tls", "on", "identity", uri);
	assert_int_equal(mesh_identity_list(m, take_issuer_end, &issuer_end_s), 0);
	assert_in_range(issuer_end_s, now_s + 1790, now_s + 1801);
	assert_int_equal(mesh_stats_open_self(m, &view, NULL), 0);
	assert_int_equal(mesh_stats_identity(view, &page), 0);
	assert_int_equal(page.issuer_not_after_s, issuer_end_s);
	assert_in_range(page.not_after_s, now_s + 890, now_s + 901);
	assert_int_equal(mesh_stats_identity_bundle(view, 0, &bundle), 0);
	assert_int_equal(bundle.certificate_count, 2);
	assert_in_range(bundle.earliest_not_after_s, now_s + 590, now_s + 601);
	assert_in_range(bundle.latest_not_after_s, now_s + 3000, now_s + 3601);
	mesh_stats_close(view);
	mesh_close(m);
	free_certificate(&old_root);
	free_certificate(&middle);
	free_certificate(&leaf);
}

/* spiffe-helper: the certificate first, the key later. */
static void files_written_one_after_another_become_one_generation(void **state)
{
	struct mesh__credentials *now;
	char why[512];
	mesh *m;

	(void)state;
	write_spiffe_helper(&users);
	m = OPEN_MESH("users", "tls", "on", "identity", uri);
	assert_int_equal(generation(m), 1);
	write_file("svid.pem", renewed.pem, 0644);
	WAIT_FOR(has_failed(m, "the private key is not the one of the certificate"));
	assert_int_equal(generation(m), 1);
	write_file("svid_key.pem", renewed.key_pem, 0600);
	WAIT_FOR(generation(m) == 2);
	now = mesh__identity_take(m->identity, why, sizeof(why));
	assert_non_null(now);
	assert_memory_equal(now->svids[0]->chain.raw.p, renewed.der, renewed.len);
	mesh__credentials_unref(now);
	write_file("svid.pem", late.pem, 0644);
	write_file("svid_key.pem", late.key_pem, 0600);
	WAIT_FOR(has_failed(m, "expired"));
	write_file("svid_bundle.pem", "half a fi", 0644);
	WAIT_FOR(has_failed(m, "svid_bundle.pem"));
	assert_int_equal(generation(m), 2);
	/* Good again, but for who can reach the key. */
	write_spiffe_helper(&users);
	assert_int_equal(chmod(strcat(strcpy(why, dir), "/svid_key.pem"), 0644), 0);
	write_file("svid.pem", users.pem, 0644);
	WAIT_FOR(has_failed(m, "svid_key.pem has mode 0644"));
	mesh_close(m);
}

static void swap_data_link(const char *to)
{
	char from[256], link[256];

	snprintf(from, sizeof(from), "%s/..data_tmp", dir);
	snprintf(link, sizeof(link), "%s/..data", dir);
	assert_int_equal(symlink(to, from), 0);
	assert_int_equal(rename(from, link), 0);
}

static void write_version(const char *version, const struct certificate *leaf)
{
	char name[256];

	snprintf(name, sizeof(name), "%s/%s", dir, version);
	assert_int_equal(mkdir(name, 0700), 0);
	snprintf(name, sizeof(name), "%s/tls.crt", version);
	write_file(name, leaf->pem, 0644);
	snprintf(name, sizeof(name), "%s/tls.key", version);
	write_file(name, leaf->key_pem, 0600);
	snprintf(name, sizeof(name), "%s/ca.crt", version);
	write_file(name, root.pem, 0644);
}

static void a_secret_of_kubernetes_is_swapped_as_a_whole(void **state)
{
	static const char *const leaves[] = { "tls.crt", "tls.key", "ca.crt" };
	char path[256], to[64];
	mesh *m;

	(void)state;
	write_version("..v1", &users);
	swap_data_link("..v1");
	for (size_t i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, leaves[i]);
		snprintf(to, sizeof(to), "..data/%s", leaves[i]);
		assert_int_equal(symlink(to, path), 0);
	}
	m = OPEN_MESH("users", "tls", "on", "identity", uri);
	assert_int_equal(generation(m), 1);
	write_version("..v2", &renewed);
	swap_data_link("..v2");
	WAIT_FOR(generation(m) == 2);
	mesh_close(m);
}

static void a_set_that_comes_later_is_found(void **state)
{
	mesh *m = OPEN_MESH("users", "tls", "on", "identity", uri);

	(void)state;
	assert_int_equal(generation(m), 0);
	assert_true(has_failed(m, "holds no certificate yet"));
	write_spiffe_helper(&users);
	WAIT_FOR(generation(m) == 1);
	mesh_close(m);
}

/* Text of a SPIFFE bundle with one authority. */
static void write_jwks(const char *leaf, const struct certificate *ca)
{
	static char text[8192];
	char *to = text + sprintf(text, "{\"keys\": [{\"use\": \"jwt-svid\", \"kty\": \"EC\"}, {\"use\": \"x509-svid\", \"kty\": \"EC\", \"x5c\": [\"");

	for (const char *line = strchr(ca->pem, '\n') + 1; *line != '-'; line = strchr(line, '\n') + 1) {
		size_t len = strcspn(line, "\n");

		memcpy(to, line, len);
		to += len;
	}
	strcpy(to, "\"]}], \"spiffe_sequence\": 1, \"spiffe_refresh_hint\": 300}");
	write_file(leaf, text, 0644);
}

static void bundles_may_be_jwk_sets(void **state)
{
	static const char *const names[] = { "bundle.json", "svid_bundle.json" };
	struct mesh__credentials *now;
	char why[512], path[256];
	mesh *m;

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(i ? make_dir(NULL) : 0, 0);
		write_file("svid.pem", users.pem, 0644);
		write_file("svid_key.pem", users.key_pem, 0600);
		snprintf(path, sizeof(path), "%s/bundles", dir);
		assert_int_equal(mkdir(path, 0700), 0);
		write_jwks("bundles/partner.example.json", &stranger);
		m = OPEN_MESH("users", "tls", "on", "identity", uri);
		assert_true(has_failed(m, "has neither svid_bundle.pem nor bundle.json"));
		write_jwks(names[i], &root);
		WAIT_FOR(generation(m) == 1);
		now = mesh__identity_take(m->identity, why, sizeof(why));
		assert_non_null(now);
		assert_int_equal(now->bundle_count, 2);
		assert_memory_equal(mesh__credentials_bundle(now, "prod.example", 12)->cas.raw.p, root.der, root.len);
		assert_memory_equal(mesh__credentials_bundle(now, "partner.example", 15)->cas.raw.p, stranger.der, stranger.len);
		mesh__credentials_unref(now);
		write_file("bundles/partner.example.json", "{\"keys\": [{\"use\": \"x509-svid\"}]}", 0644);
		WAIT_FOR(has_failed(m, "bundles/partner.example.json cannot be used"));
		assert_true(has_failed(m, "key 1 of the JWK set"));
		/* The same trust domain twice, as PEM and as JWK set. */
		write_jwks("bundles/partner.example.json", &stranger);
		write_file("bundles/partner.example.pem", stranger.pem, 0644);
		WAIT_FOR(has_failed(m, "there is a bundle for its trust domain already"));
		assert_int_equal(generation(m), 1);
		mesh_close(m);
	}
}

static int call_path(mesh_client *client, const char *path, uint32_t timeout_ms, char *message, size_t capacity)
{
	struct mesh_call_options opts = http_call(path);
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *done = NULL;
	int rc;

	opts.method = "POST"; /* not tried again if it may have been done */
	opts.timeout_ms = timeout_ms;
	rc = mesh_client_call(client, &opts, &done, &err);

	mesh_call_unref(done);
	snprintf(message, capacity, "%s", err.message);
	return rc;
}

static void write_party(const struct certificate *leaf)
{
	write_file("tls.crt", leaf->pem, 0644);
	write_file("tls.key", leaf->key_pem, 0600);
	write_file("ca.crt", root.pem, 0644);
}

static int call_once(mesh_client *client, char *message, size_t capacity)
{
	return call_path(client, "/echo", 0, message, capacity);
}

static mesh_request *_Atomic held;

static void hold(mesh_request *request, void *user)
{
	(void)user;
	atomic_store(&held, mesh_request_ref(request));
}

static atomic_int held_result;

static void *call_and_wait(void *client)
{
	char message[512];

	atomic_store(&held_result, call_path(client, "/hold", 120000, message, sizeof(message)));
	return NULL;
}

/* crl.pem: what is revoked is refused, and the connection that it had ends. */
static void a_revoked_peer_loses_its_connection_and_gets_no_new_one(void **state)
{
	struct certificate server_leaf, client_leaf;
	struct crl crl;
	char servers_dir[sizeof(dir)], message[512];
	pthread_t waiting;
	mesh_server *server;
	mesh_client *client;
	mesh *users_mesh, *shop;

	(void)state;
	make_certificate(&server_leaf, &(struct certificate_spec){ .issuer = &root, .subject = "CN=server", .uris = { USERS } });
	make_certificate(&client_leaf, &(struct certificate_spec){ .issuer = &root, .subject = "CN=client", .uris = { "spiffe://prod.example/ns/shop/sa/shop" } });
	write_party(&server_leaf);
	memcpy(servers_dir, dir, sizeof(dir));
	users_mesh = OPEN_MESH("users", "tls", "on", "identity", uri, "namespace", "shop");
	server = new_server(users_mesh, NULL);
	add_handler(server, "/echo", 0, answer_echo, NULL);
	add_handler(server, "/hold", 0, hold, NULL);
	start_server(server);
	assert_int_equal(make_dir(NULL), 0);
	write_party(&client_leaf);
	shop = OPEN_MESH("shop", "tls", "on", "identity", uri, "namespace", "shop");
	client = new_client(shop, "users");
	assert_int_equal(call_once(client, message, sizeof(message)), 0);
	memcpy(dir, servers_dir, sizeof(dir));
	write_file("crl.pem", "half a fi", 0644);
	WAIT_FOR(has_failed(users_mesh, "crl.pem cannot be used: revocation list 1: it is not PEM"));
	assert_int_equal(generation(users_mesh), 1);
	assert_int_equal(call_once(client, message, sizeof(message)), 0);
	/* A call that is under way would last for two minutes if its connection were only drained. */
	assert_int_equal(pthread_create(&waiting, NULL, call_and_wait, client), 0);
	WAIT_FOR(atomic_load(&held) != NULL);
	make_crl(&crl, &(struct crl_spec){ .issuer = &root, .revoked = { &client_leaf } });
	write_file("crl.pem", crl.pem, 0644);
	WAIT_FOR(generation(users_mesh) == 2);
	WAIT_FOR(atomic_load(&held_result) != 0);
	pthread_join(waiting, NULL);
	mesh_request_reply(atomic_load(&held), &(struct mesh_reply){ .size = sizeof(struct mesh_reply) });
	mesh_request_unref(atomic_load(&held));
	WAIT_FOR(call_once(client, message, sizeof(message)) != 0 && strstr(message, "certificate revoked"));
	/* Taken back no more. */
	write_file("crl.pem", "", 0644);
	WAIT_FOR(generation(users_mesh) == 3);
	WAIT_FOR(call_once(client, message, sizeof(message)) == 0);
	mesh_client_free(client);
	mesh_server_free(server);
	mesh_close(shop);
	mesh_close(users_mesh);
	free_certificate(&server_leaf);
	free_certificate(&client_leaf);
}

static int open_with(unsigned owner, unsigned group, unsigned mode, char *message, size_t capacity)
{
	const struct mesh_setting settings[] = { { "tls", "on" }, { "identity", uri } };
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	char path[256];
	mesh *m = NULL;
	int rc;

	snprintf(path, sizeof(path), "%s/..v1/tls.key", dir);
	assert_int_equal(chown(path, owner, group), 0);
	assert_int_equal(chmod(path, mode), 0);
	opts.service = "users";
	opts.settings = settings;
	opts.setting_count = 2;
	rc = mesh_open(&opts, &m, &err);
	assert_true(rc || generation(m) == 1);
	snprintf(message, capacity, "%s", err.message);
	mesh_close(m);
	return rc;
}

/* What Kubernetes mounts for a pod with fsGroup: root's files, which a group may read, behind two links. Only root can try that. */
static void a_key_of_root_may_be_read_by_its_group_and_no_more(void **state)
{
	enum { US = 0, GROUP = 4711, SOMEBODY = 4712 };
	static const unsigned good[] = { 0400, 0440, 0600, 0640 }, bad[] = { 0444, 0644, 0660, 0650, 0620, 0604 };
	static const char *const leaves[] = { "tls.crt", "tls.key", "ca.crt" };
	char path[256], to[64], message[512];

	(void)state;
	if (geteuid() != 0)
		skip();
	write_version("..v1", &users);
	swap_data_link("..v1");
	for (size_t i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, leaves[i]);
		snprintf(to, sizeof(to), "..data/%s", leaves[i]);
		assert_int_equal(symlink(to, path), 0);
	}
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		assert_int_equal(open_with(US, GROUP, good[i], message, sizeof(message)), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_int_equal(open_with(US, GROUP, bad[i], message, sizeof(message)), MESH_E_NOT_PRIVATE);
		assert_non_null(strstr(message, "tls.key has mode 0"));
		assert_non_null(strstr(message, "chmod 0440 it (Kubernetes: defaultMode 0440, with fsGroup)"));
	}
	assert_int_equal(open_with(SOMEBODY, GROUP, 0400, message, sizeof(message)), MESH_E_NOT_PRIVATE);
	assert_non_null(strstr(message, "tls.key belongs to user 4712, neither to us (0) nor to root"));
}

static void a_key_that_others_can_read_is_refused(void **state)
{
	const struct mesh_setting settings[] = { { "tls", "on" }, { "identity", uri } };
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	mesh *m = NULL;

	(void)state;
	write_spiffe_helper(&users);
	write_file("svid_key.pem", users.key_pem, 0644);
	opts.service = "users";
	opts.settings = settings;
	opts.setting_count = 2;
	assert_int_equal(mesh_open(&opts, &m, &err), MESH_E_NOT_PRIVATE);
	assert_non_null(strstr(err.message, "svid_key.pem has mode 0644"));
	assert_non_null(strstr(err.message, "chmod"));
	/* Nor do we trust whom everybody may add. */
	write_spiffe_helper(&users);
	write_file("svid_bundle.pem", root.pem, 0666);
	assert_int_equal(mesh_open(&opts, &m, &err), MESH_E_NOT_PRIVATE);
	assert_non_null(strstr(err.message, "svid_bundle.pem has mode 0666"));
}

static int listen_at(const char *name, char *endpoint, size_t capacity)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%.80s/%.16s", dir, name);
	snprintf(endpoint, capacity, "spiffe:unix://%s", sa.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

static void a_workload_api_that_is_not_there_is_named(void **state)
{
	struct mesh__identity_status status;
	char endpoint[200];
	mesh *m;
	int fd;

	(void)state;
	snprintf(endpoint, sizeof(endpoint), "spiffe:unix://%.90s/agent.sock", dir);
	m = OPEN_MESH("users", "tls", "on", "identity", endpoint);
	WAIT_FOR(has_failed(m, "agent.sock cannot be reached: cannot connect: No such file or directory"));
	fd = listen_at("agent.sock", endpoint, sizeof(endpoint));
	WAIT_FOR(!has_failed(m, "No such file"));
	mesh__identity_status(m->identity, &status);
	assert_int_equal(status.next_renewal_s, 0); /* nobody knows */
	mesh_close(m);
	close(fd);
	m = OPEN_MESH("users", "tls", "on", "identity", "spiffe:tcp://127.0.0.1:1");
	WAIT_FOR(has_failed(m, "tcp://127.0.0.1:1 cannot be reached: "));
	WAIT_FOR(has_failed(m, "Connection refused"));
	mesh_close(m);
}

/* One that accepts and says nothing, one that says it speaks HTTP/2 and then nothing, one that says something else: named, tried again, and no call waits. */
static void a_workload_api_that_says_nothing_or_nonsense_is_named(void **state)
{
	static const char settings[9] = { 0, 0, 0, 4, 0, 0, 0, 0, 0 };
	char endpoints[3][200], message[512];
	int fds[3], peers[3];
	mesh_client *client;
	mesh *meshes[3];

	(void)state;
	for (int i = 0; i < 3; i++) {
		fds[i] = listen_at(i == 0 ? "mute" : i == 1 ? "silent" : "other", endpoints[i], sizeof(endpoints[i]));
		meshes[i] = OPEN_MESH("users", "tls", "on", "identity", endpoints[i]);
		peers[i] = accept(fds[i], NULL, NULL);
		assert_true(peers[i] >= 0);
	}
	assert_int_equal(send(peers[1], settings, sizeof(settings), MSG_NOSIGNAL), sizeof(settings));
	assert_int_equal(send(peers[2], "SSH-2.0-OpenSSH_9.2\r\n", 21, MSG_NOSIGNAL), 21);
	client = new_client(meshes[1], "orders");
	assert_int_not_equal(call_once(client, message, sizeof(message)), 0);
	mesh_client_free(client);
	WAIT_FOR(has_failed(meshes[2], "other cannot be reached: the peer does not speak HTTP/2"));
	WAIT_FOR(has_failed(meshes[0], "mute cannot be reached: "));
	WAIT_FOR(has_failed(meshes[1], "silent took our stream but has said nothing for 10 s"));
	/* Tried again. */
	for (int i = 0; i < 3; i++) {
		close(peers[i]);
		peers[i] = accept(fds[i], NULL, NULL);
		assert_true(peers[i] >= 0);
	}
	for (int i = 0; i < 3; i++) {
		assert_int_equal(generation(meshes[i]), 0);
		mesh_close(meshes[i]);
		close(peers[i]);
		close(fds[i]);
	}
}

static void keep_warning(int32_t level, const char *line, void *user)
{
	if (level == MESH_LOG_WARN && strstr(line, "our private key comes from there in PLAIN TEXT"))
		atomic_fetch_add((atomic_int *)user, 1);
}

static void a_key_over_the_network_is_warned_of(void **state)
{
	static const char *const uris[] = { "spiffe:tcp://127.0.0.1:9", "spiffe:tcp://[::1]:9", "spiffe:tcp://255.255.255.255:9" }; /* no packet leaves for that */

	(void)state;
	for (int i = 0; i < 3; i++) {
		const struct mesh_setting settings[] = { { "tls", "on" }, { "identity", uris[i] } };
		struct mesh_options opts = MESH_OPTIONS_INIT;
		atomic_int warnings = 0;
		mesh *m = NULL;

		opts.service = "users";
		opts.settings = settings;
		opts.setting_count = 2;
		opts.log = keep_warning;
		opts.log_user = &warnings;
		assert_int_equal(mesh_open(&opts, &m, NULL), 0);
		mesh_close(m);
		assert_int_equal(atomic_load(&warnings), i == 2);
	}
}

/* ---- taken back ---- */

#define SHOP "spiffe://partner.example/ns/shop/sa/shop"

enum { REDACTIONS = 12, WITHIN_MS = 300, SOON_ENOUGH_MIN = 10 };

/* A process of another trust domain than its peer's, and the agent on its machine. */
struct party {
	const char *id;
	const struct certificate *leaf, *root, *other_root;
	const char *other_domain;
	struct agent agent;
	mesh *m;
};

static void say_all(struct party *party, bool is_federated)
{
	static struct agent_message message;

	message.len = 0;
	add_svid(&message, party->id, party->leaf, &party->root, 1);
	if (is_federated)
		add_federated(&message, party->other_domain, party->other_root);
	agent_say(&party->agent, &message);
}

static mesh *open_party(struct party *party, const char *service)
{
	agent_start(&party->agent);
	say_all(party, true);
	party->m = OPEN_MESH(service, "tls", "on", "identity", party->agent.endpoint, "allow", "spiffe://partner.example/*", "peer.id@users", USERS);
	WAIT_FOR(generation(party->m) == 1);
	return party->m;
}

static void close_party(struct party *party)
{
	mesh_close(party->m);
	agent_stop(&party->agent);
}

static mesh_request *_Atomic held; /* never finished: the connection's end is its end */

static void hold_stream(mesh_request *request, void *user)
{
	(void)user;
	atomic_store(&held, mesh_request_ref(request));
	mesh_request_send(request, "begun", 5, 0);
}

static mesh_call *start_stream(mesh_client *client)
{
	struct mesh_message message = { .size = sizeof(message) };
	struct mesh_call_options opts = grpc_call("/t.S/Hold", NULL, 0);
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_call *stream = NULL;

	opts.flags |= MESH_CALL_STREAM;
	opts.timeout_ms = 60000;
	if (mesh_client_start(client, &opts, &stream, &err))
		fail_msg("%s", err.message);
	if (mesh_call_recv(stream, &message, 30000) != 1) {
		mesh_call_error(stream, &err);
		fail_msg("%s", err.message);
	}
	mesh_message_release(&message);
	return stream;
}

/* By turns: an identity is taken back, then trust in the other's domain; here, then there. */
static void take_something_back(struct party *party, bool is_identity)
{
	if (is_identity)
		agent_deny(&party->agent);
	else
		say_all(party, false);
}

static void give_it_again(struct party *party)
{
	uint64_t before = generation(party->m);

	say_all(party, true);
	WAIT_FOR(generation(party->m) > before);
}

/* Connections look at themselves once a second: were that what ended them, few would be done so soon, and hardly ever ten of twelve. */
static void what_is_taken_back_ends_at_once(void **state)
{
	static struct certificate shop;
	static struct party parties[2];
	struct mesh_message message = { .size = sizeof(message) };
	mesh_server *server;
	mesh_client *client;
	mesh_call *stream;
	int soon_enough = 0;

	(void)state;
	make_certificate(&shop, &(struct certificate_spec){ .issuer = &stranger, .uris = { SHOP } });
	parties[0] = (struct party){ .id = USERS, .leaf = &users, .root = &root, .other_root = &stranger, .other_domain = "spiffe://partner.example" };
	parties[1] = (struct party){ .id = SHOP, .leaf = &shop, .root = &stranger, .other_root = &root, .other_domain = "spiffe://prod.example" };
	server = new_server(open_party(&parties[0], "users"), NULL);
	add_handler(server, "/t.S/Hold", MESH_HANDLER_GRPC | MESH_HANDLER_STREAM, hold_stream, NULL);
	start_server(server);
	client = new_client(open_party(&parties[1], "shop"), "users");
	for (int i = 0; i < REDACTIONS; i++) {
		struct party *party = &parties[i / 2 % 2];
		uint64_t began_ns;

		stream = start_stream(client);
		began_ns = test_now_ns();
		take_something_back(party, i % 2);
		assert_true(mesh_call_recv(stream, &message, 30000) < 0);
		soon_enough += test_now_ns() - began_ns < WITHIN_MS * UINT64_C(1000000);
		mesh_call_unref(stream);
		mesh_request_unref(atomic_load(&held));
		give_it_again(party);
	}
	assert_true(soon_enough >= SOON_ENOUGH_MIN);
	assert_int_equal(COUNTED(parties[0].m, "mesh_server_connections_closed_total", "reason", "revoked"), REDACTIONS / 2);
	assert_int_equal(COUNTED(parties[1].m, "mesh_connections_closed_total", "reason", "revoked"), REDACTIONS / 2);
	mesh_client_free(client);
	mesh_server_free(server);
	close_party(&parties[1]);
	close_party(&parties[0]);
	free_certificate(&shop);
}

/* ---- missed ---- */

/* What the host's log callback got. */
struct lines {
	pthread_mutex_t lock;
	int missed, failed;
	char last_missed[600];
};

static void keep_line(int32_t level, const char *line, void *user)
{
	static const char missed[] = "identity: renewal missed: ", failed[] = "identity: renewal failed: ";
	struct lines *lines = user;

	if (level != MESH_LOG_WARN)
		return;
	pthread_mutex_lock(&lines->lock);
	lines->failed += strncmp(line, failed, strlen(failed)) == 0;
	if (strncmp(line, missed, strlen(missed)) == 0) {
		lines->missed++;
		snprintf(lines->last_missed, sizeof(lines->last_missed), "%s", line);
	}
	pthread_mutex_unlock(&lines->lock);
}

static int count_failed(struct lines *lines)
{
	int failed;

	pthread_mutex_lock(&lines->lock);
	failed = lines->failed;
	pthread_mutex_unlock(&lines->lock);
	return failed;
}

static mesh *open_with_log(struct lines *lines, const char *service, const char *identity, const char *state_dir)
{
	const struct mesh_setting settings[] = { { "tls", "on" }, { "identity", identity }, { "state.dir", state_dir }, { "identity.lifetime", "12s" } };
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	mesh *m = NULL;

	memset(lines, 0, sizeof(*lines));
	pthread_mutex_init(&lines->lock, NULL);
	opts.service = service;
	opts.settings = settings;
	opts.setting_count = 4;
	opts.log = keep_line;
	opts.log_user = lines;
	if (mesh_open(&opts, &m, &err))
		fail_msg("%s: %s", service, err.message);
	return m;
}

static int64_t overdue_since(mesh *m)
{
	struct mesh__identity_status status;

	mesh__identity_status(m->identity, &status);
	return status.overdue_since_s;
}

static uint64_t count_failures(mesh *m)
{
	struct mesh__identity_status status;

	mesh__identity_status(m->identity, &status);
	return status.failures;
}

/* Runs `mesh check`, as whoever is on call would; its exit status. What it says is in `said`. */
static int check_all(char *said, size_t capacity)
{
	FILE *command = popen("./mesh check 2>&1", "r");
	size_t len;
	int status;

	assert_non_null(command);
	len = fread(said, 1, capacity - 1, command);
	said[len] = '\0';
	status = pclose(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The line of a process in what `mesh check` says, or NULL. */
static const char *line_of(const char *said, const char *service, char *line, size_t capacity)
{
	char who[64];
	const char *at;

	snprintf(who, sizeof(who), "%s.%d", service, (int)getpid());
	at = strstr(said, who);
	while (at && at > said && at[-1] != '\n')
		at--;
	if (!at)
		return NULL;
	snprintf(line, capacity, "%.*s", (int)strcspn(at, "\n"), at);
	return line;
}

static void assert_missed_is_seen(mesh *m, const char *service, struct lines *lines, const char *said, const char *because)
{
	char line[600];

	assert_int_equal(COUNTED(m, "mesh_identity_missed_total"), 1);
	assert_int_equal(COUNTED(m, "mesh_identity_overdue"), 1);
	pthread_mutex_lock(&lines->lock);
	assert_in_range(lines->missed, 1, 2); /* again when half of what was left has gone by */
	if (!strstr(lines->last_missed, because))
		fail_msg("%s: no \"%s\" in: %s", service, because, lines->last_missed);
	pthread_mutex_unlock(&lines->lock);
	assert_non_null(line_of(said, service, line, sizeof(line)));
	if (strncmp(line, "FAIL", 4) || !strstr(line, "its renewal is") || (strcmp(because, "none") && !strstr(line, because)))
		fail_msg("mesh check says: %s", line);
}

/* All long before the end, and by each source in its own way: nobody writes, the authority cannot be used, the agent has gone. */
static void a_missed_renewal_is_seen_everywhere(void **state)
{
	static struct certificate old, brief;
	static struct agent_message message;
	const struct certificate *const roots[] = { &root };
	struct lines file_lines, local_lines, agent_lines, fine_lines;
	char said[16384], line[600], state_dir[200], authority[256];
	struct agent agent;
	mesh *by_file, *by_local, *by_agent, *fine;

	(void)state;
	/* Three quarters of its life are over when it comes. */
	make_certificate(&old, &(struct certificate_spec){ .issuer = &root, .uris = { USERS }, .from_s = -3600, .until_s = 1200 });
	snprintf(state_dir, sizeof(state_dir), "%s/state", dir);
	snprintf(authority, sizeof(authority), "%s/ca", state_dir);
	by_local = open_with_log(&local_lines, "bylocal", "local:", state_dir);
	assert_int_equal(chmod(authority, 0777), 0);
	write_spiffe_helper(&users);
	fine = open_with_log(&fine_lines, "fine", uri, state_dir);
	agent_start(&agent);
	make_certificate(&brief, &(struct certificate_spec){ .issuer = &root, .uris = { USERS }, .from_s = -60, .until_s = 12 });
	add_svid(&message, USERS, &brief, roots, 1);
	agent_say(&agent, &message);
	by_agent = open_with_log(&agent_lines, "byagent", agent.endpoint, state_dir);
	WAIT_FOR(generation(by_agent) == 1);
	agent_stop(&agent);
	WAIT_FOR(has_failed(by_agent, "cannot be reached"));
	WAIT_FOR(count_failures(by_local));
	assert_int_equal(overdue_since(by_local), 0); /* the first try is made much earlier */
	make_dir(NULL);
	write_spiffe_helper(&old);
	by_file = open_with_log(&file_lines, "byfile", uri, state_dir);
	WAIT_FOR(overdue_since(by_file) && overdue_since(by_agent) && overdue_since(by_local));
	assert_int_equal(check_all(said, sizeof(said)), 1);
	assert_missed_is_seen(by_local, "bylocal", &local_lines, said, "has mode 0777");
	assert_missed_is_seen(by_file, "byfile", &file_lines, said, "none");
	assert_missed_is_seen(by_agent, "byagent", &agent_lines, said, "cannot be reached");
	assert_non_null(line_of(said, "fine", line, sizeof(line)));
	assert_int_equal(strncmp(line, "ok", 2), 0);
	assert_int_equal(COUNTED(fine, "mesh_identity_missed_total"), 0);
	assert_int_equal(COUNTED(by_file, "mesh_identity_failures_total"), 0);
	assert_true(COUNTED(by_local, "mesh_identity_failures_total", "reason", "authority") >= 1);
	assert_true(COUNTED(by_agent, "mesh_identity_failures_total", "reason", "socket") >= 1);
	/* Tries go on and fail, and the log is not full of them. */
	assert_int_equal(count_failed(&local_lines), 1);
	/* And all is well again. */
	write_spiffe_helper(&renewed);
	WAIT_FOR(!overdue_since(by_file));
	assert_int_equal(COUNTED(by_file, "mesh_identity_overdue"), 0);
	mesh_close(by_file);
	mesh_close(by_agent);
	mesh_close(fine);
	mesh_close(by_local);
	free_certificate(&old);
	free_certificate(&brief);
}

static void expect_health(mesh_call *watch, char status)
{
	struct mesh_message message = { .size = sizeof(message) };
	struct mesh_error err = MESH_ERROR_INIT;

	if (mesh_call_recv(watch, &message, 30000) != 1) {
		mesh_call_error(watch, &err);
		fail_msg("%s", err.message);
	}
	assert_int_equal(message.len, 2);
	assert_int_equal(((const char *)message.data)[1], status);
	mesh_message_release(&message);
}

/* One tenth of the life: nobody new is to come, and who has come is told. */
static void health_ends_before_the_identity(void **state)
{
	struct mesh_call_options opts = grpc_call("/grpc.health.v1.Health/Watch", "", 0);
	struct certificate old, brief;
	mesh_server *server;
	mesh_client *client;
	mesh_call *watch;
	mesh *m;

	(void)state;
	make_certificate(&old, &(struct certificate_spec){ .issuer = &root, .uris = { USERS }, .from_s = -3600, .until_s = 3600 });
	make_certificate(&brief, &(struct certificate_spec){ .issuer = &root, .uris = { USERS }, .from_s = -3600, .until_s = 300 });
	write_spiffe_helper(&old);
	m = OPEN_MESH("users", "tls", "on", "identity", uri, "namespace", "shop");
	server = new_server(m, NULL);
	start_server(server);
	client = new_client(m, "users");
	opts.flags |= MESH_CALL_STREAM;
	opts.timeout_ms = 120000;
	assert_int_equal(mesh_client_start(client, &opts, &watch, NULL), 0);
	assert_int_equal(mesh_call_send(watch, "", 0, MESH_SEND_LAST, 30000), 0);
	expect_health(watch, 1);
	write_spiffe_helper(&brief);
	expect_health(watch, 2);
	assert_int_equal(mesh_server_set_health(server, "", 1), 0); /* that changes nothing now */
	write_spiffe_helper(&renewed);
	expect_health(watch, 1);
	mesh_call_unref(watch);
	mesh_client_free(client);
	mesh_server_free(server);
	mesh_close(m);
	free_certificate(&old);
	free_certificate(&brief);
}

static void failures_are_logged_when_they_are_news(void **state)
{
	char text[64];
	struct lines lines;
	uint64_t before;
	mesh *m;

	(void)state;
	write_spiffe_helper(&users);
	m = open_with_log(&lines, "users", uri, dir);
	for (int i = 0; i < 10; i++) { /* each has another sentence */
		before = count_failures(m);
		snprintf(text, sizeof(text), "-----BEGIN CERTIFICATE-----\n%d", i);
		write_file("svid_bundle.pem", i % 2 ? text : "nothing", 0644);
		WAIT_FOR(count_failures(m) > before);
	}
	mesh_close(m);
	assert_in_range(count_failed(&lines), 1, 4);
}

/* An agent that refuses for good does so once: what comes right after another failure has to wait, and is not forgotten. */
static void a_failure_that_comes_too_soon_is_said_later(void **state)
{
	struct agent agent;
	mesh_server *another;
	struct lines lines;
	mesh *m, *host = OPEN_MESH("host", "tls", "off", "discovery", "");

	(void)state;
	agent_start(&agent);
	agent_stop(&agent);
	m = open_with_log(&lines, "users", agent.endpoint, dir);
	WAIT_FOR(has_failed(m, "cannot be reached"));
	another = new_server(host, strstr(agent.endpoint, "127."));
	start_server(another);
	WAIT_FOR(has_failed(m, "says Unimplemented"));
	assert_int_equal(count_failed(&lines), 1);
	WAIT_FOR(count_failed(&lines) == 2);
	mesh_close(m);
	mesh_server_free(another);
	mesh_close(host);
}

static void keep_default(const struct mesh_identity *identity, void *user)
{
	if (identity->is_default)
		snprintf(user, 200, "%s", identity->id);
}

static void keep_own_domain(const struct mesh_trust *trust, void *user)
{
	if (trust->is_own)
		snprintf(user, 200, "%s", trust->domain);
}

/* Not only what is shown: also whom it takes for one of its own, and what is said about it. */
static void the_identity_that_a_hint_names_is_ours(void **state)
{
	static struct agent_message message;
	static struct agent agent;
	const struct certificate *own = &root, *other = &stranger;
	struct certificate leaf;
	struct mesh__credentials *now;
	struct mesh__spiffe_id expected;
	char text[200] = "";
	const char *why, *from;
	mesh *m;

	(void)state;
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &stranger, .uris = { "spiffe://partner.example/us" } });
	message.len = 0;
	add_svid_with_hint(&message, "spiffe://prod.example/ns/shop/sa/users", &users, &own, 1, "usual");
	add_svid_with_hint(&message, "spiffe://partner.example/us", &leaf, &other, 1, "partner");
	agent_start(&agent);
	agent_say(&agent, &message);
	/* Its name and namespace make the ID of the other. */
	m = OPEN_MESH("users", "tls", "on", "identity", agent.endpoint, "identity.hint", "partner", "namespace", "shop");
	WAIT_FOR(generation(m) > 0);
	now = mesh__identity_take(m->identity, text, sizeof(text));
	assert_non_null(now);
	assert_string_equal(mesh__identity_svid(m->identity, now, NULL)->facts.id.text, "spiffe://partner.example/us");
	assert_string_equal(mesh__identity_svid(m->identity, now, "users")->facts.id.text, "spiffe://partner.example/us");
	assert_int_equal(mesh__identity_expected(m->identity, now, "orders", NULL, &expected, &from, &why), 0);
	assert_string_equal(expected.text, "spiffe://partner.example/ns/shop/sa/orders");
	mesh__credentials_unref(now);
	assert_int_equal(mesh_identity_list(m, keep_default, text), 0);
	assert_string_equal(text, "spiffe://partner.example/us");
	assert_int_equal(mesh_identity_trusts(m, keep_own_domain, text), 0);
	assert_string_equal(text, "partner.example");
	mesh_close(m);
	agent_stop(&agent);
	free_certificate(&leaf);
}

/* An agent needs a moment for a process that has just started: that fails no call. */
static void a_call_waits_for_the_first_identity(void **state)
{
	static struct agent_message message;
	static struct agent agent;
	const struct certificate *own = &root;
	struct mesh_call_options opts = grpc_call("/t.S/Echo", "x", 1);
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_server *server;
	mesh_client *client;
	mesh_call *waiting;
	mesh *m;

	(void)state;
	message.len = 0;
	add_svid(&message, USERS, &users, &own, 1);
	agent_start(&agent);
	m = OPEN_MESH("users", "tls", "on", "identity", agent.endpoint, "namespace", "shop", "resolve.timeout", "20s", "timeout", "30s",
		      "resolve.timeout@hasty", "20ms");
	server = new_server(m, NULL);
	add_handler(server, "*", MESH_HANDLER_GRPC, answer_echo, NULL);
	start_server(server);
	client = new_client(m, "hasty");
	assert_int_equal(mesh_client_call(client, &opts, NULL, &err), MESH_E_IDENTITY);
	assert_non_null(strstr(err.message, "hasty: no identity to show: spiffe:tcp://"));
	assert_int_equal(err.retry_safe, 1);
	mesh_client_free(client);
	client = new_client(m, "users");
	assert_int_equal(mesh_client_start(client, &opts, &waiting, NULL), 0);
	opts.flags |= MESH_CALL_FAIL_FAST;
	assert_int_equal(mesh_client_call(client, &opts, NULL, &err), MESH_E_IDENTITY);
	assert_int_equal(mesh_call_wait(waiting, 50, NULL), MESH_E_AGAIN);
	agent_say(&agent, &message);
	if (mesh_call_wait(waiting, 30000, &err))
		fail_msg("%s", err.message);
	mesh_call_unref(waiting);
	/* Who ends while they wait takes them along. */
	mesh_client_free(client);
	mesh_server_free(server);
	mesh_close(m);
	agent_stop(&agent);
	agent_start(&agent);
	m = OPEN_MESH("users", "tls", "on", "identity", agent.endpoint, "resolve.timeout", "20s");
	client = new_client(m, "users");
	opts.flags &= ~(uint32_t)MESH_CALL_FAIL_FAST;
	assert_int_equal(mesh_client_start(client, &opts, &waiting, NULL), 0);
	assert_int_equal(mesh_call_wait(waiting, 20, NULL), MESH_E_AGAIN);
	mesh_client_free(client);
	mesh_close(m);
	assert_int_equal(mesh_call_wait(waiting, 0, NULL), MESH_E_CLOSING);
	mesh_call_unref(waiting);
	agent_stop(&agent);
}

/* On several loops: one in three is cancelled, one in three has no patience, the others go on when it comes, or end with the mesh. */
static void calls_that_wait_for_an_identity_may_leave_the_line(void **state)
{
	enum { CALLS = 90 };
	static struct agent_message message;
	static struct agent agent;
	const struct certificate *own = &root;
	struct mesh_call_options opts = grpc_call("/t.S/Echo", "x", 1);
	mesh_call *calls[CALLS];
	mesh_client *client;
	mesh_server *server;
	mesh *m;

	(void)state;
	message.len = 0;
	add_svid(&message, USERS, &users, &own, 1);
	for (int round = 0; round < 2; round++) {
		bool comes = round == 0;

		agent_start(&agent);
		m = OPEN_MESH("users", "tls", "on", "identity", agent.endpoint, "namespace", "shop", "resolve.timeout", "30s", "timeout", "40s", "loops", "4");
		server = new_server(m, NULL);
		add_handler(server, "*", MESH_HANDLER_GRPC, answer_echo, NULL);
		start_server(server);
		client = new_client(m, "users");
		for (int i = 0; i < CALLS; i++) {
			opts.timeout_ms = i % 3 == 1 ? 20 : 0;
			assert_int_equal(mesh_client_start(client, &opts, &calls[i], NULL), 0);
		}
		for (int i = 0; i < CALLS; i += 3)
			mesh_call_cancel(calls[i]);
		for (int i = 1; i < CALLS; i += 3)
			assert_int_equal(mesh_call_wait(calls[i], 30000, NULL), MESH_E_DEADLINE);
		if (comes)
			agent_say(&agent, &message);
		for (int i = 0; comes && i < CALLS; i++)
			assert_int_equal(mesh_call_wait(calls[i], 30000, NULL), i % 3 == 0 ? MESH_E_CANCELLED : i % 3 == 1 ? MESH_E_DEADLINE : 0);
		mesh_client_free(client);
		mesh_server_free(server);
		mesh_close(m);
		for (int i = 0; i < CALLS; i++) {
			assert_int_equal(mesh_call_wait(calls[i], 0, NULL),
					 i % 3 == 0 ? MESH_E_CANCELLED : i % 3 == 1 ? MESH_E_DEADLINE : comes ? 0 : MESH_E_CLOSING);
			mesh_call_unref(calls[i]);
		}
		agent_stop(&agent);
	}
}

/* Else every connection would make way for one like itself, over and over. */
static void another_identity_that_expires_ends_no_connection(void **state)
{
	static struct agent_message message;
	static struct agent agent;
	const struct certificate *own = &root;
	struct certificate brief;
	struct mesh__credentials *now;
	struct mesh__spiffe_id peer;
	const char *why;
	mesh *m;

	(void)state;
	make_certificate(&brief, &(struct certificate_spec){ .issuer = &root, .uris = { "spiffe://prod.example/job" }, .from_s = -60, .until_s = 2 });
	message.len = 0;
	add_svid(&message, USERS, &users, &own, 1);
	add_svid(&message, "spiffe://prod.example/job", &brief, &own, 1);
	agent_start(&agent);
	agent_say(&agent, &message);
	m = OPEN_MESH("users", "tls", "on", "identity", agent.endpoint);
	WAIT_FOR(generation(m) == 1);
	WAIT_FOR((agent_say(&agent, &message), poll(NULL, 0, 50), has_failed(m, "prod.example/job expired")));
	assert_int_equal(mesh__spiffe_id_parse(&peer, USERS, strlen(USERS), &why), 0);
	now = mesh__identity_peek(m->identity);
	assert_int_equal(mesh__identity_judge(m->identity, now, &(struct mesh__session){ .own_id = "spiffe://prod.example/job", .peer = &peer }),
			 MESH__OLD_DRAINS);
	assert_int_equal(mesh__identity_judge(m->identity, now, &(struct mesh__session){ .own_id = USERS, .peer = &peer }), MESH__OLD_STAYS);
	mesh__credentials_unref(now);
	mesh_close(m);
	agent_stop(&agent);
	free_certificate(&brief);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_directory_gives_an_identity, make_dir),
		cmocka_unit_test_setup(the_ends_of_a_whole_chain_are_told, make_dir),
		cmocka_unit_test_setup(files_written_one_after_another_become_one_generation, make_dir),
		cmocka_unit_test_setup(a_secret_of_kubernetes_is_swapped_as_a_whole, make_dir),
		cmocka_unit_test_setup(a_set_that_comes_later_is_found, make_dir),
		cmocka_unit_test_setup(bundles_may_be_jwk_sets, make_dir),
		cmocka_unit_test_setup(a_revoked_peer_loses_its_connection_and_gets_no_new_one, make_dir),
		cmocka_unit_test_setup(a_key_that_others_can_read_is_refused, make_dir),
		cmocka_unit_test(what_is_taken_back_ends_at_once),
		cmocka_unit_test_setup(a_missed_renewal_is_seen_everywhere, make_dir),
		cmocka_unit_test_setup(health_ends_before_the_identity, make_dir),
		cmocka_unit_test_setup(failures_are_logged_when_they_are_news, make_dir),
		cmocka_unit_test_setup(a_failure_that_comes_too_soon_is_said_later, make_dir),
		cmocka_unit_test_setup(a_key_of_root_may_be_read_by_its_group_and_no_more, make_dir),
		cmocka_unit_test_setup(a_workload_api_that_is_not_there_is_named, make_dir),
		cmocka_unit_test_setup(a_workload_api_that_says_nothing_or_nonsense_is_named, make_dir),
		cmocka_unit_test(a_key_over_the_network_is_warned_of),
		cmocka_unit_test(the_identity_that_a_hint_names_is_ours),
		cmocka_unit_test(a_call_waits_for_the_first_identity),
		cmocka_unit_test(calls_that_wait_for_an_identity_may_leave_the_line),
		cmocka_unit_test(another_identity_that_expires_ends_no_connection),
	};

	return cmocka_run_group_tests(tests, make_all, free_all);
}
