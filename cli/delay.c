#include "delay.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct entry {
	uint64_t due_ns;
	delay_fn fn;
	void *user;
};

struct delay {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under the lock */
	struct entry *heap; /* the earliest is heap[0]; the children of n are 2n+1 and 2n+2 */
	size_t count, capacity;
	bool is_ending;
};

static void swap(struct entry *a, struct entry *b)
{
	struct entry kept = *a;

	*a = *b;
	*b = kept;
}

static void rise(struct entry *heap, size_t n)
{
	for (; n > 0 && heap[n].due_ns < heap[(n - 1) / 2].due_ns; n = (n - 1) / 2)
		swap(&heap[n], &heap[(n - 1) / 2]);
}

static void sink(struct entry *heap, size_t count, size_t n)
{
	for (;;) {
		size_t least = n;
		for (size_t child = 2 * n + 1; child <= 2 * n + 2 && child < count; child++) {
			if (heap[child].due_ns < heap[least].due_ns)
				least = child;
		}
		if (least == n)
			return;
		swap(&heap[n], &heap[least]);
		n = least;
	}
}

static struct entry take_first(struct delay *delay)
{
	struct entry first = delay->heap[0];

	delay->heap[0] = delay->heap[--delay->count];
	sink(delay->heap, delay->count, 0);
	return first;
}

static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void *turn(void *user)
{
	struct delay *delay = user;

	pthread_mutex_lock(&delay->lock);
	while (delay->count > 0 || !delay->is_ending) {
		if (delay->count == 0) {
			pthread_cond_wait(&delay->changed, &delay->lock);
			continue;
		}
		uint64_t due_ns = delay->heap[0].due_ns;
		if (due_ns > clock_ns() && !delay->is_ending) {
			struct timespec until = { (time_t)(due_ns / 1000000000), (long)(due_ns % 1000000000) };
			pthread_cond_timedwait(&delay->changed, &delay->lock, &until);
			continue;
		}
		struct entry entry = take_first(delay);
		pthread_mutex_unlock(&delay->lock);
		entry.fn(entry.user);
		pthread_mutex_lock(&delay->lock);
	}
	pthread_mutex_unlock(&delay->lock);
	return NULL;
}

struct delay *delay_new(void)
{
	struct delay *delay = calloc(1, sizeof(*delay));
	pthread_condattr_t attributes;

	if (!delay)
		return NULL;
	pthread_mutex_init(&delay->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&delay->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	if (pthread_create(&delay->thread, NULL, turn, delay) == 0)
		return delay;
	pthread_cond_destroy(&delay->changed);
	pthread_mutex_destroy(&delay->lock);
	free(delay);
	return NULL;
}

bool delay_add(struct delay *delay, uint64_t due_ns, delay_fn fn, void *user)
{
	bool is_added = false;

	pthread_mutex_lock(&delay->lock);
	if (delay->count == delay->capacity) {
		size_t capacity = delay->capacity ? 2 * delay->capacity : 256;
		struct entry *heap = realloc(delay->heap, capacity * sizeof(*heap));
		if (!heap)
			goto out;
		delay->heap = heap;
		delay->capacity = capacity;
	}
	delay->heap[delay->count] = (struct entry){ due_ns, fn, user };
	rise(delay->heap, delay->count++);
	is_added = true;
	if (delay->heap[0].user == user)
		pthread_cond_signal(&delay->changed);
out:
	pthread_mutex_unlock(&delay->lock);
	return is_added;
}

void delay_free(struct delay *delay)
{
	if (!delay)
		return;
	pthread_mutex_lock(&delay->lock);
	delay->is_ending = true;
	pthread_cond_signal(&delay->changed);
	pthread_mutex_unlock(&delay->lock);
	pthread_join(delay->thread, NULL);
	pthread_cond_destroy(&delay->changed);
	pthread_mutex_destroy(&delay->lock);
	free(delay->heap);
	free(delay);
}
