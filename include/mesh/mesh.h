/*
 * A mesh: this process' membership. Open one, make clients and servers from it, drain it, close it.
 *
 * With no configuration at all it finds services of the same user on this machine. Options come from the environment
 * (MESH_*), from the file that MESH_CONFIG names, and from mesh_options; see mesh-options(7).
 *
 * Processes: after fork() every call on an inherited handle fails with MESH_E_FORKED, except the functions that free or
 * close, which are safe and do nothing to the parent. The child may open its own mesh at once.
 */
#ifndef MESH_MESH_H
#define MESH_MESH_H

#include <mesh/error.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mesh mesh;

enum mesh_log_level { MESH_LOG_OFF = 0, MESH_LOG_ERROR = 1, MESH_LOG_WARN = 2, MESH_LOG_INFO = 3, MESH_LOG_DEBUG = 4 };

/* One line without a newline, of printable ASCII (all else is \xNN); runs on any thread of the library; must not call back into it. */
typedef void (*mesh_log_fn)(int32_t level, const char *line, void *user);

struct mesh_setting {
	const char *name;  /* as in mesh-options(7): "timeout", "timeout@users" for one service */
	const char *value; /* with its unit: "250ms" */
};

struct mesh_options {
	uint32_t size;        /* sizeof(struct mesh_options) */
	uint32_t reserved;
	const char *service;  /* who we are; NULL: MESH_SERVICE, else the program's name */
	const struct mesh_setting *settings; /* win over environment and file */
	uint64_t setting_count;
	void *event_base;     /* a libevent `struct event_base *` to run on, instead of own loop threads; NULL: own */
	mesh_log_fn log;      /* NULL: MESH_LOG decides: unset, nothing is written; set, lines go to standard error */
	void *log_user;
};

#define MESH_OPTIONS_INIT { sizeof(struct mesh_options), 0, 0, 0, 0, 0, 0, 0 }

/*
 * Opens a mesh: reads the options, starts the loop threads, publishes the counters.
 *
 * thread   any; several meshes may live in one process
 * memory   everything is copied; *out is closed with mesh_close()
 * loops    with opts->event_base nothing runs unless the caller turns that base, in one thread; it must outlive mesh_close().
 *          TLS handshakes still have threads of their own, one for each direction; they run nothing of the caller's.
 *          Functions that wait turn it themselves when they are called in that thread
 * errors   MESH_E_OPTION          one or more options are wrong: the sentence lists them all
 *          MESH_E_NO_DESCRIPTORS, MESH_E_SYSTEM, MESH_E_NOMEM, MESH_E_VERSION, MESH_E_INVALID
 *          (nothing stays behind after an error)
 * since    0.1
 */
MESH_API int mesh_open(const struct mesh_options *opts, mesh **out, struct mesh_error *err);

/*
 * Takes every server of this mesh out of discovery, tells the peers to go elsewhere (GOAWAY), and waits until what is in
 * flight, in either direction, has ended.
 *
 * thread   any but the loop's; with a foreign event_base it turns that base itself, so call it outside its callbacks
 * time     at most option `drain.delay` + `drain.timeout`; mesh_close() in another thread ends it
 * errors   MESH_E_DEADLINE        work is left: mesh_close() will end it
 *          MESH_E_WRONG_THREAD, MESH_E_CLOSING, MESH_E_FORKED, MESH_E_INVALID
 * since    0.1
 */
MESH_API int mesh_drain(mesh *m, struct mesh_error *err);

/*
 * Ends everything at once, joins the threads, frees the mesh. Unfinished calls end with MESH_E_CLOSING first, each exactly
 * once. Other threads may be using clients, servers, queues and calls of this mesh meanwhile, and may free them afterwards;
 * all else they then try fails with MESH_E_CLOSING. Not so mesh_pick() and mesh_report(), which take no part in this.
 *
 * thread   any but the loop's, once; with a foreign event_base the base's thread, outside its callbacks. Inside a callback of
 *          this mesh it does nothing but say so in the log: it would wait for itself
 * memory   NULL is fine; in a forked child it does nothing
 * since    0.1
 */
MESH_API void mesh_close(mesh *m);

/* Who we are: the service name in use. thread any; memory valid until mesh_close(). since 0.1 */
MESH_API const char *mesh_service(const mesh *m);

/* "0.1.0"; and the number 0x000100 of the library that is loaded, to compare with MESH_VERSION. thread any. since 0.1 */
MESH_API const char *mesh_version(void);
MESH_API uint32_t mesh_version_number(void);

/* Of the mbedTLS that is loaded: 0x03060600 is 3.6.6. thread any. since 0.1 */
MESH_API uint32_t mesh_tls_version_number(void);
#define MESH_VERSION 0x000100u

#ifdef __cplusplus
}
#endif

#endif
