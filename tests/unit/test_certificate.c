#include "../lib/certificates.h"

#include "identity/certificate.h"
#include "identity/name_constraints.h"
#include "mesh/error.h"

#include <psa/crypto.h>

#define USERS "spiffe://prod.example/ns/shop/sa/users"

static struct certificate root, stranger, middle, other_root;
static struct mesh__bundle *bundle;
static const struct mesh__revocations *revocations; /* what authorities took back; NULL: nothing */

static struct mesh__bundle *new_bundle(const char *domain, const struct certificate *ca)
{
	struct mesh__bundle *made;
	char why[512];

	if (mesh__bundle_parse(&made, domain, MESH__BUNDLE_DER, ca->der, ca->len, true, why, sizeof(why)))
		fail_msg("%s", why);
	return made;
}

static int make_authorities(void **state)
{
	(void)state;
	if (psa_crypto_init() != PSA_SUCCESS)
		return -1;
	make_certificate(&root, &(struct certificate_spec){ AUTHORITY("prod.example") });
	make_certificate(&stranger, &(struct certificate_spec){ AUTHORITY("prod.example") });
	make_certificate(&other_root, &(struct certificate_spec){ AUTHORITY("staging.example") });
	make_certificate(&middle, &(struct certificate_spec){ .issuer = &root, .subject = "CN=middle", .uris = { "spiffe://prod.example" }, .is_ca = true });
	bundle = new_bundle("prod.example", &root);
	return 0;
}

static int free_authorities(void **state)
{
	(void)state;
	mesh__bundle_unref(bundle);
	free_certificate(&root);
	free_certificate(&stranger);
	free_certificate(&other_root);
	free_certificate(&middle);
	return 0;
}

/* The chain, leaf first; each is parsed as it would be from the wire. */
static enum mesh__refusal verify(const struct certificate *const *chain, size_t count, struct mesh__bundle *against, char *why, size_t capacity)
{
	enum mesh__refusal refusal = MESH__REFUSAL_NONE;
	struct mesh__spiffe_id id;
	mbedtls_x509_crt list;

	mbedtls_x509_crt_init(&list);
	*why = '\0';
	for (size_t i = 0; !refusal && i < count; i++)
		refusal = mesh__certificate_parse(&list, chain[i]->der, chain[i]->len, why, capacity);
	if (!refusal)
		refusal = mesh__certificate_verify(&list, against, revocations, &id, why, capacity);
	mbedtls_x509_crt_free(&list);
	return refusal;
}

#define VERIFY(against, why, ...) \
	verify((const struct certificate *const[]){ __VA_ARGS__ }, sizeof((const struct certificate *[]){ __VA_ARGS__ }) / sizeof(void *), against, why, sizeof(why))

static void expect(enum mesh__refusal got, enum mesh__refusal wanted, const char *why, const char *phrase)
{
	if (got != wanted || !strstr(why, phrase))
		fail_msg("%s, not %s with \"%s\": %s", mesh__refusal_name(got), mesh__refusal_name(wanted), phrase, why);
}

/* What was said of bad certificates: each pair once. */
static struct {
	enum mesh__refusal refusal;
	const char *phrase;
} told[128];
static size_t told_count;

static void remember(enum mesh__refusal refusal, const char *phrase)
{
	for (size_t i = 0; i < told_count; i++)
		if (told[i].refusal == refusal && !strcmp(told[i].phrase, phrase))
			return;
	assert_true(told_count < sizeof(told) / sizeof(*told));
	told[told_count].refusal = refusal;
	told[told_count++].phrase = phrase;
}

static void good_leaves_are_taken(void **state)
{
	static const struct certificate_spec good[] = {
		{ .issuer = &root, .uris = { USERS } },
		{ .issuer = &root, .uris = { USERS }, .dns = { "users", "users.shop.svc" } },
		{ .issuer = &root, .uris = { USERS }, .extended = EKU_SERVER | EKU_CLIENT },
		{ .issuer = &root, .uris = { USERS }, .extended = EKU_SERVER | EKU_CLIENT | EKU_OTHER },
		{ .issuer = &root, .uris = { USERS }, .key_usage = MBEDTLS_X509_KU_DIGITAL_SIGNATURE | MBEDTLS_X509_KU_KEY_AGREEMENT },
		{ .issuer = &root, .uris = { USERS }, .is_without_constraints = true },
		{ .issuer = &root, .uris = { USERS }, .key = KEY_P384, .hash = MBEDTLS_MD_SHA384 },
		{ .issuer = &root, .uris = { USERS }, .key = KEY_RSA_2048 },
		{ .issuer = &root, .uris = { USERS }, .extension = "\x2a\x03\x04", .extension_len = 3 },
		{ .issuer = &root, .uris = { USERS }, .from_s = -5, .until_s = 30 },
	};
	struct certificate leaf;
	char why[1024];

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		make_certificate(&leaf, &good[i]);
		expect(VERIFY(bundle, why, &leaf), MESH__REFUSAL_NONE, why, "");
		free_certificate(&leaf);
	}
}

#define BAD_ID(id, phrase) { { .issuer = &root, .uris = { id } }, MESH__REFUSAL_BAD_ID, phrase }

static void bad_leaves_are_refused_each_for_its_own_reason(void **state)
{
	static const struct {
		struct certificate_spec spec;
		enum mesh__refusal refusal;
		const char *phrase;
	} bad[] = {
		{ { .issuer = &root }, MESH__REFUSAL_NO_URI, "it has no URI" },
		{ { .issuer = &root, .dns = { USERS } }, MESH__REFUSAL_NO_URI, "it has no URI" },
		{ { .issuer = &root, .uris = { USERS, "spiffe://prod.example/b" } }, MESH__REFUSAL_SEVERAL_URIS, "more than one URI" },
		{ { .issuer = &root, .uris = { USERS, USERS } }, MESH__REFUSAL_SEVERAL_URIS, "more than one URI" },
		{ { .issuer = &root, .uris = { USERS, "https://prod.example/" } }, MESH__REFUSAL_SEVERAL_URIS, "more than one URI" },
		{ { .issuer = &root, .uris = { "spiffe://prod.example" } }, MESH__REFUSAL_NO_PATH, "it has no path" },
		BAD_ID("", "it is empty"),
		BAD_ID("https://prod.example/a", "does not begin with spiffe://"),
		BAD_ID("SPIFFE://prod.example/a", "scheme is not written in lower case"),
		BAD_ID("spiffe:///a", "the trust domain is empty"),
		BAD_ID("spiffe://PROD.example/a", "upper-case letter"),
		BAD_ID("spiffe://prod.example/%61", "percent sign"),
		BAD_ID("spiffe://prod.example/a/../b", "segment \".\" or \"..\""),
		BAD_ID("spiffe://prod.example/a/", "ends in '/'"),
		BAD_ID("spiffe://prod.example//a", "empty segment"),
		BAD_ID("spiffe://prod.example:443/a", "it has a port"),
		BAD_ID("spiffe://me@prod.example/a", "it has a user name"),
		BAD_ID("spiffe://prod.example/a?b", "it has a query"),
		BAD_ID("spiffe://prod.example/a#b", "it has a fragment"),
		BAD_ID("spiffe://prod.example/a\033[31m", "\\x1b[31m"),
		{ { .issuer = &root, .uris = { USERS }, .is_ca = true }, MESH__REFUSAL_IS_CA, "CA=true" },
		{ { .issuer = &root, .uris = { USERS }, .is_without_key_usage = true }, MESH__REFUSAL_KEY_USAGE, "has no keyUsage" },
		{ { .issuer = &root, .uris = { USERS }, .is_key_usage_optional = true }, MESH__REFUSAL_KEY_USAGE, "not marked critical" },
		{ { .issuer = &root, .uris = { USERS }, .key_usage = 0x84 }, MESH__REFUSAL_KEY_USAGE, "has keyCertSign" },
		{ { .issuer = &root, .uris = { USERS }, .key_usage = 0x82 }, MESH__REFUSAL_KEY_USAGE, "has cRLSign" },
		{ { .issuer = &root, .uris = { USERS }, .key_usage = 0x08 }, MESH__REFUSAL_KEY_USAGE, "has no digitalSignature" },
		{ { .issuer = &root, .uris = { USERS }, .extended = EKU_SERVER }, MESH__REFUSAL_EXTENDED_KEY_USAGE, "no clientAuth" },
		{ { .issuer = &root, .uris = { USERS }, .extended = EKU_CLIENT }, MESH__REFUSAL_EXTENDED_KEY_USAGE, "no serverAuth" },
		{ { .issuer = &root, .uris = { USERS }, .extended = EKU_OTHER }, MESH__REFUSAL_EXTENDED_KEY_USAGE, "neither serverAuth nor clientAuth" },
		{ { .issuer = &root, .uris = { USERS }, .key = KEY_RSA_1024 }, MESH__REFUSAL_WEAK_KEY, "fewer than 2048 bits" },
		{ { .issuer = &root, .uris = { USERS }, .key = KEY_P192 }, MESH__REFUSAL_WEAK_KEY, "weaker than P-256" },
		{ { .issuer = &root, .uris = { USERS }, .hash = MBEDTLS_MD_SHA1 }, MESH__REFUSAL_WEAK_KEY, "hash that is too weak" },
		{ { .issuer = &root, .uris = { USERS }, .hash = MBEDTLS_MD_SHA224 }, MESH__REFUSAL_WEAK_KEY, "hash that is too weak" },
		{ { .issuer = &root, .uris = { USERS }, .from_s = -7200, .until_s = -3600 }, MESH__REFUSAL_EXPIRED, "expired at 20" },
		{ { .issuer = &root, .uris = { USERS }, .from_s = -7200, .until_s = -2 }, MESH__REFUSAL_EXPIRED, "expired at 20" },
		{ { .issuer = &root, .uris = { USERS }, .from_s = 3600, .until_s = 7200 }, MESH__REFUSAL_NOT_YET_VALID, "is not valid before 20" },
		{ { .issuer = &root, .uris = { USERS }, .from_s = 30, .until_s = 7200 }, MESH__REFUSAL_NOT_YET_VALID, "is not valid before 20" },
		{ { .uris = { USERS } }, MESH__REFUSAL_UNTRUSTED, "which is itself" },
		{ { .issuer = &stranger, .uris = { USERS } }, MESH__REFUSAL_UNTRUSTED, "not signed by an authority in the bundle of prod.example" },
		{ { .issuer = &other_root, .uris = { USERS } }, MESH__REFUSAL_UNTRUSTED, "names \"CN=authority of staging.example\" as its issuer" },
		{ { .issuer = &root, .issuer_name = "CN=somebody", .uris = { USERS } }, MESH__REFUSAL_UNTRUSTED, "names \"CN=somebody\"" },
		{ { .issuer = &middle, .uris = { USERS } }, MESH__REFUSAL_UNTRUSTED, "names \"CN=middle\"" },
		{ { .issuer = &root, .uris = { USERS }, .is_tampered = true }, MESH__REFUSAL_UNTRUSTED, "not signed by" },
		{ { .issuer = &root, .uris = { "spiffe://dev.example/a" } }, MESH__REFUSAL_UNKNOWN_DOMAIN, "no bundle for trust domain dev.example" },
		{ { .issuer = &root, .uris = { "spiffe://prod.example.org/a" } }, MESH__REFUSAL_UNKNOWN_DOMAIN, "prod.example.org" },
		{ { .issuer = &root, .uris = { USERS }, .extension = "\x2a\x03\x04", .extension_len = 3, .is_extension_critical = true },
		  MESH__REFUSAL_CRITICAL_EXTENSION, "1.2.3.4" },
	};
	struct certificate leaf;
	char why[1024];

	(void)state;
	assert_true(sizeof(bad) / sizeof(*bad) >= 40);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		make_certificate(&leaf, &bad[i].spec);
		expect(VERIFY(bundle, why, &leaf), bad[i].refusal, why, bad[i].phrase);
		remember(bad[i].refusal, bad[i].phrase);
		free_certificate(&leaf);
	}
}

static void an_id_of_2048_bytes_is_taken_and_a_longer_one_is_not(void **state)
{
	char text[MESH__SPIFFE_ID_MAX + 2] = "spiffe://prod.example/", why[1024];
	struct certificate leaf;

	(void)state;
	memset(text + 22, 'a', MESH__SPIFFE_ID_MAX - 22);
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &root, .uris = { text } });
	expect(VERIFY(bundle, why, &leaf), MESH__REFUSAL_NONE, why, "");
	free_certificate(&leaf);
	text[MESH__SPIFFE_ID_MAX] = 'a';
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &root, .uris = { text } });
	expect(VERIFY(bundle, why, &leaf), MESH__REFUSAL_BAD_ID, why, "longer than 2048 bytes");
	free_certificate(&leaf);
}

static void a_chain_over_good_intermediates_is_taken(void **state)
{
	struct certificate below, leaf;
	char why[1024];

	(void)state;
	make_certificate(&below, &(struct certificate_spec){ .issuer = &middle, .subject = "CN=below", .is_ca = true });
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &below, .uris = { USERS } });
	expect(VERIFY(bundle, why, &leaf, &below, &middle), MESH__REFUSAL_NONE, why, "");
	/* The root may be shown along with them. */
	expect(VERIFY(bundle, why, &leaf, &below, &middle, &root), MESH__REFUSAL_NONE, why, "");
	expect(VERIFY(bundle, why, &leaf, &below), MESH__REFUSAL_UNTRUSTED, why, "names \"CN=middle\"");
	free_certificate(&below);
	free_certificate(&leaf);
}

static void bad_intermediates_are_refused_each_for_its_own_reason(void **state)
{
	static const struct {
		struct certificate_spec spec;
		enum mesh__refusal refusal;
		const char *phrase;
	} bad[] = {
		{ { .issuer = &root }, MESH__REFUSAL_BAD_ISSUER, "lack CA=true" },
		{ { .issuer = &root, .is_without_constraints = true, .key_usage = 0x06 }, MESH__REFUSAL_BAD_ISSUER, "lack CA=true" },
		{ { .issuer = &root, .uris = { USERS } }, MESH__REFUSAL_BAD_ISSUER, "lack CA=true" },
		{ { .issuer = &root, .is_ca = true, .is_without_key_usage = true }, MESH__REFUSAL_BAD_ISSUER, "has no keyUsage" },
		{ { .issuer = &root, .is_ca = true, .key_usage = 0x80 }, MESH__REFUSAL_BAD_ISSUER, "has no keyCertSign" },
		{ { .issuer = &root, .is_ca = true, .uris = { USERS } }, MESH__REFUSAL_BAD_ISSUER, "has a path" },
		{ { .issuer = &root, .is_ca = true, .uris = { "spiffe://staging.example" } }, MESH__REFUSAL_BAD_ISSUER, "another trust domain" },
		{ { .issuer = &root, .is_ca = true, .uris = { "spiffe://prod.example", "spiffe://prod.example" } }, MESH__REFUSAL_BAD_ISSUER, "more than one URI" },
		{ { .issuer = &root, .is_ca = true, .uris = { "spiffe://prod.example/" } }, MESH__REFUSAL_BAD_ISSUER, "ends in '/'" },
		{ { .issuer = &root, .is_ca = true, .uris = { "SPIFFE://prod.example" } }, MESH__REFUSAL_BAD_ISSUER, "lower case" },
		{ { .issuer = &root, .is_ca = true, .key = KEY_RSA_1024 }, MESH__REFUSAL_WEAK_KEY, "fewer than 2048 bits" },
		{ { .issuer = &root, .is_ca = true, .from_s = -7200, .until_s = -3600 }, MESH__REFUSAL_EXPIRED, "\"CN=test\" of \"CN=authority of prod.example\" expired" },
		{ { .issuer = &root, .is_ca = true, .from_s = 3600, .until_s = 7200 }, MESH__REFUSAL_NOT_YET_VALID, "is not valid before" },
		{ { .issuer = &root, .is_ca = true, .is_tampered = true }, MESH__REFUSAL_UNTRUSTED, "\"CN=test\" names \"CN=authority of prod.example\"" },
		{ { .issuer = &stranger, .is_ca = true }, MESH__REFUSAL_UNTRUSTED, "not signed by" },
		{ { .issuer = &root, .is_ca = true, .extension = "\x55\x1d\x24", .extension_len = 3, .is_extension_critical = true },
		  MESH__REFUSAL_CRITICAL_EXTENSION, "2.5.29.36" },
		{ { .issuer = &root, .is_ca = true, .extension = "\x55\x1d\x1e", .extension_len = 3, .is_extension_critical = true },
		  MESH__REFUSAL_BAD_ISSUER, "its name constraints cannot be read" },
		{ { .issuer = &root, .is_ca = true, .extension = "\x55\x1d\x1e", .extension_len = 3 },
		  MESH__REFUSAL_BAD_ISSUER, "its name constraints cannot be read" },
	};
	struct certificate between, leaf;
	char why[1024];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		make_certificate(&between, &bad[i].spec);
		make_certificate(&leaf, &(struct certificate_spec){ .issuer = &between, .subject = "CN=leaf", .uris = { USERS } });
		expect(VERIFY(bundle, why, &leaf, &between), bad[i].refusal, why, bad[i].phrase);
		remember(bad[i].refusal, bad[i].phrase);
		free_certificate(&between);
		free_certificate(&leaf);
	}
}

/* Not counted: what the tests below are about, such as lengths of paths, names, constraints and revocation. */
static void more_than_forty_reasons_are_told_apart(void **state)
{
	(void)state;
	if (told_count < 50)
		fail_msg("%zu reasons", told_count);
}

static void a_path_length_is_kept(void **state)
{
	struct certificate last, beyond, leaf;
	char why[1024];

	(void)state;
	make_certificate(&last, &(struct certificate_spec){ .issuer = &root, .subject = "CN=last", .is_ca = true, .path_length = 1 });
	make_certificate(&beyond, &(struct certificate_spec){ .issuer = &last, .subject = "CN=beyond", .is_ca = true });
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &beyond, .uris = { USERS } });
	expect(VERIFY(bundle, why, &leaf, &beyond, &last), MESH__REFUSAL_UNTRUSTED, why, "not signed by");
	free_certificate(&leaf);
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &last, .uris = { USERS } });
	expect(VERIFY(bundle, why, &leaf, &last), MESH__REFUSAL_NONE, why, "");
	free_certificate(&leaf);
	free_certificate(&beyond);
	free_certificate(&last);
}

static void a_chain_without_end_is_refused(void **state)
{
	enum { COUNT = 12 };
	static struct certificate cas[COUNT];
	const struct certificate *chain[COUNT];
	char why[1024], name[32];

	(void)state;
	for (int i = 0; i < COUNT; i++) {
		snprintf(name, sizeof(name), "CN=step %d", i);
		make_certificate(&cas[i], &(struct certificate_spec){ .issuer = i ? &cas[i - 1] : &root, .subject = name, .is_ca = i < COUNT - 1,
								      .uris = { i < COUNT - 1 ? NULL : USERS } });
		chain[COUNT - 1 - i] = &cas[i];
	}
	expect(verify(chain, COUNT, bundle, why, sizeof(why)), MESH__REFUSAL_UNTRUSTED, why, "longer than 10 certificates");
	for (int i = 0; i < COUNT; i++)
		free_certificate(&cas[i]);
}

static void another_domains_bundle_is_never_asked(void **state)
{
	struct mesh__bundle *other = new_bundle("staging.example", &other_root), *empty;
	struct certificate leaf, old_root, old_leaf;
	struct mesh__spiffe_id id;
	mbedtls_x509_crt none;
	char why[1024];

	(void)state;
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &other_root, .uris = { USERS } });
	/* Signed by staging's authority, and shown with staging's bundle: it names a workload of prod all the same. */
	expect(VERIFY(other, why, &leaf), MESH__REFUSAL_UNKNOWN_DOMAIN, why, "no bundle for trust domain prod.example");
	expect(VERIFY(bundle, why, &leaf), MESH__REFUSAL_UNTRUSTED, why, "not signed by");
	expect(VERIFY(NULL, why, &leaf), MESH__REFUSAL_UNKNOWN_DOMAIN, why, "no bundle for trust domain prod.example");
	assert_int_equal(mesh__bundle_parse(&empty, "prod.example", MESH__BUNDLE_DER, "", 0, true, why, sizeof(why)), 0);
	expect(VERIFY(empty, why, &leaf), MESH__REFUSAL_UNTRUSTED, why, "is empty");
	mbedtls_x509_crt_init(&none);
	expect(mesh__certificate_verify(&none, bundle, NULL, &id, why, sizeof(why)), MESH__REFUSAL_NO_CERTIFICATE, why, "showed no certificate");
	expect(mesh__certificate_verify(NULL, bundle, NULL, &id, why, sizeof(why)), MESH__REFUSAL_NO_CERTIFICATE, why, "showed no certificate");
	mesh__bundle_unref(empty);
	mesh__bundle_unref(other);
	free_certificate(&leaf);

	make_certificate(&old_root, &(struct certificate_spec){ AUTHORITY("old.example"), .from_s = -7200, .until_s = -60 });
	make_certificate(&old_leaf, &(struct certificate_spec){ .issuer = &old_root, .uris = { "spiffe://old.example/a" } });
	other = new_bundle("old.example", &old_root);
	expect(VERIFY(other, why, &old_leaf), MESH__REFUSAL_EXPIRED, why, "\"CN=authority of old.example\" of \"CN=authority of old.example\" expired");
	mesh__bundle_unref(other);
	free_certificate(&old_root);
	free_certificate(&old_leaf);
}

/* --- name constraints --- */

struct constraint_case {
	const char *permitted[3], *excluded[3];
	const char *uri, *dns;
	const char *phrase; /* NULL: it is taken */
};

/* The leaf below an authority between with these, and below a root with these. */
static void expect_constrained(const struct constraint_case *test, bool is_optional)
{
	struct certificate_spec ca = { .issuer = &root, .subject = "CN=bound", .is_ca = true, .is_name_constraints_optional = is_optional };
	enum mesh__refusal wanted = test->phrase ? MESH__REFUSAL_NAME_CONSTRAINTS : MESH__REFUSAL_NONE;
	struct certificate between, bound_root, leaf, low;
	struct mesh__bundle *bound;
	char why[1024];

	memcpy(ca.permitted, test->permitted, sizeof(ca.permitted));
	memcpy(ca.excluded, test->excluded, sizeof(ca.excluded));
	make_certificate(&between, &ca);
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &between, .subject = "CN=leaf", .uris = { test->uri }, .dns = { test->dns } });
	expect(VERIFY(bundle, why, &leaf, &between), wanted, why, test->phrase ? test->phrase : "");
	/* Itself in the bundle, as where a handshake cannot take it. */
	bound = new_bundle("prod.example", &between);
	expect(VERIFY(bound, why, &leaf), wanted, why, test->phrase ? test->phrase : "");
	mesh__bundle_unref(bound);
	free_certificate(&leaf);
	/* Through one more between: constraints go all the way down. */
	make_certificate(&low, &(struct certificate_spec){ .issuer = &between, .subject = "CN=low", .is_ca = true });
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &low, .subject = "CN=leaf", .uris = { test->uri }, .dns = { test->dns } });
	if (!test->phrase || !strstr(test->phrase, "subject's name"))
		expect(VERIFY(bundle, why, &leaf, &low, &between), wanted, why, test->phrase ? test->phrase : "");
	free_certificate(&leaf);
	free_certificate(&low);
	free_certificate(&between);
	ca.issuer = NULL;
	make_certificate(&bound_root, &ca);
	bound = new_bundle("prod.example", &bound_root);
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &bound_root, .subject = "CN=leaf", .uris = { test->uri }, .dns = { test->dns } });
	expect(VERIFY(bound, why, &leaf), wanted, why, test->phrase ? test->phrase : "");
	free_certificate(&leaf);
	free_certificate(&bound_root);
	mesh__bundle_unref(bound);
}

static void name_constraints_bind_what_is_below(void **state)
{
	static const struct constraint_case cases[] = {
		{ { "uri:prod.example" }, { 0 }, USERS, NULL, NULL },
		{ { "uri:PROD.Example" }, { 0 }, USERS, NULL, NULL },
		{ { "uri:.example" }, { 0 }, USERS, NULL, NULL },
		{ { "uri:other.example", "uri:.example" }, { 0 }, USERS, NULL, NULL },
		{ { "uri:prod.example" }, { "uri:.prod.example" }, USERS, NULL, NULL },
		{ { 0 }, { "uri:staging.example", "uri:rod.example" }, USERS, NULL, NULL },
		{ { "dns:mesh.local" }, { "ip:1234" }, USERS, NULL, NULL },
		{ { "dns:shop.svc" }, { 0 }, USERS, "users.shop.svc", NULL },
		{ { "dns:shop.svc", "uri:prod.example" }, { 0 }, USERS, "shop.svc", NULL },
		{ { 0 }, { "dns:.other.svc" }, USERS, "users.shop.svc", NULL },
		{ { "uri:staging.example" }, { 0 }, USERS, NULL, "do not permit the URI \"" USERS "\"" },
		{ { "uri:rod.example" }, { 0 }, USERS, NULL, "do not permit the URI" },
		{ { "uri:example" }, { 0 }, USERS, NULL, "do not permit the URI" },
		{ { "uri:.prod.example" }, { 0 }, USERS, NULL, "do not permit the URI" },
		{ { "uri:" }, { 0 }, USERS, NULL, "do not permit the URI" },
		{ { 0 }, { "uri:prod.example" }, USERS, NULL, "exclude the URI \"" USERS "\"" },
		{ { 0 }, { "uri:staging.example", "uri:.Example" }, USERS, NULL, "exclude the URI" },
		{ { "uri:prod.example" }, { "uri:prod.example" }, USERS, NULL, "exclude the URI" },
		{ { 0 }, { "uri:" }, USERS, NULL, "exclude the URI" },
		{ { "dns:shop.svc" }, { 0 }, USERS, "users.other.svc", "do not permit the DNS name \"users.other.svc\"" },
		{ { "dns:shop.svc" }, { 0 }, USERS, "workshop.svc", "do not permit the DNS name" },
		{ { 0 }, { "dns:shop.svc" }, USERS, "users.shop.svc", "exclude the DNS name" },
		{ { 0 }, { "dns:" }, USERS, "users", "exclude the DNS name" },
		/* Each has a subject, and nobody here compares those. */
		{ { "dn:0" }, { 0 }, USERS, NULL, "do not permit its subject's name" },
		{ { 0 }, { "dn:0" }, USERS, NULL, "exclude its subject's name" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		expect_constrained(&cases[i], false);
		expect_constrained(&cases[i], true);
	}
}

static void an_authority_between_is_bound_by_its_own_uri(void **state)
{
	struct certificate between, low, leaf;
	char why[1024];

	(void)state;
	make_certificate(&between, &(struct certificate_spec){ .issuer = &root, .subject = "CN=bound", .is_ca = true, .permitted = { "uri:.prod.example" } });
	make_certificate(&low, &(struct certificate_spec){ .issuer = &between, .subject = "CN=low", .uris = { "spiffe://prod.example" }, .is_ca = true });
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &low, .uris = { USERS } });
	expect(VERIFY(bundle, why, &leaf, &low, &between), MESH__REFUSAL_NAME_CONSTRAINTS, why, "the authority \"CN=bound\" do not permit the URI");
	free_certificate(&leaf);
	free_certificate(&low);
	free_certificate(&between);
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &root, .uris = { USERS }, .permitted = { "uri:prod.example" } });
	expect(VERIFY(bundle, why, &leaf), MESH__REFUSAL_CRITICAL_EXTENSION, why, "belong to an authority");
	free_certificate(&leaf);
}

static void uris_are_compared_by_their_host(void **state)
{
#define HAS(uri, base) mesh__name_constraints_has_uri(uri, strlen(uri), base, strlen(base))
	(void)state;
	assert_true(HAS("https://user@www.prod.example:443/a?b", "www.prod.example"));
	assert_true(HAS("https://www.prod.example", ".prod.example"));
	assert_true(HAS("https://a.b.prod.example#x", ".prod.example"));
	assert_false(HAS("https://prod.example", ".prod.example"));
	assert_false(HAS("https://www.prod.example", "prod.example"));
	assert_false(HAS("https://prod.example.evil/prod.example", "prod.example"));
	assert_false(HAS("https://evil/@prod.example", "prod.example"));
	assert_false(HAS("mailto:a@prod.example", "prod.example"));
	assert_false(HAS("urn:prod.example", "prod.example"));
	assert_false(HAS("https://10.0.0.1/", "10.0.0.1"));
	assert_false(HAS("https://[::1]/", "[::1]"));
	assert_false(HAS("https:///a", ""));
	assert_false(HAS("", "prod.example"));
}

/* --- revocation --- */

static struct mesh__revocations take_lists(const struct crl_spec *specs, size_t count, struct mesh__bundle *const *bundles, uint32_t bundle_count)
{
	struct mesh__revocations made = { 0 };
	struct crl crl;
	char why[512] = "";

	for (size_t i = 0; i < count; i++) {
		make_crl(&crl, &specs[i]);
		if (i % 2 == 0 ? mesh__revocations_add(&made, bundles, bundle_count, true, crl.der, crl.len, why, sizeof(why))
			       : mesh__revocations_add(&made, bundles, bundle_count, false, crl.pem, strlen(crl.pem), why, sizeof(why)))
			fail_msg("%s", why);
	}
	return made;
}

static void what_an_authority_took_back_is_refused(void **state)
{
	struct certificate leaf, other, below, deep, twin;
	struct mesh__revocations lists;
	struct mesh__bundle *twins;
	char why[1024];

	(void)state;
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &root, .subject = "CN=leaf", .uris = { USERS } });
	make_certificate(&other, &(struct certificate_spec){ .issuer = &root, .subject = "CN=other", .uris = { USERS } });
	make_certificate(&below, &(struct certificate_spec){ .issuer = &middle, .subject = "CN=below", .is_ca = true });
	make_certificate(&deep, &(struct certificate_spec){ .issuer = &below, .subject = "CN=deep", .uris = { USERS } });
#define TAKE(...) \
	lists = take_lists((const struct crl_spec[]){ __VA_ARGS__ }, sizeof((const struct crl_spec[]){ __VA_ARGS__ }) / sizeof(struct crl_spec), &bundle, 1); \
	revocations = &lists
	TAKE({ .issuer = &root, .revoked = { &leaf } });
	assert_int_equal(lists.stranger_count, 0);
	expect(VERIFY(bundle, why, &leaf), MESH__REFUSAL_REVOKED, why, "the certificate \"CN=leaf\" with serial number 10");
	expect(VERIFY(bundle, why, &other), MESH__REFUSAL_NONE, why, "");
	expect(VERIFY(bundle, why, &deep, &below, &middle), MESH__REFUSAL_NONE, why, "");
	mesh__revocations_fini(&lists);
	/* Two lists of one authority count together, in whichever order. */
	TAKE({ .issuer = &root, .revoked = { &other } }, { .issuer = &root, .revoked = { &middle, &leaf } });
	expect(VERIFY(bundle, why, &leaf), MESH__REFUSAL_REVOKED, why, "");
	expect(VERIFY(bundle, why, &other), MESH__REFUSAL_REVOKED, why, "");
	expect(VERIFY(bundle, why, &deep, &below, &middle), MESH__REFUSAL_REVOKED, why, "\"CN=middle\"");
	mesh__revocations_fini(&lists);
	/* One of an authority that only the chain shows. */
	TAKE({ .issuer = &middle, .revoked = { &below } });
	assert_int_equal(lists.stranger_count, 1);
	expect(VERIFY(bundle, why, &deep, &below, &middle), MESH__REFUSAL_REVOKED, why, "\"CN=below\"");
	mesh__revocations_fini(&lists);
	TAKE({ .issuer = &below, .revoked = { &deep } });
	expect(VERIFY(bundle, why, &deep, &below, &middle), MESH__REFUSAL_REVOKED, why, "\"CN=deep\"");
	mesh__revocations_fini(&lists);
	/* Not signed by who it names, by somebody of the same name, or by who may not: none of that counts. */
	TAKE({ .issuer = &root, .revoked = { &leaf }, .is_tampered = true }, { .issuer = &stranger, .revoked = { &leaf } },
	     { .issuer = &other_root, .revoked = { &leaf } });
	assert_int_equal(lists.stranger_count, 3);
	expect(VERIFY(bundle, why, &leaf), MESH__REFUSAL_NONE, why, "");
	mesh__revocations_fini(&lists);
	make_certificate(&twin, &(struct certificate_spec){ AUTHORITY("prod.example"), .key_usage = MBEDTLS_X509_KU_KEY_CERT_SIGN });
	twins = new_bundle("prod.example", &twin);
	free_certificate(&leaf);
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &twin, .subject = "CN=leaf", .uris = { USERS } });
	lists = take_lists(&(struct crl_spec){ .issuer = &twin, .revoked = { &leaf } }, 1, &twins, 1);
	expect(VERIFY(twins, why, &leaf), MESH__REFUSAL_NONE, why, "");
	mesh__revocations_fini(&lists);
	mesh__bundle_unref(twins);
	revocations = NULL;
	free_certificate(&twin);
	free_certificate(&leaf);
	free_certificate(&other);
	free_certificate(&below);
	free_certificate(&deep);
}

/* Two certificates as they are kept of a peer: one after the other. */
static bool is_named(const struct mesh__revocations *lists, const struct certificate *leaf, const struct certificate *issuer, size_t cut)
{
	size_t len = leaf->len + issuer->len - cut;
	uint8_t *der = malloc(len + cut);
	bool is_so;

	assert_non_null(der);
	memcpy(der, leaf->der, leaf->len);
	memcpy(der + leaf->len, issuer->der, issuer->len);
	der = realloc(der, len); /* as large as it must be, for the address sanitizer */
	assert_non_null(der);
	is_so = mesh__revocations_name(lists, der, len);
	free(der);
	return is_so;
}

static void a_long_list_is_searched_for_each_of_a_chain(void **state)
{
	enum { LEAVES = 15 };
	static struct certificate leaves[LEAVES];
	struct crl_spec spec = { .issuer = &root };
	struct mesh__revocations lists;
	char why[1024];

	(void)state;
	for (size_t i = 0; i < LEAVES; i++)
		make_certificate(&leaves[i], &(struct certificate_spec){ .issuer = &root, .uris = { USERS } });
	for (size_t i = 0; i < LEAVES; i++) /* in no order: 0, 7, 14, 6, ... */
		if (i % 3 != 1)
			spec.revoked[i * 7 % LEAVES] = &leaves[i];
	lists = take_lists(&spec, 1, &bundle, 1);
	revocations = &lists;
	for (size_t i = 0; i < LEAVES; i++) {
		expect(VERIFY(bundle, why, &leaves[i]), i % 3 != 1 ? MESH__REFUSAL_REVOKED : MESH__REFUSAL_NONE, why, "");
		assert_true(is_named(&lists, &leaves[i], &middle, 0) == (i % 3 != 1));
		assert_true(is_named(&lists, &middle, &leaves[i], 0) == (i % 3 != 1));
	}
	assert_false(is_named(&lists, &leaves[1], &leaves[4], 0));
	for (size_t cut = 1; cut < leaves[4].len; cut++)
		assert_true(is_named(&lists, &leaves[1], &leaves[4], cut)); /* what cannot be read is looked at more closely */
	mesh__revocations_fini(&lists);
	assert_false(is_named(&lists, &leaves[0], &middle, 0));
	revocations = NULL;
	for (size_t i = 0; i < LEAVES; i++)
		free_certificate(&leaves[i]);
}

static void a_list_that_is_late_leaves_nothing_certain(void **state)
{
	struct certificate leaf, gone;
	struct mesh__revocations lists;
	char why[1024];

	(void)state;
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &root, .subject = "CN=leaf", .uris = { USERS } });
	make_certificate(&gone, &(struct certificate_spec){ .issuer = &root, .subject = "CN=gone", .uris = { USERS } });
	TAKE({ .issuer = &root, .revoked = { &gone }, .from_s = -7200, .until_s = -3600 });
	expect(VERIFY(bundle, why, &leaf), MESH__REFUSAL_STALE_CRL, why, "revocation list of \"CN=authority of prod.example\" should have been renewed by 20");
	expect(VERIFY(bundle, why, &gone), MESH__REFUSAL_REVOKED, why, "\"CN=gone\"");
	mesh__revocations_fini(&lists);
	TAKE({ .issuer = &root, .revoked = { &gone }, .from_s = -7200, .until_s = -3600 }, { .issuer = &root, .revoked = { 0 } });
	expect(VERIFY(bundle, why, &leaf), MESH__REFUSAL_NONE, why, "");
	expect(VERIFY(bundle, why, &gone), MESH__REFUSAL_REVOKED, why, "\"CN=gone\"");
	mesh__revocations_fini(&lists);
	TAKE({ .issuer = &root, .from_s = 3600, .until_s = 7200 });
	expect(VERIFY(bundle, why, &leaf), MESH__REFUSAL_STALE_CRL, why, "is not valid before 20");
	mesh__revocations_fini(&lists);
	TAKE({ .issuer = &other_root, .from_s = -7200, .until_s = -3600 });
	expect(VERIFY(bundle, why, &leaf), MESH__REFUSAL_NONE, why, "");
	mesh__revocations_fini(&lists);
	revocations = NULL;
	free_certificate(&leaf);
	free_certificate(&gone);
}

static void a_list_that_cannot_be_used_is_refused(void **state)
{
	struct mesh__revocations lists = { 0 };
	struct crl crl, part;
	char why[512], text[2 * sizeof(crl.pem) + 64];

	(void)state;
	make_crl(&crl, &(struct crl_spec){ .issuer = &root, .revoked = { &middle } });
	make_crl(&part, &(struct crl_spec){ .issuer = &root, .has_critical_extension = true });
#define REFUSES(der, data, len, phrase)                                                                                          \
	assert_int_equal(mesh__revocations_add(&lists, &bundle, 1, der, data, len, why, sizeof(why)), MESH_E_CORRUPT);          \
	if (!strstr(why, phrase))                                                                                               \
		fail_msg("\"%s\" does not say \"%s\"", why, phrase)
	for (size_t len = 1; len < crl.len; len++) {
		REFUSES(true, crl.der, len, "revocation list 1: it is none that can be read");
	}
	REFUSES(true, "", 0, "it is empty");
	REFUSES(true, root.der, root.len, "it is none that can be read");
	REFUSES(true, part.der, part.len, "not of all certificates");
	make_crl(&part, &(struct crl_spec){ .issuer = &root, .is_without_end = true });
	REFUSES(true, part.der, part.len, "no nextUpdate");
	REFUSES(false, crl.pem, strlen(crl.pem) / 2, "cut off");
	REFUSES(false, root.pem, strlen(root.pem), "a block of another kind");
	REFUSES(false, "half a fi", 9, "no line begins with");
	REFUSES(false, "a\0b", 3, "not text");
	assert_int_equal(lists.count, 0);
	assert_int_equal(mesh__revocations_add(&lists, &bundle, 1, false, " \n", 2, why, sizeof(why)), 0);
	assert_int_equal(lists.count, 0);
	snprintf(text, sizeof(text), "the newest:\n%s%s", crl.pem, crl.pem);
	assert_int_equal(mesh__revocations_add(&lists, &bundle, 1, false, text, strlen(text), why, sizeof(why)), 0);
	assert_int_equal(lists.count, 2);
	mesh__revocations_fini(&lists);
}

static void every_cut_of_a_certificate_is_malformed(void **state)
{
	struct certificate leaf;
	mbedtls_x509_crt list;
	char why[1024];
	uint32_t count;

	(void)state;
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &root, .uris = { USERS } });
	for (size_t len = 0; len < leaf.len; len++) {
		mbedtls_x509_crt_init(&list);
		expect(mesh__certificate_parse(&list, leaf.der, len, why, sizeof(why)), MESH__REFUSAL_MALFORMED, why, "no certificate that can be read");
		mbedtls_x509_crt_free(&list);
		mbedtls_x509_crt_init(&list);
		assert_int_equal(mesh__certificate_parse_all(&list, true, leaf.der, len, 10, &count, why, sizeof(why)), len ? MESH_E_CORRUPT : 0);
		assert_int_equal(count, 0);
		mbedtls_x509_crt_free(&list);
	}
	free_certificate(&leaf);
}

static void facts_are_read_and_escaped(void **state)
{
	struct mesh__certificate_facts facts;
	struct certificate leaf;
	mbedtls_x509_crt list;
	char why[256];

	(void)state;
	make_certificate(&leaf, &(struct certificate_spec){ .issuer = &root, .subject = "O=Shop,CN=users", .uris = { USERS }, .from_s = -100, .until_s = 900 });
	mbedtls_x509_crt_init(&list);
	assert_int_equal(mesh__certificate_parse(&list, leaf.der, leaf.len, why, sizeof(why)), MESH__REFUSAL_NONE);
	mesh__certificate_facts(&list, &facts);
	assert_string_equal(facts.id.text, USERS);
	assert_string_equal(facts.issuer, "CN=authority of prod.example");
	assert_non_null(strstr(facts.subject, "CN=users"));
	assert_int_equal(facts.not_after_s - facts.not_before_s, 1000);
	assert_in_range(facts.not_after_s, time(NULL) + 800, time(NULL) + 900);
	assert_int_equal(strlen(facts.serial), 8);
	assert_int_equal(strspn(facts.serial, "0123456789abcdef"), 8);
	assert_string_equal(mesh__refusal_name(MESH__REFUSAL_NONE), "");
	assert_string_equal(mesh__refusal_name(MESH__REFUSAL_NOT_YET_VALID), "not_yet_valid");
	mbedtls_x509_crt_free(&list);
	free_certificate(&leaf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_leaves_are_taken),
		cmocka_unit_test(bad_leaves_are_refused_each_for_its_own_reason),
		cmocka_unit_test(an_id_of_2048_bytes_is_taken_and_a_longer_one_is_not),
		cmocka_unit_test(a_chain_over_good_intermediates_is_taken),
		cmocka_unit_test(bad_intermediates_are_refused_each_for_its_own_reason),
		cmocka_unit_test(more_than_forty_reasons_are_told_apart),
		cmocka_unit_test(a_path_length_is_kept),
		cmocka_unit_test(a_chain_without_end_is_refused),
		cmocka_unit_test(another_domains_bundle_is_never_asked),
		cmocka_unit_test(name_constraints_bind_what_is_below),
		cmocka_unit_test(an_authority_between_is_bound_by_its_own_uri),
		cmocka_unit_test(uris_are_compared_by_their_host),
		cmocka_unit_test(what_an_authority_took_back_is_refused),
		cmocka_unit_test(a_long_list_is_searched_for_each_of_a_chain),
		cmocka_unit_test(a_list_that_is_late_leaves_nothing_certain),
		cmocka_unit_test(a_list_that_cannot_be_used_is_refused),
		cmocka_unit_test(every_cut_of_a_certificate_is_malformed),
		cmocka_unit_test(facts_are_read_and_escaped),
	};

	return cmocka_run_group_tests(tests, make_authorities, free_authorities);
}
