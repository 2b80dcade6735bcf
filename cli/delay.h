/*
 * Does things later without blocking a loop: one thread that sleeps until the next one is due. What is due early goes first,
 * whatever was added last, since the delay may change while others wait.
 */
#ifndef MESH_CLI_DELAY_H
#define MESH_CLI_DELAY_H

#include <stdbool.h>
#include <stdint.h>

struct delay;
typedef void (*delay_fn)(void *user);

struct delay *delay_new(void);
/* thread any. Runs fn(user) on the delay's thread once, at `due_ns` or a little later. False: no memory, or it is ending. */
bool delay_add(struct delay *delay, uint64_t due_ns, delay_fn fn, void *user);
/* Runs what is left at once, and joins the thread. */
void delay_free(struct delay *delay);

#endif
