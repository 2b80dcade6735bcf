#include "wire/grpc.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void content_types_of_grpc_and_no_others(void **state)
{
	static const char *const good[] = { "application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8", "Application/GRPC" };
	static const char *const bad[] = { "", "application/grpc-web", "application/grpcx", "application/json", "text/plain", "application/grp" };

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(*good) - 1; i++)
		assert_true(mesh__grpc_is_content_type(good[i], strlen(good[i])));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_false(mesh__grpc_is_content_type(bad[i], strlen(bad[i])));
}

static void prefixes_are_written_and_read(void **state)
{
	uint8_t prefix[MESH__GRPC_PREFIX_BYTES];
	uint32_t len;

	(void)state;
	mesh__grpc_write_prefix(prefix, 0x01020304);
	assert_memory_equal(prefix, "\0\1\2\3\4", 5);
	assert_true(mesh__grpc_read_prefix(prefix, &len));
	assert_int_equal(len, 0x01020304);
	prefix[0] = 1;
	assert_false(mesh__grpc_read_prefix(prefix, &len));
}

static void timeouts_have_at_most_eight_digits_and_never_shrink(void **state)
{
	static const uint64_t values[] = { 1, 999, 1000, 99999999, 100000000, 123456789, 100000000000, UINT64_C(99999999000000001),
					   3600 * MESH__NS_PER_SEC, UINT64_C(10000) * 86400 * MESH__NS_PER_SEC };
	char text[MESH__GRPC_TIMEOUT_TEXT_MAX];
	uint64_t back;

	(void)state;
	for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
		size_t len = mesh__grpc_print_timeout(values[i], text);

		assert_in_range(len, 2, 9);
		assert_int_equal(strspn(text, "0123456789"), len - 1);
		assert_true(mesh__grpc_parse_timeout(text, len, &back));
		assert_true(back >= values[i]);
		assert_true(back - values[i] <= values[i] / 100000 + 1000);
	}
}

static void timeouts_that_are_none_are_refused(void **state)
{
	static const char *const bad[] = { "", "1", "s", "-1S", "1x", "123456789S", "1 S", "1.5S", "S1", "+1S" };
	uint64_t value;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		if (mesh__grpc_parse_timeout(bad[i], strlen(bad[i]), &value))
			fail_msg("\"%s\" was taken as a timeout", bad[i]);
	assert_true(mesh__grpc_parse_timeout("99999999H", 9, &value));
	assert_true(value <= UINT64_MAX / 2);
	assert_true(mesh__grpc_parse_timeout("0n", 2, &value));
	assert_int_equal(value, 0);
}

static void statuses_are_small_numbers(void **state)
{
	(void)state;
	assert_int_equal(mesh__grpc_parse_status("0", 1), 0);
	assert_int_equal(mesh__grpc_parse_status("16", 2), 16);
	assert_int_equal(mesh__grpc_parse_status("", 0), 2);
	assert_int_equal(mesh__grpc_parse_status("ok", 2), 2);
	assert_int_equal(mesh__grpc_parse_status("-1", 2), 2);
	assert_int_equal(mesh__grpc_parse_status("17", 2), 2);
	assert_int_equal(mesh__grpc_parse_status("99999999", 8), 2);
	assert_int_equal(mesh__grpc_parse_status("99999999999999999999", 20), 2);
	/* gRPC's table of HTTP statuses */
	assert_int_equal(mesh__grpc_status_of_http(400), 13);
	assert_int_equal(mesh__grpc_status_of_http(401), 16);
	assert_int_equal(mesh__grpc_status_of_http(403), 7);
	assert_int_equal(mesh__grpc_status_of_http(404), 12);
	assert_int_equal(mesh__grpc_status_of_http(429), 14);
	assert_int_equal(mesh__grpc_status_of_http(503), 14);
	assert_int_equal(mesh__grpc_status_of_http(418), 2);
	/* and of HTTP/2 errors */
	assert_int_equal(mesh__grpc_status_of_reset(7), 14);
	assert_int_equal(mesh__grpc_status_of_reset(8), 1);
	assert_int_equal(mesh__grpc_status_of_reset(11), 8);
	assert_int_equal(mesh__grpc_status_of_reset(12), 7);
	assert_int_equal(mesh__grpc_status_of_reset(1), 13);
}

static void messages_are_percent_encoded(void **state)
{
	char storage[128], again[128];
	struct mesh__text text;
	size_t len;

	(void)state;
	mesh__text_init(&text, storage, sizeof(storage));
	mesh__grpc_percent_encode(&text, "50% of \xc3\xbc\n");
	assert_string_equal(storage, "50%25 of %C3%BC%0A");
	strcpy(again, storage);
	len = mesh__grpc_percent_decode(again, strlen(again));
	assert_int_equal(len, 10);
	assert_memory_equal(again, "50% of \xc3\xbc\n", len);
	strcpy(again, "bad %zz %4");
	assert_int_equal(mesh__grpc_percent_decode(again, 10), 10);
	assert_memory_equal(again, "bad %zz %4", 10);
}

static void binary_values_survive_the_way(void **state)
{
	uint8_t bytes[256], back[256];
	char text[400];
	size_t len, got;

	(void)state;
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 37);
	for (size_t n = 0; n <= sizeof(bytes); n++) {
		len = mesh__grpc_base64_encode(bytes, n, text);
		assert_int_equal(len, (n * 4 + 2) / 3);
		assert_int_equal(mesh__grpc_base64_decode(text, len, back, &got), 0);
		assert_int_equal(got, n);
		assert_memory_equal(back, bytes, n);
	}
	assert_int_equal(mesh__grpc_base64_decode("AQID", 4, back, &got), 0);
	assert_int_equal(mesh__grpc_base64_decode("AQ==", 4, back, &got), 0);
	assert_int_equal(got, 1);
	assert_int_equal(mesh__grpc_base64_decode("AQ=", 3, back, &got), 0);
	assert_int_equal(mesh__grpc_base64_decode("AQID,BAUG", 9, back, &got), 0);
	assert_int_equal(got, 7);
	assert_memory_equal(back, "\1\2\3,\4\5\6", 7);
	assert_int_equal(mesh__grpc_base64_decode("A", 1, back, &got), -1);
	assert_int_equal(mesh__grpc_base64_decode("A*ID", 4, back, &got), -1);
	assert_int_equal(mesh__grpc_base64_decode("=AAA", 4, back, &got), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(content_types_of_grpc_and_no_others),
		cmocka_unit_test(prefixes_are_written_and_read),
		cmocka_unit_test(timeouts_have_at_most_eight_digits_and_never_shrink),
		cmocka_unit_test(timeouts_that_are_none_are_refused),
		cmocka_unit_test(statuses_are_small_numbers),
		cmocka_unit_test(messages_are_percent_encoded),
		cmocka_unit_test(binary_values_survive_the_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
