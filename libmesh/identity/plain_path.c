#include "identity/plain_path.h"

#include <string.h>

bool mesh__plain_path_is(const char *path, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		char next = i + 1 < len ? path[i + 1] : '\0';

		if (path[i] == '%' || path[i] == ';' || path[i] == '?' || path[i] == '#' || path[i] == '\\' || (path[i] == '/' && (next == '/' || next == '.')))
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

	for (size_t i = 0; i < len && path[i] != '?' && path[i] != '#'; i++) {
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
static bool tidy(char *path, size_t len, bool is_prefix, size_t *made)
{
	size_t at = 0;

	*made = 0;
	while (at < len) {
		size_t from, size;
		bool may_go_on;

		while (at < len && path[at] == '/')
			at++;
		from = at;
		while (at < len && path[at] != '/')
			at++;
		size = at - from;
		may_go_on = is_prefix && at == len;
		if (size == 2 && path[from] == '.' && path[from + 1] == '.' && !may_go_on)
			return false;
		if (size && (size > 1 || path[from] != '.' || may_go_on)) {
			path[(*made)++] = '/';
			memmove(path + *made, path + from, size);
			*made += size;
		} else if (at == len) { /* it ends in "/" or "/." */
			path[(*made)++] = '/';
		}
	}
	return true;
}

bool mesh__plain_path_make(const char *path, size_t len, bool is_prefix, char *out, size_t *made)
{
	if (len && path[0] == '/') {
		len = decode(path, len, out);
		return !memchr(out, '\0', len) && tidy(out, len, is_prefix, made);
	}
	if (len)
		memcpy(out, path, len);
	*made = len;
	return true;
}
