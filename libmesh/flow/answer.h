#ifndef MESH_FLOW_ANSWER_H
#define MESH_FLOW_ANSWER_H

struct mesh_call;

/* Judges what came in `attempt.stream` and moves it into the call: sets code, statuses, headers; blames what is wrong. */
void mesh__answer_read(struct mesh_call *call);

#endif
