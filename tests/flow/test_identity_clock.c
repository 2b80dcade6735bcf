/*
 * Clocks that jump under processes that call each other: the wall clock is set, the machine sleeps. Certificates are judged by the wall
 * clock, so each jump here takes them out of their life; they are replaced at once, and no call fails.
 *
 * The clocks are the test's own: the functions below stand before libc's.
 */
#include "../lib/mesh_test.h"
#include "mesh/identity.h"

#include <sys/syscall.h>

enum { HOUR_S = 3600 };

static _Atomic int64_t wall_ahead_s, boot_ahead_s;

__attribute__((visibility("default"))) int clock_gettime(clockid_t id, struct timespec *ts)
{
	long rc = syscall(SYS_clock_gettime, id, ts);

	if (id == CLOCK_REALTIME)
		ts->tv_sec += atomic_load(&wall_ahead_s);
	if (id == CLOCK_BOOTTIME)
		ts->tv_sec += atomic_load(&boot_ahead_s);
	return (int)rc;
}

__attribute__((visibility("default"))) time_t time(time_t *out)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (out)
		*out = ts.tv_sec;
	return ts.tv_sec;
}

static struct {
	mesh *users, *shop;
	mesh_server *server;
	mesh_client *client;
	pthread_t thread;
	atomic_bool is_over;
	atomic_int calls, failures;
	char first_failure[600];
} side;

static void *call_all_the_time(void *user)
{
	struct mesh_call_options opts = grpc_call("/t.S/Echo", "x", 1);
	struct mesh_error err;

	(void)user;
	while (!atomic_load(&side.is_over)) {
		err = (struct mesh_error)MESH_ERROR_INIT;
		if (mesh_client_call(side.client, &opts, NULL, &err) && !atomic_fetch_add(&side.failures, 1))
			snprintf(side.first_failure, sizeof(side.first_failure), "%s", err.message);
		atomic_fetch_add(&side.calls, 1);
		poll(NULL, 0, 1);
	}
	return NULL;
}

static struct mesh_identity_status status_of(mesh *m)
{
	struct mesh_identity_status status = MESH_IDENTITY_STATUS_INIT;

	assert_int_equal(mesh_identity_status(m, &status), 0);
	return status;
}

static int64_t wall_now_s(void)
{
	return (int64_t)time(NULL);
}

static int open_both(void **state)
{
	if (make_test_dir(state))
		return -1;
	/* The authority is older than any of these jumps. */
	atomic_store(&wall_ahead_s, -24 * HOUR_S);
	assert_int_equal(mesh_ca_init(NULL, "mesh.local", NULL), 0);
	atomic_store(&wall_ahead_s, 0);
	memset(&side, 0, sizeof(side));
	side.users = OPEN_MESH("users", "tls", "on");
	side.shop = OPEN_MESH("shop", "tls", "on");
	side.server = new_server(side.users, NULL);
	add_handler(side.server, "/t.S/Echo", MESH_HANDLER_GRPC, answer_echo, NULL);
	start_server(side.server);
	side.client = new_client(side.shop, "users");
	assert_int_equal(pthread_create(&side.thread, NULL, call_all_the_time, NULL), 0);
	WAIT_FOR(atomic_load(&side.calls) > 20);
	return 0;
}

static void end_load(void)
{
	if (!atomic_exchange(&side.is_over, true))
		pthread_join(side.thread, NULL);
}

static int close_both(void **state)
{
	end_load();
	mesh_client_free(side.client);
	mesh_server_free(side.server);
	mesh_close(side.shop);
	mesh_close(side.users);
	atomic_store(&wall_ahead_s, 0);
	atomic_store(&boot_ahead_s, 0);
	return remove_test_dir(state);
}

static bool is_renewed(mesh *m)
{
	struct mesh_identity_status status = status_of(m);

	return status.generation >= 2 && status.last_renewal_s >= wall_now_s() - 60 && status.next_renewal_s > wall_now_s() + HOUR_S / 3;
}

static bool has_retired_one(void)
{
	return COUNTED(side.users, "mesh_server_connections_closed_total", "reason", "rotated") +
		       COUNTED(side.shop, "mesh_connections_closed_total", "reason", "rotated") > 0;
}

/* With `retires`, the connection of before does not outlive its certificates by more than a moment. */
static void expect_renewal_without_a_failed_call(bool retires)
{
	int calls;

	WAIT_FOR(is_renewed(side.users) && is_renewed(side.shop));
	if (retires)
		WAIT_FOR(has_retired_one());
	calls = atomic_load(&side.calls);
	WAIT_FOR(atomic_load(&side.calls) > calls + 500);
	end_load();
	if (atomic_load(&side.failures))
		fail_msg("%d of %d calls failed, the first: %s", atomic_load(&side.failures), atomic_load(&side.calls), side.first_failure);
	assert_int_equal(status_of(side.users).overdue_since_s, 0);
	assert_int_equal(status_of(side.shop).overdue_since_s, 0);
	/* Once, and not over and over. */
	assert_in_range(status_of(side.users).generation, 2, 3);
	assert_in_range(status_of(side.shop).generation, 2, 3);
}

static void a_clock_set_two_hours_forward_fails_no_call(void **state)
{
	(void)state;
	atomic_store(&wall_ahead_s, 2 * HOUR_S);
	expect_renewal_without_a_failed_call(true);
}

static void a_clock_set_two_hours_back_fails_no_call(void **state)
{
	(void)state;
	atomic_store(&wall_ahead_s, -2 * HOUR_S);
	expect_renewal_without_a_failed_call(false);
}

static void a_sleep_of_eight_hours_fails_no_call(void **state)
{
	(void)state;
	atomic_store(&boot_ahead_s, 8 * HOUR_S);
	atomic_store(&wall_ahead_s, 8 * HOUR_S);
	expect_renewal_without_a_failed_call(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_clock_set_two_hours_forward_fails_no_call, open_both, close_both),
		cmocka_unit_test_setup_teardown(a_clock_set_two_hours_back_fails_no_call, open_both, close_both),
		cmocka_unit_test_setup_teardown(a_sleep_of_eight_hours_fails_no_call, open_both, close_both),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
