#include "base/distance.h"

#include <string.h>

enum { NAME_MAX_LEN = 64 };

static uint32_t least(uint32_t a, uint32_t b, uint32_t c)
{
	uint32_t ab = a < b ? a : b;

	return ab < c ? ab : c;
}

uint32_t mesh__distance(const char *a, const char *b, uint32_t limit)
{
	uint32_t row[NAME_MAX_LEN + 1];
	size_t a_len = strlen(a), b_len = strlen(b);

	if (a_len >= NAME_MAX_LEN || b_len >= NAME_MAX_LEN)
		return limit;
	for (uint32_t k = 0; k <= b_len; k++)
		row[k] = k;
	for (size_t i = 0; i < a_len; i++) {
		uint32_t diagonal = row[0];

		row[0] = (uint32_t)i + 1;
		for (size_t k = 0; k < b_len; k++) {
			uint32_t above = row[k + 1];

			row[k + 1] = least(above + 1, row[k] + 1, diagonal + (a[i] != b[k]));
			diagonal = above;
		}
	}
	return row[b_len] < limit ? row[b_len] : limit;
}
