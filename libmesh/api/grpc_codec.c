/*
 * protobuf-c parses recursively and allocates by the types' sizes, so a few bytes of a stranger can cost much stack (a
 * message that holds itself, a million times) or much memory (two bytes on the wire are a whole structure). Before it sees
 * the bytes, their nesting is walked without recursion; while it works, it draws memory from a budget.
 */
#include "api/grpc_codec.h"

#include "base/memory.h"
#include "mesh/error.h"

#include <stdbool.h>
#include <stdio.h>

/* What one message may take: a base that any small message fits in, and a multiple of its bytes that honest ones stay below. */
enum { UNPACK_BASE_BYTES = 1024 * 1024, UNPACK_BYTES_PER_BYTE = 64 };

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_LENGTH = 2, WIRE_FIXED32 = 5 };

struct budget {
	size_t left_bytes;
	bool is_spent, is_out_of_memory;
};

/* A part of the bytes that is one message. */
struct span {
	const uint8_t *at, *end;
	const ProtobufCMessageDescriptor *type;
};

int mesh__grpc_codec_path(char path[MESH__GRPC_CODEC_PATH], const ProtobufCServiceDescriptor *service,
			  const ProtobufCMethodDescriptor *method)
{
	int len = snprintf(path, MESH__GRPC_CODEC_PATH, "/%s/%s", service->name, method->name);

	return len > 0 && len < MESH__GRPC_CODEC_PATH ? 0 : MESH_E_INVALID;
}

int mesh__grpc_codec_pack(const ProtobufCMessage *message, struct mesh__grpc_packed *packed)
{
	uint8_t *to = packed->storage;

	packed->heap = NULL;
	packed->len = protobuf_c_message_get_packed_size(message);
	if (packed->len > sizeof(packed->storage)) {
		to = packed->heap = mesh__memory_alloc(packed->len);
		if (!to)
			return MESH_E_NOMEM;
	}
	protobuf_c_message_pack(message, to);
	packed->data = to;
	return 0;
}

void mesh__grpc_codec_release(struct mesh__grpc_packed *packed)
{
	mesh__memory_free(packed->heap);
	packed->heap = NULL;
}

static bool take_varint(struct span *span, uint64_t *value)
{
	*value = 0;
	for (unsigned shift = 0; shift < 64 && span->at < span->end; shift += 7) {
		uint8_t byte = *span->at++;

		*value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return true;
	}
	return false;
}

static bool skip_bytes(struct span *span, uint64_t len)
{
	if (len > (uint64_t)(span->end - span->at))
		return false;
	span->at += len;
	return true;
}

/* Takes one field off `span`. If it is a message, *inner is that message's bytes, else inner->type is NULL. */
static bool take_field(struct span *span, struct span *inner)
{
	const ProtobufCFieldDescriptor *field;
	uint64_t key, len;

	inner->type = NULL;
	if (!take_varint(span, &key))
		return false;
	switch (key & 7) {
	case WIRE_VARINT:
		return take_varint(span, &len);
	case WIRE_FIXED64:
		return skip_bytes(span, 8);
	case WIRE_FIXED32:
		return skip_bytes(span, 4);
	case WIRE_LENGTH:
		if (!take_varint(span, &len) || !skip_bytes(span, len))
			return false;
		field = key >> 3 <= UINT32_MAX ? protobuf_c_message_descriptor_get_field(span->type, (unsigned)(key >> 3)) : NULL;
		if (field && field->type == PROTOBUF_C_TYPE_MESSAGE)
			*inner = (struct span){ span->at - len, span->at, field->descriptor };
		return true;
	default:
		return false; /* groups: protobuf-c does not know them */
	}
}

static bool has_message_fields(const ProtobufCMessageDescriptor *type)
{
	for (unsigned i = 0; i < type->n_fields; i++)
		if (type->fields[i].type == PROTOBUF_C_TYPE_MESSAGE)
			return true;
	return false;
}

/* Are the bytes well formed, and nested less deep than the limit? Field values are left to protobuf-c. */
static bool is_shallow(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len)
{
	struct span open[MESH__GRPC_CODEC_DEPTH], inner;
	int depth = 1;

	if (!len || !has_message_fields(type))
		return true;
	open[0] = (struct span){ data, data + len, type };
	while (depth) {
		struct span *top = &open[depth - 1];

		if (top->at == top->end) {
			depth--;
			continue;
		}
		if (!take_field(top, &inner))
			return false;
		if (!inner.type || !has_message_fields(inner.type))
			continue;
		if (depth == MESH__GRPC_CODEC_DEPTH)
			return false;
		open[depth++] = inner;
	}
	return true;
}

static void *draw(void *user, size_t bytes)
{
	struct budget *budget = user;
	void *memory;

	if (bytes > budget->left_bytes) {
		budget->is_spent = true;
		return NULL;
	}
	budget->left_bytes -= bytes;
	memory = mesh__memory_alloc(bytes);
	budget->is_out_of_memory |= !memory;
	return memory;
}

static void give_back(void *user, void *memory)
{
	(void)user;
	mesh__memory_free(memory);
}

int mesh__grpc_codec_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t len, ProtobufCMessage **out)
{
	struct budget budget = { .left_bytes = UNPACK_BASE_BYTES };
	ProtobufCAllocator allocator = { draw, give_back, &budget };

	*out = NULL;
	if (!data)
		len = 0;
	if (!is_shallow(type, data, len))
		return MESH_E_PROTOCOL;
	budget.left_bytes += len > SIZE_MAX / 2 / UNPACK_BYTES_PER_BYTE ? SIZE_MAX / 2 : len * UNPACK_BYTES_PER_BYTE;
	*out = protobuf_c_message_unpack(type, &allocator, len, len ? data : (const uint8_t *)"");
	if (*out)
		return 0;
	return budget.is_spent ? MESH_E_TOO_LARGE : budget.is_out_of_memory ? MESH_E_NOMEM : MESH_E_PROTOCOL;
}
