#include "identity/policy.h"

#include "base/distance.h"
#include "base/fault.h"
#include "base/memory.h"
#include "base/text.h"
#include "identity/plain_path.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { METHOD_MAX = 31, SERVICE_MAX = 255, PATH_MAX_BYTES = 8192, NEAREST_MAX = 3, WHERE_MAX = 96, PLAIN_PATH_MAX = 4096 };

enum verdict { VERDICT_DENY, VERDICT_ALLOW, VERDICT_TRUST_DOMAIN };

static const char *const verdict_words[] = { "deny", "allow", "trust-domain" };
static const char *const default_names[] = { "default:deny", "default:allow", "default:trust-domain" };

/* The text that must be there; `is_prefix`: more may follow. */
struct pattern {
	char *text, *plain; /* plain: of a path's pattern, as plain_path.h makes it; NULL: the same */
	size_t len, plain_len;
	bool is_prefix;
};

struct list {
	struct pattern *items;
	size_t count; /* 0: it matches all */
};

struct rule {
	char name[MESH__RULE_NAME_MAX];
	struct list peers, methods, paths;
	char *service; /* NULL: any */
	bool is_allow, is_dry_run;
};

struct mesh__policy {
	atomic_uint refs;
	enum verdict otherwise;
	bool is_deny_on_trial; /* once the allow rules on trial decide, what is not written will be "deny" */
	size_t count;
	struct rule rules[];
};

/* What is being read, for the sentence that says where it is wrong. */
struct reader {
	struct mesh__policy *policy;
	struct mesh_error *err;
	char where[WHERE_MAX]; /* "rule 3 (\"shop-may-read\")" */
};

/* --- life --- */

static void free_list(struct list *list)
{
	for (size_t i = 0; i < list->count; i++) {
		mesh__memory_free(list->items[i].text);
		mesh__memory_free(list->items[i].plain);
	}
	mesh__memory_free(list->items);
}

static struct mesh__policy *new_policy(size_t count)
{
	struct mesh__policy *policy = mesh__memory_zalloc(sizeof(*policy) + count * sizeof(struct rule));

	if (!policy)
		return NULL;
	atomic_init(&policy->refs, 1);
	policy->otherwise = VERDICT_TRUST_DOMAIN;
	policy->count = count;
	return policy;
}

struct mesh__policy *mesh__policy_ref(struct mesh__policy *policy)
{
	if (policy)
		atomic_fetch_add_explicit(&policy->refs, 1, memory_order_relaxed);
	return policy;
}

void mesh__policy_unref(struct mesh__policy *policy)
{
	if (!policy || atomic_fetch_sub_explicit(&policy->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < policy->count; i++) {
		free_list(&policy->rules[i].peers);
		free_list(&policy->rules[i].methods);
		free_list(&policy->rules[i].paths);
		mesh__memory_free(policy->rules[i].service);
	}
	mesh__memory_free(policy);
}

static int no_memory(struct mesh_error *err)
{
	return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for a policy");
}

/* --- patterns: 0, or -1 with *why --- */

static const char star_is_odd[] = "a \"*\" stands alone, or for the whole end behind a '/' (spiffe://DOMAIN/ns/shop/*)";

static int check_peer(const char *text, size_t *len, bool *is_prefix, const char **why)
{
	struct mesh__spiffe_id id;
	const char *star = memchr(text, '*', *len);

	*is_prefix = star != NULL;
	if (star && *len == 1) {
		*len = 0;
		return 0;
	}
	*why = star_is_odd;
	if (star && (star != text + *len - 1 || star == text + 1 || star[-1] != '/'))
		return -1;
	*why = "it names no trust domain: spiffe://DOMAIN/* is all of one, * alone is everybody";
	if (star && *len == sizeof("spiffe://*") - 1)
		return -1;
	if (star)
		--*len; /* the '/' before it stays: ".../ns/shop" and ".../ns/shopping" are others */
	if (mesh__spiffe_id_parse(&id, text, star ? *len - 1 : *len, why))
		return -1;
	*why = "it is the ID of a trust domain, which no peer has: its members are spiffe://DOMAIN/*";
	return star || *mesh__spiffe_id_path(&id) ? 0 : -1;
}

static bool is_token(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("!#$%&'+-.^_`|~", c));
}

static int check_method(const char *text, size_t *len, bool *is_prefix, const char **why)
{
	*is_prefix = false;
	*why = !*len ? "it is empty" : *len > METHOD_MAX ? "it is longer than 31 bytes" : NULL;
	for (size_t i = 0; !*why && i < *len; i++) {
		if (text[i] >= 'a' && text[i] <= 'z')
			*why = "methods are written in upper case (GET)";
		else if (text[i] == '*')
			*why = "methods have no patterns; for all methods, leave \"methods\" out";
		else if (!is_token(text[i]))
			*why = "it has a character that no method has";
	}
	return *why ? -1 : 0;
}

static int check_path(const char *text, size_t *len, bool *is_prefix, const char **why)
{
	const char *star = memchr(text, '*', *len);

	*why = *len > PATH_MAX_BYTES ? "it is longer than 8192 bytes" : NULL;
	if (!*why && (!*len || text[0] != '/'))
		*why = "a path begins with '/' (for all paths, leave \"paths\" out)";
	if (!*why && star && star != text + *len - 1)
		*why = "a \"*\" stands only at the end of a path";
	for (size_t i = 0; !*why && i < *len; i++) {
		if (text[i] == '?' || text[i] == '#')
			*why = "rules see the path without its query";
		else if (text[i] <= 0x20 || text[i] >= 0x7f)
			*why = "it has a blank, a control character or a byte outside ASCII, which no path has";
	}
	*is_prefix = star != NULL;
	*len -= *is_prefix;
	return *why ? -1 : 0;
}

/* --- reading --- */

typedef int (*check_fn)(const char *text, size_t *len, bool *is_prefix, const char **why);

static int bad(struct reader *reader, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int bad(struct reader *reader, const char *format, ...)
{
	char what[384];
	va_list args;
	struct mesh__text text;

	mesh__text_init(&text, what, sizeof(what));
	va_start(args, format);
	mesh__text_addv(&text, format, args);
	va_end(args);
	return mesh__fault(reader->err, MESH_E_CORRUPT, MESH_STAGE_NONE, "%s%s%s", reader->where, *reader->where ? ": " : "", what);
}

static int add_pattern(struct list *list, const char *text, size_t len, bool is_prefix)
{
	struct pattern *pattern = &list->items[list->count];

	pattern->text = mesh__memory_strndup(text, len);
	if (!pattern->text)
		return MESH_E_NOMEM;
	pattern->len = len;
	pattern->is_prefix = is_prefix;
	list->count++;
	return 0;
}

static int add_plain_paths(struct reader *reader, struct list *list)
{
	for (size_t i = 0; i < list->count; i++) {
		struct pattern *pattern = &list->items[i];

		if (mesh__plain_path_is(pattern->text, pattern->len))
			continue;
		pattern->plain = mesh__memory_alloc(pattern->len);
		if (!pattern->plain)
			return no_memory(reader->err);
		if (!mesh__plain_path_make(pattern->text, pattern->len, pattern->is_prefix, pattern->plain, &pattern->plain_len))
			return bad(reader, "\"paths\": \"%.64s\" has a segment \"..\" or a zero byte (%%00): write the path that is meant", pattern->text);
	}
	return 0;
}

static int read_list(struct reader *reader, const json_t *value, const char *key, struct list *list, check_fn check)
{
	size_t count = json_array_size(value);

	if (!json_is_array(value) || !count)
		return bad(reader, "\"%s\" is not an array of at least one text", key);
	list->items = mesh__memory_zalloc_array(count, sizeof(*list->items));
	if (!list->items)
		return no_memory(reader->err);
	for (size_t i = 0; i < count; i++) {
		const json_t *item = json_array_get(value, i);
		const char *text = json_string_value(item), *why = "";
		size_t len = json_string_length(item);
		bool is_prefix;

		if (!text)
			return bad(reader, "\"%s\", entry %zu is not a text", key, i + 1);
		if (check(text, &len, &is_prefix, &why))
			return bad(reader, "\"%s\", entry %zu, \"%.128s\": %s", key, i + 1, text, why);
		if (add_pattern(list, text, len, is_prefix))
			return no_memory(reader->err);
	}
	return 0;
}

static int read_service(struct reader *reader, const json_t *value, struct rule *rule)
{
	const char *text = json_string_value(value);
	size_t len = json_string_length(value);

	if (!text || !len || len > SERVICE_MAX)
		return bad(reader, "\"service\" is not a text of 1 to %d bytes", SERVICE_MAX);
	if (strchr(text, '*'))
		return bad(reader, "\"service\", \"%.64s\": services have no patterns; for all services, leave it out", text);
	for (const char *at = text; *at; at++)
		if (*at <= 0x20 || *at >= 0x7f)
			return bad(reader, "\"service\", \"%.64s\": it has a blank, a control character or a byte outside ASCII", text);
	rule->service = mesh__memory_strdup(text);
	return rule->service ? 0 : no_memory(reader->err);
}

/* Names become labels of counters and stand in answers. */
static bool is_rule_name(const char *text)
{
	size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	return len && !text[len] && len < MESH__RULE_NAME_MAX;
}

static int read_name(struct reader *reader, const json_t *value, struct rule *rule, size_t index)
{
	const char *text = json_string_value(value);

	snprintf(reader->where, sizeof(reader->where), "rule %zu", index + 1);
	if (value && (!text || !is_rule_name(text)))
		return bad(reader, "\"name\" is not a text of 1 to %d of a-z, A-Z, 0-9, '.', '_' and '-'", MESH__RULE_NAME_MAX - 1);
	if (text) {
		snprintf(rule->name, sizeof(rule->name), "%s", text);
		snprintf(reader->where, sizeof(reader->where), "rule %zu (\"%s\")", index + 1, rule->name);
	} else {
		snprintf(rule->name, sizeof(rule->name), "rule-%zu", index + 1);
	}
	for (size_t i = 0; i < index; i++)
		if (strcmp(reader->policy->rules[i].name, rule->name) == 0)
			return bad(reader, "rule %zu is called \"%s\", too, and counters could not tell them apart", i + 1, rule->name);
	return 0;
}

static const char *nearest(const char *word, const char *const *known)
{
	uint32_t best = NEAREST_MAX + 1;
	const char *found = NULL;

	for (; *known; known++) {
		uint32_t distance = mesh__distance(word, *known, best);

		if (distance < best) {
			best = distance;
			found = *known;
		}
	}
	return found;
}

/* A key that is not understood might be the one that was to keep somebody out. */
static int check_keys(struct reader *reader, const json_t *object, const char *const *known)
{
	const char *key, *near;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)object, key, value) {
		size_t i = 0;

		while (known[i] && strcmp(known[i], key) != 0)
			i++;
		if (known[i])
			continue;
		near = nearest(key, known);
		return bad(reader, "there is no key \"%.64s\"%s%s%s", key, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
	}
	return 0;
}

static int read_peers(struct reader *reader, const json_t *item, struct rule *rule)
{
	const json_t *allow = json_object_get(item, "allow"), *deny = json_object_get(item, "deny");

	if (!allow == !deny)
		return bad(reader, allow ? "it has both \"allow\" and \"deny\"; make it two rules" : "it has neither \"allow\" nor \"deny\"");
	rule->is_allow = allow != NULL;
	return read_list(reader, allow ? allow : deny, allow ? "allow" : "deny", &rule->peers, check_peer);
}

static int read_rule(struct reader *reader, const json_t *item, size_t index)
{
	static const char *const keys[] = { "name", "allow", "deny", "service", "methods", "paths", "dry_run", NULL };
	const json_t *service = json_object_get(item, "service"), *methods = json_object_get(item, "methods");
	const json_t *paths = json_object_get(item, "paths"), *dry_run = json_object_get(item, "dry_run");
	struct rule *rule = &reader->policy->rules[index];
	int rc = read_name(reader, json_object_get(item, "name"), rule, index);

	if (rc == 0 && !json_is_object(item))
		rc = bad(reader, "it is not an object");
	if (rc == 0)
		rc = check_keys(reader, item, keys);
	if (rc == 0)
		rc = read_peers(reader, item, rule);
	if (rc == 0 && service)
		rc = read_service(reader, service, rule);
	if (rc == 0 && methods)
		rc = read_list(reader, methods, "methods", &rule->methods, check_method);
	if (rc == 0 && paths)
		rc = read_list(reader, paths, "paths", &rule->paths, check_path);
	if (rc == 0)
		rc = add_plain_paths(reader, &rule->paths);
	if (rc == 0 && dry_run && !json_is_boolean(dry_run))
		rc = bad(reader, "\"dry_run\" is neither true nor false");
	rule->is_dry_run = json_is_true(dry_run);
	reader->where[0] = '\0';
	return rc;
}

/* A rule on trial decides nothing, so it does not change what is not written either. */
static void imply_default(struct mesh__policy *policy)
{
	bool has_allow = false, has_trial = false;

	for (size_t i = 0; i < policy->count; i++) {
		has_allow |= policy->rules[i].is_allow && !policy->rules[i].is_dry_run;
		has_trial |= policy->rules[i].is_allow && policy->rules[i].is_dry_run;
	}
	policy->otherwise = has_allow ? VERDICT_DENY : VERDICT_TRUST_DOMAIN;
	policy->is_deny_on_trial = has_trial && !has_allow;
}

static int read_default(struct reader *reader, const json_t *value)
{
	static const char *const words[] = { "trust-domain", "deny", "allow", NULL };
	const char *text = json_string_value(value), *near;

	if (!value) {
		imply_default(reader->policy);
		return 0;
	}
	for (size_t i = 0; text && i < sizeof(verdict_words) / sizeof(*verdict_words); i++)
		if (strcmp(text, verdict_words[i]) == 0) {
			reader->policy->otherwise = (enum verdict)i;
			return 0;
		}
	near = text ? nearest(text, words) : NULL;
	return bad(reader, "\"default\" is none of \"trust-domain\", \"deny\" and \"allow\"%s%s%s", near ? "; did you mean \"" : "", near ? near : "",
		   near ? "\"?" : "");
}

static int read_root(struct reader *reader, const json_t *root)
{
	static const char *const keys[] = { "rules", "default", NULL };
	const json_t *rules = json_object_get(root, "rules");
	size_t count = json_array_size(rules);
	int rc;

	if (!json_is_object(root))
		return bad(reader, "it is not a JSON object with \"rules\"");
	rc = check_keys(reader, root, keys);
	if (rc)
		return rc;
	if (!json_is_array(rules))
		return bad(reader, "it has no \"rules\" of type array");
	if (count > MESH__POLICY_RULES_MAX)
		return bad(reader, "it has %zu rules, and %d are the most", count, MESH__POLICY_RULES_MAX);
	reader->policy = new_policy(count);
	if (!reader->policy)
		return no_memory(reader->err);
	for (size_t i = 0; rc == 0 && i < count; i++)
		rc = read_rule(reader, json_array_get(rules, i), i);
	return rc ? rc : read_default(reader, json_object_get(root, "default"));
}

int mesh__policy_parse(struct mesh__policy **out, const char *text, size_t len, struct mesh_error *err)
{
	struct reader reader = { .err = err };
	json_error_t error;
	json_t *root;
	int rc;

	*out = NULL;
	if (len > MESH__POLICY_BYTES_MAX)
		return bad(&reader, "it is larger than 1 MiB");
	if (!len)
		return bad(&reader, "it is empty");
	root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
	if (!root && json_error_code(&error) == json_error_out_of_memory)
		return no_memory(err);
	if (!root)
		return bad(&reader, "line %d column %d: %s", error.line, error.column, error.text);
	rc = read_root(&reader, root);
	json_decref(root);
	if (rc)
		mesh__policy_unref(reader.policy);
	else
		*out = reader.policy;
	return rc;
}

/* --- the short form --- */

static int add_allowed(struct rule *rule, const char *text, size_t len, struct mesh_error *err)
{
	size_t kept = len;
	const char *why;
	bool is_prefix;

	if (check_peer(text, &kept, &is_prefix, &why))
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "allow: \"%.*s\": %s", len > 128 ? 128 : (int)len, text, why);
	return add_pattern(&rule->peers, text, kept, is_prefix) ? no_memory(err) : 0;
}

int mesh__policy_from_allow(struct mesh__policy **out, const char *patterns, struct mesh_error *err)
{
	struct mesh__policy *policy = new_policy(1);
	struct rule *rule = policy ? policy->rules : NULL;
	int rc = 0;

	*out = NULL;
	if (rule) /* at most every second byte is a pattern */
		rule->peers.items = mesh__memory_zalloc_array(strlen(patterns) / 2 + 1, sizeof(*rule->peers.items));
	if (!rule || !rule->peers.items) {
		mesh__policy_unref(policy);
		return no_memory(err);
	}
	snprintf(rule->name, sizeof(rule->name), "allow");
	rule->is_allow = true;
	policy->otherwise = VERDICT_DENY;
	for (const char *at = patterns; rc == 0 && *(at += strspn(at, " ,"));) {
		size_t len = strcspn(at, " ,");

		rc = add_allowed(rule, at, len, err);
		at += len;
	}
	if (rc == 0 && !rule->peers.count)
		rc = mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "allow: it names nobody; leave it empty for our own trust domain");
	if (rc)
		mesh__policy_unref(policy);
	else
		*out = policy;
	return rc;
}

int mesh__policy_default(struct mesh__policy **out)
{
	*out = new_policy(0);
	return *out ? 0 : MESH_E_NOMEM;
}

/* --- deciding --- */

/* A path in the two forms in which it may be read. */
struct path {
	const char *text, *plain;
	size_t len, plain_len;
	bool is_plain;   /* there is but one form */
	bool is_unknown; /* who knows how it is read: it is too long for us to look, or has no one plain form */
};

static void read_path(struct path *path, const struct mesh__policy_question *question, char *storage)
{
	*path = (struct path){ .text = question->path, .len = question->path_len, .is_plain = mesh__plain_path_is(question->path, question->path_len) };
	if (path->is_plain)
		return;
	path->plain = storage;
	path->is_unknown = path->len > PLAIN_PATH_MAX || !mesh__plain_path_make(path->text, path->len, false, storage, &path->plain_len);
}

static bool has_plain(const struct list *list, const struct path *path)
{
	for (size_t i = 0; i < list->count; i++) {
		const struct pattern *pattern = &list->items[i];
		const char *text = pattern->plain ? pattern->plain : pattern->text;
		size_t len = pattern->plain ? pattern->plain_len : pattern->len;

		if ((pattern->is_prefix ? path->plain_len >= len : path->plain_len == len) && memcmp(path->plain, text, len) == 0)
			return true;
	}
	return false;
}

static bool matches(const struct list *list, const char *text, size_t len)
{
	for (size_t i = 0; i < list->count; i++) {
		const struct pattern *pattern = &list->items[i];

		if ((pattern->is_prefix ? len >= pattern->len : len == pattern->len) && memcmp(text, pattern->text, pattern->len) == 0)
			return true;
	}
	return !list->count;
}

/* Methods have a case (RFC 9110, 9.1), but not every handler knows: "delete" is kept out as "DELETE" is, and not let in. */
static bool method_matches(const struct rule *rule, const char *method)
{
	bool is_there = matches(&rule->methods, method, strlen(method));

	for (size_t i = 0; !is_there && !rule->is_allow && i < rule->methods.count; i++)
		is_there = strcasecmp(rule->methods.items[i].text, method) == 0;
	return is_there;
}

/* Who is let in must be so in either form, who is kept out in one; of a path that nobody can tell, the worst is believed. */
static bool path_matches(const struct rule *rule, const struct path *path)
{
	bool is_there = matches(&rule->paths, path->text, path->len);

	if (path->is_plain || !rule->paths.count)
		return is_there;
	if (path->is_unknown)
		return !rule->is_allow;
	return rule->is_allow ? is_there && has_plain(&rule->paths, path) : is_there || has_plain(&rule->paths, path);
}

static bool rule_matches(const struct rule *rule, const struct mesh__policy_question *question, const struct path *path)
{
	return (!rule->service || (question->service && strcmp(rule->service, question->service) == 0)) &&
	       method_matches(rule, question->method) && path_matches(rule, path) &&
	       matches(&rule->peers, question->peer->text, question->peer->len);
}

static bool allows_by_default(const struct mesh__policy *policy, const struct mesh__spiffe_id *peer, const char *own_domain)
{
	if (policy->otherwise == VERDICT_TRUST_DOMAIN)
		return own_domain && mesh__spiffe_id_is_member(peer, own_domain);
	return policy->otherwise == VERDICT_ALLOW;
}

static void try_out(struct mesh__policy_answer *answer, const char *name)
{
	if (!answer->dry_run_count++)
		snprintf(answer->dry_run, sizeof(answer->dry_run), "%s", name);
}

void mesh__policy_decide(const struct mesh__policy *policy, const struct mesh__policy_question *question, struct mesh__policy_answer *answer)
{
	const struct rule *by = NULL;
	bool has_allow_on_trial = false;
	char storage[PLAIN_PATH_MAX];
	struct path path;

	memset(answer, 0, sizeof(*answer));
	if (!question->peer || !question->peer->len) { /* rules speak of verified peers only */
		snprintf(answer->rule, sizeof(answer->rule), "no-identity");
		return;
	}
	read_path(&path, question, storage);
	for (size_t i = 0; i < policy->count && !by; i++) {
		const struct rule *rule = &policy->rules[i];

		if (!rule_matches(rule, question, &path))
			continue;
		if (!rule->is_dry_run)
			by = rule;
		else if (rule->is_allow)
			has_allow_on_trial = true;
		else
			try_out(answer, rule->name);
	}
	answer->is_allowed = by ? by->is_allow : allows_by_default(policy, question->peer, question->own_domain);
	snprintf(answer->rule, sizeof(answer->rule), "%s", by ? by->name : default_names[policy->otherwise]);
	if (!by && policy->is_deny_on_trial && !has_allow_on_trial)
		try_out(answer, default_names[VERDICT_DENY]);
	if (!answer->is_allowed) { /* it is denied anyway */
		answer->dry_run_count = 0;
		answer->dry_run[0] = '\0';
	}
}

static bool is_hopeless_by(const char *name, char rule[MESH__RULE_NAME_MAX])
{
	if (rule)
		snprintf(rule, MESH__RULE_NAME_MAX, "%s", name);
	return true;
}

bool mesh__policy_is_hopeless(const struct mesh__policy *policy, const struct mesh__spiffe_id *peer, const char *own_domain,
			      char rule_name[MESH__RULE_NAME_MAX])
{
	if (!peer || !peer->len)
		return is_hopeless_by("no-identity", rule_name);
	for (size_t i = 0; i < policy->count; i++) {
		const struct rule *rule = &policy->rules[i];

		if (rule->is_dry_run || !matches(&rule->peers, peer->text, peer->len))
			continue;
		if (rule->is_allow)
			return false;
		if (!rule->service && !rule->methods.count && !rule->paths.count)
			return is_hopeless_by(rule->name, rule_name);
	}
	return !allows_by_default(policy, peer, own_domain) && is_hopeless_by(default_names[policy->otherwise], rule_name);
}
