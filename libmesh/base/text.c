#include "base/text.h"

#include <stdio.h>
#include <string.h>

void mesh__text_init(struct mesh__text *text, char *storage, size_t capacity)
{
	*text = (struct mesh__text){ .data = storage, .capacity = capacity };
	storage[0] = '\0';
}

void mesh__text_add_bytes(struct mesh__text *text, const char *piece, size_t len)
{
	size_t room = text->capacity - 1 - text->len;

	if (len > room) {
		len = room;
		text->is_cut = true;
	}
	memcpy(text->data + text->len, piece, len);
	text->len += len;
	text->data[text->len] = '\0';
}

void mesh__text_add(struct mesh__text *text, const char *piece)
{
	mesh__text_add_bytes(text, piece, strlen(piece));
}

void mesh__text_addv(struct mesh__text *text, const char *format, va_list args)
{
	size_t room = text->capacity - text->len;
	int wanted = vsnprintf(text->data + text->len, room, format, args);

	if (wanted < 0)
		return;
	if ((size_t)wanted >= room) {
		text->is_cut = true;
		text->len = text->capacity - 1;
	} else {
		text->len += (size_t)wanted;
	}
}

void mesh__text_addf(struct mesh__text *text, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	mesh__text_addv(text, format, args);
	va_end(args);
}

static bool is_plain(char c)
{
	return c >= 0x20 && c < 0x7f;
}

void mesh__text_add_escaped(struct mesh__text *text, const char *piece, size_t len)
{
	for (size_t i = 0, from = 0; i <= len; i++) {
		if (i < len && is_plain(piece[i]))
			continue;
		mesh__text_add_bytes(text, piece + from, i - from);
		if (i < len)
			mesh__text_addf(text, "\\x%02x", (unsigned char)piece[i]);
		from = i + 1;
	}
}

void mesh__text_addv_escaped(struct mesh__text *text, const char *format, va_list args)
{
	char storage[MESH__TEXT_FORMATTED_MAX];
	struct mesh__text raw;

	mesh__text_init(&raw, storage, sizeof(storage));
	mesh__text_addv(&raw, format, args);
	mesh__text_add_escaped(text, raw.data, raw.len);
	text->is_cut |= raw.is_cut;
}

void mesh__text_end_inside(void *structure, uint32_t size, size_t offset, size_t capacity)
{
	if (size > offset && size < offset + capacity)
		((char *)structure)[size - 1] = '\0';
}
