/*
 * Helper threads for work that takes milliseconds of processor time: handshakes, keys. A bounded queue, first come first served; started with the
 * first job; the threads run at a lower priority than loops (nice 10 of their own), so that a storm of handshakes leaves live calls their processor.
 * In a forked child they do not exist: nothing is taken, and stop and free leave alone what is the parent's.
 */
#ifndef MESH_LOOP_WORKERS_H
#define MESH_LOOP_WORKERS_H

#include "loop/loop.h"

struct mesh__workers;

struct mesh__job {
	struct mesh__job *next;
	void (*work)(struct mesh__job *job); /* on a worker */
	struct mesh__task done;              /* then this, on `lp` */
	struct mesh__loop *lp;
	void (*dropped)(struct mesh__task *done, struct mesh__loop *lp); /* instead of both, on `lp`, if the workers stop before; may be NULL */
};

int mesh__workers_new(uint32_t threads, uint32_t queue_max, const char *name, struct mesh__workers **out); /* MESH_E_NOMEM */
bool mesh__workers_submit(struct mesh__workers *workers, struct mesh__job *job); /* thread any; false: the queue is full, or no thread could be had */
void mesh__workers_stop(struct mesh__workers *workers); /* finishes what runs, drops what waits (`dropped` is run, `done` is not), joins; before the loops stop */
void mesh__workers_free(struct mesh__workers *workers);

#endif
