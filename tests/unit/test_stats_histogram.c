#include "test_stats_lib.h"

#include "base/random.h"
#include "stats/layout.h"

#include <math.h>

enum { SAMPLES = 1000000 };

/* The middle of what a cell stands for may be this far from the true value. */
static const double ERROR_MAX = 0.008;

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static double normal(struct mesh__random *random)
{
	return sqrt(-2 * log(1 - mesh__random_unit(random))) * cos(2 * M_PI * mesh__random_unit(random));
}

static uint64_t log_normal(struct mesh__random *random)
{
	return (uint64_t)(1e6 * exp(normal(random)));
}

static uint64_t bimodal(struct mesh__random *random)
{
	double mean = mesh__random_below(random, 10) ? 2e5 : 5e7, value = mean * (1 + 0.05 * normal(random));

	return value < 1 ? 1 : (uint64_t)value;
}

static uint64_t tiny(struct mesh__random *random)
{
	return mesh__random_below(random, 1000);
}

static uint64_t wide(struct mesh__random *random)
{
	return mesh__random_next(random) >> (22 + mesh__random_below(random, 42));
}

static void check_stream(uint64_t (*draw)(struct mesh__random *random))
{
	static const double quantiles[] = { 0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 1 };
	struct mesh__stats *stats = open_stats();
	struct mesh__histogram *h = mesh__stats_histogram(stats, MESH__METRIC_CALL_LATENCY_NS, NULL);
	uint64_t *samples = malloc(SAMPLES * sizeof(*samples)), sum = 0;
	struct mesh__random random;
	mesh_stats_histogram *all;
	mesh_stats_view *view;

	mesh__random_init(&random, 20260101);
	for (int i = 0; i < SAMPLES; i++) {
		samples[i] = draw(&random);
		sum += samples[i];
		mesh__histogram_record(h, mesh__shard_mine(), samples[i]);
	}
	qsort(samples, SAMPLES, sizeof(*samples), compare);
	view = open_view(mesh__stats_path(stats));
	assert_int_equal(mesh_stats_histogram_new(&all), 0);
	assert_int_equal(mesh_stats_histogram_add(all, view, (uint64_t)mesh_stats_find(view, 0, "mesh_call_latency_ns", NULL, 0)), 0);
	assert_int_equal(mesh_stats_histogram_count(all), SAMPLES);
	assert_true(mesh_stats_histogram_sum(all) == sum);
	assert_true(mesh_stats_histogram_max(all) == samples[SAMPLES - 1]);
	for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
		uint64_t rank = (uint64_t)ceil(quantiles[i] * SAMPLES), exact = samples[rank ? rank - 1 : 0];
		uint64_t found = mesh_stats_histogram_quantile(all, quantiles[i]);
		double error = exact ? fabs((double)found - (double)exact) / (double)exact : (double)found;

		if (error > ERROR_MAX)
			fail_msg("quantile %g: %llu instead of %llu", quantiles[i], (unsigned long long)found, (unsigned long long)exact);
	}
	mesh_stats_histogram_free(all);
	mesh_stats_close(view);
	mesh__stats_close(stats);
	free(samples);
}

static void quantiles_of_log_normal_latencies_are_right(void **state)
{
	(void)state;
	check_stream(log_normal);
}

static void quantiles_of_bimodal_latencies_are_right(void **state)
{
	(void)state;
	check_stream(bimodal);
}

static void quantiles_of_tiny_values_are_right(void **state)
{
	(void)state;
	check_stream(tiny);
}

static void quantiles_over_the_whole_range_are_right(void **state)
{
	(void)state;
	check_stream(wide);
}

/* Every value lies in the cell that it is counted in, and the cells leave no gap. */
static void every_value_has_its_cell(void **state)
{
	struct mesh__random random;
	uint32_t before = 0;

	(void)state;
	mesh__random_init(&random, 5);
	for (uint64_t value = 0; value < 100000; value++) {
		uint32_t bucket = mesh__histogram_bucket(value);

		assert_true(bucket == before || bucket == before + 1);
		before = bucket;
	}
	for (int i = 0; i < 100000; i++) {
		uint64_t value = mesh__random_next(&random) >> mesh__random_below(&random, 64);

		assert_true(mesh__histogram_bucket(value) <= mesh__histogram_bucket(value + (value < UINT64_MAX)));
	}
	assert_int_equal(mesh__histogram_bucket(MESH__HISTOGRAM_VALUE_MAX), MESH__HISTOGRAM_CELLS - 1);
}

static mesh_stats_view *view_of(struct mesh__stats *stats)
{
	return open_view(mesh__stats_path(stats));
}

static void values_beyond_the_range_are_counted_and_the_maximum_is_exact(void **state)
{
	struct mesh__stats *stats = open_stats();
	struct mesh__histogram *h = mesh__stats_histogram(stats, MESH__METRIC_CALL_LATENCY_NS, NULL);
	struct mesh_stats_series series = { .size = sizeof(series) };
	mesh_stats_view *view;

	(void)state;
	for (uint32_t shard = 0; shard < MESH__SHARD_COUNT; shard++) {
		mesh__histogram_record(h, shard, 0);
		mesh__histogram_record(h, shard, UINT64_C(1) << 62);
		mesh__histogram_record(h, shard, (UINT64_C(1) << 50) + shard);
	}
	view = view_of(stats);
	assert_int_equal(mesh_stats_series(view, (uint64_t)mesh_stats_find(view, 0, "mesh_call_latency_ns", NULL, 0), &series), 0);
	assert_int_equal(series.value, 3 * MESH__SHARD_COUNT);
	assert_true(series.max == UINT64_C(1) << 62);
	mesh_stats_close(view);
	mesh__stats_close(stats);
}

static void the_difference_of_two_reads_is_what_happened_between(void **state)
{
	struct mesh__stats *stats = open_stats();
	struct mesh__histogram *h = mesh__stats_histogram(stats, MESH__METRIC_CALL_LATENCY_NS, NULL);
	mesh_stats_view *earlier, *later;
	mesh_stats_histogram *between;
	uint64_t number, lower, upper, count;
	uint32_t at = 0;

	(void)state;
	mesh__histogram_record(h, 0, 1000000000);
	earlier = view_of(stats);
	for (int i = 0; i < 10; i++)
		mesh__histogram_record(h, 1, 5000);
	later = view_of(stats);
	number = (uint64_t)mesh_stats_find(later, 0, "mesh_call_latency_ns", NULL, 0);
	mesh_stats_histogram_new(&between);
	assert_int_equal(mesh_stats_histogram_add(between, later, number), 0);
	assert_int_equal(mesh_stats_histogram_count(between), 11);
	assert_int_equal(mesh_stats_histogram_subtract(between, earlier, number), 0);
	assert_int_equal(mesh_stats_histogram_count(between), 10);
	assert_int_equal(mesh_stats_histogram_sum(between), 50000);
	assert_in_range(mesh_stats_histogram_max(between), 5000, 5063);
	assert_in_range(mesh_stats_histogram_quantile(between, 0.5), 4960, 5040);
	assert_int_equal(mesh_stats_histogram_next(between, &at, &lower, &upper, &count), 1);
	assert_true(lower <= 5000 && 5000 < upper && count == 10);
	assert_int_equal(mesh_stats_histogram_next(between, &at, &lower, &upper, &count), 0);
	assert_int_equal(mesh_stats_histogram_add(between, later, 0), MESH_E_INVALID); /* a counter */
	assert_int_equal(mesh_stats_histogram_add(between, later, 1000), MESH_E_NOT_FOUND);
	mesh_stats_histogram_clear(between);
	assert_int_equal(mesh_stats_histogram_quantile(between, 0.5), 0);
	mesh_stats_histogram_free(between);
	mesh_stats_close(earlier);
	mesh_stats_close(later);
	mesh__stats_close(stats);
}

static uint64_t bytes_of_stream(uint64_t (*draw)(struct mesh__random *random))
{
	struct mesh__stats *stats = open_stats();
	struct mesh__histogram *h = mesh__stats_histogram(stats, MESH__METRIC_CALL_LATENCY_NS, NULL);
	struct mesh__histogram_shard *own;
	struct mesh__random random;
	uint64_t bytes = 0;

	mesh__random_init(&random, 1);
	for (int i = 0; i < 10 * SAMPLES; i++)
		mesh__histogram_record(h, 0, draw(&random));
	own = atomic_load(&h->shards[0]);
	for (uint32_t group = 0; group < MESH__HISTOGRAM_GROUPS; group++)
		bytes += atomic_load(&own->groups[group]) ? MESH__HISTOGRAM_GROUP_CELLS * sizeof(mesh__cell) : 0;
	bytes += sizeof(*own) + sizeof(*h) + sizeof(struct mesh__layout_histogram) + sizeof(struct mesh__layout_histogram_shard);
	mesh__stats_close(stats);
	return bytes;
}

static void ten_million_latencies_take_less_than_14_kb(void **state)
{
	(void)state;
	assert_true(bytes_of_stream(log_normal) <= 14 * 1024);
	assert_true(bytes_of_stream(bimodal) <= 14 * 1024);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_test_dir, remove_test_dir)
	const struct CMUnitTest tests[] = {
		TEST(every_value_has_its_cell),
		TEST(quantiles_of_log_normal_latencies_are_right),
		TEST(quantiles_of_bimodal_latencies_are_right),
		TEST(quantiles_of_tiny_values_are_right),
		TEST(quantiles_over_the_whole_range_are_right),
		TEST(values_beyond_the_range_are_counted_and_the_maximum_is_exact),
		TEST(the_difference_of_two_reads_is_what_happened_between),
		TEST(ten_million_latencies_take_less_than_14_kb),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
