#include "identity/plain_path.h"
#include "identity/policy.h"
#include "identity/policy_path.h"

#include "base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define SHOP "spiffe://prod.example/ns/shop/sa/cart"
#define STAGING "spiffe://staging.example/ns/shop/sa/cart"
#define OTHER "spiffe://other.example/ns/x/sa/y"

static struct mesh__policy_answer answer;

static struct mesh__policy *parse(const char *text)
{
	struct mesh__policy *policy;
	struct mesh_error err = MESH_ERROR_INIT;

	if (mesh__policy_parse(&policy, text, strlen(text), &err))
		fail_msg("%s", err.message);
	return policy;
}

static const struct mesh__spiffe_id *id_of(const char *text)
{
	static struct mesh__spiffe_id id;
	const char *why;

	assert_int_equal(mesh__spiffe_id_parse(&id, text, strlen(text), &why), 0);
	return &id;
}

/* Our own trust domain is prod.example. */
static bool may_do(const struct mesh__policy *policy, const char *peer, const char *service, const char *method, const char *path)
{
	struct mesh__policy_question question = {
		.peer = id_of(peer), .own_domain = "prod.example", .service = service, .method = method, .path = path, .path_len = strlen(path),
	};

	mesh__policy_decide(policy, &question, &answer);
	return answer.is_allowed;
}

static bool may_call(const struct mesh__policy *policy, const char *peer)
{
	return may_do(policy, peer, "users", "GET", "/v1/a");
}

static char hopeless_by[MESH__RULE_NAME_MAX];

static bool is_hopeless(const struct mesh__policy *policy, const char *peer)
{
	return mesh__policy_is_hopeless(policy, id_of(peer), "prod.example", hopeless_by);
}

/* --- what decides --- */

static void own_trust_domain_may_call_if_nothing_is_written(void **state)
{
	struct mesh__policy *policy;

	(void)state;
	assert_int_equal(mesh__policy_default(&policy), 0);
	assert_true(may_call(policy, SHOP));
	assert_string_equal(answer.rule, "default:trust-domain");
	assert_false(may_call(policy, STAGING));
	assert_string_equal(answer.rule, "default:trust-domain");
	assert_false(is_hopeless(policy, SHOP));
	assert_true(is_hopeless(policy, STAGING));
	assert_string_equal(hopeless_by, "default:trust-domain");
	mesh__policy_unref(policy);
}

static void staging_may_not_call_production_is_one_line(void **state)
{
	struct mesh__policy *policy = parse("{\"rules\": [{\"name\": \"staging-stays-out\", \"deny\": [\"spiffe://staging.example/*\"]}]}");

	(void)state;
	assert_false(may_call(policy, STAGING));
	assert_string_equal(answer.rule, "staging-stays-out");
	assert_true(is_hopeless(policy, STAGING));
	assert_string_equal(hopeless_by, "staging-stays-out");
	assert_true(may_call(policy, SHOP));
	mesh__policy_unref(policy);

	policy = parse("{\"rules\": [{\"deny\": [\"spiffe://prod.example/ns/staging/*\"]}]}");
	assert_false(may_call(policy, "spiffe://prod.example/ns/staging/sa/cart"));
	assert_string_equal(answer.rule, "rule-1");
	assert_true(may_call(policy, "spiffe://prod.example/ns/staging2/sa/cart"));
	assert_true(may_call(policy, "spiffe://prod.example/ns/staging"));
	mesh__policy_unref(policy);
}

static void first_rule_that_matches_decides(void **state)
{
	struct mesh__policy *policy = parse("{\"rules\": [{\"name\": \"a\", \"allow\": [\"" SHOP "\"]}, {\"name\": \"b\", \"deny\": [\"*\"]},"
					    "{\"name\": \"c\", \"allow\": [\"*\"]}]}");

	(void)state;
	assert_true(may_call(policy, SHOP));
	assert_string_equal(answer.rule, "a");
	assert_false(may_call(policy, SHOP "s"));
	assert_string_equal(answer.rule, "b");
	assert_true(is_hopeless(policy, OTHER));
	mesh__policy_unref(policy);
}

static void default_is_deny_as_soon_as_somebody_is_allowed(void **state)
{
	struct mesh__policy *policy = parse("{\"rules\": [{\"allow\": [\"" OTHER "\"]}]}");

	(void)state;
	assert_true(may_call(policy, OTHER));
	assert_false(may_call(policy, SHOP));
	assert_string_equal(answer.rule, "default:deny");
	mesh__policy_unref(policy);
	policy = parse("{\"rules\": [{\"allow\": [\"" OTHER "\"]}], \"default\": \"trust-domain\"}");
	assert_true(may_call(policy, SHOP));
	assert_false(may_call(policy, STAGING));
	mesh__policy_unref(policy);
	policy = parse("{\"rules\": [{\"deny\": [\"" OTHER "\"]}], \"default\": \"allow\"}");
	assert_true(may_call(policy, STAGING));
	assert_string_equal(answer.rule, "default:allow");
	assert_false(may_call(policy, OTHER));
	mesh__policy_unref(policy);
	policy = parse("{\"rules\": [], \"default\": \"deny\"}");
	assert_false(may_call(policy, SHOP));
	assert_true(is_hopeless(policy, SHOP));
	mesh__policy_unref(policy);
}

static void service_methods_and_paths_all_have_to_match(void **state)
{
	struct mesh__policy *policy = parse("{\"rules\": [{\"name\": \"read\", \"allow\": [\"spiffe://prod.example/ns/shop/sa/*\"], \"service\": \"users\","
					    "\"methods\": [\"GET\", \"HEAD\"], \"paths\": [\"/v1/*\", \"/shop.Users/Get\"]}]}");

	(void)state;
	assert_true(may_do(policy, SHOP, "users", "GET", "/v1/a"));
	assert_true(may_do(policy, SHOP, "users", "HEAD", "/v1/"));
	assert_true(may_do(policy, SHOP, "users", "GET", "/shop.Users/Get"));
	assert_false(may_do(policy, SHOP, "users", "GET", "/shop.Users/GetAll"));
	assert_false(may_do(policy, SHOP, "users", "GET", "/v1"));
	assert_false(may_do(policy, SHOP, "users", "GET", "/v10/"));
	assert_false(may_do(policy, SHOP, "users", "POST", "/v1/a"));
	assert_false(may_do(policy, SHOP, "users", "get", "/v1/a"));
	assert_false(may_do(policy, SHOP, "orders", "GET", "/v1/a"));
	assert_false(may_do(policy, STAGING, "users", "GET", "/v1/a"));
	assert_false(is_hopeless(policy, SHOP));
	mesh__policy_unref(policy);
}

static void deny_of_some_calls_is_not_hopeless(void **state)
{
	struct mesh__policy *policy = parse("{\"rules\": [{\"deny\": [\"" SHOP "\"], \"methods\": [\"DELETE\"]}]}");

	(void)state;
	assert_false(is_hopeless(policy, SHOP));
	assert_true(may_call(policy, SHOP));
	assert_false(may_do(policy, SHOP, "users", "DELETE", "/"));
	mesh__policy_unref(policy);
}

static void peer_without_identity_is_never_allowed(void **state)
{
	struct mesh__policy *policy = parse("{\"rules\": [{\"allow\": [\"*\"]}], \"default\": \"allow\"}");
	struct mesh__policy_question question = { .own_domain = "prod.example", .service = "users", .method = "GET", .path = "/", .path_len = 1 };

	(void)state;
	mesh__policy_decide(policy, &question, &answer);
	assert_false(answer.is_allowed);
	assert_string_equal(answer.rule, "no-identity");
	assert_true(mesh__policy_is_hopeless(policy, NULL, "prod.example", NULL));
	mesh__policy_unref(policy);
}

static void paths_have_a_plain_form(void **state)
{
	static const char *const forms[][2] = {
		{ "/", "/" }, { "//", "/" }, { "/a", "/a" }, { "/a/", "/a/" }, { "//a///b", "/a/b" }, { "/./a", "/a" }, { "/a/.", "/a/" }, { "/a/..", NULL },
		{ "/a/../b", NULL }, { "/..", NULL }, { "/a/b/%2E./c/", NULL }, { "/a/..;x/b", NULL }, { "/a\\..\\b", NULL }, { "/a%2f..", NULL }, { "/a%00", NULL },
		{ "/a/%00/b", NULL }, { "/...", "/..." }, { "/..a", "/..a" }, { "/a..", "/a.." }, { "/a#b", "/a" }, { "/a?b", "/a" }, { "/a?/../b", "/a" },
		{ "/#/a", "/" }, { "/.well-known/x", "/.well-known/x" },
		{ "/%61dmin", "/admin" }, { "/%2e%2E/a", NULL }, { "/%2e/a", "/a" }, { "/a%2fb", "/a/b" }, { "/a%5Cb", "/a/b" }, { "/a\\b", "/a/b" }, { "/%2561", "/%61" },
		{ "/a%", "/a%" }, { "/a%4", "/a%4" }, { "/a%zz", "/a%zz" }, { "/a;v=1/b;x", "/a/b" }, { "/;/a", "/a" }, { "/.;/a", "/a" }, { "*", "*" }, { "", "" },
	};
	char *out;
	size_t len;

	(void)state;
	for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
		len = strlen(forms[i][0]);
		out = malloc(len ? len : 1); /* as large as it must be, for the address sanitizer */
		assert_non_null(out);
		if (!mesh__plain_path_make(forms[i][0], len, false, out, &len))
			assert_null(forms[i][1]);
		else if (!forms[i][1] || len != strlen(forms[i][1]) || memcmp(out, forms[i][1], len) != 0)
			fail_msg("%s became %.*s, not %s", forms[i][0], (int)len, out, forms[i][1] ? forms[i][1] : "doubtful");
		if (mesh__plain_path_is(forms[i][0], strlen(forms[i][0]))) {
			assert_non_null(forms[i][1]);
			assert_string_equal(forms[i][0], forms[i][1]);
		}
		free(out);
	}
}

/* A handler may decode and tidy what it is given: no spelling leads in, or past a rule that keeps out. */
static void another_spelling_changes_nothing(void **state)
{
	static const char *const spellings[] = { "/admin/x", "//admin/x", "/%61dmin/x", "/./admin/x", "/public/../admin/x", "/public/%2e%2e/admin/x", "/admin;v=1/x",
						 "/admin%2fx", "/public/..%2fadmin/x", "/\\admin/x",
						 /* to who resolves dots before decoding, not at all, or stops at a zero byte or a fragment: */
						 "/%61dmin/../z", "/x/../admin/%2e%2e/z", "/admin;/..;/z", "/exact%00", "/exact%00/z", "/exact#z", "/exact?z" /* gRPC */,
						 "/public/.%00./admin" };
	static const char *const good[] = { "/public/x", "/public//x", "/public/a%20b", "/my%20docs/x", "/one;v=2", "/.hidden", "/d/.git" };
	struct mesh__policy *denies = parse("{\"rules\": [{\"deny\": [\"*\"], \"paths\": [\"/admin/*\", \"/exact\"]}]}");
	struct mesh__policy *allows = parse("{\"rules\": [{\"allow\": [\"*\"], \"paths\": [\"/public/*\", \"/my%20docs/*\", \"/one;v=2\", \"/.h*\", \"/d/.*\"]}]}");
	char path[8000];

	(void)state;
	for (size_t i = 0; i < sizeof(spellings) / sizeof(*spellings); i++)
		if (may_do(denies, SHOP, "users", "GET", spellings[i]) || may_do(allows, SHOP, "users", "GET", spellings[i]))
			fail_msg("%s led in", spellings[i]);
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		if (!may_do(denies, SHOP, "users", "GET", good[i]) || !may_do(allows, SHOP, "users", "GET", good[i]))
			fail_msg("%s was kept out", good[i]);
	assert_false(may_do(allows, SHOP, "users", "GET", "/d/./x")); /* it may be read as /d/x */
	assert_false(may_do(allows, SHOP, "users", "GET", "/d/.//x"));
	/* Nor does one that is too long to look at. */
	memset(path, 'x', sizeof(path));
	memcpy(path, "/public/%61/", 12);
	path[sizeof(path) - 1] = '\0';
	assert_false(may_do(denies, SHOP, "users", "GET", path));
	assert_false(may_do(allows, SHOP, "users", "GET", path));
	mesh__policy_unref(denies);
	mesh__policy_unref(allows);
	denies = parse("{\"rules\": [{\"deny\": [\"*\"], \"methods\": [\"DELETE\"]}]}");
	allows = parse("{\"rules\": [{\"allow\": [\"*\"], \"methods\": [\"GET\"]}]}");
	assert_false(may_do(denies, SHOP, "users", "DELETE", "/"));
	assert_false(may_do(denies, SHOP, "users", "delete", "/"));
	assert_true(may_do(denies, SHOP, "users", "DELETED", "/"));
	assert_true(may_do(allows, SHOP, "users", "GET", "/"));
	assert_false(may_do(allows, SHOP, "users", "get", "/"));
	mesh__policy_unref(denies);
	mesh__policy_unref(allows);
}

static void rules_on_trial_decide_nothing_and_are_told(void **state)
{
	struct mesh__policy *policy = parse("{\"rules\": [{\"name\": \"t1\", \"deny\": [\"" SHOP "\"], \"dry_run\": true},"
					    "{\"name\": \"t2\", \"deny\": [\"*\"], \"dry_run\": true}, {\"name\": \"out\", \"deny\": [\"" STAGING "\"]}]}");

	(void)state;
	assert_true(may_call(policy, SHOP));
	assert_int_equal(answer.dry_run_count, 2);
	assert_string_equal(answer.dry_run, "t1");
	assert_string_equal(answer.rule, "default:trust-domain");
	assert_false(is_hopeless(policy, SHOP));
	assert_false(may_call(policy, STAGING)); /* is denied anyway */
	assert_int_equal(answer.dry_run_count, 0);
	assert_string_equal(answer.dry_run, "");
	mesh__policy_unref(policy);

	policy = parse("{\"rules\": [{\"name\": \"in\", \"allow\": [\"*\"]}, {\"name\": \"t\", \"deny\": [\"*\"], \"dry_run\": true}]}");
	assert_true(may_call(policy, SHOP)); /* the allow stands before it */
	assert_int_equal(answer.dry_run_count, 0);
	mesh__policy_unref(policy);
}

static void allow_on_trial_keeps_the_default_and_tells_whom_it_would_leave_out(void **state)
{
	struct mesh__policy *policy = parse("{\"rules\": [{\"allow\": [\"" SHOP "\"], \"dry_run\": true}]}");

	(void)state;
	assert_true(may_call(policy, SHOP));
	assert_int_equal(answer.dry_run_count, 0);
	assert_true(may_call(policy, SHOP "2"));
	assert_int_equal(answer.dry_run_count, 1);
	assert_string_equal(answer.dry_run, "default:deny");
	assert_false(may_call(policy, STAGING));
	mesh__policy_unref(policy);
}

/* --- what is refused --- */

#define ALLOW "\"allow\": [\"*\"]"

static const struct {
	const char *text, *sentence;
} broken[] = {
	{ "", "it is empty" },
	{ "{", "line 1 column 1: " },
	{ "{\n  \"rules\": [\n  {]\n}", "line 3 column 4: " },
	{ "{\"rules\": []} x", "line 1 column 15: end of file expected" },
	{ "{\"rules\": [], \"rules\": []}", "duplicate object key" },
	{ "{\"rules\": [{" ALLOW ", " ALLOW "}]}", "duplicate object key" },
	{ "[]", "it is not a JSON object with \"rules\"" },
	{ "{}", "it has no \"rules\" of type array" },
	{ "{\"rules\": {}}", "it has no \"rules\" of type array" },
	{ "{\"rulse\": []}", "there is no key \"rulse\"; did you mean \"rules\"?" },
	{ "{\"rules\": [], \"comment about all\": 1}", "there is no key \"comment about all\"" },
	{ "{\"rules\": [], \"default\": \"denny\"}", "\"default\" is none of \"trust-domain\", \"deny\" and \"allow\"; did you mean \"deny\"?" },
	{ "{\"rules\": [], \"default\": null}", "\"default\" is none of" },
	{ "{\"rules\": [7]}", "rule 1: it is not an object" },
	{ "{\"rules\": [{}]}", "rule 1: it has neither \"allow\" nor \"deny\"" },
	{ "{\"rules\": [{" ALLOW ", \"deny\": [\"*\"]}]}", "rule 1: it has both \"allow\" and \"deny\"; make it two rules" },
	{ "{\"rules\": [{" ALLOW "}, {\"name\": \"two\", " ALLOW ", \"path\": [\"/\"]}]}", "rule 2 (\"two\"): there is no key \"path\"; did you mean \"paths\"?" },
	{ "{\"rules\": [{\"alow\": [\"*\"]}]}", "rule 1: there is no key \"alow\"; did you mean \"allow\"?" },
	{ "{\"rules\": [{" ALLOW ", \"dry-run\": true}]}", "did you mean \"dry_run\"?" },
	{ "{\"rules\": [{\"name\": 3, " ALLOW "}]}", "rule 1: \"name\" is not a text of 1 to 63" },
	{ "{\"rules\": [{\"name\": \"\", " ALLOW "}]}", "rule 1: \"name\" is not a text of 1 to 63" },
	{ "{\"rules\": [{\"name\": \"a b\", " ALLOW "}]}", "rule 1: \"name\" is not a text of 1 to 63" },
	{ "{\"rules\": [{\"name\": \"default:deny\", " ALLOW "}]}", "rule 1: \"name\" is not a text of 1 to 63" },
	{ "{\"rules\": [{\"name\": \"a\", " ALLOW "}, {\"name\": \"a\", " ALLOW "}]}", "rule 2 (\"a\"): rule 1 is called \"a\", too" },
	{ "{\"rules\": [{\"name\": \"rule-2\", " ALLOW "}, {" ALLOW "}]}", "rule 2: rule 1 is called \"rule-2\", too" },
	{ "{\"rules\": [{\"allow\": []}]}", "rule 1: \"allow\" is not an array of at least one text" },
	{ "{\"rules\": [{\"deny\": \"*\"}]}", "rule 1: \"deny\" is not an array of at least one text" },
	{ "{\"rules\": [{\"deny\": [\"*\", 1]}]}", "rule 1: \"deny\", entry 2 is not a text" },
	{ "{\"rules\": [{\"deny\": [\"\"]}]}", "\"deny\", entry 1, \"\": it is empty" },
	{ "{\"rules\": [{\"deny\": [\"prod.example/*\"]}]}", "it does not begin with spiffe://" },
	{ "{\"rules\": [{\"deny\": [\"spiffe://Prod.example/*\"]}]}", "the trust domain has an upper-case letter" },
	{ "{\"rules\": [{\"deny\": [\"spiffe://a/ns/sh*\"]}]}", "a \"*\" stands alone, or for the whole end" },
	{ "{\"rules\": [{\"deny\": [\"spiffe://*/ns/a\"]}]}", "a \"*\" stands alone, or for the whole end" },
	{ "{\"rules\": [{\"deny\": [\"spiffe://*\"]}]}", "\"spiffe://*\": it names no trust domain" },
	{ "{\"rules\": [{\"deny\": [\"**\"]}]}", "a \"*\" stands alone" },
	{ "{\"rules\": [{\"deny\": [\"/*\"]}]}", "a \"*\" stands alone" },
	{ "{\"rules\": [{\"deny\": [\"spiffe://a//*\"]}]}", "it ends in '/'" },
	{ "{\"rules\": [{\"deny\": [\"spiffe://a/b/\"]}]}", "it ends in '/'" },
	{ "{\"rules\": [{\"deny\": [\"spiffe://a\"]}]}", "its members are spiffe://DOMAIN/*" },
	{ "{\"rules\": [{" ALLOW ", \"service\": \"\"}]}", "\"service\" is not a text of 1 to 255 bytes" },
	{ "{\"rules\": [{" ALLOW ", \"service\": [\"a\"]}]}", "\"service\" is not a text of 1 to 255 bytes" },
	{ "{\"rules\": [{" ALLOW ", \"service\": \"us*\"}]}", "services have no patterns" },
	{ "{\"rules\": [{" ALLOW ", \"service\": \"a b\"}]}", "\"service\", \"a b\": it has a blank" },
	{ "{\"rules\": [{" ALLOW ", \"methods\": [\"get\"]}]}", "methods are written in upper case" },
	{ "{\"rules\": [{" ALLOW ", \"methods\": [\"*\"]}]}", "methods have no patterns" },
	{ "{\"rules\": [{" ALLOW ", \"methods\": [\"GET POST\"]}]}", "it has a character that no method has" },
	{ "{\"rules\": [{" ALLOW ", \"methods\": []}]}", "\"methods\" is not an array of at least one text" },
	{ "{\"rules\": [{" ALLOW ", \"paths\": [\"v1\"]}]}", "a path begins with '/'" },
	{ "{\"rules\": [{" ALLOW ", \"paths\": [\"*\"]}]}", "for all paths, leave \"paths\" out" },
	{ "{\"rules\": [{" ALLOW ", \"paths\": [\"/a/*/b\"]}]}", "a \"*\" stands only at the end of a path" },
	{ "{\"rules\": [{" ALLOW ", \"paths\": [\"/a?b=1\"]}]}", "rules see the path without its query" },
	{ "{\"rules\": [{" ALLOW ", \"paths\": [\"/a\", \"/a/%2e%2E/b\"]}]}", "\"/a/%2e%2E/b\" has a segment \"..\"" },
	{ "{\"rules\": [{" ALLOW ", \"paths\": [\"/a b\"]}]}", "it has a blank" },
	{ "{\"rules\": [{" ALLOW ", \"paths\": [\"/\\u001b[31m\"]}]}", "/\\x1b[31m" },
	{ "{\"rules\": [{" ALLOW ", \"dry_run\": \"yes\"}]}", "\"dry_run\" is neither true nor false" },
};

static void each_broken_policy_is_refused_with_its_sentence(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++) {
		struct mesh_error err = MESH_ERROR_INIT;
		struct mesh__policy *policy = NULL;

		if (mesh__policy_parse(&policy, broken[i].text, strlen(broken[i].text), &err) != MESH_E_CORRUPT || policy)
			fail_msg("not refused: %s", broken[i].text);
		if (!strstr(err.message, broken[i].sentence))
			fail_msg("%s\n  says: %s\n  not:  %s", broken[i].text, err.message, broken[i].sentence);
	}
}

static void too_many_rules_and_too_many_bytes_are_refused(void **state)
{
	size_t room = MESH__POLICY_BYTES_MAX + 2, len = 0;
	char *text = malloc(room);
	struct mesh_error err = MESH_ERROR_INIT;
	struct mesh__policy *policy;

	(void)state;
	len += (size_t)snprintf(text, room, "{\"rules\": [");
	for (int i = 0; i <= MESH__POLICY_RULES_MAX; i++)
		len += (size_t)snprintf(text + len, room - len, "%s{\"deny\": [\"*\"]}", i ? "," : "");
	len += (size_t)snprintf(text + len, room - len, "]}");
	assert_int_equal(mesh__policy_parse(&policy, text, len, &err), MESH_E_CORRUPT);
	assert_string_equal(err.message, "it has 1001 rules, and 1000 are the most");
	memset(text, ' ', room);
	assert_int_equal(mesh__policy_parse(&policy, text, MESH__POLICY_BYTES_MAX + 1, &err), MESH_E_CORRUPT);
	assert_string_equal(err.message, "it is larger than 1 MiB");
	free(text);
}

static void memory_that_runs_out_leaves_nothing_behind(void **state)
{
	static const char text[] = "{\"rules\": [{" ALLOW ", \"service\": \"a\", \"methods\": [\"GET\"], \"paths\": [\"/a\"]}]}";
	struct mesh_error err = MESH_ERROR_INIT;
	struct mesh__policy *policy;
	int rc = MESH_E_NOMEM, failures = 0;

	(void)state;
	for (int nth = 0; rc == MESH_E_NOMEM; nth++) {
		mesh__memory_fail_after(nth);
		rc = mesh__policy_parse(&policy, text, sizeof(text) - 1, &err);
		failures += rc == MESH_E_NOMEM;
	}
	mesh__memory_fail_after(-1);
	assert_int_equal(rc, 0);
	assert_true(failures >= 8);
	mesh__policy_unref(policy);
}

/* --- option allow --- */

static void allow_lists_patterns(void **state)
{
	struct mesh_error err = MESH_ERROR_INIT;
	struct mesh__policy *policy;

	(void)state;
	assert_int_equal(mesh__policy_from_allow(&policy, " spiffe://prod.example/ns/shop/*, " OTHER ",", &err), 0);
	assert_true(may_call(policy, SHOP));
	assert_string_equal(answer.rule, "allow");
	assert_true(may_call(policy, OTHER));
	assert_false(may_call(policy, "spiffe://prod.example/ns/x/sa/y"));
	assert_string_equal(answer.rule, "default:deny");
	mesh__policy_unref(policy);
	assert_int_equal(mesh__policy_from_allow(&policy, "*", &err), 0);
	assert_true(may_call(policy, STAGING));
	mesh__policy_unref(policy);
	assert_int_equal(mesh__policy_from_allow(&policy, SHOP " shop", &err), MESH_E_OPTION);
	assert_string_equal(err.message, "allow: \"shop\": it does not begin with spiffe://");
	assert_int_equal(mesh__policy_from_allow(&policy, " ,", &err), MESH_E_OPTION);
	assert_non_null(strstr(err.message, "it names nobody"));
	assert_null(policy);
}

/* --- the live policy --- */

#define KEEP_OUT(id) "{\"rules\": [{\"name\": \"out\", \"deny\": [\"" id "\"]}]}"

static char dir[64], logged[2048];
static struct mesh__stats *stats;

static void keep_line(int32_t level, const char *line, void *user)
{
	size_t len = strlen(logged);

	(void)level;
	(void)user;
	snprintf(logged + len, sizeof(logged) - len, "%s\n", line);
}

static const struct mesh__log log_lines = { .fn = keep_line, .level = MESH_LOG_DEBUG };

static const char *in_dir(const char *name)
{
	static char paths[4][128];
	static unsigned next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", dir, name);
	return path;
}

static void write_file(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static void replace_file(const char *path, const char *text)
{
	const char *next = in_dir("next");

	write_file(next, text);
	assert_int_equal(rename(next, path), 0);
}

static int make_dir(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/mesh-policy-XXXXXX");
	logged[0] = '\0';
	return !mkdtemp(dir) || mesh__stats_open(&(struct mesh__stats_options){ .service = "t", .is_off = true, .loops = 1 }, &stats, NULL);
}

static int remove_dir(void **state)
{
	static const char *const names[] = { "policy.json", "next", "..data", "..1/policy.json", "..2/policy.json", "..1", "..2", "" };

	(void)state;
	mesh__stats_close(stats);
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		remove(in_dir(names[i]));
	return 0;
}

static int open_live(const char *path, const char *allow, struct mesh__policy_live **live, struct mesh_error *err)
{
	struct mesh__policy_live_options opts = { .path = path, .allow = allow, .stats = stats, .log = &log_lines };

	*err = (struct mesh_error)MESH_ERROR_INIT;
	return mesh__policy_live_open(&opts, live, err);
}

static bool may_now(struct mesh__policy_live *live, const char *peer)
{
	struct mesh__policy *policy = mesh__policy_live_take(live);
	bool may = may_call(policy, peer);

	mesh__policy_unref(policy);
	return may;
}

static uint64_t failures(void)
{
	return mesh__counter_read(mesh__stats_counter(stats, MESH__METRIC_POLICY_FAILURES_TOTAL, &(struct mesh__labels){ 0 }));
}

static bool is_stale(void)
{
	return mesh__counter_read(mesh__stats_counter(stats, MESH__METRIC_POLICY_STALE, &(struct mesh__labels){ 0 })) == 1;
}

static void policy_that_cannot_be_had_opens_nothing(void **state)
{
	struct mesh__policy_live *live;
	struct mesh_error err;

	(void)state;
	assert_int_equal(open_live(in_dir("policy.json"), "*", &live, &err), MESH_E_OPTION);
	assert_non_null(strstr(err.message, "policy and allow are both set"));
	assert_int_equal(open_live(in_dir("policy.json"), "", &live, &err), MESH_E_OPTION);
	assert_non_null(strstr(err.message, "policy.json: No such file or directory"));
	assert_int_equal(open_live("policy.json", "", &live, &err), MESH_E_OPTION);
	assert_int_equal(open_live(dir, "", &live, &err), MESH_E_OPTION);
	assert_non_null(strstr(err.message, "is not a regular file"));
	assert_int_equal(open_live("", "shop", &live, &err), MESH_E_OPTION);
	write_file(in_dir("policy.json"), "{\"rules\":\n[}");
	assert_int_equal(open_live(in_dir("policy.json"), "", &live, &err), MESH_E_CORRUPT);
	assert_non_null(strstr(err.message, "policy.json: line 2 column 2: "));
	assert_int_equal(chmod(in_dir("policy.json"), 0666), 0);
	assert_int_equal(open_live(in_dir("policy.json"), "", &live, &err), MESH_E_NOT_PRIVATE);
	assert_non_null(strstr(err.message, "policy.json has mode 0666"));
	assert_null(live);
}

static void neither_file_nor_patterns_is_the_own_trust_domain(void **state)
{
	struct mesh__policy_live *live;
	struct mesh_error err;

	(void)state;
	assert_int_equal(open_live("", "", &live, &err), 0);
	assert_true(may_now(live, SHOP));
	assert_false(may_now(live, STAGING));
	mesh__policy_live_free(live);
	assert_int_equal(open_live("", STAGING, &live, &err), 0);
	assert_false(may_now(live, SHOP));
	assert_true(may_now(live, STAGING));
	mesh__policy_live_free(live);
}

static void file_that_is_replaced_is_in_force_and_a_broken_one_is_not(void **state)
{
	struct mesh__policy_live *live;
	struct mesh_error err;
	const char *path = "policy.json";

	(void)state;
	write_file(in_dir(path), KEEP_OUT(STAGING));
	assert_int_equal(open_live(in_dir(path), "", &live, &err), 0);
	assert_true(may_now(live, SHOP));
	replace_file(in_dir(path), KEEP_OUT(SHOP));
	mesh__policy_live_look(live, false);
	assert_false(may_now(live, SHOP));
	assert_non_null(strstr(logged, "has changed and is in force"));
	assert_int_equal(mesh__policy_live_generation(live), 1);
	replace_file(in_dir(path), "{\"rules\": [{\"alow\": [\"*\"]}]}");
	mesh__policy_live_look(live, false);
	mesh__policy_live_look(live, false); /* is told once */
	assert_false(may_now(live, SHOP));
	assert_int_equal(failures(), 1);
	assert_true(is_stale());
	assert_non_null(strstr(logged, "rule 1: there is no key \"alow\"; did you mean \"allow\"?; the last good policy stays"));
	remove(in_dir(path));
	mesh__policy_live_look(live, false);
	mesh__policy_live_look(live, false);
	assert_int_equal(failures(), 2);
	assert_false(may_now(live, SHOP));
	replace_file(in_dir(path), KEEP_OUT(STAGING));
	mesh__policy_live_look(live, false);
	assert_true(may_now(live, SHOP));
	assert_int_equal(failures(), 2);
	assert_false(is_stale());
	mesh__policy_live_free(live);
}

/* ConfigMaps: policy.json -> ..data/policy.json, ..data -> ..1, and the latter is replaced. */
static void make_config_map(void)
{
	mkdir(in_dir("..1"), 0700);
	mkdir(in_dir("..2"), 0700);
	write_file(in_dir("..1/policy.json"), KEEP_OUT(STAGING));
	write_file(in_dir("..2/policy.json"), KEEP_OUT(SHOP));
	assert_int_equal(symlink("..1", in_dir("..data")), 0);
	assert_int_equal(symlink("..data/policy.json", in_dir("policy.json")), 0);
}

static void swap_config_map(void)
{
	assert_int_equal(symlink("..2", in_dir("next")), 0);
	assert_int_equal(rename(in_dir("next"), in_dir("..data")), 0);
}

static void end_watch(struct mesh__task *task, struct mesh__loop *lp);

static struct {
	struct mesh__task task;
	struct mesh__policy_live *live;
} ending = { .task.run = end_watch };

static void end_watch(struct mesh__task *task, struct mesh__loop *lp)
{
	(void)task;
	(void)lp;
	mesh__policy_live_stop(ending.live);
}

static void watch_sees_a_swapped_link(void **state)
{
	struct mesh__policy_live_options opts = { .stats = stats, .log = &log_lines };
	struct mesh_error err = MESH_ERROR_INIT;
	uint64_t before;

	(void)state;
	make_config_map();
	opts.path = in_dir("policy.json");
	assert_int_equal(mesh__loop_new(&opts.control, &(struct mesh__loop_options){ .log = &log_lines }), 0);
	assert_int_equal(mesh__loop_start(opts.control), 0);
	assert_int_equal(mesh__policy_live_open(&opts, &ending.live, &err), 0);
	mesh__policy_live_start(ending.live);
	assert_true(may_now(ending.live, SHOP));
	before = mesh__policy_live_generation(ending.live);
	swap_config_map();
	for (int i = 0; i < 10000 && mesh__policy_live_generation(ending.live) == before; i++)
		usleep(1000);
	assert_false(may_now(ending.live, SHOP));
	mesh__loop_stop(opts.control, &ending.task);
	mesh__policy_live_free(ending.live);
	mesh__loop_free(opts.control);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(own_trust_domain_may_call_if_nothing_is_written),
		cmocka_unit_test(staging_may_not_call_production_is_one_line),
		cmocka_unit_test(first_rule_that_matches_decides),
		cmocka_unit_test(default_is_deny_as_soon_as_somebody_is_allowed),
		cmocka_unit_test(service_methods_and_paths_all_have_to_match),
		cmocka_unit_test(deny_of_some_calls_is_not_hopeless),
		cmocka_unit_test(peer_without_identity_is_never_allowed),
		cmocka_unit_test(paths_have_a_plain_form),
		cmocka_unit_test(another_spelling_changes_nothing),
		cmocka_unit_test(rules_on_trial_decide_nothing_and_are_told),
		cmocka_unit_test(allow_on_trial_keeps_the_default_and_tells_whom_it_would_leave_out),
		cmocka_unit_test(each_broken_policy_is_refused_with_its_sentence),
		cmocka_unit_test(too_many_rules_and_too_many_bytes_are_refused),
		cmocka_unit_test(memory_that_runs_out_leaves_nothing_behind),
		cmocka_unit_test(allow_lists_patterns),
		cmocka_unit_test_setup_teardown(policy_that_cannot_be_had_opens_nothing, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(neither_file_nor_patterns_is_the_own_trust_domain, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(file_that_is_replaced_is_in_force_and_a_broken_one_is_not, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(watch_sees_a_swapped_link, make_dir, remove_dir),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
