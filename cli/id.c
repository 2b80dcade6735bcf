/*
 * mesh id: who every process of this host is, until when, and whom it trusts; from shared memory, the processes do not notice.
 */
#include "command.h"
#include "identity.h"
#include "output.h"
#include "session.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct id_args {
	const char *dir;
	bool is_json, is_long, with_dead;
};

#define AT(field) offsetof(struct id_args, field)

static const struct arg args[] = {
	{ "long", 'l', ARG_FLAG, AT(is_long), NULL, "everything about each process, as for those that are named", 0, 0 },
	{ "json", 0, ARG_FLAG, AT(is_json), NULL, "print as JSON: a list of processes", 0, 0 },
	{ "dead", 0, ARG_FLAG, AT(with_dead), NULL, "also processes that have died, for as long as their counters stay", 0, 0 },
	{ "dir", 0, ARG_TEXT, AT(dir), "DIR", "where the counters are (default: option `stats.dir`)", 0, 0 },
	{ 0 },
};

static bool is_named(const struct counters_process *process, const char *name)
{
	char pid[24];

	snprintf(pid, sizeof(pid), "%lld", (long long)process->info.pid);
	return strcmp(name, process->info.service) == 0 || strcmp(name, pid) == 0;
}

static bool is_wanted(const struct counters_process *process, char **names)
{
	if (!*names)
		return true;
	for (; *names; names++) {
		if (is_named(process, *names))
			return true;
	}
	return false;
}

static bool is_live(const struct counters_process *process)
{
	return process->info.state == MESH_STATS_ALIVE || process->info.state == MESH_STATS_STUCK;
}

/* Behind its name: "" if it is well. What a process that hangs last said of itself may be old. */
static const char *print_life(const struct counters_process *process)
{
	return process->info.state == MESH_STATS_STUCK ? " (hangs)" : is_live(process) ? "" : " (dead)";
}

static bool next_bundle(const struct identity *identity, uint32_t *at, struct mesh_stats_bundle *bundle)
{
	while (*at < identity->info.bundle_count) {
		*bundle = (struct mesh_stats_bundle){ .size = sizeof(*bundle) };
		if (mesh_stats_identity_bundle(identity->process->view, (*at)++, bundle) == 0)
			return true;
	}
	return false;
}

/* ---- for people ---- */

static void add_moment(struct table *table, enum colour colour, int64_t moment, bool is_future)
{
	char text[HUMAN_BYTES];
	int64_t now = wall_s();

	if (moment <= 0)
		table_add(table, colour, "-");
	else if (is_future)
		table_add(table, colour, moment > now ? human_seconds(text, moment - now) : "now");
	else
		table_addf(table, colour, "%s ago", human_seconds(text, now - moment));
}

static void add_domains(struct table *table, const struct identity *identity)
{
	struct mesh_stats_bundle bundle;
	char text[512] = "";
	uint32_t shown = 0;

	for (uint32_t at = 0; shown < 3 && next_bundle(identity, &at, &bundle); shown++) {
		size_t used = strlen(text);
		snprintf(text + used, sizeof(text) - used, "%s%s", used ? ", " : "", bundle.trust_domain);
	}
	if (identity->info.bundle_total > shown)
		table_addf(table, PLAIN, "%s, and %u more", text, identity->info.bundle_total - shown);
	else
		table_add(table, PLAIN, *text ? text : "-");
}

static void add_row(struct table *table, const struct identity *identity)
{
	bool is_off = identity->info.state == MESH_STATS_IDENTITY_OFF, is_well = !*identity->reason;
	const char *life = print_life(identity->process);
	bool has_expired = identity->info.state == MESH_STATS_IDENTITY_EXPIRED;

	table_addf(table, *life ? RED : BOLD, "%s%s", identity->process->info.service, life);
	table_addf(table, PLAIN, "%lld", (long long)identity->process->info.pid);
	table_add(table, PLAIN, *identity->info.spiffe_id ? identity->info.spiffe_id : "-");
	if (has_expired)
		table_add(table, RED, "expired");
	else
		add_moment(table, is_well ? PLAIN : RED, is_off ? 0 : identity->info.not_after_s, true);
	add_moment(table, PLAIN, identity->info.last_renewal_s, false);
	add_moment(table, PLAIN, identity->info.next_renewal_s, true);
	table_add(table, PLAIN, *identity->info.source ? identity->info.source : "-");
	add_domains(table, identity);
	table_add(table, !is_well ? RED : *identity->note ? YELLOW : GREEN, identity->state);
}

/* Sentences have no room in a table. */
static void explain_row(const struct identity *identity)
{
	const struct mesh_stats_process *info = &identity->process->info;
	const char *text = *identity->reason ? identity->reason : identity->note;

	if (!*text)
		return;
	print_escaped(stdout, info->service, strlen(info->service), false);
	paint(stdout, *identity->reason ? RED : YELLOW, ".%lld %s", (long long)info->pid, identity->state);
	printf(": ");
	print_escaped(stdout, text, strlen(text), false);
	putchar('\n');
}

static void print_table(const struct counters *now, char **names)
{
	static const struct table_column columns[] = { { "SERVICE", false, 0 },	 { "PID", true, 0 },	 { "ID", false, 0 },
						       { "EXPIRES IN", true, 0 }, { "RENEWED", true, 4 }, { "NEXT IN", true, 3 },
						       { "SOURCE", false, 1 },	 { "TRUSTS", false, 2 }, { "STATE", false, 0 } };
	struct table *table = table_new(columns, 9);

	if (!table) {
		complain("out of memory");
		return;
	}
	for (size_t i = 0; i < now->process_count; i++) {
		struct identity identity;
		if (!is_wanted(&now->processes[i], names))
			continue;
		identity_read(&now->processes[i], &identity);
		add_row(table, &identity);
	}
	if (table_rows(table) > 0)
		table_print(table, stdout);
	table_free(table);
	for (size_t i = 0; i < now->process_count; i++) {
		struct identity identity;
		if (!is_wanted(&now->processes[i], names))
			continue;
		identity_read(&now->processes[i], &identity);
		explain_row(&identity);
	}
}

/* "name      text", escaped; nothing if there is no text. */
static void print_fact(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void print_fact(const char *name, const char *format, ...)
{
	char text[2600];
	va_list list;

	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	if (!*text)
		return;
	printf("  %-9s ", name);
	print_escaped(stdout, text, strlen(text), false);
	putchar('\n');
}

static void print_renewals(const struct mesh_stats_identity *info)
{
	char ago[HUMAN_BYTES], until[HUMAN_BYTES], next[HUMAN_BYTES + 16] = "";
	int64_t now = wall_s();

	if (info->next_renewal_s > 0)
		snprintf(next, sizeof(next), "; the next %s%s", info->next_renewal_s > now ? "in " : "is due",
			 info->next_renewal_s > now ? human_seconds(until, info->next_renewal_s - now) : "");
	if (info->last_renewal_s > 0)
		print_fact("renewed", "%s ago, %llu so far%s", human_seconds(ago, now - info->last_renewal_s), (unsigned long long)info->renewals, next);
	if (info->failures > 0 && info->last_failure_s > 0)
		print_fact("failed", "%llu time%s, last %s ago: %s", (unsigned long long)info->failures, info->failures == 1 ? "" : "s", human_seconds(ago, now - info->last_failure_s), info->last_failure);
}

static void print_validity(const struct mesh_stats_identity *info)
{
	char from[WALL_TIME_BYTES], until[WALL_TIME_BYTES], left[HUMAN_BYTES];
	int64_t now = wall_s();

	if (info->not_after_s <= 0)
		return;
	print_fact("valid", "%s to %s (%s%s)", wall_time(from, info->not_before_s), wall_time(until, info->not_after_s),
		   human_seconds(left, info->not_after_s > now ? info->not_after_s - now : now - info->not_after_s),
		   info->not_after_s > now ? " left" : " ago: expired");
}

static void print_facts(const struct identity *identity)
{
	const struct mesh_stats_identity *info = &identity->info;
	struct mesh_stats_bundle bundle;
	char until[WALL_TIME_BYTES];

	print_fact("state", "%s%s%s", identity->state, *identity->reason ? ": " : "", identity->reason);
	if (*identity->reason)
		print_fact("to do", "%s", identity->hint);
	print_fact("ID", "%s", info->spiffe_id);
	print_fact("source", "%s", info->source);
	print_fact("serial", "%s", info->serial);
	print_fact("issuer", "%s", info->issuer);
	print_validity(info);
	if (info->issuer_not_after_s > 0)
		print_fact("issuer's", "certificate ends at %s", wall_time(until, info->issuer_not_after_s));
	print_renewals(info);
	for (uint32_t at = 0; next_bundle(identity, &at, &bundle);)
		print_fact("trusts", "%s: %u certificate%s, until %s", bundle.trust_domain, bundle.certificate_count, bundle.certificate_count == 1 ? "" : "s",
			   wall_time(until, bundle.latest_not_after_s));
	if (info->bundle_total > info->bundle_count)
		print_fact("trusts", "%u more, for which the page has no room", info->bundle_total - info->bundle_count);
}

static void print_long(const struct counters *now, char **names)
{
	bool is_first = true;

	for (size_t i = 0; i < now->process_count; i++) {
		const struct counters_process *process = &now->processes[i];
		struct identity identity;
		if (!is_wanted(process, names))
			continue;
		identity_read(process, &identity);
		printf("%s", is_first ? "" : "\n");
		print_escaped(stdout, process->info.service, strlen(process->info.service), false);
		printf(", process %lld%s\n", (long long)process->info.pid, print_life(process));
		print_facts(&identity);
		is_first = false;
	}
}

/* ---- for programs ---- */

static json_t *bundles_json(const struct identity *identity)
{
	json_t *list = json_array();
	struct mesh_stats_bundle bundle;

	for (uint32_t at = 0; next_bundle(identity, &at, &bundle);)
		json_array_append_new(list, json_pack("{s:o, s:I, s:I, s:I}", "trust_domain", json_text(bundle.trust_domain, strlen(bundle.trust_domain)),
						      "certificates", (json_int_t)bundle.certificate_count, "earliest_not_after",
						      (json_int_t)bundle.earliest_not_after_s, "latest_not_after", (json_int_t)bundle.latest_not_after_s));
	return list;
}

static void set_text(json_t *row, const char *key, const char *text)
{
	json_object_set_new(row, key, json_text(text, strlen(text)));
}

static json_t *identity_json(const struct identity *identity)
{
	const struct mesh_stats_identity *info = &identity->info;
	const struct {
		const char *key;
		int64_t value;
	} numbers[] = { { "pid", identity->process->info.pid }, { "not_before", info->not_before_s }, { "not_after", info->not_after_s },
			{ "expires_in_s", info->not_after_s > 0 ? info->not_after_s - wall_s() : 0 }, { "last_renewal", info->last_renewal_s },
			{ "next_renewal", info->next_renewal_s }, { "issuer_not_after", info->issuer_not_after_s }, { "overdue_since", info->overdue_since_s }, { "generation", (int64_t)info->generation },
			{ "renewals", (int64_t)info->renewals }, { "failures", (int64_t)info->failures }, { "last_failure_at", info->last_failure_s },
			{ "bundle_total", info->bundle_total } };
	json_t *row = json_object();

	set_text(row, "service", identity->process->info.service);
	set_text(row, "state", identity->state);
	set_text(row, "reason", identity->reason);
	set_text(row, "spiffe_id", info->spiffe_id);
	set_text(row, "trust_domain", info->trust_domain);
	set_text(row, "source", info->source);
	set_text(row, "serial", info->serial);
	set_text(row, "issuer", info->issuer);
	set_text(row, "last_failure", info->last_failure);
	json_object_set_new(row, "is_usable", json_boolean(identity->is_usable));
	json_object_set_new(row, "is_alive", json_boolean(is_live(identity->process)));
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		json_object_set_new(row, numbers[i].key, json_integer(numbers[i].value));
	json_object_set_new(row, "bundles", bundles_json(identity));
	return row;
}

static int print_rows_json(const struct counters *now, char **names)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < now->process_count; i++) {
		struct identity identity;
		if (!is_wanted(&now->processes[i], names))
			continue;
		identity_read(&now->processes[i], &identity);
		json_array_append_new(rows, identity_json(&identity));
	}
	return print_json(rows);
}

/* ---- the whole ---- */

/* A name that no process has: as bad as no process. */
static bool complain_about_names(const struct counters *now, char **names)
{
	bool are_known = true;

	for (; *names; names++) {
		bool is_known = false;
		for (size_t i = 0; i < now->process_count && !is_known; i++)
			is_known = is_named(&now->processes[i], *names);
		if (is_known)
			continue;
		const char *nearest = counters_nearest(now, *names);
		complain("no process here is named %s, nor has this number%s%s%s", *names, nearest ? ": did you mean " : "", nearest ? nearest : "",
			 nearest ? "?" : "");
		are_known = false;
	}
	return are_known;
}

static bool are_all_usable(const struct counters *now, char **names)
{
	for (size_t i = 0; i < now->process_count; i++) {
		struct identity identity;
		if (!is_live(&now->processes[i]) || !is_wanted(&now->processes[i], names))
			continue;
		identity_read(&now->processes[i], &identity);
		if (!identity.is_usable)
			return false;
	}
	return true;
}

static int print_once(const struct id_args *given, const struct counters *now, char **names)
{
	int status = EXIT_DONE;

	if (given->is_json)
		status = print_rows_json(now, names);
	else if (given->is_long || *names)
		print_long(now, names);
	else
		print_table(now, names);
	if (now->unreadable_count > 0)
		complain("%zu file%s of counters cannot be read: %s", now->unreadable_count, now->unreadable_count == 1 ? "" : "s", now->problem);
	if (now->process_count == 0) {
		complain("no process of this user publishes its identity here: start one with `mesh serve hello`");
		return EXIT_UNREACHABLE;
	}
	if (!complain_about_names(now, names))
		return EXIT_UNREACHABLE;
	return status == EXIT_DONE && !are_all_usable(now, names) ? EXIT_FAILED : status;
}

static int run(const struct command *cmd, int argc, char **argv)
{
	struct id_args given = { 0 };
	struct mesh_error err = MESH_ERROR_INIT;
	char dir[1024];
	int first;
	enum args_result result = args_parse(cmd, argc, argv, &given, &first);

	if (result != ARGS_GO)
		return result == ARGS_DONE ? EXIT_DONE : EXIT_USAGE;
	int status = session_stats_dir(given.dir, dir, sizeof(dir));
	if (status != EXIT_DONE)
		return status;
	struct counters *now = counters_read(*dir ? dir : NULL, given.with_dead, &err);
	if (!now) {
		complain_error(&err);
		return EXIT_UNREACHABLE;
	}
	status = print_once(&given, now, argv + first);
	counters_free(now);
	return status;
}

const struct command command_id = {
	"id", "[NAME|PID...]", "who every process on this host is, until when, and whom it trusts",
	"  mesh id                          all processes, a line for each\n"
	"  mesh id users 4711               all about those of a service, or about one by its number\n"
	"  mesh id --json | jq '.[] | select(.is_usable | not)'\n\n"
	"Exit status 1 if a living process has no identity that can be used: none yet, expired, or plain text (off);\n"
	"3 if there is no process, or none of that name. mesh-identity(7) tells what to do.\n",
	args, run, false
};
