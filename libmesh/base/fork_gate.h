/*
 * Keeps fork() out of code of others that takes locks of its own, as mbedTLS does around its random numbers and its keys: a child that
 * is born while another thread holds one of them would wait for it for ever.
 *
 * Whoever calls such code enters before and leaves after: milliseconds at most, no waiting inside, never twice in one thread. A fork waits until
 * all have left, and newcomers wait for the fork. Global state, and why: fork() belongs to the process, and so do those locks.
 */
#ifndef MESH_BASE_FORK_GATE_H
#define MESH_BASE_FORK_GATE_H

int mesh__fork_gate_watch(void); /* installs the fork handlers once per process; 0 or MESH_E_NOMEM. thread any */
void mesh__fork_gate_enter(void);
void mesh__fork_gate_leave(void);

#endif
