#include "stats/process.h"

#include "base/descriptors.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Fields of /proc/PID/stat behind the command's closing parenthesis, counted from 3 as in proc(5). */
enum { FIELD_AFTER_COMMAND = 3, FIELD_START_TIME = 22 };

static size_t read_small_file(const char *path, char *text, size_t capacity)
{
	int fd = mesh__descriptors_add(open(path, O_RDONLY | O_CLOEXEC));
	ssize_t got = fd < 0 ? 0 : read(fd, text, capacity - 1);

	mesh__descriptors_close(fd);
	if (got < 0)
		got = 0;
	text[got] = '\0';
	return (size_t)got;
}

uint64_t mesh__process_start_ticks(int64_t pid)
{
	char path[64], text[1024], *at;

	snprintf(path, sizeof(path), "/proc/%" PRId64 "/stat", pid);
	read_small_file(path, text, sizeof(text));
	/* The command may hold anything, also spaces and parentheses: what follows the last one is ours. */
	at = strrchr(text, ')');
	for (int field = FIELD_AFTER_COMMAND; at && field <= FIELD_START_TIME; field++)
		at = strchr(at + 1, ' ');
	return at ? strtoull(at + 1, NULL, 10) : 0;
}

uint64_t mesh__process_pid_namespace(void)
{
	struct stat found;

	return stat("/proc/self/ns/pid", &found) ? 0 : (uint64_t)found.st_ino;
}

void mesh__process_boot_id(char id[MESH__BOOT_ID_BYTES])
{
	size_t len = read_small_file("/proc/sys/kernel/random/boot_id", id, MESH__BOOT_ID_BYTES);

	while (len && id[len - 1] == '\n')
		id[--len] = '\0';
}
