/*
 * Builds text in the caller's fixed storage: always NUL-terminated, never past the end; what does not fit is cut and marked.
 * For sentences in errors and logs, file names and the like.
 */
#ifndef MESH_BASE_TEXT_H
#define MESH_BASE_TEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mesh__text {
	char *data;
	size_t capacity, len;
	bool is_cut;
};

void mesh__text_init(struct mesh__text *text, char *storage, size_t capacity); /* capacity >= 1 */
void mesh__text_add(struct mesh__text *text, const char *piece);
void mesh__text_add_bytes(struct mesh__text *text, const char *piece, size_t len);
void mesh__text_addf(struct mesh__text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void mesh__text_addv(struct mesh__text *text, const char *format, va_list args) __attribute__((format(printf, 2, 0)));

/* Adds bytes of a stranger: control characters and bytes outside ASCII become \xNN, so that no terminal obeys them. */
void mesh__text_add_escaped(struct mesh__text *text, const char *piece, size_t len);

/* Formats, and escapes the whole; what is escaped already stays as it is. Errors and log lines are made so, whoever's names they hold. */
enum { MESH__TEXT_FORMATTED_MAX = 1024 };
void mesh__text_addv_escaped(struct mesh__text *text, const char *format, va_list args) __attribute__((format(printf, 2, 0)));

/*
 * A caller's structure may be smaller than ours, and end inside of the text of `capacity` bytes at `offset` that was copied into
 * it: the text then ends there, with its NUL.
 */
void mesh__text_end_inside(void *structure, uint32_t size, size_t offset, size_t capacity);

#endif
