/*
 * The completion queue behind mesh_queue: any number of loops push, any number of threads take.
 *
 * Pushing is a lock-free stack and, when it was empty, one write to an eventfd. Takers share a lock that no loop ever takes.
 * Nodes are embedded in calls and requests: pushing cannot fail. `drop` gives back what the node holds once its event is out.
 */
#ifndef MESH_LOOP_QUEUE_H
#define MESH_LOOP_QUEUE_H

#include "base/list.h"
#include "mesh/queue.h"

#include <stdatomic.h>
#include <stdbool.h>

/* For who made the queue: how it finds all of them. */
struct mesh__queue_link {
	struct mesh__list node;
	void *owner;
};

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
struct mesh__queue_link *mesh__queue_link(mesh_queue *q);
mesh_queue *mesh__queue_linked(struct mesh__list *node); /* the queue that this link is in */
bool mesh__queue_is_ours(const mesh_queue *q);           /* false in a forked child */
void mesh__queue_ref(mesh_queue *q);
void mesh__queue_unref(mesh_queue *q);
/* Copies the event. false: this node is queued already, or the queue is freed: nothing was kept. */
bool mesh__queue_push(mesh_queue *q, struct mesh__queue_node *node, const struct mesh_event *event, mesh__queue_drop_fn drop);
void mesh__queue_shut(mesh_queue *q); /* takers return MESH_E_CLOSING once it is empty */
void mesh__queue_free(mesh_queue *q); /* shuts it, gives back what is in it and what still comes, and drops its owner's reference */

#endif
