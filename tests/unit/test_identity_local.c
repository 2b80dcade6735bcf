/* identity local: what it delivers, with a stand-in for identity.c: this program's own mesh__identity_deliver() and _failed(). */
#include "identity/source.h"

#include "../lib/mesh_test.h"
#include "config/config.h"

static struct mesh__credentials *newest;
static int deliveries, failures;
static char failure[512];

void mesh__identity_deliver(struct mesh__identity_source *source, struct mesh__credentials *credentials)
{
	(void)source;
	mesh__credentials_unref(newest);
	newest = credentials;
	deliveries++;
}

void mesh__identity_failed(struct mesh__identity_source *source, const char *reason, const char *why)
{
	(void)source;
	assert_string_equal(reason, "authority");
	snprintf(failure, sizeof(failure), "%s", why);
	failures++;
}

static struct mesh__config *cfg;
static struct mesh__identity_options opts;
static struct mesh__identity_source source;
static const struct mesh__log silent = { NULL, NULL, MESH_LOG_OFF };
static char home[128], state_dir[128], xdg[128];

/* `home` and the others name places in the test's own directory, which every test has anew. */
static void name_places(void)
{
	snprintf(home, sizeof(home), "HOME=%s", test_dir);
	snprintf(state_dir, sizeof(state_dir), "MESH_STATE_DIR=%s/given", test_dir);
	snprintf(xdg, sizeof(xdg), "XDG_STATE_HOME=%s/xdg", test_dir);
}

static int begin(void **state)
{
	if (make_test_dir(state))
		return -1;
	name_places();
	newest = NULL;
	deliveries = failures = 0;
	return 0;
}

static int end(void **state)
{
	mesh__credentials_unref(newest);
	mesh__config_free(cfg);
	newest = NULL;
	cfg = NULL;
	return remove_test_dir(state);
}

static int open_with(const char *first, const char *second, struct mesh_error *err)
{
	const char *environment[] = { first, second, NULL };

	mesh__config_free(cfg);
	cfg = NULL;
	assert_int_equal(mesh__config_new(&cfg, environment, NULL, 0, NULL, &silent, err), 0);
	opts = (struct mesh__identity_options){ .config = cfg, .log = &silent, .service = "shop" };
	source = (struct mesh__identity_source){ .ops = &mesh__identity_local, .opts = &opts };
	return mesh__identity_local.open(&source, "", err);
}

static void assert_exists(const char *below)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", test_dir, below);
	if (access(path, F_OK))
		fail_msg("%s is missing", path);
}

static void the_state_directory_is_where_it_should_be(void **state)
{
	struct mesh_error err = MESH_ERROR_INIT;

	(void)state;
	assert_int_equal(open_with(home, NULL, &err), 0);
	mesh__identity_local.close(&source);
	assert_exists(".local/state/mesh/ca/ca.crt");
	assert_int_equal(open_with(home, xdg, &err), 0);
	mesh__identity_local.close(&source);
	assert_exists("xdg/mesh/ca/ca.crt");
	assert_int_equal(open_with(xdg, state_dir, &err), 0);
	mesh__identity_local.close(&source);
	assert_exists("given/ca/ca.crt");
}

static void a_place_that_cannot_be_had_is_named_with_the_way_out(void **state)
{
	struct mesh_error err = MESH_ERROR_INIT;
	char path[256], setting[300];
	FILE *file;

	(void)state;
	snprintf(path, sizeof(path), "%s/file", test_dir);
	file = fopen(path, "w");
	assert_non_null(file);
	fclose(file);
	snprintf(setting, sizeof(setting), "MESH_STATE_DIR=%s/below", path);
	assert_int_equal(open_with(home, setting, &err), MESH_E_SYSTEM);
	assert_non_null(strstr(err.message, path));
	assert_non_null(strstr(err.message, "MESH_STATE_DIR names another"));
}

static void each_name_gets_a_certificate_and_renewal_makes_all_anew(void **state)
{
	struct mesh_error err = MESH_ERROR_INIT;
	char serial[MESH__SERIAL_TEXT_MAX], name[32];

	(void)state;
	assert_int_equal(open_with(home, NULL, &err), 0);
	assert_int_equal(deliveries, 1);
	assert_int_equal(newest->svid_count, 1);
	assert_string_equal(newest->svids[0]->facts.id.text, "spiffe://mesh.local/ns/default/sa/shop");
	assert_non_null(mesh__credentials_bundle(newest, "mesh.local", 10));
	assert_int_equal(mesh__identity_local.add_service(&source, "users", &err), 0);
	assert_int_equal(mesh__identity_local.add_service(&source, "users", &err), 0);
	assert_int_equal(deliveries, 2);
	assert_int_equal(newest->svid_count, 2);
	assert_string_equal(newest->svids[1]->facts.id.text, "spiffe://mesh.local/ns/default/sa/users");
	memcpy(serial, newest->svids[1]->facts.serial, sizeof(serial));
	mesh__identity_local.renew(&source);
	assert_int_equal(deliveries, 3);
	assert_int_equal(newest->svid_count, 2);
	assert_string_not_equal(newest->svids[1]->facts.serial, serial);
	/* A name that can have no identity is refused, and stands in nobody's way. */
	assert_int_equal(mesh__identity_local.add_service(&source, "no/name here", &err), MESH_E_OPTION);
	mesh__identity_local.renew(&source);
	assert_int_equal(deliveries, 4);
	for (int i = 2; i < MESH__SVIDS_MAX; i++) {
		snprintf(name, sizeof(name), "service-%d", i);
		assert_int_equal(mesh__identity_local.add_service(&source, name, &err), 0);
	}
	assert_int_equal(mesh__identity_local.add_service(&source, "one-more", &err), MESH_E_STATE);
	mesh__identity_local.close(&source);
}

static void renewal_looks_again_at_what_is_on_disk(void **state)
{
	struct mesh_error err = MESH_ERROR_INIT;
	char path[256];

	(void)state;
	assert_int_equal(open_with(home, NULL, &err), 0);
	snprintf(path, sizeof(path), "%s/.local/state/mesh/ca/ca.key", test_dir);
	assert_int_equal(chmod(path, 0644), 0);
	mesh__identity_local.renew(&source);
	assert_int_equal(deliveries, 1);
	assert_int_equal(failures, 1);
	assert_non_null(strstr(failure, "mode 0644"));
	/* Gone altogether: what is in memory goes on. */
	snprintf(path, sizeof(path), "%s/.local", test_dir);
	remove_tree(path);
	mesh__identity_local.renew(&source);
	assert_int_equal(deliveries, 2);
	assert_int_equal(failures, 1);
	mesh__identity_local.close(&source);
}

static void another_trust_domain_is_refused(void **state)
{
	struct mesh_error err = MESH_ERROR_INIT;

	(void)state;
	assert_int_equal(open_with(home, "MESH_TRUST_DOMAIN=prod.example", &err), 0);
	mesh__identity_local.close(&source);
	assert_int_equal(open_with(home, NULL, &err), MESH_E_STATE);
	assert_non_null(strstr(err.message, "MESH_TRUST_DOMAIN=prod.example"));
	assert_null(source.data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_state_directory_is_where_it_should_be, begin, end),
		cmocka_unit_test_setup_teardown(a_place_that_cannot_be_had_is_named_with_the_way_out, begin, end),
		cmocka_unit_test_setup_teardown(each_name_gets_a_certificate_and_renewal_makes_all_anew, begin, end),
		cmocka_unit_test_setup_teardown(renewal_looks_again_at_what_is_on_disk, begin, end),
		cmocka_unit_test_setup_teardown(another_trust_domain_is_refused, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
