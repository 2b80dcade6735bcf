/*
 * mesh check: is everything in order? A line per check, a hint for each that is not. Nothing is repaired. It opens a mesh as a
 * service would, so that what makes services fail shows here first; where there is no local: authority yet, that makes one.
 */
#include "command.h"
#include "identity.h"
#include "output.h"
#include "session.h"

#include "mesh/identity.h"
#include "mesh/options.h"

#include <errno.h>
#include <poll.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

enum {
	DAY_S = 86400,
	SOURCE_PATIENCE_MS = 3000,        /* for a Workload API to answer */
	AUTHORITY_DAYS_MIN = 60,          /* to replace a root takes weeks: linkerd warns so early, too */
	DESCRIPTORS_MIN = 1024,
	TLS_VERSION_MIN = 0x03060600,     /* 3.6.6: what is older has known holes */
};
#define AUTHORITY_DIR "ca"
#define YEAR_2026_S INT64_C(1767225600) /* this library is not older: a clock that says so is wrong */
#define TLS_SUPPORT_ENDS_S INT64_C(1806537600) /* 2027-04-01: mbedTLS 3.6 is maintained until March 2027 */

enum level { OK, WARN, FAIL };

struct check_args {
	const char *dir;
	bool is_json;
};

static const struct arg args[] = {
	{ "json", 0, ARG_FLAG, offsetof(struct check_args, is_json), NULL, "print as JSON", 0, 0 },
	{ "dir", 0, ARG_TEXT, offsetof(struct check_args, dir), "DIR", "where the counters are (default: option `stats.dir`)", 0, 0 },
	{ 0 },
};

struct report {
	json_t *rows; /* NULL: for people */
	unsigned counts[3];
};

static void print_row(enum level level, const char *name, const char *said, const char *hint)
{
	static const struct {
		const char *text;
		enum colour colour;
	} marks[] = { { "ok", GREEN }, { "warn", YELLOW }, { "FAIL", RED } };

	paint(stdout, marks[level].colour, "%-4s", marks[level].text);
	printf("  %-12s ", name);
	print_escaped(stdout, said, strlen(said), false);
	putchar('\n');
	if (level == OK || !*hint)
		return;
	printf("%20s", "-> ");
	print_escaped(stdout, hint, strlen(hint), false);
	putchar('\n');
}

static void tell(struct report *report, enum level level, const char *name, const char *hint, const char *format, ...)
	__attribute__((format(printf, 5, 6)));

static void tell(struct report *report, enum level level, const char *name, const char *hint, const char *format, ...)
{
	static const char *const words[] = { "ok", "warn", "FAIL" };
	char said[1280];
	va_list list;

	va_start(list, format);
	vsnprintf(said, sizeof(said), format, list);
	va_end(list);
	report->counts[level]++;
	if (report->rows)
		json_array_append_new(report->rows, json_pack("{s:s, s:s, s:o, s:o}", "check", name, "result", words[level], "message",
							      json_text(said, strlen(said)), "hint",
							      json_text(level == OK ? "" : hint, level == OK ? 0 : strlen(hint))));
	else
		print_row(level, name, said, hint);
}

/* ---- options ---- */

struct opening {
	struct report *report;
	unsigned warnings, problems;
	bool is_closed;
};

static void on_log(int32_t level, const char *line, void *user)
{
	static const char subject[] = "options: ";
	struct opening *opening = user;

	if (opening->is_closed || level > MESH_LOG_WARN || strncmp(line, subject, strlen(subject)) != 0)
		return;
	tell(opening->report, level == MESH_LOG_WARN ? WARN : FAIL, "options", "`mesh config` lists all, mesh-options(7) says what they do", "%s",
	     line + strlen(subject));
	if (level == MESH_LOG_WARN)
		opening->warnings++;
	else
		opening->problems++;
}

/* Opens a mesh as a service here would; NULL: it cannot, and that was told. */
static mesh *check_options(struct report *report)
{
	static const struct mesh_setting quiet[] = { { "stats", "off" } };
	struct opening opening = { .report = report };
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	mesh *m = NULL;

	opts.service = "mesh";
	opts.settings = quiet;
	opts.setting_count = 1;
	opts.log = on_log;
	opts.log_user = &opening;
	int result = mesh_open(&opts, &m, &err);
	opening.is_closed = true;
	if (result && !opening.problems)
		tell(report, FAIL, err.code == MESH_E_OPTION ? "options" : "opening", "no service with these options can start here", "%s", err.message);
	else if (!result && !opening.warnings)
		tell(report, OK, "options", "", "all MESH_ names are known, all values in range");
	return result ? NULL : m;
}

static void get_option(mesh *m, const char *name, const char *variable, char *value, size_t capacity)
{
	const char *given = getenv(variable);

	value[0] = '\0';
	if (!m || mesh_options_get(m, name, NULL, value, capacity) < 0)
		snprintf(value, capacity, "%s", given ? given : "");
}

static void check_encryption(struct report *report, mesh *m)
{
	char tls[16], identity[600];

	get_option(m, "tls", "MESH_TLS", tls, sizeof(tls));
	get_option(m, "identity", "MESH_IDENTITY", identity, sizeof(identity));
	if (strcmp(tls, "off") == 0 || strcmp(identity, "off") == 0)
		tell(report, WARN, "encryption", "leave MESH_TLS=off and MESH_IDENTITY=off out", "PLAIN TEXT: what starts here with these options encrypts nothing and proves nothing");
	else if (!m)
		tell(report, WARN, "encryption", "see what is said above first", "not known: nothing starts here with these options");
	else
		tell(report, OK, "encryption", "", "what starts here with these options encrypts, and both sides show who they are");
}

/* ---- the machine ---- */

static void check_clock(struct report *report)
{
	struct timex state = { .modes = 0 };
	int result = adjtimex(&state);

	if (wall_s() < YEAR_2026_S)
		tell(report, FAIL, "clock", "set it: certificates are judged by the wall clock", "the clock is before 2026: every certificate seems not yet valid");
	else if (result < 0)
		tell(report, WARN, "clock", "see to it that the host keeps time", "the kernel does not say whether the clock is synchronised: %s", strerror(errno));
	else if (result == TIME_ERROR || (state.status & STA_UNSYNC))
		tell(report, WARN, "clock", "start chrony or systemd-timesyncd: a clock that is minutes off refuses good certificates",
		     "the clock is not synchronised (NTP)");
	else
		tell(report, OK, "clock", "", "synchronised, at most %ld ms off", (long)state.maxerror / 1000);
}

static void check_tls_version(struct report *report)
{
	uint32_t number = mesh_tls_version_number();
	unsigned major = number >> 24, minor = number >> 16 & 0xff, patch = number >> 8 & 0xff;

	if (number < TLS_VERSION_MIN)
		tell(report, FAIL, "mbedtls", "install the security updates of libmbedtls", "mbedTLS %u.%u.%u is loaded: before 3.6.6 it has known holes", major, minor, patch);
	else if (number >> 16 == 0x0306 && wall_s() >= TLS_SUPPORT_ENDS_S)
		tell(report, WARN, "mbedtls", "move to a supported version, unless your distribution maintains it", "mbedTLS %u.%u.%u: its makers maintain 3.6 until March 2027 and no longer",
		     major, minor, patch);
	else
		tell(report, OK, "mbedtls", "", "mbedTLS %u.%u.%u (3.6 is maintained until March 2027)", major, minor, patch);
}

static void check_descriptors(struct report *report)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		tell(report, WARN, "descriptors", "", "the limit cannot be read: %s", strerror(errno));
	else if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < DESCRIPTORS_MIN)
		tell(report, WARN, "descriptors", "ulimit -n 65536, or LimitNOFILE= of the unit: each connection needs one", "at most %llu descriptors in a process started here",
		     (unsigned long long)limit.rlim_cur);
	else
		tell(report, OK, "descriptors", "", "at most %llu in a process started here", (unsigned long long)limit.rlim_cur);
}

/* ---- what has to be private ---- */

/* `forbidden`: permission bits that others must not have. False: it was told what is wrong, or that it is not there. */
static bool check_private(struct report *report, const char *name, const char *path, mode_t type, mode_t forbidden, const char *absent)
{
	struct stat found;
	char hint[1200];

	snprintf(hint, sizeof(hint), "look who changed it; then chown and chmod %s %s", type == S_IFDIR ? "0700" : "0600", path);
	if (lstat(path, &found) != 0 && errno == ENOENT) {
		tell(report, OK, name, "", "%s is not there: %s", path, absent);
		return false;
	}
	if (lstat(path, &found) != 0)
		tell(report, FAIL, name, "see to its permissions", "%s: %s", path, strerror(errno));
	else if ((found.st_mode & S_IFMT) != type)
		tell(report, FAIL, name, hint, "%s is not a %s (symbolic links are not followed)", path, type == S_IFDIR ? "directory" : "regular file");
	else if (found.st_uid != geteuid())
		tell(report, FAIL, name, hint, "%s belongs to user %u, not to us (%u)", path, (unsigned)found.st_uid, (unsigned)geteuid());
	else if (found.st_mode & forbidden)
		tell(report, FAIL, name, hint, "%s has mode %04o: others may use it", path, (unsigned)(found.st_mode & 07777));
	else {
		tell(report, OK, name, "", "%s is ours alone", path);
		return true;
	}
	return false;
}

static void check_state_dir(struct report *report, mesh *m)
{
	const char *state_home = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	const struct passwd *user = home && *home == '/' ? NULL : getpwuid(geteuid());
	char dir[1024], path[1100];

	if (user) /* as the library does it */
		home = user->pw_dir;

	get_option(m, "state.dir", "MESH_STATE_DIR", dir, sizeof(dir));
	if (!*dir && state_home && *state_home == '/')
		snprintf(dir, sizeof(dir), "%s/mesh", state_home);
	else if (!*dir && home && *home == '/')
		snprintf(dir, sizeof(dir), "%s/.local/state/mesh", home);
	if (!*dir) {
		tell(report, WARN, "state", "set MESH_STATE_DIR, or HOME", "no directory for what has to last, as the local: authority");
		return;
	}
	if (!check_private(report, "state", dir, S_IFDIR, 022, "it is made when the first service starts"))
		return;
	snprintf(path, sizeof(path), "%s/" AUTHORITY_DIR, dir);
	if (!check_private(report, "authority", path, S_IFDIR, 077, "it is made when the first service needs it"))
		return;
	snprintf(path, sizeof(path), "%s/" AUTHORITY_DIR "/ca.key", dir);
	check_private(report, "authority", path, S_IFREG, 077, "it is made when the first service needs it");
}

static void check_runtime_dir(struct report *report, mesh *m)
{
	static const char absent[] = "it is made when the first service starts";
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	char dir[1024];

	get_option(m, "runtime.dir", "MESH_RUNTIME_DIR", dir, sizeof(dir));
	if (!*dir && runtime && *runtime == '/')
		snprintf(dir, sizeof(dir), "%s/mesh", runtime);
	else if (!*dir)
		snprintf(dir, sizeof(dir), "/dev/shm/mesh-%u", (unsigned)geteuid());
	check_private(report, "runtime", dir, S_IFDIR, 022, absent);
}

/* SPIRE replaces its authorities by itself, within a day where nothing else is said: there a short rest is no news. */
static bool are_replaced_for_us(const char *source)
{
	return strncmp(source, "spiffe:", strlen("spiffe:")) == 0;
}

static void check_trust(struct report *report, const char *who, const char *source, const char *domain, int64_t latest_s)
{
	int64_t left_s = latest_s > 0 ? latest_s - wall_s() : 0;
	char left[HUMAN_BYTES];

	if (latest_s <= 0)
		tell(report, WARN, "authority", "give it a bundle, or leave the domain out", "%s: the bundle of %s is empty: nobody of it is believed", who, domain);
	else if (left_s <= 0)
		tell(report, FAIL, "authority", "replace it at once", "%s: no authority of %s is valid any more: nobody of it can be verified", who, domain);
	else if (left_s < (int64_t)AUTHORITY_DAYS_MIN * DAY_S && !are_replaced_for_us(source))
		tell(report, WARN, "authority", "add its successor to the bundle now, and let it expire there", "%s: the last authority of %s expires in %s", who, domain,
		     human_seconds(left, left_s));
}

static void check_bundles(struct report *report, const char *who, const struct identity *identity)
{
	struct mesh_stats_bundle bundle = { .size = sizeof(bundle) };

	for (uint32_t i = 0; i < identity->info.bundle_count; i++) {
		if (mesh_stats_identity_bundle(identity->process->view, i, &bundle) == 0)
			check_trust(report, who, identity->info.source, bundle.trust_domain, bundle.latest_not_after_s);
	}
}

/* What signed the certificate ends before or with it: a renewal that the issuer cannot give any more. */
static void check_issuer(struct report *report, const char *who, const char *source, int64_t issuer_not_after_s)
{
	int64_t left_s = issuer_not_after_s > 0 ? issuer_not_after_s - wall_s() : 0;
	char left[HUMAN_BYTES];

	if (issuer_not_after_s > 0 && left_s < (int64_t)AUTHORITY_DAYS_MIN * DAY_S && !are_replaced_for_us(source))
		tell(report, left_s > 0 ? WARN : FAIL, "issuer", "renew the intermediate certificate that signs ours", "%s: its issuer %s %s%s", who,
		     left_s > 0 ? "expires in" : "expired", human_seconds(left, left_s > 0 ? left_s : -left_s), left_s > 0 ? "" : " ago");
}

/* ---- what a service would get ---- */

struct own {
	struct report *report;
	const char *source;
	char said[800];
};

static void say_own(const struct mesh_identity *identity, void *user)
{
	struct own *own = user;
	char leaf[HUMAN_BYTES], issuer[HUMAN_BYTES] = "";
	int64_t now = wall_s();

	if (!identity->is_default)
		return;
	if (identity->issuer_not_after_s > 0)
		human_seconds(issuer, identity->issuer_not_after_s - now);
	snprintf(own->said, sizeof(own->said), "%s gives %.400s, verified; left: certificate %s%s%s", own->source, identity->id,
		 human_seconds(leaf, identity->not_after_s - now), *issuer ? ", issuer " : "", issuer);
	check_issuer(own->report, own->source, own->source, identity->issuer_not_after_s);
}

static void say_trust(const struct mesh_trust *trust, void *user)
{
	struct own *own = user;
	size_t used = strlen(own->said);
	char left[HUMAN_BYTES];

	if (trust->is_own && trust->not_after_s > 0)
		snprintf(own->said + used, sizeof(own->said) - used, ", root %s", human_seconds(left, trust->not_after_s - wall_s()));
	check_trust(own->report, own->source, own->source, trust->domain, trust->not_after_s);
}

/* Asks the source as a service would: keys, chain and validity are looked at by the library itself. */
static void check_source(struct report *report, mesh *m)
{
	struct mesh_identity_status status = MESH_IDENTITY_STATUS_INIT;
	struct own own = { .report = report };

	if (!m || mesh_identity_status(m, &status) || !status.is_tls)
		return;
	for (int i = 0; i < SOURCE_PATIENCE_MS / 10 && !status.generation; i++) {
		poll(NULL, 0, 10);
		mesh_identity_status(m, &status);
	}
	own.source = status.source;
	mesh_identity_list(m, say_own, &own);
	if (!*own.said)
		tell(report, FAIL, "source", "what starts here with these options can talk to nobody: mesh-identity(7)", "%s gives no identity: %s", status.source,
		     *status.last_failure ? status.last_failure : "it has not answered");
	mesh_identity_trusts(m, say_trust, &own);
	if (*own.said)
		tell(report, OK, "source", "", "%s", own.said);
}

/* ---- processes ---- */

/* Less than a tenth of its life is left, and half of it should be. Its life begins when it came: issuers date back, for clocks that are late. */
static bool is_nearly_over(const struct mesh_stats_identity *info)
{
	int64_t begin_s = info->last_renewal_s > info->not_before_s ? info->last_renewal_s : info->not_before_s;
	double life = (double)info->not_after_s - (double)begin_s;

	return life > 0 && (double)info->not_after_s - (double)wall_s() < life / 10;
}

/* Somebody has changed who may call, and it is not so: no other place shows it to who has no log. */
static void check_policy(struct report *report, const char *who, const mesh_stats_view *view)
{
	int64_t number = mesh_stats_find(view, 0, "mesh_policy_stale", NULL, 0), is_stale = 0;

	if (number >= 0 && mesh_stats_value(view, (uint64_t)number, &is_stale) == 0 && is_stale)
		tell(report, FAIL, "policy", "`MESH_POLICY=/its/file mesh check` says what is wrong in it, as does the log of the process",
		     "%s refuses what its policy file says now: an older policy is in force", who);
}

static void check_process(struct report *report, const struct counters_process *process)
{
	struct identity identity;
	char who[200], left[HUMAN_BYTES];

	identity_read(process, &identity);
	snprintf(who, sizeof(who), "%.128s.%lld", process->info.service, (long long)process->info.pid);
	if (process->info.state == MESH_STATS_STUCK)
		tell(report, FAIL, "process", "gdb -p, or restart it", "%s hangs: a loop of it has not turned for five seconds", who);
	if (*identity.reason)
		tell(report, FAIL, "identity", identity.hint, "%s: %s", who, identity.reason);
	else if (*identity.note)
		tell(report, WARN, "identity", "see to its source before the certificate expires: mesh-identity(7)", "%s: %s", who, identity.note);
	else if (is_nearly_over(&identity.info))
		tell(report, WARN, "identity", "see to its source: it should have been renewed at half of its life", "%s: less than a tenth of its certificate's life is left: %s",
		     who, human_seconds(left, identity.info.not_after_s - wall_s()));
	else
		tell(report, OK, "identity", "", "%s is %s for another %s", who, identity.info.spiffe_id, human_seconds(left, identity.info.not_after_s - wall_s()));
	check_issuer(report, who, identity.info.source, identity.info.issuer_not_after_s);
	check_bundles(report, who, &identity);
	check_policy(report, who, process->view);
}

static void check_processes(struct report *report, const char *dir)
{
	struct mesh_error err = MESH_ERROR_INIT;
	struct counters *now = counters_read(dir, false, &err);
	size_t live = 0;

	if (!now) {
		tell(report, FAIL, "processes", "mesh-stats(5) says where the counters are", "%s", err.message);
		return;
	}
	for (size_t i = 0; i < now->process_count; i++) {
		if (now->processes[i].info.state != MESH_STATS_ALIVE && now->processes[i].info.state != MESH_STATS_STUCK)
			continue;
		check_process(report, &now->processes[i]);
		live++;
	}
	if (now->unreadable_count > 0)
		tell(report, WARN, "processes", "remove it, if no process is behind it", "counters cannot be read: %s", now->problem);
	if (live == 0)
		tell(report, OK, "processes", "", "none of this user runs here now");
	counters_free(now);
}

/* ---- the whole ---- */

static int finish(struct report *report)
{
	int status = report->counts[FAIL] ? EXIT_FAILED : EXIT_DONE;

	if (report->rows) {
		int printed = print_json(json_pack("{s:b, s:i, s:i, s:o}", "ok", report->counts[FAIL] == 0, "failures", (int)report->counts[FAIL], "warnings",
						   (int)report->counts[WARN], "checks", report->rows));
		return printed ? printed : status;
	}
	printf("\n%u in order, %u warning%s, %u failure%s\n", report->counts[OK], report->counts[WARN], report->counts[WARN] == 1 ? "" : "s",
	       report->counts[FAIL], report->counts[FAIL] == 1 ? "" : "s");
	return status;
}

static int run(const struct command *cmd, int argc, char **argv)
{
	struct check_args given = { 0 };
	struct report report = { 0 };
	char dir[1024];
	int first;
	enum args_result result = args_parse(cmd, argc, argv, &given, &first);

	if (result != ARGS_GO)
		return result == ARGS_DONE ? EXIT_DONE : EXIT_USAGE;
	if (first < argc) {
		complain("%s: `mesh check` checks everything and takes no name", argv[first]);
		return EXIT_USAGE;
	}
	report.rows = given.is_json ? json_array() : NULL;
	mesh *m = check_options(&report);
	check_encryption(&report, m);
	check_clock(&report);
	check_tls_version(&report);
	check_descriptors(&report);
	check_runtime_dir(&report, m);
	check_state_dir(&report, m);
	check_source(&report, m);
	snprintf(dir, sizeof(dir), "%s", given.dir ? given.dir : "");
	if (m && !given.dir)
		session_stats_dir_of(m, dir, sizeof(dir));
	mesh_close(m);
	check_processes(&report, *dir ? dir : NULL);
	return finish(&report);
}

const struct command command_check = {
	"check", "", "is everything in order? options, clock, private files, identities",
	"  mesh check\n"
	"  mesh check --json | jq '.checks[] | select(.result == \"FAIL\")'\n\n"
	"One line for each check, and a hint where something is to be done. Exit status 1 if one says FAIL; warnings are none.\n"
	"A process with plain text, or whose certificate was not renewed when it should have been, is a failure.\n",
	args, run, false
};
