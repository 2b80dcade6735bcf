/* What discovery reads from files of others, and how power of two choices decides: all pure. */
#include "discovery/source.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static char taken[1024];

static void take(void *user, const char *service, const struct mesh__found *found, uint32_t count)
{
	char address[MESH__ADDRESS_TEXT_MAX];
	size_t len = strlen(taken);

	(void)user;
	len += (size_t)snprintf(taken + len, sizeof(taken) - len, "%s:", service);
	for (uint32_t i = 0; i < count; i++) {
		mesh__address_print(&found[i].address, address);
		len += (size_t)snprintf(taken + len, sizeof(taken) - len, " %s*%u%s%s", address, found[i].weight, found[i].id ? "=" : "",
					found[i].id ? found[i].id->text : "");
	}
	snprintf(taken + len, sizeof(taken) - len, ";");
}

static const char *parse(const char *text)
{
	static char why[256];

	taken[0] = why[0] = '\0';
	return mesh__source_file_parse(text, strlen(text), take, NULL, why, sizeof(why)) ? why : NULL;
}

static void endpoint_files_are_read(void **state)
{
	(void)state;
	assert_null(parse("{\"services\": {\"users\": [\"10.0.0.4:9000\", {\"address\": \"[::1]:9\", \"weight\": 3}], \"orders\": []}}"));
	assert_non_null(strstr(taken, "users: 10.0.0.4:9000*1 [::1]:9*3;"));
	assert_non_null(strstr(taken, "orders:;"));
}

static void an_endpoint_has_its_own_id_or_that_of_its_service(void **state)
{
	(void)state;
	assert_null(parse("{\"services\": {\"users\": {\"id\": \"spiffe://a.b/users\", \"endpoints\": [\"10.0.0.4:9\", {\"address\": \"10.0.0.5:9\","
			  " \"id\": \"spiffe://a.b/old-users\"}]}, \"orders\": [{\"address\": \"10.0.0.6:9\", \"id\": \"spiffe://c/o\"}, \"10.0.0.7:9\"]}}"));
	assert_non_null(strstr(taken, "users: 10.0.0.4:9*1=spiffe://a.b/users 10.0.0.5:9*1=spiffe://a.b/old-users;"));
	assert_non_null(strstr(taken, "orders: 10.0.0.6:9*1=spiffe://c/o 10.0.0.7:9*1;"));
}

static void broken_endpoint_files_are_refused_with_the_place(void **state)
{
	static const char *const bad[][2] = {
		{ "", "" },
		{ "{", "line" },
		{ "[]", "" },
		{ "{}", "services" },
		{ "{\"services\": []}", "services" },
		{ "{\"services\": {\"users\": \"10.0.0.4:9000\"}}", "users" },
		{ "{\"services\": {\"users\": [\"10.0.0.4\"]}}", "users" },
		{ "{\"services\": {\"users\": [\"10.0.0.4:0\"]}}", "port 0" },
		{ "{\"services\": {\"users\": [42]}}", "users" },
		{ "{\"services\": {\"users\": [{\"weight\": 1}]}}", "address" },
		{ "{\"services\": {\"users\": [{\"address\": \"10.0.0.4:1\", \"weight\": 0}]}}", "weight" },
		{ "{\"services\": {\"users\": [{\"address\": \"10.0.0.4:1\", \"weight\": 70000}]}}", "weight" },
		{ "{\"services\": {\"users\": [\"10.0.0.4:1\"], \"users\": []}}", "users" },
		{ "{\"services\": {\"users\": [\"10.0.0.3:1\", {\"address\": \"10.0.0.4:1\", \"id\": \"users\"}]}}", "service users, endpoint 1: \"id\"" },
		{ "{\"services\": {\"users\": [{\"address\": \"10.0.0.4:1\", \"id\": 7}]}}", "not a string" },
		{ "{\"services\": {\"users\": [{\"address\": \"10.0.0.4:1\", \"id\": null}]}}", "not a string" },
		{ "{\"services\": {\"users\": [{\"address\": \"10.0.0.4:1\", \"id\": \"spiffe://a.b/u\\u0000x\"}]}}", "" },
		{ "{\"services\": {\"users\": {\"id\": \"spiffe://a.b\", \"endpoints\": []}}}", "service users: \"id\" is no SPIFFE ID of a workload: it names a whole trust domain" },
		{ "{\"services\": {\"users\": {\"id\": \"spiffe://A.b/x\", \"endpoints\": []}}}", "upper-case" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		const char *why = parse(bad[i][0]);

		if (!why)
			fail_msg("%s was taken", bad[i][0]);
		if (!strstr(why, bad[i][1]))
			fail_msg("%s: \"%s\" does not name %s", bad[i][0], why, bad[i][1]);
	}
}

static void registry_entries_are_read_and_lies_refused(void **state)
{
	static const char *const good = "{\"version\": 1, \"service\": \"users\", \"address\": \"10.0.0.4:80\", \"newer\": true, \"id\": \"spiffe://a/b\"}";
	static const char *const bad[] = {
		"", "nonsense", "[]", "{\"version\": 1}", "{\"version\": 2, \"service\": \"users\", \"address\": \"10.0.0.4:80\"}",
		"{\"version\": 1, \"service\": \"orders\", \"address\": \"10.0.0.4:80\"}",
		"{\"version\": 1, \"service\": \"users\", \"address\": \"10.0.0.4\"}",
		"{\"version\": 1, \"service\": \"users\", \"address\": \"10.0.0.4:0\"}",
		"{\"version\": 1, \"service\": \"users\", \"address\": 7}",
		"{\"version\": 1, \"service\": \"users\", \"address\": \"10.0.0.4:80\"}{",
	};
	struct mesh__found found;
	const char *why;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		why = NULL;
		assert_int_equal(mesh__source_local_parse(bad[i], strlen(bad[i]), "users", &found, &why), -1);
		assert_non_null(why);
	}
	assert_int_equal(mesh__source_local_parse(good, strlen(good), "users", &found, &why), 0);
	assert_int_equal(found.address.port, 80);
	assert_null(found.id); /* whoever registers under a name does not say whose it is */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(endpoint_files_are_read),
		cmocka_unit_test(an_endpoint_has_its_own_id_or_that_of_its_service),
		cmocka_unit_test(broken_endpoint_files_are_refused_with_the_place),
		cmocka_unit_test(registry_entries_are_read_and_lies_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
