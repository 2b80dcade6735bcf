/* Between identity.c and its sources. All on the control loop, but for open. */
#ifndef MESH_IDENTITY_SOURCE_H
#define MESH_IDENTITY_SOURCE_H

#include "identity/identity.h"

struct mesh__identity_source;

struct mesh__identity_source_ops {
	const char *scheme; /* "local", without the colon */
	/*
	 * thread: the opener's, no loop runs yet. `rest` is what follows the colon. May deliver right here. Errors as mesh__identity_open().
	 */
	int (*open)(struct mesh__identity_source *source, const char *rest, struct mesh_error *err);
	void (*start)(struct mesh__identity_source *source);
	/* Make or fetch a fresh generation now; deliver or fail follows, maybe later. NULL: the source does so by itself (file:, spiffe:). */
	void (*renew)(struct mesh__identity_source *source);
	/* thread any but a loop's; NULL: nothing to do */
	int (*add_service)(struct mesh__identity_source *source, const char *service, struct mesh_error *err);
	void (*stop)(struct mesh__identity_source *source);
	void (*close)(struct mesh__identity_source *source); /* loops have stopped */
};

struct mesh__identity_source {
	const struct mesh__identity_source_ops *ops;
	struct mesh__identity *identity;
	const struct mesh__identity_options *opts;
	void *data;
	char uri[512];
};

extern const struct mesh__identity_source_ops mesh__identity_local, mesh__identity_file, mesh__identity_spiffe;

/* A new generation, taken over. thread: the control loop's, or the opener's in open and add_service. */
void mesh__identity_deliver(struct mesh__identity_source *source, struct mesh__credentials *credentials);
/* It could not be had; what there was stays. `reason` is a label ("unreadable", "mismatch", "socket", ...), `why` a sentence. */
void mesh__identity_failed(struct mesh__identity_source *source, const char *reason, const char *why);
/* What there was is void from now on: the issuer took it back. */
void mesh__identity_redacted(struct mesh__identity_source *source, const char *why);

#endif
