/*
 * What is in a directory of segments.
 *
 * A file is removed when its lock is free, so that its process is gone, and when nothing happened in it for a minute, so that
 * somebody could have looked at what the dead had counted. It is locked while it is removed, and only removed if the name still
 * means the file that was looked at: two who clean up, or one who cleans up and one who starts, cannot hurt each other.
 */
#include "mesh/stats.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"
#include "stats/list.h"
#include "stats/process.h"
#include "stats/reader.h"
#include "stats/runtime_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ENTRIES_MAX = 65536, NAMES_BYTES = 8192, PATH_MAX_BYTES = MESH__RUNTIME_DIR_PATH_MAX + 300 };

#define SILENT_NS (UINT64_C(60) * 1000000000)
#define TEMPORARY_PREFIX ".tmp."

struct entry {
	struct mesh_stats_entry shown;
	char *path, *message;
	char service[128];
};

struct mesh_stats_list {
	struct entry *entries;
	uint64_t count, capacity;
};

/* What to do with each name; nonzero ends the walk. */
typedef int (*name_fn)(int dir_fd, const char *name, void *user);

/* Not readdir(): its descriptor could not be told to the fork handler. */
static int walk(int dir_fd, name_fn fn, void *user)
{
	_Alignas(struct dirent64) char names[NAMES_BYTES];
	ssize_t got;

	lseek(dir_fd, 0, SEEK_SET);
	while ((got = getdents64(dir_fd, names, sizeof(names))) > 0) {
		for (ssize_t at = 0; at < got;) {
			const struct dirent64 *found = (const void *)(names + at);
			int result = strcmp(found->d_name, ".") && strcmp(found->d_name, "..") ? fn(dir_fd, found->d_name, user) : 0;

			if (result)
				return result;
			at += found->d_reclen;
		}
	}
	return 0;
}

/* Time since the last sign of life: a heartbeat, or the start; for another boot's clock and half-made files, the last change. */
static uint64_t silence_ns(int fd, const struct mesh__layout_header *header)
{
	uint64_t last_ns = 0, now_ns = mesh__clock_wall_ns();
	char boot_id[MESH__BOOT_ID_BYTES];
	struct stat found;

	mesh__process_boot_id(boot_id);
	if (header && strcmp(boot_id, header->boot_id) == 0) {
		now_ns = mesh__clock_now_ns();
		last_ns = header->start_ns;
		for (uint32_t i = 0; i < MESH__LAYOUT_LOOPS; i++)
			last_ns = header->loops[i].beat_ns > last_ns ? header->loops[i].beat_ns : last_ns;
	} else if (fstat(fd, &found) == 0) {
		last_ns = (uint64_t)found.st_mtim.tv_sec * MESH__NS_PER_SEC + (uint64_t)found.st_mtim.tv_nsec;
	}
	return now_ns > last_ns ? now_ns - last_ns : 0;
}

static bool is_same_file(int dir_fd, const char *name, int fd)
{
	struct stat opened, named;

	return fstat(fd, &opened) == 0 && fstatat(dir_fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 && opened.st_ino == named.st_ino &&
	       opened.st_dev == named.st_dev;
}

struct reaping {
	uint32_t removed, left;
};

static int reap_one(int dir_fd, const char *name, void *user)
{
	struct reaping *reaping = user;
	struct mesh__layout_header header;
	bool is_temporary = strncmp(name, TEMPORARY_PREFIX, strlen(TEMPORARY_PREFIX)) == 0;
	int fd = mesh__reader_open(dir_fd, name, name, NULL);
	bool is_ours;

	if (fd < 0)
		return 0;
	/* Whatever is not a segment is not ours to remove, even here. */
	is_ours = is_temporary || mesh__reader_header(fd, name, &header, NULL) == 0;
	if (is_ours && flock(fd, LOCK_EX | LOCK_NB) == 0 && silence_ns(fd, is_temporary ? NULL : &header) >= SILENT_NS &&
	    is_same_file(dir_fd, name, fd) && unlinkat(dir_fd, name, 0) == 0)
		reaping->removed++;
	mesh__descriptors_close(fd);
	return --reaping->left == 0;
}

uint32_t mesh__list_reap(int dir_fd, uint32_t files_max)
{
	struct reaping reaping = { .left = files_max };

	walk(dir_fd, reap_one, &reaping);
	return reaping.removed;
}

/* As options stats.dir and runtime.dir: set but empty counts as not set. */
static const char *from_environment(void)
{
	const char *stats_dir = secure_getenv("MESH_STATS_DIR"), *runtime_dir = secure_getenv("MESH_RUNTIME_DIR");

	return stats_dir && *stats_dir ? stats_dir : runtime_dir;
}

/* Runs `fn` for every directory that `dir` stands for; that one does not exist is no error. */
static int for_each_dir(const char *dir, int (*fn)(int dir_fd, const char *path, void *user, struct mesh_error *err), void *user,
			struct mesh_error *err)
{
	const char *configured = dir ? dir : from_environment(), *xdg = secure_getenv("XDG_RUNTIME_DIR");
	char path[MESH__RUNTIME_DIR_PATH_MAX];
	int result = 0, opened = 0;
	struct mesh_error ignored = MESH_ERROR_INIT, *first_err = err ? err : &ignored;

	for (int choice = 0; choice < MESH__RUNTIME_DIR_CHOICES; choice++) {
		int dir_fd, failed = 0;

		if (!mesh__runtime_dir_choice(configured, xdg, choice, path))
			continue;
		dir_fd = mesh__runtime_dir_open(path, false, false, result ? NULL : first_err);
		if (dir_fd >= 0) {
			opened++;
			failed = fn(dir_fd, path, user, err);
			mesh__descriptors_close(dir_fd);
		} else if (dir_fd != MESH_E_NOT_FOUND && !result) {
			result = dir_fd;
		}
		if (failed)
			return failed;
	}
	/* One of several places that is somebody else's does not matter if another one answered. */
	return opened ? 0 : result;
}

static int add_entry(mesh_stats_list *list, struct entry **out)
{
	uint64_t capacity = list->capacity ? list->capacity * 2 : 16;
	struct entry *entries = list->entries;

	if (list->count == list->capacity) {
		entries = mesh__memory_realloc(entries, capacity * sizeof(*entries));
		if (!entries)
			return MESH_E_NOMEM;
		list->entries = entries;
		list->capacity = capacity;
	}
	*out = &entries[list->count++];
	memset(*out, 0, sizeof(**out));
	return 0;
}

struct listing {
	mesh_stats_list *list;
	const char *dir;
};

static void look_at(int dir_fd, const char *name, struct entry *entry)
{
	struct mesh_error why = MESH_ERROR_INIT;
	struct mesh__layout_header header;
	int fd = mesh__reader_open(dir_fd, name, entry->path, &why);
	int result = fd < 0 ? fd : mesh__reader_header(fd, entry->path, &header, &why);

	if (result == 0) {
		entry->shown.state = mesh__reader_state(&header, fd);
		entry->shown.pid = (int64_t)header.pid;
		entry->shown.start_ticks = header.start_ticks;
		entry->shown.start_wall_ns = header.start_wall_ns;
		memcpy(entry->service, header.service, sizeof(entry->service));
	} else {
		entry->shown.error = result;
		entry->message = mesh__memory_strdup(why.message);
	}
	mesh__descriptors_close(fd);
}

static int list_one(int dir_fd, const char *name, void *user)
{
	struct listing *listing = user;
	char path[PATH_MAX_BYTES];
	struct entry *entry;

	if (name[0] == '.' || listing->list->count >= ENTRIES_MAX)
		return 0;
	if (add_entry(listing->list, &entry))
		return MESH_E_NOMEM;
	snprintf(path, sizeof(path), "%s/stats/%s", listing->dir, name);
	entry->path = mesh__memory_strdup(path);
	if (!entry->path)
		return MESH_E_NOMEM;
	look_at(dir_fd, name, entry);
	/* It ended between the look at the directory and the look at the file. */
	if (entry->shown.error == MESH_E_NOT_FOUND) {
		mesh__memory_free(entry->path);
		mesh__memory_free(entry->message);
		listing->list->count--;
	}
	return 0;
}

static int list_dir(int dir_fd, const char *path, void *user, struct mesh_error *err)
{
	struct listing listing = { .list = user, .dir = path };

	return walk(dir_fd, list_one, &listing) ? mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "no memory for a list of segments") : 0;
}

int mesh_stats_list_new(const char *dir, mesh_stats_list **out, struct mesh_error *err)
{
	mesh_stats_list *list = mesh__memory_zalloc(sizeof(*list));
	int result;

	*out = NULL;
	if (!list)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "no memory for a list of segments");
	result = for_each_dir(dir, list_dir, list, err);
	if (result)
		mesh_stats_list_free(list);
	else
		*out = list;
	return result;
}

void mesh_stats_list_free(mesh_stats_list *list)
{
	for (uint64_t i = 0; list && i < list->count; i++) {
		mesh__memory_free(list->entries[i].path);
		mesh__memory_free(list->entries[i].message);
	}
	if (list)
		mesh__memory_free(list->entries);
	mesh__memory_free(list);
}

uint64_t mesh_stats_list_count(const mesh_stats_list *list)
{
	return list->count;
}

int mesh_stats_list_get(const mesh_stats_list *list, uint64_t number, struct mesh_stats_entry *out)
{
	struct mesh_stats_entry full;
	uint32_t size = out->size;

	if (number >= list->count)
		return MESH_E_NOT_FOUND;
	if (size < 2 * sizeof(uint32_t))
		return MESH_E_INVALID;
	full = list->entries[number].shown;
	full.size = size;
	full.path = list->entries[number].path;
	full.service = list->entries[number].service;
	full.message = list->entries[number].message ? list->entries[number].message : "";
	memcpy(out, &full, size < sizeof(full) ? size : sizeof(full));
	return 0;
}

static int reap_dir(int dir_fd, const char *path, void *user, struct mesh_error *err)
{
	int64_t *removed = user;

	(void)path;
	(void)err;
	*removed += mesh__list_reap(dir_fd, UINT32_MAX);
	return 0;
}

int64_t mesh_stats_reap(const char *dir, struct mesh_error *err)
{
	int64_t removed = 0;
	int result = for_each_dir(dir, reap_dir, &removed, err);

	return result ? result : removed;
}
