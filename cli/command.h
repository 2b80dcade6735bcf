/* What a command of `mesh` is: a row in the table of main.c, a table of options, and a function. */
#ifndef MESH_CLI_COMMAND_H
#define MESH_CLI_COMMAND_H

#include "args.h"

/* Exit statuses, the same for every command; documented in mesh(1). */
enum exit_status {
	EXIT_DONE = 0,        /* what was asked for happened */
	EXIT_FAILED = 1,      /* it did not */
	EXIT_USAGE = 2,       /* wrong usage or options */
	EXIT_UNREACHABLE = 3, /* nothing could be reached or read */
};

struct command {
	const char *name;
	const char *operands; /* "NAME[/path]", as the usage line shows them */
	const char *summary;  /* one line for `mesh help` */
	const char *details;  /* paragraphs and examples for `mesh help NAME` */
	const struct arg *args; /* ends with a row without a name */
	int (*run)(const struct command *cmd, int argc, char **argv);
	bool is_hidden;
};

extern const struct command command_serve, command_call, command_load, command_stat, command_id, command_check, command_config, command_ca,
	command_complete, command_help;

/* The rows of `mesh help`, in its order; NULL ends them. */
extern const struct command *const commands[];
const struct command *command_find(const char *name);
void command_print_help(const struct command *cmd);

#endif
