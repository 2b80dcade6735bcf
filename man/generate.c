/*
 * Writes what is generated from libmesh/tables/: the manual pages mesh-options(7), mesh-counters(7), mesh-errors(7), and
 * bindings/libmesh.abi.json, the description that bindings read their constants from.
 *
 *	generate options|counters|errors|abi >FILE
 *
 * `make generated` renews the committed copies; a test fails while they differ from the tables.
 */
#include "mesh/endpoint.h"
#include "mesh/identity.h"
#include "mesh/options.h"
#include "mesh/server.h"
#include "mesh/stats.h"

#include <ctype.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct option_row {
	const char *constant, *name, *type, *value, *min, *max, *scope, *when, *help;
};
static const struct option_row options[] = {
#define MESH_OPTION(NAME, name, type, value, min, max, scope, when, help) \
	{ #NAME, name, #type, value, min, max, #scope, #when, help },
#include "tables/options.def"
#undef MESH_OPTION
};

struct counter_row {
	const char *constant, *name, *type, *unit, *labels, *help;
};
static const struct counter_row counters[] = {
#define MESH_COUNTER(NAME, name, type, unit, labels, help) { #NAME, name, #type, unit, labels, help },
#include "tables/counters.def"
#undef MESH_COUNTER
};

struct error_row {
	const char *name;
	int value;
	const char *grpc, *text, *hint;
};
static const struct error_row errors[] = {
#define MESH_ERROR(name, value, grpc, text, hint) { #name, value, #grpc, text, hint },
#include "tables/errors.def"
#undef MESH_ERROR
};

struct stage_row {
	const char *constant, *name;
	int value;
	const char *side, *reason;
};
static const struct stage_row stages[] = {
#define MESH_STAGE(NAME, name, value, side, reason) { #NAME, name, value, #side, reason },
#include "tables/stages.def"
#undef MESH_STAGE
};

struct constant_row {
	const char *group, *name;
	int64_t value;
};
#define ROW(group, name) { group, #name, (int64_t)name }
static const struct constant_row constants[] = {
	ROW("call_flag", MESH_CALL_GRPC), ROW("call_flag", MESH_CALL_STREAM), ROW("call_flag", MESH_CALL_IDEMPOTENT),
	ROW("call_flag", MESH_CALL_FAIL_FAST), ROW("send_flag", MESH_SEND_LAST), ROW("handler_flag", MESH_HANDLER_GRPC),
	ROW("handler_flag", MESH_HANDLER_STREAM), ROW("event_type", MESH_EVENT_CALL_DONE),
	ROW("event_type", MESH_EVENT_CALL_READABLE), ROW("event_type", MESH_EVENT_CALL_WRITABLE),
	ROW("event_type", MESH_EVENT_REQUEST), ROW("event_type", MESH_EVENT_REQUEST_READABLE),
	ROW("event_type", MESH_EVENT_REQUEST_WRITABLE), ROW("event_type", MESH_EVENT_REQUEST_ENDED),
	ROW("outcome", MESH_OUTCOME_OK), ROW("outcome", MESH_OUTCOME_FAILED), ROW("outcome", MESH_OUTCOME_OVERLOAD),
	ROW("outcome", MESH_OUTCOME_TIMEOUT), ROW("outcome", MESH_OUTCOME_UNREACHABLE), ROW("outcome", MESH_OUTCOME_CANCELLED),
	ROW("log_level", MESH_LOG_OFF), ROW("log_level", MESH_LOG_ERROR), ROW("log_level", MESH_LOG_WARN),
	ROW("log_level", MESH_LOG_INFO), ROW("log_level", MESH_LOG_DEBUG), ROW("stats_type", MESH_STATS_COUNTER),
	ROW("stats_type", MESH_STATS_GAUGE), ROW("stats_type", MESH_STATS_HISTOGRAM), ROW("stats_state", MESH_STATS_UNKNOWN),
	ROW("stats_state", MESH_STATS_ALIVE), ROW("stats_state", MESH_STATS_STUCK), ROW("stats_state", MESH_STATS_DEAD),
	ROW("stats_state", MESH_STATS_CLOSED),
};
#undef ROW

struct struct_row {
	const char *name;
	size_t size;
};
#define ROW(name) { #name, sizeof(struct name) }
static const struct struct_row structs[] = {
	ROW(mesh_error), ROW(mesh_options), ROW(mesh_setting), ROW(mesh_header), ROW(mesh_call_options), ROW(mesh_call_info),
	ROW(mesh_message), ROW(mesh_event), ROW(mesh_server_options), ROW(mesh_reply), ROW(mesh_pick), ROW(mesh_endpoint_info),
	ROW(mesh_option_info), ROW(mesh_stats_process), ROW(mesh_stats_series), ROW(mesh_stats_entry),
	ROW(mesh_ca_issue_options), ROW(mesh_ca_info),
};
#undef ROW

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- roff ---- */

/* Text in which nothing is a macro, an escape or a hyphen that may break a name; `name` in backquotes becomes bold. */
static void print_text(const char *text)
{
	bool is_bold = false;

	for (const char *at = text; *at; at++) {
		if (*at == '`') {
			is_bold = !is_bold;
			fputs(is_bold ? "\\fB" : "\\fR", stdout);
		} else if (*at == '\\') {
			fputs("\\e", stdout);
		} else if (*at == '-') {
			fputs("\\-", stdout);
		} else if (at == text && (*at == '.' || *at == '\'')) {
			printf("\\&%c", *at);
		} else {
			putchar(*at);
		}
	}
}

static void print_lines(const char *const *lines)
{
	for (; *lines; lines++) {
		if (**lines == '.')
			fputs(*lines, stdout);
		else
			print_text(*lines);
		putchar('\n');
	}
}

static void print_title(const char *name, const char *summary)
{
	printf(".\\\" Generated from libmesh/tables/ by `make generated`; changes belong there.\n");
	printf(".TH %s 7 \"2026-11-24\" \"libmesh %s\" \"libmesh\"\n.SH NAME\n%s \\- %s\n", name, mesh_version(), name, summary);
}

static const char *type_help(const char *type)
{
	static const char *const names[][2] = {
		{ "DURATION", "a duration" }, { "BYTES", "a size" }, { "COUNT", "a number" },
		{ "BOOL", "true or false" }, { "TEXT", "a text" }, { "CHOICE", "a word" },
	};

	for (size_t i = 0; i < COUNT(names); i++)
		if (!strcmp(names[i][0], type))
			return names[i][1];
	return type;
}

static void print_options(void)
{
	print_title("mesh-options", "options of libmesh");
	print_lines((const char *const[]){
		".SH DESCRIPTION",
		"Every option has a default that works. It is looked for in this order, and the first found wins: the program",
		"(`mesh_open`, `mesh_options_set`), the environment, the file that `MESH_CONFIG` names, the default.",
		".PP",
		"An option `connect.timeout` is `MESH_CONNECT_TIMEOUT` in the environment. Options of a service can be set for one service:",
		"`timeout@users` in the program and in files, `MESH_TIMEOUT__USERS` in the environment (two underscores, capitals,",
		"`-` and `.` become `_`). A variable that is set but empty counts as not set.",
		".PP",
		"A file has one `name = value` a line; what follows a line `[users]` is for that service alone; empty lines and lines that begin",
		"with # are ignored.",
		".PP",
		"A duration has a unit: ns, us, ms, s, m or h. A size has KiB, MiB, GiB, kB, MB or GB, or is in bytes. A number may end in k or M.",
		".PP",
		"A wrong value makes `mesh_open` fail, and all that is wrong is reported at once. An unknown name that begins with MESH_ is a",
		"warning which names the nearest known option. `mesh config` shows what is in effect and where it came from.",
		".SH OPTIONS",
		NULL,
	});
	for (size_t i = 0; i < COUNT(options); i++) {
		const struct option_row *row = &options[i];

		fputs(".TP\n\\fB", stdout);
		print_text(row->name);
		printf("\\fR (\\fBMESH_%s\\fR)\n", row->constant);
		print_text(row->help);
		printf("\n.br\n%s", type_help(row->type));
		if (!strcmp(row->type, "CHOICE") || (!strcmp(row->type, "TEXT") && *row->max)) {
			fputs(": ", stdout);
			print_text(row->max);
		} else if (*row->max) {
			printf(" from %s to %s", row->min, row->max);
		}
		fputs("; default ", stdout);
		print_text(*row->value ? row->value : "empty");
		fputs(!strcmp(row->scope, "SERVICE") ? "; per service" : "", stdout);
		puts(!strcmp(row->when, "LIVE") ? "; may change while running." : ".");
	}
	print_lines((const char *const[]){ ".SH SEE ALSO", "`mesh`(1), `mesh-counters`(7), `mesh-errors`(7), `libmesh`(3)", NULL });
}

static void print_counters(void)
{
	print_title("mesh-counters", "counters of libmesh");
	print_lines((const char *const[]){
		".SH DESCRIPTION",
		"Every mesh counts in shared memory; `mesh stat` and `mesh/stats.h` read it, also while the process hangs and after it",
		"was killed. The layout is in `mesh-stats`(5). Counters only grow; gauges go up and down; histograms keep values with a relative",
		"error of at most 0.8 per cent.",
		".PP",
		"The label `service` is the service called, on the client side, and our own, on the server side. `endpoint` is an address;",
		"`reason` says which of the ways to end it was, or what made it; `side` is client or server. Series beyond `stats.series` are counted",
		"together under the label `other`.",
		".SH COUNTERS",
		NULL,
	});
	for (size_t i = 0; i < COUNT(counters); i++) {
		const struct counter_row *row = &counters[i];

		fputs(".TP\n\\fB", stdout);
		print_text(row->name);
		printf("\\fR (%s%s%s)\n", row->type, *row->unit ? ", " : "", row->unit);
		print_text(row->help);
		if (*row->labels) {
			fputs("\n.br\nlabels: ", stdout);
			for (const char *at = row->labels; *at; at++)
				fputs(*at == ',' ? ", " : (char[]){ *at, '\0' }, stdout);
		}
		putchar('\n');
	}
	print_lines((const char *const[]){ ".SH SEE ALSO", "`mesh`(1), `mesh-stats`(5), `mesh-options`(7), `mesh-errors`(7)", NULL });
}

static void print_errors(void)
{
	print_title("mesh-errors", "errors of libmesh");
	print_lines((const char *const[]){
		".SH DESCRIPTION",
		"A function of libmesh that can fail returns 0 or a negative code, and fills a `struct mesh_error` if it is given one: the code, the step",
		"that decided, the endpoint, the number of attempts, whether the peer may have acted (`in_doubt`), whether calling again cannot act twice",
		"(`retry_safe`), the peer's HTTP status if it answered, a gRPC status, and one sentence.",
		".SH CODES",
		NULL,
	});
	for (size_t i = 0; i < COUNT(errors); i++) {
		const struct error_row *row = &errors[i];

		printf(".TP\n\\fBMESH_E_%s\\fR (%d, gRPC %s)\n", row->name, row->value, row->grpc);
		printf("%c", toupper((unsigned char)row->text[0]));
		print_text(row->text + 1);
		fputs(".\n.br\nWhat to do: ", stdout);
		print_text(row->hint);
		puts(".");
	}
	print_lines((const char *const[]){
		".SH STEPS",
		"Each call goes through these steps, in this order; an error names the one that decided. 20 and above are a server's.",
		NULL,
	});
	for (size_t i = 0; i < COUNT(stages); i++) {
		fputs(".TP\n\\fB", stdout);
		print_text(stages[i].name);
		printf("\\fR (%d)\n", stages[i].value);
		print_text(stages[i].reason);
		puts(".");
	}
	print_lines((const char *const[]){ ".SH SEE ALSO", "`mesh`(1), `libmesh`(3), `mesh-options`(7), `mesh-counters`(7)", NULL });
}

/* ---- JSON ---- */

static void add(json_t *to, const char *key, json_t *value)
{
	if (json_object_set_new(to, key, value)) {
		fputs("generate: out of memory\n", stderr);
		exit(1);
	}
}

static json_t *append(json_t *list)
{
	json_t *row = json_object();

	json_array_append_new(list, row);
	return row;
}

static void print_abi(void)
{
	json_t *all = json_object(), *list;

	add(all, "version", json_string(mesh_version()));
	add(all, "soname", json_string("libmesh.so.0"));
	add(all, "errors", list = json_array());
	for (size_t i = 0; i < COUNT(errors); i++) {
		json_t *row = append(list);

		add(row, "name", json_string(errors[i].name));
		add(row, "value", json_integer(errors[i].value));
		add(row, "grpc_status", json_string(errors[i].grpc));
		add(row, "text", json_string(errors[i].text));
		add(row, "hint", json_string(errors[i].hint));
	}
	add(all, "stages", list = json_array());
	for (size_t i = 0; i < COUNT(stages); i++) {
		json_t *row = append(list);

		add(row, "constant", json_string(stages[i].constant));
		add(row, "name", json_string(stages[i].name));
		add(row, "value", json_integer(stages[i].value));
		add(row, "side", json_string(stages[i].side));
		add(row, "reason", json_string(stages[i].reason));
	}
	add(all, "options", list = json_array());
	for (size_t i = 0; i < COUNT(options); i++) {
		const struct option_row *from = &options[i];
		json_t *row = append(list);
		bool is_choice = !strcmp(from->type, "CHOICE");

		add(row, "name", json_string(from->name));
		add(row, "environment", json_sprintf("MESH_%s", from->constant));
		add(row, "type", json_string(from->type));
		add(row, "default", json_string(from->value));
		if (is_choice)
			add(row, "choices", json_string(from->max));
		else if (!strcmp(from->type, "TEXT") && *from->max)
			add(row, "form", json_string(from->max));
		else if (*from->max)
			add(row, "range", json_sprintf("%s..%s", from->min, from->max));
		add(row, "per_service", json_boolean(!strcmp(from->scope, "SERVICE")));
		add(row, "live", json_boolean(!strcmp(from->when, "LIVE")));
		add(row, "help", json_string(from->help));
	}
	add(all, "counters", list = json_array());
	for (size_t i = 0; i < COUNT(counters); i++) {
		json_t *row = append(list);

		add(row, "name", json_string(counters[i].name));
		add(row, "type", json_string(counters[i].type));
		add(row, "unit", json_string(counters[i].unit));
		add(row, "labels", json_string(counters[i].labels));
		add(row, "help", json_string(counters[i].help));
	}
	add(all, "constants", list = json_array());
	for (size_t i = 0; i < COUNT(constants); i++) {
		json_t *row = append(list);

		add(row, "group", json_string(constants[i].group));
		add(row, "name", json_string(constants[i].name));
		add(row, "value", json_integer(constants[i].value));
	}
	add(all, "structs", list = json_array());
	for (size_t i = 0; i < COUNT(structs); i++) {
		json_t *row = append(list);

		add(row, "name", json_string(structs[i].name));
		add(row, "size_lp64", json_integer((json_int_t)structs[i].size));
	}
	json_dumpf(all, stdout, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(all);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*print)(void);
	} outputs[] = { { "options", print_options }, { "counters", print_counters }, { "errors", print_errors }, { "abi", print_abi } };

	for (size_t i = 0; argc == 2 && i < COUNT(outputs); i++) {
		if (!strcmp(argv[1], outputs[i].name)) {
			outputs[i].print();
			return fflush(stdout) ? 1 : 0;
		}
	}
	fputs("Usage: generate options|counters|errors|abi >FILE\n", stderr);
	return 2;
}
