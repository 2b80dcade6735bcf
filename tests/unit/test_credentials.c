#include "../lib/certificates.h"

#include "base/memory.h"
#include "identity/credentials.h"
#include "mesh/error.h"

#include <psa/crypto.h>

#define USERS "spiffe://prod.example/ns/shop/sa/users"
#define ORDERS "spiffe://prod.example/ns/shop/sa/orders"

static struct certificate root, middle, users, orders;

static int make_all(void **state)
{
	(void)state;
	if (psa_crypto_init() != PSA_SUCCESS)
		return -1;
	make_certificate(&root, &(struct certificate_spec){ AUTHORITY("prod.example") });
	make_certificate(&middle, &(struct certificate_spec){ .issuer = &root, .subject = "CN=middle", .is_ca = true });
	make_certificate(&users, &(struct certificate_spec){ .issuer = &root, .subject = "CN=users", .uris = { USERS } });
	make_certificate(&orders, &(struct certificate_spec){ .issuer = &middle, .subject = "CN=orders", .uris = { ORDERS } });
	return 0;
}

static int free_all(void **state)
{
	(void)state;
	free_certificate(&root);
	free_certificate(&middle);
	free_certificate(&users);
	free_certificate(&orders);
	return 0;
}

static struct mesh__bundle *new_bundle(const char *domain, const struct certificate *ca)
{
	struct mesh__bundle *made;
	char why[512];

	if (mesh__bundle_parse(&made, domain, MESH__BUNDLE_DER, ca ? ca->der : NULL, ca ? ca->len : 0, true, why, sizeof(why)))
		fail_msg("%s", why);
	return made;
}

static struct mesh__credentials *new_credentials(bool with_bundle)
{
	struct mesh__credentials *made;

	assert_int_equal(mesh__credentials_new(&made), 0);
	if (with_bundle)
		assert_int_equal(mesh__credentials_add_bundle(made, new_bundle("prod.example", &root)), 0);
	return made;
}

static int add(struct mesh__credentials *to, const struct certificate *leaf, const struct certificate *key, const char *hint, char *why, size_t capacity)
{
	return mesh__credentials_add_svid(to, true, leaf->der, leaf->len, key->key_der, key->key_len, hint, why, capacity);
}

static void add_good(struct mesh__credentials *to, const struct certificate *leaf, const char *hint)
{
	char why[1024] = "";

	if (add(to, leaf, leaf, hint, why, sizeof(why)))
		fail_msg("%s", why);
}

static void expect_refused(struct mesh__credentials *to, bool der, const void *chain, size_t chain_len, const void *key, size_t key_len, int code,
			   const char *phrase)
{
	uint32_t before = to->svid_count;
	char why[1024] = "";
	int rc = mesh__credentials_add_svid(to, der, chain, chain_len, key, key_len, NULL, why, sizeof(why));

	if (rc != code || !strstr(why, phrase))
		fail_msg("%d, not %d with \"%s\": %s", rc, code, phrase, why);
	assert_int_equal(to->svid_count, before);
}

static void der_and_pem_are_taken_with_their_chains(void **state)
{
	struct mesh__credentials *made = new_credentials(true);
	uint8_t der[20000];
	char pem[30000], why[1024];

	(void)state;
	memcpy(der, orders.der, orders.len);
	memcpy(der + orders.len, middle.der, middle.len);
	snprintf(pem, sizeof(pem), "%s%s", orders.pem, middle.pem);
	if (mesh__credentials_add_svid(made, true, der, orders.len + middle.len, orders.key_der, orders.key_len, NULL, why, sizeof(why)))
		fail_msg("%s", why);
	if (mesh__credentials_add_svid(made, false, pem, strlen(pem), orders.key_pem, strlen(orders.key_pem), "pem", why, sizeof(why)))
		fail_msg("%s", why);
	add_good(made, &users, "");
	assert_int_equal(made->svid_count, 3);
	assert_string_equal(made->svids[0]->facts.id.text, ORDERS);
	assert_string_equal(made->svids[0]->facts.issuer, "CN=middle");
	assert_non_null(made->svids[1]->chain.next);
	mesh__credentials_unref(made);
}

static void a_key_of_another_certificate_is_refused(void **state)
{
	struct mesh__credentials *made = new_credentials(true);
	struct certificate rsa;

	(void)state;
	expect_refused(made, true, users.der, users.len, orders.key_der, orders.key_len, MESH_E_CORRUPT, "is not the one of the certificate of " USERS);
	expect_refused(made, false, users.pem, strlen(users.pem), orders.key_pem, strlen(orders.key_pem), MESH_E_CORRUPT, "is not the one of the certificate");
	make_certificate(&rsa, &(struct certificate_spec){ .issuer = &root, .uris = { USERS }, .key = KEY_RSA_1024 });
	expect_refused(made, true, users.der, users.len, rsa.key_der, rsa.key_len, MESH_E_CORRUPT, "is not the one of the certificate");
	expect_refused(made, true, rsa.der, rsa.len, rsa.key_der, rsa.key_len, MESH_E_CORRUPT, "fewer than 2048 bits");
	free_certificate(&rsa);
	/* The two files for each other. */
	expect_refused(made, false, users.key_pem, strlen(users.key_pem), users.pem, strlen(users.pem), MESH_E_CORRUPT, "a block \"PRIVATE KEY\"");
	mesh__credentials_unref(made);
}

static void what_is_cut_off_is_refused(void **state)
{
	static const char encrypted[] = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
	struct mesh__credentials *made = new_credentials(true);
	size_t chain = strlen(users.pem), key = strlen(users.key_pem);

	(void)state;
	for (size_t len = 30; len < chain - 1; len += 7)
		expect_refused(made, false, users.pem, len, users.key_pem, key, MESH_E_CORRUPT, "certificate 1 is cut off");
	for (size_t len = 1; len < key - 1; len += 7)
		expect_refused(made, false, users.pem, chain, users.key_pem, len, MESH_E_CORRUPT, "private key cannot be read");
	for (size_t len = 1; len < users.key_len; len++)
		expect_refused(made, true, users.der, users.len, users.key_der, len, MESH_E_CORRUPT, "private key cannot be read");
	expect_refused(made, false, users.pem, chain, "", 0, MESH_E_CORRUPT, "private key is empty");
	expect_refused(made, true, users.der, users.len, NULL, 0, MESH_E_CORRUPT, "private key is empty");
	expect_refused(made, false, "", 0, users.key_pem, key, MESH_E_CORRUPT, "it is empty");
	expect_refused(made, true, NULL, 0, users.key_der, users.key_len, MESH_E_CORRUPT, "it is empty");
	expect_refused(made, false, users.pem, chain, encrypted, sizeof(encrypted) - 1, MESH_E_CORRUPT, "private key is encrypted");
	assert_int_equal(made->svid_count, 0);
	mesh__credentials_unref(made);
}

static void what_is_not_valid_now_is_no_identity(void **state)
{
	struct mesh__credentials *with = new_credentials(true), *without = new_credentials(false);
	struct certificate old, young;

	(void)state;
	make_certificate(&old, &(struct certificate_spec){ .issuer = &root, .uris = { USERS }, .from_s = -100, .until_s = -10 });
	make_certificate(&young, &(struct certificate_spec){ .issuer = &root, .uris = { USERS }, .from_s = 100, .until_s = 200 });
	expect_refused(with, true, old.der, old.len, old.key_der, old.key_len, MESH_E_IDENTITY, "expired 1");
	expect_refused(without, true, old.der, old.len, old.key_der, old.key_len, MESH_E_IDENTITY, "expired 1");
	expect_refused(with, true, young.der, young.len, young.key_der, young.key_len, MESH_E_IDENTITY, "is this machine's clock right?");
	free_certificate(&old);
	free_certificate(&young);
	mesh__credentials_unref(with);
	mesh__credentials_unref(without);
}

static void our_own_bundle_must_vouch_for_us_if_it_is_there(void **state)
{
	struct mesh__credentials *with = new_credentials(true), *without = new_credentials(false);
	struct certificate stranger, alien;

	(void)state;
	make_certificate(&stranger, &(struct certificate_spec){ AUTHORITY("prod.example") });
	make_certificate(&alien, &(struct certificate_spec){ .issuer = &stranger, .uris = { USERS } });
	expect_refused(with, true, alien.der, alien.len, alien.key_der, alien.key_len, MESH_E_CORRUPT, "not signed by an authority in the bundle of prod.example");
	/* Its intermediate was forgotten. */
	expect_refused(with, true, orders.der, orders.len, orders.key_der, orders.key_len, MESH_E_CORRUPT, "names \"CN=middle\" as its issuer");
	expect_refused(with, true, root.der, root.len, root.key_der, root.key_len, MESH_E_CORRUPT, "it has no path");
	add_good(without, &alien, NULL);
	free_certificate(&stranger);
	free_certificate(&alien);
	mesh__credentials_unref(with);
	mesh__credentials_unref(without);
}

static void an_svid_is_chosen_by_id_then_hint_then_order(void **state)
{
	struct mesh__credentials *made = new_credentials(false);

	(void)state;
	assert_null(mesh__credentials_svid(made, USERS, "a"));
	add_good(made, &users, "internal");
	add_good(made, &orders, "external");
	add_good(made, &users, "external");
	assert_ptr_equal(mesh__credentials_svid(made, NULL, NULL), made->svids[0]);
	assert_ptr_equal(mesh__credentials_svid(made, NULL, ""), made->svids[0]);
	assert_ptr_equal(mesh__credentials_svid(made, ORDERS, NULL), made->svids[1]);
	assert_ptr_equal(mesh__credentials_svid(made, ORDERS, "internal"), made->svids[1]);
	assert_ptr_equal(mesh__credentials_svid(made, USERS, "external"), made->svids[0]);
	/* Of two with the same hint, the first. */
	assert_ptr_equal(mesh__credentials_svid(made, NULL, "external"), made->svids[1]);
	assert_ptr_equal(mesh__credentials_svid(made, "spiffe://prod.example/x", "external"), made->svids[1]);
	assert_ptr_equal(mesh__credentials_svid(made, "spiffe://prod.example/x", "x"), made->svids[0]);
	mesh__credentials_unref(made);
}

static void a_trust_domain_has_one_bundle(void **state)
{
	struct mesh__credentials *made = new_credentials(true);
	struct mesh__bundle *twice = new_bundle("prod.example", NULL), *extra;
	char domain[32];

	(void)state;
	assert_int_equal(mesh__credentials_add_bundle(made, twice), MESH_E_CORRUPT);
	mesh__bundle_unref(twice);
	for (int i = 1; i < MESH__BUNDLES_MAX; i++) {
		snprintf(domain, sizeof(domain), "d%d.example", i);
		assert_int_equal(mesh__credentials_add_bundle(made, new_bundle(domain, NULL)), 0);
	}
	extra = new_bundle("one.more", NULL);
	assert_int_equal(mesh__credentials_add_bundle(made, extra), MESH_E_NOMEM);
	mesh__bundle_unref(extra);
	assert_ptr_equal(mesh__credentials_bundle(made, "prod.example/x", 12), made->bundles[0]);
	assert_ptr_equal(mesh__credentials_bundle(made, "d7.example", 10), made->bundles[7]);
	assert_null(mesh__credentials_bundle(made, "prod.exampl", 11));
	assert_null(mesh__credentials_bundle(made, "prod.example.", 13));
	mesh__credentials_unref(made);
}

static void no_more_identities_than_the_limit(void **state)
{
	struct mesh__credentials *made = new_credentials(false);

	(void)state;
	for (int i = 0; i < MESH__SVIDS_MAX; i++)
		add_good(made, &users, NULL);
	expect_refused(made, true, users.der, users.len, users.key_der, users.key_len, MESH_E_CORRUPT, "more than 64 identities");
	mesh__credentials_unref(made);
}

static void memory_that_runs_out_adds_nothing(void **state)
{
	struct mesh__credentials *made = new_credentials(true), *none;
	char why[1024];
	int rc = MESH_E_NOMEM, at;

	(void)state;
	for (at = 0; rc == MESH_E_NOMEM; at++) {
		mesh__memory_fail_after(at);
		rc = mesh__credentials_add_svid(made, false, users.pem, strlen(users.pem), users.key_pem, strlen(users.key_pem), NULL, why, sizeof(why));
		mesh__memory_fail_after(-1);
		assert_int_equal(made->svid_count, rc ? 0 : 1);
		assert_true(rc == 0 || strstr(why, "out of memory"));
	}
	assert_int_equal(rc, 0);
	assert_int_equal(at, 4);
	mesh__memory_fail_after(0);
	assert_int_equal(mesh__credentials_new(&none), MESH_E_NOMEM);
	mesh__memory_fail_after(-1);
	assert_ptr_equal(mesh__credentials_ref(made), made);
	mesh__credentials_unref(made);
	mesh__credentials_unref(made);
	mesh__credentials_unref(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(der_and_pem_are_taken_with_their_chains),
		cmocka_unit_test(a_key_of_another_certificate_is_refused),
		cmocka_unit_test(what_is_cut_off_is_refused),
		cmocka_unit_test(what_is_not_valid_now_is_no_identity),
		cmocka_unit_test(our_own_bundle_must_vouch_for_us_if_it_is_there),
		cmocka_unit_test(an_svid_is_chosen_by_id_then_hint_then_order),
		cmocka_unit_test(a_trust_domain_has_one_bundle),
		cmocka_unit_test(no_more_identities_than_the_limit),
		cmocka_unit_test(memory_that_runs_out_adds_nothing),
	};

	return cmocka_run_group_tests(tests, make_all, free_all);
}
