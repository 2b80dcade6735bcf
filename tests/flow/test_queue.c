/* Completion queues: nobody who waits is forgotten, nothing that was queued is lost or kept, a queue that is gone leaves nothing. */
#include "../lib/mesh_test.h"

enum { WAITERS = 8 };

static void *wait_for_ever(void *q)
{
	struct mesh_event event = { .size = sizeof(event) };

	return (void *)(intptr_t)mesh_queue_next(q, &event, 1, UINT32_MAX);
}

static void start_waiting(pthread_t *threads, mesh_queue *q)
{
	for (int i = 0; i < WAITERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, wait_for_ever, q), 0);
	poll(NULL, 0, 50);
}

static void expect_closing(pthread_t *threads)
{
	void *result;

	for (int i = 0; i < WAITERS; i++) {
		assert_int_equal(pthread_join(threads[i], &result), 0);
		assert_int_equal((intptr_t)result, MESH_E_CLOSING);
	}
}

static void whoever_waits_hears_that_the_mesh_has_closed(void **state)
{
	pthread_t threads[WAITERS];

	(void)state;
	alarm(60);
	for (int i = 0; i < 10; i++) {
		mesh *m = OPEN_MESH("self");
		mesh_queue *q;

		assert_int_equal(mesh_queue_new(m, &q, NULL), 0);
		start_waiting(threads, q);
		mesh_close(m);
		expect_closing(threads);
		mesh_queue_free(q);
	}
	alarm(0);
}

static void whoever_waits_hears_that_the_queue_was_freed(void **state)
{
	mesh *m = OPEN_MESH("self");
	pthread_t threads[WAITERS];

	(void)state;
	alarm(60);
	for (int i = 0; i < 10; i++) {
		mesh_queue *q;

		assert_int_equal(mesh_queue_new(m, &q, NULL), 0);
		start_waiting(threads, q);
		mesh_queue_free(q);
		expect_closing(threads);
	}
	mesh_close(m);
	alarm(0);
}

static void queues_that_come_and_go_leave_nothing_behind(void **state)
{
	mesh *m = OPEN_MESH("self");
	mesh_queue *q, *kept;
	int descriptors;

	(void)state;
	assert_int_equal(mesh_queue_new(m, &kept, NULL), 0);
	descriptors = count_descriptors();
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(mesh_queue_new(m, &q, NULL), 0);
		mesh_queue_free(q);
	}
	assert_int_equal(count_descriptors(), descriptors);
	mesh_close(m);
	mesh_queue_free(kept);
}

static void an_event_that_would_not_fit_is_refused(void **state)
{
	mesh *m = OPEN_MESH("self");
	struct mesh_event events[2] = { { 0 } };
	mesh_queue *q;

	(void)state;
	assert_int_equal(mesh_queue_new(m, &q, NULL), 0);
	for (uint32_t size = 0; size < sizeof(events[0]); size++) {
		events[0].size = size;
		assert_int_equal(mesh_queue_next(q, events, 1, 0), MESH_E_INVALID);
	}
	events[0].size = sizeof(events[0]) + 1; /* the second one would not be aligned */
	assert_int_equal(mesh_queue_next(q, events, 1, 0), MESH_E_INVALID);
	events[0].size = sizeof(events[0]);
	assert_int_equal(mesh_queue_next(q, events, 2, 0), 0);
	assert_int_equal(mesh_queue_next(q, events, 0, 0), MESH_E_INVALID);
	assert_int_equal(mesh_queue_next(q, NULL, 1, 0), MESH_E_INVALID);
	assert_int_equal(mesh_queue_next(NULL, events, 1, 0), MESH_E_INVALID);
	mesh_queue_free(q);
	mesh_close(m);
}

/* A queue that goes away between two events: what waits in it is refused, what comes later is refused, nothing hangs. */
static void a_queue_freed_under_load_refuses_what_it_holds(void **state)
{
	enum { CALLS = 40 };
	mesh *m = OPEN_MESH("caller", "timeout", "20s"), *backend;
	struct mesh_call_options opts = grpc_call("/t.S/Any", "x", 1);
	mesh_client *client = new_client(m, "self");

	(void)state;
	for (int round = 0; round < 30; round++) {
		mesh_call *calls[CALLS];
		mesh_queue *requests, *done;
		mesh_server *server;

		backend = OPEN_MESH("self");
		server = new_server(backend, NULL);
		assert_int_equal(mesh_queue_new(backend, &requests, NULL), 0);
		assert_int_equal(mesh_queue_new(m, &done, NULL), 0);
		assert_int_equal(mesh_server_handle_queue(server, "*", MESH_HANDLER_GRPC, requests, 1, NULL), 0);
		start_server(server);
		opts.queue = done;
		for (int i = 0; i < CALLS; i++) {
			assert_int_equal(mesh_client_start(client, &opts, &calls[i], NULL), 0);
			if (i == round)
				mesh_queue_free(requests);
		}
		mesh_queue_free(done);
		for (int i = 0; i < CALLS; i++) {
			assert_int_equal(mesh_call_wait(calls[i], 10000, NULL), MESH_E_STATUS);
			assert_int_equal(mesh_call_grpc_status(calls[i]), 2);
			mesh_call_unref(calls[i]);
		}
		mesh_server_free(server);
		mesh_close(backend);
	}
	mesh_client_free(client);
	mesh_close(m);
}

#ifndef TEST_UNDER_THREAD_SANITIZER /* it cannot follow a fork of several threads */
static void a_child_cannot_mistake_a_descriptor_for_the_queues(void **state)
{
	mesh *m = OPEN_MESH("self");
	struct mesh_event event = { .size = sizeof(event) };
	mesh_queue *q;
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(mesh_queue_new(m, &q, NULL), 0);
	assert_true(mesh_queue_fd(q) >= 0);
	assert_true(mesh_queue_fd(NULL) < 0);
	pid = fork();
	if (pid == 0) {
		int rc = mesh_queue_next(q, &event, 1, 0) != MESH_E_FORKED ? 1 : mesh_queue_fd(q) >= 0 ? 2 : 0;

		mesh_queue_free(q);
		_exit(rc);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	mesh_queue_free(q);
	mesh_close(m);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whoever_waits_hears_that_the_mesh_has_closed),
		cmocka_unit_test(whoever_waits_hears_that_the_queue_was_freed),
		cmocka_unit_test(queues_that_come_and_go_leave_nothing_behind),
		cmocka_unit_test(an_event_that_would_not_fit_is_refused),
		cmocka_unit_test(a_queue_freed_under_load_refuses_what_it_holds),
#ifndef TEST_UNDER_THREAD_SANITIZER
		cmocka_unit_test(a_child_cannot_mistake_a_descriptor_for_the_queues),
#endif
	};

	cmocka_set_test_filter(getenv("TEST_FILTER")); /* one test alone: TEST_FILTER=name */
	return cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
}
