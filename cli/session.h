/* What every command that talks to a mesh needs: opening one, signals as something to wait for, the target's name. */
#ifndef MESH_CLI_SESSION_H
#define MESH_CLI_SESSION_H

#include "mesh/mesh.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Opens a mesh named `service` (NULL: MESH_SERVICE, else "mesh"). On failure the reason is printed and an exit status returned. */
int session_open(const char *service, const struct mesh_setting *settings, uint64_t setting_count, mesh **out);

/*
 * Waits, if it must, for the first answer of the source of identities, or the first reason why there is none: an agent needs some milliseconds, and a
 * command that does not wait for services is not to fail because of them.
 */
void session_await_identity(mesh *m);

/* Prints why mesh_open() failed: wrong options line by line. */
void session_complain(const struct mesh_error *err);

/* The exit status for a failure of the library. */
int session_status(const struct mesh_error *err);

/* Where the counters are: `given`, else as the options have it, whichever way they are given; "" if the library's own choice is right. */
int session_stats_dir(const char *given, char *dir, size_t capacity);
void session_stats_dir_of(mesh *m, char *dir, size_t capacity); /* the same, of an open mesh */

/* "users/7?x=1" is the service "users" and the path "/7?x=1"; without a path it is "/". */
struct target {
	char service[256];
	const char *path;
	char *owned_path;
};
bool target_parse(const char *text, struct target *target); /* complains if it is none */
void target_fini(struct target *target);

/*
 * SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 as numbers to wait for, instead of handlers. signals_catch() comes before the first
 * thread starts; signals_wait() returns the signal, or 0 after `timeout_ns` (UINT64_MAX: never).
 */
void signals_catch(void);
int signals_wait(uint64_t timeout_ns);
/* From now on SIGINT or SIGTERM end the process at once. */
void signals_let_quit(void);

uint64_t now_ns(void); /* CLOCK_MONOTONIC */

#endif
