/*
 * What the commands print: messages, tables, numbers for people, JSON for programs.
 *
 * Everything that came from a user, a peer or a shared-memory segment is escaped before it reaches a terminal.
 */
#ifndef MESH_CLI_OUTPUT_H
#define MESH_CLI_OUTPUT_H

#include "mesh/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum colour { PLAIN, BOLD, DIM, RED, GREEN, YELLOW, CYAN };

/* The command in whose name complain() speaks. */
void output_set_command(const char *name);

/* "mesh call: ..." on standard error, escaped, one line. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A failure of the library, with its step, and a hint on a second line. */
void complain_error(const struct mesh_error *err);

/* NO_COLOR, CLICOLOR_FORCE, TERM=dumb and whether it is a terminal, in that order. */
bool output_has_colour(FILE *file);
void paint(FILE *file, enum colour colour, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Escapes control and bidirectional characters and what is not UTF-8; `keep_lines` leaves newlines and tabs as they are. */
void print_escaped(FILE *file, const char *text, size_t len, bool keep_lines);
/* The same into a buffer, on one line, always terminated. Returns the buffer. */
char *escape(char *buffer, size_t capacity, const char *text);
bool is_utf8(const char *text, size_t len);

/* "312us", "1.24ms", "2.05s"; "1,234,567"; "99.95%". The buffer is returned. */
enum { HUMAN_BYTES = 32 };
char *human_duration(char *buffer, uint64_t ns);
char *human_count(char *buffer, uint64_t count);
char *human_rate(char *buffer, double per_second);
char *human_share(char *buffer, uint64_t part, uint64_t whole);
char *human_bytes(char *buffer, uint64_t bytes);

/* A table whose columns are as wide as their widest cell. */
struct table;
struct table_column {
	const char *title;
	bool is_number; /* right-aligned */
	int spare;      /* left out where a terminal is too narrow, the highest first; 0: never, as is the first column */
};
struct table *table_new(const struct table_column *columns, size_t count);
/* Cells are escaped and copied. The next free cell, row by row. */
void table_add(struct table *table, enum colour colour, const char *text);
void table_addf(struct table *table, enum colour colour, const char *format, ...) __attribute__((format(printf, 3, 4)));
size_t table_rows(const struct table *table);
void table_print(const struct table *table, FILE *file);
void table_free(struct table *table);

/* A JSON string of any bytes: what is not UTF-8 becomes U+FFFD. */
json_t *json_text(const char *text, size_t len);
/* Sets `key` to the text, or to `key_base64` if the bytes are not UTF-8, so that nothing is lost. */
void json_set_bytes(json_t *object, const char *key, const void *data, size_t len);
json_t *json_error(const struct mesh_error *err);
/* Prints and releases it. Returns an exit status. */
int print_json(json_t *root);

/* Flushes standard output; an exit status that says whether everything could be written. */
int output_finish(int status);

/* Writes all bytes as they are. */
bool print_raw(FILE *file, const void *data, size_t len);

#endif
