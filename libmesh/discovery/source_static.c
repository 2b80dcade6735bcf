/* static:users=10.0.0.4:9000,10.0.0.5:9000;orders=10.0.0.6:9000 */
#include "discovery/source.h"

#include "base/fault.h"
#include "base/memory.h"

#include <string.h>

struct listed {
	struct listed *next;
	struct mesh__found *found;
	uint32_t count;
	char name[];
};

static void close_static(struct mesh__source *source)
{
	for (struct listed *at = source->data, *next; at; at = next) {
		next = at->next;
		mesh__memory_free(at->found);
		mesh__memory_free(at);
	}
	source->data = NULL;
}

static int parse_addresses(struct listed *listed, const char *text, size_t len, struct mesh_error *err)
{
	uint32_t commas = 0;

	for (size_t i = 0; i < len; i++)
		commas += text[i] == ',';
	listed->found = mesh__memory_zalloc_array(commas + 1, sizeof(*listed->found));
	if (!listed->found)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for static endpoints");
	for (size_t at = 0; at <= len;) {
		const char *comma = memchr(text + at, ',', len - at), *why;
		size_t part = comma ? (size_t)(comma - text) - at : len - at;

		if (mesh__address_parse_endpoint(&listed->found[listed->count].address, text + at, part, &why))
			return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "discovery: static: \"%.*s\" of %s: %s", (int)part, text + at,
					   listed->name, why);
		listed->found[listed->count++].weight = 1;
		at += part + 1;
	}
	return 0;
}

static bool is_listed(const struct mesh__source *source, const char *name, size_t len)
{
	for (const struct listed *at = source->data; at; at = at->next)
		if (strlen(at->name) == len && memcmp(at->name, name, len) == 0)
			return true;
	return false;
}

static int open_static(struct mesh__source *source, const char *rest, struct mesh_error *err)
{
	while (*rest) {
		size_t len = strcspn(rest, ";");
		const char *equals = memchr(rest, '=', len);
		struct listed *listed;
		int rc;

		if (!equals || equals == rest) {
			close_static(source);
			return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "discovery: static: \"%.*s\" is not NAME=IP:PORT,...", (int)len, rest);
		}
		if (is_listed(source, rest, (size_t)(equals - rest))) {
			close_static(source);
			return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "discovery: static: %.*s is named twice, again in \"%.*s\"",
					   (int)(equals - rest), rest, (int)len, rest);
		}
		listed = mesh__memory_zalloc(sizeof(*listed) + (size_t)(equals - rest) + 1);
		if (!listed) {
			close_static(source);
			return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for static endpoints");
		}
		memcpy(listed->name, rest, (size_t)(equals - rest));
		listed->next = source->data;
		source->data = listed;
		rc = parse_addresses(listed, equals + 1, len - (size_t)(equals + 1 - rest), err);
		if (rc) {
			close_static(source);
			return rc;
		}
		rest += len + (rest[len] == ';');
	}
	return 0;
}

static void follow(struct mesh__source *source, struct mesh__service *service)
{
	for (struct listed *at = source->data; at; at = at->next)
		if (strcmp(at->name, mesh__service_name(service)) == 0) {
			mesh__directory_deliver(source, service, at->found, at->count);
			return;
		}
	mesh__directory_absent(source, service, "it is not listed");
}

static void stop(struct mesh__source *source)
{
	(void)source;
}

const struct mesh__source_ops mesh__source_static = { .scheme = "static", .open = open_static, .follow = follow, .stop = stop, .close = close_static };
