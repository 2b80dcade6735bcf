/*
 * A received header list: one block of memory from the loop's pool, fields in the order of arrival, trailers behind headers.
 * Filled on the loop; once the call has ended it never changes, and any thread may read it.
 */
#ifndef MESH_WIRE_HEADERS_H
#define MESH_WIRE_HEADERS_H

#include "base/pool.h"
#include "mesh/client.h"

#include <stdatomic.h>
#include <stdbool.h>

struct mesh__headers {
	uint8_t *data;
	uint32_t used, capacity;
	uint32_t count, trailers_from; /* fields from this index on are trailers; UINT32_MAX: none */
	uint32_t cost_bytes;           /* RFC 9113's size: name + value + 32 each, headers or trailers */
	_Atomic(struct mesh__headers_joined *) joined;
};

/* One field inside the block; both strings are followed by a NUL that does not count. */
struct mesh__field {
	uint32_t name_len, value_len;
	const char *name, *value;
};

void mesh__headers_init(struct mesh__headers *headers);
void mesh__headers_fini(struct mesh__headers *headers, struct mesh__pool *pool);
void mesh__headers_clear(struct mesh__headers *headers); /* keeps the memory; for what follows a 1xx answer */
int mesh__headers_add(struct mesh__headers *headers, struct mesh__pool *pool, const void *name, size_t name_len, const void *value,
		      size_t value_len);

/* Walks: *at = 0 first; false at the end. */
bool mesh__headers_next(const struct mesh__headers *headers, uint32_t *at, struct mesh__field *field);
bool mesh__headers_at(const struct mesh__headers *headers, uint32_t index, struct mesh__field *field);

/* The first of that name, or NULL. */
const char *mesh__headers_find(const struct mesh__headers *headers, const char *name, size_t name_len, bool in_trailers, uint32_t *len);

/* Several names in one walk, of headers only: fills value and value_len of those that are there (the first of each name). */
struct mesh__wanted {
	const char *name;
	uint32_t name_len, value_len;
	const char *value; /* NULL: not there */
};
void mesh__headers_find_all(const struct mesh__headers *headers, struct mesh__wanted *wanted, uint32_t count);

/* All of that name, joined with ", " if there are several; thread any. NULL if absent, or out of memory while joining. */
const char *mesh__headers_get(const struct mesh__headers *headers, const char *name, bool in_trailers, uint64_t *len);

/* Replaces the values of names ending in "-bin" by the bytes they stand for. MESH_E_PROTOCOL: one is not base64. */
int mesh__headers_decode_binary(struct mesh__headers *headers);

#endif
