/*
 * Layout of a field: stride, name length, value length (uint32_t each, host order), name, NUL, value, NUL, padding to four bytes.
 * Lengths may shrink in place (binary values), so the stride is kept beside them.
 */
#include "wire/headers.h"

#include "base/memory.h"
#include "wire/grpc.h"

#include <string.h>

enum { FIRST_CAPACITY = 480, FIELD_OVERHEAD = 32 };

struct field_head {
	uint32_t stride, name_len, value_len;
};

struct mesh__headers_joined {
	struct mesh__headers_joined *next;
	uint32_t first_at; /* offset of the first field of that name */
	uint32_t len;
	char text[];
};

void mesh__headers_init(struct mesh__headers *headers)
{
	*headers = (struct mesh__headers){ .trailers_from = UINT32_MAX };
}

void mesh__headers_fini(struct mesh__headers *headers, struct mesh__pool *pool)
{
	struct mesh__headers_joined *joined = atomic_load_explicit(&headers->joined, memory_order_relaxed), *next;

	for (; joined; joined = next) {
		next = joined->next;
		mesh__memory_free(joined);
	}
	mesh__pool_free(pool, headers->data);
	mesh__headers_init(headers);
}

void mesh__headers_clear(struct mesh__headers *headers)
{
	headers->used = headers->count = headers->cost_bytes = 0;
	headers->trailers_from = UINT32_MAX;
}

int mesh__headers_add(struct mesh__headers *headers, struct mesh__pool *pool, const void *name, size_t name_len, const void *value,
		      size_t value_len)
{
	size_t stride = (sizeof(struct field_head) + name_len + value_len + 2 + 3) & ~(size_t)3;
	struct field_head head = { (uint32_t)stride, (uint32_t)name_len, (uint32_t)value_len };
	uint8_t *at;

	if (headers->used + stride > headers->capacity) {
		size_t capacity = headers->capacity ? headers->capacity * (size_t)2 : FIRST_CAPACITY;

		while (capacity < headers->used + stride)
			capacity *= 2;
		at = mesh__pool_realloc(pool, headers->data, capacity);
		if (!at)
			return MESH_E_NOMEM;
		headers->data = at;
		headers->capacity = (uint32_t)capacity;
	}
	at = headers->data + headers->used;
	memcpy(at, &head, sizeof(head));
	at += sizeof(head);
	memcpy(at, name, name_len);
	at[name_len] = '\0';
	memcpy(at + name_len + 1, value, value_len);
	at[name_len + 1 + value_len] = '\0';
	headers->used += (uint32_t)stride;
	headers->count++;
	headers->cost_bytes += (uint32_t)(name_len + value_len + FIELD_OVERHEAD);
	return 0;
}

bool mesh__headers_next(const struct mesh__headers *headers, uint32_t *at, struct mesh__field *field)
{
	const uint8_t *here = headers->data + *at;
	struct field_head head;

	if (*at >= headers->used)
		return false;
	memcpy(&head, here, sizeof(head));
	field->name_len = head.name_len;
	field->value_len = head.value_len;
	field->name = (const char *)here + sizeof(head);
	field->value = field->name + head.name_len + 1;
	*at += head.stride;
	return true;
}

bool mesh__headers_at(const struct mesh__headers *headers, uint32_t index, struct mesh__field *field)
{
	uint32_t at = 0;

	do
		if (!mesh__headers_next(headers, &at, field))
			return false;
	while (index--);
	return true;
}

/* The next field of that name from *at on; *index counts all fields. */
static bool find_next(const struct mesh__headers *headers, const char *name, size_t name_len, bool in_trailers, uint32_t *at,
		      uint32_t *index, struct mesh__field *field)
{
	while (mesh__headers_next(headers, at, field)) {
		bool is_trailer = (*index)++ >= headers->trailers_from;

		if (is_trailer == in_trailers && field->name_len == name_len && memcmp(field->name, name, name_len) == 0)
			return true;
	}
	return false;
}

const char *mesh__headers_find(const struct mesh__headers *headers, const char *name, size_t name_len, bool in_trailers, uint32_t *len)
{
	uint32_t at = 0, index = 0;
	struct mesh__field field;

	if (!find_next(headers, name, name_len, in_trailers, &at, &index, &field))
		return NULL;
	if (len)
		*len = field.value_len;
	return field.value;
}

void mesh__headers_find_all(const struct mesh__headers *headers, struct mesh__wanted *wanted, uint32_t count)
{
	uint32_t at = 0, index = 0;
	struct mesh__field field;

	while (index++ < headers->trailers_from && mesh__headers_next(headers, &at, &field))
		for (uint32_t i = 0; i < count; i++)
			if (wanted[i].name_len == field.name_len && !wanted[i].value && memcmp(wanted[i].name, field.name, field.name_len) == 0) {
				wanted[i].value = field.value;
				wanted[i].value_len = field.value_len;
				break;
			}
}

static struct mesh__headers_joined *join(const struct mesh__headers *headers, const char *name, size_t name_len, bool in_trailers)
{
	struct mesh__headers_joined *joined;
	uint32_t at = 0, index = 0, len = 0;
	struct mesh__field field;
	size_t bytes = 0;

	while (find_next(headers, name, name_len, in_trailers, &at, &index, &field))
		bytes += field.value_len + 2;
	joined = mesh__memory_alloc(sizeof(*joined) + bytes + 1);
	if (!joined)
		return NULL;
	at = index = 0;
	while (find_next(headers, name, name_len, in_trailers, &at, &index, &field)) {
		if (len) {
			memcpy(joined->text + len, ", ", 2);
			len += 2;
		}
		memcpy(joined->text + len, field.value, field.value_len);
		len += field.value_len;
	}
	joined->text[len] = '\0';
	joined->len = len;
	return joined;
}

const char *mesh__headers_get(const struct mesh__headers *headers, const char *name, bool in_trailers, uint64_t *len)
{
	/* Joining is remembered so that the pointer lives as long as the list; several threads may do it at once. */
	_Atomic(struct mesh__headers_joined *) *list = (_Atomic(struct mesh__headers_joined *) *)(uintptr_t)&headers->joined;
	struct mesh__headers_joined *joined, *known;
	uint32_t at = 0, index = 0, first_at, value_len;
	size_t name_len = strlen(name);
	struct mesh__field field, second;

	if (!find_next(headers, name, name_len, in_trailers, &at, &index, &field))
		return NULL;
	first_at = at;
	value_len = field.value_len;
	if (!find_next(headers, name, name_len, in_trailers, &at, &index, &second)) {
		if (len)
			*len = value_len;
		return field.value;
	}
	known = atomic_load_explicit(list, memory_order_acquire);
	for (joined = known; joined && joined->first_at != first_at; joined = joined->next)
		;
	if (!joined) {
		joined = join(headers, name, name_len, in_trailers);
		if (!joined)
			return NULL;
		joined->first_at = first_at;
		joined->next = known;
		while (!atomic_compare_exchange_weak_explicit(list, &joined->next, joined, memory_order_release, memory_order_relaxed))
			;
	}
	if (len)
		*len = joined->len;
	return joined->text;
}

int mesh__headers_decode_binary(struct mesh__headers *headers)
{
	uint32_t at = 0;
	struct mesh__field field;

	for (uint32_t here = 0; mesh__headers_next(headers, &at, &field); here = at) {
		uint8_t *value = (uint8_t *)(uintptr_t)field.value;
		struct field_head head;
		size_t decoded;

		if (field.name_len < 4 || memcmp(field.name + field.name_len - 4, "-bin", 4) != 0)
			continue;
		if (mesh__grpc_base64_decode(field.value, field.value_len, value, &decoded))
			return MESH_E_PROTOCOL;
		value[decoded] = '\0';
		memcpy(&head, headers->data + here, sizeof(head));
		head.value_len = (uint32_t)decoded;
		memcpy(headers->data + here, &head, sizeof(head));
	}
	return 0;
}
