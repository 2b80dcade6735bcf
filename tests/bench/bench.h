/*
 * What every load generator of the benchmarks needs, rivals included, so that all of them measure in the same way: a clock,
 * this process' CPU time, a latency histogram, and a window (warm-up, then the measured seconds, then one line of JSON).
 *
 * Header only, C and C++, and nothing of libmesh in it.
 */
#ifndef TESTS_BENCH_BENCH_H
#define TESTS_BENCH_BENCH_H

#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

/* One gRPC message: a prefix of 5 bytes, then a protobuf with one `bytes` field, of 64 bytes in every row that says nothing else (--payload). */
enum { BENCH_PAYLOAD_BYTES = 64, BENCH_PREFIX_BYTES = 5 };
#define BENCH_PATH "/bench.Echo/Call"

static inline uint8_t *bench_framed_message(size_t payload_len, size_t *len)
{
	uint8_t *message = (uint8_t *)malloc(BENCH_PREFIX_BYTES + 11 + payload_len), *at = message + BENCH_PREFIX_BYTES;
	size_t rest, i, protobuf_len;

	if (!message)
		exit(1);
	*at++ = 0x0a;
	for (rest = payload_len; rest > 0x7f; rest >>= 7)
		*at++ = (uint8_t)(0x80 | (rest & 0x7f));
	*at++ = (uint8_t)rest;
	memset(at, 'm', payload_len);
	*len = (size_t)(at - message) + payload_len;
	protobuf_len = *len - BENCH_PREFIX_BYTES;
	message[0] = 0;
	for (i = 1; i < BENCH_PREFIX_BYTES; i++)
		message[i] = (uint8_t)(protobuf_len >> 8 * (4 - i));
	return message;
}

static inline uint64_t bench_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* utime + stime of all threads: what /proc/self/stat has, in finer steps. */
static inline double bench_cpu_us(void)
{
	struct rusage use;

	getrusage(RUSAGE_SELF, &use);
	return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1e6 + (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

/* 128 buckets per power of two: a bucket is at most 0.8 % wide. */
enum { BENCH_SUB_BITS = 7, BENCH_BUCKETS = (64 - BENCH_SUB_BITS + 1) << BENCH_SUB_BITS };

struct bench_histogram {
	uint64_t count;
	uint64_t bucket[BENCH_BUCKETS];
};

static inline unsigned bench_bucket_of(uint64_t ns)
{
	unsigned shift;

	if (ns < 1u << BENCH_SUB_BITS)
		return (unsigned)ns;
	shift = 63u - (unsigned)__builtin_clzll(ns) - BENCH_SUB_BITS;
	return ((shift + 1) << BENCH_SUB_BITS) + (unsigned)((ns >> shift) & ((1u << BENCH_SUB_BITS) - 1));
}

static inline double bench_bucket_middle(unsigned bucket)
{
	unsigned shift, low = bucket & ((1u << BENCH_SUB_BITS) - 1);

	if (bucket < 1u << BENCH_SUB_BITS)
		return bucket;
	shift = (bucket >> BENCH_SUB_BITS) - 1;
	return ((double)(low + (1u << BENCH_SUB_BITS)) + 0.5) * (double)(1ull << shift);
}

static inline double bench_quantile_us(const struct bench_histogram *h, double q)
{
	uint64_t want = (uint64_t)(q * (double)h->count), seen = 0;
	unsigned i;

	for (i = 0; i < BENCH_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen > want)
			return bench_bucket_middle(i) / 1e3;
	}
	return 0;
}

struct bench_args {
	const char *host, *mode;
	const char *tls; /* a directory with tls.crt, tls.key and ca.crt; NULL: plain text */
	int port, connections, streams, endpoints, payload;
	double seconds, warmup;
	double rate; /* per second, at moments that are fixed beforehand; 0: as fast as it goes */
};

static inline void bench_usage(const char *program)
{
	fprintf(stderr, "usage: %s [--host A] --port N [--connections N] [--streams N] [--endpoints N] [--payload BYTES]\n"
			"       [--rate N] [--seconds S] [--warmup S] [--mode M] [--tls DIR]\n",
		program);
	exit(2);
}

static inline struct bench_args bench_parse(int argc, char **argv)
{
	static const struct option names[] = {
		{ "host", required_argument, NULL, 'h' }, { "port", required_argument, NULL, 'p' },
		{ "connections", required_argument, NULL, 'c' }, { "streams", required_argument, NULL, 'm' },
		{ "endpoints", required_argument, NULL, 'e' }, { "seconds", required_argument, NULL, 's' },
		{ "warmup", required_argument, NULL, 'w' }, { "mode", required_argument, NULL, 'k' },
		{ "payload", required_argument, NULL, 'b' }, { "rate", required_argument, NULL, 'r' },
		{ "tls", required_argument, NULL, 't' }, { NULL, 0, NULL, 0 },
	};
	struct bench_args args = { "127.0.0.1", "", NULL, 0, 1, 1, 1, BENCH_PAYLOAD_BYTES, 4, 1, 0 };
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (c) {
		case 'h': args.host = optarg; break;
		case 'p': args.port = atoi(optarg); break;
		case 'c': args.connections = atoi(optarg); break;
		case 'm': args.streams = atoi(optarg); break;
		case 'e': args.endpoints = atoi(optarg); break;
		case 's': args.seconds = atof(optarg); break;
		case 'w': args.warmup = atof(optarg); break;
		case 'k': args.mode = optarg; break;
		case 'b': args.payload = atoi(optarg); break;
		case 'r': args.rate = atof(optarg); break;
		case 't': args.tls = optarg; break;
		default: bench_usage(argv[0]);
		}
	}
	if (args.port <= 0 || args.connections < 1 || args.streams < 1 || args.endpoints < 1 || args.payload < 0 || optind < argc)
		bench_usage(argv[0]);
	return args;
}

struct bench_window {
	uint64_t begins_ns, ends_ns, began_ns;
	double cpu_us;
	uint64_t failed;
	struct bench_histogram latency;
};

static inline struct bench_window *bench_window_new(const struct bench_args *args)
{
	struct bench_window *w = (struct bench_window *)calloc(1, sizeof(*w));

	if (!w)
		exit(1);
	w->begins_ns = bench_now_ns() + (uint64_t)(args->warmup * 1e9);
	w->ends_ns = w->begins_ns + (uint64_t)(args->seconds * 1e9);
	return w;
}

/* Records one call; false once the window is over and the generator should print and leave. */
static inline int bench_window_add(struct bench_window *w, uint64_t started_ns, uint64_t now_ns, int is_ok)
{
	if (now_ns < w->begins_ns)
		return 1;
	if (!w->began_ns) {
		w->began_ns = now_ns;
		w->cpu_us = bench_cpu_us();
		return 1;
	}
	w->failed += !is_ok;
	w->latency.count++;
	w->latency.bucket[bench_bucket_of(now_ns - started_ns)]++;
	return now_ns < w->ends_ns;
}

/* Calls that took at most `limit_us`, give or take a bucket. */
static inline uint64_t bench_count_within(const struct bench_histogram *h, double limit_us)
{
	uint64_t seen = 0;
	unsigned i;

	for (i = 0; i <= bench_bucket_of((uint64_t)(limit_us * 1e3)); i++)
		seen += h->bucket[i];
	return seen;
}

static inline void bench_window_print(struct bench_window *w)
{
	double cpu_us = bench_cpu_us() - w->cpu_us, seconds = (double)(bench_now_ns() - w->began_ns) / 1e9;
	const struct bench_histogram *h = &w->latency;

	printf("{\"calls\": %llu, \"failed\": %llu, \"seconds\": %.4f, \"cpu_us\": %.0f, \"p50_us\": %.3f, \"p90_us\": %.3f, \"p99_us\": %.3f}\n",
	       (unsigned long long)h->count, (unsigned long long)w->failed, seconds, cpu_us, bench_quantile_us(h, 0.5),
	       bench_quantile_us(h, 0.9), bench_quantile_us(h, 0.99));
	fflush(stdout);
}

#endif
