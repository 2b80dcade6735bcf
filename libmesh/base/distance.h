/* How far apart two names are: for "did you mean". */
#ifndef MESH_BASE_DISTANCE_H
#define MESH_BASE_DISTANCE_H

#include <stdint.h>

/* Levenshtein's edit distance, or `limit` if it is at least that. Names of 64 characters and more are always far. */
uint32_t mesh__distance(const char *a, const char *b, uint32_t limit);

#endif
