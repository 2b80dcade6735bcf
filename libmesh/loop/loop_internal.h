/* What the files of loop/ share with each other and with nobody else. */
#ifndef MESH_LOOP_LOOP_INTERNAL_H
#define MESH_LOOP_LOOP_INTERNAL_H

#include "loop/loop.h"

/* Around every callback that comes from libevent. */
struct mesh__loop *mesh__loop_enter(struct mesh__loop *lp);
void mesh__loop_leave(struct mesh__loop *outer);
void mesh__loop_want_turn_end(struct mesh__loop *lp);
int mesh__loop_errno(void); /* errno as MESH_E_* */

void mesh__timer_wheel_init(struct mesh__loop *lp);
void mesh__timer_arm(struct mesh__loop *lp); /* sets the timerfd if the next expiry has changed */
void mesh__timer_on_ready(struct mesh__watch *watch, struct mesh__loop *lp, int what);

#endif
