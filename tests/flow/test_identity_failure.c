/*
 * Memory that runs out while an identity is opened, during handshakes and calls, in this library or inside mbedTLS: whichever allocation fails,
 * what was asked for works, or ends with an error that says something. Never in plain text, and afterwards all works.
 */
#include "../lib/mesh_test.h"
#include "mesh/identity.h"

#include "base/memory.h"

#include <link.h>

#define SHOP "spiffe://mesh.local/ns/default/sa/shop"
#define USERS "spiffe://mesh.local/ns/default/sa/users"

static char state_dir[96];

static int set_up(void **state)
{
	if (make_test_dir(state))
		return -1;
	snprintf(state_dir, sizeof(state_dir), "%s/state", test_dir);
	return setenv("MESH_STATE_DIR", state_dir, 1);
}

static int tear_down(void **state)
{
	unsetenv("MESH_STATE_DIR");
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

/* ---- the nth allocation of mbedTLS fails ---- */

/* Sanitizers, and valgrind, have a calloc() of their own. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define CANNOT_REPLACE_CALLOC 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define CANNOT_REPLACE_CALLOC 1
#endif
#endif

#ifndef CANNOT_REPLACE_CALLOC

static struct {
	uintptr_t from, to;
} foreign[16];
static int foreign_count;
static atomic_long foreign_countdown = -1; /* as mesh__memory_fail_after() */

static int note_library(struct dl_phdr_info *info, size_t size, void *user)
{
	(void)size;
	(void)user;
	for (int i = 0; strstr(info->dlpi_name, "libmbed") && i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_LOAD && info->dlpi_phdr[i].p_flags & PF_X && foreign_count < 16) {
			foreign[foreign_count].from = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
			foreign[foreign_count].to = foreign[foreign_count].from + info->dlpi_phdr[i].p_memsz;
			foreign_count++;
		}
	return 0;
}

void *__libc_calloc(size_t number, size_t bytes);

/* In front of libc's. mbedTLS allocates with nothing else. */
__attribute__((visibility("default"))) void *calloc(size_t number, size_t bytes);
__attribute__((visibility("default"))) void *calloc(size_t number, size_t bytes)
{
	uintptr_t caller = (uintptr_t)__builtin_return_address(0);

	if (atomic_load_explicit(&foreign_countdown, memory_order_relaxed) >= 0)
		for (int i = 0; i < foreign_count; i++)
			if (caller >= foreign[i].from && caller < foreign[i].to && atomic_fetch_sub(&foreign_countdown, 1) == 0)
				return NULL;
	return __libc_calloc(number, bytes);
}

static void fail_in_mbedtls(int64_t nth)
{
	atomic_store(&foreign_countdown, nth);
}

static bool has_failed_in_mbedtls(void)
{
	return atomic_load(&foreign_countdown) < 0;
}

#endif

/* ---- sweeping ---- */

struct sweep {
	mesh *users;
	mesh_server *server;
	unsigned opened, called, failed;
};

static void begin_sweep(struct sweep *sweep)
{
	*sweep = (struct sweep){ .users = OPEN_MESH("users") };
	sweep->server = new_server(sweep->users, NULL);
	add_handler(sweep->server, "/who", 0, answer_peer, NULL);
	start_server(sweep->server);
}

/* Who called, and who answered: neither may be unknown. */
static void assert_known(const mesh_call *done)
{
	uint64_t len;
	const void *body = mesh_call_body(done, &len);

	if (mesh_call_http_status(done) == 200) {
		assert_int_equal(len, strlen(SHOP));
		assert_memory_equal(body, SHOP, len);
	} else { /* the server says that it cannot */
		assert_true(mesh_call_http_status(done) >= 500 && len > 10);
	}
	assert_string_equal(mesh_call_peer_id(done), USERS);
}

/* mbedTLS does not tell a signature that it could not check from a wrong one, nor a key that it could not read; all else is called by its name. */
static void assert_sensible(const struct mesh_error *err)
{
	static const char *const untold[] = { " is not signed by an authority in the bundle of ", "/ca.key is not an unencrypted private key", "the private key cannot be read" };
	bool is_untold = false;

	for (size_t i = 0; i < sizeof(untold) / sizeof(*untold); i++)
		is_untold |= err->code == MESH_E_CORRUPT && strstr(err->message, untold[i]);
	if (is_untold || err->code == MESH_E_NOMEM || err->code == MESH_E_SYSTEM || err->code == MESH_E_NO_DESCRIPTORS) {
		assert_true(strlen(err->message) > 10);
		return;
	}
	print_message("%s: %s\n", mesh_error_name(err->code), err->message);
	fail();
}

static void call_once(struct sweep *sweep, mesh *m)
{
	struct mesh_call_options opts = http_call("/who");
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_client *client = NULL;
	mesh_call *done = NULL;

	opts.timeout_ms = 20000;
	if (mesh_client_new(m, "users", &client, &err)) {
		assert_sensible(&err);
		sweep->failed++;
		return;
	}
	if (mesh_client_call(client, &opts, &done, &err)) {
		if (strlen(err.message) <= 10) fail_msg("%s: \"%s\"", mesh_error_name(err.code), err.message);
		if (err.code == MESH_E_DEADLINE)
			fail_msg("nothing said that it had failed: %s", err.message);
		sweep->failed++;
	} else {
		assert_known(done);
		sweep->called++;
	}
	mesh_call_unref(done);
	mesh_client_free(client);
}

static void open_and_call(struct sweep *sweep)
{
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	mesh *m = NULL;

	opts.service = "shop";
	if (mesh_open(&opts, &m, &err)) {
		assert_null(m);
		assert_sensible(&err);
		sweep->failed++;
		return;
	}
	sweep->opened++;
	call_once(sweep, m);
	mesh_close(m);
}

/* One that failed before may still be waited for: the server was out of memory, too. */
static void end_sweep(struct sweep *sweep)
{
	unsigned called = sweep->called;

	WAIT_FOR((open_and_call(sweep), sweep->called > called));
	mesh_server_free(sweep->server);
	mesh_close(sweep->users);
}

static void every_failing_allocation_is_an_ordinary_error(void **state)
{
	struct sweep sweep;

	(void)state;
	begin_sweep(&sweep);
	for (int nth = 0; nth < 600; nth += getenv("MESH_TEST_FEWER") ? 31 : 1) {
		mesh__memory_fail_after(nth);
		open_and_call(&sweep);
		mesh__memory_fail_after(-1);
	}
	assert_true(sweep.failed > 2);
	end_sweep(&sweep);
}

#ifndef CANNOT_REPLACE_CALLOC
static void every_failing_allocation_of_mbedtls_is_an_ordinary_error(void **state)
{
	struct sweep sweep;
	int nth = 0;

	(void)state;
	dl_iterate_phdr(note_library, NULL);
	begin_sweep(&sweep);
	fail_in_mbedtls(INT32_MAX);
	open_and_call(&sweep);
	if (atomic_load(&foreign_countdown) == INT32_MAX) { /* mbedTLS does not come here: under valgrind, or linked statically */
		fail_in_mbedtls(-1);
		end_sweep(&sweep);
		skip();
	}
	/* It makes tens of thousands, nearly all of them for arithmetic. */
	for (bool has_failed = true; has_failed && nth < 100000; nth += nth < 300 ? 3 : 61) {
		fail_in_mbedtls(nth);
		open_and_call(&sweep);
		has_failed = has_failed_in_mbedtls();
		fail_in_mbedtls(-1);
	}
	print_message("%d allocations: %u opened, %u called, %u failed\n", nth, sweep.opened, sweep.called, sweep.failed);
	assert_true(sweep.failed > 20);
	end_sweep(&sweep);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(every_failing_allocation_is_an_ordinary_error),
#ifndef CANNOT_REPLACE_CALLOC
		TEST(every_failing_allocation_of_mbedtls_is_an_ordinary_error),
#endif
#undef TEST
	};

	cmocka_set_test_filter(getenv("TEST_FILTER")); /* one test alone: TEST_FILTER=name */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
