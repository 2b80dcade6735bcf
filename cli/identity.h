/* Who the processes of this host are, as `mesh id` lists and `mesh check` judges it. */
#ifndef MESH_CLI_IDENTITY_H
#define MESH_CLI_IDENTITY_H

#include "counters.h"

struct identity {
	const struct counters_process *process;
	struct mesh_stats_identity info; /* strings are the view's, "" if there is none */
	const char *state; /* "ok", "none", "expired", "overdue", "off", "unknown" */
	bool is_usable;    /* calls can be made with it: plain text is not */
	char reason[640];  /* "" if all is well; not escaped */
	char hint[200];
	char note[640];    /* what goes wrong although the state is "ok": the newest renewal was refused; "" */
};

void identity_read(const struct counters_process *process, struct identity *identity);

/* "2h 10m": whole and short, for times that lie apart by minutes or months. */
char *human_seconds(char *buffer, int64_t seconds);
int64_t wall_s(void);

/* "2026-11-26T14:00:00Z"; "-" for a time that there is none of. The buffer is returned. */
enum { WALL_TIME_BYTES = 32 };
char *wall_time(char *buffer, int64_t seconds);

#endif
