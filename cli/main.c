/*
 * mesh: the command for the person on call. This file knows the commands and nothing about what they do.
 */
#include "command.h"
#include "output.h"

#include "mesh/mesh.h"

#include <locale.h>
#include <stdio.h>
#include <string.h>

const struct command *const commands[] = { &command_serve, &command_call,   &command_load, &command_stat,     &command_id,
					   &command_check, &command_config, &command_ca,   &command_complete, &command_help, NULL };

const struct command *command_find(const char *name)
{
	for (const struct command *const *cmd = commands; *cmd; cmd++) {
		if (strcmp((*cmd)->name, name) == 0)
			return *cmd;
	}
	return NULL;
}

void command_print_help(const struct command *cmd)
{
	printf("Usage: mesh %s%s%s%s\n\n%s\n", cmd->name, *cmd->operands ? " " : "", cmd->operands, cmd->args->name ? " [options]" : "", cmd->summary);
	if (cmd->args->name) {
		printf("\nOptions:\n");
		args_print(cmd->args);
	}
	if (cmd->details)
		printf("\n%s", cmd->details);
}

static void print_help(FILE *file)
{
	fprintf(file, "Usage: mesh COMMAND [options]\n\n"
		      "A service mesh that is a library, from the command line.\n\nCommands:\n");
	for (const struct command *const *cmd = commands; *cmd; cmd++) {
		if (!(*cmd)->is_hidden)
			fprintf(file, "  %-8s %-14s %s\n", (*cmd)->name, (*cmd)->operands, (*cmd)->summary);
	}
	fprintf(file, "\n"
		      "`mesh help COMMAND` or `mesh COMMAND --help` tells more; mesh(1) tells all.\n"
		      "Try it, in two terminals:  mesh serve hello     and     mesh call hello\n\n"
		      "Options of the library itself are MESH_... in the environment: `mesh config` lists them.\n"
		      "Exit status: 0 done; 1 it did not succeed; 2 wrong usage or options; 3 nothing could be reached or read.\n");
}

static int complain_about_command(const char *given)
{
	const char *names[16];
	size_t count = 0;

	for (const struct command *const *cmd = commands; *cmd; cmd++) {
		if (!(*cmd)->is_hidden)
			names[count++] = (*cmd)->name;
	}
	names[count] = NULL;
	const char *nearest = args_nearest(given + strspn(given, "-"), names);
	if (nearest)
		complain("no such command: %s: did you mean `mesh %s`?", given, nearest);
	else
		complain("no such command: %s: `mesh help` lists them", given);
	return EXIT_USAGE;
}

static const struct arg help_args[] = { { 0 } };

static int run_help(const struct command *cmd, int argc, char **argv)
{
	int first;
	char nothing;
	enum args_result result = args_parse(cmd, argc, argv, &nothing, &first);

	if (result != ARGS_GO)
		return result == ARGS_DONE ? EXIT_DONE : EXIT_USAGE;
	if (first == argc) {
		print_help(stdout);
		return EXIT_DONE;
	}
	const struct command *asked = command_find(argv[first]);
	if (!asked)
		return complain_about_command(argv[first]);
	command_print_help(asked);
	return EXIT_DONE;
}

const struct command command_help = { "help", "[COMMAND]", "this text, or that of one command", NULL, help_args, run_help, false };

int main(int argc, char **argv)
{
	/* Only for the classes of characters: numbers are printed and read with a point, whatever the locale. */
	setlocale(LC_CTYPE, "");
	if (argc < 2) {
		print_help(stderr);
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		print_help(stdout);
		return output_finish(EXIT_DONE);
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		printf("mesh, with libmesh %s\n", mesh_version());
		return output_finish(EXIT_DONE);
	}
	const struct command *cmd = command_find(argv[1]);
	if (!cmd)
		return complain_about_command(argv[1]);
	output_set_command(cmd->name);
	return output_finish(cmd->run(cmd, argc - 1, argv + 1));
}
