/*
 * The policy that a mesh's servers go by now: made of option `policy` (a file, read again whenever it changes), option `allow`, or
 * neither (the own trust domain).
 *
 * The newest policy is published by one counted pointer under a short lock. A file that is refused or cannot be read changes
 * nothing: the last good policy stays, a line in the log says why, and mesh_policy_failures_total counts it, once per change.
 */
#ifndef MESH_IDENTITY_POLICY_PATH_H
#define MESH_IDENTITY_POLICY_PATH_H

#include "config/config.h"
#include "identity/policy.h"
#include "loop/loop.h"
#include "stats/stats.h"

struct mesh__policy_live;

struct mesh__policy_live_options {
	const char *path, *allow; /* of options policy and allow; "" or NULL: not set */
	struct mesh__stats *stats;
	const struct mesh__log *log;
	struct mesh__loop *control;
};

/*
 * Reads the first policy right here: a policy that was asked for and cannot be had opens nothing. thread: the opener's.
 * Errors: MESH_E_OPTION (both are set, a wrong pattern, the file cannot be read), MESH_E_NOT_PRIVATE (everybody can write the file),
 * MESH_E_CORRUPT (the file's text), MESH_E_NOMEM,
 * MESH_E_NO_DESCRIPTORS.
 */
int mesh__policy_live_open(const struct mesh__policy_live_options *opts, struct mesh__policy_live **out, struct mesh_error *err);
void mesh__policy_live_start(struct mesh__policy_live *live); /* once the loops exist: posts itself to the control loop, and watches the file */
void mesh__policy_live_stop(struct mesh__policy_live *live);  /* on the control loop */
void mesh__policy_live_free(struct mesh__policy_live *live);  /* after all loops have stopped; NULL is fine */

struct mesh__policy *mesh__policy_live_take(struct mesh__policy_live *live); /* one reference, never NULL. thread any */
uint64_t mesh__policy_live_generation(const struct mesh__policy_live *live); /* grows with each policy that replaced another. thread any, no lock */

/* Looks at the file now, `is_changed`: even if nothing seems to have changed. On the control loop, or where none runs. */
void mesh__policy_live_look(struct mesh__policy_live *live, bool is_changed);

#endif
