#include "stats/segment.h"

#include "stats/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum { RANGE_BYTES_MIN = 1024 * 1024 };

/*
 * Beyond RLIMIT_FSIZE the kernel would send SIGXFSZ, which ends a process that does not expect it: look first.
 */
static int check_file_limit(size_t size_bytes)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && size_bytes > limit.rlim_cur)
		return EFBIG;
	return 0;
}

static int grow(struct mesh__segment *segment, size_t size_bytes)
{
	int failed = 0;

	if (size_bytes > segment->limit_bytes)
		return ENOSPC;
	if (segment->fd >= 0) {
		failed = check_file_limit(size_bytes);
		while (!failed && (failed = posix_fallocate(segment->fd, (off_t)segment->size_bytes,
							    (off_t)(size_bytes - segment->size_bytes))) == EINTR)
			failed = 0;
	}
	if (!failed)
		segment->size_bytes = size_bytes;
	return failed;
}

static void *map(int fd, size_t bytes)
{
	int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);

	/* One touched counter must not become two megabytes. */
	if (base != MAP_FAILED && fd < 0)
		madvise(base, bytes, MADV_NOHUGEPAGE);
	return base;
}

int mesh__segment_init(struct mesh__segment *segment, int fd)
{
	void *base = MAP_FAILED;
	size_t bytes;
	int failed;

	/* Address space may be limited (RLIMIT_AS): less of it only means fewer series. */
	for (bytes = MESH__LAYOUT_BYTES_MAX; base == MAP_FAILED && bytes >= RANGE_BYTES_MIN; bytes /= 2) {
		base = map(fd, bytes);
		*segment = (struct mesh__segment){ .base = base, .limit_bytes = bytes, .fd = fd };
	}
	if (base == MAP_FAILED)
		return ENOMEM;
	failed = grow(segment, MESH__SEGMENT_STEP_BYTES);
	if (failed)
		mesh__segment_fini(segment);
	return failed;
}

void mesh__segment_fini(struct mesh__segment *segment)
{
	munmap(segment->base, segment->limit_bytes);
	*segment = (struct mesh__segment){ .fd = -1 };
}

size_t mesh__segment_alloc(struct mesh__segment *segment, size_t bytes)
{
	size_t offset = segment->used_bytes;

	bytes = (bytes + MESH__LAYOUT_PAGE_BYTES - 1) / MESH__LAYOUT_PAGE_BYTES * MESH__LAYOUT_PAGE_BYTES;
	if (offset + bytes > segment->size_bytes && grow(segment, segment->size_bytes + MESH__SEGMENT_STEP_BYTES))
		return 0;
	segment->used_bytes += bytes;
	return offset;
}
