#include "identity/private_files.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"
#include "base/random.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <mbedtls/platform_util.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOCK_WAIT_NS (10 * MESH__NS_PER_SEC)
#define LOCK_POLL_NS (5 * MESH__NS_PER_MS)

/* Those above are private, too: what is in a state directory concerns nobody else. One that is there already stays as it is. */
static int make_dirs(const char *dir, struct mesh_error *err)
{
	char path[MESH__PRIVATE_PATH_MAX];

	snprintf(path, sizeof(path), "%s", dir);
	for (char *at = path + 1;; at++) {
		char c = *at;

		if (c && (c != '/' || at[1] == '/' || !at[1]))
			continue;
		*at = '\0';
		if (mkdir(path, 0700) && errno != EEXIST)
			return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "the directory %s cannot be made", path);
		*at = c;
		if (!c)
			return 0;
	}
}

static int check_dir(int fd, const char *dir, bool is_shared, struct mesh_error *err)
{
	unsigned forbidden = is_shared ? S_IWGRP | S_IWOTH : S_IRWXG | S_IRWXO;
	struct stat found;

	if (fstat(fd, &found))
		return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "%s: fstat", dir);
	if (found.st_uid != geteuid())
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE, "the directory %s belongs to user %u, not to us (%u): use one of your own", dir,
				   (unsigned)found.st_uid, (unsigned)geteuid());
	if (found.st_mode & forbidden)
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE,
				   "the directory %s has mode %04o, so others may %s it: chmod 700 it, if nobody has touched what is in it", dir,
				   (unsigned)(found.st_mode & 07777), found.st_mode & (S_IWGRP | S_IWOTH) ? "write in" : "read");
	return 0;
}

int mesh__private_files_open_dir(const char *dir, bool create, bool is_shared, struct mesh_error *err)
{
	int fd, rc;

	if (!*dir || strlen(dir) >= MESH__PRIVATE_PATH_MAX)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "a directory's path must have 1 to %d bytes", MESH__PRIVATE_PATH_MAX - 1);
	if (create && (rc = make_dirs(dir, err)))
		return rc;
	fd = mesh__descriptors_add(open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
	if (fd < 0 && errno == ENOENT)
		return mesh__fault(err, MESH_E_NOT_FOUND, MESH_STAGE_NONE, "the directory %s does not exist", dir);
	/* Both say ENOTDIR: a symlink, and what is no directory. */
	if (fd < 0 && (errno == ELOOP || errno == ENOTDIR))
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE, "%s is not a directory (symbolic links are not followed): name the directory itself", dir);
	if (fd < 0)
		return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "the directory %s cannot be opened", dir);
	rc = check_dir(fd, dir, is_shared, err);
	if (rc) {
		mesh__descriptors_close(fd);
		return rc;
	}
	return fd;
}

static int check_file(const struct stat *found, const char *dir, const char *name, bool is_secret, struct mesh_error *err)
{
	if (!S_ISREG(found->st_mode))
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE, "%s/%s is not a regular file", dir, name);
	if (is_secret && found->st_uid != geteuid())
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE, "%s/%s belongs to user %u, not to us (%u): who owns a key can use it", dir, name,
				   (unsigned)found->st_uid, (unsigned)geteuid());
	if (is_secret && found->st_mode & (S_IRWXG | S_IRWXO))
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE,
				   "%s/%s has mode %04o: others may have read this key. chmod 600 it if you are sure that nobody did, else make a new one", dir, name,
				   (unsigned)(found->st_mode & 07777));
	if (found->st_size < 0 || found->st_size > MESH__PRIVATE_FILE_BYTES_MAX)
		return mesh__fault(err, MESH_E_CORRUPT, MESH_STAGE_NONE, "%s/%s has more than %d bytes: it is not what it should be", dir, name,
				   MESH__PRIVATE_FILE_BYTES_MAX);
	return 0;
}

static int read_all(int fd, size_t size, const char *dir, const char *name, char **data, size_t *len, struct mesh_error *err)
{
	char *text = mesh__memory_alloc(size + 1);
	size_t got = 0;
	ssize_t n = 1;

	if (!text)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while reading %s/%s", dir, name);
	while (got < size && (n = read(fd, text + got, size - got)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		got += (size_t)n;
	}
	if (n < 0) {
		int reason = errno;

		mesh__private_files_free(text, got);
		return mesh__fault_errno(err, MESH_STAGE_NONE, reason, "%s/%s cannot be read", dir, name);
	}
	text[got] = '\0';
	*data = text;
	*len = got;
	return 0;
}

int mesh__private_files_read(int dir_fd, const char *dir, const char *name, bool is_secret, char **data, size_t *len, struct mesh_error *err)
{
	int fd = mesh__descriptors_add(openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)), rc;
	struct stat found;

	if (fd < 0 && errno == ENOENT)
		return mesh__fault(err, MESH_E_NOT_FOUND, MESH_STAGE_NONE, "%s/%s does not exist", dir, name);
	if (fd < 0 && errno == ELOOP)
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE, "%s/%s is a symbolic link, which is not followed: put the file itself there", dir, name);
	if (fd < 0)
		return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "%s/%s cannot be opened", dir, name);
	if (fstat(fd, &found))
		rc = mesh__fault_errno(err, MESH_STAGE_NONE, errno, "%s/%s: fstat", dir, name);
	else
		rc = check_file(&found, dir, name, is_secret, err);
	if (!rc)
		rc = read_all(fd, (size_t)found.st_size, dir, name, data, len, err);
	mesh__descriptors_close(fd);
	return rc;
}

void mesh__private_files_free(char *data, size_t len)
{
	if (data)
		mbedtls_platform_zeroize(data, len);
	mesh__memory_free(data);
}

static int write_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

int mesh__private_files_write(int dir_fd, const char *dir, const char *name, unsigned mode, const void *data, size_t len, struct mesh_error *err)
{
	char beside[128];
	int fd, reason;

	snprintf(beside, sizeof(beside), ".%.80s.%016" PRIx64, name, mesh__random_entropy());
	fd = mesh__descriptors_add(openat(dir_fd, beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
	if (fd < 0)
		return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "%s/%s cannot be written", dir, name);
	/* fchmod, as the umask may have taken away more than it should. */
	if (fchmod(fd, mode) == 0 && write_all(fd, data, len) == 0 && fsync(fd) == 0 && renameat(dir_fd, beside, dir_fd, name) == 0 && fsync(dir_fd) == 0) {
		mesh__descriptors_close(fd);
		return 0;
	}
	reason = errno;
	unlinkat(dir_fd, beside, 0);
	mesh__descriptors_close(fd);
	return mesh__fault_errno(err, MESH_STAGE_NONE, reason, "%s/%s cannot be written", dir, name);
}

int mesh__private_files_lock(int dir_fd, const char *dir, struct mesh_error *err)
{
	int fd = mesh__descriptors_add(openat(dir_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
	uint64_t until_ns = mesh__clock_now_ns() + LOCK_WAIT_NS;

	if (fd < 0)
		return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "%s/lock cannot be opened", dir);
	/* Asking again and again, because a stopped process may keep the lock for ever. */
	while (flock(fd, LOCK_EX | LOCK_NB)) {
		int reason = errno;

		if ((reason == EWOULDBLOCK || reason == EINTR) && mesh__clock_now_ns() < until_ns) {
			nanosleep(&(struct timespec){ 0, LOCK_POLL_NS }, NULL);
			continue;
		}
		mesh__descriptors_close(fd);
		if (reason == EWOULDBLOCK)
			return mesh__fault(err, MESH_E_SYSTEM, MESH_STAGE_NONE, "another process has held %s/lock for 10 s: see `fuser %s/lock`", dir, dir);
		return mesh__fault_errno(err, MESH_STAGE_NONE, reason, "%s/lock cannot be locked", dir);
	}
	return fd;
}
