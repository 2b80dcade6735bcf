#include "identity/name_constraints.h"

#include "identity/certificate.h"

#include <arpa/inet.h>
#include <mbedtls/asn1.h>
#include <mbedtls/oid.h>
#include <string.h>
#include <strings.h>

enum { PERMITTED, EXCLUDED };
enum { EMAIL = MBEDTLS_X509_SAN_RFC822_NAME, DNS = MBEDTLS_X509_SAN_DNS_NAME, DIRECTORY = MBEDTLS_X509_SAN_DIRECTORY_NAME,
       URI = MBEDTLS_X509_SAN_UNIFORM_RESOURCE_IDENTIFIER };

static const char *const kinds[] = {
	"its name of a kind of its own", "its e-mail address", "the DNS name", "its X.400 address", "its subject's name", "its EDI party's name", "the URI",
	"its IP address", "its registered ID",
};

struct subtree {
	bool is_excluded;
	unsigned kind; /* tag of a GeneralName */
	const char *base;
	size_t len;
};

struct name {
	unsigned kind;
	const char *text;
	size_t len;
};

/* --- hosts --- */

static bool ends_with(const char *name, size_t name_len, const char *tail, size_t tail_len)
{
	return name_len >= tail_len && strncasecmp(name + name_len - tail_len, tail, tail_len) == 0;
}

/* Of "scheme://user@host:port/path": false if there is none, or only an address, for which there are no constraints. */
static bool find_host(const char *uri, size_t len, const char **host, size_t *host_len)
{
	const char *at = memchr(uri, ':', len), *end = uri + len, *sign;
	char text[INET_ADDRSTRLEN];
	struct in_addr address;

	if (!at || end - at < 3 || at[1] != '/' || at[2] != '/')
		return false;
	at += 3;
	for (const char *c = at; c < end; c++)
		if (*c == '/' || *c == '?' || *c == '#')
			end = c;
	sign = memchr(at, '@', (size_t)(end - at));
	at = sign ? sign + 1 : at;
	sign = memchr(at, ':', (size_t)(end - at));
	end = sign ? sign : end;
	*host = at;
	*host_len = (size_t)(end - at);
	if (at == end || *at == '[' || memchr(at, 0, *host_len))
		return false;
	if (*host_len >= sizeof(text))
		return true;
	memcpy(text, at, *host_len);
	text[*host_len] = '\0';
	return inet_pton(AF_INET, text, &address) != 1;
}

bool mesh__name_constraints_has_uri(const char *uri, size_t uri_len, const char *base, size_t base_len)
{
	const char *host;
	size_t len;

	if (!base_len || !find_host(uri, uri_len, &host, &len))
		return false;
	if (*base == '.')
		return len > base_len && ends_with(host, len, base, base_len);
	return len == base_len && ends_with(host, len, base, base_len);
}

/* Unlike those for URIs, "example.com" goes for all that is in it, too. */
bool mesh__name_constraints_has_dns(const char *name, size_t name_len, const char *base, size_t base_len)
{
	if (!base_len)
		return true;
	if (*base == '.')
		return name_len > base_len && ends_with(name, name_len, base, base_len);
	return ends_with(name, name_len, base, base_len) && (name_len == base_len || name[name_len - base_len - 1] == '.');
}

/* What cannot be compared is refused: nothing is permitted by that, and all excluded. */
static bool falls_under(const struct subtree *subtree, const struct name *name)
{
	const char *host;
	size_t len;

	if (subtree->kind == DNS)
		return mesh__name_constraints_has_dns(name->text, name->len, subtree->base, subtree->len);
	if (subtree->kind == URI && subtree->len && find_host(name->text, name->len, &host, &len))
		return mesh__name_constraints_has_uri(name->text, name->len, subtree->base, subtree->len);
	return subtree->is_excluded;
}

/* --- the extension --- */

typedef void visit_fn(void *user, const struct subtree *subtree);

static int read_subtree(unsigned char **at, const unsigned char *end, bool is_excluded, visit_fn *visit, void *user)
{
	struct subtree subtree = { .is_excluded = is_excluded };
	unsigned char *next;
	unsigned tag;
	size_t len;

	if (mbedtls_asn1_get_tag(at, end, &len, MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE) || !len)
		return -1;
	next = *at + len;
	tag = **at;
	subtree.kind = tag & MBEDTLS_ASN1_TAG_VALUE_MASK;
	if ((tag & MBEDTLS_ASN1_TAG_CLASS_MASK) != MBEDTLS_ASN1_CONTEXT_SPECIFIC || subtree.kind >= sizeof(kinds) / sizeof(*kinds))
		return -1;
	/* Nothing behind it: a minimum or maximum has no meaning, and RFC 5280 forbids them. */
	if (mbedtls_asn1_get_tag(at, next, &subtree.len, (int)tag) || *at + subtree.len != next)
		return -1;
	subtree.base = (const char *)*at;
	if (visit)
		visit(user, &subtree);
	*at = next;
	return 0;
}

/* [0] permitted, [1] excluded: each may be missing, but not both. 0, or -1: it is something else. */
static int read_all(const struct mesh__extension *extension, visit_fn *visit, void *user)
{
	unsigned char *at = (unsigned char *)(uintptr_t)extension->content, *end = at + extension->len, *list_end;
	size_t len;

	if (mbedtls_asn1_get_tag(&at, end, &len, MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE) || !len || at + len != end)
		return -1;
	for (int list = PERMITTED; list <= EXCLUDED; list++) {
		if (at == end || *at != (MBEDTLS_ASN1_CONTEXT_SPECIFIC | MBEDTLS_ASN1_CONSTRUCTED | list))
			continue;
		if (mbedtls_asn1_get_tag(&at, end, &len, *at) || !len)
			return -1;
		list_end = at + len;
		while (at < list_end)
			if (read_subtree(&at, list_end, list == EXCLUDED, visit, user))
				return -1;
	}
	return at == end ? 0 : -1;
}

static uint32_t find(const mbedtls_x509_crt *ca, struct mesh__extension *extension)
{
	return mesh__certificate_extension(ca, MBEDTLS_OID_NAME_CONSTRAINTS, MBEDTLS_OID_SIZE(MBEDTLS_OID_NAME_CONSTRAINTS), extension);
}

const char *mesh__name_constraints_check(const mbedtls_x509_crt *ca)
{
	struct mesh__extension extension;
	uint32_t count = find(ca, &extension);

	if (!count)
		return NULL;
	if (count > 1)
		return "it has name constraints twice";
	return read_all(&extension, NULL, NULL) ? "its name constraints cannot be read" : NULL;
}

/* --- one name --- */

struct judging {
	const struct name *name;
	bool is_limited, is_permitted, is_excluded;
};

static void judge(void *user, const struct subtree *subtree)
{
	struct judging *judging = user;

	if (subtree->kind != judging->name->kind)
		return;
	if (subtree->is_excluded) {
		judging->is_excluded |= falls_under(subtree, judging->name);
		return;
	}
	judging->is_limited = true;
	judging->is_permitted |= falls_under(subtree, judging->name);
}

static bool breaks(const struct mesh__extension *extension, const struct name *name, struct mesh__name_violation *out)
{
	struct judging judging = { .name = name };

	if (read_all(extension, judge, &judging))
		judging.is_excluded = true;
	if (!judging.is_excluded && (!judging.is_limited || judging.is_permitted))
		return false;
	*out = (struct mesh__name_violation){ .kind = kinds[name->kind], .name = "", .is_excluded = judging.is_excluded };
	if (name->kind == URI || name->kind == DNS) {
		out->name = name->text;
		out->len = name->len;
	}
	return true;
}

/* RFC 5280: an e-mail address in the subject counts as one among the alternative names. */
static bool subject_breaks(const struct mesh__extension *extension, const mbedtls_x509_crt *below, struct mesh__name_violation *out)
{
	if (!below->subject.oid.p)
		return false;
	for (const mbedtls_x509_name *part = &below->subject; part; part = part->next)
		if (!MBEDTLS_OID_CMP(MBEDTLS_OID_PKCS9_EMAIL, &part->oid) && breaks(extension, &(struct name){ .kind = EMAIL }, out))
			return true;
	return breaks(extension, &(struct name){ .kind = DIRECTORY }, out);
}

bool mesh__name_constraints_break(const mbedtls_x509_crt *ca, const mbedtls_x509_crt *below, struct mesh__name_violation *out)
{
	struct mesh__extension extension;
	struct name name;

	if (!find(ca, &extension))
		return false;
	for (const mbedtls_x509_sequence *san = &below->subject_alt_names; san && san->buf.p; san = san->next) {
		name = (struct name){ (unsigned)san->buf.tag & MBEDTLS_ASN1_TAG_VALUE_MASK, (const char *)san->buf.p, san->buf.len };
		if (name.kind >= sizeof(kinds) / sizeof(*kinds))
			name.kind = 0;
		if (breaks(&extension, &name, out))
			return true;
	}
	return subject_breaks(&extension, below, out);
}
