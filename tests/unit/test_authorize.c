#include "serve/serve.h"

#include "base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static mesh_server *server;
static struct mesh__loop loop; /* only its clock */
static struct mesh__log quiet;
static struct mesh__spiffe_id peer;

static int open_server(void **state)
{
	const char *why, id[] = "spiffe://prod.example/ns/shop/sa/cart";

	(void)state;
	server = mesh__memory_zalloc(sizeof(*server) + sizeof(server->loops[0]));
	server->opts.loop_count = 1;
	server->opts.log = &quiet;
	server->loops[0].server = server;
	server->loops[0].lp = &loop;
	strcpy(server->service, "users");
	return mesh__spiffe_id_parse(&peer, id, sizeof(id) - 1, &why) ||
	       mesh__stats_open(&(struct mesh__stats_options){ .service = "users", .is_off = true, .loops = 1 }, &server->opts.stats, NULL) ||
	       mesh__policy_live_open(&(struct mesh__policy_live_options){ .stats = server->opts.stats }, &server->policy, NULL);
}

static int close_server(void **state)
{
	(void)state;
	mesh__policy_unref(server->loops[0].policy);
	mesh__policy_live_free(server->policy);
	mesh__stats_close(server->opts.stats);
	mesh__memory_free(server);
	return 0;
}

/* The request has been answered already, so that nothing is sent. */
static bool ask(const struct mesh__spiffe_id *peer_id, const char *own_domain)
{
	struct mesh_request request = { .server = server, .sl = &server->loops[0], .peer_id = peer_id, .own_domain = own_domain, .is_answered = true };
	bool may = mesh__authorize(&request, "GET", 3, "/a?b", 4);

	assert_int_equal(request.is_rejected, !may);
	return may;
}

static uint64_t denied(const char *rule)
{
	struct mesh__labels labels = { .service = "users", .reason = rule };

	return mesh__counter_read(mesh__stats_counter(server->opts.stats, MESH__METRIC_AUTHORIZATION_DENIED_TOTAL, &labels));
}

static void verified_peers_are_judged_and_counted(void **state)
{
	(void)state;
	assert_true(ask(&peer, "prod.example"));
	assert_int_equal(denied("default:trust-domain"), 0);
	assert_false(ask(&peer, "staging.example"));
	assert_false(ask(&peer, NULL));
	assert_int_equal(denied("default:trust-domain"), 2);
}

static void plain_text_is_not_judged(void **state)
{
	(void)state;
	assert_true(ask(NULL, NULL));
}

static void without_a_policy_nobody_may(void **state)
{
	(void)state;
	mesh__policy_live_free(server->policy);
	server->policy = NULL;
	assert_false(ask(&peer, "prod.example"));
	assert_int_equal(denied("no-policy"), 1);
}

static void write_rules(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static void a_changed_policy_holds_from_the_next_request_on(void **state)
{
	char path[] = "/tmp/mesh-authorize-XXXXXX";
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	write_rules(path, "{ \"rules\": [ { \"name\": \"first\", \"deny\": [\"*\"] } ] }");
	mesh__policy_live_free(server->policy);
	assert_int_equal(mesh__policy_live_open(&(struct mesh__policy_live_options){ .path = path, .stats = server->opts.stats }, &server->policy, NULL), 0);
	assert_false(ask(&peer, "prod.example"));
	assert_int_equal(denied("first"), 1);
	write_rules(path, "{ \"rules\": [ { \"name\": \"second\", \"allow\": [\"*\"] } ] }");
	mesh__policy_live_look(server->policy, true);
	assert_true(ask(&peer, "prod.example"));
	assert_int_equal(denied("first"), 1);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(verified_peers_are_judged_and_counted, open_server, close_server),
		cmocka_unit_test_setup_teardown(plain_text_is_not_judged, open_server, close_server),
		cmocka_unit_test_setup_teardown(without_a_policy_nobody_may, open_server, close_server),
		cmocka_unit_test_setup_teardown(a_changed_policy_holds_from_the_next_request_on, open_server, close_server),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
