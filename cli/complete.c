/*
 * mesh complete: what could stand at the end of a command line, one per line, for the shells' completion. It gets the words
 * before it and the beginning of the word itself: `mesh complete -- call -d x us`. It is not in `mesh help`.
 */
#include "command.h"
#include "counters.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct arg args[] = { { 0 } };

static bool begins(const char *text, const char *beginning)
{
	return strncmp(text, beginning, strlen(beginning)) == 0;
}

static void complete_commands(const char *beginning)
{
	for (const struct command *const *cmd = commands; *cmd; cmd++) {
		if (!(*cmd)->is_hidden && begins((*cmd)->name, beginning))
			printf("%s\n", (*cmd)->name);
	}
}

static void complete_options(const struct command *cmd, const char *beginning)
{
	char option[72];

	for (const struct arg *arg = cmd->args; arg->name; arg++) {
		snprintf(option, sizeof(option), "--%s", arg->name);
		if (begins(option, beginning))
			printf("%s\n", option);
	}
	if (begins("--help", beginning))
		printf("--help\n");
}

/* Names of services that processes on this host serve or call. A name comes from a stranger: only plain ones are offered. */
static void complete_services(const char *beginning)
{
	struct mesh_error err = MESH_ERROR_INIT;
	struct counters *counters = counters_read(NULL, false, &err);

	for (size_t i = 0; counters && i < counters->row_count; i++) {
		const char *service = counters->rows[i].service;
		bool is_new = begins(service, beginning) && service[strspn(service, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")] == '\0';
		for (size_t j = 0; is_new && j < i; j++)
			is_new = strcmp(service, counters->rows[j].service) != 0;
		if (is_new)
			printf("%s\n", service);
	}
	counters_free(counters);
}

static const char *const ca_actions[] = { "init", "issue", "show", NULL };

static void complete_words(const char *const *words, const char *beginning, bool is_first)
{
	for (; is_first && *words; words++) {
		if (begins(*words, beginning))
			printf("%s\n", *words);
	}
}

static bool wants_value(const struct command *cmd, const char *word)
{
	for (const struct arg *arg = cmd->args; arg->name; arg++) {
		if (arg->kind == ARG_FLAG)
			continue;
		if ((begins(word, "--") && strcmp(word + 2, arg->name) == 0) || (arg->letter && word[0] == '-' && word[1] == arg->letter && !word[2]))
			return true;
	}
	return false;
}

static int run(const struct command *cmd, int argc, char **argv)
{
	int first = argc > 1 && strcmp(argv[1], "--") == 0 ? 2 : 1;
	const char *last = argc > first ? argv[argc - 1] : "";
	const struct command *asked = argc - first > 1 ? command_find(argv[first]) : NULL;

	(void)cmd;
	if (argc - first <= 1) {
		complete_commands(last);
	} else if (asked && !asked->is_hidden && !wants_value(asked, argv[argc - 2])) {
		if (*last == '-')
			complete_options(asked, last);
		else if (asked == &command_help)
			complete_commands(last);
		else if (asked == &command_ca)
			complete_words(ca_actions, last, argc - first == 2);
		else if (asked != &command_config && asked != &command_check)
			complete_services(last);
	}
	return EXIT_DONE;
}

const struct command command_complete = { "complete", "-- WORD...", "what could come next, for completion in shells", NULL, args, run, true };
