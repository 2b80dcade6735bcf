#include "identity/policy_path.h"

#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"
#include "loop/file_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct mesh__policy_live {
	pthread_mutex_t lock; /* policy */
	struct mesh__policy *policy;
	_Atomic uint64_t generation;
	struct mesh__stats *stats;
	const struct mesh__log *log;
	struct mesh__loop *control;

	/* on the control loop */
	struct mesh__task start;
	struct mesh__file_watch watch; /* its path is "": no file */
	int32_t missing_code; /* why the file could not be read when last looked at; 0: it could */
	bool is_stopped;
};

/* --- publishing --- */

struct mesh__policy *mesh__policy_live_take(struct mesh__policy_live *live)
{
	struct mesh__policy *policy;

	pthread_mutex_lock(&live->lock);
	policy = mesh__policy_ref(live->policy);
	pthread_mutex_unlock(&live->lock);
	return policy;
}

uint64_t mesh__policy_live_generation(const struct mesh__policy_live *live)
{
	return atomic_load_explicit(&live->generation, memory_order_acquire);
}

static void publish(struct mesh__policy_live *live, struct mesh__policy *policy)
{
	struct mesh__policy *old;

	pthread_mutex_lock(&live->lock);
	old = live->policy;
	live->policy = policy;
	pthread_mutex_unlock(&live->lock);
	atomic_fetch_add_explicit(&live->generation, 1, memory_order_release);
	mesh__policy_unref(old);
}

/* --- the file --- */

static int open_file(struct mesh__policy_live *live, struct stat *info, struct mesh_error *err)
{
	int fd = mesh__descriptors_add(open(live->watch.path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)), code;

	if (fd >= 0 && fstat(fd, info) == 0) {
		if (S_ISREG(info->st_mode) && !(info->st_mode & S_IWOTH))
			return fd;
		if (S_ISREG(info->st_mode))
			mesh__fault(err, MESH_E_NOT_PRIVATE, MESH_STAGE_NONE, "policy: %.256s has mode %04o: everybody could let himself in. chmod o-w it, if it says what it should",
				    live->watch.path, (unsigned)(info->st_mode & 07777));
		else
			mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "policy: %.256s is not a regular file", live->watch.path);
	} else {
		code = mesh__fault_code_of_errno(errno);
		mesh__fault(err, code == MESH_E_SYSTEM ? MESH_E_OPTION : code, MESH_STAGE_NONE, "policy: cannot open %.256s: %s", live->watch.path,
			    strerrordesc_np(errno));
	}
	mesh__descriptors_close(fd);
	return -1;
}

/* At most one byte more than is allowed: the parser then says that it is too much. */
static int read_whole(struct mesh__policy_live *live, int fd, char *text, size_t *len, struct mesh_error *err)
{
	ssize_t n = 1;

	*len = 0;
	while (n > 0 && *len <= MESH__POLICY_BYTES_MAX) {
		n = read(fd, text + *len, MESH__POLICY_BYTES_MAX + 1 - *len);
		if (n < 0 && errno == EINTR)
			n = 1;
		else if (n > 0)
			*len += (size_t)n;
	}
	if (n < 0)
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "policy: cannot read %.256s: %s", live->watch.path, strerrordesc_np(errno));
	return 0;
}

static int read_policy(struct mesh__policy_live *live, int fd, struct mesh__policy **out, struct mesh_error *err)
{
	char *text = mesh__memory_alloc(MESH__POLICY_BYTES_MAX + 1);
	struct mesh_error why = MESH_ERROR_INIT;
	size_t len;
	int rc;

	*out = NULL;
	if (!text)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for a policy");
	rc = read_whole(live, fd, text, &len, err);
	if (rc == 0) {
		rc = mesh__policy_parse(out, text, len, &why);
		if (rc)
			mesh__fault(err, rc, MESH_STAGE_NONE, "policy: %.200s: %s", live->watch.path, why.message);
	}
	mesh__memory_free(text);
	return rc;
}

static void show_stale(struct mesh__policy_live *live, bool is_stale)
{
	mesh__gauge_set(mesh__stats_counter(live->stats, MESH__METRIC_POLICY_STALE, &(struct mesh__labels){ 0 }), is_stale);
}

static void refuse(struct mesh__policy_live *live, const struct mesh_error *err)
{
	show_stale(live, true);
	mesh__counter_add(mesh__stats_counter(live->stats, MESH__METRIC_POLICY_FAILURES_TOTAL, &(struct mesh__labels){ 0 }), mesh__shard_mine(), 1);
	mesh__log_write(live->log, MESH_LOG_ERROR, "%s; the last good policy stays", err->message);
}

void mesh__policy_live_look(struct mesh__policy_live *live, bool is_changed)
{
	struct mesh_error err = MESH_ERROR_INIT;
	struct mesh__policy *policy;
	struct stat info;
	int fd, rc;

	if (!*live->watch.path)
		return;
	fd = open_file(live, &info, &err);
	if (fd < 0) {
		if (live->missing_code != err.code)
			refuse(live, &err);
		live->missing_code = err.code;
		return;
	}
	if (is_changed || live->missing_code || !mesh__file_watch_is_as_seen(&live->watch, &info)) {
		live->missing_code = 0;
		mesh__file_watch_remember(&live->watch, &info);
		rc = read_policy(live, fd, &policy, &err);
		if (rc == 0) {
			publish(live, policy);
			show_stale(live, false);
			mesh__log_write(live->log, MESH_LOG_INFO, "policy: %.256s has changed and is in force", live->watch.path);
		} else {
			refuse(live, &err);
			if (rc != MESH_E_CORRUPT) /* memory was out, or the disk failed: again at the next look */
				mesh__file_watch_forget(&live->watch);
		}
	}
	mesh__descriptors_close(fd);
}

/* --- watching --- */

static void on_look(struct mesh__file_watch *watch, bool is_changed)
{
	mesh__policy_live_look(MESH__CONTAINER(watch, struct mesh__policy_live, watch), is_changed);
}

/* Between the first look and the watch the file may have changed. */
static void start(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh__policy_live *live = MESH__CONTAINER(task, struct mesh__policy_live, start);

	if (live->is_stopped)
		return;
	mesh__file_watch_start(&live->watch, lp);
	mesh__policy_live_look(live, false);
}

void mesh__policy_live_start(struct mesh__policy_live *live)
{
	live->start.run = start;
	if (*live->watch.path)
		mesh__loop_post(live->control, &live->start);
}

void mesh__policy_live_stop(struct mesh__policy_live *live)
{
	live->is_stopped = true;
	mesh__file_watch_stop(&live->watch);
}

/* --- life --- */

static int open_path(struct mesh__policy_live *live, const char *path, struct mesh_error *err)
{
	struct mesh_error why = MESH_ERROR_INIT;
	struct stat info;
	int fd, rc;

	if (*path != '/' || strlen(path) >= MESH__FILE_WATCH_PATH_MAX)
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "policy: \"%.64s\" is no absolute path of at most %d bytes", path,
				   MESH__FILE_WATCH_PATH_MAX - 1);
	snprintf(live->watch.path, sizeof(live->watch.path), "%s", path);
	fd = open_file(live, &info, &why);
	if (fd < 0) {
		mesh__fault_copy(err, &why);
		return why.code;
	}
	mesh__file_watch_remember(&live->watch, &info);
	rc = read_policy(live, fd, &live->policy, err);
	mesh__descriptors_close(fd);
	return rc;
}

static int first_policy(struct mesh__policy_live *live, const char *path, const char *allow, struct mesh_error *err)
{
	if (*path && *allow)
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "policy and allow are both set: write the patterns of allow into the policy's file");
	if (*path)
		return open_path(live, path, err);
	if (*allow)
		return mesh__policy_from_allow(&live->policy, allow, err);
	if (mesh__policy_default(&live->policy))
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for a policy");
	return 0;
}

int mesh__policy_live_open(const struct mesh__policy_live_options *opts, struct mesh__policy_live **out, struct mesh_error *err)
{
	struct mesh__policy_live *live = mesh__memory_zalloc(sizeof(*live));
	int rc;

	*out = NULL;
	if (!live)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for a policy");
	pthread_mutex_init(&live->lock, NULL);
	live->stats = opts->stats;
	live->log = opts->log;
	live->control = opts->control;
	live->watch.look = on_look;
	rc = first_policy(live, opts->path ? opts->path : "", opts->allow ? opts->allow : "", err);
	if (rc)
		mesh__policy_live_free(live);
	else
		*out = live;
	return rc;
}

void mesh__policy_live_free(struct mesh__policy_live *live)
{
	if (!live)
		return;
	mesh__policy_unref(live->policy);
	pthread_mutex_destroy(&live->lock);
	mesh__memory_free(live);
}
