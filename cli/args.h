/*
 * Options of a command, as a table: from one row come parsing, the help text and shell completion.
 *
 * Values land in a struct of the command, at `offset`.
 */
#ifndef MESH_CLI_ARGS_H
#define MESH_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct command;

enum arg_kind {
	ARG_FLAG,     /* bool */
	ARG_TEXT,     /* const char * */
	ARG_LIST,     /* struct arg_list: may be given several times */
	ARG_COUNT,    /* uint64_t: "64", "10k", "2M" */
	ARG_DURATION, /* uint64_t nanoseconds: "250ms"; a bare number is in seconds */
	ARG_PERCENT,  /* double 0 to 100: "5%", "5" */
	ARG_RATE,     /* double per second: "500", "1.5k" */
};

struct arg {
	const char *name;  /* without its dashes */
	char letter;       /* 0: none */
	enum arg_kind kind;
	size_t offset;
	const char *value; /* "SECS" in the help; NULL for flags */
	const char *help;
	double min;        /* smallest number accepted; durations in seconds */
	double max;        /* largest; 0: no limit */
};

struct arg_list {
	const char **items;
	size_t count;
};

enum args_result { ARGS_GO, ARGS_DONE, ARGS_WRONG };

/*
 * Parses argv[1..] into `into`. Options and operands may be mixed; `--` ends the options. On ARGS_GO *first is the index of the
 * first operand: all operands stand at the end of argv. ARGS_DONE: help was printed. ARGS_WRONG: the mistake was printed.
 */
enum args_result args_parse(const struct command *cmd, int argc, char **argv, void *into, int *first);
void args_list_free(struct arg_list *list);

/* Prints the option part of a command's help. */
void args_print(const struct arg *args);

bool args_read_count(const char *text, uint64_t *out);
bool args_read_duration(const char *text, uint64_t *out_ns);

/* The name among `names` (NULL ends them) that a person most likely meant; NULL if none is near. */
const char *args_nearest(const char *wrong, const char *const *names);

#endif
