/*
 * How a value is found: settings are kept as (option, service, value) with the rank of their source; the highest rank wins, and
 * a service's own value beats the general one whatever its rank, since it is the more deliberate one.
 */
#include "config/config.h"

#include "base/address.h"
#include "base/fault.h"
#include "base/map.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/text.h"
#include "base/distance.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

enum value_type { TYPE_DURATION, TYPE_BYTES, TYPE_COUNT, TYPE_BOOL, TYPE_TEXT, TYPE_CHOICE };
enum value_rank { RANK_DEFAULT, RANK_FILE, RANK_ENVIRONMENT, RANK_API };
enum { SCOPE_PROCESS, SCOPE_SERVICE, WHEN_OPEN, WHEN_LIVE };
enum { FILE_BYTES_MAX = 1024 * 1024, SERVICE_KEY_MAX = 256, NEAREST_MAX = 3 };

static const char *const type_names[] = { "duration", "bytes", "count", "bool", "text", "choice" };

static const struct row {
	const char *name, *env, *dflt, *min, *max, *help;
	enum value_type type;
	bool is_service, is_live;
} rows[] = {
#define MESH_OPTION(NAME, name, type, dflt, min, max, scope, when, help) \
	{ name, "MESH_" #NAME, dflt, min, max, help, TYPE_##type, SCOPE_##scope == SCOPE_SERVICE, WHEN_##when == WHEN_LIVE },
#include "tables/options.def"
#undef MESH_OPTION
};

/* One value that somebody gave. Never freed before the end: readers hold its text. */
struct setting {
	struct setting *next; /* of the same option, newest first */
	char *service;        /* NULL: in general; normalised: lower case, '-' and '.' as '_' */
	char *text, *source;
	enum value_rank rank;
	_Atomic uint64_t number;
};

struct service_block {
	struct mesh__service_config values;
	char name[];
};

struct mesh__config {
	struct mesh__log log;
	char **environment; /* a copy */
	char runtime_dir[256], program[64];
	uint32_t warning_count;
	pthread_mutex_t lock; /* writers, and the first look-up of a service */
	struct mesh__map services;
	_Atomic(struct setting *) settings[MESH__OPTION_COUNT];
};

/* What is wrong, gathered while reading. */
struct report {
	struct mesh__config *cfg;
	mesh__config_check check;
	struct mesh__text text;
	char storage[sizeof(((struct mesh_error *)0)->message)];
	uint32_t problems, hidden;
	bool is_out_of_memory;
};

/* --- reports --- */

static void complain(struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void complain(struct report *report, const char *format, ...)
{
	char line[384];
	struct mesh__text text;
	va_list args;

	mesh__text_init(&text, line, sizeof(line));
	va_start(args, format);
	mesh__text_addv(&text, format, args);
	va_end(args);
	mesh__log_write(&report->cfg->log, MESH_LOG_ERROR, "options: %s", line);
	/* Room stays for "; and N more". */
	if (report->problems++ && report->text.len + text.len + 24 > report->text.capacity)
		report->hidden++;
	else
		mesh__text_addf(&report->text, "%s%s", report->problems > 1 ? "; " : "", line);
}

static void warn(struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void warn(struct report *report, const char *format, ...)
{
	char line[384];
	struct mesh__text text;
	va_list args;

	mesh__text_init(&text, line, sizeof(line));
	va_start(args, format);
	mesh__text_addv(&text, format, args);
	va_end(args);
	report->cfg->warning_count++;
	mesh__log_write(&report->cfg->log, MESH_LOG_WARN, "options: %s", line);
}

/* --- values --- */

static int parse_choice(const char *words, const char *text, uint64_t *index, const char **why)
{
	size_t len = strlen(text);

	*index = 0;
	for (const char *at = words; *at; (*index)++) {
		size_t word = strcspn(at, "|");

		if (word == len && memcmp(at, text, len) == 0)
			return 0;
		at += word + (at[word] == '|');
	}
	*why = "it is none of the words known";
	return -1;
}

/* IPv6 with or without brackets; what is announced gets its port from the socket. */
static bool is_ip(const char *text, const char **why)
{
	bool is_bare_v6 = strchr(text, ':') && text[0] != '[';
	struct mesh__address address;
	char with_port[MESH__ADDRESS_TEXT_MAX + 8];
	size_t len = (size_t)snprintf(with_port, sizeof(with_port), is_bare_v6 ? "[%s]:0" : "%s:0", text);

	return len < sizeof(with_port) && mesh__address_parse(&address, with_port, len, why) == 0;
}

static int parse_text(const char *form, const char *text, const char **why)
{
	struct mesh__address address;

	for (const char *at = text; *at; at++)
		if ((unsigned char)*at < 0x20 || *at == 0x7f) {
			*why = "it has control characters";
			return -1;
		}
	if (!*text || !*form)
		return 0;
	*why = *form == '/' ? "it is no absolute path" : "it is no IP address";
	if (*form == '/')
		return *text == '/' ? 0 : -1;
	if (strcmp(form, "IP:PORT") == 0)
		return mesh__address_parse(&address, text, strlen(text), why);
	return is_ip(text, why) ? 0 : -1;
}

static int parse_value(const struct row *row, const char *text, uint64_t *number, const char **why)
{
	*number = 0;
	switch (row->type) {
	case TYPE_DURATION:
		return mesh__number_parse_duration(text, number, why);
	case TYPE_BYTES:
		return mesh__number_parse_bytes(text, number, why);
	case TYPE_COUNT:
		return mesh__number_parse_count(text, number, why);
	case TYPE_BOOL:
		return mesh__number_parse_bool(text, number, why);
	case TYPE_CHOICE:
		return parse_choice(row->max, text, number, why);
	case TYPE_TEXT:
		return parse_text(row->max, text, why);
	}
	return 0;
}

static void print_range(const struct row *row, char *text, size_t capacity)
{
	if (row->type == TYPE_CHOICE || row->type == TYPE_TEXT)
		snprintf(text, capacity, "%s", row->max);
	else if (row->type == TYPE_BOOL)
		snprintf(text, capacity, "true|false");
	else
		snprintf(text, capacity, "%s..%s", row->min, row->max);
}

static bool is_in_range(const struct row *row, uint64_t number)
{
	uint64_t min, max;
	const char *why;

	if (row->type == TYPE_TEXT || row->type == TYPE_CHOICE || row->type == TYPE_BOOL)
		return true;
	parse_value(row, row->min, &min, &why);
	parse_value(row, row->max, &max, &why);
	return number >= min && number <= max;
}

/* Services are named as the environment can: users.eu-1 and USERS_EU_1 are one. */
static void normalise(const char *service, char key[SERVICE_KEY_MAX])
{
	size_t n = 0;

	for (; service[n] && n < SERVICE_KEY_MAX - 1; n++) {
		char c = service[n];

		key[n] = c == '-' || c == '.' ? '_' : c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
	}
	key[n] = '\0';
}

static void free_setting(struct setting *setting)
{
	if (!setting)
		return;
	mesh__memory_free(setting->service);
	mesh__memory_free(setting->text);
	mesh__memory_free(setting->source);
	mesh__memory_free(setting);
}

static struct setting *new_setting(const char *service, const char *text, const char *source, enum value_rank rank, uint64_t number)
{
	struct setting *setting = mesh__memory_zalloc(sizeof(*setting));
	char key[SERVICE_KEY_MAX];

	if (!setting)
		return NULL;
	setting->rank = rank;
	setting->number = number;
	setting->text = mesh__memory_strdup(text);
	setting->source = mesh__memory_strdup(source);
	if (service) {
		normalise(service, key);
		setting->service = mesh__memory_strdup(key);
	}
	if (!setting->text || !setting->source || (service && !setting->service)) {
		free_setting(setting);
		return NULL;
	}
	return setting;
}

/* What the API has set before for the same option and service. */
static struct setting *find_given(struct mesh__config *cfg, uint32_t option, const char *service)
{
	char key[SERVICE_KEY_MAX] = "";

	if (service)
		normalise(service, key);
	for (struct setting *at = atomic_load(&cfg->settings[option]); at; at = at->next)
		if (at->rank == RANK_API && (service ? at->service && strcmp(at->service, key) == 0 : !at->service))
			return at;
	return NULL;
}

static bool has_form(struct report *report, uint32_t option, const char *text, const char *source)
{
	struct mesh_error err = MESH_ERROR_INIT;
	int rc = report->check && rows[option].type == TYPE_TEXT ? report->check((enum mesh__option)option, text, &err) : 0;

	if (rc == MESH_E_NOMEM)
		report->is_out_of_memory = true;
	else if (rc)
		complain(report, "%s: %s", source, err.message);
	return rc == 0;
}

/* One value from anywhere. `service` NULL: in general. */
static void give(struct report *report, uint32_t option, const char *service, const char *text, const char *source, enum value_rank rank)
{
	const struct row *row = &rows[option];
	struct setting *setting;
	const char *why = "";
	char range[96];
	uint64_t number;

	print_range(row, range, sizeof(range));
	if (service && !row->is_service) {
		complain(report, "%s: option %s cannot be set for one service", source, row->name);
		return;
	}
	if (parse_value(row, text, &number, &why)) {
		complain(report, "%s: %s = \"%.48s\": %s (allowed: %s)", source, row->name, text, why, *range ? range : "any text");
		return;
	}
	if (!is_in_range(row, number)) {
		complain(report, "%s: %s = \"%.48s\" is out of range (allowed: %s)", source, row->name, text, range);
		return;
	}
	if (rank != RANK_DEFAULT && !has_form(report, option, text, source))
		return;
	setting = rank == RANK_API && row->type != TYPE_TEXT && row->type != TYPE_CHOICE ? find_given(report->cfg, option, service) : NULL;
	if (setting) { /* set again: in place, so that a program which adjusts an option for ever does not grow */
		atomic_store(&setting->number, number);
		return;
	}
	setting = new_setting(service, text, source, rank, number);
	if (!setting) {
		report->is_out_of_memory = true;
		return;
	}
	setting->next = atomic_load_explicit(&report->cfg->settings[option], memory_order_relaxed);
	atomic_store_explicit(&report->cfg->settings[option], setting, memory_order_release);
}

/* --- finding --- */

static const struct setting *find_setting(const struct mesh__config *cfg, uint32_t option, const char *service)
{
	const struct setting *best = NULL, *general = NULL;
	char key[SERVICE_KEY_MAX] = "";

	if (service)
		normalise(service, key);
	/* Newest first, so that of equal ranks the newest stays. */
	for (const struct setting *at = atomic_load_explicit(&cfg->settings[option], memory_order_acquire); at; at = at->next) {
		if (!at->service) {
			if (!general || at->rank > general->rank)
				general = at;
		} else if (service && strcmp(at->service, key) == 0) {
			if (!best || at->rank > best->rank)
				best = at;
		}
	}
	return best ? best : general;
}

static uint64_t number_of(const struct mesh__config *cfg, enum mesh__option option, const char *service)
{
	return find_setting(cfg, option, service)->number;
}

uint64_t mesh__config_ns(const struct mesh__config *cfg, enum mesh__option option, const char *service)
{
	return number_of(cfg, option, service);
}

uint64_t mesh__config_bytes(const struct mesh__config *cfg, enum mesh__option option, const char *service)
{
	return number_of(cfg, option, service);
}

uint64_t mesh__config_count(const struct mesh__config *cfg, enum mesh__option option, const char *service)
{
	return number_of(cfg, option, service);
}

uint32_t mesh__config_choice(const struct mesh__config *cfg, enum mesh__option option, const char *service)
{
	return (uint32_t)number_of(cfg, option, service);
}

const char *mesh__config_text(const struct mesh__config *cfg, enum mesh__option option, const char *service)
{
	return find_setting(cfg, option, service)->text;
}

static int find_row(const char *name, size_t len)
{
	for (uint32_t i = 0; i < MESH__OPTION_COUNT; i++)
		if (strlen(rows[i].name) == len && memcmp(rows[i].name, name, len) == 0)
			return (int)i;
	return -1;
}

static const char *nearest_name(const char *name, bool in_environment)
{
	const char *best = NULL;
	uint32_t best_distance = NEAREST_MAX + 1;

	for (uint32_t i = 0; i < MESH__OPTION_COUNT; i++) {
		const char *candidate = in_environment ? rows[i].env : rows[i].name;
		uint32_t distance = mesh__distance(name, candidate, best_distance);

		if (distance < best_distance) {
			best_distance = distance;
			best = candidate;
		}
	}
	return best;
}

/* --- sources --- */

static void read_environment_entry(struct report *report, const char *entry)
{
	const char *equals = strchr(entry, '='), *service;
	char name[128], source[160];
	size_t len;

	if (strncmp(entry, "MESH_", 5) != 0 || !equals || !equals[1])
		return;
	len = (size_t)(equals - entry);
	if (len >= sizeof(name)) {
		warn(report, "environment: %.40s... is no option: its name is too long", entry);
		return;
	}
	memcpy(name, entry, len);
	name[len] = '\0';
	snprintf(source, sizeof(source), "environment %s", name);
	service = strstr(name, "__");
	if (service) {
		name[service - name] = '\0';
		service += 2;
	}
	for (uint32_t i = 0; i < MESH__OPTION_COUNT; i++)
		if (strcmp(rows[i].env, name) == 0) {
			if (service && !*service)
				complain(report, "%s: no service is named behind the two underscores", source);
			else
				give(report, i, service, equals + 1, source, RANK_ENVIRONMENT);
			return;
		}
	{
		const char *near = nearest_name(name, true);

		warn(report, "environment: %s is not an option of this version%s%s%s", name, near ? "; did you mean " : "", near ? near : "",
		     near ? "?" : "");
	}
}

static char *trim(char *text)
{
	char *end = text + strlen(text);

	while (*text == ' ' || *text == '\t')
		text++;
	while (end > text && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r'))
		end--;
	*end = '\0';
	return text;
}

static void give_named(struct report *report, char *name, const char *value, const char *section, const char *source, enum value_rank rank)
{
	char *at = strchr(name, '@');
	const char *service = section, *near;
	int option;

	if (at) {
		*at = '\0';
		service = at + 1;
		if (!*service) {
			complain(report, "%s: no service is named behind the @", source);
			return;
		}
	}
	option = find_row(name, strlen(name));
	if (option >= 0) {
		if (option == MESH__OPTION_CONFIG)
			complain(report, "%s: option config can only come from the environment", source);
		else
			give(report, (uint32_t)option, service, value, source, rank);
		return;
	}
	near = nearest_name(name, false);
	if (rank == RANK_API)
		complain(report, "%s: there is no option \"%.64s\"%s%s%s", source, name, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
	else
		warn(report, "%s: %.64s is not an option of this version%s%s%s", source, name, near ? "; did you mean " : "", near ? near : "",
		     near ? "?" : "");
}

/* `name = value`, `[service]`, `# remark`. */
static void read_line(struct report *report, const char *path, uint32_t number, char *line, char section[SERVICE_KEY_MAX])
{
	char source[320], *equals, *end;

	line = trim(line);
	if (!*line || *line == '#')
		return;
	snprintf(source, sizeof(source), "file %.200s:%u", path, number);
	if (*line == '[') {
		end = strchr(line, ']');
		if (!end || end[1] || end == line + 1 || end - line > SERVICE_KEY_MAX - 1) {
			complain(report, "%s: a section is [SERVICE] on a line of its own", source);
			return;
		}
		*end = '\0';
		snprintf(section, SERVICE_KEY_MAX, "%s", line + 1);
		return;
	}
	equals = strchr(line, '=');
	if (!equals || equals == line) {
		complain(report, "%s: expected NAME = VALUE, [SERVICE] or # REMARK", source);
		return;
	}
	*equals = '\0';
	give_named(report, trim(line), trim(equals + 1), *section ? section : NULL, source, RANK_FILE);
}

static void read_text(struct report *report, const char *path, char *text, size_t len)
{
	char section[SERVICE_KEY_MAX] = "";
	uint32_t number = 1;

	if (memchr(text, '\0', len)) {
		complain(report, "file %.200s: it has NUL bytes: is it a text file?", path);
		return;
	}
	for (char *line = text, *next; line; line = next, number++) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		read_line(report, path, number, line, section);
	}
}

static void read_file(struct report *report, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold us */
	FILE *file = fd >= 0 ? fdopen(fd, "r") : NULL;
	char *text = NULL;
	struct stat info;
	size_t len;

	if (!file) {
		complain(report, "environment MESH_CONFIG: cannot open %.200s: %s", path, strerrordesc_np(errno));
		if (fd >= 0)
			close(fd);
		return;
	}
	if (fstat(fileno(file), &info) || !S_ISREG(info.st_mode) || info.st_size > FILE_BYTES_MAX) {
		complain(report, "environment MESH_CONFIG: %.200s is not a file of at most 1 MiB", path);
		goto out;
	}
	text = mesh__memory_alloc(FILE_BYTES_MAX + 1);
	if (!text) {
		report->is_out_of_memory = true;
		goto out;
	}
	len = fread(text, 1, FILE_BYTES_MAX, file);
	text[len] = '\0';
	read_text(report, path, text, len);
out:
	mesh__memory_free(text);
	fclose(file);
}

static void read_settings(struct report *report, const struct mesh_setting *settings, uint64_t count)
{
	char name[256];

	for (uint64_t i = 0; i < count; i++) {
		if (!settings[i].name || !settings[i].value) {
			complain(report, "api: setting %llu has no name or no value", (unsigned long long)i);
			continue;
		}
		snprintf(name, sizeof(name), "%s", settings[i].name);
		give_named(report, name, settings[i].value, NULL, "api", RANK_API);
	}
}

static void check_together(struct report *report)
{
	const struct mesh__config *cfg = report->cfg;

	if (number_of(cfg, MESH__OPTION_WINDOW_STREAM, NULL) > number_of(cfg, MESH__OPTION_WINDOW_CONNECTION, NULL))
		complain(report, "window.stream is larger than window.connection: one stream could never use it");
}

/* --- life --- */

static int copy_environment(struct mesh__config *cfg, const char *const *environment)
{
	uint32_t count = 0;

	while (environment && environment[count])
		count++;
	cfg->environment = mesh__memory_zalloc_array(count + 1, sizeof(*cfg->environment));
	if (!cfg->environment)
		return MESH_E_NOMEM;
	for (uint32_t i = 0; i < count; i++) {
		cfg->environment[i] = mesh__memory_strdup(environment[i]);
		if (!cfg->environment[i])
			return MESH_E_NOMEM;
	}
	return 0;
}

const char *mesh__config_environment(const struct mesh__config *cfg, const char *name)
{
	size_t len = strlen(name);

	for (char **at = cfg->environment; *at; at++)
		if (strncmp(*at, name, len) == 0 && (*at)[len] == '=' && (*at)[len + 1])
			return *at + len + 1;
	return NULL;
}

static void find_runtime_dir(struct mesh__config *cfg)
{
	const char *given = mesh__config_text(cfg, MESH__OPTION_RUNTIME_DIR, NULL);
	const char *xdg = mesh__config_environment(cfg, "XDG_RUNTIME_DIR");

	if (*given)
		snprintf(cfg->runtime_dir, sizeof(cfg->runtime_dir), "%s", given);
	else if (xdg && *xdg == '/')
		snprintf(cfg->runtime_dir, sizeof(cfg->runtime_dir), "%s/mesh", xdg);
	else
		snprintf(cfg->runtime_dir, sizeof(cfg->runtime_dir), "/dev/shm/mesh-%u", (unsigned)geteuid());
}

static void name_program(struct mesh__config *cfg)
{
	size_t n = 0;

	/* A service name may not hold everything that a file name may. */
	for (const char *at = program_invocation_short_name; *at && n < sizeof(cfg->program) - 1; at++)
		cfg->program[n++] = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || (*at >= '0' && *at <= '9') || *at == '-' ? *at : '-';
	if (!n)
		memcpy(cfg->program, "unnamed", 8);
}

static void read_all(struct report *report, const struct mesh_setting *settings, uint64_t setting_count)
{
	const char *path = mesh__config_environment(report->cfg, "MESH_CONFIG");

	for (uint32_t i = 0; i < MESH__OPTION_COUNT; i++)
		give(report, i, NULL, rows[i].dflt, "default", RANK_DEFAULT);
	if (path)
		read_file(report, path);
	for (char **entry = report->cfg->environment; *entry; entry++)
		read_environment_entry(report, *entry);
	read_settings(report, settings, setting_count);
	if (!report->is_out_of_memory && !report->problems)
		check_together(report);
}

int mesh__config_new(struct mesh__config **out, const char *const *environment, const struct mesh_setting *settings, uint64_t setting_count,
		     mesh__config_check check, const struct mesh__log *log, struct mesh_error *err)
{
	struct mesh__config *cfg = mesh__memory_zalloc(sizeof(*cfg));
	struct report report = { .cfg = cfg, .check = check };
	int rc = MESH_E_NOMEM;

	if (!cfg)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for options");
	if (log)
		cfg->log = *log;
	pthread_mutex_init(&cfg->lock, NULL);
	mesh__map_init(&cfg->services);
	mesh__text_init(&report.text, report.storage, sizeof(report.storage));
	if (copy_environment(cfg, environment ? environment : (const char *const *)(uintptr_t)environ))
		goto fail;
	read_all(&report, settings, setting_count);
	if (report.is_out_of_memory)
		goto fail;
	if (report.problems) {
		if (report.hidden)
			mesh__text_addf(&report.text, "; and %u more", report.hidden);
		rc = mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "%s", report.text.data);
		mesh__config_free(cfg);
		return rc;
	}
	find_runtime_dir(cfg);
	name_program(cfg);
	*out = cfg;
	return 0;
fail:
	mesh__config_free(cfg);
	return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for options");
}

void mesh__config_free(struct mesh__config *cfg)
{
	struct service_block *block;
	uint32_t at = 0;

	if (!cfg)
		return;
	for (uint32_t i = 0; i < MESH__OPTION_COUNT; i++)
		for (struct setting *setting = atomic_load(&cfg->settings[i]), *next; setting; setting = next) {
			next = setting->next;
			free_setting(setting);
		}
	while ((block = mesh__map_next(&cfg->services, &at, NULL)))
		mesh__memory_free(block);
	mesh__map_fini(&cfg->services);
	for (char **entry = cfg->environment; entry && *entry; entry++)
		mesh__memory_free(*entry);
	mesh__memory_free(cfg->environment);
	pthread_mutex_destroy(&cfg->lock);
	mesh__memory_free(cfg);
}

/* --- the block of a service --- */

static void resolve(const struct mesh__config *cfg, struct service_block *block)
{
	struct mesh__service_config *values = &block->values;
	const char *service = block->name;

	atomic_store(&values->timeout_ns, number_of(cfg, MESH__OPTION_TIMEOUT, service));
	atomic_store(&values->resolve_timeout_ns, number_of(cfg, MESH__OPTION_RESOLVE_TIMEOUT, service));
	atomic_store(&values->connect_timeout_ns, number_of(cfg, MESH__OPTION_CONNECT_TIMEOUT, service));
	atomic_store(&values->buffer_bytes, number_of(cfg, MESH__OPTION_BUFFER, service));
	atomic_store(&values->message_max_bytes, number_of(cfg, MESH__OPTION_MESSAGE_MAX, service));
	atomic_store(&values->attempts, (uint32_t)number_of(cfg, MESH__OPTION_ATTEMPTS, service));
	atomic_store(&values->connections, (uint32_t)number_of(cfg, MESH__OPTION_CONNECTIONS, service));
	atomic_store(&values->pending_max, (uint32_t)number_of(cfg, MESH__OPTION_PENDING_MAX, service));
	atomic_store(&values->calls_max, (uint32_t)number_of(cfg, MESH__OPTION_CALLS_MAX, service));
}

const struct mesh__service_config *mesh__config_service(const struct mesh__config *constant, const char *service)
{
	/* Reading options makes the block of a service that was not asked for before: under the lock. */
	struct mesh__config *cfg = (struct mesh__config *)(uintptr_t)constant;
	size_t len = strlen(service);
	struct service_block *block;

	pthread_mutex_lock(&cfg->lock);
	block = mesh__map_get(&cfg->services, service, len);
	if (!block) {
		block = mesh__memory_zalloc(sizeof(*block) + len + 1);
		if (block) {
			memcpy(block->name, service, len);
			resolve(cfg, block);
			if (mesh__map_put(&cfg->services, service, len, block)) {
				mesh__memory_free(block);
				block = NULL;
			}
		}
	}
	pthread_mutex_unlock(&cfg->lock);
	return block ? &block->values : NULL;
}

/* --- asking and changing --- */

int mesh__config_set(struct mesh__config *cfg, const char *name, const char *value, struct mesh_error *err)
{
	struct report report = { .cfg = cfg };
	struct service_block *block;
	size_t len = name ? strcspn(name, "@") : 0;
	int option = name ? find_row(name, len) : -1;
	char copy[256];
	uint32_t at = 0;

	mesh__text_init(&report.text, report.storage, sizeof(report.storage));
	if (!name || !value)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "an option needs a name and a value");
	if (option >= 0 && !rows[option].is_live)
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "option %s cannot change while the mesh is open", rows[option].name);
	snprintf(copy, sizeof(copy), "%s", name);
	pthread_mutex_lock(&cfg->lock);
	give_named(&report, copy, value, NULL, "api", RANK_API);
	while ((block = mesh__map_next(&cfg->services, &at, NULL)))
		resolve(cfg, block);
	pthread_mutex_unlock(&cfg->lock);
	if (report.is_out_of_memory)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for an option");
	return report.problems ? mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "%s", report.text.data) : 0;
}

static void print_value(const struct row *row, const struct setting *setting, char text[MESH__NUMBER_TEXT_MAX])
{
	if (row->type == TYPE_DURATION)
		mesh__number_print_duration(setting->number, text);
	else if (row->type == TYPE_BYTES)
		mesh__number_print_bytes(setting->number, text);
	else
		snprintf(text, MESH__NUMBER_TEXT_MAX, "%llu", (unsigned long long)setting->number);
}

static const char *value_text(const struct row *row, const struct setting *setting, char text[MESH__NUMBER_TEXT_MAX])
{
	if (row->type == TYPE_TEXT || row->type == TYPE_CHOICE)
		return setting->text;
	if (row->type == TYPE_BOOL)
		return setting->number ? "true" : "false";
	print_value(row, setting, text);
	return text;
}

int64_t mesh__config_get(const struct mesh__config *cfg, const char *name, const char *service, char *buffer, uint64_t capacity)
{
	size_t len = name ? strcspn(name, "@") : 0;
	int option = name ? find_row(name, len) : -1;
	char storage[MESH__NUMBER_TEXT_MAX];
	const char *text;

	if (option < 0)
		return MESH_E_OPTION;
	if (name[len])
		service = name + len + 1;
	text = value_text(&rows[option], find_setting(cfg, (enum mesh__option)option, service), storage);
	if (option == MESH__OPTION_SERVICE && !*text)
		text = cfg->program;
	if (option == MESH__OPTION_RUNTIME_DIR)
		text = cfg->runtime_dir;
	if (capacity)
		snprintf(buffer, capacity, "%s", text);
	return (int64_t)strlen(text);
}

static void list_one(const struct mesh__config *cfg, uint32_t option, const struct setting *setting, mesh_option_fn fn, void *user)
{
	const struct row *row = &rows[option];
	char value[MESH__NUMBER_TEXT_MAX], range[96];
	struct mesh_option_info info = {
		.size = sizeof(info), .is_service = row->is_service, .is_live = row->is_live, .name = row->name, .environment = row->env,
		.type = type_names[row->type], .default_value = row->dflt, .range = range, .source = setting->source,
		.service = setting->service ? setting->service : "", .help = row->help,
	};

	print_range(row, range, sizeof(range));
	info.value = value_text(row, setting, value);
	if (option == MESH__OPTION_SERVICE && !*info.value)
		info.value = cfg->program;
	if (option == MESH__OPTION_RUNTIME_DIR)
		info.value = cfg->runtime_dir;
	fn(&info, user);
}

int mesh__config_list(const struct mesh__config *cfg, mesh_option_fn fn, void *user)
{
	for (uint32_t i = 0; i < MESH__OPTION_COUNT; i++) {
		list_one(cfg, i, find_setting(cfg, (enum mesh__option)i, NULL), fn, user);
		for (const struct setting *at = atomic_load_explicit(&cfg->settings[i], memory_order_acquire); at; at = at->next)
			if (at->service && find_setting(cfg, (enum mesh__option)i, at->service) == at)
				list_one(cfg, i, at, fn, user);
	}
	return 0;
}

const char *mesh__config_runtime_dir(const struct mesh__config *cfg)
{
	return cfg->runtime_dir;
}

uint32_t mesh__config_warning_count(const struct mesh__config *cfg)
{
	return cfg->warning_count;
}
