#include "loop/queue.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct mesh_queue {
	atomic_uint refs;
	atomic_bool is_shut;  /* nothing is put in any more */
	atomic_bool is_freed; /* and nobody takes out what is in it */
	struct mesh__queue_link link;
	_Atomic(struct mesh__queue_node *) pushed; /* newest first */
	int fd;
	uint32_t generation;
	struct {
		pthread_mutex_t lock;
		struct mesh__queue_node *first, **last; /* oldest first */
	} takers;
};

int mesh__queue_new(mesh_queue **out, struct mesh_error *err)
{
	mesh_queue *q = mesh__memory_zalloc(sizeof(*q));
	int number;

	if (!q)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for a queue");
	q->fd = mesh__descriptors_add(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
	if (q->fd < 0) {
		number = errno;
		mesh__memory_free(q);
		return mesh__fault_errno(err, MESH_STAGE_NONE, number, "cannot make the descriptor of a queue");
	}
	atomic_init(&q->refs, 1);
	q->generation = mesh__descriptors_generation();
	pthread_mutex_init(&q->takers.lock, NULL);
	q->takers.last = &q->takers.first;
	*out = q;
	return 0;
}

struct mesh__queue_link *mesh__queue_link(mesh_queue *q)
{
	return &q->link;
}

mesh_queue *mesh__queue_linked(struct mesh__list *node)
{
	return MESH__CONTAINER(node, mesh_queue, link.node);
}

bool mesh__queue_is_ours(const mesh_queue *q)
{
	return q->generation == mesh__descriptors_generation();
}

void mesh__queue_ref(mesh_queue *q)
{
	atomic_fetch_add_explicit(&q->refs, 1, memory_order_relaxed);
}

/* Under the takers' lock. */
static void fetch_pushed(mesh_queue *q)
{
	struct mesh__queue_node *node = atomic_exchange_explicit(&q->pushed, NULL, memory_order_acquire), *oldest = NULL, *next;
	struct mesh__queue_node *newest = node;

	for (; node; node = next) {
		next = node->next;
		node->next = oldest;
		oldest = node;
	}
	if (!oldest)
		return;
	*q->takers.last = oldest;
	q->takers.last = &newest->next;
}

static void drop_all(mesh_queue *q)
{
	struct mesh__queue_node *node, *next;

	pthread_mutex_lock(&q->takers.lock);
	fetch_pushed(q);
	node = q->takers.first;
	q->takers.first = NULL;
	q->takers.last = &q->takers.first;
	pthread_mutex_unlock(&q->takers.lock);
	for (; node; node = next) {
		const struct mesh_event event = node->event;
		mesh__queue_drop_fn drop = node->drop;

		next = node->next;
		atomic_store_explicit(&node->is_queued, false, memory_order_release);
		drop(&event, false);
	}
}

void mesh__queue_unref(mesh_queue *q)
{
	if (!q || atomic_fetch_sub_explicit(&q->refs, 1, memory_order_acq_rel) != 1)
		return;
	mesh__descriptors_close(q->fd);
	pthread_mutex_destroy(&q->takers.lock);
	mesh__memory_free(q);
}

bool mesh__queue_push(mesh_queue *q, struct mesh__queue_node *node, const struct mesh_event *event, mesh__queue_drop_fn drop)
{
	const uint64_t one = 1;
	struct mesh__queue_node *head;

	if (atomic_load_explicit(&q->is_shut, memory_order_acquire) || atomic_exchange_explicit(&node->is_queued, true, memory_order_acq_rel))
		return false;
	node->event = *event;
	node->drop = drop;
	head = atomic_load_explicit(&q->pushed, memory_order_relaxed);
	do
		node->next = head;
	while (!atomic_compare_exchange_weak(&q->pushed, &head, node));
	/* Freed since we looked above: then whoever freed it may have emptied it already. */
	if (atomic_load(&q->is_freed)) {
		drop_all(q);
		return true;
	}
	/* An eventfd only refuses when its counter is full, and then it is readable already. */
	if (!head)
		(void)!write(q->fd, &one, sizeof(one));
	return true;
}

static uint32_t take(mesh_queue *q, struct mesh_event *events, uint32_t max)
{
	size_t stride = events[0].size;
	struct mesh__queue_node *taken = NULL, **last = &taken, *node;
	uint64_t count;
	uint32_t n = 0;

	pthread_mutex_lock(&q->takers.lock);
	fetch_pushed(q);
	while (n < max && (node = q->takers.first)) {
		q->takers.first = node->next;
		*last = node;
		last = &node->next;
		n++;
	}
	*last = NULL;
	if (!q->takers.first) {
		q->takers.last = &q->takers.first;
		/*
		 * Empty: the descriptor goes quiet; then look again, since a push before the read may have gone unseen. Once it
		 * is shut it stays readable: others may wait for it, too, and nothing will wake them again.
		 */
		if (read(q->fd, &count, sizeof(count)) > 0 &&
		    (atomic_load_explicit(&q->pushed, memory_order_acquire) || atomic_load_explicit(&q->is_shut, memory_order_acquire))) {
			count = 1;
			(void)!write(q->fd, &count, sizeof(count));
		}
	}
	pthread_mutex_unlock(&q->takers.lock);
	for (uint32_t i = 0; taken; i++) {
		struct mesh_event *out = (struct mesh_event *)(void *)((char *)events + i * stride);
		const struct mesh_event event = taken->event;
		mesh__queue_drop_fn drop = taken->drop;

		node = taken;
		taken = node->next;
		memcpy(out, &event, stride < sizeof(event) ? stride : sizeof(event));
		out->size = (uint32_t)stride;
		/* From here on the node may be pushed again. */
		atomic_store_explicit(&node->is_queued, false, memory_order_release);
		drop(&event, true);
	}
	return n;
}

static int next(mesh_queue *q, struct mesh_event *events, uint32_t max, uint32_t timeout_ms)
{
	uint64_t deadline_ns = timeout_ms == UINT32_MAX ? UINT64_MAX : mesh__clock_now_ns() + timeout_ms * MESH__NS_PER_MS;

	for (;;) {
		struct pollfd ready = { .fd = q->fd, .events = POLLIN };
		uint32_t n = take(q, events, max);
		uint64_t now_ns;
		int wait_ms = -1;

		if (n)
			return (int)n;
		if (atomic_load_explicit(&q->is_shut, memory_order_acquire))
			return MESH_E_CLOSING;
		if (!timeout_ms)
			return 0;
		now_ns = mesh__clock_now_ns();
		if (now_ns >= deadline_ns)
			return 0;
		if (deadline_ns != UINT64_MAX)
			wait_ms = (int)((deadline_ns - now_ns + MESH__NS_PER_MS - 1) / MESH__NS_PER_MS);
		poll(&ready, 1, wait_ms);
	}
}

int mesh_queue_next(mesh_queue *q, struct mesh_event *events, uint32_t max, uint32_t timeout_ms)
{
	int rc;

	/* All fields of an event must fit: a request that is not handed out would be lost. */
	if (!q || !events || !max || events[0].size < sizeof(*events) || events[0].size % _Alignof(struct mesh_event))
		return MESH_E_INVALID;
	if (!mesh__queue_is_ours(q))
		return MESH_E_FORKED;
	/* It may be freed while we wait. */
	mesh__queue_ref(q);
	rc = next(q, events, max, timeout_ms);
	mesh__queue_unref(q);
	return rc;
}

int mesh_queue_fd(const mesh_queue *q)
{
	/* In a child the number may be somebody else's by now. */
	return !q ? MESH_E_INVALID : mesh__queue_is_ours(q) ? q->fd : MESH_E_FORKED;
}

void mesh__queue_shut(mesh_queue *q)
{
	const uint64_t one = 1;

	atomic_store_explicit(&q->is_shut, true, memory_order_release);
	if (mesh__queue_is_ours(q))
		(void)!write(q->fd, &one, sizeof(one));
}

void mesh__queue_free(mesh_queue *q)
{
	atomic_store(&q->is_freed, true);
	mesh__queue_shut(q);
	if (mesh__queue_is_ours(q))
		drop_all(q);
	mesh__queue_unref(q);
}
