/*
 * Between the directory and its sources. A source lives on the control loop; the directory asks it to follow a service, and it
 * delivers: the whole set, "not known here", or "cannot say right now" (and then the last good answer stays).
 */
#ifndef MESH_DISCOVERY_SOURCE_H
#define MESH_DISCOVERY_SOURCE_H

#include "discovery/directory.h"
#include "identity/discovered_id.h"

enum { MESH__SOURCES_MAX = 16 };

struct mesh__source;

/* An endpoint as a source says it. */
struct mesh__found {
	struct mesh__address address;
	uint16_t weight;
	struct mesh__discovered_id *id; /* who answers there, if the source says so and may be believed; else NULL */
};

struct mesh__source_ops {
	const char *scheme; /* "local", without the colon */
	/* Parses what follows the colon, and does nothing else: source->dir may be NULL. Errors: MESH_E_OPTION with a phrase, MESH_E_NOMEM. */
	int (*open)(struct mesh__source *source, const char *rest, struct mesh_error *err);
	/* On the control loop; again if memory was out before. */
	void (*follow)(struct mesh__source *source, struct mesh__service *service);
	void (*stop)(struct mesh__source *source);                                  /* on the control loop */
	void (*close)(struct mesh__source *source);
	/* thread any; NULL: this source takes no announcements */
	int (*announce)(struct mesh__source *source, const char *service, const struct mesh__address *address, void **out, struct mesh_error *err);
	void (*withdraw)(struct mesh__source *source, void *announced);
};

struct mesh__source {
	const struct mesh__source_ops *ops;
	struct mesh__directory *dir;
	uint8_t index;
	void *data;
	char uri[256];
};

extern const struct mesh__source_ops mesh__source_local, mesh__source_static, mesh__source_file;

/* On the control loop; `found` is copied, and references taken. */
void mesh__directory_deliver(struct mesh__source *source, struct mesh__service *service, const struct mesh__found *found, uint32_t count);
void mesh__directory_absent(struct mesh__source *source, struct mesh__service *service, const char *why);
/* `code`: MESH_E_NO_DESCRIPTORS or MESH_E_NOMEM if that is why; what else it is says nothing of this process. */
void mesh__directory_failed(struct mesh__source *source, struct mesh__service *service, int32_t code, const char *why);
void mesh__directory_out_of_memory(struct mesh__source *source, struct mesh__service *service); /* failed, and to be asked again */

const struct mesh__directory_options *mesh__directory_opts(const struct mesh__directory *dir);

/* Reads one endpoint file; also what the fuzzer drives. `take` gets each service of the file. 0, or -1 with `why` filled. */
int mesh__source_file_parse(const char *text, size_t len, void (*take)(void *user, const char *service, const struct mesh__found *, uint32_t),
			    void *user, char *why, size_t why_capacity);
/* One registry entry. 0, or -1 with *why a static phrase. */
int mesh__source_local_parse(const char *text, size_t len, const char *service, struct mesh__found *found, const char **why);

#endif
