/* When an identity is renewed: over short and long lives, and when the clocks jump. */
#include "identity/rotation.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define SEC ((int64_t)MESH__NS_PER_SEC)
#define HOUR (3600 * SEC)

static const int64_t start_s = 1800000000;

static struct mesh__clocks clocks_at(int64_t wall_ns, uint64_t mono_ns)
{
	return (struct mesh__clocks){ .wall_ns = wall_ns, .boot_ns = mono_ns, .mono_ns = mono_ns };
}

static const struct mesh__clocks begin = { .wall_ns = 1800000000 * SEC, .boot_ns = 50 * SEC, .mono_ns = 50 * SEC };

/* As an issuer gives it: from a minute ago. */
static struct mesh__lifetime fresh(int64_t seconds)
{
	return mesh__rotation_lifetime(start_s - 60, start_s + seconds - 1, &begin);
}

static int64_t wait_ns(const struct mesh__lifetime *life, const struct mesh__clocks *now, double jitter)
{
	return (int64_t)(mesh__rotation_plan(life, now, jitter) - now->mono_ns);
}

static void renews_at_half_with_jitter(void **state)
{
	struct mesh__lifetime life = fresh(3600);

	(void)state;
	assert_int_equal(life.life_ns, HOUR);
	assert_int_equal(wait_ns(&life, &begin, 0.5), HOUR / 2);
	assert_in_range(wait_ns(&life, &begin, 0), HOUR / 100 * 44, HOUR / 100 * 46);
	assert_in_range(wait_ns(&life, &begin, 0.999), HOUR / 100 * 54, HOUR / 100 * 56);
}

static void a_short_life_is_renewed_in_time_and_not_all_the_time(void **state)
{
	struct mesh__lifetime life = fresh(2);
	struct mesh__clocks now = begin;

	(void)state;
	now.wall_ns += wait_ns(&life, &begin, 0.999);
	assert_true(mesh__rotation_is_valid(&life, &now));
	assert_false(mesh__rotation_is_overdue(&life, &now));
	life = fresh(0);
	assert_true(wait_ns(&life, &begin, 0) >= SEC / 10);
}

static void what_came_late_is_renewed_at_half_of_what_is_left(void **state)
{
	struct mesh__lifetime life = mesh__rotation_lifetime(start_s - 86400 * 60, start_s + 86400 * 30 - 1, &begin);

	(void)state;
	assert_int_equal(wait_ns(&life, &begin, 0.5), 15 * 24 * HOUR);
	life = mesh__rotation_lifetime(start_s - 86400 * 80, start_s + 86400 * 10 - 1, &begin);
	assert_true(mesh__rotation_is_overdue(&life, &begin)); /* its issuer should have replaced it before we came */
}

static void overdue_is_less_than_a_third(void **state)
{
	struct mesh__lifetime life = fresh(3600);
	struct mesh__clocks now = clocks_at(begin.wall_ns + 2399 * SEC, 0);

	(void)state;
	assert_false(mesh__rotation_is_overdue(&life, &now));
	now.wall_ns += 2 * SEC;
	assert_true(mesh__rotation_is_overdue(&life, &now));
	assert_true(mesh__rotation_is_valid(&life, &now));
}

static void nearly_over_is_less_than_a_tenth(void **state)
{
	struct mesh__lifetime life = fresh(3600);
	struct mesh__clocks now = clocks_at(begin.wall_ns + 3239 * SEC, 0);

	(void)state;
	assert_false(mesh__rotation_is_nearly_over(&life, &now));
	now.wall_ns += 2 * SEC;
	assert_true(mesh__rotation_is_nearly_over(&life, &now));
}

static void it_is_valid_to_the_end_of_its_last_second(void **state)
{
	struct mesh__lifetime life = fresh(3600);
	struct mesh__clocks now = clocks_at((life.not_after_s + 1) * SEC - 1, 0);

	(void)state;
	assert_true(mesh__rotation_is_valid(&life, &now));
	assert_int_equal(mesh__rotation_left_ns(&life, &now), 1);
	now.wall_ns++;
	assert_false(mesh__rotation_is_valid(&life, &now));
	now.wall_ns += 3 * SEC;
	assert_int_equal(mesh__rotation_left_ns(&life, &now), -3 * SEC);
}

static void an_hour_forward_renews_at_once(void **state)
{
	struct mesh__lifetime life = fresh(3600);
	struct mesh__clocks before = clocks_at(begin.wall_ns + 60 * SEC, 110 * SEC);
	struct mesh__clocks now = clocks_at(before.wall_ns + HOUR + SEC, 111 * SEC);

	(void)state;
	assert_int_equal(mesh__rotation_compare(&before, &now), MESH__CLOCK_STEPPED);
	assert_false(mesh__rotation_is_valid(&life, &now));
	assert_true(mesh__rotation_is_overdue(&life, &now));
	assert_true(wait_ns(&life, &now, 0.999) <= SEC);
}

static void an_hour_back_renews_at_once(void **state)
{
	struct mesh__lifetime life = fresh(3600);
	struct mesh__clocks before = clocks_at(begin.wall_ns + 60 * SEC, 110 * SEC);
	struct mesh__clocks now = clocks_at(before.wall_ns - HOUR + SEC, 111 * SEC);

	(void)state;
	assert_int_equal(mesh__rotation_compare(&before, &now), MESH__CLOCK_STEPPED);
	assert_false(mesh__rotation_is_valid(&life, &now)); /* not yet */
	assert_true(wait_ns(&life, &now, 0.999) <= SEC);
}

static void back_within_its_life_does_not_make_it_younger(void **state)
{
	struct mesh__lifetime life = mesh__rotation_lifetime(start_s - 86400, start_s + 86400 - 1, &begin);
	struct mesh__clocks now = clocks_at(begin.wall_ns - HOUR, 111 * SEC);

	(void)state;
	assert_true(mesh__rotation_is_valid(&life, &now));
	assert_true(wait_ns(&life, &now, 0.5) <= 12 * HOUR);
}

static void sleep_is_told_from_a_step(void **state)
{
	struct mesh__clocks before = begin, now = begin;

	(void)state;
	now.mono_ns += (uint64_t)SEC;
	now.boot_ns += (uint64_t)(8 * HOUR);
	now.wall_ns += 8 * HOUR;
	assert_int_equal(mesh__rotation_compare(&before, &now), MESH__CLOCK_SLEPT);
	now = clocks_at(begin.wall_ns + SEC + SEC / 100, begin.mono_ns + (uint64_t)SEC);
	assert_int_equal(mesh__rotation_compare(&before, &now), MESH__CLOCK_STEADY);
	now = clocks_at(begin.wall_ns + 30 * SEC, begin.mono_ns + (uint64_t)(30 * SEC)); /* the loop was busy */
	assert_int_equal(mesh__rotation_compare(&before, &now), MESH__CLOCK_STEADY);
}

static void retries_back_off_to_a_minute(void **state)
{
	(void)state;
	assert_int_equal(mesh__rotation_retry_ns(1, 0.5), SEC);
	assert_int_equal(mesh__rotation_retry_ns(2, 0.5), 2 * SEC);
	assert_int_equal(mesh__rotation_retry_ns(4, 0.5), 8 * SEC);
	assert_int_equal(mesh__rotation_retry_ns(7, 0.5), 60 * SEC);
	assert_int_equal(mesh__rotation_retry_ns(UINT32_MAX, 0.5), 60 * SEC);
	assert_in_range(mesh__rotation_retry_ns(1, 0), SEC / 100 * 89, SEC / 100 * 91);
}

static void far_ends_do_not_overflow(void **state)
{
	struct mesh__lifetime life = mesh__rotation_lifetime(0, INT64_C(253402300799), &begin); /* the last second of 9999 */

	(void)state;
	assert_true(mesh__rotation_is_valid(&life, &begin));
	assert_false(mesh__rotation_is_overdue(&life, &begin));
	assert_true(wait_ns(&life, &begin, 0.999) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(renews_at_half_with_jitter),
		cmocka_unit_test(a_short_life_is_renewed_in_time_and_not_all_the_time),
		cmocka_unit_test(what_came_late_is_renewed_at_half_of_what_is_left),
		cmocka_unit_test(overdue_is_less_than_a_third),
		cmocka_unit_test(nearly_over_is_less_than_a_tenth),
		cmocka_unit_test(it_is_valid_to_the_end_of_its_last_second),
		cmocka_unit_test(an_hour_forward_renews_at_once),
		cmocka_unit_test(an_hour_back_renews_at_once),
		cmocka_unit_test(back_within_its_life_does_not_make_it_younger),
		cmocka_unit_test(sleep_is_told_from_a_step),
		cmocka_unit_test(retries_back_off_to_a_minute),
		cmocka_unit_test(far_ends_do_not_overflow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
