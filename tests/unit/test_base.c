#include "base/address.h"
#include "base/clock.h"
#include "base/distance.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/pool.h"
#include "base/random.h"
#include "base/text.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void text_is_cut_at_its_end_and_says_so(void **state)
{
	char storage[8];
	struct mesh__text text;

	(void)state;
	mesh__text_init(&text, storage, sizeof(storage));
	mesh__text_add(&text, "abc");
	assert_false(text.is_cut);
	mesh__text_addf(&text, "%d", 12345678);
	assert_true(text.is_cut);
	assert_string_equal(storage, "abc1234");
	mesh__text_add(&text, "more");
	assert_string_equal(storage, "abc1234");
}

static void text_of_a_stranger_cannot_reach_the_terminal(void **state)
{
	char storage[64];
	struct mesh__text text;

	(void)state;
	mesh__text_init(&text, storage, sizeof(storage));
	mesh__text_add_escaped(&text, "a\x1b[2J\n\x7f\xff", 8);
	assert_string_equal(storage, "a\\x1b[2J\\x0a\\x7f\\xff");
}

static void durations_are_read_with_units_and_nothing_else(void **state)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} good[] = { { "0", 0 }, { "1ns", 1 }, { "250ms", 250000000 }, { "1.5s", 1500000000 }, { "2m", 120 * MESH__NS_PER_SEC },
		     { "24h", 86400 * MESH__NS_PER_SEC }, { "0.000000001s", 1 } };
	static const char *const bad[] = { "", " 1s", "1s ", "-1s", "+1s", "1", "1.s", ".5s", "1e3s", "1 s", "1S", "s", "99999999999999999999s",
					   "18446744073710s", "0x10ms", "1ms2", "1,5s", "nan", "inf" };
	const char *why;
	uint64_t value;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		assert_int_equal(mesh__number_parse_duration(good[i].text, &value, &why), 0);
		assert_int_equal(value, good[i].ns);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		why = NULL;
		if (!mesh__number_parse_duration(bad[i], &value, &why))
			fail_msg("\"%s\" was taken as a duration", bad[i]);
		assert_non_null(why);
	}
}

static void sizes_and_counts_are_read_with_units(void **state)
{
	const char *why;
	uint64_t value;

	(void)state;
	assert_int_equal(mesh__number_parse_bytes("64KiB", &value, &why), 0);
	assert_int_equal(value, 65536);
	assert_int_equal(mesh__number_parse_bytes("1MB", &value, &why), 0);
	assert_int_equal(value, 1000000);
	assert_int_equal(mesh__number_parse_bytes("512", &value, &why), 0);
	assert_int_equal(value, 512);
	assert_int_equal(mesh__number_parse_bytes("64kib", &value, &why), -1);
	assert_int_equal(mesh__number_parse_count("10k", &value, &why), 0);
	assert_int_equal(value, 10000);
	assert_int_equal(mesh__number_parse_count("18446744073709551615", &value, &why), 0);
	assert_true(value == UINT64_MAX);
	assert_int_equal(mesh__number_parse_count("18446744073709551616", &value, &why), -1);
	assert_int_equal(mesh__number_parse_count("1.5", &value, &why), -1);
	assert_int_equal(mesh__number_parse_bool("true", &value, &why), 0);
	assert_int_equal(value, 1);
	assert_int_equal(mesh__number_parse_bool("maybe", &value, &why), -1);
}

static void numbers_are_printed_as_they_can_be_read_again(void **state)
{
	static const uint64_t values[] = { 0, 1, 999, 1000, 1500000, 250000000, 60 * MESH__NS_PER_SEC, 5400 * MESH__NS_PER_SEC, 123456789012345 };
	char text[MESH__NUMBER_TEXT_MAX];
	const char *why;
	uint64_t value;

	(void)state;
	for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
		mesh__number_print_duration(values[i], text);
		assert_int_equal(mesh__number_parse_duration(text, &value, &why), 0);
		assert_int_equal(value, values[i]);
		mesh__number_print_bytes(values[i], text);
		assert_int_equal(mesh__number_parse_bytes(text, &value, &why), 0);
		assert_int_equal(value, values[i]);
	}
	mesh__number_print_bytes(262144, text);
	assert_string_equal(text, "256KiB");
}

static void addresses_are_literals_with_a_port(void **state)
{
	static const char *const good[] = { "10.0.0.4:9000", "127.0.0.1:0", "[::1]:65535", "[2001:db8::1]:1" };
	static const char *const bad[] = { "", ":", "10.0.0.4", "10.0.0.4:", "10.0.0.4:65536", "10.0.0.4:-1", "10.0.0.4:80x", "10.0.0:80",
					   "::1:80", "[::1]", "[::1:80", "[::1]80", "localhost:80", "10.0.0.4:0080000", "256.0.0.1:80",
					   "[fe80::1%eth0]:80", " 10.0.0.4:80", "10.0.0.4:80 ", "10.0.0.4: 80" };
	struct mesh__address address, again;
	char text[MESH__ADDRESS_TEXT_MAX];
	const char *why;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		assert_int_equal(mesh__address_parse(&address, good[i], strlen(good[i]), &why), 0);
		mesh__address_print(&address, text);
		assert_string_equal(text, good[i]);
		assert_int_equal(mesh__address_parse(&again, text, strlen(text), &why), 0);
		assert_true(mesh__address_equal(&address, &again));
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		why = NULL;
		if (!mesh__address_parse(&address, bad[i], strlen(bad[i]), &why))
			fail_msg("\"%s\" was taken as an address", bad[i]);
		assert_non_null(why);
	}
	/* Only `len` bytes count. */
	assert_int_equal(mesh__address_parse(&address, "10.0.0.4:80junk", 11, &why), 0);
}

static void map_keeps_what_is_put_and_forgets_what_is_removed(void **state)
{
	static int values[3000];
	struct mesh__map map;
	const char *key;
	char name[16];
	uint32_t at = 0, seen = 0;

	(void)state;
	mesh__map_init(&map);
	for (int i = 0; i < 3000; i++) {
		int len = snprintf(name, sizeof(name), "key%d", i);

		assert_int_equal(mesh__map_put(&map, name, (size_t)len, &values[i]), 0);
	}
	for (int i = 0; i < 3000; i += 2) {
		int len = snprintf(name, sizeof(name), "key%d", i);

		assert_ptr_equal(mesh__map_remove(&map, name, (size_t)len), &values[i]);
		assert_null(mesh__map_remove(&map, name, (size_t)len));
	}
	for (int i = 0; i < 3000; i++) {
		int len = snprintf(name, sizeof(name), "key%d", i);

		assert_ptr_equal(mesh__map_get(&map, name, (size_t)len), i % 2 ? &values[i] : NULL);
	}
	while (mesh__map_next(&map, &at, &key))
		seen++;
	assert_int_equal(seen, 1500);
	assert_int_equal(map.live, 1500);
	mesh__map_fini(&map);
}

/* Adding and removing for ever must not grow the table. */
static void map_does_not_grow_by_churn(void **state)
{
	struct mesh__map map;
	char name[24];

	(void)state;
	mesh__map_init(&map);
	for (int i = 0; i < 100000; i++) {
		int len = snprintf(name, sizeof(name), "key%d", i);

		assert_int_equal(mesh__map_put(&map, name, (size_t)len, &map), 0);
		mesh__map_remove(&map, name, (size_t)len);
	}
	assert_true(map.capacity <= 64);
	mesh__map_fini(&map);
}

static void list_survives_removing_twice(void **state)
{
	struct mesh__list head, a, b;

	(void)state;
	mesh__list_init(&head);
	assert_true(mesh__list_is_empty(&head));
	mesh__list_append(&head, &a);
	mesh__list_append(&head, &b);
	mesh__list_remove(&a);
	mesh__list_remove(&a);
	assert_ptr_equal(mesh__list_take_first(&head), &b);
	assert_null(mesh__list_take_first(&head));
}

static void pool_reuses_blocks_of_every_size(void **state)
{
	struct mesh__pool pool;
	void *first, *again;

	(void)state;
	mesh__pool_init(&pool);
	for (size_t bytes = 1; bytes < 100000; bytes = bytes * 3 + 1) {
		first = mesh__pool_alloc(&pool, bytes);
		assert_non_null(first);
		memset(first, 0xaa, bytes);
		mesh__pool_free(&pool, first);
		again = mesh__pool_zalloc(&pool, bytes);
		for (size_t i = 0; i < bytes; i++)
			assert_int_equal(((uint8_t *)again)[i], 0);
		again = mesh__pool_realloc(&pool, again, bytes * 2);
		assert_non_null(again);
		assert_int_equal(((uint8_t *)again)[0], 0);
		mesh__pool_free(&pool, again);
	}
	assert_int_equal(pool.in_use, 0);
	mesh__pool_fini(&pool);
}

static void random_numbers_repeat_by_seed_and_spread_evenly(void **state)
{
	struct mesh__random a, b;
	uint32_t seen[10] = { 0 };

	(void)state;
	mesh__random_init(&a, 7);
	mesh__random_init(&b, 7);
	for (int i = 0; i < 100000; i++) {
		uint32_t drawn = mesh__random_below(&a, 10);

		assert_true(drawn < 10);
		seen[drawn]++;
		mesh__random_next(&b);
	}
	for (int i = 0; i < 10; i++) /* a binomial of 100,000 and 0.1: five standard deviations are 474 */
		assert_in_range(seen[i], 9500, 10500);
	assert_true(mesh__random_next(&a) == mesh__random_next(&b));
	for (int i = 0; i < 1000; i++) {
		double unit = mesh__random_unit(&a);

		assert_true(unit >= 0 && unit < 1);
	}
}

static void distance_counts_edits(void **state)
{
	(void)state;
	assert_int_equal(mesh__distance("timeout", "timeout", 4), 0);
	assert_int_equal(mesh__distance("timeuot", "timeout", 4), 2);
	assert_int_equal(mesh__distance("timeout", "timeouts", 4), 1);
	assert_int_equal(mesh__distance("", "abc", 9), 3);
	assert_int_equal(mesh__distance("abc", "wxyz", 3), 3);
}

static void errors_respect_the_callers_size(void **state)
{
	struct mesh_error err = MESH_ERROR_INIT;

	(void)state;
	memset(err.endpoint, 'x', sizeof(err.endpoint));
	err.size = offsetof(struct mesh_error, endpoint);
	assert_int_equal(mesh__fault(&err, MESH_E_DEADLINE, MESH_STAGE_ATTEMPT, "too %s", "late"), MESH_E_DEADLINE);
	assert_int_equal(err.code, MESH_E_DEADLINE);
	assert_int_equal(err.grpc_status, 4);
	assert_int_equal(err.endpoint[0], 'x');
	err.size = sizeof(err);
	mesh__fault(&err, MESH_E_DEADLINE, MESH_STAGE_ATTEMPT, "too %s", "late");
	assert_string_equal(err.message, "too late");
	assert_string_equal(err.endpoint, "");
	memset(err.message, 'x', sizeof(err.message));
	err.size = offsetof(struct mesh_error, message) + 4;
	mesh__fault(&err, MESH_E_DEADLINE, MESH_STAGE_ATTEMPT, "too %s", "late");
	assert_memory_equal(err.message, "too\0x", 5);
	err.size = 0;
	mesh__fault(&err, MESH_E_INVALID, 0, "not written");
	assert_int_equal(err.code, MESH_E_DEADLINE);
	assert_int_equal(mesh__fault(NULL, MESH_E_INVALID, 0, "nobody asks"), MESH_E_INVALID);
}

static void keep_line(int32_t level, const char *line, void *user)
{
	(void)level;
	snprintf(user, 64, "%s", line);
}

/* Names of files and keys in them are anybody's. */
static void neither_errors_nor_log_lines_can_command_a_terminal(void **state)
{
	struct mesh_error err = MESH_ERROR_INIT;
	char line[64] = "", name[1000];
	const struct mesh__log log = { keep_line, line, MESH_LOG_DEBUG };

	(void)state;
	mesh__fault(&err, MESH_E_OPTION, 0, "ignoring %s of \\x1b", "\x1b]0;x\7\n\xc2\x9b");
	assert_string_equal(err.message, "ignoring \\x1b]0;x\\x07\\x0a\\xc2\\x9b of \\x1b");
	mesh__fault_errno(&err, 0, ENOENT, "%s", "\x1b[2J");
	assert_string_equal(err.message, "\\x1b[2J: No such file or directory");
	mesh__log_write(&log, MESH_LOG_WARN, "ignoring %s", "\x1b[2J\r");
	assert_string_equal(line, "ignoring \\x1b[2J\\x0d");
	memset(name, '\n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	mesh__fault(&err, MESH_E_OPTION, 0, "%s", name);
	assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
}

static void errno_becomes_the_error_a_caller_can_tell_apart(void **state)
{
	struct mesh_error err = MESH_ERROR_INIT;

	(void)state;
	assert_int_equal(mesh__fault_errno(&err, 0, EMFILE, "socket"), MESH_E_NO_DESCRIPTORS);
	assert_int_equal(mesh__fault_errno(&err, 0, ENFILE, "socket"), MESH_E_NO_DESCRIPTORS);
	assert_int_equal(mesh__fault_errno(&err, 0, ENOMEM, "socket"), MESH_E_NOMEM);
	assert_int_equal(mesh__fault_errno(&err, 0, EADDRINUSE, "bind %s", "x"), MESH_E_SYSTEM);
	assert_non_null(strstr(err.message, "bind x: "));
}

static void every_code_and_stage_has_a_name(void **state)
{
	(void)state;
	assert_string_equal(mesh_error_name(MESH_E_DEADLINE), "DEADLINE");
	assert_string_equal(mesh_error_name(0), "OK");
	assert_string_equal(mesh_error_name(-9999), "UNKNOWN");
	assert_string_equal(mesh_grpc_status_name(14), "UNAVAILABLE");
	assert_non_null(mesh_error_text(MESH_E_LOST));
	assert_non_null(mesh_error_hint(-9999));
	assert_string_equal(mesh_stage_name(MESH_STAGE_BALANCE), "balance");
}

static void the_nth_allocation_can_be_made_to_fail(void **state)
{
	void *memory;

	(void)state;
	mesh__memory_fail_after(1);
	memory = mesh__memory_alloc(1);
	assert_non_null(memory);
	assert_null(mesh__memory_alloc(1));
	mesh__memory_free(memory);
	memory = mesh__memory_alloc(1);
	assert_non_null(memory);
	mesh__memory_free(memory);
	mesh__memory_fail_after(-1);
	assert_null(mesh__memory_zalloc_array(SIZE_MAX / 2, 3));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_is_cut_at_its_end_and_says_so),
		cmocka_unit_test(text_of_a_stranger_cannot_reach_the_terminal),
		cmocka_unit_test(durations_are_read_with_units_and_nothing_else),
		cmocka_unit_test(sizes_and_counts_are_read_with_units),
		cmocka_unit_test(numbers_are_printed_as_they_can_be_read_again),
		cmocka_unit_test(addresses_are_literals_with_a_port),
		cmocka_unit_test(map_keeps_what_is_put_and_forgets_what_is_removed),
		cmocka_unit_test(map_does_not_grow_by_churn),
		cmocka_unit_test(list_survives_removing_twice),
		cmocka_unit_test(pool_reuses_blocks_of_every_size),
		cmocka_unit_test(random_numbers_repeat_by_seed_and_spread_evenly),
		cmocka_unit_test(distance_counts_edits),
		cmocka_unit_test(errors_respect_the_callers_size),
		cmocka_unit_test(neither_errors_nor_log_lines_can_command_a_terminal),
		cmocka_unit_test(errno_becomes_the_error_a_caller_can_tell_apart),
		cmocka_unit_test(every_code_and_stage_has_a_name),
		cmocka_unit_test(the_nth_allocation_can_be_made_to_fail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
