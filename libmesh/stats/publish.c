/*
 * The file of a segment: made under a temporary name, locked, filled, then linked to its real name, so that nobody ever sees
 * a half-made one. The lock is held as long as the process lives: free means dead, also across PID namespaces, where a
 * process number means nothing. Names: <service>.<pid>.<start ticks>, with .2, .3, ... for further meshes of one process.
 */
#include "base/descriptors.h"
#include "base/fault.h"
#include "base/text.h"
#include "stats/process.h"
#include "stats/runtime_dir.h"
#include "stats/stats_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SAME_NAME_MAX = 1000, SERVICE_IN_NAME_MAX = 64 };

static int make_temporary(struct mesh__stats *stats, const char *dir, struct mesh_error *err)
{
	int fd = -1;

	for (unsigned i = 0; fd < 0 && i < SAME_NAME_MAX; i++) {
		snprintf(stats->file_name, sizeof(stats->file_name), ".tmp.%ld.%u", (long)getpid(), i);
		fd = openat(stats->dir_fd, stats->file_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0 && errno != EEXIST)
			break;
	}
	stats->fd = mesh__descriptors_add(fd);
	if (stats->fd < 0)
		return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "no file can be made in %s/stats", dir);
	/* A new file that nobody else has opened, unless somebody lists the directory right now and tries its lock. */
	if (flock(stats->fd, LOCK_EX))
		return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "%s/stats: flock", dir);
	return 0;
}

void mesh__publish_unlink(struct mesh__stats *stats)
{
	struct stat ours, found;

	/* Only if the name still means our file. */
	if (stats->fd >= 0 && stats->file_name[0] && fstat(stats->fd, &ours) == 0 &&
	    fstatat(stats->dir_fd, stats->file_name, &found, AT_SYMLINK_NOFOLLOW) == 0 && ours.st_ino == found.st_ino &&
	    ours.st_dev == found.st_dev)
		unlinkat(stats->dir_fd, stats->file_name, 0);
	stats->file_name[0] = stats->path[0] = '\0';
}

void mesh__publish_close(struct mesh__stats *stats)
{
	mesh__descriptors_close(stats->fd);
	mesh__descriptors_close(stats->dir_fd);
	stats->fd = stats->dir_fd = -1;
}

static int open_in(struct mesh__stats *stats, const char *dir, bool must_be_memory, struct mesh_error *err)
{
	int result, failed;

	result = stats->dir_fd = mesh__runtime_dir_open(dir, true, must_be_memory, err);
	if (result >= 0)
		result = make_temporary(stats, dir, err);
	failed = result ? 0 : mesh__segment_init(&stats->segment, stats->fd);
	if (failed)
		result = mesh__fault_errno(err, MESH_STAGE_NONE, failed, "%s/stats: no room for the counters", dir);
	if (!result) {
		snprintf(stats->path, sizeof(stats->path), "%s/stats", dir);
		return 0;
	}
	mesh__publish_unlink(stats);
	mesh__publish_close(stats);
	return result;
}

int mesh__publish_open(struct mesh__stats *stats, const struct mesh__stats_options *opts, struct mesh_error *err)
{
	bool is_configured = opts->dir && *opts->dir;
	char dir[MESH__RUNTIME_DIR_PATH_MAX];
	int result = mesh__fault(err, MESH_E_SYSTEM, MESH_STAGE_NONE, "the path of the runtime directory is too long");

	for (int choice = 0; choice < MESH__RUNTIME_DIR_CHOICES && result; choice++)
		if (mesh__runtime_dir_choice(opts->dir, opts->xdg_runtime_dir, choice, dir))
			result = open_in(stats, dir, !is_configured, err);
	return result;
}

/* A service may be called anything; its file may not. The header has the real name. */
static void print_file_name(char name[MESH__STATS_FILE_NAME_MAX], const char *service, uint64_t start_ticks, unsigned number)
{
	struct mesh__text text;

	mesh__text_init(&text, name, MESH__STATS_FILE_NAME_MAX);
	for (size_t i = 0; service[i] && i < SERVICE_IN_NAME_MAX; i++) {
		char c = service[i];
		bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
				(c == '.' && i > 0);

		mesh__text_add_bytes(&text, is_plain ? &c : "_", 1);
	}
	mesh__text_addf(&text, ".%ld.%llu", (long)getpid(), (unsigned long long)start_ticks);
	if (number > 1)
		mesh__text_addf(&text, ".%u", number);
}

int mesh__publish_link(struct mesh__stats *stats, const char *service, struct mesh_error *err)
{
	uint64_t start_ticks = mesh__stats_header(stats)->start_ticks;
	char name[MESH__STATS_FILE_NAME_MAX];
	struct mesh__text path = { .data = stats->path, .capacity = sizeof(stats->path) };
	int failed = -1;

	for (unsigned number = 1; failed && number <= SAME_NAME_MAX; number++) {
		print_file_name(name, service, start_ticks, number);
		failed = linkat(stats->dir_fd, stats->file_name, stats->dir_fd, name, 0);
		if (failed && errno != EEXIST)
			break;
	}
	if (failed)
		return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "%s/%s cannot be made", stats->path, name);
	unlinkat(stats->dir_fd, stats->file_name, 0);
	snprintf(stats->file_name, sizeof(stats->file_name), "%s", name);
	while (stats->path[path.len])
		path.len++;
	mesh__text_addf(&path, "/%s", name);
	return 0;
}
