/* Options by name: the same names, units and ranges in the environment, in files and here. mesh-options(7) lists them. */
#ifndef MESH_OPTIONS_H
#define MESH_OPTIONS_H

#include <mesh/mesh.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One option as it is now. Strings are valid inside the callback only. */
struct mesh_option_info {
	uint32_t size;
	uint32_t is_service; /* 1: can be set for one service */
	uint32_t is_live;    /* 1: can change while the mesh is open */
	uint32_t reserved;
	const char *name;    /* "drain.timeout" */
	const char *environment; /* "MESH_DRAIN_TIMEOUT" */
	const char *type;    /* "duration", "count", "bytes", "percent", "text", "choice", "bool" */
	const char *value;   /* effective, printed as it would be parsed */
	const char *default_value;
	const char *range;   /* "1ms..1h", "a|b|c", "" */
	const char *source;  /* "default", "environment", "file /etc/mesh.conf:3", "api" */
	const char *service; /* "" or the service that this value is for */
	const char *help;    /* one sentence */
};

typedef void (*mesh_option_fn)(const struct mesh_option_info *info, void *user);

/*
 * Changes a live option. `name` may carry a service: "timeout@users".
 *
 * thread   any; calls that start after this returns see the new value
 * errors   MESH_E_OPTION   unknown name (the nearest known one is named), value out of range, or not changeable while open
 *          MESH_E_FORKED, MESH_E_NOMEM
 * since    0.1
 */
MESH_API int mesh_options_set(mesh *m, const char *name, const char *value, struct mesh_error *err);

/*
 * Writes the effective value for `service` (NULL: in general; or as part of the name, "timeout@users") as text, with its unit.
 *
 * thread   any
 * returns  the length that the whole value has (it is cut at `capacity`)
 * errors   MESH_E_OPTION (an unknown name), MESH_E_INVALID (NULL), MESH_E_FORKED, MESH_E_CLOSING
 * since    0.1
 */
MESH_API int64_t mesh_options_get(mesh *m, const char *name, const char *service, char *buffer, uint64_t capacity);

/*
 * Runs `fn` for every option and every per-service value, in the table's order.
 *
 * thread   any; `fn` runs in it
 * errors   MESH_E_INVALID (NULL), MESH_E_FORKED, MESH_E_CLOSING
 * since    0.1
 */
MESH_API int mesh_options_list(mesh *m, mesh_option_fn fn, void *user);

#ifdef __cplusplus
}
#endif

#endif
