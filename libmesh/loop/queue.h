/*
 * The completion queue behind mesh_queue: any number of loops push, any number of threads take.
 *
 * Pushing is a lock-free stack and, when it was empty, one write to an eventfd. Takers share a lock that no loop ever takes.
 * Nodes are embedded in calls and requests: pushing cannot fail. `drop` gives back what the node holds once its event is out.
 */
#ifndef MESH_LOOP_QUEUE_H
#define MESH_LOOP_QUEUE_H

#include "mesh/queue.h"

#include <stdatomic.h>
#include <stdbool.h>

/* Gives back what the event held; is_taken false: nobody will ever see it. */
typedef void (*mesh__queue_drop_fn)(const struct mesh_event *event, bool is_taken);

struct mesh__queue_node {
	atomic_bool is_queued; /* a level, not an edge: pushing again before it was taken changes nothing */
	/* The queue's while is_queued. */
	struct mesh__queue_node *next;
	struct mesh_event event;
	mesh__queue_drop_fn drop;
};

int mesh__queue_new(mesh_queue **out, struct mesh_error *err);
void mesh__queue_ref(mesh_queue *q);
void mesh__queue_unref(mesh_queue *q);
/* Copies the event. false: this node is queued already, or the queue is freed: nothing was kept. */
bool mesh__queue_push(mesh_queue *q, struct mesh__queue_node *node, const struct mesh_event *event, mesh__queue_drop_fn drop);
void mesh__queue_shut(mesh_queue *q);                                /* takers return MESH_E_CLOSING once it is empty */

#endif
