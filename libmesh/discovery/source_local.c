/*
 * local: servers of this user on this machine, found in a registry of files.
 *
 * <runtime dir>/registry/<service>/<pid>.<nonce> is one server: a line of JSON, written under another name, locked (flock) for
 * the server's life and only then renamed into place. Lock held: alive. The kernel lets go of the lock when the process dies,
 * however it dies; and since the file is open for writing, the same moment gives watchers an IN_CLOSE_WRITE. That event comes
 * a little before the lock is gone, so a watcher looks at once, again shortly after, and every few seconds in any case (which
 * also makes it work where inotify does not). Whoever meets an entry without a lock removes it. A server whose entry was
 * removed by somebody else (with the whole registry, usually: a session's runtime directory ends with its last login) makes
 * it anew.
 *
 * An entry does not say who answers: whoever may write one may write it under any name, and could pose as that service with an ID of
 * its own. Clients go by the name.
 */
#include "discovery/source.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"
#include "base/random.h"
#include "config/config.h"
#include "stats/runtime_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ENTRY_BYTES_MAX = 4096, ENTRIES_MAX = 65536, ANNOUNCE_TRIES = 100, FORMAT_VERSION = 1, PATH_BYTES_MAX = MESH__RUNTIME_DIR_PATH_MAX + 320 };

#define LOOK_AGAIN_NS (20 * MESH__NS_PER_MS)
#define LOOK_ANYWAY_NS (2 * MESH__NS_PER_SEC)

/* A service that somebody follows. */
struct followed {
	struct followed *next;
	struct mesh__source *source;
	struct mesh__service *service;
	struct mesh__timer look;
	int watch_id; /* of inotify; -1: none */
	bool is_soon;
};

struct local {
	struct mesh__source *source;
	char dir[MESH__RUNTIME_DIR_PATH_MAX];
	struct followed *first;
	int inotify_fd;
	struct mesh__watch watch;
	bool is_watching, has_warned;
	struct mesh__timer renew;
	struct mesh__task begin_renewing;
	atomic_bool is_renewing;
	struct { /* servers start and leave in any thread */
		pthread_mutex_t lock;
		struct mesh__list announced;
	} shared;
};

/* A server that we announced. */
struct announced {
	struct mesh__list node;
	int dir_fd, fd;
	struct mesh__address address;
	bool has_failed; /* to be renewed, and that was said */
	char name[64];
	char service[];
};

/* --- reading --- */

int mesh__source_local_parse(const char *text, size_t len, const char *service, struct mesh__found *found, const char **why)
{
	json_error_t error;
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
	const char *name = json_string_value(json_object_get(root, "service")), *address = json_string_value(json_object_get(root, "address"));
	int rc = -1;

	*why = "it is not an entry of a registry";
	if (!json_is_object(root))
		*why = "it is not a JSON object";
	else if (json_integer_value(json_object_get(root, "version")) != FORMAT_VERSION)
		*why = "its version is not 1";
	else if (!name || strcmp(name, service) != 0)
		*why = "it is about another service";
	else if (address && mesh__address_parse_endpoint(&found->address, address, strlen(address), why) == 0) {
		found->weight = 1;
		found->id = NULL;
		rc = 0;
	}
	json_decref(root);
	return rc;
}

static void remove_dead(int dir_fd, const char *name, int fd)
{
	struct stat ours, there;

	/* Only the very file whose lock we found free: another may have taken its name. */
	if (fstat(fd, &ours) == 0 && fstatat(dir_fd, name, &there, AT_SYMLINK_NOFOLLOW) == 0 && ours.st_ino == there.st_ino &&
	    ours.st_dev == there.st_dev)
		unlinkat(dir_fd, name, 0);
}

/* 1: a living server; 0: not one (any more); -1: cannot say, errno tells why. */
static int read_entry(struct followed *followed, int dir_fd, const char *name, struct mesh__found *found)
{
	const struct mesh__log *log = mesh__directory_opts(followed->source->dir)->log;
	char text[ENTRY_BYTES_MAX];
	const char *why = NULL;
	struct stat info;
	ssize_t len;
	int fd = mesh__descriptors_add(openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)), rc = 0;

	if (fd < 0)
		return errno == ENOENT || errno == ELOOP || errno == ENXIO || errno == EACCES ? 0 : -1;
	if (fstat(fd, &info) || !S_ISREG(info.st_mode) || info.st_uid != geteuid()) {
		why = "it is not a file of ours";
	} else if (flock(fd, LOCK_SH | LOCK_NB) == 0) {
		remove_dead(dir_fd, name, fd);
	} else {
		len = pread(fd, text, sizeof(text), 0);
		if (len <= 0 || len == (ssize_t)sizeof(text))
			why = "it is empty or too long";
		else if (mesh__source_local_parse(text, (size_t)len, mesh__service_name(followed->service), found, &why) == 0)
			rc = 1;
	}
	mesh__descriptors_close(fd);
	if (why && !rc)
		mesh__log_write(log, MESH_LOG_WARN, "registry: ignoring %s of %s: %s", name, mesh__service_name(followed->service), why);
	return rc;
}

static int open_service_dir(const struct local *local, const char *service, struct mesh_error *err)
{
	char path[PATH_BYTES_MAX];
	int registry = mesh__runtime_dir_open_inside(local->dir, "registry", true, false, err), fd;

	if (registry < 0)
		return registry;
	snprintf(path, sizeof(path), "%s/registry/%s", local->dir, service);
	fd = mesh__runtime_dir_open_at(registry, service, path, true, err);
	mesh__descriptors_close(registry);
	return fd;
}

/* Only an empty directory goes: one that looking for a name, or its last server, has left behind. */
static void remove_service_dir(const struct local *local, const char *service)
{
	char path[PATH_BYTES_MAX];

	snprintf(path, sizeof(path), "%s/registry/%s", local->dir, service);
	rmdir(path);
}

static void renew_watch(struct followed *followed)
{
	struct local *local = followed->source->data;
	char path[PATH_BYTES_MAX];
	int id;

	if (local->inotify_fd < 0)
		return;
	snprintf(path, sizeof(path), "%s/registry/%s", local->dir, mesh__service_name(followed->service));
	/* Adding the same directory again gives the same number; after it was removed and made again, a new one. */
	id = inotify_add_watch(local->inotify_fd, path, IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CLOSE_WRITE | IN_DELETE_SELF | IN_ONLYDIR | IN_DONT_FOLLOW);
	if (id < 0 && !local->has_warned) {
		local->has_warned = true;
		mesh__log_write(mesh__directory_opts(followed->source->dir)->log, MESH_LOG_WARN,
				"registry: cannot watch %s (%s): looking every two seconds instead", path, strerrordesc_np(errno));
	}
	followed->watch_id = id;
}

static DIR *open_listing(int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (fd >= 0 && !dir)
		close(fd);
	return dir;
}

static int compare_found(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct mesh__found));
}

/* Reads all entries into *found; their number, or -1 with errno: then what is known already stays. */
static int64_t read_entries(struct followed *followed, int dir_fd, struct mesh__found **found)
{
	DIR *dir = open_listing(dir_fd);
	uint32_t count = 0, capacity = 0;
	struct dirent *item;
	int rc = 0, reason;

	if (!dir)
		return -1;
	while (errno = 0, count < ENTRIES_MAX && (item = readdir(dir))) {
		if (item->d_name[0] == '.')
			continue;
		if (count == capacity) {
			struct mesh__found *larger = mesh__memory_realloc(*found, (capacity = capacity ? capacity * 2 : 16) * sizeof(**found));

			if (!larger) {
				errno = ENOMEM;
				break;
			}
			*found = larger;
		}
		memset(&(*found)[count], 0, sizeof((*found)[count]));
		rc = read_entry(followed, dir_fd, item->d_name, &(*found)[count]);
		if (rc < 0)
			break;
		count += (uint32_t)rc;
	}
	reason = errno;
	closedir(dir);
	errno = reason;
	return reason ? -1 : (int64_t)count;
}

static void look(struct followed *followed)
{
	struct local *local = followed->source->data;
	struct mesh_error err = MESH_ERROR_INIT;
	struct mesh__found *found = NULL;
	int fd = open_service_dir(local, mesh__service_name(followed->service), &err);
	int64_t count;

	if (fd < 0) {
		mesh__directory_failed(followed->source, followed->service, err.code, err.message);
		return;
	}
	renew_watch(followed);
	count = read_entries(followed, fd, &found);
	if (count < 0) {
		mesh__fault_errno(&err, MESH_STAGE_RESOLVE, errno, "cannot read the registry");
		mesh__directory_failed(followed->source, followed->service, err.code, err.message);
	} else if (count) {
		qsort(found, (size_t)count, sizeof(*found), compare_found);
		mesh__directory_deliver(followed->source, followed->service, found, (uint32_t)count);
	} else {
		mesh__directory_absent(followed->source, followed->service, "no server of it is running on this machine");
	}
	mesh__descriptors_close(fd);
	mesh__memory_free(found);
}

/* --- watching --- */

static void on_look(struct mesh__timer *timer, struct mesh__loop *lp)
{
	struct followed *followed = MESH__CONTAINER(timer, struct followed, look);

	followed->is_soon = false;
	look(followed);
	mesh__timer_set(lp, timer, lp->now_ns + LOOK_ANYWAY_NS);
}

static void on_inotify(struct mesh__watch *watch, struct mesh__loop *lp, int what)
{
	struct local *local = MESH__CONTAINER(watch, struct local, watch);
	char storage[4096] __attribute__((aligned(8)));
	ssize_t n;

	(void)what;
	while ((n = read(watch->fd, storage, sizeof(storage))) > 0)
		for (ssize_t at = 0; at < n;) {
			const struct inotify_event *event = (const struct inotify_event *)(const void *)(storage + at);

			for (struct followed *followed = local->first; followed; followed = followed->next)
				if (followed->watch_id == event->wd || event->mask & IN_Q_OVERFLOW)
					followed->is_soon = true;
			at += (ssize_t)(sizeof(*event) + event->len);
		}
	for (struct followed *followed = local->first; followed; followed = followed->next) {
		if (!followed->is_soon)
			continue;
		followed->is_soon = false;
		look(followed);
		mesh__timer_set(lp, &followed->look, lp->now_ns + LOOK_AGAIN_NS);
	}
}

static void start_watching(struct mesh__source *source)
{
	struct local *local = source->data;
	struct mesh__loop *lp = mesh__directory_opts(source->dir)->control;

	if (local->is_watching)
		return;
	local->is_watching = true;
	local->inotify_fd = mesh__descriptors_add(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	if (local->inotify_fd >= 0 && mesh__watch_open(lp, &local->watch, local->inotify_fd, MESH__WATCH_READ, on_inotify)) {
		mesh__descriptors_close(local->inotify_fd);
		local->inotify_fd = -1;
	}
}

static void follow(struct mesh__source *source, struct mesh__service *service)
{
	struct mesh__loop *lp = mesh__directory_opts(source->dir)->control;
	struct local *local = source->data;
	struct followed *followed = local->first;

	while (followed && followed->service != service)
		followed = followed->next;
	if (followed) {
		look(followed);
		return;
	}
	followed = mesh__memory_zalloc(sizeof(*followed));
	if (!followed) {
		mesh__directory_out_of_memory(source, service);
		return;
	}
	start_watching(source);
	followed->source = source;
	followed->service = service;
	followed->watch_id = -1;
	followed->look.fire = on_look;
	followed->next = local->first;
	local->first = followed;
	look(followed);
	mesh__timer_set(lp, &followed->look, lp->now_ns + LOOK_ANYWAY_NS);
}

/* --- announcing --- */

static int write_entry(struct announced *announced, struct mesh_error *err)
{
	char text[ENTRY_BYTES_MAX], address_text[MESH__ADDRESS_TEXT_MAX], hidden[80];
	const char *service = announced->service;
	int len, number;

	mesh__address_print(&announced->address, address_text);
	len = snprintf(text, sizeof(text), "{\"version\": %d, \"service\": \"%s\", \"address\": \"%s\", \"pid\": %ld}\n", FORMAT_VERSION, service,
		       address_text, (long)getpid());
	snprintf(announced->name, sizeof(announced->name), "%ld.%016llx", (long)getpid(), (unsigned long long)mesh__random_entropy());
	snprintf(hidden, sizeof(hidden), ".%s", announced->name);
	announced->fd = mesh__descriptors_add(openat(announced->dir_fd, hidden, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
	number = errno;
	if (announced->fd >= 0) {
		if (flock(announced->fd, LOCK_EX | LOCK_NB) == 0 && write(announced->fd, text, (size_t)len) == len &&
		    renameat(announced->dir_fd, hidden, announced->dir_fd, announced->name) == 0)
			return 0;
		number = errno;
		unlinkat(announced->dir_fd, hidden, 0);
	}
	mesh__fault_errno(err, MESH_STAGE_ACCEPT, number, "cannot announce %s in the registry", service);
	return number == ENOENT ? MESH_E_NOT_FOUND : mesh__fault_code_of_errno(number);
}

static void close_entry(struct announced *announced)
{
	mesh__descriptors_close(announced->fd);
	mesh__descriptors_close(announced->dir_fd);
	announced->fd = announced->dir_fd = -1;
}

/*
 * Makes directory and entry. Whoever leaves removes the directory of a service that has no entries; if that happens between
 * our two steps, we begin again.
 */
static int make_entry(const struct local *local, struct announced *announced, struct mesh_error *err)
{
	struct mesh_error why = MESH_ERROR_INIT; /* of the last try: what was overcome is no error */
	int rc = MESH_E_NOT_FOUND;

	for (int i = 0; rc == MESH_E_NOT_FOUND && i < ANNOUNCE_TRIES; i++) {
		announced->dir_fd = open_service_dir(local, announced->service, &why);
		rc = announced->dir_fd < 0 ? announced->dir_fd : write_entry(announced, &why);
		if (rc)
			close_entry(announced);
	}
	if (rc == MESH_E_NOT_FOUND)
		return mesh__fault(err, MESH_E_SYSTEM, MESH_STAGE_ACCEPT, "cannot announce %s in the registry: somebody keeps removing its directory in %s",
				   announced->service, local->dir);
	if (rc && err)
		mesh__fault_copy(err, &why);
	return rc;
}

/* The file that we hold has no name any more. */
static bool is_removed(const struct announced *announced)
{
	struct stat info;

	return announced->fd < 0 || (fstat(announced->fd, &info) == 0 && info.st_nlink == 0);
}

static void renew_entry(struct mesh__source *source, struct announced *announced)
{
	const struct mesh__log *log = mesh__directory_opts(source->dir)->log;
	struct mesh_error err = MESH_ERROR_INIT;
	int rc;

	if (!is_removed(announced))
		return;
	close_entry(announced);
	rc = make_entry(source->data, announced, &err);
	if (rc && !announced->has_failed)
		mesh__log_write(log, MESH_LOG_ERROR, "registry: the entry of %s was removed, and: %s", announced->service, err.message);
	else if (!rc)
		mesh__log_write(log, MESH_LOG_WARN, "registry: the entry of %s was removed; it has been made anew", announced->service);
	announced->has_failed = rc != 0;
}

static void on_renew(struct mesh__timer *timer, struct mesh__loop *lp)
{
	struct local *local = MESH__CONTAINER(timer, struct local, renew);

	pthread_mutex_lock(&local->shared.lock);
	for (struct mesh__list *node = local->shared.announced.next; node != &local->shared.announced; node = node->next)
		renew_entry(local->source, MESH__CONTAINER(node, struct announced, node));
	pthread_mutex_unlock(&local->shared.lock);
	mesh__timer_set(lp, timer, lp->now_ns + LOOK_ANYWAY_NS);
}

static void begin_renewing(struct mesh__task *task, struct mesh__loop *lp)
{
	struct local *local = MESH__CONTAINER(task, struct local, begin_renewing);

	local->renew.fire = on_renew;
	mesh__timer_set(lp, &local->renew, lp->now_ns + LOOK_ANYWAY_NS);
}

static void free_announced(struct announced *announced)
{
	close_entry(announced);
	mesh__memory_free(announced);
}

static int announce(struct mesh__source *source, const char *service, const struct mesh__address *address, void **out, struct mesh_error *err)
{
	struct announced *announced = mesh__memory_zalloc(sizeof(*announced) + strlen(service) + 1);
	struct local *local = source->data;
	int rc;

	if (!announced)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_ACCEPT, "out of memory to announce %s", service);
	announced->fd = announced->dir_fd = -1;
	announced->address = *address;
	memcpy(announced->service, service, strlen(service));
	rc = make_entry(local, announced, err);
	if (rc) {
		free_announced(announced);
		return rc;
	}
	pthread_mutex_lock(&local->shared.lock);
	mesh__list_append(&local->shared.announced, &announced->node);
	pthread_mutex_unlock(&local->shared.lock);
	if (!atomic_exchange(&local->is_renewing, true))
		mesh__loop_post(mesh__directory_opts(source->dir)->control, &local->begin_renewing);
	*out = announced;
	return 0;
}

static void withdraw(struct mesh__source *source, void *data)
{
	struct announced *announced = data;
	struct local *local = source->data;

	pthread_mutex_lock(&local->shared.lock);
	mesh__list_remove(&announced->node);
	pthread_mutex_unlock(&local->shared.lock);
	/* In a forked child the descriptors are closed, and the entry is the parent's. */
	if (announced->fd >= 0 && mesh__descriptors_is_ours(announced->fd)) {
		unlinkat(announced->dir_fd, announced->name, 0);
		remove_service_dir(local, announced->service);
	}
	free_announced(announced);
}

/* --- life --- */

static int open_local(struct mesh__source *source, const char *rest, struct mesh_error *err)
{
	struct local *local = mesh__memory_zalloc(sizeof(*local));
	const char *dir = rest;

	if (!*rest)
		dir = source->dir ? mesh__config_runtime_dir(mesh__directory_opts(source->dir)->config) : "/";
	if (!local)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for the registry");
	local->inotify_fd = -1;
	local->source = source;
	local->begin_renewing.run = begin_renewing;
	mesh__list_init(&local->shared.announced);
	source->data = local;
	if (*dir != '/' || strlen(dir) >= MESH__RUNTIME_DIR_PATH_MAX - 256) {
		mesh__memory_free(local);
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "discovery: local: needs an absolute path, \"%.64s\" is none (or too long)", dir);
	}
	snprintf(local->dir, sizeof(local->dir), "%s", dir);
	pthread_mutex_init(&local->shared.lock, NULL);
	return 0;
}

static void stop(struct mesh__source *source)
{
	struct local *local = source->data;

	for (struct followed *followed = local->first, *next; followed; followed = next) {
		next = followed->next;
		mesh__timer_cancel(&followed->look);
		remove_service_dir(local, mesh__service_name(followed->service));
		mesh__memory_free(followed);
	}
	local->first = NULL;
	mesh__timer_cancel(&local->renew);
	mesh__watch_close(&local->watch);
	mesh__descriptors_close(local->inotify_fd);
	local->inotify_fd = -1;
}

static void close_local(struct mesh__source *source)
{
	struct local *local = source->data;

	pthread_mutex_destroy(&local->shared.lock);
	mesh__memory_free(local);
}

const struct mesh__source_ops mesh__source_local = {
	.scheme = "local", .open = open_local, .follow = follow, .stop = stop, .close = close_local, .announce = announce, .withdraw = withdraw,
};
