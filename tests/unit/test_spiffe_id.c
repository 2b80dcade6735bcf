#include "identity/spiffe_id.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void ids_that_the_standard_allows_are_taken(void **state)
{
	static const struct {
		const char *text, *domain, *path;
	} good[] = {
		{ "spiffe://prod.example", "prod.example", "" },
		{ "spiffe://prod.example/ns/shop/sa/users", "prod.example", "/ns/shop/sa/users" },
		{ "spiffe://a/b", "a", "/b" },
		{ "spiffe://under_score-1.example/A.Z_a-z0/...", "under_score-1.example", "/A.Z_a-z0/..." },
		{ "spiffe://10.2.3.4/.hidden/..x", "10.2.3.4", "/.hidden/..x" },
		{ "spiffe://-/_", "-", "/_" },
	};
	struct mesh__spiffe_id id;
	const char *why;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		assert_int_equal(mesh__spiffe_id_parse(&id, good[i].text, strlen(good[i].text), &why), 0);
		assert_string_equal(id.text, good[i].text);
		assert_int_equal(id.len, strlen(good[i].text));
		assert_true(mesh__spiffe_id_is_member(&id, good[i].domain));
		assert_string_equal(mesh__spiffe_id_path(&id), good[i].path);
	}
}

static void each_bad_id_has_a_phrase_of_its_own(void **state)
{
	static const struct {
		const char *text, *phrase;
	} bad[] = {
		{ "", "it is empty" },
		{ "prod.example/a", "it does not begin with spiffe://" },
		{ "https://prod.example/a", "it does not begin with spiffe://" },
		{ "spiffe:/prod.example/a", "it does not begin with spiffe://" },
		{ "spiffe", "it does not begin with spiffe://" },
		{ " spiffe://prod.example/a", "it does not begin with spiffe://" },
		{ "SPIFFE://prod.example/a", "its scheme is not written in lower case" },
		{ "Spiffe://prod.example/a", "its scheme is not written in lower case" },
		{ "spiffe://", "the trust domain is empty" },
		{ "spiffe:///a", "the trust domain is empty" },
		{ "spiffe://Prod.example/a", "the trust domain has an upper-case letter" },
		{ "spiffe://user@prod.example/a", "it has a user name" },
		{ "spiffe://user:secret@prod.example/a", "it has a port" },
		{ "spiffe://prod.example:443/a", "it has a port" },
		{ "spiffe://prod.example:/a", "it has a port" },
		{ "spiffe://prod.example?q/a", "it has a query" },
		{ "spiffe://prod.example/a?q=1", "it has a query" },
		{ "spiffe://prod.example#f", "it has a fragment" },
		{ "spiffe://prod.example/a#f", "it has a fragment" },
		{ "spiffe://prod%2eexample/a", "it has a percent sign: nothing is encoded in a SPIFFE ID" },
		{ "spiffe://prod.example/%61", "it has a percent sign: nothing is encoded in a SPIFFE ID" },
		{ "spiffe://prod!example/a", "the trust domain has a character other than a-z, 0-9, '.', '-' and '_'" },
		{ "spiffe://pr\xc3\xb6" "d.example/a", "the trust domain has a character other than a-z, 0-9, '.', '-' and '_'" },
		{ "spiffe://[::1]/a", "the trust domain has a character other than a-z, 0-9, '.', '-' and '_'" },
		{ "spiffe://prod.example/", "it ends in '/'" },
		{ "spiffe://prod.example/a/", "it ends in '/'" },
		{ "spiffe://prod.example//a", "the path has an empty segment" },
		{ "spiffe://prod.example/a//b", "the path has an empty segment" },
		{ "spiffe://prod.example/.", "the path has a segment \".\" or \"..\"" },
		{ "spiffe://prod.example/./a", "the path has a segment \".\" or \"..\"" },
		{ "spiffe://prod.example/a/..", "the path has a segment \".\" or \"..\"" },
		{ "spiffe://prod.example/a/../b", "the path has a segment \".\" or \"..\"" },
		{ "spiffe://prod.example/a b", "the path has a character other than a-z, A-Z, 0-9, '.', '-' and '_'" },
		{ "spiffe://prod.example/a@b", "the path has a character other than a-z, A-Z, 0-9, '.', '-' and '_'" },
		{ "spiffe://prod.example/a:b", "the path has a character other than a-z, A-Z, 0-9, '.', '-' and '_'" },
		{ "spiffe://prod.example/*", "the path has a character other than a-z, A-Z, 0-9, '.', '-' and '_'" },
		{ "spiffe://prod.example/\xc3\xa4", "the path has a character other than a-z, A-Z, 0-9, '.', '-' and '_'" },
		{ "spiffe://prod.example/a\n", "the path has a character other than a-z, A-Z, 0-9, '.', '-' and '_'" },
		{ "spiffe://prod.example\\a", "the trust domain has a character other than a-z, 0-9, '.', '-' and '_'" },
	};
	struct mesh__spiffe_id id;
	const char *why;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_int_equal(mesh__spiffe_id_parse(&id, bad[i].text, strlen(bad[i].text), &why), -1);
		assert_string_equal(why, bad[i].phrase);
		assert_int_equal(id.len, 0);
		assert_string_equal(id.text, "");
	}
}

static void a_nul_inside_is_no_end(void **state)
{
	static const char path[] = "spiffe://prod.example/a\0/b", domain[] = "spiffe://prod\0.example/a";
	struct mesh__spiffe_id id;
	const char *why;

	(void)state;
	assert_int_equal(mesh__spiffe_id_parse(&id, path, sizeof(path) - 1, &why), -1);
	assert_string_equal(why, "the path has a character other than a-z, A-Z, 0-9, '.', '-' and '_'");
	assert_int_equal(mesh__spiffe_id_parse(&id, domain, sizeof(domain) - 1, &why), -1);
	assert_string_equal(why, "the trust domain has a character other than a-z, 0-9, '.', '-' and '_'");
}

static void limits_are_2048_bytes_and_255_for_the_domain(void **state)
{
	char text[MESH__SPIFFE_ID_MAX + 2];
	struct mesh__spiffe_id id;
	const char *why;

	(void)state;
	memset(text, 'a', sizeof(text));
	memcpy(text, "spiffe://prod.example/", 22);
	assert_int_equal(mesh__spiffe_id_parse(&id, text, MESH__SPIFFE_ID_MAX, &why), 0);
	assert_int_equal(id.len, MESH__SPIFFE_ID_MAX);
	assert_int_equal(mesh__spiffe_id_parse(&id, text, MESH__SPIFFE_ID_MAX + 1, &why), -1);
	assert_string_equal(why, "it is longer than 2048 bytes");
	memset(text + 9, 'a', sizeof(text) - 9);
	assert_int_equal(mesh__spiffe_id_parse(&id, text, 9 + MESH__TRUST_DOMAIN_MAX, &why), 0);
	assert_int_equal(mesh__spiffe_id_parse(&id, text, 9 + MESH__TRUST_DOMAIN_MAX + 1, &why), -1);
	assert_string_equal(why, "the trust domain is longer than 255 bytes");
}

static void a_service_has_the_id_of_the_template(void **state)
{
	static const struct {
		const char *domain, *name_space, *service, *phrase;
	} bad[] = {
		{ "prod.example", "shop", "a/sa/b", "the service's name has a '/'" },
		{ "prod.example", "shop/sa/x", "users", "the namespace has a '/'" },
		{ "prod.example/x", "shop", "users", "the trust domain has a '/'" },
		{ "prod.example", "shop", "", "the service's name is empty" },
		{ "prod.example", "", "users", "the path has an empty segment" },
		{ "prod.example", "shop", "..", "the path has a segment \".\" or \"..\"" },
		{ "Prod", "shop", "users", "the trust domain has an upper-case letter" },
		{ "prod.example", "shop", "us ers", "the path has a character other than a-z, A-Z, 0-9, '.', '-' and '_'" },
	};
	char longest[MESH__SPIFFE_ID_MAX + 1];
	struct mesh__spiffe_id id;
	const char *why;

	(void)state;
	assert_int_equal(mesh__spiffe_id_of_service(&id, "prod.example", "shop", "users", &why), 0);
	assert_string_equal(id.text, "spiffe://prod.example/ns/shop/sa/users");
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_int_equal(mesh__spiffe_id_of_service(&id, bad[i].domain, bad[i].name_space, bad[i].service, &why), -1);
		assert_string_equal(why, bad[i].phrase);
		assert_int_equal(id.len, 0);
	}
	memset(longest, 'a', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	assert_int_equal(mesh__spiffe_id_of_service(&id, "prod.example", "shop", longest, &why), -1);
	assert_string_equal(why, "it is longer than 2048 bytes");
}

static void members_and_equals_are_whole(void **state)
{
	struct mesh__spiffe_id a, b, none = { 0 };
	const char *why;

	(void)state;
	assert_int_equal(mesh__spiffe_id_parse(&a, "spiffe://prod.example/a", 23, &why), 0);
	assert_int_equal(mesh__spiffe_id_parse(&b, "spiffe://prod.example/ab", 24, &why), 0);
	assert_false(mesh__spiffe_id_is_member(&a, "prod.example.org"));
	assert_false(mesh__spiffe_id_is_member(&a, "prod"));
	assert_false(mesh__spiffe_id_is_member(&a, ""));
	assert_false(mesh__spiffe_id_is_member(&none, ""));
	assert_true(mesh__spiffe_id_equal(&a, &a));
	assert_false(mesh__spiffe_id_equal(&a, &b));
	assert_false(mesh__spiffe_id_equal(&none, &none));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ids_that_the_standard_allows_are_taken), cmocka_unit_test(each_bad_id_has_a_phrase_of_its_own),
		cmocka_unit_test(a_nul_inside_is_no_end),		  cmocka_unit_test(limits_are_2048_bytes_and_255_for_the_domain),
		cmocka_unit_test(a_service_has_the_id_of_the_template),   cmocka_unit_test(members_and_equals_are_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
