/* mesh config: every option, its value, and where the value comes from. */
#include "command.h"
#include "output.h"
#include "session.h"

#include "mesh/options.h"

#include <ctype.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

enum { OPTIONS_MAX = 255 };

struct config_args {
	bool is_json, is_changed, is_long;
};

static const struct arg args[] = {
	{ "json", 0, ARG_FLAG, offsetof(struct config_args, is_json), NULL, "print as JSON", 0, 0 },
	{ "changed", 'c', ARG_FLAG, offsetof(struct config_args, is_changed), NULL, "only options that are not at their default", 0, 0 },
	{ "long", 'l', ARG_FLAG, offsetof(struct config_args, is_long), NULL, "also the range and what the option does", 0, 0 },
	{ 0 },
};

/* What mesh_open() logs, as it comes. It runs in one thread while the options are read; later lines are not wanted. */
struct warnings {
	json_t *lines, *problems;
	bool is_closed;
};

struct listing {
	const struct config_args *args;
	char **patterns;
	bool *is_known; /* for each pattern, whether it is one of an option */
	struct table *table;
	json_t *rows;
	const char *names[OPTIONS_MAX + 1]; /* of all options; the library's */
	size_t name_count;
};

static void on_log(int32_t level, const char *line, void *user)
{
	static const char subject[] = "options: ";
	struct warnings *warnings = user;

	if (level > MESH_LOG_WARN || warnings->is_closed)
		return;
	if (strncmp(line, subject, strlen(subject)) == 0)
		line += strlen(subject);
	json_array_append_new(level == MESH_LOG_WARN ? warnings->lines : warnings->problems, json_text(line, strlen(line)));
}

static bool matches(const char *pattern, const struct mesh_option_info *info)
{
	return fnmatch(pattern, info->name, 0) == 0 || strcmp(pattern, info->environment) == 0;
}

static bool is_wanted(const struct listing *listing, const struct mesh_option_info *info)
{
	if (listing->args->is_changed && strcmp(info->source, "default") == 0)
		return false;
	if (!*listing->patterns)
		return true;
	for (char **pattern = listing->patterns; *pattern; pattern++) {
		if (matches(*pattern, info))
			return true;
	}
	return false;
}

/* The variable that sets it: for one service MESH_TIMEOUT__USERS. */
static const char *variable(const struct mesh_option_info *info, char *text, size_t capacity)
{
	snprintf(text, capacity, "%s%s%s", info->environment, *info->service ? "__" : "", info->service);
	for (char *c = text; *c; c++)
		*c = (char)toupper((unsigned char)*c);
	return text;
}

static json_t *option_json(const struct mesh_option_info *info)
{
	json_t *row = json_object();
	char text[320];

	variable(info, text, sizeof(text));
	json_object_set_new(row, "name", json_string(info->name));
	json_object_set_new(row, "service", json_text(info->service, strlen(info->service)));
	json_object_set_new(row, "value", json_text(info->value, strlen(info->value)));
	json_object_set_new(row, "default", json_string(info->default_value));
	json_object_set_new(row, "source", json_text(info->source, strlen(info->source)));
	json_object_set_new(row, "environment", json_text(text, strlen(text)));
	json_object_set_new(row, "type", json_string(info->type));
	json_object_set_new(row, "range", json_string(info->range));
	json_object_set_new(row, "is_live", json_boolean(info->is_live));
	json_object_set_new(row, "is_service", json_boolean(info->is_service));
	json_object_set_new(row, "help", json_string(info->help));
	return row;
}

static void on_option(const struct mesh_option_info *info, void *user)
{
	struct listing *listing = user;
	bool is_default = strcmp(info->source, "default") == 0;
	char text[320];

	if (!*info->service && listing->name_count < OPTIONS_MAX)
		listing->names[listing->name_count++] = info->name;
	for (size_t i = 0; listing->patterns[i]; i++)
		listing->is_known[i] = listing->is_known[i] || matches(listing->patterns[i], info);
	if (!is_wanted(listing, info))
		return;
	if (listing->rows) {
		json_array_append_new(listing->rows, option_json(info));
		return;
	}
	table_addf(listing->table, BOLD, "%s%s%s", info->name, *info->service ? "@" : "", info->service);
	table_add(listing->table, is_default ? PLAIN : GREEN, *info->value ? info->value : "\"\"");
	table_add(listing->table, is_default ? DIM : GREEN, info->source);
	table_add(listing->table, PLAIN, variable(info, text, sizeof(text)));
	if (listing->args->is_long) {
		table_add(listing->table, PLAIN, info->range);
		table_addf(listing->table, PLAIN, "%s%s", info->help, info->is_live ? "" : " (Fixed while a mesh is open.)");
	}
}

static void print_warnings(const struct warnings *warnings)
{
	size_t i;
	json_t *line;

	json_array_foreach(warnings->lines, i, line)
		complain("warning: %s", json_string_value(line));
}

/* The log has every problem, the sentence of the error only those that fit. */
static void print_problems(const struct warnings *warnings, const struct mesh_error *err)
{
	size_t i;
	json_t *line;

	json_array_foreach(warnings->problems, i, line)
		complain("%s", json_string_value(line));
	if (json_array_size(warnings->problems) == 0)
		session_complain(err);
}

static int complain_about_patterns(const struct listing *listing)
{
	int status = EXIT_DONE;

	for (size_t i = 0; listing->patterns[i]; i++) {
		if (listing->is_known[i])
			continue;
		const char *nearest = args_nearest(listing->patterns[i], listing->names);
		complain("no such option: %s: %s%s%s", listing->patterns[i], nearest ? "did you mean " : "`mesh config` lists all", nearest ? nearest : "",
			 nearest ? "?" : "");
		status = EXIT_FAILED;
	}
	return status;
}

static int print_listing(mesh *m, struct listing *listing, struct warnings *warnings)
{
	static const struct table_column columns[] = { { "OPTION", false, 0 },	    { "VALUE", false, 0 }, { "FROM", false, 0 },
						       { "ENVIRONMENT", false, 1 }, { "RANGE", false, 0 }, { "WHAT IT DOES", false, 0 } };
	int status = EXIT_DONE;

	if (listing->args->is_json)
		listing->rows = json_array();
	else
		listing->table = table_new(columns, listing->args->is_long ? 6 : 4);
	if (!listing->rows && !listing->table) {
		complain("out of memory");
		return EXIT_FAILED;
	}
	mesh_options_list(m, on_option, listing);
	if (listing->rows) {
		status = print_json(json_pack("{s:o, s:O}", "options", listing->rows, "warnings", warnings->lines));
		return status ? status : complain_about_patterns(listing);
	}
	print_warnings(warnings);
	status = complain_about_patterns(listing);
	if (table_rows(listing->table) > 0)
		table_print(listing->table, stdout);
	else if (status == EXIT_DONE)
		printf("%s at its default.\n", *listing->patterns ? "That is" : "Every option is");
	table_free(listing->table);
	return status;
}

static int run(const struct command *cmd, int argc, char **argv)
{
	struct config_args given = { 0 };
	struct warnings warnings = { json_array(), json_array(), false };
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	mesh *m = NULL;
	int first, status = EXIT_USAGE;
	enum args_result result = args_parse(cmd, argc, argv, &given, &first);

	if (result != ARGS_GO) {
		status = result == ARGS_DONE ? EXIT_DONE : EXIT_USAGE;
		goto out;
	}
	opts.log = on_log;
	opts.log_user = &warnings;
	if (mesh_open(&opts, &m, &err) == 0) {
		warnings.is_closed = true;
		struct listing listing = { .args = &given, .patterns = argv + first, .is_known = calloc((size_t)(argc - first) + 1, sizeof(bool)) };
		if (listing.is_known) {
			status = print_listing(m, &listing, &warnings);
		} else {
			complain("out of memory");
			status = EXIT_FAILED;
		}
		free(listing.is_known);
		mesh_close(m);
	} else {
		print_warnings(&warnings);
		print_problems(&warnings, &err);
		status = session_status(&err);
	}
out:
	json_decref(warnings.lines);
	json_decref(warnings.problems);
	return status;
}

const struct command command_config = {
	"config", "[OPTION...]", "effective options, and where each came from",
	"OPTION is a name or a pattern: `mesh config 'drain.*'`. With none, all are listed.\n\n"
	"  MESH_TIMEOUT__USERS=500ms mesh config --changed\n"
	"  mesh config --json | jq -r '.options[] | select(.is_live) | .name'\n\n"
	"Wrong values are all listed, and the exit status is 2. Unknown MESH_ names are warnings.\n",
	args, run, false
};
