#include "base/protobuf.h"

enum { VARINT_BYTES_MAX = 10, FIELD_NUMBER_MAX = (1 << 29) - 1 };

void mesh__protobuf_init(struct mesh__protobuf *reader, const void *data, size_t len)
{
	static const uint8_t nothing[1];

	/* An empty message may come as NULL, from which no pointer may be reckoned. */
	reader->at = len ? data : nothing;
	reader->end = reader->at + len;
	reader->is_broken = false;
}

static bool read_varint(struct mesh__protobuf *reader, uint64_t *value)
{
	*value = 0;
	for (unsigned i = 0; i < VARINT_BYTES_MAX && reader->at < reader->end; i++) {
		uint8_t byte = *reader->at++;

		if (i == VARINT_BYTES_MAX - 1 && byte > 1)
			return false;
		*value |= (uint64_t)(byte & 0x7f) << (7 * i);
		if (!(byte & 0x80))
			return true;
	}
	return false;
}

static bool read_fixed(struct mesh__protobuf *reader, unsigned bytes, uint64_t *value)
{
	*value = 0;
	if ((size_t)(reader->end - reader->at) < bytes)
		return false;
	for (unsigned i = 0; i < bytes; i++)
		*value |= (uint64_t)*reader->at++ << (8 * i);
	return true;
}

static bool read_bytes(struct mesh__protobuf *reader, struct mesh__protobuf_field *field)
{
	uint64_t len;

	if (!read_varint(reader, &len) || len > (uint64_t)(reader->end - reader->at))
		return false;
	field->data = reader->at;
	field->len = (size_t)len;
	reader->at += len;
	return true;
}

static bool read_field(struct mesh__protobuf *reader, struct mesh__protobuf_field *field)
{
	uint64_t key;

	if (!read_varint(reader, &key) || !(key >> 3) || key >> 3 > FIELD_NUMBER_MAX)
		return false;
	*field = (struct mesh__protobuf_field){ .number = (uint32_t)(key >> 3), .type = (enum mesh__protobuf_type)(key & 7) };
	switch (key & 7) {
	case MESH__PROTOBUF_VARINT:
		return read_varint(reader, &field->value);
	case MESH__PROTOBUF_64:
		return read_fixed(reader, 8, &field->value);
	case MESH__PROTOBUF_BYTES:
		return read_bytes(reader, field);
	case MESH__PROTOBUF_32:
		return read_fixed(reader, 4, &field->value);
	default:
		return false;
	}
}

bool mesh__protobuf_next(struct mesh__protobuf *reader, struct mesh__protobuf_field *field)
{
	if (reader->is_broken || reader->at == reader->end)
		return false;
	reader->is_broken = !read_field(reader, field);
	return !reader->is_broken;
}
