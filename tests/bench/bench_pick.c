/*
 * S7: a pick with its report, beside "one random number and two loads" over as many words; in turns, in one run, the median of
 * the rounds. Prints one line of JSON.
 */
#include "bench.h"

#include "mesh/endpoint.h"

#include <unistd.h>

enum { ROUNDS = 15, PICKS = 2000000 };

static uint64_t state = 88172645463325252u;

static uint64_t xorshift(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double measure_floor(const volatile uint32_t *words, uint32_t count)
{
	uint64_t began_ns = bench_now_ns(), sum = 0;

	for (int i = 0; i < PICKS; i++) {
		uint64_t random = xorshift();

		sum += words[(uint32_t)random % count] < words[(uint32_t)(random >> 32) % count];
	}
	__asm__ __volatile__("" : : "r"(sum) : "memory");
	return (double)(bench_now_ns() - began_ns) / PICKS;
}

static double measure_picks(mesh_client *client)
{
	uint64_t began_ns = bench_now_ns();
	struct mesh_pick pick = { .size = sizeof(pick) };

	for (int i = 0; i < PICKS; i++) {
		if (mesh_pick(client, &pick, NULL))
			exit(1);
		mesh_report(client, &pick, MESH_OUTCOME_OK, 1000);
	}
	return (double)(bench_now_ns() - began_ns) / PICKS;
}

int main(int argc, char **argv)
{
	int count = argc > 1 ? atoi(argv[1]) : 100;
	struct mesh_options opts = MESH_OPTIONS_INIT;
	char path[] = "/dev/shm/mesh-bench-pick-XXXXXX", uri[64];
	struct mesh_setting setting = { "discovery", uri };
	double ours[ROUNDS], floors[ROUNDS], ratios[ROUNDS];
	uint32_t *words = calloc((size_t)count, sizeof(*words));
	FILE *file = fdopen(mkstemp(path), "w");
	struct mesh_pick pick = { .size = sizeof(pick) };
	mesh_client *client;
	mesh *m;

	fprintf(file, "{\"services\": {\"s\": [");
	for (int i = 0; i < count; i++)
		fprintf(file, "%s\"10.%d.%d.%d:80\"", i ? "," : "", i >> 16 & 255, i >> 8 & 255, i & 255);
	fprintf(file, "]}}\n");
	fclose(file);
	snprintf(uri, sizeof(uri), "file:%s", path);
	opts.service = "bench";
	opts.settings = &setting;
	opts.setting_count = 1;
	if (mesh_open(&opts, &m, NULL) || mesh_client_new(m, "s", &client, NULL))
		return 1;
	while (mesh_pick(client, &pick, NULL))
		;
	mesh_report(client, &pick, MESH_OUTCOME_OK, 1);
	for (int i = 0; i < ROUNDS; i++) {
		floors[i] = measure_floor(words, (uint32_t)count);
		ours[i] = measure_picks(client);
		ratios[i] = ours[i] / floors[i];
	}
	qsort(floors, ROUNDS, sizeof(double), compare);
	qsort(ours, ROUNDS, sizeof(double), compare);
	qsort(ratios, ROUNDS, sizeof(double), compare);
	printf("{\"endpoints\": %d, \"pick_report_ns\": %.1f, \"floor_ns\": %.1f, \"ratio\": %.2f, \"min\": %.2f, \"max\": %.2f}\n", count,
	       ours[ROUNDS / 2], floors[ROUNDS / 2], ratios[ROUNDS / 2], ratios[0], ratios[ROUNDS - 1]);
	unlink(path);
	mesh_client_free(client);
	mesh_close(m);
	return 0;
}
