/*
 * file:DIR, a directory that somebody else keeps: a Secret that Kubernetes mounts (tls.crt, tls.key, ca.crt; cert-manager writes the
 * same), or spiffe-helper's svid.pem, svid_key.pem, svid_bundle.pem. ca.crt and bundles hold who signs for our own trust domain; other
 * trust domains are in bundles/DOMAIN.pem or .json. Without ca.crt, bundle.json or svid_bundle.json is our own, as a SPIFFE bundle. crl.pem, if it is there, holds
 * revocation lists of any of these authorities.
 *
 * The directory and bundles/ are watched. Kubernetes swaps the link ..data, which is one event; spiffe-helper writes one file after the
 * other: a change is looked at once nothing has happened for 50 ms. Only a set that fits together counts, as a whole; else the last good one
 * stays, and it is tried again at the next change and every 10 s. A directory that is not there yet is looked for at the same pace.
 *
 * A private key that others can read is refused, unlike a set that is merely not complete, with an error when the mesh is opened. Its group may
 * read it if its owner is root: so does Kubernetes mount it for a process that is not. A certificate or bundle that everybody can write is refused likewise.
 */
#include "identity/source.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"
#include "base/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mbedtls/platform_util.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#define SETTLE_NS (50 * MESH__NS_PER_MS)
#define RETRY_NS (10 * MESH__NS_PER_SEC)

enum { PATH_BYTES_MAX = 480, NAME_BYTES_MAX = PATH_BYTES_MAX + 300, KEY_BYTES_MAX = 64 * 1024, CHAIN_BYTES_MAX = 1024 * 1024, WHY_MAX = 512, REASON_MAX = 384 };

struct names {
	const char *chain, *key, *bundle;
};

#define CRL_NAME "crl.pem"

static const struct names known_names[] = {
	{ "tls.crt", "tls.key", "ca.crt" },
	{ "svid.pem", "svid_key.pem", "svid_bundle.pem" },
};

/* A SPIFFE bundle instead; the second is spiffe-helper's usual name. */
static const char *const json_names[] = { "bundle.json", "svid_bundle.json" };

struct dir {
	struct mesh__identity_source *source;
	char path[PATH_BYTES_MAX], why[WHY_MAX];
	const char *reason; /* label of what is wrong */
	int inotify_fd;
	struct mesh__watch watch;
	struct mesh__timer settle, retry;
	uint64_t digest; /* of the set that was delivered; 0: none */
	uint64_t reading; /* the digest of what is being read */
	char passed_over[NAME_MAX + 1]; /* in bundles/, and said */
};

struct content {
	uint8_t *data;
	size_t len;
};

/* One set, as read. */
struct set {
	struct content chain, key, bundle, json, crl;
	const struct names *names;
	const char *json_name;
	struct mesh__credentials *credentials;
	char passed_over[NAME_MAX + 1]; /* the first in bundles/ that no bundle is named like */
};

static int fail(struct dir *dir, int code, const char *reason, const char *format, ...) __attribute__((format(printf, 4, 5)));

static int fail(struct dir *dir, int code, const char *reason, const char *format, ...)
{
	struct mesh__text text;
	va_list args;

	dir->reason = reason;
	mesh__text_init(&text, dir->why, sizeof(dir->why));
	va_start(args, format);
	mesh__text_addv_escaped(&text, format, args);
	va_end(args);
	return code;
}

/* --- one file --- */

static void free_content(struct content *content)
{
	if (content->data)
		mbedtls_platform_zeroize(content->data, content->len + 1);
	mesh__memory_free(content->data);
	*content = (struct content){ 0 };
}

/* FNV-1a: only to see whether something changed. */
static void add_to_digest(struct dir *dir, const void *data, size_t len)
{
	const uint8_t *at = data;

	for (size_t i = 0; i < len; i++)
		dir->reading = (dir->reading ^ at[i]) * UINT64_C(1099511628211);
	dir->reading = (dir->reading ^ len) * UINT64_C(1099511628211);
}

static int check_private(struct dir *dir, const char *name, const struct stat *info)
{
	unsigned mode = info->st_mode & 07777, others = info->st_uid == 0 ? 037 : 077;

	if (info->st_uid != 0 && info->st_uid != geteuid())
		return fail(dir, MESH_E_NOT_PRIVATE, "not_private", "%s belongs to user %u, neither to us (%u) nor to root, so its private key is not used: chown it", name,
			    (unsigned)info->st_uid, (unsigned)geteuid());
	if (!(mode & others))
		return 0;
	return fail(dir, MESH_E_NOT_PRIVATE, "not_private", "%s has mode %04o, so others than its owner can reach the private key, and it is not used: chmod %s", name, mode,
		    info->st_uid == 0 ? "0440 it (Kubernetes: defaultMode 0440, with fsGroup)" : "0600 it");
}

/* Who can write it says whom we trust. */
static int check_ours(struct dir *dir, const char *name, const struct stat *info)
{
	if (!(info->st_mode & S_IWOTH))
		return 0;
	return fail(dir, MESH_E_NOT_PRIVATE, "not_private", "%s has mode %04o, so everybody can write into it, and it is not used: chmod o-w it, if it is what it should be",
		    name, (unsigned)(info->st_mode & 07777));
}

static int read_fd(struct dir *dir, int fd, const char *name, bool is_key, struct content *out)
{
	const size_t max = is_key ? KEY_BYTES_MAX : CHAIN_BYTES_MAX;
	struct stat info;
	ssize_t n = 1;

	if (fstat(fd, &info))
		return fail(dir, MESH_E_SYSTEM, "unreadable", "cannot look at %s: %s", name, strerrordesc_np(errno));
	if (!S_ISREG(info.st_mode) || info.st_size < 0 || (uint64_t)info.st_size > max)
		return fail(dir, MESH_E_CORRUPT, "unreadable", "%s is not a regular file of at most %zu KiB", name, max / 1024);
	if (is_key ? check_private(dir, name, &info) : check_ours(dir, name, &info))
		return MESH_E_NOT_PRIVATE;
	out->data = mesh__memory_zalloc((size_t)info.st_size + 1);
	if (!out->data)
		return fail(dir, MESH_E_NOMEM, "nomem", "out of memory for %s", name);
	while (out->len < (size_t)info.st_size && n > 0) {
		n = read(fd, out->data + out->len, (size_t)info.st_size - out->len);
		if (n > 0)
			out->len += (size_t)n;
	}
	if (n < 0)
		return fail(dir, MESH_E_SYSTEM, "unreadable", "cannot read %s: %s", name, strerrordesc_np(errno));
	add_to_digest(dir, out->data, out->len);
	return 0;
}

/* `may_miss`: MESH_E_NOT_FOUND without a sentence. Links are followed: Kubernetes' files are some. */
static int read_file(struct dir *dir, const char *leaf, bool is_key, bool may_miss, struct content *out)
{
	char name[NAME_BYTES_MAX];
	int fd, rc;

	snprintf(name, sizeof(name), "%s/%s", dir->path, leaf);
	fd = mesh__descriptors_add(open(name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
	if (fd < 0 && errno == ENOENT && may_miss)
		return MESH_E_NOT_FOUND;
	if (fd < 0)
		return fail(dir, errno == ENOENT ? MESH_E_NOT_FOUND : mesh__fault_code_of_errno(errno), errno == ENOENT ? "missing" : "unreadable",
			    "cannot open %s: %s", name, strerrordesc_np(errno));
	rc = read_fd(dir, fd, name, is_key, out);
	mesh__descriptors_close(fd);
	if (rc)
		free_content(out);
	return rc;
}

/* --- the set --- */

static bool has_file(const struct dir *dir, const char *leaf)
{
	char name[NAME_BYTES_MAX];

	snprintf(name, sizeof(name), "%s/%s", dir->path, leaf);
	return access(name, F_OK) == 0;
}

static const struct names *choose_names(struct dir *dir)
{
	for (size_t i = 0; i < sizeof(known_names) / sizeof(*known_names); i++)
		if (has_file(dir, known_names[i].chain) || has_file(dir, known_names[i].key))
			return &known_names[i];
	fail(dir, MESH_E_NOT_FOUND, "missing", "%s holds no certificate yet: tls.crt, tls.key and ca.crt, or svid.pem, svid_key.pem and svid_bundle.pem", dir->path);
	return NULL;
}

static int add_bundle(struct dir *dir, struct set *set, const char *leaf, const char *domain, enum mesh__bundle_format format, const struct content *content)
{
	char reason[REASON_MAX] = "";
	struct mesh__bundle *bundle;
	int rc = mesh__bundle_parse(&bundle, domain, format, content->data, content->len, false, reason, sizeof(reason));

	if (rc)
		return fail(dir, rc, "bundle", "%.200s/%.80s cannot be used: %s", dir->path, leaf, reason);
	rc = mesh__credentials_add_bundle(set->credentials, bundle);
	if (!rc)
		return 0;
	mesh__bundle_unref(bundle);
	return fail(dir, rc, "bundle", "%.200s/%.80s cannot be used: %s", dir->path, leaf,
		    rc == MESH_E_CORRUPT ? "there is a bundle for its trust domain already" : "there are too many bundles");
}

/* NAME.pem or NAME.json; *format and the trust domain. false: not a bundle by its name. */
static bool is_bundle_name(const char *leaf, char domain[MESH__TRUST_DOMAIN_MAX + 1], enum mesh__bundle_format *format)
{
	const char *dot = strrchr(leaf, '.'), *why;
	size_t len = dot ? (size_t)(dot - leaf) : 0;

	if (*leaf == '.' || !dot || mesh__trust_domain_check(leaf, len, &why))
		return false;
	if (strcmp(dot, ".pem") != 0 && strcmp(dot, ".json") != 0)
		return false;
	*format = dot[1] == 'p' ? MESH__BUNDLE_PEM : MESH__BUNDLE_JWKS;
	memcpy(domain, leaf, len);
	domain[len] = '\0';
	return true;
}

static int add_other_bundle(struct dir *dir, struct set *set, const char *name)
{
	char domain[MESH__TRUST_DOMAIN_MAX + 1], leaf[300];
	struct content content = { 0 };
	enum mesh__bundle_format format;
	int rc;

	if (!is_bundle_name(name, domain, &format)) {
		if (*name != '.' && !*set->passed_over)
			snprintf(set->passed_over, sizeof(set->passed_over), "%s", name);
		return 0;
	}
	snprintf(leaf, sizeof(leaf), "bundles/%s", name);
	rc = read_file(dir, leaf, false, true, &content);
	if (rc)
		return rc == MESH_E_NOT_FOUND ? 0 : rc; /* it went away just now */
	add_to_digest(dir, name, strlen(name));
	rc = add_bundle(dir, set, leaf, domain, format, &content);
	free_content(&content);
	return rc;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* In the order of their names, so that the same files are the same set. */
static int add_other_bundles(struct dir *dir, struct set *set)
{
	char name[NAME_BYTES_MAX];
	struct dirent **entries;
	int count, rc = 0;

	snprintf(name, sizeof(name), "%s/bundles", dir->path);
	count = scandir(name, &entries, NULL, by_name);
	if (count < 0)
		return errno == ENOENT ? 0 : fail(dir, MESH_E_SYSTEM, "unreadable", "cannot list %s: %s", name, strerrordesc_np(errno));
	for (int i = 0; i < count; i++) {
		if (!rc)
			rc = add_other_bundle(dir, set, entries[i]->d_name);
		free(entries[i]);
	}
	free(entries);
	return rc;
}

/* The trust domain of a chain, which says whose the bundle beside it is. */
static int find_domain(struct dir *dir, const struct set *set, char domain[MESH__TRUST_DOMAIN_MAX + 1])
{
	struct mesh__spiffe_id id;
	char reason[REASON_MAX] = "";
	mbedtls_x509_crt chain;
	uint32_t count = 0;
	int rc;

	mbedtls_x509_crt_init(&chain);
	rc = mesh__certificate_parse_all(&chain, false, set->chain.data, set->chain.len, 16, &count, reason, sizeof(reason));
	if (!rc && !count) {
		snprintf(reason, sizeof(reason), "it is empty");
		rc = MESH_E_CORRUPT;
	}
	if (!rc && mesh__certificate_check_leaf(&chain, &id, reason, sizeof(reason)))
		rc = MESH_E_CORRUPT;
	mbedtls_x509_crt_free(&chain);
	if (rc)
		return fail(dir, rc, "malformed", "%.200s/%s cannot be used: %s", dir->path, set->names->chain, reason);
	snprintf(domain, MESH__TRUST_DOMAIN_MAX + 1, "%.*s", (int)id.domain_len, mesh__spiffe_id_domain(&id));
	return 0;
}

/* ca.crt, or else a SPIFFE bundle: whoever has neither could trust nobody, not even its own. */
static int add_own_bundle(struct dir *dir, struct set *set)
{
	char domain[MESH__TRUST_DOMAIN_MAX + 1];
	int rc = find_domain(dir, set, domain);

	if (rc)
		return rc;
	if (set->bundle.data)
		return add_bundle(dir, set, set->names->bundle, domain, MESH__BUNDLE_PEM, &set->bundle);
	return add_bundle(dir, set, set->json_name, domain, MESH__BUNDLE_JWKS, &set->json);
}

static int add_crl(struct dir *dir, struct set *set)
{
	char reason[REASON_MAX] = "";
	int rc = read_file(dir, CRL_NAME, false, true, &set->crl);

	if (rc)
		return rc == MESH_E_NOT_FOUND ? 0 : rc;
	rc = mesh__credentials_add_crl(set->credentials, false, set->crl.data, set->crl.len, reason, sizeof(reason));
	return rc ? fail(dir, rc, rc == MESH_E_NOMEM ? "nomem" : "crl", "%.200s/%s cannot be used: %s", dir->path, CRL_NAME, reason) : 0;
}

static int add_svid(struct dir *dir, struct set *set)
{
	char reason[REASON_MAX] = "";
	int rc = mesh__credentials_add_svid(set->credentials, false, set->chain.data, set->chain.len, set->key.data, set->key.len, NULL, reason, sizeof(reason));

	if (!rc)
		return 0;
	return fail(dir, rc, rc == MESH_E_IDENTITY ? "expired" : rc == MESH_E_NOMEM ? "nomem" : "mismatch", "%.200s (%s, %s): %s", dir->path,
		    set->names->chain, set->names->key, reason);
}

static int read_set(struct dir *dir, struct set *set)
{
	int rc;

	set->names = choose_names(dir);
	if (!set->names)
		return MESH_E_NOT_FOUND;
	rc = read_file(dir, set->names->key, true, false, &set->key);
	if (!rc)
		rc = read_file(dir, set->names->chain, false, false, &set->chain);
	if (rc)
		return rc;
	rc = read_file(dir, set->names->bundle, false, true, &set->bundle);
	if (rc != MESH_E_NOT_FOUND)
		return rc;
	for (size_t i = 0; rc == MESH_E_NOT_FOUND && i < sizeof(json_names) / sizeof(*json_names); i++) {
		set->json_name = json_names[i];
		rc = read_file(dir, set->json_name, false, true, &set->json);
	}
	if (rc == MESH_E_NOT_FOUND)
		return fail(dir, rc, "missing", "%s has neither %s nor bundle.json: whom to trust is not said", dir->path, set->names->bundle);
	return rc;
}

/* The names, too, for cert-manager's Secret may turn into spiffe-helper's. */
static int read_all(struct dir *dir, struct set *set)
{
	int rc = read_set(dir, set);

	if (!rc && mesh__credentials_new(&set->credentials))
		rc = fail(dir, MESH_E_NOMEM, "nomem", "out of memory for the identity in %s", dir->path);
	if (!rc)
		rc = add_own_bundle(dir, set);
	if (!rc)
		rc = add_other_bundles(dir, set);
	if (!rc)
		rc = add_crl(dir, set);
	return rc ? rc : add_svid(dir, set);
}

/* Said once: as staging.example.crt it is no mistake that refuses the set, but somebody believes that it counts. */
static void tell_passed_over(struct dir *dir, const struct set *set)
{
	if (*set->passed_over && strcmp(set->passed_over, dir->passed_over) != 0)
		mesh__log_write(dir->source->opts->log, MESH_LOG_WARN, "identity: %s/bundles/%s is not read: bundles are named DOMAIN.pem or DOMAIN.json, as staging.example.pem",
				dir->path, set->passed_over);
	snprintf(dir->passed_over, sizeof(dir->passed_over), "%s", set->passed_over);
}

/* Delivers what is new. On an error the sentence is in dir->why. */
static int look(struct dir *dir)
{
	struct set set = { 0 };
	int rc;

	dir->reading = UINT64_C(14695981039346656037);
	rc = read_all(dir, &set);
	if (!rc && dir->reading != dir->digest) {
		dir->digest = dir->reading;
		mesh__identity_deliver(dir->source, set.credentials);
		set.credentials = NULL;
	}
	if (!rc)
		tell_passed_over(dir, &set);
	mesh__credentials_unref(set.credentials);
	free_content(&set.key);
	free_content(&set.chain);
	free_content(&set.bundle);
	free_content(&set.json);
	free_content(&set.crl);
	return rc;
}

/* --- watching --- */

static void watch_paths(struct dir *dir)
{
	const uint32_t what = IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_CLOSE_WRITE | IN_DELETE | IN_ATTRIB | IN_ONLYDIR;
	char bundles[NAME_BYTES_MAX];

	if (dir->inotify_fd < 0)
		return;
	/* Again and again: the same directory is the same watch, and a new one in its place is seen. */
	snprintf(bundles, sizeof(bundles), "%s/bundles", dir->path);
	(void)inotify_add_watch(dir->inotify_fd, dir->path, what);
	(void)inotify_add_watch(dir->inotify_fd, bundles, what);
}

/* Good or bad, it is looked at every 10 s: inotify may be out of watches, or the directory replaced. What is the same is not delivered again. */
static void look_and_tell(struct dir *dir)
{
	struct mesh__loop *lp = dir->source->opts->control;

	watch_paths(dir);
	if (look(dir))
		mesh__identity_failed(dir->source, dir->reason, dir->why);
	mesh__timer_set(lp, &dir->retry, lp->now_ns + RETRY_NS);
}

static void on_settled(struct mesh__timer *timer, struct mesh__loop *lp)
{
	(void)lp;
	look_and_tell(MESH__CONTAINER(timer, struct dir, settle));
}

static void on_retry(struct mesh__timer *timer, struct mesh__loop *lp)
{
	(void)lp;
	look_and_tell(MESH__CONTAINER(timer, struct dir, retry));
}

static void on_inotify(struct mesh__watch *watch, struct mesh__loop *lp, int what)
{
	struct dir *dir = MESH__CONTAINER(watch, struct dir, watch);
	char storage[4096] __attribute__((aligned(8)));

	(void)what;
	while (read(watch->fd, storage, sizeof(storage)) > 0)
		;
	mesh__timer_set(lp, &dir->settle, lp->now_ns + SETTLE_NS);
}

static void start(struct mesh__identity_source *source)
{
	struct dir *dir = source->data;
	struct mesh__loop *lp = source->opts->control;

	dir->inotify_fd = mesh__descriptors_add(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	if (dir->inotify_fd >= 0 && mesh__watch_open(lp, &dir->watch, dir->inotify_fd, MESH__WATCH_READ, on_inotify)) {
		mesh__descriptors_close(dir->inotify_fd);
		dir->inotify_fd = -1;
	}
	look_and_tell(dir); /* again: what changed since open was not watched */
}

/* --- life --- */

static int check_path(const char *path, struct mesh_error *err)
{
	if (*path == '/' && strlen(path) < PATH_BYTES_MAX)
		return 0;
	return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE,
			   "option identity: file: is followed by the absolute path of a directory of at most %d characters; \"%.64s\" is none", PATH_BYTES_MAX - 1, path);
}

/* A set that is not there yet, or not whole, is no error: whoever writes it may come later. */
static int open_dir(struct mesh__identity_source *source, const char *rest, struct mesh_error *err)
{
	struct dir *dir;
	int rc = check_path(rest, err);

	if (rc)
		return rc;
	dir = mesh__memory_zalloc(sizeof(*dir));
	if (!dir)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for an identity source");
	dir->source = source;
	dir->inotify_fd = -1;
	dir->settle.fire = on_settled;
	dir->retry.fire = on_retry;
	snprintf(dir->path, sizeof(dir->path), "%s", rest);
	source->data = dir;
	rc = look(dir);
	if (rc != MESH_E_NOT_PRIVATE && rc != MESH_E_NOMEM) {
		if (rc)
			mesh__identity_failed(source, dir->reason, dir->why);
		return 0;
	}
	rc = mesh__fault(err, rc, MESH_STAGE_NONE, "%s", dir->why);
	source->data = NULL;
	mesh__memory_free(dir);
	return rc;
}

static void stop(struct mesh__identity_source *source)
{
	struct dir *dir = source->data;

	mesh__timer_cancel(&dir->settle);
	mesh__timer_cancel(&dir->retry);
	mesh__watch_close(&dir->watch);
	mesh__descriptors_close(dir->inotify_fd);
	dir->inotify_fd = -1;
}

static void close_dir(struct mesh__identity_source *source)
{
	mesh__memory_free(source->data);
	source->data = NULL;
}

const struct mesh__identity_source_ops mesh__identity_file = {
	.scheme = "file", .open = open_dir, .start = start, .stop = stop, .close = close_dir,
};
