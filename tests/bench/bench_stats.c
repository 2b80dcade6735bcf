/*
 * What counting costs (scoreboard S12, S13) and what reading costs (S14), each beside its rivals, in turns, in one run; the
 * median of the rounds is printed, and the ratios.
 *
 * HAVE_PROMETHEUS_CPP: linked with rivals/prometheus.cc and prometheus-cpp-core (Debian: prometheus-cpp-dev).
 * HAVE_HDR_HISTOGRAM: linked with HdrHistogram_c (not in Debian 12).
 */
#include "bench.h"

#include "base/descriptors.h"
#include "base/random.h"
#include "mesh/stats.h"
#include "stats/stats.h"

#include <math.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef HAVE_PROMETHEUS_CPP
#include "rivals/prometheus.h"
#endif
#ifdef HAVE_HDR_HISTOGRAM
#include <hdr/hdr_histogram.h>
#endif

enum { ROUNDS = 15, ADDS = 4000000, VALUES = 1 << 20, SERIES = 100000, THREADS = 2 };

/* Keeps the compiler from making one addition out of many. */
#define EVERY_TIME() __asm__ __volatile__("" : : : "memory")

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values)
{
	qsort(values, ROUNDS, sizeof(*values), compare);
	return values[ROUNDS / 2];
}

static mesh__cell *cell;
static struct mesh__histogram *histogram;
static uint64_t *values;
static uint64_t plain;

static void add_plain(void)
{
	for (int i = 0; i < ADDS; i++) {
		plain++;
		EVERY_TIME();
	}
}

static void add_ours(void)
{
	uint32_t shard = mesh__shard_mine();

	for (int i = 0; i < ADDS; i++) {
		mesh__counter_add(cell, shard, 1);
		EVERY_TIME();
	}
}

static void record_ours(void)
{
	uint32_t shard = mesh__shard_mine();

	for (int i = 0; i < VALUES; i++)
		mesh__histogram_record(histogram, shard, values[i]);
}

#ifdef HAVE_PROMETHEUS_CPP
static void *their_counter;

static void add_prometheus(void)
{
	prometheus_add(their_counter, ADDS);
}
#endif

#ifdef HAVE_HDR_HISTOGRAM
static struct hdr_histogram *hdr;

static void record_hdr(void)
{
	for (int i = 0; i < VALUES; i++)
		hdr_record_value(hdr, (int64_t)values[i]);
}
#endif

struct runner {
	void (*fn)(void);
	pthread_barrier_t *start;
};

static void *run_in_thread(void *user)
{
	struct runner *runner = user;

	pthread_barrier_wait(runner->start);
	runner->fn();
	return NULL;
}

static double ns_each(void (*fn)(void), unsigned threads, double times)
{
	pthread_t ids[THREADS];
	pthread_barrier_t start;
	struct runner runner = { fn, &start };
	uint64_t began_ns;

	pthread_barrier_init(&start, NULL, threads);
	began_ns = bench_now_ns();
	for (unsigned i = 1; i < threads; i++)
		pthread_create(&ids[i], NULL, run_in_thread, &runner);
	run_in_thread(&runner);
	for (unsigned i = 1; i < threads; i++)
		pthread_join(ids[i], NULL);
	pthread_barrier_destroy(&start);
	return (double)(bench_now_ns() - began_ns) / times;
}

static void print(const char *what, double ns, double base_ns, const char *base)
{
	printf("%-46s %9.2f ns", what, ns);
	if (base)
		printf("   %6.3f x %s", ns / base_ns, base);
	printf("\n");
}

static void bench_counters(void)
{
	double plain_ns[ROUNDS], ours_ns[ROUNDS], ours2_ns[ROUNDS], theirs_ns[ROUNDS] = { 0 }, theirs2_ns[ROUNDS] = { 0 };
	double base;

	for (int round = 0; round < ROUNDS; round++) {
		plain_ns[round] = ns_each(add_plain, 1, ADDS);
		ours_ns[round] = ns_each(add_ours, 1, ADDS);
		ours2_ns[round] = ns_each(add_ours, THREADS, ADDS);
#ifdef HAVE_PROMETHEUS_CPP
		theirs_ns[round] = ns_each(add_prometheus, 1, ADDS);
		theirs2_ns[round] = ns_each(add_prometheus, THREADS, ADDS);
#endif
	}
	base = median(plain_ns);
	print("plain ++ on private memory", base, 0, NULL);
	print("counter add", median(ours_ns), base, "plain ++");
	print("counter add, 2 threads at once", median(ours2_ns), base, "plain ++");
	if (median(theirs_ns) > 0) {
		print("prometheus-cpp add", median(theirs_ns), 0, NULL);
		print("prometheus-cpp add, 2 threads at once", median(theirs2_ns), 0, NULL);
		printf("S12: %.3f x prometheus-cpp, with 2 threads %.3f x, %.2f x plain ++\n", median(ours_ns) / median(theirs_ns),
		       median(ours2_ns) / median(theirs2_ns), median(ours_ns) / base);
	}
}

static void bench_histograms(void)
{
	double ours_ns[ROUNDS], theirs_ns[ROUNDS] = { 0 };
	struct mesh__random random;

	mesh__random_init(&random, 1);
	for (int i = 0; i < VALUES; i++) {
		double normal = sqrt(-2 * log(1 - mesh__random_unit(&random))) * cos(2 * M_PI * mesh__random_unit(&random));

		values[i] = (uint64_t)(1e6 * exp(normal));
	}
	for (int round = 0; round < ROUNDS; round++) {
		ours_ns[round] = ns_each(record_ours, 1, VALUES);
#ifdef HAVE_HDR_HISTOGRAM
		theirs_ns[round] = ns_each(record_hdr, 1, VALUES);
#endif
	}
	print("histogram record", median(ours_ns), 0, NULL);
	if (median(theirs_ns) > 0) {
		print("HdrHistogram_c record, 2 digits", median(theirs_ns), 0, NULL);
		printf("S13: %.3f x HdrHistogram_c\n", median(ours_ns) / median(theirs_ns));
	}
}

static int64_t sum_all(const mesh_stats_view *view)
{
	int64_t sum = 0, value;

	for (uint64_t i = 0; i < mesh_stats_count(view); i++)
		if (mesh_stats_value(view, i, &value) == 0)
			sum += value;
	return sum;
}

/* In another process, as any reader is. */
static void read_all(const char *path)
{
	double first_ns[ROUNDS], again_ns[ROUNDS], theirs_ns[ROUNDS] = { 0 };
	int64_t sum = 0;
#ifdef HAVE_PROMETHEUS_CPP
	void *registry = prometheus_registry(SERIES);
	size_t bytes = 0;
#endif

	for (int round = 0; round < ROUNDS; round++) {
		mesh_stats_view *view;
		uint64_t began_ns = bench_now_ns();

		if (mesh_stats_open(path, &view, NULL))
			_exit(1);
		sum = sum_all(view);
		first_ns[round] = (double)(bench_now_ns() - began_ns);
		began_ns = bench_now_ns();
		mesh_stats_read(view, NULL);
		sum += sum_all(view);
		again_ns[round] = (double)(bench_now_ns() - began_ns);
		mesh_stats_close(view);
#ifdef HAVE_PROMETHEUS_CPP
		began_ns = bench_now_ns();
		bytes = prometheus_scrape(registry);
		theirs_ns[round] = (double)(bench_now_ns() - began_ns);
#endif
	}
	printf("%-46s %9.3f ms (sum %lld)\n", "open and read 100,000 series", median(first_ns) / 1e6, (long long)sum);
	printf("%-46s %9.3f ms\n", "read them again", median(again_ns) / 1e6);
#ifdef HAVE_PROMETHEUS_CPP
	printf("%-46s %9.3f ms (%zu bytes)\n", "prometheus-cpp scrape to text", median(theirs_ns) / 1e6, bytes);
	printf("S14: %.4f x prometheus-cpp, read again %.4f x\n", median(first_ns) / median(theirs_ns), median(again_ns) / median(theirs_ns));
#else
	(void)theirs_ns;
#endif
	fflush(stdout);
	_exit(0);
}

static int bench_reader(struct mesh__stats *stats)
{
	char endpoint[32];
	int status = 1;
	pid_t pid;

	for (int i = 0; i < SERIES; i++) {
		snprintf(endpoint, sizeof(endpoint), "10.0.0.1:%d", i);
		mesh__counter_add(mesh__stats_counter(stats, MESH__METRIC_ATTEMPTS_TOTAL,
						      &(struct mesh__labels){ .service = "users", .endpoint = endpoint }),
				  mesh__shard_mine(), (uint64_t)i);
	}
	fflush(stdout);
	pid = fork();
	if (pid == 0)
		read_all(mesh__stats_path(stats));
	waitpid(pid, &status, 0);
	return status;
}

int main(void)
{
	char dir[] = "/dev/shm/mesh-bench-XXXXXX", sub_dir[sizeof(dir) + 8];
	struct mesh__stats_options opts = { .service = "bench", .series_max = SERIES + 100 };
	struct mesh__stats *stats;
	int result;

	mesh__descriptors_watch_fork();
	values = malloc(VALUES * sizeof(*values));
	opts.dir = mkdtemp(dir);
	if (!values || !opts.dir || mesh__stats_open(&opts, &stats, NULL))
		return 1;
	cell = mesh__stats_counter(stats, MESH__METRIC_CALLS_TOTAL, NULL);
	histogram = mesh__stats_histogram(stats, MESH__METRIC_CALL_LATENCY_NS, NULL);
#ifdef HAVE_PROMETHEUS_CPP
	their_counter = prometheus_counter();
#endif
#ifdef HAVE_HDR_HISTOGRAM
	hdr_init(1, INT64_C(1) << 42, 2, &hdr);
	printf("HdrHistogram_c takes %zu bytes\n", hdr_get_memory_size(hdr));
#endif
	bench_counters();
	bench_histograms();
	result = bench_reader(stats);
	mesh__stats_close(stats);
	snprintf(sub_dir, sizeof(sub_dir), "%s/stats", dir);
	rmdir(sub_dir);
	rmdir(dir);
	return result != 0;
}
