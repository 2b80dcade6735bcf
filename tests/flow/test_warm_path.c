/*
 * What a call costs once its path is warm: no allocation, no lock, and of the system calls only the socket's own.
 *
 * The functions counted are defined here, in front of libc's, so that every caller in the process goes through them; each hands
 * over to the real one. Client and server are meshes of their own, in one process.
 */
#include "../lib/mesh_test.h"

#include <dlfcn.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

enum { WARM_CALLS = 3000, COUNTED_CALLS = 2000, IN_FLIGHT = 20 };

enum what { ALLOCATION, LOCK, SEND, RECEIVE, READ, WRITE, EPOLL_WAIT, EPOLL_CTL, TIMER, FUTEX, WHATS };

static atomic_bool is_counting;
static atomic_ulong counts[WHATS];

static void count(enum what what)
{
	if (atomic_load_explicit(&is_counting, memory_order_relaxed))
		atomic_fetch_add_explicit(&counts[what], 1, memory_order_relaxed);
}

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t number, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);

void *malloc(size_t bytes)
{
	count(ALLOCATION);
	return __libc_malloc(bytes);
}

void *calloc(size_t number, size_t bytes)
{
	count(ALLOCATION);
	return __libc_calloc(number, bytes);
}

void *realloc(void *memory, size_t bytes)
{
	count(ALLOCATION);
	return __libc_realloc(memory, bytes);
}

/* RETURN name(ARGUMENTS) of libc, counted as WHAT. */
#define COUNTED_CALL(what, result, name, parameters, arguments) \
	result name parameters;                                 \
	result name parameters                                  \
	{                                                       \
		static result (*_Atomic real) parameters;       \
		if (!real)                                      \
			real = (result(*) parameters)(uintptr_t)dlsym(RTLD_NEXT, #name); \
		count(what);                                    \
		return real arguments;                          \
	}

COUNTED_CALL(LOCK, int, pthread_mutex_lock, (pthread_mutex_t * mutex), (mutex))
COUNTED_CALL(LOCK, int, pthread_rwlock_rdlock, (pthread_rwlock_t * lock), (lock))
COUNTED_CALL(LOCK, int, pthread_rwlock_wrlock, (pthread_rwlock_t * lock), (lock))
COUNTED_CALL(SEND, ssize_t, send, (int fd, const void *data, size_t len, int flags), (fd, data, len, flags))
COUNTED_CALL(SEND, ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
COUNTED_CALL(RECEIVE, ssize_t, recv, (int fd, void *data, size_t len, int flags), (fd, data, len, flags))
COUNTED_CALL(READ, ssize_t, read, (int fd, void *data, size_t len), (fd, data, len))
COUNTED_CALL(WRITE, ssize_t, write, (int fd, const void *data, size_t len), (fd, data, len))
COUNTED_CALL(EPOLL_WAIT, int, epoll_wait, (int fd, struct epoll_event *events, int max, int timeout), (fd, events, max, timeout))
COUNTED_CALL(EPOLL_CTL, int, epoll_ctl, (int fd, int op, int target, struct epoll_event *event), (fd, op, target, event))
COUNTED_CALL(TIMER, int, timerfd_settime, (int fd, int flags, const struct itimerspec *to, struct itimerspec *from), (fd, flags, to, from))

static mesh *here, *there;
static mesh_server *server;
static mesh_client *users;
static unsigned started, ended, failed, limit;
static atomic_bool is_over;
static uint8_t body[64];

static int set_up(void **state)
{
	if (make_test_dir(state))
		return -1;
	there = OPEN_MESH("users");
	server = new_server(there, NULL);
	add_handler(server, "/t.S/Echo", MESH_HANDLER_GRPC, answer_echo, NULL);
	add_handler(server, "/echo", 0, answer_echo, NULL);
	start_server(server);
	here = OPEN_MESH("web");
	users = new_client(here, "users");
	return 0;
}

static int tear_down(void **state)
{
	mesh_client_free(users);
	mesh_close(here);
	mesh_server_free(server);
	mesh_close(there);
	return remove_test_dir(state);
}

static void start_another(const struct mesh_call_options *like);

static void on_event(const struct mesh_event *event, void *user)
{
	failed += event->code != 0;
	ended++;
	if (started < limit)
		start_another(user);
	else if (ended == limit)
		atomic_store(&is_over, true);
}

static void start_another(const struct mesh_call_options *like)
{
	started++;
	if (mesh_client_start(users, like, NULL, NULL))
		abort();
}

/* Calls that callbacks start, `at_once` of them in flight; the first ones come from here. */
static void run_calls(struct mesh_call_options *opts, unsigned number, unsigned at_once)
{
	opts->on_event = on_event;
	opts->user = opts;
	limit = number;
	started = at_once;
	ended = failed = 0;
	atomic_store(&is_over, false);
	for (unsigned i = 0; i < at_once; i++)
		if (mesh_client_start(users, opts, NULL, NULL))
			abort();
	WAIT_FOR(atomic_load(&is_over));
	assert_int_equal(failed, 0);
}

static void count_calls(struct mesh_call_options opts, unsigned at_once)
{
	run_calls(&opts, WARM_CALLS, at_once);
	memset(counts, 0, sizeof(counts));
	atomic_store(&is_counting, true);
	run_calls(&opts, COUNTED_CALLS, at_once);
	atomic_store(&is_counting, false);
}

/* What happens once a second (heartbeats, sweeps) and for the calls that begin in this thread; less than one in ten calls. */
#define NOW_AND_THEN (COUNTED_CALLS / 10)
/* Once a second discovery looks at the registry, which takes some memory and gives it back. */
#define ONCE_A_SECOND (COUNTED_CALLS / 100)

#define AT_MOST(what, number) \
	do { \
		if (counts[what] > (number)) \
			fail_msg("%s: %lu in %d calls, at most %d may be", #what, (unsigned long)counts[what], COUNTED_CALLS, (int)(number)); \
	} while (0)

static void nothing_but_sockets_is_touched(unsigned at_once)
{
	AT_MOST(ALLOCATION, at_once + ONCE_A_SECOND);
	AT_MOST(LOCK, NOW_AND_THEN);
	AT_MOST(READ, NOW_AND_THEN);
	AT_MOST(WRITE, NOW_AND_THEN);
	AT_MOST(EPOLL_CTL, 0);
	AT_MOST(TIMER, NOW_AND_THEN);
	/* One each way and side; with many in flight, several calls share one. */
	AT_MOST(SEND, 2 * COUNTED_CALLS + at_once);
	AT_MOST(RECEIVE, 2 * COUNTED_CALLS + at_once);
	AT_MOST(EPOLL_WAIT, 2 * COUNTED_CALLS + NOW_AND_THEN);
}

static void a_warm_grpc_call_touches_nothing_but_its_socket(void **state)
{
	(void)state;
	count_calls(grpc_call("/t.S/Echo", body, sizeof(body)), 1);
	nothing_but_sockets_is_touched(1);
}

static void a_warm_http_call_touches_nothing_but_its_socket(void **state)
{
	struct mesh_call_options opts = http_call("/echo");

	(void)state;
	opts.body = body;
	opts.body_len = sizeof(body);
	count_calls(opts, 1);
	nothing_but_sockets_is_touched(1);
}

static void calls_in_flight_together_share_their_system_calls(void **state)
{
	(void)state;
	count_calls(grpc_call("/t.S/Echo", body, sizeof(body)), IN_FLIGHT);
	nothing_but_sockets_is_touched(IN_FLIGHT);
	AT_MOST(SEND, COUNTED_CALLS);
	AT_MOST(RECEIVE, COUNTED_CALLS);
}

static void a_warm_blocking_call_allocates_nothing(void **state)
{
	struct mesh_call_options opts = grpc_call("/t.S/Echo", body, sizeof(body));

	(void)state;
	for (int i = 0; i < WARM_CALLS + COUNTED_CALLS; i++) {
		if (i == WARM_CALLS) {
			memset(counts, 0, sizeof(counts));
			atomic_store(&is_counting, true);
		}
		assert_int_equal(mesh_client_call(users, &opts, NULL, NULL), 0);
	}
	atomic_store(&is_counting, false);
	AT_MOST(ALLOCATION, ONCE_A_SECOND);
	AT_MOST(LOCK, NOW_AND_THEN);
	AT_MOST(EPOLL_CTL, 0);
}

static void a_warm_pick_costs_neither_allocation_nor_lock_nor_system_call(void **state)
{
	struct mesh_pick pick = { .size = sizeof(pick) };

	(void)state;
	for (int i = 0; i < WARM_CALLS + COUNTED_CALLS; i++) {
		if (i == WARM_CALLS) {
			memset(counts, 0, sizeof(counts));
			atomic_store(&is_counting, true);
		}
		if (mesh_pick(users, &pick, NULL))
			abort();
		mesh_report(users, &pick, MESH_OUTCOME_OK, 1000);
	}
	atomic_store(&is_counting, false);
	AT_MOST(ALLOCATION, ONCE_A_SECOND);
	AT_MOST(LOCK, NOW_AND_THEN);
	AT_MOST(SEND, 0);
	AT_MOST(RECEIVE, 0);
	AT_MOST(TIMER, NOW_AND_THEN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_warm_grpc_call_touches_nothing_but_its_socket),
		cmocka_unit_test(a_warm_http_call_touches_nothing_but_its_socket),
		cmocka_unit_test(calls_in_flight_together_share_their_system_calls),
		cmocka_unit_test(a_warm_blocking_call_allocates_nothing),
		cmocka_unit_test(a_warm_pick_costs_neither_allocation_nor_lock_nor_system_call),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
