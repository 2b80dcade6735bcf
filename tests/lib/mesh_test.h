/*
 * What tests of whole meshes share: a private directory for registry and counters, meshes and servers in one line, and a
 * count of what this process holds (descriptors, threads), so that a leak shows.
 */
#ifndef TESTS_LIB_MESH_TEST_H
#define TESTS_LIB_MESH_TEST_H

#include "mesh/endpoint.h"
#include "mesh/options.h"
#include "mesh/server.h"
#include "mesh/stats.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SANITIZE_THREAD__)
#define TEST_UNDER_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_UNDER_THREAD_SANITIZER 1
#endif
#endif

/*
 * The address sanitizer's allocator keeps its locks over a fork as they are: a child of a process whose other threads allocate at
 * that moment waits for ever. (libc's own does not.)
 */
#if defined(__SANITIZE_ADDRESS__)
#define TEST_UNDER_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TEST_UNDER_ADDRESS_SANITIZER 1
#endif
#endif

static char test_dir[64], test_state_dir[64];

static inline int make_test_dir(void **state)
{
	const char *in = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";

	(void)state;
	snprintf(test_dir, sizeof(test_dir), "%s/mesh-test-XXXXXX", in);
	snprintf(test_state_dir, sizeof(test_state_dir), "%s/mesh-test-state-XXXXXX", in);
	return mkdtemp(test_dir) && mkdtemp(test_state_dir) && !setenv("MESH_RUNTIME_DIR", test_dir, 1) &&
			       !setenv("MESH_STATE_DIR", test_state_dir, 1) ?
		       0 :
		       -1;
}

static inline void remove_tree(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *found;
	char child[1024];

	while (dir && (found = readdir(dir))) {
		if (snprintf(child, sizeof(child), "%s/%s", path, found->d_name) >= (int)sizeof(child))
			continue;
		if (strcmp(found->d_name, ".") && strcmp(found->d_name, "..") && unlink(child))
			remove_tree(child);
	}
	if (dir)
		closedir(dir);
	rmdir(path);
}

static inline int remove_test_dir(void **state)
{
	(void)state;
	remove_tree(test_dir);
	remove_tree(test_state_dir);
	return 0;
}

static inline uint64_t test_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* Waits until `condition` holds, five seconds at most (a hundred under a slow tool): for what other threads or processes do. */
#define WAIT_FOR(condition)                                                              \
	do {                                                                             \
		uint64_t until_ns = test_now_ns() + UINT64_C(30000000000);               \
		while (!(condition) && test_now_ns() < until_ns)                         \
			poll(NULL, 0, 2);                                                \
		assert_true(condition);                                                  \
	} while (0)

/* settings: name, value, name, value, ..., NULL */
static inline mesh *open_mesh(const char *service, const char *const *settings)
{
	struct mesh_setting list[16];
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	mesh *m = NULL;

	opts.service = service;
	opts.settings = list;
	for (; settings && *settings; settings += 2)
		list[opts.setting_count++] = (struct mesh_setting){ settings[0], settings[1] };
	if (mesh_open(&opts, &m, &err))
		fail_msg("mesh_open: %s", err.message);
	return m;
}

#define OPEN_MESH(service, ...) open_mesh(service, (const char *const[]){ __VA_ARGS__ __VA_OPT__(,) NULL })

static inline mesh_client *new_client(mesh *m, const char *service)
{
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_client *client = NULL;

	if (mesh_client_new(m, service, &client, &err))
		fail_msg("mesh_client_new: %s", err.message);
	return client;
}

static inline mesh_server *new_server(mesh *m, const char *listen)
{
	struct mesh_server_options opts = { .size = sizeof(opts), .listen = listen };
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_server *server = NULL;

	if (mesh_server_new(m, &opts, &server, &err))
		fail_msg("mesh_server_new: %s", err.message);
	return server;
}

static inline void add_handler(mesh_server *server, const char *path, uint32_t flags, mesh_request_fn fn, void *user)
{
	struct mesh_error err = MESH_ERROR_INIT;

	if (mesh_server_handle(server, path, flags, fn, user, &err))
		fail_msg("mesh_server_handle: %s", err.message);
}

static inline void start_server(mesh_server *server)
{
	struct mesh_error err = MESH_ERROR_INIT;

	if (mesh_server_start(server, &err))
		fail_msg("mesh_server_start: %s", err.message);
	assert_int_equal(err.code, 0);
}

static inline struct mesh_call_options grpc_call(const char *path, const void *body, uint64_t len)
{
	return (struct mesh_call_options){
		.size = sizeof(struct mesh_call_options), .flags = MESH_CALL_GRPC, .path = path, .body = body, .body_len = len,
	};
}

static inline struct mesh_call_options http_call(const char *path)
{
	return (struct mesh_call_options){ .size = sizeof(struct mesh_call_options), .path = path };
}

/* A handler that answers with the request's body, HTTP or gRPC. */
static inline void answer_echo(mesh_request *request, void *user)
{
	struct mesh_reply reply = { .size = sizeof(reply) };

	(void)user;
	reply.body = mesh_request_body(request, &reply.body_len);
	mesh_request_reply(request, &reply);
}

static inline int count_entries(const char *path)
{
	DIR *dir = opendir(path);
	int count = -1; /* the descriptor of the directory itself */

	while (dir && readdir(dir))
		count++;
	if (dir)
		closedir(dir);
	return count - 2;
}

static inline int count_descriptors(void)
{
	return count_entries("/proc/self/fd");
}

static inline int count_threads(void)
{
	return count_entries("/proc/self/task") + 1;
}

/* The sum of a counter over all series with the given labels (name, value, ...), of a mesh's own view. */
static inline int64_t counted(mesh *m, const char *name, const char *const *labels, uint64_t label_count)
{
	mesh_stats_view *view = NULL;
	int64_t total = 0, value, at = -1;

	assert_int_equal(mesh_stats_open_self(m, &view, NULL), 0);
	while ((at = mesh_stats_find(view, (uint64_t)(at + 1), name, labels, label_count)) >= 0)
		if (!mesh_stats_value(view, (uint64_t)at, &value))
			total += value;
	mesh_stats_close(view);
	return total;
}

#define COUNTED(m, name, ...)                                            \
	counted(m, name, (const char *const[]){ __VA_ARGS__ __VA_OPT__(,) NULL }, \
		sizeof((const char *const[]){ __VA_ARGS__ __VA_OPT__(,) NULL }) / sizeof(char *) / 2)

#endif
