#include "config/config.h"

#include "base/clock.h"
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

static char logged[4096];

static void keep_line(int32_t level, const char *line, void *user)
{
	size_t len = strlen(logged);

	(void)level;
	(void)user;
	snprintf(logged + len, sizeof(logged) - len, "%s\n", line);
}

static const struct mesh__log log_lines = { .fn = keep_line, .level = MESH_LOG_DEBUG };

static struct mesh__config *read_options(const char *const *environment)
{
	struct mesh__config *cfg = NULL;
	struct mesh_error err = MESH_ERROR_INIT;

	logged[0] = '\0';
	if (mesh__config_new(&cfg, environment, NULL, 0, NULL, &log_lines, &err))
		fail_msg("%s", err.message);
	return cfg;
}

#define READ(...) read_options((const char *const[]){ __VA_ARGS__ __VA_OPT__(,) NULL })

/* The sentence with which the environment is refused. */
static const char *refusal(const char *const *environment)
{
	static struct mesh_error err;
	struct mesh__config *cfg = NULL;

	err = (struct mesh_error)MESH_ERROR_INIT;
	logged[0] = '\0';
	assert_int_equal(mesh__config_new(&cfg, environment, NULL, 0, NULL, &log_lines, &err), MESH_E_OPTION);
	assert_null(cfg);
	return err.message;
}

#define REFUSAL(...) refusal((const char *const[]){ __VA_ARGS__ __VA_OPT__(,) NULL })

static char file_path[64];

static void write_file(const char *text)
{
	FILE *file = fopen(file_path, "w");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static int make_file(void **state)
{
	int fd;

	(void)state;
	strcpy(file_path, "/tmp/mesh-config-XXXXXX");
	fd = mkstemp(file_path);
	return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
	(void)state;
	return unlink(file_path);
}

static void everything_has_a_default(void **state)
{
	struct mesh__config *cfg = READ("PATH=/bin", "XDG_RUNTIME_DIR=/run/user/7");

	(void)state;
	assert_int_equal(mesh__config_ns(cfg, MESH__OPTION_TIMEOUT, NULL), 5 * MESH__NS_PER_SEC);
	assert_string_equal(mesh__config_text(cfg, MESH__OPTION_DISCOVERY, "users"), "local:");
	assert_string_equal(mesh__config_runtime_dir(cfg), "/run/user/7/mesh");
	assert_int_equal(mesh__config_warning_count(cfg), 0);
	mesh__config_free(cfg);
}

static void api_wins_over_environment_over_file_over_default(void **state)
{
	const struct mesh_setting settings[] = { { "timeout", "3s" } };
	const char *environment[4] = { "MESH_TIMEOUT=2s", "MESH_ATTEMPTS=2", NULL, NULL };
	struct mesh__config *cfg = NULL;
	char config[96];

	(void)state;
	write_file("timeout = 1s\nattempts = 1\nconnections = 4\n");
	snprintf(config, sizeof(config), "MESH_CONFIG=%s", file_path);
	environment[2] = config;
	assert_int_equal(mesh__config_new(&cfg, environment, settings, 1, NULL, NULL, NULL), 0);
	assert_int_equal(mesh__config_ns(cfg, MESH__OPTION_TIMEOUT, NULL), 3 * MESH__NS_PER_SEC);
	assert_int_equal(mesh__config_count(cfg, MESH__OPTION_ATTEMPTS, NULL), 2);
	assert_int_equal(mesh__config_count(cfg, MESH__OPTION_CONNECTIONS, NULL), 4);
	mesh__config_free(cfg);
}

static void one_service_can_have_its_own_value(void **state)
{
	struct mesh__config *cfg = READ("MESH_TIMEOUT=1s", "MESH_TIMEOUT__USERS_EU_1=250ms");

	(void)state;
	assert_int_equal(mesh__config_ns(cfg, MESH__OPTION_TIMEOUT, "users.eu-1"), 250 * MESH__NS_PER_MS);
	assert_int_equal(mesh__config_ns(cfg, MESH__OPTION_TIMEOUT, "users"), MESH__NS_PER_SEC);
	assert_int_equal(atomic_load(&mesh__config_service(cfg, "users.eu-1")->timeout_ns), 250 * MESH__NS_PER_MS);
	mesh__config_free(cfg);
}

static void sections_of_a_file_are_for_one_service(void **state)
{
	struct mesh__config *cfg;
	char config[96];

	(void)state;
	write_file("# remark\n\n  timeout = 1s  \r\n[users]\ntimeout=2s\n[orders]\ntimeout=3s\ntimeout@stock=4s");
	snprintf(config, sizeof(config), "MESH_CONFIG=%s", file_path);
	cfg = READ(config);
	assert_int_equal(mesh__config_ns(cfg, MESH__OPTION_TIMEOUT, NULL), MESH__NS_PER_SEC);
	assert_int_equal(mesh__config_ns(cfg, MESH__OPTION_TIMEOUT, "users"), 2 * MESH__NS_PER_SEC);
	assert_int_equal(mesh__config_ns(cfg, MESH__OPTION_TIMEOUT, "orders"), 3 * MESH__NS_PER_SEC);
	assert_int_equal(mesh__config_ns(cfg, MESH__OPTION_TIMEOUT, "stock"), 4 * MESH__NS_PER_SEC);
	mesh__config_free(cfg);
}

static void every_problem_is_reported_at_once(void **state)
{
	const char *said = REFUSAL("MESH_TIMEOUT=fast", "MESH_ATTEMPTS=99", "MESH_STATS=disk", "MESH_LOOPS__USERS=2");

	(void)state;
	assert_non_null(strstr(said, "MESH_TIMEOUT"));
	assert_non_null(strstr(said, "\"99\" is out of range (allowed: 1..10)"));
	assert_non_null(strstr(said, "shm|off"));
	assert_non_null(strstr(logged, "MESH_LOOPS__USERS: option loops cannot be set for one service"));
}

static void texts_with_a_form_are_checked_like_numbers(void **state)
{
	const char *said = REFUSAL("MESH_LISTEN=here", "MESH_ADVERTISE=me", "MESH_STATS_DIR=counters", "MESH_RUNTIME_DIR=./run");

	(void)state;
	assert_non_null(strstr(said, "listen = \"here\": expected IP:PORT, or [IPv6]:PORT (allowed: IP:PORT)"));
	assert_non_null(strstr(logged, "advertise = \"me\""));
	assert_non_null(strstr(logged, "stats.dir = \"counters\": it is no absolute path"));
	assert_non_null(strstr(logged, "runtime.dir = \"./run\": it is no absolute path"));
	mesh__config_free(READ("MESH_LISTEN=[::1]:80", "MESH_ADVERTISE=::1", "MESH_STATS_DIR=/dev/shm/x"));
	mesh__config_free(READ("MESH_LISTEN=0.0.0.0:0", "MESH_ADVERTISE=[fe80::1]"));
	mesh__config_free(READ("MESH_ADVERTISE=10.0.0.1"));
}

/* Even when there are more than fit: the log has them all, the sentence says how many more. */
static void more_problems_than_fit_are_counted(void **state)
{
	char storage[64][40];
	const char *environment[65] = { NULL };
	const char *said;

	(void)state;
	for (int i = 0; i < 64; i++) {
		snprintf(storage[i], sizeof(storage[i]), "MESH_TIMEOUT__SERVICE_%d=never", i);
		environment[i] = storage[i];
	}
	said = refusal(environment);
	assert_non_null(strstr(said, "; and "));
	assert_non_null(strstr(said, " more"));
	assert_true(strlen(said) < 512);
}

static void unknown_names_are_warnings_with_the_nearest_known(void **state)
{
	struct mesh__config *cfg = READ("MESH_TIMEUOT=1s", "MESH_ZZZZZZZZZ=1", "MESHED=1", "MESH_EMPTY=");

	(void)state;
	assert_int_equal(mesh__config_warning_count(cfg), 2);
	assert_non_null(strstr(logged, "MESH_TIMEUOT is not an option of this version; did you mean MESH_TIMEOUT?"));
	assert_non_null(strstr(logged, "MESH_ZZZZZZZZZ is not an option of this version\n"));
	mesh__config_free(cfg);
}

static void an_empty_variable_counts_as_unset(void **state)
{
	struct mesh__config *cfg = READ("MESH_TIMEOUT=", "MESH_CONFIG=");

	(void)state;
	assert_int_equal(mesh__config_ns(cfg, MESH__OPTION_TIMEOUT, NULL), 5 * MESH__NS_PER_SEC);
	mesh__config_free(cfg);
}

static void an_unknown_name_from_the_program_is_an_error(void **state)
{
	const struct mesh_setting settings[] = { { "retry.bugdet", "20%" }, { "atempts", "2" }, { NULL, "x" } };
	struct mesh_error err = MESH_ERROR_INIT;
	struct mesh__config *cfg = NULL;
	const char *none[] = { NULL };

	(void)state;
	assert_int_equal(mesh__config_new(&cfg, none, settings, 3, NULL, NULL, &err), MESH_E_OPTION);
	assert_non_null(strstr(err.message, "did you mean attempts?"));
	assert_non_null(strstr(err.message, "setting 2 has no name"));
}

static void broken_files_name_the_line(void **state)
{
	char config[96];

	(void)state;
	snprintf(config, sizeof(config), "MESH_CONFIG=%s", file_path);
	write_file("timeout = 1s\nwhat is this\n");
	assert_non_null(strstr(REFUSAL(config), ":2: expected NAME = VALUE"));
	write_file("[users\n");
	assert_non_null(strstr(REFUSAL(config), ":1: a section is [SERVICE]"));
	write_file("\n\ntimeout = 1y\n");
	assert_non_null(strstr(REFUSAL(config), ":3: timeout = \"1y\""));
	write_file("config = other\n");
	assert_non_null(strstr(REFUSAL(config), "can only come from the environment"));
	assert_non_null(strstr(REFUSAL("MESH_CONFIG=/nowhere/mesh.conf"), "cannot open /nowhere/mesh.conf"));
	assert_non_null(strstr(REFUSAL("MESH_CONFIG=/dev/zero"), "is not a file of at most 1 MiB"));
	assert_int_equal(unlink(file_path), 0);
	assert_int_equal(mkfifo(file_path, 0600), 0);
	assert_non_null(strstr(REFUSAL(config), "is not a file of at most 1 MiB")); /* and does not wait for a writer */
}

static void live_options_change_and_others_do_not(void **state)
{
	struct mesh__config *cfg = READ("PATH=/bin");
	const struct mesh__service_config *users = mesh__config_service(cfg, "users"), *stock = mesh__config_service(cfg, "stock");
	struct mesh_error err = MESH_ERROR_INIT;

	(void)state;
	assert_int_equal(mesh__config_set(cfg, "timeout@users", "70ms", &err), 0);
	assert_int_equal(atomic_load(&users->timeout_ns), 70 * MESH__NS_PER_MS);
	assert_int_equal(atomic_load(&stock->timeout_ns), 5 * MESH__NS_PER_SEC);
	assert_int_equal(mesh__config_set(cfg, "timeout", "80ms", &err), 0);
	assert_int_equal(atomic_load(&users->timeout_ns), 70 * MESH__NS_PER_MS);
	assert_int_equal(atomic_load(&stock->timeout_ns), 80 * MESH__NS_PER_MS);
	assert_int_equal(mesh__config_set(cfg, "loops", "2", &err), MESH_E_OPTION);
	assert_non_null(strstr(err.message, "cannot change while the mesh is open"));
	assert_int_equal(mesh__config_set(cfg, "timeout", "0", &err), MESH_E_OPTION);
	assert_int_equal(atomic_load(&stock->timeout_ns), 80 * MESH__NS_PER_MS);
	assert_int_equal(mesh__config_set(cfg, "tiemout", "1s", &err), MESH_E_OPTION);
	assert_non_null(strstr(err.message, "did you mean timeout?"));
	mesh__config_free(cfg);
}

static uint32_t listed;

static void check_row(const struct mesh_option_info *info, void *user)
{
	char value[256];

	listed++;
	assert_non_null(info->help);
	assert_true(strlen(info->source) > 0);
	assert_true(mesh__config_get(user, info->name, *info->service ? info->service : NULL, value, sizeof(value)) >= 0);
	assert_string_equal(value, info->value);
	/* The default of each option is one that its own parser takes. */
	if (!strcmp(info->name, "timeout") && *info->service)
		assert_string_equal(info->source, "environment MESH_TIMEOUT__USERS");
}

static void the_list_shows_every_option_once_with_its_source(void **state)
{
	struct mesh__config *cfg = READ("MESH_TIMEOUT__USERS=1s");

	(void)state;
	listed = 0;
	mesh__config_list(cfg, check_row, cfg);
	assert_int_equal(listed, MESH__OPTION_COUNT + 1);
	mesh__config_free(cfg);
}

static void setting_an_option_for_ever_takes_no_memory(void **state)
{
	struct mesh__config *cfg = READ("PATH=/bin");
	char value[32], got[32];

	(void)state;
	assert_int_equal(mesh__config_set(cfg, "timeout@users", "70ms", NULL), 0);
	mesh__memory_fail_after(0);
	for (int i = 1; i < 1000; i++) {
		snprintf(value, sizeof(value), "%dms", i);
		assert_int_equal(mesh__config_set(cfg, "timeout@users", value, NULL), 0);
	}
	mesh__memory_fail_after(-1);
	assert_true(mesh__config_get(cfg, "timeout@users", NULL, got, sizeof(got)) > 0);
	assert_string_equal(got, "999ms");
	mesh__config_free(cfg);
}

static void running_out_of_memory_is_an_ordinary_error(void **state)
{
	const char *environment[] = { "MESH_TIMEOUT=1s", "MESH_TIMEOUT__USERS=2s", NULL };
	struct mesh__config *cfg = NULL;
	int rc = MESH_E_NOMEM;

	(void)state;
	for (int nth = 0; rc == MESH_E_NOMEM; nth++) {
		mesh__memory_fail_after(nth);
		rc = mesh__config_new(&cfg, environment, NULL, 0, NULL, NULL, NULL);
		mesh__memory_fail_after(-1);
		assert_true(nth < 1000);
	}
	assert_int_equal(rc, 0);
	mesh__config_free(cfg);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everything_has_a_default),
		cmocka_unit_test_setup_teardown(api_wins_over_environment_over_file_over_default, make_file, remove_file),
		cmocka_unit_test(one_service_can_have_its_own_value),
		cmocka_unit_test_setup_teardown(sections_of_a_file_are_for_one_service, make_file, remove_file),
		cmocka_unit_test(every_problem_is_reported_at_once),
		cmocka_unit_test(texts_with_a_form_are_checked_like_numbers),
		cmocka_unit_test(more_problems_than_fit_are_counted),
		cmocka_unit_test(unknown_names_are_warnings_with_the_nearest_known),
		cmocka_unit_test(an_empty_variable_counts_as_unset),
		cmocka_unit_test(an_unknown_name_from_the_program_is_an_error),
		cmocka_unit_test_setup_teardown(broken_files_name_the_line, make_file, remove_file),
		cmocka_unit_test(live_options_change_and_others_do_not),
		cmocka_unit_test(the_list_shows_every_option_once_with_its_source),
		cmocka_unit_test(setting_an_option_for_ever_takes_no_memory),
		cmocka_unit_test(running_out_of_memory_is_an_ordinary_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
