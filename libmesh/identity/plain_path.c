#include "identity/plain_path.h"

#include <string.h>

bool mesh__plain_path_is(const char *path, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		char next = i + 1 < len ? path[i + 1] : '\0';

		if (path[i] == '%' || path[i] == ';' || path[i] == '\\' || (path[i] == '/' && (next == '/' || next == '.')))
			return false;
	}
	return true;
}

static int digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static size_t decode(const char *path, size_t len, char *out)
{
	size_t made = 0;

	for (size_t i = 0; i < len; i++) {
		char c = path[i];

		if (c == ';') {
			while (i + 1 < len && path[i + 1] != '/')
				i++;
			continue;
		}
		if (c == '%' && len - i > 2 && digit_of(path[i + 1]) >= 0 && digit_of(path[i + 2]) >= 0) {
			c = (char)(digit_of(path[i + 1]) << 4 | digit_of(path[i + 2]));
			i += 2;
		}
		out[made++] = c == '\\' ? '/' : c;
	}
	return made;
}

/* In place: each segment has a slash before it, so that what is written never comes before what is read. */
static size_t tidy(char *path, size_t len)
{
	size_t made = 0, at = 0;

	while (at < len) {
		size_t from, size;

		while (at < len && path[at] == '/')
			at++;
		from = at;
		while (at < len && path[at] != '/')
			at++;
		size = at - from;
		if (size == 2 && path[from] == '.' && path[from + 1] == '.') {
			while (made && path[--made] != '/')
				;
		} else if (size && !(size == 1 && path[from] == '.')) {
			path[made++] = '/';
			memmove(path + made, path + from, size);
			made += size;
			continue;
		}
		if (at == len) /* it ends in "/", "/." or "/.." */
			path[made++] = '/';
	}
	return made;
}

size_t mesh__plain_path_make(const char *path, size_t len, char *out)
{
	if (len && path[0] == '/')
		return tidy(out, decode(path, len, out));
	if (len)
		memcpy(out, path, len);
	return len;
}
