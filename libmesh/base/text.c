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

void mesh__text_add_escaped(struct mesh__text *text, const char *piece, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)piece[i];

		if (c < 0x20 || c >= 0x7f)
			mesh__text_addf(text, "\\x%02x", c);
		else
			mesh__text_add_bytes(text, piece + i, 1);
	}
}
