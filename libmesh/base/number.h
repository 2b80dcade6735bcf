/* Values with units, as people write them in options. Strict: nothing before, between or behind that does not belong. */
#ifndef MESH_BASE_NUMBER_H
#define MESH_BASE_NUMBER_H

#include <stddef.h>
#include <stdint.h>

enum { MESH__NUMBER_TEXT_MAX = 32 };

/* Each returns 0, or -1 with *why set to a static phrase. */
int mesh__number_parse_count(const char *text, uint64_t *value, const char **why);    /* "4096", "10k", "2M" */
int mesh__number_parse_duration(const char *text, uint64_t *value_ns, const char **why); /* "250ms", "1.5s", "0"; ns us ms s m h */
int mesh__number_parse_bytes(const char *text, uint64_t *value, const char **why);    /* "64KiB", "1MB", "512" */
int mesh__number_parse_bool(const char *text, uint64_t *value, const char **why);     /* true false on off yes no 1 0 */

/* As the parser would read it, in the largest unit that is exact. */
void mesh__number_print_duration(uint64_t value_ns, char text[MESH__NUMBER_TEXT_MAX]);
void mesh__number_print_bytes(uint64_t value, char text[MESH__NUMBER_TEXT_MAX]);

#endif
