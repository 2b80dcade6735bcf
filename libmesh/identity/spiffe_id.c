#include "identity/spiffe_id.h"

#include <string.h>
#include <strings.h>

static const char scheme[] = "spiffe://";
enum { SCHEME_LEN = sizeof(scheme) - 1 };

/* What a stranger's character says about the writer's mistake; NULL: no more than that it does not belong there. */
static const char *name_mistake(char c)
{
	switch (c) {
	case '@':
		return "it has a user name";
	case ':':
		return "it has a port";
	case '?':
		return "it has a query";
	case '#':
		return "it has a fragment";
	case '%':
		return "it has a percent sign: nothing is encoded in a SPIFFE ID";
	default:
		return NULL;
	}
}

static bool is_lower_or_digit(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool is_mark(char c)
{
	return c == '.' || c == '-' || c == '_';
}

int mesh__trust_domain_check(const char *text, size_t len, const char **why)
{
	*why = NULL;
	if (!len)
		*why = "the trust domain is empty";
	else if (len > MESH__TRUST_DOMAIN_MAX)
		*why = "the trust domain is longer than 255 bytes";
	for (size_t i = 0; !*why && i < len; i++) {
		if (is_lower_or_digit(text[i]) || is_mark(text[i]))
			continue;
		*why = name_mistake(text[i]);
		if (!*why && text[i] >= 'A' && text[i] <= 'Z')
			*why = "the trust domain has an upper-case letter";
		if (!*why)
			*why = "the trust domain has a character other than a-z, 0-9, '.', '-' and '_'";
	}
	return *why ? -1 : 0;
}

static const char *check_segment(const char *segment, size_t len)
{
	const char *mistake;

	for (size_t i = 0; i < len; i++) {
		char c = segment[i];

		if (is_lower_or_digit(c) || is_mark(c) || (c >= 'A' && c <= 'Z'))
			continue;
		mistake = c == '?' || c == '#' || c == '%' ? name_mistake(c) : NULL;
		return mistake ? mistake : "the path has a character other than a-z, A-Z, 0-9, '.', '-' and '_'";
	}
	if (!len)
		return "the path has an empty segment";
	if ((len == 1 && segment[0] == '.') || (len == 2 && segment[0] == '.' && segment[1] == '.'))
		return "the path has a segment \".\" or \"..\"";
	return NULL;
}

/* `path` begins with its '/', or is empty. */
static const char *check_path(const char *path, size_t len)
{
	const char *mistake = NULL;

	for (size_t from = 1, i = 1; !mistake && len && i <= len; i++) {
		if (i < len && path[i] != '/')
			continue;
		mistake = i == len && from == len ? "it ends in '/'" : check_segment(path + from, i - from);
		from = i + 1;
	}
	return mistake;
}

static const char *check_whole(const char *text, size_t len)
{
	if (!len)
		return "it is empty";
	if (len > MESH__SPIFFE_ID_MAX)
		return "it is longer than 2048 bytes";
	if (len >= SCHEME_LEN && !memcmp(text, scheme, SCHEME_LEN))
		return NULL;
	if (len >= SCHEME_LEN && !strncasecmp(text, scheme, SCHEME_LEN))
		return "its scheme is not written in lower case";
	return "it does not begin with spiffe://";
}

int mesh__spiffe_id_parse(struct mesh__spiffe_id *id, const char *text, size_t len, const char **why)
{
	const char *rest, *slash;
	size_t rest_len, domain_len;

	id->len = id->domain_len = 0;
	id->text[0] = '\0';
	*why = check_whole(text, len);
	if (*why)
		return -1;
	rest = text + SCHEME_LEN;
	rest_len = len - SCHEME_LEN;
	slash = memchr(rest, '/', rest_len);
	domain_len = slash ? (size_t)(slash - rest) : rest_len;
	if (mesh__trust_domain_check(rest, domain_len, why))
		return -1;
	*why = check_path(rest + domain_len, rest_len - domain_len);
	if (*why)
		return -1;
	memcpy(id->text, text, len);
	id->text[len] = '\0';
	id->len = (uint16_t)len;
	id->domain_len = (uint16_t)domain_len;
	return 0;
}

static bool append(char *text, size_t capacity, size_t *len, const char *piece)
{
	size_t piece_len = strlen(piece);

	if (piece_len >= capacity - *len)
		return false;
	memcpy(text + *len, piece, piece_len + 1);
	*len += piece_len;
	return true;
}

int mesh__spiffe_id_of_service(struct mesh__spiffe_id *id, const char *domain, const char *name_space, const char *service, const char **why)
{
	const char *const pieces[] = { scheme, domain, "/ns/", name_space, "/sa/", service };
	char text[MESH__SPIFFE_ID_MAX + 1];
	size_t len = 0;

	id->len = id->domain_len = 0;
	id->text[0] = '\0';
	/* A name with a slash would be somebody else's ID: "a/sa/b". */
	*why = strchr(domain, '/')	 ? "the trust domain has a '/'"
	       : strchr(name_space, '/') ? "the namespace has a '/'"
	       : strchr(service, '/')	 ? "the service's name has a '/'"
					 : NULL;
	if (*why)
		return -1;
	for (size_t i = 0; i < sizeof(pieces) / sizeof(*pieces); i++) {
		if (!append(text, sizeof(text), &len, pieces[i])) {
			*why = "it is longer than 2048 bytes";
			return -1;
		}
	}
	/* An empty name at the end would read as a slash too many. */
	if (!*service) {
		*why = "the service's name is empty";
		return -1;
	}
	return mesh__spiffe_id_parse(id, text, len, why);
}

void mesh__spiffe_id_copy_domain(const struct mesh__spiffe_id *id, char domain[MESH__TRUST_DOMAIN_MAX + 1])
{
	memcpy(domain, mesh__spiffe_id_domain(id), id->domain_len);
	domain[id->domain_len] = '\0';
}

bool mesh__spiffe_id_is_member(const struct mesh__spiffe_id *id, const char *domain)
{
	return id->domain_len && strlen(domain) == id->domain_len && !memcmp(mesh__spiffe_id_domain(id), domain, id->domain_len);
}

bool mesh__spiffe_id_equal(const struct mesh__spiffe_id *a, const struct mesh__spiffe_id *b)
{
	return a->len && a->len == b->len && !memcmp(a->text, b->text, a->len);
}
