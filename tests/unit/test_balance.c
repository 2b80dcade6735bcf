/* Choosing among endpoints: pure, so a handful of them on the stack and a seeded generator are all it takes. */
#include "flow/balance_p2c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { COUNT = 5, CHOICES = 10000 };

static struct mesh__endpoint storage[100], *eps[100];

static struct mesh__candidates fresh_candidates(uint32_t count)
{
	memset(storage, 0, sizeof(storage));
	for (uint32_t i = 0; i < count; i++) {
		storage[i].weight = 1;
		eps[i] = &storage[i];
	}
	return (struct mesh__candidates){ .eps = eps, .count = count, .shards = MESH__SHARD_COUNT };
}

static void choose_often(const struct mesh__candidates *among, uint32_t seen[COUNT])
{
	struct mesh__random random;

	mesh__random_init(&random, 7);
	memset(seen, 0, COUNT * sizeof(seen[0]));
	for (int i = 0; i < CHOICES; i++)
		seen[mesh__balance_p2c(among, &random)]++;
}

static void the_less_loaded_of_two_wins_per_unit_of_weight(void **state)
{
	(void)state;
	assert_int_equal(mesh__balance_p2c_better(0, 5, 1, 1, 3, 1), 1);
	assert_int_equal(mesh__balance_p2c_better(0, 3, 1, 1, 5, 1), 0);
	assert_int_equal(mesh__balance_p2c_better(0, 3, 1, 1, 3, 1), 0);
	assert_int_equal(mesh__balance_p2c_better(0, 3, 1, 1, 5, 2), 1);
	assert_int_equal(mesh__balance_p2c_better(0, 0, 1, 1, 0, 5), 1);
}

static void two_different_endpoints_are_drawn_evenly(void **state)
{
	struct mesh__random random;
	uint32_t seen[5] = { 0 }, first, second;

	(void)state;
	mesh__random_init(&random, 1);
	for (int i = 0; i < 100000; i++) {
		mesh__balance_p2c_draw(&random, 5, &first, &second);
		assert_true(first < 5 && second < 5 && first != second);
		seen[first]++;
		seen[second]++;
	}
	for (int i = 0; i < 5; i++)
		assert_in_range(seen[i], 39000, 41000);
}

/* Mitzenmacher's result in small: with two choices the fullest of n bins stays within log log n of the mean. */
static void load_stays_even(void **state)
{
	const struct mesh__candidates among = fresh_candidates(100);
	struct mesh__random random;
	int32_t largest = 0;

	(void)state;
	mesh__random_init(&random, 2);
	for (int i = 0; i < 100000; i++) {
		struct mesh__endpoint *ep = eps[mesh__balance_p2c(&among, &random)];

		mesh__endpoint_begin(ep, 0);
		if (mesh__endpoint_in_flight(ep) > largest)
			largest = mesh__endpoint_in_flight(ep);
	}
	assert_true(largest <= 1000 + 5);
}

static void one_endpoint_is_always_chosen_even_if_it_was_tried(void **state)
{
	struct mesh__candidates among = fresh_candidates(1);
	struct mesh__random random;

	(void)state;
	mesh__random_init(&random, 1);
	among.tried = eps;
	among.tried_count = 1;
	assert_int_equal(mesh__balance_p2c(&among, &random), 0);
}

static void an_unreachable_endpoint_is_avoided_while_another_is_there(void **state)
{
	const struct mesh__candidates among = fresh_candidates(COUNT);
	uint32_t seen[COUNT];

	(void)state;
	for (uint32_t i = 1; i < COUNT; i++)
		atomic_store(&storage[i].is_unreachable, true);
	choose_often(&among, seen);
	assert_int_equal(seen[0], CHOICES);
	atomic_store(&storage[0].is_unreachable, true);
	choose_often(&among, seen);
	for (uint32_t i = 0; i < COUNT; i++)
		assert_true(seen[i] > 0);
}

static void what_a_call_has_tried_is_avoided_while_another_is_there(void **state)
{
	struct mesh__candidates among = fresh_candidates(COUNT);
	struct mesh__endpoint *tried[COUNT];
	uint32_t seen[COUNT];

	(void)state;
	memcpy(tried, eps, sizeof(tried));
	among.tried = tried;
	among.tried_count = COUNT - 1;
	choose_often(&among, seen);
	assert_int_equal(seen[COUNT - 1], CHOICES);
	/* The only one that is left is unreachable: still better than one that this call has tried. */
	for (uint32_t i = 0; i < COUNT; i++)
		atomic_store(&storage[i].is_unreachable, true);
	choose_often(&among, seen);
	assert_true(seen[COUNT - 1] > CHOICES / 2);
	among.tried_count = COUNT;
	choose_often(&among, seen);
	for (uint32_t i = 0; i < COUNT; i++)
		assert_true(seen[i] > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_less_loaded_of_two_wins_per_unit_of_weight),
		cmocka_unit_test(two_different_endpoints_are_drawn_evenly),
		cmocka_unit_test(load_stays_even),
		cmocka_unit_test(one_endpoint_is_always_chosen_even_if_it_was_tried),
		cmocka_unit_test(an_unreachable_endpoint_is_avoided_while_another_is_there),
		cmocka_unit_test(what_a_call_has_tried_is_avoided_while_another_is_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
