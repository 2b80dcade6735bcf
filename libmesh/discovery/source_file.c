/*
 * file:PATH, a JSON file that somebody else writes, replaced atomically or in place:
 *
 *   {"services": {"users": {"endpoints": [{"address": "10.0.0.4:9000", "weight": 2}, {"address": "10.0.0.5:9000"}]}}}
 *   {"services": {"users": ["10.0.0.4:9000", "10.0.0.5:9000"]}}          the same in short
 *   {"services": {"users": {"id": "spiffe://prod.example/db", "endpoints": [...]}}}
 *
 * An "id", of a service or of one endpoint, says who answers there: who may write the file says where calls go anyway.
 *
 * Keys that are not known are left alone, so that an older library can read a newer file.
 * It is watched by loop/file_watch.
 * A file that does not parse changes nothing: the last good one stays, and the error says line, column and what is wrong.
 */
#include "discovery/source.h"

#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"
#include "base/text.h"
#include "loop/file_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_BYTES_MAX = 64 * 1024 * 1024, ENDPOINTS_MAX = 1000000, WHY_MAX = 256 };

struct followed {
	struct followed *next;
	struct mesh__service *service;
	bool is_listed; /* in the text being read */
};

struct file {
	struct mesh__source *source;
	struct mesh__file_watch watch;
	char why[WHY_MAX];
	int32_t code; /* of what went wrong; 0: the text itself */
	struct followed *first;
	bool is_broken;
};

/* --- the text --- */

/* The ID in `item`, one reference; NULL: it has none. `where` names the place. 0, or -1 with `why`. */
static int parse_id(const json_t *item, const char *where, struct mesh__discovered_id **out, char *why, size_t capacity)
{
	const json_t *value = json_object_get(item, "id");
	const char *phrase = "it is not a string";
	int rc = -1;

	*out = NULL;
	if (!value)
		return 0;
	if (json_is_string(value))
		rc = mesh__discovered_id_parse(out, json_string_value(value), json_string_length(value), &phrase);
	if (!rc)
		return 0;
	if (rc == MESH_E_NOMEM)
		snprintf(why, capacity, "out of memory");
	else
		snprintf(why, capacity, "%s: \"id\" is no SPIFFE ID of a workload: %s", where, phrase);
	return -1;
}

static int parse_endpoint(const json_t *item, struct mesh__found *found, const char *service, size_t index, char *why, size_t capacity)
{
	char where[128];
	const char *address = json_string_value(json_is_string(item) ? item : json_object_get(item, "address")), *phrase;
	const json_t *weight = json_object_get(item, "weight");

	if (!address) {
		snprintf(why, capacity, "service %.64s, endpoint %zu has no \"address\" of type string", service, index);
		return -1;
	}
	if (mesh__address_parse_endpoint(&found->address, address, strlen(address), &phrase)) {
		snprintf(why, capacity, "service %.64s, endpoint %zu: \"%.48s\": %s", service, index, address, phrase);
		return -1;
	}
	if (weight && (!json_is_integer(weight) || json_integer_value(weight) < 1 || json_integer_value(weight) > 65535)) {
		snprintf(why, capacity, "service %.64s, endpoint %zu: \"weight\" is not a whole number from 1 to 65535", service, index);
		return -1;
	}
	found->weight = weight ? (uint16_t)json_integer_value(weight) : 1;
	snprintf(where, sizeof(where), "service %.64s, endpoint %zu", service, index);
	return parse_id(item, where, &found->id, why, capacity);
}

static void free_found(struct mesh__found *found, size_t count)
{
	for (size_t i = 0; i < count; i++)
		mesh__discovered_id_unref(found[i].id);
	mesh__memory_free(found);
}

static struct mesh__found *parse_service(const char *service, const json_t *value, uint32_t *count, char *why, size_t capacity)
{
	const json_t *endpoints = json_is_array(value) ? value : json_object_get(value, "endpoints");
	size_t wanted = json_array_size(endpoints);
	struct mesh__discovered_id *id;
	struct mesh__found *found;
	char where[128];

	if (!json_is_array(endpoints) || wanted > ENDPOINTS_MAX) {
		snprintf(why, capacity, "service %.64s has no \"endpoints\" of type array (of at most %d)", service, ENDPOINTS_MAX);
		return NULL;
	}
	snprintf(where, sizeof(where), "service %.64s", service);
	if (parse_id(value, where, &id, why, capacity))
		return NULL;
	found = mesh__memory_zalloc_array(wanted + 1, sizeof(*found));
	if (!found)
		snprintf(why, capacity, "out of memory");
	for (size_t i = 0; found && i < wanted; i++) {
		if (parse_endpoint(json_array_get(endpoints, i), &found[i], service, i, why, capacity)) {
			free_found(found, i + 1);
			found = NULL;
		} else if (!found[i].id) {
			found[i].id = mesh__discovered_id_ref(id);
		}
	}
	mesh__discovered_id_unref(id);
	*count = (uint32_t)wanted;
	return found;
}

/* First all is read, then all is handed out: a file counts as a whole or not at all. */
static int walk(const json_t *services, void (*take)(void *, const char *, const struct mesh__found *, uint32_t), void *user, char *why,
		size_t capacity)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)services, name, value) {
		uint32_t count;
		struct mesh__found *found = parse_service(name, value, &count, why, capacity);

		if (!found)
			return -1;
		if (take)
			take(user, name, found, count);
		free_found(found, count);
	}
	return 0;
}

int mesh__source_file_parse(const char *text, size_t len, void (*take)(void *, const char *, const struct mesh__found *, uint32_t), void *user,
			    char *why, size_t capacity)
{
	json_error_t error;
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
	const json_t *services = json_object_get(root, "services");
	struct mesh__text said;
	int rc = -1;

	mesh__text_init(&said, why, capacity);
	if (!root) {
		mesh__text_addf(&said, "line %d column %d: ", error.line, error.column);
		mesh__text_add_escaped(&said, error.text, strlen(error.text));
	} else if (!json_is_object(services)) {
		mesh__text_add(&said, "it has no \"services\" of type object");
	} else if (walk(services, NULL, NULL, why, capacity) == 0) {
		rc = walk(services, take, user, why, capacity);
	}
	json_decref(root);
	return rc;
}

/* --- the file --- */

static void take_service(void *user, const char *name, const struct mesh__found *found, uint32_t count)
{
	struct file *file = user;

	for (struct followed *at = file->first; at; at = at->next)
		if (strcmp(mesh__service_name(at->service), name) == 0) {
			at->is_listed = true;
			mesh__directory_deliver(file->source, at->service, found, count);
		}
}

static void fail(struct file *file)
{
	file->is_broken = true;
	for (struct followed *at = file->first; at; at = at->next)
		mesh__directory_failed(file->source, at->service, file->code, file->why);
}

static char *read_whole(struct file *file, int fd, const struct stat *info, size_t *len)
{
	char *text;

	if (!S_ISREG(info->st_mode) || info->st_size > FILE_BYTES_MAX) {
		snprintf(file->why, sizeof(file->why), "%.160s is not a file of at most 64 MiB", file->watch.path);
		return NULL;
	}
	text = mesh__memory_alloc((size_t)info->st_size + 1);
	*len = 0;
	while (text && *len < (size_t)info->st_size) {
		ssize_t n = pread(fd, text + *len, (size_t)info->st_size - *len, (off_t)*len);

		if (n <= 0)
			break;
		*len += (size_t)n;
	}
	if (!text)
		snprintf(file->why, sizeof(file->why), "out of memory for %.160s", file->watch.path);
	return text;
}

static void parse_file(struct file *file, const char *text, size_t len)
{
	char why[WHY_MAX - 64];

	for (struct followed *at = file->first; at; at = at->next)
		at->is_listed = false;
	if (mesh__source_file_parse(text, len, take_service, file, why, sizeof(why))) {
		snprintf(file->why, sizeof(file->why), "%.60s: %s", file->watch.path, why);
		fail(file);
		return;
	}
	file->is_broken = false;
	for (struct followed *at = file->first; at; at = at->next)
		if (!at->is_listed)
			mesh__directory_absent(file->source, at->service, "it is not listed");
}

static void look(struct file *file, bool must_read)
{
	int fd = mesh__descriptors_add(open(file->watch.path, O_RDONLY | O_NONBLOCK | O_CLOEXEC));
	struct stat info;
	char *text;
	size_t len;

	if (fd < 0 || fstat(fd, &info)) {
		file->code = mesh__fault_code_of_errno(errno);
		snprintf(file->why, sizeof(file->why), "cannot open %.160s: %s", file->watch.path, strerrordesc_np(errno));
		mesh__descriptors_close(fd);
		if (!file->is_broken || must_read)
			fail(file);
		mesh__file_watch_forget(&file->watch);
		return;
	}
	file->code = 0;
	if (must_read || !mesh__file_watch_is_as_seen(&file->watch, &info)) {
		mesh__file_watch_remember(&file->watch, &info);
		text = read_whole(file, fd, &info, &len);
		if (text)
			parse_file(file, text, len);
		else
			fail(file);
		mesh__memory_free(text);
	}
	mesh__descriptors_close(fd);
}

static void on_look(struct mesh__file_watch *watch, bool is_changed)
{
	if (is_changed)
		mesh__file_watch_forget(watch);
	look(MESH__CONTAINER(watch, struct file, watch), false);
}

static void follow(struct mesh__source *source, struct mesh__service *service)
{
	struct file *file = source->data;
	struct followed *followed = file->first;

	while (followed && followed->service != service)
		followed = followed->next;
	if (followed) {
		look(file, true);
		return;
	}
	followed = mesh__memory_zalloc(sizeof(*followed));
	if (!followed) {
		mesh__directory_out_of_memory(source, service);
		return;
	}
	followed->service = service;
	followed->next = file->first;
	file->first = followed;
	if (!file->watch.is_started)
		mesh__file_watch_start(&file->watch, mesh__directory_opts(source->dir)->control);
	look(file, true);
}

/* --- life --- */

static int open_file(struct mesh__source *source, const char *rest, struct mesh_error *err)
{
	struct file *file;

	if (*rest != '/' || strlen(rest) >= MESH__FILE_WATCH_PATH_MAX)
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "discovery: file: needs an absolute path, \"%.64s\" is none (or too long)", rest);
	file = mesh__memory_zalloc(sizeof(*file));
	if (!file)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for a discovery source");
	file->source = source;
	file->watch.look = on_look;
	snprintf(file->watch.path, sizeof(file->watch.path), "%s", rest);
	source->data = file;
	return 0;
}

static void stop(struct mesh__source *source)
{
	struct file *file = source->data;

	for (struct followed *at = file->first, *next; at; at = next) {
		next = at->next;
		mesh__memory_free(at);
	}
	file->first = NULL;
	mesh__file_watch_stop(&file->watch);
}

static void close_file(struct mesh__source *source)
{
	mesh__memory_free(source->data);
}

const struct mesh__source_ops mesh__source_file = { .scheme = "file", .open = open_file, .follow = follow, .stop = stop, .close = close_file };
