/*
 * TLS sessions: in memory, byte for byte, and under HTTP/2 connections over loopback. The identity of the process is the test's own
 * here (the functions below stand in for identity.c), so that any certificate can be shown, the wrong ones, too.
 */
#include "wire/h2.h"
#include "wire/secure.h"
#include "wire/socket.h"
#include "wire/tls.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/fork_gate.h"
#include "base/memory.h"
#include "base/wait.h"

#include <errno.h>
#include <mbedtls/ecp.h>
#include <mbedtls/psa_util.h>
#include <mbedtls/ssl.h>
#include <psa/crypto.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { HOUR_S = 3600, BIG_BYTES = 3 * 1024 * 1024 };

#define USERS "spiffe://mesh.test/ns/default/sa/users"
#define SHOP "spiffe://mesh.test/ns/default/sa/shop"

/* --- certificates --- */

struct authority {
	mbedtls_pk_context key;
	char name[64];
	unsigned char pem[2048];
};
static struct authority ours, strangers;

static void make_key(mbedtls_pk_context *key)
{
	mbedtls_pk_init(key);
	assert_int_equal(mbedtls_pk_setup(key, mbedtls_pk_info_from_type(MBEDTLS_PK_ECKEY)), 0);
	assert_int_equal(mbedtls_ecp_gen_key(MBEDTLS_ECP_DP_SECP256R1, mbedtls_pk_ec(*key), mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE), 0);
}

static void time_text(char text[16], int64_t at_s)
{
	time_t at = (time_t)at_s;
	struct tm tm;

	gmtime_r(&at, &tm);
	strftime(text, 16, "%Y%m%d%H%M%S", &tm);
}

/* `id` NULL: an authority's own. */
static void make_certificate(const struct authority *authority, mbedtls_pk_context *key, const char *id, int64_t from_s, int64_t to_s,
			     unsigned char *pem, size_t capacity)
{
	static unsigned char serial;
	mbedtls_x509write_cert crt;
	mbedtls_x509_san_list san = { .node = { .type = MBEDTLS_X509_SAN_UNIFORM_RESOURCE_IDENTIFIER } };
	char from[16], to[16];

	serial++;
	time_text(from, from_s);
	time_text(to, to_s);
	mbedtls_x509write_crt_init(&crt);
	mbedtls_x509write_crt_set_version(&crt, MBEDTLS_X509_CRT_VERSION_3);
	mbedtls_x509write_crt_set_md_alg(&crt, MBEDTLS_MD_SHA256);
	mbedtls_x509write_crt_set_subject_key(&crt, key);
	mbedtls_x509write_crt_set_issuer_key(&crt, (mbedtls_pk_context *)(uintptr_t)&authority->key);
	assert_int_equal(mbedtls_x509write_crt_set_serial_raw(&crt, &serial, 1), 0);
	assert_int_equal(mbedtls_x509write_crt_set_issuer_name(&crt, authority->name), 0);
	assert_int_equal(mbedtls_x509write_crt_set_subject_name(&crt, id ? "CN=leaf" : authority->name), 0);
	assert_int_equal(mbedtls_x509write_crt_set_validity(&crt, from, to), 0);
	assert_int_equal(mbedtls_x509write_crt_set_basic_constraints(&crt, !id, -1), 0);
	assert_int_equal(mbedtls_x509write_crt_set_key_usage(&crt, id ? MBEDTLS_X509_KU_DIGITAL_SIGNATURE : MBEDTLS_X509_KU_KEY_CERT_SIGN), 0);
	if (id) {
		san.node.san.unstructured_name.p = (unsigned char *)(uintptr_t)id;
		san.node.san.unstructured_name.len = strlen(id);
		assert_int_equal(mbedtls_x509write_crt_set_subject_alternative_name(&crt, &san), 0);
	}
	assert_int_equal(mbedtls_x509write_crt_pem(&crt, pem, capacity, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE), 0);
	mbedtls_x509write_crt_free(&crt);
}

static void make_authority(struct authority *authority, const char *name)
{
	int64_t now_s = (int64_t)time(NULL);

	snprintf(authority->name, sizeof(authority->name), "CN=%s", name);
	make_key(&authority->key);
	make_certificate(authority, &authority->key, NULL, now_s - HOUR_S, now_s + HOUR_S, authority->pem, sizeof(authority->pem));
}

/* Past all checks of what we take for ourselves: a peer may show anything. */
static struct mesh__credentials *make_party(const char *id, const struct authority *signer, int64_t from_s, int64_t to_s, bool trusts_us)
{
	struct mesh__svid *svid = mesh__memory_zalloc(sizeof(*svid));
	struct mesh__credentials *party;
	struct mesh__bundle *bundle;
	unsigned char pem[2048];
	const char *trusted = (const char *)(trusts_us ? ours.pem : strangers.pem);
	char why[256];
	int64_t now_s = (int64_t)time(NULL);

	assert_int_equal(mesh__credentials_new(&party), 0);
	make_key(&svid->key);
	mbedtls_x509_crt_init(&svid->chain);
	make_certificate(signer, &svid->key, id, now_s + from_s, now_s + to_s, pem, sizeof(pem));
	assert_int_equal(mbedtls_x509_crt_parse(&svid->chain, pem, strlen((char *)pem) + 1), 0);
	mesh__certificate_facts(&svid->chain, &svid->facts);
	party->number = 7;
	party->svids[party->svid_count++] = svid;
	assert_int_equal(mesh__bundle_parse(&bundle, "mesh.test", MESH__BUNDLE_PEM, trusted, strlen(trusted), false, why, sizeof(why)), 0);
	assert_int_equal(mesh__credentials_add_bundle(party, bundle), 0);
	return party;
}

static struct mesh__credentials *good_party(const char *id)
{
	return make_party(id, &ours, -60, HOUR_S, true);
}

static int begin(void **state)
{
	(void)state;
	assert_int_equal(psa_crypto_init(), PSA_SUCCESS);
	make_authority(&ours, "ours");
	make_authority(&strangers, "strangers");
	return 0;
}

static int finish(void **state)
{
	(void)state;
	mbedtls_pk_free(&ours.key);
	mbedtls_pk_free(&strangers.key);
	return 0;
}

/* --- two sessions in memory --- */

struct end {
	struct mesh__tls *tls;
	struct mesh__tls_output out;
	enum mesh__tls_progress progress;
};

/* Both take over the credentials. */
static void make_pair(struct end *client, struct end *server, struct mesh__credentials *clients, struct mesh__credentials *servers,
		      const char *expected)
{
	struct mesh__tls_options opts = { 0 };
	struct mesh__spiffe_id id;
	const char *why;

	*client = *server = (struct end){ .progress = MESH__TLS_MORE };
	assert_int_equal(mesh__spiffe_id_parse(&id, expected, strlen(expected), &why), 0);
	opts.credentials = clients;
	opts.svid = clients->svids[0];
	opts.expected = &id;
	assert_int_equal(mesh__tls_new(&opts, &client->tls), 0);
	opts = (struct mesh__tls_options){ .credentials = servers, .svid = servers->svids[0], .is_server = true };
	assert_int_equal(mesh__tls_new(&opts, &server->tls), 0);
	mesh__credentials_unref(clients);
	mesh__credentials_unref(servers);
}

static void end_pair(struct end *client, struct end *server)
{
	mesh__tls_free(client->tls);
	mesh__tls_free(server->tls);
	mesh__memory_free(client->out.data);
	mesh__memory_free(server->out.data);
}

/* What `from` said goes to `to`, in pieces of `piece` bytes; after its handshake, to its decryption. */
static void carry(struct end *from, struct end *to, size_t piece)
{
	uint8_t plain[256];
	size_t used;

	for (size_t at = 0; at < from->out.len; at += used) {
		size_t len = from->out.len - at < piece ? from->out.len - at : piece;

		used = len;
		if (to->progress == MESH__TLS_MORE)
			to->progress = mesh__tls_handshake_step(to->tls, from->out.data + at, len, &used, &to->out);
		else if (to->progress == MESH__TLS_DONE) {
			mesh__tls_feed(to->tls, from->out.data + at, len);
			if (mesh__tls_decrypt(to->tls, plain, sizeof(plain)) == MESH__TLS_BROKEN)
				to->progress = MESH__TLS_FAILED;
		}
	}
	from->out.len = 0;
}

static void shake_hands(struct end *client, struct end *server, size_t piece)
{
	size_t used;

	client->progress = mesh__tls_handshake_step(client->tls, NULL, 0, &used, &client->out);
	for (int i = 0; i < 4; i++) {
		carry(client, server, piece);
		carry(server, client, piece);
	}
}

static void both_sides_verify_each_other(void **state)
{
	struct end client, server;

	(void)state;
	for (size_t piece = 1; piece <= 4096; piece *= 64) {
		make_pair(&client, &server, good_party(SHOP), good_party(USERS), USERS);
		shake_hands(&client, &server, piece);
		assert_int_equal(client.progress, MESH__TLS_DONE);
		assert_int_equal(server.progress, MESH__TLS_DONE);
		assert_string_equal(mesh__tls_peer_id(client.tls)->text, USERS);
		assert_string_equal(mesh__tls_peer_id(server.tls)->text, SHOP);
		assert_string_equal(mesh__tls_suite(client.tls), "TLS1-3-AES-128-GCM-SHA256");
		assert_true(mesh__tls_peer_not_after_s(server.tls) > (int64_t)time(NULL));
		end_pair(&client, &server);
	}
}

/* Sanitizers have locks of their own, which do not survive a fork of several threads. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define CANNOT_FORK 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define CANNOT_FORK 1
#endif
#endif

#ifndef CANNOT_FORK

static atomic_bool is_inside, is_past;

/* In the middle of a handshake, where a fork is to come. */
static bool linger(void *user, const struct mesh__spiffe_id *peer, const struct mesh__credentials *servers, char *why, size_t capacity)
{
	(void)why;
	(void)capacity;
	(void)user;
	(void)peer;
	(void)servers;
	atomic_store(&is_inside, true);
	usleep(100000);
	atomic_store(&is_past, true);
	return false;
}

static bool can_shake_hands(bool (*is_hopeless)(void *, const struct mesh__spiffe_id *, const struct mesh__credentials *, char *, size_t))
{
	struct mesh__credentials *servers = good_party(USERS);
	struct mesh__tls_options opts = { .credentials = servers, .svid = servers->svids[0], .is_server = true, .is_hopeless = is_hopeless };
	struct end client, server;
	bool is_done;

	make_pair(&client, &server, good_party(SHOP), mesh__credentials_ref(servers), USERS);
	mesh__tls_free(server.tls);
	assert_int_equal(mesh__tls_new(&opts, &server.tls), 0);
	mesh__credentials_unref(servers);
	shake_hands(&client, &server, 4096);
	is_done = client.progress == MESH__TLS_DONE && server.progress == MESH__TLS_DONE;
	end_pair(&client, &server);
	return is_done;
}

static void *shake_hands_slowly(void *user)
{
	*(bool *)user = can_shake_hands(linger);
	return NULL;
}

/* mbedTLS has locks of its own: a child that was born while another thread held one would wait for it for ever. */
static void a_fork_waits_for_handshakes_and_its_child_makes_its_own(void **state)
{
	bool is_done = false;
	pthread_t thread;
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(mesh__fork_gate_watch(), 0);
	assert_int_equal(pthread_create(&thread, NULL, shake_hands_slowly, &is_done), 0);
	while (!atomic_load(&is_inside))
		usleep(1000);
	pid = fork();
	if (pid == 0) {
		alarm(20);
		_exit(!atomic_load(&is_past) ? 1 : !can_shake_hands(NULL) ? 2 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	pthread_join(thread, NULL);
	assert_true(is_done);
	assert_true(can_shake_hands(NULL));
}

enum { HELLO_RANDOM_AT = 5 + 4 + 2, HELLO_RANDOM_BYTES = 32 };

/* The random of the ClientHello that this process would say now. */
static void say_hello(uint8_t random[HELLO_RANDOM_BYTES])
{
	struct end client, server;
	size_t used;

	make_pair(&client, &server, good_party(SHOP), good_party(USERS), USERS);
	client.progress = mesh__tls_handshake_step(client.tls, NULL, 0, &used, &client.out);
	assert_true(client.out.len > HELLO_RANDOM_AT + HELLO_RANDOM_BYTES);
	assert_int_equal(client.out.data[5], MBEDTLS_SSL_HS_CLIENT_HELLO);
	memcpy(random, client.out.data + HELLO_RANDOM_AT, HELLO_RANDOM_BYTES);
	end_pair(&client, &server);
}

/* A child begins with a copy of its parent's generator: did it go on with that, brothers would share their keys. */
static void children_and_their_parent_say_different_randoms(void **state)
{
	enum { CHILDREN = 8 };
	uint8_t randoms[CHILDREN + 2][HELLO_RANDOM_BYTES];
	int status, ends[2];

	(void)state;
	assert_int_equal(mesh__fork_gate_watch(), 0);
	assert_int_equal(pipe(ends), 0);
	say_hello(randoms[CHILDREN]);
	for (int i = 0; i < CHILDREN; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			alarm(20);
			say_hello(randoms[0]);
			_exit(write(ends[1], randoms[0], HELLO_RANDOM_BYTES) != HELLO_RANDOM_BYTES);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		assert_int_equal(read(ends[0], randoms[i], HELLO_RANDOM_BYTES), HELLO_RANDOM_BYTES);
	}
	say_hello(randoms[CHILDREN + 1]);
	for (int i = 0; i < CHILDREN + 2; i++)
		for (int k = 0; k < i; k++)
			assert_memory_not_equal(randoms[i], randoms[k], HELLO_RANDOM_BYTES);
	close(ends[0]);
	close(ends[1]);
}
#endif

static void a_valid_certificate_of_another_service_cannot_pose(void **state)
{
	struct end client, server;

	(void)state;
	make_pair(&client, &server, good_party(SHOP), good_party("spiffe://mesh.test/ns/default/sa/impostor"), USERS);
	shake_hands(&client, &server, 4096);
	assert_int_equal(client.progress, MESH__TLS_FAILED);
	assert_string_equal(mesh__tls_reason(client.tls), "wrong_id");
	assert_non_null(strstr(mesh__tls_why(client.tls), "the peer is refused (wrong_id): " USERS " was expected"));
	assert_non_null(strstr(mesh__tls_why(client.tls), "sa/impostor"));
	assert_int_equal(server.progress, MESH__TLS_FAILED);
	assert_string_equal(mesh__tls_reason(server.tls), "alert");
	assert_string_equal(mesh__tls_why(server.tls), "the peer refused our certificate: it expected another ID here (access denied)");
	end_pair(&client, &server);
}

static void a_server_refuses(struct mesh__credentials *clients, const char *reason, const char *alert)
{
	struct end client, server;

	make_pair(&client, &server, clients, good_party(USERS), USERS);
	shake_hands(&client, &server, 4096);
	assert_int_equal(server.progress, MESH__TLS_FAILED);
	assert_string_equal(mesh__tls_reason(server.tls), reason);
	assert_int_equal(client.progress, MESH__TLS_FAILED);
	assert_true(mesh__tls_is_alert(client.tls));
	assert_string_equal(mesh__tls_reason(client.tls), "alert");
	assert_non_null(strstr(mesh__tls_why(client.tls), alert));
	end_pair(&client, &server);
}

static void bad_clients_are_refused_and_hear_why(void **state)
{
	(void)state;
	a_server_refuses(make_party(SHOP, &strangers, -60, HOUR_S, true), "untrusted", "unknown authority");
	a_server_refuses(make_party(SHOP, &ours, -HOUR_S, -60, true), "expired", "certificate expired");
	a_server_refuses(make_party(SHOP, &ours, 1800, HOUR_S, true), "not_yet_valid", "refused our certificate");
	a_server_refuses(make_party("spiffe://mesh.test", &ours, -60, HOUR_S, true), "no_path", "access denied");
	a_server_refuses(make_party("spiffe://other.test/x", &ours, -60, HOUR_S, true), "unknown_domain", "unknown authority");
}

static void a_client_refuses(struct mesh__credentials *clients, struct mesh__credentials *servers, const char *reason)
{
	struct end client, server;

	make_pair(&client, &server, clients, servers, USERS);
	shake_hands(&client, &server, 4096);
	assert_int_equal(client.progress, MESH__TLS_FAILED);
	assert_string_equal(mesh__tls_reason(client.tls), reason);
	assert_int_equal(server.progress, MESH__TLS_FAILED);
	assert_string_equal(mesh__tls_reason(server.tls), "alert");
	end_pair(&client, &server);
}

static void bad_servers_are_refused(void **state)
{
	(void)state;
	a_client_refuses(good_party(SHOP), make_party(USERS, &strangers, -60, HOUR_S, true), "untrusted");
	a_client_refuses(good_party(SHOP), make_party(USERS, &ours, -HOUR_S, -60, true), "expired");
	a_client_refuses(make_party(SHOP, &ours, -60, HOUR_S, false), good_party(USERS), "untrusted");
}

static void data_fills_records_and_comes_out_whole(void **state)
{
	const size_t len = 64 * 1024;
	struct end client, server;
	uint8_t *plain = malloc(len), *sealed = malloc(mesh__tls_sealed_max(len)), *back = malloc(len);
	size_t at = 0, records = 0;
	ssize_t n, sealed_len;

	(void)state;
	make_pair(&client, &server, good_party(SHOP), good_party(USERS), USERS);
	shake_hands(&client, &server, 4096);
	for (size_t i = 0; i < len; i++)
		plain[i] = (uint8_t)(i * 31);
	sealed_len = mesh__tls_encrypt(client.tls, plain, len, sealed, mesh__tls_sealed_max(len));
	assert_true(sealed_len > (ssize_t)len);
	for (size_t i = 0; i < (size_t)sealed_len; records++)
		i += 5 + (size_t)(sealed[i + 3] << 8 | sealed[i + 4]);
	assert_true(records <= 5);
	for (size_t i = 0; i < (size_t)sealed_len; i += 7001) {
		mesh__tls_feed(server.tls, sealed + i, (size_t)sealed_len - i < 7001 ? (size_t)sealed_len - i : 7001);
		while ((n = mesh__tls_decrypt(server.tls, back + at, len - at + 1)) > 0)
			at += (size_t)n;
		assert_int_equal(n, MESH__TLS_MORE_IN);
	}
	assert_int_equal(at, len);
	assert_memory_equal(plain, back, len);
	sealed_len = mesh__tls_close_notify(server.tls, sealed, 1024);
	mesh__tls_feed(client.tls, sealed, (size_t)sealed_len);
	assert_int_equal(mesh__tls_decrypt(client.tls, back, len), MESH__TLS_END);
	end_pair(&client, &server);
	free(plain);
	free(sealed);
	free(back);
}

/* Three connections of one loop, whose records arrive in pieces by turns, and who answer meanwhile. */
static void settled_sessions_share_their_buffers(void **state)
{
	enum { PAIRS = 3, BYTES = 100 * 1000, PIECE = 7001 };
	const size_t room = mesh__tls_sealed_max(BYTES);
	struct { struct end client, server; uint8_t *sealed; size_t sealed_len, at; } pairs[PAIRS];
	uint8_t *shared[2] = { NULL, NULL }, *plain = malloc(BYTES), *back = malloc(BYTES), small[256], answer[32];
	bool is_more = true;
	ssize_t n;

	(void)state;
	for (size_t i = 0; i < BYTES; i++)
		plain[i] = (uint8_t)(i * 31 + i / 251);
	for (int i = 0; i < PAIRS; i++) {
		make_pair(&pairs[i].client, &pairs[i].server, good_party(SHOP), good_party(USERS), USERS);
		shake_hands(&pairs[i].client, &pairs[i].server, 4096);
		mesh__tls_settle(pairs[i].server.tls, shared);
		assert_string_equal(mesh__tls_peer_id(pairs[i].server.tls)->text, SHOP);
		pairs[i].sealed = malloc(room);
		pairs[i].sealed_len = (size_t)mesh__tls_encrypt(pairs[i].client.tls, plain, BYTES, pairs[i].sealed, room);
		pairs[i].at = 0;
	}
	for (size_t i = 0; is_more; i += PIECE) {
		is_more = false;
		for (int k = 0; k < PAIRS; k++) {
			size_t len = i < pairs[k].sealed_len ? pairs[k].sealed_len - i : 0;

			len = len < PIECE ? len : PIECE;
			is_more |= len > 0;
			mesh__tls_feed(pairs[k].server.tls, pairs[k].sealed + i, len);
			while ((n = mesh__tls_decrypt(pairs[k].server.tls, back, BYTES)) > 0) {
				assert_memory_equal(back, plain + pairs[k].at, (size_t)n);
				pairs[k].at += (size_t)n;
			}
			assert_int_equal(n, MESH__TLS_MORE_IN);
			n = mesh__tls_encrypt(pairs[k].server.tls, "answer", 6, small, sizeof(small));
			assert_true(n > 0);
			mesh__tls_feed(pairs[k].client.tls, small, (size_t)n);
			assert_int_equal(mesh__tls_decrypt(pairs[k].client.tls, answer, sizeof(answer)), 6);
			assert_int_equal(mesh__tls_decrypt(pairs[k].client.tls, answer, sizeof(answer)), MESH__TLS_MORE_IN);
		}
	}
	assert_non_null(shared[0]);
	assert_non_null(shared[1]);
	for (int k = 0; k < PAIRS; k++) {
		assert_int_equal(pairs[k].at, BYTES);
		end_pair(&pairs[k].client, &pairs[k].server);
		free(pairs[k].sealed);
	}
	mesh__memory_free(shared[0]);
	mesh__memory_free(shared[1]);
	free(plain);
	free(back);
}

/* --- many sessions on one set of buffers, in any order --- */

enum { CROWD = 10, CROWD_STEPS = 6000, STREAM_BYTES_MAX = 40 * 1000 };

struct talker {
	struct mesh__tls *tls;
	uint32_t number;       /* of what it says; its peer's is number ^ 1 */
	uint64_t said, heard;  /* bytes */
	uint8_t *wire;         /* sealed for it, not taken yet */
	size_t wire_len, wire_capacity;
};

static uint32_t dice;

static uint32_t throw_dice(uint32_t sides)
{
	dice ^= dice << 13;
	dice ^= dice >> 17;
	dice ^= dice << 5;
	return dice % sides;
}

/* Of many sizes alike often: bytes, records, more than one. */
static size_t some_size(void)
{
	static const uint32_t sizes[] = { 3, 8, 300, 5000, 16384, STREAM_BYTES_MAX };

	return 1 + throw_dice(sizes[throw_dice(sizeof(sizes) / sizeof(*sizes))]);
}

static uint8_t byte_at(uint32_t number, uint64_t at)
{
	return (uint8_t)((at * 2654435761u + number * 40503u) >> 13);
}

static void put_on_wire(struct talker *to, const uint8_t *data, size_t len)
{
	if (to->wire_capacity - to->wire_len < len) {
		to->wire_capacity = (to->wire_len + len) * 2;
		to->wire = realloc(to->wire, to->wire_capacity);
		assert_non_null(to->wire);
	}
	memcpy(to->wire + to->wire_len, data, len);
	to->wire_len += len;
}

static void say_some(struct talker *talkers, uint32_t who)
{
	static uint8_t plain[STREAM_BYTES_MAX], sealed[STREAM_BYTES_MAX + 1024];
	struct talker *from = &talkers[who];
	size_t len = some_size();
	ssize_t n;

	for (size_t i = 0; i < len; i++)
		plain[i] = byte_at(from->number, from->said + i);
	n = mesh__tls_encrypt(from->tls, plain, len, sealed, sizeof(sealed));
	assert_true(n > (ssize_t)len);
	from->said += len;
	put_on_wire(&talkers[who ^ 1], sealed, (size_t)n);
}

/* Some of what is on the wire for it. Between two reads another session of the loop may speak, as handlers do. */
static ssize_t hear_some(struct talker *talkers, uint32_t who, bool may_speak)
{
	static uint8_t plain[STREAM_BYTES_MAX], sealed[STREAM_BYTES_MAX];
	struct talker *to = &talkers[who];
	size_t piece = some_size(), capacity = some_size();
	ssize_t n;

	piece = piece < to->wire_len ? piece : to->wire_len;
	if (piece)
		memcpy(sealed, to->wire, piece);
	mesh__tls_feed(to->tls, sealed, piece);
	while ((n = mesh__tls_decrypt(to->tls, plain, capacity)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			if (plain[i] != byte_at(to->number ^ 1, to->heard + (uint64_t)i))
				fail_msg("session %u: byte %llu is not what was said", who, (unsigned long long)(to->heard + (uint64_t)i));
		to->heard += (uint64_t)n;
		if (may_speak && throw_dice(4) == 0) {
			say_some(talkers, throw_dice(2 * CROWD));
			may_speak = false;
		}
	}
	mesh__tls_feed(to->tls, NULL, 0);
	to->wire_len -= piece;
	if (to->wire_len)
		memmove(to->wire, to->wire + piece, to->wire_len);
	return n;
}

static void say_goodbye(struct talker *talkers, uint32_t who)
{
	uint8_t sealed[256];
	ssize_t n = mesh__tls_close_notify(talkers[who].tls, sealed, sizeof(sealed));

	assert_true(n > 0);
	put_on_wire(&talkers[who ^ 1], sealed, (size_t)n);
}

static void meet(struct talker *talkers, uint8_t *shared[2])
{
	for (uint32_t i = 0; i < 2 * CROWD; i += 2) {
		struct end client, server;

		make_pair(&client, &server, good_party(SHOP), good_party(USERS), USERS);
		shake_hands(&client, &server, 4096);
		assert_int_equal(server.progress, MESH__TLS_DONE);
		talkers[i] = (struct talker){ .tls = client.tls, .number = i };
		talkers[i + 1] = (struct talker){ .tls = server.tls, .number = i + 1 };
		mesh__tls_settle(client.tls, shared);
		mesh__tls_settle(server.tls, shared);
		mesh__memory_free(client.out.data);
		mesh__memory_free(server.out.data);
	}
}

static void many_sessions_never_mix_what_they_say(void **state)
{
	static struct talker talkers[2 * CROWD];
	uint8_t *shared[2] = { NULL, NULL };
	ssize_t n;

	(void)state;
	dice = (uint32_t)time(NULL) | 1;
	print_message("seed %u\n", dice);
	meet(talkers, shared);
	for (int i = 0; i < CROWD_STEPS; i++) {
		uint32_t who = throw_dice(2 * CROWD);

		if (throw_dice(3) == 0)
			say_some(talkers, who);
		else
			assert_int_equal(hear_some(talkers, who, true), MESH__TLS_MORE_IN);
	}
	/* One of each pair says goodbye, the other still talks; a third of the sessions end with a part of a record in. */
	for (uint32_t i = 0; i < 2 * CROWD; i += 2) {
		say_goodbye(talkers, i);
		say_some(talkers, i + 1);
	}
	for (uint32_t i = 0; i < 2 * CROWD; i++) {
		if (i % 3 == 0) {
			mesh__tls_feed(talkers[i].tls, talkers[i].wire, talkers[i].wire_len < 3 ? talkers[i].wire_len : 3);
			assert_int_equal(mesh__tls_decrypt(talkers[i].tls, (uint8_t[1]){ 0 }, 1), MESH__TLS_MORE_IN);
			mesh__tls_feed(talkers[i].tls, NULL, 0);
			mesh__tls_free(talkers[i].tls);
			talkers[i].tls = NULL;
		}
	}
	for (uint32_t i = 0; i < 2 * CROWD; i++) {
		if (!talkers[i].tls)
			continue;
		while (talkers[i].wire_len && (n = hear_some(talkers, i, false)) == MESH__TLS_MORE_IN)
			;
		assert_int_equal(n, i % 2 ? MESH__TLS_END : MESH__TLS_MORE_IN);
		assert_true(talkers[i].heard == talkers[i ^ 1].said);
	}
	for (uint32_t i = 0; i < 2 * CROWD; i++) {
		mesh__tls_free(talkers[i].tls);
		free(talkers[i].wire);
	}
	mesh__memory_free(shared[0]);
	mesh__memory_free(shared[1]);
}

static void a_changed_record_breaks_the_session(void **state)
{
	struct end client, server;
	uint8_t sealed[256], plain[256];
	ssize_t n;

	(void)state;
	make_pair(&client, &server, good_party(SHOP), good_party(USERS), USERS);
	shake_hands(&client, &server, 4096);
	n = mesh__tls_encrypt(client.tls, "hello", 5, sealed, sizeof(sealed));
	sealed[n - 1] ^= 1;
	mesh__tls_feed(server.tls, sealed, (size_t)n);
	assert_int_equal(mesh__tls_decrypt(server.tls, plain, sizeof(plain)), MESH__TLS_BROKEN);
	assert_string_equal(mesh__tls_reason(server.tls), "protocol");
	end_pair(&client, &server);
}

static bool nobody_may(void *user, const struct mesh__spiffe_id *peer, const struct mesh__credentials *own, char *why, size_t capacity)
{
	(void)user;
	(void)own;
	snprintf(why, capacity, "rule all-out denies it all");
	assert_string_equal(peer->text, SHOP);
	return true;
}

static void a_hopeless_peer_is_turned_away_in_the_handshake(void **state)
{
	struct mesh__credentials *servers = good_party(USERS);
	struct mesh__tls_options opts = { .credentials = servers, .svid = servers->svids[0], .is_server = true, .is_hopeless = nobody_may };
	struct end client, server;

	(void)state;
	make_pair(&client, &server, good_party(SHOP), good_party(USERS), USERS);
	mesh__tls_free(server.tls);
	assert_int_equal(mesh__tls_new(&opts, &server.tls), 0);
	mesh__credentials_unref(servers);
	shake_hands(&client, &server, 4096);
	assert_string_equal(mesh__tls_reason(server.tls), "not_allowed");
	assert_string_equal(mesh__tls_why(server.tls), "the peer is refused: " SHOP " may call nothing here: rule all-out denies it all");
	assert_string_equal(mesh__tls_why(client.tls), "the peer refused our certificate: no rule there lets us in (access denied)");
	end_pair(&client, &server);
}

/* mbedTLS as it comes, and without a certificate. What it says goes to `said`, what it hears is taken from `heard`. */
struct stranger {
	struct mesh__tls_output said;
	const struct mesh__tls_output *heard;
	size_t heard_at;
};

static int stranger_says(void *user, const unsigned char *data, size_t len)
{
	struct stranger *stranger = user;
	uint8_t *bigger = realloc(stranger->said.data, stranger->said.len + len);

	assert_non_null(bigger);
	memcpy(bigger + stranger->said.len, data, len);
	stranger->said.data = bigger;
	stranger->said.len += len;
	return (int)len;
}

static int stranger_hears(void *user, unsigned char *data, size_t len)
{
	struct stranger *stranger = user;
	size_t left = stranger->heard->len - stranger->heard_at;

	len = len < left ? len : left;
	if (!len)
		return MBEDTLS_ERR_SSL_WANT_READ;
	memcpy(data, stranger->heard->data + stranger->heard_at, len);
	stranger->heard_at += len;
	return (int)len;
}

/* `groups` NULL: mbedTLS's own choice. */
static void make_stranger(struct stranger *stranger, mbedtls_ssl_context *ssl, mbedtls_ssl_config *config, const uint16_t *groups)
{
	static const char *protocols[] = { "h2", NULL };

	mbedtls_ssl_init(ssl);
	mbedtls_ssl_config_init(config);
	assert_int_equal(mbedtls_ssl_config_defaults(config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT), 0);
	mbedtls_ssl_conf_min_tls_version(config, MBEDTLS_SSL_VERSION_TLS1_3);
	mbedtls_ssl_conf_rng(config, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE);
	mbedtls_ssl_conf_authmode(config, MBEDTLS_SSL_VERIFY_NONE);
	if (groups)
		mbedtls_ssl_conf_groups(config, groups);
	assert_int_equal(mbedtls_ssl_conf_alpn_protocols(config, protocols), 0);
	assert_int_equal(mbedtls_ssl_setup(ssl, config), 0);
	assert_int_equal(mbedtls_ssl_set_hostname(ssl, NULL), 0);
	mbedtls_ssl_set_bio(ssl, stranger, stranger_says, stranger_hears, NULL);
}

static void who_shows_no_certificate_is_told_so_and_not_heard(void **state)
{
	struct end client, server;
	struct stranger stranger = { 0 };
	mbedtls_ssl_context ssl;
	mbedtls_ssl_config config;
	uint8_t plain[64];
	size_t used;

	(void)state;
	make_pair(&client, &server, good_party(SHOP), good_party(USERS), USERS);
	make_stranger(&stranger, &ssl, &config, NULL);
	stranger.heard = &server.out;
	assert_int_equal(mbedtls_ssl_handshake(&ssl), MBEDTLS_ERR_SSL_WANT_READ);
	server.progress = mesh__tls_handshake_step(server.tls, stranger.said.data, stranger.said.len, &used, &server.out);
	assert_int_equal(server.progress, MESH__TLS_MORE);
	stranger.said.len = 0;
	assert_int_equal(mbedtls_ssl_handshake(&ssl), 0); /* it believes that all is well, and goes on */
	assert_int_equal(mbedtls_ssl_write(&ssl, (const unsigned char *)"hello", 5), 5);
	server.progress = mesh__tls_handshake_step(server.tls, stranger.said.data, stranger.said.len, &used, &server.out);
	assert_int_equal(server.progress, MESH__TLS_FAILED);
	assert_string_equal(mesh__tls_reason(server.tls), "no_certificate");
	assert_string_equal(mesh__tls_why(server.tls), "the peer is refused: it showed no certificate");
	mesh__tls_feed(server.tls, stranger.said.data + used, stranger.said.len - used);
	assert_int_equal(mesh__tls_decrypt(server.tls, plain, sizeof(plain)), MESH__TLS_BROKEN);
	assert_int_equal(mbedtls_ssl_read(&ssl, plain, sizeof(plain)), MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE);
	assert_int_equal(ssl.MBEDTLS_PRIVATE(in_msg)[1], MBEDTLS_SSL_ALERT_MSG_CERT_REQUIRED);
	mbedtls_ssl_free(&ssl);
	mbedtls_ssl_config_free(&config);
	free(stranger.said.data);
	end_pair(&client, &server);
}

/* A client of mbedTLS's own, with the certificate of `shown` and the key of `signer`; up to where the server has heard all of its handshake. */
static void stranger_shows(struct stranger *stranger, mbedtls_ssl_context *ssl, mbedtls_ssl_config *config, struct mesh__credentials *shown,
			   struct mesh__credentials *signer, struct end *server)
{
	static const unsigned char secret[32] = { 1, 2, 3 };
	size_t used;

	make_stranger(stranger, ssl, config, NULL);
	assert_int_equal(mbedtls_ssl_conf_own_cert(config, &shown->svids[0]->chain, &signer->svids[0]->key), 0);
	/* It offers a secret beside, which would spare it the certificate. */
	mbedtls_ssl_conf_tls13_key_exchange_modes(config, MBEDTLS_SSL_TLS1_3_KEY_EXCHANGE_MODE_ALL);
	assert_int_equal(mbedtls_ssl_conf_psk(config, secret, sizeof(secret), (const unsigned char *)"me", 2), 0);
	stranger->heard = &server->out;
	assert_int_equal(mbedtls_ssl_handshake(ssl), MBEDTLS_ERR_SSL_WANT_READ);
	server->progress = mesh__tls_handshake_step(server->tls, stranger->said.data, stranger->said.len, &used, &server->out);
	assert_int_equal(server->progress, MESH__TLS_MORE);
	stranger->said.len = 0;
	assert_int_equal(mbedtls_ssl_handshake(ssl), 0);
	server->progress = mesh__tls_handshake_step(server->tls, stranger->said.data, stranger->said.len, &used, &server->out);
	stranger->said.len = 0;
}

static void a_certificate_without_its_key_opens_nothing(void **state)
{
	struct mesh__credentials *shop = good_party(SHOP), *thief = good_party(SHOP);
	struct end client, server;
	struct stranger stranger = { 0 };
	mbedtls_ssl_context ssl;
	mbedtls_ssl_config config;
	uint8_t plain[64];

	(void)state;
	make_pair(&client, &server, good_party(SHOP), good_party(USERS), USERS);
	stranger_shows(&stranger, &ssl, &config, shop, thief, &server);
	assert_int_equal(server.progress, MESH__TLS_FAILED);
	assert_string_equal(mesh__tls_reason(server.tls), "protocol");
	assert_string_equal(mesh__tls_why(server.tls), "the peer cannot prove that the certificate it shows is its own: what it signed does not fit");
	assert_int_equal(mbedtls_ssl_write(&ssl, (const unsigned char *)"hello", 5), 5);
	mesh__tls_feed(server.tls, stranger.said.data, stranger.said.len);
	assert_int_equal(mesh__tls_decrypt(server.tls, plain, sizeof(plain)), MESH__TLS_BROKEN);
	mbedtls_ssl_free(&ssl);
	mbedtls_ssl_config_free(&config);
	free(stranger.said.data);
	mesh__credentials_unref(shop);
	mesh__credentials_unref(thief);
	end_pair(&client, &server);
}

/* Who hides how much it says may send records with nothing in them (RFC 8446, 5.1 and 5.4). */
static void an_empty_record_is_no_goodbye(void **state)
{
	struct mesh__credentials *shop = good_party(SHOP);
	struct end client, server;
	struct stranger stranger = { 0 };
	mbedtls_ssl_context ssl;
	mbedtls_ssl_config config;
	uint8_t *shared[2] = { NULL, NULL }, plain[64];

	(void)state;
	make_pair(&client, &server, good_party(SHOP), good_party(USERS), USERS);
	stranger_shows(&stranger, &ssl, &config, shop, shop, &server);
	assert_int_equal(server.progress, MESH__TLS_DONE);
	assert_string_equal(mesh__tls_peer_id(server.tls)->text, SHOP);
	mesh__tls_settle(server.tls, shared);
	for (int empty = 0; empty <= 3; empty++) {
		stranger.said.len = 0;
		for (int i = 0; i < empty; i++)
			assert_int_equal(mbedtls_ssl_write(&ssl, plain, 0), 0);
		assert_int_equal(mbedtls_ssl_write(&ssl, (const unsigned char *)"hello", 5), 5);
		mesh__tls_feed(server.tls, stranger.said.data, stranger.said.len);
		assert_int_equal(mesh__tls_decrypt(server.tls, plain, sizeof(plain)), 5);
		assert_memory_equal(plain, "hello", 5);
		assert_int_equal(mesh__tls_decrypt(server.tls, plain, sizeof(plain)), MESH__TLS_MORE_IN);
	}
	stranger.said.len = 0;
	for (int i = 0; i < 2; i++)
		assert_int_equal(mbedtls_ssl_write(&ssl, plain, 0), 0);
	mesh__tls_feed(server.tls, stranger.said.data, stranger.said.len);
	assert_int_equal(mesh__tls_decrypt(server.tls, plain, sizeof(plain)), MESH__TLS_MORE_IN);
	mbedtls_ssl_free(&ssl);
	mbedtls_ssl_config_free(&config);
	free(stranger.said.data);
	mesh__credentials_unref(shop);
	end_pair(&client, &server);
	mesh__memory_free(shared[0]);
	mesh__memory_free(shared[1]);
}

static void who_has_nothing_in_common_with_us_is_told_so(void **state)
{
	static const uint16_t groups[] = { MBEDTLS_SSL_IANA_TLS_GROUP_SECP521R1, MBEDTLS_SSL_IANA_TLS_GROUP_NONE };
	static const uint8_t alert[] = { 21, 3, 3, 0, 2, 2, MBEDTLS_SSL_ALERT_MSG_HANDSHAKE_FAILURE };
	struct end client, server;
	struct stranger stranger = { 0 };
	mbedtls_ssl_context ssl;
	mbedtls_ssl_config config;
	size_t used;

	(void)state;
	make_pair(&client, &server, good_party(SHOP), good_party(USERS), USERS);
	make_stranger(&stranger, &ssl, &config, groups);
	stranger.heard = &server.out;
	assert_int_equal(mbedtls_ssl_handshake(&ssl), MBEDTLS_ERR_SSL_WANT_READ);
	server.progress = mesh__tls_handshake_step(server.tls, stranger.said.data, stranger.said.len, &used, &server.out);
	assert_int_equal(server.progress, MESH__TLS_FAILED);
	assert_string_equal(mesh__tls_reason(server.tls), "protocol");
	assert_non_null(strstr(mesh__tls_why(server.tls), "the peer offers nothing that is accepted here"));
	assert_int_equal(server.out.len, sizeof(alert));
	assert_memory_equal(server.out.data, alert, sizeof(alert));
	mbedtls_ssl_free(&ssl);
	mbedtls_ssl_config_free(&config);
	free(stranger.said.data);
	end_pair(&client, &server);
}

/* OpenSSL refuses a server in the clear, since it has no keys of its own yet. */
static void an_alert_in_the_clear_is_understood_and_not_answered(void **state)
{
	struct end client, server;
	size_t used;

	(void)state;
	make_pair(&client, &server, good_party(SHOP), good_party(USERS), USERS);
	client.progress = mesh__tls_handshake_step(client.tls, NULL, 0, &used, &client.out);
	server.progress = mesh__tls_handshake_step(server.tls, client.out.data, client.out.len, &used, &server.out);
	assert_int_equal(server.progress, MESH__TLS_MORE);
	server.out.len = 0;
	server.progress = mesh__tls_handshake_step(server.tls, "\x15\x03\x03\x00\x02\x02\x30", 7, &used, &server.out);
	assert_int_equal(server.progress, MESH__TLS_FAILED);
	assert_string_equal(mesh__tls_why(server.tls), "the peer refused our certificate: it does not trust who signed it (unknown authority)");
	assert_int_equal(server.out.len, 0);
	end_pair(&client, &server);
}

/* The first bytes of somebody else, in one step. */
static void says(const char *data, size_t len, const char *reason)
{
	struct end client, server;
	size_t used;

	make_pair(&client, &server, good_party(SHOP), good_party(USERS), USERS);
	server.progress = mesh__tls_handshake_step(server.tls, data, len, &used, &server.out);
	assert_int_equal(server.progress, MESH__TLS_FAILED);
	assert_string_equal(mesh__tls_reason(server.tls), reason);
	end_pair(&client, &server);
}

static void garbage_is_no_handshake(void **state)
{
	(void)state;
	says("\x16\x03\x01\x00\x04z\0\0\0", 9, "protocol");
	says("\x16\x03\x01\xff\xff", 5, "protocol");
	says("\x17\x03\x03\x00\x01x", 6, "protocol");
	says("\x15\x03\x03\x00\x02\x02\x28", 7, "alert");
	assert_non_null(strstr(mesh__tls_name_plaintext((const uint8_t *)"PRI * HTTP/2.0\r\n", 16), "HTTP/2 in plain text"));
	assert_non_null(strstr(mesh__tls_name_plaintext((const uint8_t *)"GET / HTTP/1.1\r\n", 16), "HTTP/1"));
	assert_null(mesh__tls_name_plaintext((const uint8_t *)"\x16\x03\x01", 3));
}

/* --- under HTTP/2, over loopback --- */

struct mesh__identity {
	struct mesh__credentials *_Atomic credentials; /* NULL: none now */
	atomic_int verdict;
};
static struct mesh__identity shops, userss;

struct mesh__credentials *mesh__identity_take(struct mesh__identity *identity, char *why, size_t capacity)
{
	if (identity->credentials)
		return mesh__credentials_ref(identity->credentials);
	snprintf(why, capacity, "the certificate expired 3 s ago");
	return NULL;
}

const struct mesh__svid *mesh__identity_svid(const struct mesh__identity *identity, const struct mesh__credentials *credentials, const char *service)
{
	(void)identity;
	(void)service;
	return credentials->svids[0];
}

int mesh__identity_expected(const struct mesh__identity *identity, const struct mesh__credentials *credentials, const char *service,
			    const struct mesh__discovered_id *discovered, struct mesh__spiffe_id *id, const char **from, const char **why)
{
	(void)identity;
	(void)credentials;
	*from = discovered ? "from discovery" : "by the name of the service";
	if (discovered)
		return mesh__spiffe_id_parse(id, discovered->text, strlen(discovered->text), why);
	return mesh__spiffe_id_of_service(id, "mesh.test", "default", service, why);
}

enum mesh__verdict_on_old mesh__identity_judge(struct mesh__identity *identity, const struct mesh__credentials *used,
					       const struct mesh__session *session)
{
	assert_int_equal(used->number, 7);
	assert_true(session->peer_chain && session->peer_chain_len);
	assert_true(session->peer->len && session->peer_not_after_s && session->own_id[0]);
	return (enum mesh__verdict_on_old)identity->verdict;
}

/* One connection: what became of it. Written by the loop before `closed`. */
struct party {
	struct mesh__conn conn;
	struct mesh__secure_options secure;
	struct mesh__discovered_id *discovered;
	struct mesh__stream stream;
	struct mesh__chunk chunk;
	struct mesh__task start;
	struct mesh__address address;
	bool is_plain, asks, was_open, sends_chunk, loses_trust;
	int fd;
	int32_t code;
	uint64_t received;
	char reason[64], why[400], peer[128];
	struct mesh__wait answered, closed;
};

static struct mesh__loop *lp;
static struct mesh__workers *client_workers, *server_workers;
static const struct mesh__conn_limits limits = {
	.streams_max = 10, .stream_window_bytes = 1 << 20, .connection_window_bytes = 1 << 20, .header_bytes_max = 8192, .header_count_max = 64,
	.queued_bytes_max = 64 << 20, .connect_timeout_ns = 10 * MESH__NS_PER_SEC, .preface_timeout_ns = 20 * MESH__NS_PER_SEC,
	.header_timeout_ns = 20 * MESH__NS_PER_SEC, .write_timeout_ns = 20 * MESH__NS_PER_SEC, .idle_timeout_ns = 60 * MESH__NS_PER_SEC,
	.resets_burst = 100, .resets_per_sec = 100,
};
static uint8_t big[BIG_BYTES];

static void on_headers(struct mesh__stream *stream, bool is_end)
{
	(void)stream;
	(void)is_end;
}

static void on_data(struct mesh__stream *stream, const uint8_t *data, size_t len)
{
	struct party *party = MESH__CONTAINER(stream, struct party, stream);

	if (memcmp(data, big + party->received, len))
		return;
	party->received += len;
	mesh__stream_consume(stream, len);
}

static void chunk_taken(struct mesh__chunk *chunk, struct mesh__stream *stream)
{
	(void)chunk;
	(void)stream;
}

static void send_big(struct party *party)
{
	party->chunk = (struct mesh__chunk){ .data = big, .len = sizeof(big), .release = chunk_taken };
	mesh__stream_send(&party->stream, &party->chunk);
	mesh__stream_send_end(&party->stream, NULL, 0);
}

static void on_end(struct mesh__stream *stream)
{
	static const struct mesh_header status = { .name = ":status", .name_len = 7, .value = "200", .value_len = 3 };
	struct party *party = MESH__CONTAINER(stream, struct party, stream);

	if (!party->conn.is_server)
		return;
	mesh__stream_respond(stream, &status, 1, true);
	send_big(party);
}

static void on_drained(struct mesh__stream *stream)
{
	(void)stream;
}

static void on_stream_close(struct mesh__stream *stream, uint32_t error_code, bool unprocessed)
{
	struct party *party = MESH__CONTAINER(stream, struct party, stream);

	(void)error_code;
	(void)unprocessed;
	mesh__stream_fini(stream, &lp->pool);
	mesh__wait_finish(&party->answered);
}

static const struct mesh__stream_events stream_events = {
	.on_headers = on_headers, .on_data = on_data, .on_end = on_end, .on_drained = on_drained, .on_close = on_stream_close,
};

static void on_conn_open(struct mesh__conn *conn)
{
	static const struct mesh_header fields[] = {
		{ .name = ":method", .name_len = 7, .value = "POST", .value_len = 4 }, { .name = ":scheme", .name_len = 7, .value = "https", .value_len = 5 },
		{ .name = ":path", .name_len = 5, .value = "/", .value_len = 1 }, { .name = ":authority", .name_len = 10, .value = "users", .value_len = 5 },
	};
	struct party *party = conn->owner;

	party->was_open = true;
	if (conn->peer_id)
		snprintf(party->peer, sizeof(party->peer), "%.120s", conn->peer_id->text);
	if (!party->asks)
		return;
	mesh__stream_init(&party->stream, &stream_events);
	if (!mesh__stream_open(&party->stream, conn, fields, 4, true))
		send_big(party);
	if (party->loses_trust) {
		shops.verdict = MESH__OLD_ENDS;
		mesh__conn_judge_all(conn->lp);
		shops.verdict = MESH__OLD_STAYS;
	}
}

static struct mesh__stream *on_request(struct mesh__conn *conn)
{
	struct party *party = conn->owner;

	mesh__stream_init(&party->stream, &stream_events);
	return &party->stream;
}

static void nothing(struct mesh__conn *conn)
{
	(void)conn;
}

static void on_conn_close(struct mesh__conn *conn)
{
	struct party *party = conn->owner;

	party->code = conn->close_code;
	snprintf(party->reason, sizeof(party->reason), "%s", conn->close_reason);
	snprintf(party->why, sizeof(party->why), "%s", conn->close_text);
	mesh__wait_finish(&party->closed);
}

static void on_abuse(struct mesh__conn *conn, const char *kind)
{
	(void)conn;
	(void)kind;
}

static const struct mesh__conn_events conn_events = {
	.on_open = on_conn_open, .on_request = on_request, .on_room = nothing, .on_draining = nothing, .on_close = on_conn_close, .on_abuse = on_abuse,
};

/* A job may begin after its connection has ended: what it was told stays until the workers have stopped. On the loop only. */
static const struct mesh__secure_options *keep(const struct party *party)
{
	static struct mesh__secure_options kept[256];
	static uint32_t count;

	if (party->is_plain)
		return NULL;
	assert_true(count < 256);
	kept[count] = party->secure;
	return &kept[count++];
}

static void run_accept(struct mesh__task *task, struct mesh__loop *loop)
{
	struct party *party = MESH__CONTAINER(task, struct party, start);

	mesh__conn_accept(&party->conn, loop, party->fd, &party->address, &limits, keep(party), &conn_events, party);
}

static void run_connect(struct mesh__task *task, struct mesh__loop *loop)
{
	struct party *party = MESH__CONTAINER(task, struct party, start);

	mesh__conn_connect(&party->conn, loop, &party->address, &limits, keep(party), &conn_events, party);
	party->conn.discovered = party->discovered;
}

static void run_abort(struct mesh__task *task, struct mesh__loop *loop)
{
	struct party *party = MESH__CONTAINER(task, struct party, start);

	(void)loop;
	mesh__conn_abort(&party->conn, MESH_E_CLOSING, "closing", "the test is over");
}

static void end_party(struct party *party)
{
	party->start.run = run_abort;
	mesh__loop_call(lp, &party->start);
	mesh__wait_until(&party->closed, UINT64_MAX);
}

static atomic_int complaints;

static void count_complaints(int32_t level, const char *line, void *user)
{
	(void)level;
	(void)user;
	if (strstr(line, "no TLS handshake"))
		atomic_fetch_add(&complaints, 1);
}

static int begin_loop(void **state)
{
	static const struct mesh__log log = { count_complaints, NULL, MESH_LOG_DEBUG };
	struct mesh__loop_options opts = { .log = &log };

	(void)state;
	atomic_store(&complaints, 0);
	assert_int_equal(mesh__loop_new(&lp, &opts), 0);
	assert_int_equal(mesh__loop_start(lp), 0);
	assert_int_equal(mesh__workers_new(1, 8, "mesh-tls", &client_workers), 0);
	assert_int_equal(mesh__workers_new(1, 8, "mesh-tls", &server_workers), 0);
	shops.credentials = good_party(SHOP);
	userss.credentials = good_party(USERS);
	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (uint8_t)(i * 7 + i / 251);
	return 0;
}

static int end_loop(void **state)
{
	(void)state;
	mesh__workers_stop(client_workers);
	mesh__workers_stop(server_workers);
	mesh__loop_stop(lp, NULL);
	mesh__loop_free(lp);
	mesh__workers_free(client_workers);
	mesh__workers_free(server_workers);
	mesh__credentials_unref(shops.credentials);
	mesh__credentials_unref(userss.credentials);
	memset(&shops, 0, sizeof(shops));
	memset(&userss, 0, sizeof(userss));
	return 0;
}

static int listen_here(struct mesh__address *address)
{
	const char *why;
	int fd;

	assert_int_equal(mesh__address_parse(address, "127.0.0.1:0", 11, &why), 0);
	assert_int_equal(mesh__socket_listen(address, &fd, NULL), 0);
	mesh__socket_name(fd, address);
	return fd;
}

static int accept_one(int listener, struct mesh__address *peer)
{
	int fd;

	while ((fd = mesh__socket_accept(listener, peer)) < 0)
		usleep(1000);
	return fd;
}

static void start_server(struct party *server, int listener)
{
	server->secure.identity = &userss;
	server->secure.workers = server_workers;
	if (!server->secure.timeout_ns)
		server->secure.timeout_ns = 20 * MESH__NS_PER_SEC;
	server->fd = accept_one(listener, &server->address);
	server->start.run = run_accept;
	assert_true(mesh__loop_post(lp, &server->start));
}

/* Both on our loop, connected with each other. */
static void start_both(struct party *client, struct party *server)
{
	int listener = listen_here(&client->address);

	client->secure.identity = &shops;
	client->secure.workers = client_workers;
	client->secure.expected_service = "users";
	client->secure.timeout_ns = 20 * MESH__NS_PER_SEC;
	client->start.run = run_connect;
	assert_true(mesh__loop_post(lp, &client->start));
	start_server(server, listener);
	mesh__descriptors_close(listener);
}

static void big_bodies_go_both_ways(void **state)
{
	struct party client = { .asks = true }, server = { 0 };

	(void)state;
	start_both(&client, &server);
	mesh__wait_until(&client.answered, UINT64_MAX);
	assert_int_equal(server.received, BIG_BYTES);
	assert_int_equal(client.received, BIG_BYTES);
	assert_string_equal(client.peer, USERS);
	assert_string_equal(server.peer, SHOP);
	end_party(&client);
	mesh__wait_until(&server.closed, UINT64_MAX);
	assert_string_equal(server.reason, "lost");
	assert_string_equal(server.why, "the peer closed the connection");
}

static void the_wrong_service_gets_no_request(void **state)
{
	static const char orders[] = "spiffe://mesh.test/ns/default/sa/orders";
	struct party client = { .asks = true }, server = { 0 };
	const char *why;

	(void)state;
	assert_int_equal(mesh__discovered_id_parse(&client.discovered, orders, strlen(orders), &why), 0);
	start_both(&client, &server);
	mesh__wait_until(&client.closed, UINT64_MAX);
	mesh__wait_until(&server.closed, UINT64_MAX);
	mesh__discovered_id_unref(client.discovered);
	assert_non_null(strstr(client.why, "spiffe://mesh.test/ns/default/sa/orders was expected (from discovery), and " USERS " answered"));
	assert_false(client.was_open);
	assert_false(server.was_open);
	assert_int_equal(client.code, MESH_E_HANDSHAKE);
	assert_string_equal(client.reason, "wrong_id");
	assert_string_equal(server.reason, "alert");
}

static void a_refused_client_hears_why(void **state)
{
	struct party client = { .asks = true }, server = { 0 };
	struct mesh__credentials *good = shops.credentials;

	(void)state;
	shops.credentials = make_party(SHOP, &strangers, -60, HOUR_S, true);
	start_both(&client, &server);
	mesh__wait_until(&client.closed, UINT64_MAX);
	mesh__wait_until(&server.closed, UINT64_MAX);
	mesh__credentials_unref(shops.credentials);
	shops.credentials = good;
	assert_false(client.was_open);
	assert_int_equal(client.code, MESH_E_HANDSHAKE);
	assert_string_equal(client.reason, "alert");
	assert_non_null(strstr(client.why, "unknown authority"));
	assert_int_equal(server.code, MESH_E_HANDSHAKE);
	assert_string_equal(server.reason, "untrusted");
}

static void without_an_identity_nothing_is_opened(void **state)
{
	struct party client = { .asks = true }, server = { 0 };
	struct mesh__credentials *good = shops.credentials;

	(void)state;
	shops.credentials = NULL;
	start_both(&client, &server);
	mesh__wait_until(&client.closed, UINT64_MAX);
	mesh__wait_until(&server.closed, UINT64_MAX);
	shops.credentials = good;
	assert_int_equal(client.code, MESH_E_IDENTITY);
	assert_string_equal(client.reason, "no_identity");
	assert_string_equal(client.why, "the certificate expired 3 s ago");
	assert_int_equal(server.code, MESH_E_HANDSHAKE);
	assert_string_equal(server.why, "the peer closed the connection during the TLS handshake");
}

static void a_server_without_an_identity_says_so(void **state)
{
	struct mesh__credentials *good = userss.credentials;

	(void)state;
	userss.credentials = NULL;
	for (int i = 0; i < 5; i++) {
		struct party client = { .asks = true }, server = { 0 };

		start_both(&client, &server);
		mesh__wait_until(&client.closed, UINT64_MAX);
		mesh__wait_until(&server.closed, UINT64_MAX);
		assert_int_equal(server.code, MESH_E_IDENTITY);
		assert_int_equal(client.code, MESH_E_HANDSHAKE);
		assert_non_null(strstr(client.why, "it has no identity to show"));
	}
	userss.credentials = good;
	assert_int_equal(atomic_load(&complaints), 1); /* strangers do not fill the log */
}

/* The mesh's own may be valid still, when that of one of its servers is not. */
static void an_expired_certificate_is_not_shown(void **state)
{
	struct party client = { .asks = true }, server = { 0 };
	struct mesh__credentials *good = userss.credentials;

	(void)state;
	userss.credentials = make_party(USERS, &ours, -HOUR_S, -60, true);
	start_both(&client, &server);
	mesh__wait_until(&client.closed, UINT64_MAX);
	mesh__wait_until(&server.closed, UINT64_MAX);
	mesh__credentials_unref(userss.credentials);
	userss.credentials = good;
	assert_int_equal(server.code, MESH_E_IDENTITY);
	assert_non_null(strstr(server.why, USERS " expired 6"));
	assert_non_null(strstr(client.why, "it has no identity to show"));
}

static void plain_text_and_tls_tell_each_other_apart(void **state)
{
	struct party client = { .is_plain = true }, server = { 0 };
	struct party secure_client = { 0 }, plain_server = { .is_plain = true };

	(void)state;
	start_both(&client, &server);
	mesh__wait_until(&client.closed, UINT64_MAX);
	mesh__wait_until(&server.closed, UINT64_MAX);
	assert_string_equal(server.reason, "plaintext");
	assert_non_null(strstr(server.why, "HTTP/2 in plain text"));
	assert_non_null(strstr(client.why, "the peer speaks TLS, this client plain text"));
	start_both(&secure_client, &plain_server);
	mesh__wait_until(&secure_client.closed, UINT64_MAX);
	mesh__wait_until(&plain_server.closed, UINT64_MAX);
	assert_string_equal(plain_server.why, "the peer speaks TLS, this server plain text (MESH_TLS=off)");
	assert_int_equal(secure_client.code, MESH_E_HANDSHAKE);
	assert_string_equal(secure_client.reason, "plaintext");
	assert_non_null(strstr(secure_client.why, "the peer speaks HTTP/2 in plain text"));
}

/* A peer of bytes: says them and closes, or stays. */
static void server_hears(const char *data, size_t len, bool stays, const char *reason)
{
	struct party server = { .secure.timeout_ns = 200 * MESH__NS_PER_MS };
	struct sockaddr_storage sa;
	struct mesh__address address;
	int listener = listen_here(&address), fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&sa, mesh__address_to_sockaddr(&address, &sa, sizeof(sa))), 0);
	start_server(&server, listener);
	assert_int_equal(send(fd, data, len, MSG_NOSIGNAL), (ssize_t)len);
	if (!stays)
		shutdown(fd, SHUT_WR);
	mesh__wait_until(&server.closed, UINT64_MAX);
	assert_int_equal(server.code, MESH_E_HANDSHAKE);
	assert_string_equal(server.reason, reason);
	assert_false(server.was_open);
	close(fd);
	mesh__descriptors_close(listener);
}

static void odd_peers_end_in_a_reason(void **state)
{
	(void)state;
	server_hears("GET / HTTP/1.1\r\nhost: x\r\n\r\n", 27, true, "plaintext");
	server_hears("\x16\x03\x01\x00\x04z\0\0\0", 9, true, "protocol");
	server_hears("\x16\x03\x01\x02\x00\x01", 6, false, "lost");
	server_hears("\x16\x03\x01\x02\x00\x01", 6, true, "handshake_timeout");
	server_hears("", 0, true, "handshake_timeout");
}

/* As a client does that sends its request right behind the handshake: no reset may take from it what it is told. */
static void a_peer_that_is_turned_away_may_talk_on(void **state)
{
	static uint8_t more[4096], said[256];
	struct party server = { 0 };
	struct sockaddr_storage sa;
	struct mesh__address address;
	int listener = listen_here(&address), fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, mesh__address_to_sockaddr(&address, &sa, sizeof(sa))), 0);
	start_server(&server, listener);
	assert_int_equal(send(fd, "\x16\x03\x01\x00\x04z\0\0\0", 9, MSG_NOSIGNAL), 9);
	assert_int_equal(recv(fd, said, sizeof(said), 0), 7);
	assert_int_equal(said[0], 21);
	assert_int_equal(recv(fd, said, sizeof(said), 0), 0);
	for (int i = 0; i < 8; i++)
		assert_int_equal(send(fd, more, sizeof(more), MSG_NOSIGNAL), sizeof(more));
	assert_int_equal(recv(fd, said, sizeof(said), 0), 0);
	close(fd);
	mesh__wait_until(&server.closed, UINT64_MAX);
	assert_string_equal(server.reason, "protocol");
	mesh__descriptors_close(listener);
}

/* The host's SIGPIPE, which would end it, is neither raised nor changed. */
static void who_has_left_raises_no_signal(void **state)
{
	struct sigaction before, after;
	int fds[2];

	(void)state;
	assert_int_equal(sigaction(SIGPIPE, NULL, &before), 0);
	assert_true(before.sa_handler == SIG_DFL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
	close(fds[1]);
	assert_int_equal(mesh__socket_send(fds[0], "x", 1), -EPIPE);
	close(fds[0]);
	assert_int_equal(sigaction(SIGPIPE, NULL, &after), 0);
	assert_true(after.sa_handler == SIG_DFL);
}

static void a_full_queue_turns_away(void **state)
{
	struct party client = { 0 }, server = { 0 };
	struct mesh__workers *usual = client_workers;

	(void)state;
	assert_int_equal(mesh__workers_new(1, 0, "mesh-tls", &client_workers), 0);
	start_both(&client, &server);
	mesh__wait_until(&client.closed, UINT64_MAX);
	mesh__wait_until(&server.closed, UINT64_MAX);
	assert_string_equal(client.reason, "handshake_queue");
	mesh__workers_stop(client_workers);
	mesh__workers_free(client_workers);
	client_workers = usual;
}

static void connections_make_way_or_end_when_credentials_change(void **state)
{
	struct party client = { .asks = true }, server = { 0 };

	(void)state;
	start_both(&client, &server);
	mesh__wait_until(&client.answered, UINT64_MAX);
	userss.verdict = MESH__OLD_ENDS;
	mesh__wait_until(&server.closed, UINT64_MAX);
	mesh__wait_until(&client.closed, UINT64_MAX);
	userss.verdict = MESH__OLD_STAYS;
	assert_string_equal(server.reason, "revoked");
	assert_int_equal(server.code, MESH_E_IDENTITY);
}

/* A request is queued, and in the same turn its server is revoked. */
static void who_is_revoked_hears_nothing_more(void **state)
{
	struct party client = { .asks = true, .loses_trust = true }, server = { 0 };

	(void)state;
	start_both(&client, &server);
	mesh__wait_until(&server.closed, UINT64_MAX);
	mesh__wait_until(&client.closed, UINT64_MAX);
	assert_string_equal(client.reason, "revoked");
	assert_string_equal(server.reason, "lost");
	assert_string_equal(server.why, "the peer closed the connection");
	assert_int_equal(server.received, 0);
	assert_int_equal(server.stream.id, 0);
}

static void a_connection_may_end_while_its_job_runs(void **state)
{
	(void)state;
	for (int i = 0; i < 20; i++) {
		struct party client = { 0 }, server = { 0 };

		start_both(&client, &server);
		usleep((useconds_t)i * 300);
		end_party(&client);
		end_party(&server);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_sides_verify_each_other),
#ifndef CANNOT_FORK
		cmocka_unit_test(a_fork_waits_for_handshakes_and_its_child_makes_its_own),
		cmocka_unit_test(children_and_their_parent_say_different_randoms),
#endif
		cmocka_unit_test(a_valid_certificate_of_another_service_cannot_pose),
		cmocka_unit_test(bad_clients_are_refused_and_hear_why),
		cmocka_unit_test(bad_servers_are_refused),
		cmocka_unit_test(data_fills_records_and_comes_out_whole),
		cmocka_unit_test(settled_sessions_share_their_buffers),
		cmocka_unit_test(many_sessions_never_mix_what_they_say),
		cmocka_unit_test(a_changed_record_breaks_the_session),
		cmocka_unit_test(a_hopeless_peer_is_turned_away_in_the_handshake),
		cmocka_unit_test(who_shows_no_certificate_is_told_so_and_not_heard),
		cmocka_unit_test(a_certificate_without_its_key_opens_nothing),
		cmocka_unit_test(an_empty_record_is_no_goodbye),
		cmocka_unit_test(who_has_nothing_in_common_with_us_is_told_so),
		cmocka_unit_test(an_alert_in_the_clear_is_understood_and_not_answered),
		cmocka_unit_test(garbage_is_no_handshake),
		cmocka_unit_test_setup_teardown(big_bodies_go_both_ways, begin_loop, end_loop),
		cmocka_unit_test_setup_teardown(the_wrong_service_gets_no_request, begin_loop, end_loop),
		cmocka_unit_test_setup_teardown(a_refused_client_hears_why, begin_loop, end_loop),
		cmocka_unit_test_setup_teardown(without_an_identity_nothing_is_opened, begin_loop, end_loop),
		cmocka_unit_test_setup_teardown(a_server_without_an_identity_says_so, begin_loop, end_loop),
		cmocka_unit_test_setup_teardown(an_expired_certificate_is_not_shown, begin_loop, end_loop),
		cmocka_unit_test_setup_teardown(plain_text_and_tls_tell_each_other_apart, begin_loop, end_loop),
		cmocka_unit_test_setup_teardown(odd_peers_end_in_a_reason, begin_loop, end_loop),
		cmocka_unit_test_setup_teardown(a_peer_that_is_turned_away_may_talk_on, begin_loop, end_loop),
		cmocka_unit_test(who_has_left_raises_no_signal),
		cmocka_unit_test_setup_teardown(a_full_queue_turns_away, begin_loop, end_loop),
		cmocka_unit_test_setup_teardown(connections_make_way_or_end_when_credentials_change, begin_loop, end_loop),
		cmocka_unit_test_setup_teardown(who_is_revoked_hears_nothing_more, begin_loop, end_loop),
		cmocka_unit_test_setup_teardown(a_connection_may_end_while_its_job_runs, begin_loop, end_loop),
	};

	return cmocka_run_group_tests(tests, begin, finish);
}
