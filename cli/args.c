#include "args.h"

#include "command.h"
#include "output.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ARGS_MAX = 32, NAME_MAX_BYTES = 64 };

struct unit {
	const char *name;
	double factor;
};

static const struct unit duration_units[] = { { "", 1e9 },  { "ns", 1 },   { "us", 1e3 },   { "ms", 1e6 },
					      { "s", 1e9 }, { "m", 60e9 }, { "h", 3600e9 }, { NULL, 0 } };
static const struct unit count_units[] = { { "", 1 }, { "k", 1e3 }, { "K", 1e3 }, { "M", 1e6 }, { "G", 1e9 }, { NULL, 0 } };
static const struct unit percent_units[] = { { "", 1 }, { "%", 1 }, { NULL, 0 } };

static bool read_number(const char *text, const struct unit *units, double *out)
{
	char *end = NULL;

	/* strtod would also take "inf", "nan", "0x1p3" and leading blanks. */
	if (!isdigit((unsigned char)text[0]) && text[0] != '.')
		return false;
	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
		return false;
	double value = strtod(text, &end);
	if (end == text || !isfinite(value))
		return false;
	for (const struct unit *unit = units; unit->name; unit++) {
		if (strcmp(end, unit->name) == 0) {
			*out = value * unit->factor;
			return true;
		}
	}
	return false;
}

bool args_read_count(const char *text, uint64_t *out)
{
	double value = 0;

	if (!read_number(text, count_units, &value) || value > 1e15 || value != floor(value))
		return false;
	*out = (uint64_t)value;
	return true;
}

bool args_read_duration(const char *text, uint64_t *out_ns)
{
	double value = 0;

	if (!read_number(text, duration_units, &value) || value > 1e18)
		return false;
	*out_ns = (uint64_t)(value + 0.5);
	return true;
}

static const char *kind_example(enum arg_kind kind)
{
	switch (kind) {
	case ARG_COUNT: return "a whole number such as 64 or 10k";
	case ARG_DURATION: return "a time such as 250ms, 10s or 2m";
	case ARG_PERCENT: return "a percentage such as 5%";
	case ARG_RATE: return "a rate per second such as 500 or 1.5k";
	default: return "a value";
	}
}

static bool is_in_range(const struct arg *arg, double value)
{
	return value >= arg->min && (arg->max <= 0 || value <= arg->max);
}

static bool complain_about_value(const struct arg *arg, const char *text, const char *problem)
{
	complain("--%s %s: %s", arg->name, text, problem);
	return false;
}

static bool append(struct arg_list *list, const char *item)
{
	const char **items = realloc(list->items, (list->count + 1) * sizeof(*items));

	if (!items) {
		complain("out of memory");
		return false;
	}
	list->items = items;
	list->items[list->count++] = item;
	return true;
}

static bool store(const struct arg *arg, const char *text, void *into)
{
	void *at = (char *)into + arg->offset;
	char problem[160];
	double number = 0;
	uint64_t whole = 0;
	bool is_read = true;

	switch (arg->kind) {
	case ARG_FLAG: *(bool *)at = true; return true;
	case ARG_TEXT: *(const char **)at = text; return true;
	case ARG_LIST: return append(at, text);
	case ARG_COUNT:
		is_read = args_read_count(text, &whole);
		number = (double)whole;
		break;
	case ARG_DURATION:
		is_read = args_read_duration(text, &whole);
		number = (double)whole / 1e9;
		break;
	case ARG_PERCENT: is_read = read_number(text, percent_units, &number); break;
	case ARG_RATE: is_read = read_number(text, count_units, &number); break;
	}
	if (!is_read) {
		snprintf(problem, sizeof(problem), "not %s", kind_example(arg->kind));
		return complain_about_value(arg, text, problem);
	}
	if (!is_in_range(arg, number)) {
		const char *unit = arg->kind == ARG_DURATION ? "s" : arg->kind == ARG_PERCENT ? "%" : "";
		if (arg->max > 0)
			snprintf(problem, sizeof(problem), "must be from %.12g%s to %.12g%s", arg->min, unit, arg->max, unit);
		else
			snprintf(problem, sizeof(problem), "must be at least %.12g%s", arg->min, unit);
		return complain_about_value(arg, text, problem);
	}
	if (arg->kind == ARG_COUNT || arg->kind == ARG_DURATION)
		*(uint64_t *)at = whole;
	else
		*(double *)at = number;
	return true;
}

void args_list_free(struct arg_list *list)
{
	free(list->items);
	list->items = NULL;
	list->count = 0;
}

/* Edits (insert, delete, replace, swap neighbours) that turn one name into the other; the optimal string alignment distance. */
static size_t edit_distance(const char *a, const char *b)
{
	size_t rows[3][NAME_MAX_BYTES + 1];
	size_t a_len = strlen(a), b_len = strlen(b);

	if (a_len > NAME_MAX_BYTES || b_len > NAME_MAX_BYTES)
		return SIZE_MAX;
	for (size_t j = 0; j <= b_len; j++)
		rows[0][j] = j;
	for (size_t i = 1; i <= a_len; i++) {
		size_t *now = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
		now[0] = i;
		for (size_t j = 1; j <= b_len; j++) {
			size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
			if (last[j] + 1 < best)
				best = last[j] + 1;
			if (now[j - 1] + 1 < best)
				best = now[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
				best = before[j - 2] + 1;
			now[j] = best;
		}
	}
	return rows[a_len % 3][b_len];
}

const char *args_nearest(const char *wrong, const char *const *names)
{
	const char *nearest = NULL;
	size_t limit = strlen(wrong) / 3 + 1, best = limit + 1;

	for (; *names; names++) {
		size_t distance = edit_distance(wrong, *names);
		if (distance < best) {
			best = distance;
			nearest = *names;
		}
	}
	return nearest;
}

static void complain_about_option(const struct command *cmd, const char *given)
{
	const char *names[ARGS_MAX + 2];
	char bare[NAME_MAX_BYTES];
	size_t count = 0;

	for (const struct arg *arg = cmd->args; arg->name && count < ARGS_MAX; arg++)
		names[count++] = arg->name;
	names[count++] = "help";
	names[count] = NULL;
	snprintf(bare, sizeof(bare), "%s", given);
	bare[strcspn(bare, "=")] = '\0';
	const char *nearest = args_nearest(bare + strspn(bare, "-"), names);
	if (nearest && strncmp(given, "--", 2) == 0)
		complain("unknown option %s: did you mean --%s?", bare, nearest);
	else
		complain("unknown option %s: `mesh help %s` lists them", bare, cmd->name);
}

static void complain_about_missing_value(const struct command *cmd, int option, const char *given)
{
	for (const struct arg *arg = cmd->args; arg->name; arg++) {
		if (option == 256 + (int)(arg - cmd->args) || (arg->letter && option == arg->letter)) {
			complain("%s needs %s", given, arg->kind == ARG_TEXT || arg->kind == ARG_LIST ? arg->value : kind_example(arg->kind));
			return;
		}
	}
	complain("%s needs a value", given);
}

/* Fills what getopt_long wants; long options answer with 256 + their row. */
static void describe(const struct command *cmd, struct option *longs, char *shorts)
{
	size_t n = 0;

	*shorts++ = ':';
	for (const struct arg *arg = cmd->args; arg->name && n < ARGS_MAX; arg++, n++) {
		int has_value = arg->kind == ARG_FLAG ? no_argument : required_argument;
		longs[n] = (struct option){ arg->name, has_value, NULL, 256 + (int)n };
		if (!arg->letter)
			continue;
		*shorts++ = arg->letter;
		if (has_value == required_argument)
			*shorts++ = ':';
	}
	longs[n++] = (struct option){ "help", no_argument, NULL, 'h' };
	longs[n] = (struct option){ NULL, 0, NULL, 0 };
	*shorts++ = 'h';
	*shorts = '\0';
}

static const struct arg *find(const struct command *cmd, int option)
{
	if (option >= 256)
		return &cmd->args[option - 256];
	for (const struct arg *arg = cmd->args; arg->name; arg++) {
		if (arg->letter == option)
			return arg;
	}
	return NULL;
}

enum args_result args_parse(const struct command *cmd, int argc, char **argv, void *into, int *first)
{
	struct option longs[ARGS_MAX + 2];
	char shorts[2 * ARGS_MAX + 4];

	describe(cmd, longs, shorts);
	opterr = 0;
	optind = 1;
	for (;;) {
		int before = optind;
		int option = getopt_long(argc, argv, shorts, longs, NULL);
		if (option < 0)
			break;
		if (option == 'h' && !find(cmd, 'h')) {
			command_print_help(cmd);
			return ARGS_DONE;
		}
		if (option == ':') {
			complain_about_missing_value(cmd, optopt, argv[optind - 1]);
			return ARGS_WRONG;
		}
		const struct arg *arg = option == '?' ? NULL : find(cmd, option);
		if (!arg) {
			char letter[3] = { '-', (char)optopt, '\0' };
			bool is_long_with_value = optopt >= 256;
			if (is_long_with_value)
				complain("--%s takes no value", cmd->args[optopt - 256].name);
			else
				complain_about_option(cmd, optopt ? letter : argv[optind > before ? optind - 1 : before]);
			return ARGS_WRONG;
		}
		if (!store(arg, optarg, into))
			return ARGS_WRONG;
	}
	*first = optind;
	return ARGS_GO;
}

void args_print(const struct arg *args)
{
	for (const struct arg *arg = args; arg->name; arg++) {
		char left[64];
		snprintf(left, sizeof(left), "%c%c%s --%s%s%s", arg->letter ? '-' : ' ', arg->letter ? arg->letter : ' ', arg->letter ? "," : " ",
			 arg->name, arg->value ? " " : "", arg->value ? arg->value : "");
		printf("  %-28s", left);
		if (strlen(left) > 27)
			printf("\n%30s", "");
		/* A line break in the help text continues in the same column. */
		for (const char *text = arg->help; text;) {
			const char *next = strchr(text, '\n');
			printf("%s%.*s\n", text == arg->help ? " " : "                               ", next ? (int)(next - text) : (int)strlen(text), text);
			text = next ? next + 1 : NULL;
		}
	}
}
