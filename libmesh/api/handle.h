/* What a `mesh *` is, for the files of api/. */
#ifndef MESH_API_HANDLE_H
#define MESH_API_HANDLE_H

#include "base/descriptors.h"
#include "config/config.h"
#include "flow/call.h"
#include "identity/identity.h"
#include "identity/policy_path.h"
#include "serve/authenticate.h"
#include "serve/serve.h"

enum { MESH__LOOPS_MAX = 64 };

struct mesh {
	atomic_uint refs; /* the opener's, and one per client, server and queue: they may be freed after mesh_close() */
	atomic_bool is_closing;
	_Atomic int64_t live_calls; /* started, or about to be, and not ended: closing waits for them, and draining */
	uint32_t generation; /* of the process that opened it: base/descriptors.h */
	struct mesh__log log;
	char service[256];
	struct mesh__config *config;
	struct mesh__stats *stats;
	struct mesh__directory *directory;
	struct mesh__flow *flow;
	struct mesh__identity *identity;
	struct mesh__policy_live *policy;             /* who may call; NULL: connections are plain text */
	struct mesh__workers *accepting, *connecting;    /* NULL: likewise */
	struct mesh__loop *lps[MESH__LOOPS_MAX];
	struct {
		struct mesh__task task;
		atomic_bool is_posted;
	} judging[MESH__LOOPS_MAX]; /* of the loop's connections, and of calls that wait, after our identity has changed */
	uint32_t loop_count;
	pthread_mutex_t life; /* recursive; held while it closes, and by who needs it to stay open: mesh__handle_enter() */
	struct {
		pthread_mutex_t lock;
		struct mesh__list servers, queues;
		struct mesh__server_secure *secure; /* one per service that had a server here */
	} shared;
};

struct mesh_client {
	mesh *mesh;
	struct mesh__target *target;
	uint32_t generation;
};

/* 0; or MESH_E_INVALID (NULL), MESH_E_FORKED, MESH_E_CLOSING with a sentence. */
int mesh__handle_refuse(const mesh *m, struct mesh_error *err);
static inline int mesh__handle_check(const mesh *m, struct mesh_error *err)
{
	if (m && m->generation == mesh__descriptors_generation() && !atomic_load(&m->is_closing))
		return 0;
	return mesh__handle_refuse(m, err);
}
/*
 * The same, and until mesh__handle_leave() the mesh does not close. Not for the path of a call, and not around anything that
 * waits for a loop's callback. On a loop it takes no lock: closing waits for the loops anyway.
 */
int mesh__handle_enter(mesh *m, struct mesh_error *err);
void mesh__handle_leave(mesh *m);
bool mesh__handle_is_on_loop(const mesh *m); /* inside a callback of one of its loops: closing would wait for itself */
void mesh__handle_ref(mesh *m);
void mesh__handle_unref(mesh *m);

#endif
