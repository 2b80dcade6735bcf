#include "stats/reader.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/fault.h"
#include "mesh/stats.h"
#include "stats/process.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_file(const struct stat *found, const char *path, struct mesh_error *err)
{
	if (S_ISLNK(found->st_mode))
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE, "%s is a symbolic link, which is not followed", path);
	if (!S_ISREG(found->st_mode))
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE, "%s is not a regular file", path);
	if (found->st_uid != geteuid() && geteuid() != 0)
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE, "%s belongs to user %u, not to us (%u)", path,
				   (unsigned)found->st_uid, (unsigned)geteuid());
	return 0;
}

static int fail_open(int number, const char *path, struct mesh_error *err)
{
	if (number == ENOENT)
		return mesh__fault(err, MESH_E_NOT_FOUND, MESH_STAGE_NONE, "%s does not exist", path);
	if (number == ELOOP)
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE, "%s is a symbolic link, which is not followed", path);
	if (number == EACCES || number == EPERM)
		return mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE, "%s may not be read by us", path);
	return mesh__fault_errno(err, MESH_STAGE_NONE, number, "%s cannot be opened", path);
}

/* Looks before opening, since the mere opening of a device may do something; and after, since names can change between. */
int mesh__reader_open(int dir_fd, const char *name, const char *path, struct mesh_error *err)
{
	struct stat found;
	int fd, result;

	if (fstatat(dir_fd, name, &found, AT_SYMLINK_NOFOLLOW))
		return fail_open(errno, path, err);
	result = check_file(&found, path, err);
	if (result)
		return result;
	fd = mesh__descriptors_add(openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
	if (fd < 0)
		return fail_open(errno, path, err);
	result = fstat(fd, &found) ? mesh__fault_errno(err, MESH_STAGE_NONE, errno, "%s: fstat", path) : check_file(&found, path, err);
	if (result) {
		mesh__descriptors_close(fd);
		return result;
	}
	return fd;
}

int mesh__reader_copy(int fd, const char *path, void *to, size_t bytes, struct mesh_error *err)
{
	size_t done = 0;

	while (done < bytes) {
		ssize_t got = pread(fd, (char *)to + done, bytes - done, (off_t)done);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "%s cannot be read", path);
		if (got == 0)
			return mesh__fault(err, MESH_E_CORRUPT, MESH_STAGE_NONE, "%s ends after %zu of %zu bytes", path, done, bytes);
		done += (size_t)got;
	}
	return 0;
}

static bool is_sane(const struct mesh__layout_header *header)
{
	return header->header_bytes >= sizeof(*header) && header->header_bytes % 8 == 0 && header->shard_count >= 1 &&
	       header->shard_count <= MESH__READER_SHARDS_MAX && header->stride_bytes >= 8 && header->stride_bytes % 8 == 0 &&
	       header->stride_bytes <= MESH__LAYOUT_BYTES_MAX && header->size_bytes >= header->header_bytes &&
	       header->size_bytes % 8 == 0 && header->size_bytes <= MESH__LAYOUT_BYTES_MAX;
}

int mesh__reader_check(struct mesh__layout_header *header, const char *path, struct mesh_error *err)
{
	if (memcmp(header->magic, MESH__LAYOUT_MAGIC, sizeof(header->magic)) != 0)
		return mesh__fault(err, MESH_E_CORRUPT, MESH_STAGE_NONE, "%s is not a segment of counters", path);
	if (header->byte_order == __builtin_bswap32(MESH__LAYOUT_BYTE_ORDER))
		return mesh__fault(err, MESH_E_VERSION, MESH_STAGE_NONE, "%s was written on a machine of other byte order", path);
	if (header->byte_order == MESH__LAYOUT_BYTE_ORDER && header->major != MESH__LAYOUT_MAJOR)
		return mesh__fault(err, MESH_E_VERSION, MESH_STAGE_NONE, "%s has layout %u.%u, and this library reads layout %d", path,
				   header->major, header->minor, MESH__LAYOUT_MAJOR);
	if (header->byte_order != MESH__LAYOUT_BYTE_ORDER || !is_sane(header))
		return mesh__fault(err, MESH_E_CORRUPT, MESH_STAGE_NONE, "%s has an impossible header", path);
	header->boot_id[sizeof(header->boot_id) - 1] = '\0';
	header->service[sizeof(header->service) - 1] = '\0';
	header->version[sizeof(header->version) - 1] = '\0';
	if (header->loop_count > MESH__LAYOUT_LOOPS)
		header->loop_count = MESH__LAYOUT_LOOPS;
	return 0;
}

int mesh__reader_header(int fd, const char *path, struct mesh__layout_header *header, struct mesh_error *err)
{
	struct stat found;
	int result;

	if (fstat(fd, &found))
		return mesh__fault_errno(err, MESH_STAGE_NONE, errno, "%s: fstat", path);
	result = mesh__reader_copy(fd, path, header, sizeof(*header), err);
	if (!result)
		result = mesh__reader_check(header, path, err);
	/* The writer makes the file larger before it says so. */
	if (!result && (uint64_t)found.st_size < header->size_bytes && fstat(fd, &found) == 0 &&
	    (uint64_t)found.st_size < header->size_bytes)
		result = mesh__fault(err, MESH_E_CORRUPT, MESH_STAGE_NONE, "%s is cut off: it has %lld bytes and says %llu", path,
				     (long long)found.st_size, (unsigned long long)header->size_bytes);
	return result;
}

uint64_t mesh__reader_beat_age_ns(const struct mesh__layout_header *header, uint32_t loop_index, uint64_t now_ns)
{
	uint64_t beat_ns = header->loops[loop_index].beat_ns;

	if (!beat_ns)
		return UINT64_MAX;
	return now_ns > beat_ns ? now_ns - beat_ns : 0;
}

/*
 * A held lock may have been inherited by a child of fork() that runs no code of ours: where process numbers mean the same to
 * us as to the writer, ask the kernel, too.
 */
static bool is_gone(const struct mesh__layout_header *header)
{
	char boot_id[MESH__BOOT_ID_BYTES];

	mesh__process_boot_id(boot_id);
	if (!header->pid_namespace || header->pid_namespace != mesh__process_pid_namespace() || strcmp(boot_id, header->boot_id) != 0)
		return false;
	return header->start_ticks && mesh__process_start_ticks((int64_t)header->pid) != header->start_ticks;
}

int32_t mesh__reader_state(const struct mesh__layout_header *header, int fd)
{
	uint64_t now_ns = mesh__clock_now_ns();

	if (header->state == MESH__LAYOUT_CLOSED)
		return MESH_STATS_CLOSED;
	/* A shared lock, so that two readers who look at once do not take each other for the writer. */
	if (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) == 0) {
		flock(fd, LOCK_UN);
		return MESH_STATS_DEAD;
	}
	if (fd >= 0 && is_gone(header))
		return MESH_STATS_DEAD;
	for (uint32_t i = 0; i < header->loop_count; i++) {
		uint64_t age_ns = mesh__reader_beat_age_ns(header, i, now_ns);

		if (age_ns != UINT64_MAX && age_ns > MESH__READER_STUCK_NS)
			return MESH_STATS_STUCK;
	}
	return MESH_STATS_ALIVE;
}
