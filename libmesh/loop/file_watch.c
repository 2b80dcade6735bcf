#include "loop/file_watch.h"

#include "base/clock.h"
#include "base/descriptors.h"

#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#define LOOK_ANYWAY_NS (2 * MESH__NS_PER_SEC)

static void on_again(struct mesh__timer *timer, struct mesh__loop *lp)
{
	struct mesh__file_watch *file = MESH__CONTAINER(timer, struct mesh__file_watch, again);

	mesh__timer_set(lp, timer, lp->now_ns + LOOK_ANYWAY_NS);
	file->look(file, false);
}

static void on_inotify(struct mesh__watch *watch, struct mesh__loop *lp, int what)
{
	struct mesh__file_watch *file = MESH__CONTAINER(watch, struct mesh__file_watch, watch);
	const char *name = strrchr(file->path, '/') + 1;
	char storage[4096] __attribute__((aligned(8)));
	bool is_ours = false;
	ssize_t n;

	(void)lp;
	(void)what;
	while ((n = read(watch->fd, storage, sizeof(storage))) > 0)
		for (ssize_t at = 0; at < n;) {
			const struct inotify_event *event = (const struct inotify_event *)(const void *)(storage + at);

			is_ours |= event->mask & IN_Q_OVERFLOW || (event->len && strcmp(event->name, name) == 0);
			at += (ssize_t)(sizeof(*event) + event->len);
		}
	file->look(file, is_ours);
}

static void watch_directory(struct mesh__file_watch *file, struct mesh__loop *lp)
{
	char dir[MESH__FILE_WATCH_PATH_MAX], *slash;
	int fd = mesh__descriptors_add(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));

	if (fd < 0)
		return;
	snprintf(dir, sizeof(dir), "%s", file->path);
	slash = strrchr(dir, '/');
	slash[slash == dir] = '\0';
	if (inotify_add_watch(fd, dir, IN_MOVED_TO | IN_CLOSE_WRITE | IN_DELETE | IN_ONLYDIR) < 0 ||
	    mesh__watch_open(lp, &file->watch, fd, MESH__WATCH_READ, on_inotify)) {
		mesh__descriptors_close(fd);
		file->watch = (struct mesh__watch){ 0 };
	}
}

void mesh__file_watch_start(struct mesh__file_watch *file, struct mesh__loop *lp)
{
	file->is_started = true;
	file->again.fire = on_again;
	mesh__timer_set(lp, &file->again, lp->now_ns + LOOK_ANYWAY_NS);
	watch_directory(file, lp);
}

void mesh__file_watch_stop(struct mesh__file_watch *file)
{
	int fd = file->watch.read_event || file->watch.write_event ? file->watch.fd : -1;

	mesh__timer_cancel(&file->again);
	mesh__watch_close(&file->watch);
	mesh__descriptors_close(fd);
}

bool mesh__file_watch_is_as_seen(const struct mesh__file_watch *file, const struct stat *info)
{
	return file->seen_inode == info->st_ino && file->seen_device == info->st_dev && file->seen_bytes == info->st_size &&
	       file->seen_time.tv_sec == info->st_mtim.tv_sec && file->seen_time.tv_nsec == info->st_mtim.tv_nsec;
}

void mesh__file_watch_remember(struct mesh__file_watch *file, const struct stat *info)
{
	file->seen_inode = info->st_ino;
	file->seen_device = info->st_dev;
	file->seen_bytes = info->st_size;
	file->seen_time = info->st_mtim;
}

void mesh__file_watch_forget(struct mesh__file_watch *file)
{
	file->seen_inode = 0;
}
