/*
 * Options: from the environment, the file that MESH_CONFIG names, and the API, through one parser driven by
 * tables/options.def. API wins over environment, environment over file, file over default.
 *
 * The environment is read once, in mesh__config_new(). Readers take no lock: numbers are atomics; a text that was replaced
 * stays allocated until the end.
 */
#ifndef MESH_CONFIG_CONFIG_H
#define MESH_CONFIG_CONFIG_H

#include "base/log.h"
#include "mesh/options.h"

#include <stdatomic.h>
#include <stdbool.h>

struct mesh__config;

enum mesh__option {
#define MESH_OPTION(NAME, name, type, dflt, min, max, scope, when, help) MESH__OPTION_##NAME,
#include "tables/options.def"
#undef MESH_OPTION
	MESH__OPTION_COUNT
};

/* What the path of a call reads of one service, resolved; live options change in place. */
struct mesh__service_config {
	_Atomic uint64_t timeout_ns, resolve_timeout_ns, connect_timeout_ns, buffer_bytes, message_max_bytes;
	_Atomic uint32_t attempts, connections, pending_max, calls_max;
};

/* What the table cannot say of a TEXT: 0, or an error with a sentence. NULL is fine. */
typedef int (*mesh__config_check)(enum mesh__option option, const char *text, struct mesh_error *err);

/*
 * `environment`: "NAME=value" texts, NULL-terminated; NULL: the process'. All problems are reported together: as many as fit in
 * *err, every one in the log. Errors: MESH_E_OPTION, MESH_E_NOMEM.
 */
int mesh__config_new(struct mesh__config **out, const char *const *environment, const struct mesh_setting *settings, uint64_t setting_count,
		     mesh__config_check check, const struct mesh__log *log, struct mesh_error *err);
void mesh__config_free(struct mesh__config *cfg);

/* thread any, no lock but for per-service look-ups of services not seen before. `service` may be NULL. */
uint64_t mesh__config_ns(const struct mesh__config *cfg, enum mesh__option option, const char *service);
uint64_t mesh__config_bytes(const struct mesh__config *cfg, enum mesh__option option, const char *service);
uint64_t mesh__config_count(const struct mesh__config *cfg, enum mesh__option option, const char *service);
uint32_t mesh__config_choice(const struct mesh__config *cfg, enum mesh__option option, const char *service); /* index of the word */
const char *mesh__config_text(const struct mesh__config *cfg, enum mesh__option option, const char *service);

/* The block of a service: the same pointer each time, valid until mesh__config_free(). NULL: out of memory. */
const struct mesh__service_config *mesh__config_service(const struct mesh__config *cfg, const char *service);

int mesh__config_set(struct mesh__config *cfg, const char *name, const char *value, struct mesh_error *err);
int64_t mesh__config_get(const struct mesh__config *cfg, const char *name, const char *service, char *buffer, uint64_t capacity);
int mesh__config_list(const struct mesh__config *cfg, mesh_option_fn fn, void *user);

const char *mesh__config_runtime_dir(const struct mesh__config *cfg); /* option, else by XDG_RUNTIME_DIR, else /dev/shm/mesh-UID */
const char *mesh__config_environment(const struct mesh__config *cfg, const char *name); /* of the snapshot; NULL: unset or empty */
uint32_t mesh__config_warning_count(const struct mesh__config *cfg);

#endif
