/* Received headers, and what a peer may do before it is shown the door. */
#include "wire/abuse.h"
#include "wire/headers.h"

#include "base/clock.h"
#include "base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct mesh__pool pool;

static int make_pool(void **state)
{
	(void)state;
	mesh__pool_init(&pool);
	return 0;
}

static int end_pool(void **state)
{
	(void)state;
	assert_int_equal(pool.in_use, 0);
	mesh__pool_fini(&pool);
	return 0;
}

static void add(struct mesh__headers *headers, const char *name, const char *value)
{
	assert_int_equal(mesh__headers_add(headers, &pool, name, strlen(name), value, strlen(value)), 0);
}

static void fields_are_found_joined_and_walked(void **state)
{
	struct mesh__headers headers;
	struct mesh__field field;
	uint64_t len;
	uint32_t at = 0, walked = 0;

	(void)state;
	mesh__headers_init(&headers);
	add(&headers, "a", "1");
	add(&headers, "b", "2");
	add(&headers, "a", "3");
	headers.trailers_from = headers.count;
	add(&headers, "a", "trailer");
	assert_string_equal(mesh__headers_get(&headers, "a", false, &len), "1, 3");
	assert_int_equal(len, 4);
	assert_string_equal(mesh__headers_get(&headers, "b", false, NULL), "2");
	assert_null(mesh__headers_get(&headers, "c", false, NULL));
	assert_null(mesh__headers_get(&headers, "b", true, NULL));
	assert_string_equal(mesh__headers_get(&headers, "a", true, NULL), "trailer");
	while (mesh__headers_next(&headers, &at, &field))
		walked++;
	assert_int_equal(walked, 4);
	assert_true(mesh__headers_at(&headers, 2, &field));
	assert_string_equal(field.value, "3");
	assert_false(mesh__headers_at(&headers, 4, &field));
	mesh__headers_fini(&headers, &pool);
}

static void many_and_large_fields_are_kept_whole(void **state)
{
	static char value[9000];
	struct mesh__headers headers;
	char name[16];
	uint64_t len;

	(void)state;
	memset(value, 'v', sizeof(value) - 1);
	mesh__headers_init(&headers);
	for (int i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		add(&headers, name, value + i);
	}
	for (int i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		assert_string_equal(mesh__headers_get(&headers, name, false, &len), value + i);
		assert_int_equal(len, sizeof(value) - 1 - (size_t)i);
	}
	mesh__headers_fini(&headers, &pool);
}

static void binary_fields_become_bytes(void **state)
{
	struct mesh__headers headers;
	const char *value;
	uint64_t len;

	(void)state;
	mesh__headers_init(&headers);
	add(&headers, "x-bin", "AAEC/w");
	add(&headers, "x-text", "AAEC");
	assert_int_equal(mesh__headers_decode_binary(&headers), 0);
	value = mesh__headers_get(&headers, "x-bin", false, &len);
	assert_int_equal(len, 4);
	assert_memory_equal(value, "\0\1\2\xff", 4);
	assert_string_equal(mesh__headers_get(&headers, "x-text", false, NULL), "AAEC");
	mesh__headers_fini(&headers, &pool);
	mesh__headers_init(&headers);
	add(&headers, "x-bin", "not base64!");
	assert_int_equal(mesh__headers_decode_binary(&headers), MESH_E_PROTOCOL);
	mesh__headers_fini(&headers, &pool);
}

static void a_flood_is_warned_and_then_ended(void **state)
{
	uint64_t now_ns = 1000 * MESH__NS_PER_SEC;
	uint32_t fine = 0, soft = 0;

	(void)state;
	for (int kind = 0; kind < MESH__ABUSE_KINDS; kind++) {
		struct mesh__abuse abuse = { 0 };
		enum mesh__abuse_verdict verdict;

		fine = soft = 0;
		while ((verdict = mesh__abuse_note(&abuse, (enum mesh__abuse_kind)kind, now_ns)) != MESH__ABUSE_HARD) {
			fine += verdict == MESH__ABUSE_FINE;
			soft += verdict == MESH__ABUSE_SOFT;
			assert_true(fine + soft < 10000);
		}
		assert_true(fine > 5);
		assert_true(soft > 0);
		assert_true(strlen(mesh__abuse_name((enum mesh__abuse_kind)kind)) > 0);
	}
}

static void the_limit_of_resets_can_be_set(void **state)
{
	struct mesh__abuse abuse = { .resets_burst = 1000, .resets_per_sec = 1 };
	uint32_t taken = 0;

	(void)state;
	while (mesh__abuse_note(&abuse, MESH__ABUSE_RESET, MESH__NS_PER_SEC) != MESH__ABUSE_HARD)
		taken++;
	assert_int_equal(taken, 1000);
}

static void honest_peers_at_a_low_rate_are_never_ended(void **state)
{
	struct mesh__abuse abuse = { 0 };
	uint64_t now_ns = 1000 * MESH__NS_PER_SEC;

	(void)state;
	for (int i = 0; i < 100000; i++, now_ns += MESH__NS_PER_SEC / 10)
		assert_int_equal(mesh__abuse_note(&abuse, MESH__ABUSE_PING, now_ns), MESH__ABUSE_FINE);
}

/* 526 a second where 700 are allowed: no part of the time between may get lost. */
static void a_rate_below_the_limit_is_never_ended_whatever_its_rhythm(void **state)
{
	struct mesh__abuse abuse = { .resets_burst = 100, .resets_per_sec = 700 };
	uint64_t now_ns = 1000 * MESH__NS_PER_SEC;

	(void)state;
	for (int i = 0; i < 10000; i++, now_ns += 19 * MESH__NS_PER_MS / 10)
		assert_int_equal(mesh__abuse_note(&abuse, MESH__ABUSE_RESET, now_ns), MESH__ABUSE_FINE);
}

static void what_our_own_data_explains_is_excused(void **state)
{
	struct mesh__abuse abuse = { 0 };
	uint64_t now_ns = 1000 * MESH__NS_PER_SEC;

	(void)state;
	for (int i = 0; i < 100000; i++) {
		assert_int_equal(mesh__abuse_note(&abuse, MESH__ABUSE_WINDOW, now_ns), MESH__ABUSE_FINE);
		mesh__abuse_excuse(&abuse, MESH__ABUSE_WINDOW, 1);
	}
}

/* A clock that stands still, or a bucket that was never used, must not make tokens out of nothing. */
static void a_burst_is_bounded_whatever_the_pause_before(void **state)
{
	struct mesh__abuse abuse = { 0 };
	uint32_t taken = 0;

	(void)state;
	mesh__abuse_note(&abuse, MESH__ABUSE_RESET, 1);
	while (mesh__abuse_note(&abuse, MESH__ABUSE_RESET, UINT64_MAX / 2) != MESH__ABUSE_HARD)
		taken++;
	assert_in_range(taken, 150, 260);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fields_are_found_joined_and_walked),
		cmocka_unit_test(many_and_large_fields_are_kept_whole),
		cmocka_unit_test(binary_fields_become_bytes),
		cmocka_unit_test(a_flood_is_warned_and_then_ended),
		cmocka_unit_test(the_limit_of_resets_can_be_set),
		cmocka_unit_test(honest_peers_at_a_low_rate_are_never_ended),
		cmocka_unit_test(a_rate_below_the_limit_is_never_ended_whatever_its_rhythm),
		cmocka_unit_test(what_our_own_data_explains_is_excused),
		cmocka_unit_test(a_burst_is_bounded_whatever_the_pause_before),
	};

	return cmocka_run_group_tests(tests, make_pool, end_pool);
}
