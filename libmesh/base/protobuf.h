/*
 * Reads protobuf's wire format, field by field, in place. For the few small messages that the library itself takes from others;
 * no message of ours needs generated code. Every length is checked against what is there. Pure.
 * Source: protobuf's encoding specification.
 */
#ifndef MESH_BASE_PROTOBUF_H
#define MESH_BASE_PROTOBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mesh__protobuf_type { MESH__PROTOBUF_VARINT = 0, MESH__PROTOBUF_64 = 1, MESH__PROTOBUF_BYTES = 2, MESH__PROTOBUF_32 = 5 };

struct mesh__protobuf {
	const uint8_t *at, *end;
	bool is_broken; /* what there was does not parse */
};

struct mesh__protobuf_field {
	uint32_t number;
	enum mesh__protobuf_type type;
	uint64_t value;      /* of numbers */
	const uint8_t *data; /* of bytes, strings and messages: inside of what is read */
	size_t len;
};

void mesh__protobuf_init(struct mesh__protobuf *reader, const void *data, size_t len);

/* false: the end, or is_broken. Groups, which nobody uses any more, are broken. */
bool mesh__protobuf_next(struct mesh__protobuf *reader, struct mesh__protobuf_field *field);

#endif
