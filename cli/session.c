#include "session.h"

#include "command.h"
#include "output.h"

#include "mesh/identity.h"
#include "mesh/options.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { IDENTITY_PATIENCE_MS = 3000, IDENTITY_LOOK_MS = 2 };

/* The sentence about bad options lists one problem after the other, separated by "; ": one line each reads better. */
static void complain_about_options(const struct mesh_error *err)
{
	char text[sizeof(err->message)];
	char *rest = text;

	snprintf(text, sizeof(text), "%s", err->message);
	for (char *next; rest; rest = next) {
		next = strstr(rest, "; ");
		if (next) {
			*next = '\0';
			next += 2;
		}
		complain("%s%s", rest, strncmp(rest, "and ", 4) == 0 && !next ? ": `mesh config` lists all" : "");
	}
}

void session_complain(const struct mesh_error *err)
{
	if (err->code == MESH_E_OPTION)
		complain_about_options(err);
	else
		complain_error(err);
}

int session_status(const struct mesh_error *err)
{
	switch (err->code) {
	case MESH_OK: return EXIT_DONE;
	case MESH_E_OPTION:
	case MESH_E_INVALID: return EXIT_USAGE;
	case MESH_E_NO_NAME:
	case MESH_E_NO_ENDPOINT:
	case MESH_E_CONNECT: return EXIT_UNREACHABLE;
	default: return EXIT_FAILED;
	}
}

int session_open(const char *service, const struct mesh_setting *settings, uint64_t setting_count, mesh **out)
{
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;

	opts.service = service;
	opts.settings = settings;
	opts.setting_count = setting_count;
	if (mesh_open(&opts, out, &err) == 0)
		return EXIT_DONE;
	session_complain(&err);
	return session_status(&err);
}

void session_await_identity(mesh *m)
{
	struct mesh_identity_status status = MESH_IDENTITY_STATUS_INIT;

	for (int waited_ms = 0; waited_ms < IDENTITY_PATIENCE_MS; waited_ms += IDENTITY_LOOK_MS) {
		if (mesh_identity_status(m, &status) || !status.is_tls || status.generation || *status.last_failure)
			return;
		poll(NULL, 0, IDENTITY_LOOK_MS);
	}
}

bool target_parse(const char *text, struct target *target)
{
	size_t name_len = strcspn(text, "/?");

	memset(target, 0, sizeof(*target));
	if (name_len == 0 || name_len >= sizeof(target->service)) {
		complain("%s is no target: it begins with the name of a service, as in users or users/7", *text ? text : "\"\"");
		return false;
	}
	memcpy(target->service, text, name_len);
	target->path = text[name_len] == '/' ? text + name_len : "/";
	if (text[name_len] == '?') {
		size_t size = strlen(text + name_len) + 2;
		target->owned_path = malloc(size);
		if (!target->owned_path) {
			complain("out of memory");
			return false;
		}
		snprintf(target->owned_path, size, "/%s", text + name_len);
		target->path = target->owned_path;
	}
	return true;
}

void target_fini(struct target *target)
{
	free(target->owned_path);
	target->owned_path = NULL;
}

static void fill(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGUSR1);
	sigaddset(set, SIGUSR2);
}

void signals_catch(void)
{
	sigset_t set;

	fill(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

int signals_wait(uint64_t timeout_ns)
{
	sigset_t set;
	struct timespec wait = { (time_t)(timeout_ns / 1000000000), (long)(timeout_ns % 1000000000) };

	fill(&set);
	int signal_number = timeout_ns == UINT64_MAX ? sigwaitinfo(&set, NULL) : sigtimedwait(&set, NULL, &wait);
	return signal_number > 0 ? signal_number : 0;
}

static void quit(int signal_number)
{
	_exit(128 + signal_number);
}

void signals_let_quit(void)
{
	struct sigaction action = { .sa_handler = quit };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

struct stats_dir {
	char *dir;
	size_t capacity;
};

static void take_given_dir(const struct mesh_option_info *info, void *user)
{
	const struct stats_dir *found = user;

	if (strcmp(info->source, "default") != 0 && (strcmp(info->name, "stats.dir") == 0 || (strcmp(info->name, "runtime.dir") == 0 && !*found->dir)))
		snprintf(found->dir, found->capacity, "%s", info->value);
}

/* Where runtime.dir is not given, the library looks in several places, since XDG_RUNTIME_DIR may differ from that of a service. */
void session_stats_dir_of(mesh *m, char *dir, size_t capacity)
{
	struct stats_dir found = { .dir = dir, .capacity = capacity };

	dir[0] = '\0';
	mesh_options_list(m, take_given_dir, &found);
}

int session_stats_dir(const char *given, char *dir, size_t capacity)
{
	static const struct mesh_setting quiet[] = { { "stats", "off" } };
	const char *names[] = { "MESH_STATS_DIR", "MESH_RUNTIME_DIR" };
	mesh *m = NULL;

	dir[0] = '\0';
	if (given)
		snprintf(dir, capacity, "%s", given);
	for (size_t i = 0; i < 2 && !*dir; i++)
		snprintf(dir, capacity, "%s", getenv(names[i]) ? getenv(names[i]) : "");
	if (*dir || !getenv("MESH_CONFIG"))
		return EXIT_DONE;
	int status = session_open("mesh", quiet, 1, &m);
	if (status != EXIT_DONE)
		return status;
	session_stats_dir_of(m, dir, capacity);
	mesh_close(m);
	return EXIT_DONE;
}
