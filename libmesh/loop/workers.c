#include "loop/workers.h"

#include "base/descriptors.h"
#include "base/memory.h"
#include "mesh/error.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	THREADS_MAX = 64,
	NICE = 10, /* a tenth of the processor when loops want it all: enough that handshakes do not starve either */
	NICE_MAX = 19,
	SLICE_NS = 100 * 1000 * 1000, /* the longest that Linux gives */
	THREAD_STACK_BYTES = 1024 * 1024
};

/* For sched_setattr(2), which the C library does not have; its header of the kernel's does not go with <sched.h>. */
struct scheduling {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime_ns, deadline_ns, period_ns;
};

struct mesh__workers {
	uint32_t generation; /* of forks: whose threads these are */
	uint32_t thread_max, queue_max;
	char name[16];
	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t work;
	struct mesh__job *first, **last;
	uint32_t waiting, idle, thread_count;
	bool is_stopping;
	pthread_t threads[THREADS_MAX];
};

/*
 * Niceness is a thread's own on Linux, whatever POSIX says. By itself it says how much of a busy processor a thread gets, not when: since
 * Linux 6.6 a loop that wakes up would mostly wait until the job at hand is done. From 6.12 on a thread that asks for a longer slice than
 * others gives way to them at once; older ones ignore that. None of it can be had everywhere, which is no reason not to work.
 */
static void be_nice(void)
{
	int nice = getpriority(PRIO_PROCESS, 0) + NICE;
	struct scheduling how = { .size = sizeof(how), .policy = SCHED_OTHER, .nice = nice < NICE_MAX ? nice : NICE_MAX, .runtime_ns = SLICE_NS };

	if (syscall(SYS_sched_setattr, 0, &how, 0))
		setpriority(PRIO_PROCESS, 0, nice);
}

static struct mesh__job *take(struct mesh__workers *workers)
{
	struct mesh__job *job = workers->first;

	if (!job)
		return NULL;
	workers->first = job->next;
	if (!workers->first)
		workers->last = &workers->first;
	workers->waiting--;
	return job;
}

static void *thread_main(void *user)
{
	struct mesh__workers *workers = user;
	struct mesh__job *job;

	be_nice();
	pthread_mutex_lock(&workers->lock);
	while (!workers->is_stopping) {
		job = take(workers);
		if (!job) {
			workers->idle++;
			pthread_cond_wait(&workers->work, &workers->lock);
			workers->idle--;
			continue;
		}
		pthread_mutex_unlock(&workers->lock);
		job->work(job);
		mesh__loop_post(job->lp, &job->done);
		pthread_mutex_lock(&workers->lock);
	}
	pthread_mutex_unlock(&workers->lock);
	return NULL;
}

/* Under the lock. That not all threads can be had does not matter as long as there is one. */
static void start_one(struct mesh__workers *workers)
{
	pthread_t *thread = &workers->threads[workers->thread_count];
	sigset_t all, before;
	pthread_attr_t attr;
	int rc;

	if (pthread_attr_init(&attr))
		return;
	pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
	/* Signals belong to the host's threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(thread, &attr, thread_main, workers);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (rc)
		return;
	pthread_setname_np(*thread, workers->name);
	workers->thread_count++;
}

int mesh__workers_new(uint32_t threads, uint32_t queue_max, const char *name, struct mesh__workers **out)
{
	struct mesh__workers *workers = mesh__memory_zalloc(sizeof(*workers));

	if (!workers)
		return MESH_E_NOMEM;
	workers->generation = mesh__descriptors_generation();
	workers->thread_max = threads > THREADS_MAX ? THREADS_MAX : threads;
	workers->queue_max = queue_max;
	workers->last = &workers->first;
	snprintf(workers->name, sizeof(workers->name), "%s", name);
	pthread_mutex_init(&workers->lock, NULL);
	pthread_cond_init(&workers->work, NULL);
	*out = workers;
	return 0;
}

bool mesh__workers_submit(struct mesh__workers *workers, struct mesh__job *job)
{
	bool is_taken;

	if (workers->generation != mesh__descriptors_generation())
		return false;
	pthread_mutex_lock(&workers->lock);
	if (!workers->is_stopping && workers->idle <= workers->waiting && workers->thread_count < workers->thread_max)
		start_one(workers);
	is_taken = !workers->is_stopping && workers->thread_count && workers->waiting < workers->queue_max;
	if (is_taken) {
		job->next = NULL;
		*workers->last = job;
		workers->last = &job->next;
		workers->waiting++;
		pthread_cond_signal(&workers->work);
	}
	pthread_mutex_unlock(&workers->lock);
	return is_taken;
}

void mesh__workers_stop(struct mesh__workers *workers)
{
	struct mesh__job *job;

	if (!workers || workers->generation != mesh__descriptors_generation())
		return;
	pthread_mutex_lock(&workers->lock);
	workers->is_stopping = true;
	pthread_cond_broadcast(&workers->work);
	pthread_mutex_unlock(&workers->lock);
	while (workers->thread_count)
		pthread_join(workers->threads[--workers->thread_count], NULL);
	while ((job = take(workers))) {
		if (!job->dropped)
			continue;
		job->done.run = job->dropped;
		mesh__loop_post(job->lp, &job->done);
	}
}

void mesh__workers_free(struct mesh__workers *workers)
{
	if (!workers)
		return;
	if (workers->generation == mesh__descriptors_generation()) {
		pthread_cond_destroy(&workers->work);
		pthread_mutex_destroy(&workers->lock);
	}
	mesh__memory_free(workers);
}
