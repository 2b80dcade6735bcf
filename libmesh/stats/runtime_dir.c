#include "stats/runtime_dir.h"

#include "base/descriptors.h"
#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

bool mesh__runtime_dir_choice(const char *configured, const char *xdg_runtime_dir, int choice, char path[MESH__RUNTIME_DIR_PATH_MAX])
{
	int len = -1;

	if (configured && *configured) {
		if (choice == 0)
			len = snprintf(path, MESH__RUNTIME_DIR_PATH_MAX, "%s", configured);
	} else if (choice == 0) {
		/* The specification says that a relative path is to be ignored. */
		if (xdg_runtime_dir && xdg_runtime_dir[0] == '/')
			len = snprintf(path, MESH__RUNTIME_DIR_PATH_MAX, "%s/mesh", xdg_runtime_dir);
	} else if (choice == 1) {
		len = snprintf(path, MESH__RUNTIME_DIR_PATH_MAX, "/dev/shm/mesh-%u", (unsigned)geteuid());
	}
	/* Room for "/stats/" and a file's name. */
	return len > 0 && len < MESH__RUNTIME_DIR_PATH_MAX - 256;
}

static int check_private(int fd, const char *path, bool is_writer, struct mesh_error *err)
{
	struct stat found;

	if (fstat(fd, &found))
		return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "%s: fstat", path);
	if (found.st_uid != geteuid() && (is_writer || geteuid() != 0))
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE, "%s belongs to user %u, not to us (%u)", path,
				   (unsigned)found.st_uid, (unsigned)geteuid());
	if (found.st_mode & (S_IWGRP | S_IWOTH))
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE, "%s has mode %04o: others may write in it", path,
				   (unsigned)(found.st_mode & 07777));
	return 0;
}

static int open_private(int parent, const char *name, const char *path, bool is_writer, struct mesh_error *err)
{
	int fd, result;

	if (is_writer && mkdirat(parent, name, 0700) && errno != EEXIST)
		return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "%s cannot be made", path);
	fd = mesh__descriptors_add(openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
	if (fd < 0 && errno == ENOENT)
		return mesh__fault(err, MESH_E_NOT_FOUND, MESH_STAGE_NONE, "%s does not exist", path);
	/* Both say ENOTDIR: a symlink, and what is no directory. */
	if (fd < 0 && (errno == ELOOP || errno == ENOTDIR))
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE, "%s is not a directory (symbolic links are not followed)", path);
	if (fd < 0)
		return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "%s cannot be opened", path);
	result = check_private(fd, path, is_writer, err);
	if (result) {
		mesh__descriptors_close(fd);
		return result;
	}
	return fd;
}

static int check_memory(int fd, const char *path, struct mesh_error *err)
{
	struct statfs found;

	if (fstatfs(fd, &found))
		return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "%s: fstatfs", path);
	if (found.f_type != TMPFS_MAGIC && found.f_type != RAMFS_MAGIC)
		return mesh__fault(err, MESH_E_SYSTEM, MESH_STAGE_NONE, "%s is not on a memory file system", path);
	return 0;
}

int mesh__runtime_dir_open_at(int parent, const char *name, const char *path, bool is_writer, struct mesh_error *err)
{
	return open_private(parent, name, path, is_writer, err);
}

int mesh__runtime_dir_open_inside(const char *runtime_dir, const char *inside, bool is_writer, bool must_be_memory, struct mesh_error *err)
{
	char path[MESH__RUNTIME_DIR_PATH_MAX + 16];
	int outer, inner, result;

	outer = open_private(AT_FDCWD, runtime_dir, runtime_dir, is_writer, err);
	if (outer < 0)
		return outer;
	result = must_be_memory ? check_memory(outer, runtime_dir, err) : 0;
	snprintf(path, sizeof(path), "%s/%.14s", runtime_dir, inside);
	inner = result ? result : open_private(outer, inside, path, is_writer, err);
	mesh__descriptors_close(outer);
	return inner;
}

int mesh__runtime_dir_open(const char *runtime_dir, bool is_writer, bool must_be_memory, struct mesh_error *err)
{
	return mesh__runtime_dir_open_inside(runtime_dir, "stats", is_writer, must_be_memory, err);
}
