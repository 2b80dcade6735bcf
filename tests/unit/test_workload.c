/* The Workload API's message: taken as a whole, or refused as a whole with a sentence. */
#include "../lib/certificates.h"

#include "base/protobuf.h"
#include "identity/workload.h"
#include "mesh/error.h"

#include <psa/crypto.h>
#include <stdlib.h>

#define USERS "spiffe://prod.example/ns/shop/sa/users"
#define ORDERS "spiffe://prod.example/ns/shop/sa/orders"

static struct certificate root, stranger, users, orders, old;

static int make_all(void **state)
{
	(void)state;
	if (psa_crypto_init() != PSA_SUCCESS)
		return -1;
	make_certificate(&root, &(struct certificate_spec){ AUTHORITY("prod.example") });
	make_certificate(&stranger, &(struct certificate_spec){ AUTHORITY("partner.example") });
	make_certificate(&users, &(struct certificate_spec){ .issuer = &root, .uris = { USERS } });
	make_certificate(&orders, &(struct certificate_spec){ .issuer = &root, .uris = { ORDERS } });
	make_certificate(&old, &(struct certificate_spec){ .issuer = &root, .uris = { USERS }, .from_s = -100, .until_s = -10 });
	return 0;
}

static int free_all(void **state)
{
	(void)state;
	free_certificate(&root);
	free_certificate(&stranger);
	free_certificate(&users);
	free_certificate(&orders);
	free_certificate(&old);
	return 0;
}

/* --- messages, written by hand --- */

struct message {
	uint8_t data[32768];
	size_t len;
};

static void put_varint(struct message *to, uint64_t value)
{
	for (; value > 0x7f; value >>= 7)
		to->data[to->len++] = (uint8_t)(value | 0x80);
	to->data[to->len++] = (uint8_t)value;
}

static void put(struct message *to, uint32_t number, const void *data, size_t len)
{
	put_varint(to, number << 3 | MESH__PROTOBUF_BYTES);
	put_varint(to, len);
	if (len)
		memcpy(to->data + to->len, data, len);
	to->len += len;
}

/* Without the field `missing` (1 to 4; 0: none). */
static void put_svid(struct message *to, const char *id, const struct certificate *leaf, const char *hint, uint32_t missing)
{
	static struct message svid;

	svid.len = 0;
	if (missing != 1)
		put(&svid, 1, id, strlen(id));
	if (missing != 2)
		put(&svid, 2, leaf->der, leaf->len);
	if (missing != 3)
		put(&svid, 3, leaf->key_der, leaf->key_len);
	if (missing != 4)
		put(&svid, 4, root.der, root.len);
	if (hint)
		put(&svid, 5, hint, strlen(hint));
	put(to, 1, svid.data, svid.len);
}

static void put_federated(struct message *to, const char *domain, const struct certificate *ca)
{
	static struct message entry;

	entry.len = 0;
	put(&entry, 1, domain, strlen(domain));
	put(&entry, 2, ca->der, ca->len);
	put(to, 3, entry.data, entry.len);
}

/* A copy of its own, so that a read beyond its end shows. */
static int parse(const struct message *message, size_t len, struct mesh__credentials **out, char why[512])
{
	uint8_t *copy = malloc(len ? len : 1);
	int rc;

	assert_non_null(copy);
	memcpy(copy, message->data, len);
	why[0] = '\0';
	*out = NULL;
	rc = mesh__workload_parse(copy, len, out, why, 512);
	free(copy);
	assert_true(rc ? !*out && *why : *out && !*why);
	return rc;
}

static struct mesh__credentials *parse_good(const struct message *message)
{
	struct mesh__credentials *made;
	char why[512];

	if (parse(message, message->len, &made, why))
		fail_msg("%s", why);
	return made;
}

static void refused(const struct message *message, int code, const char *because)
{
	struct mesh__credentials *made;
	char why[512];

	assert_int_equal(parse(message, message->len, &made, why), code);
	if (!strstr(why, because))
		fail_msg("\"%s\" does not say \"%s\"", why, because);
}

/* --- */

static void a_message_is_taken_whole(void **state)
{
	struct message message = { .len = 0 };
	struct mesh__credentials *made;

	(void)state;
	put_svid(&message, USERS, &users, NULL, 0);
	put_svid(&message, ORDERS, &orders, "internal", 0);
	put_federated(&message, "spiffe://partner.example", &stranger);
	put(&message, 99, "of a newer agent", 16);
	made = parse_good(&message);
	assert_int_equal(made->svid_count, 2);
	assert_int_equal(made->bundle_count, 2);
	assert_string_equal(mesh__credentials_svid(made, NULL, NULL)->facts.id.text, USERS);
	assert_string_equal(mesh__credentials_svid(made, NULL, "internal")->facts.id.text, ORDERS);
	assert_int_equal(mesh__credentials_bundle(made, "partner.example", 15)->count, 1);
	assert_int_equal(mesh__credentials_bundle(made, "prod.example", 12)->count, 1);
	mesh__credentials_unref(made);
}

static void of_one_hint_the_first_is_found(void **state)
{
	struct message message = { .len = 0 };
	struct mesh__credentials *made;

	(void)state;
	put_svid(&message, USERS, &users, "same", 0);
	put_svid(&message, ORDERS, &orders, "same", 0);
	made = parse_good(&message);
	assert_string_equal(mesh__credentials_svid(made, NULL, "same")->facts.id.text, USERS);
	mesh__credentials_unref(made);
}

static void an_empty_mandatory_field_discards_the_message(void **state)
{
	static const char *const names[] = { "no SVID", "spiffe_id ", "x509_svid ", "x509_svid_key ", "bundle " };
	struct message message = { .len = 0 };

	(void)state;
	refused(&message, MESH_E_CORRUPT, names[0]);
	put_federated(&message, "spiffe://partner.example", &stranger);
	refused(&message, MESH_E_CORRUPT, names[0]);
	for (uint32_t missing = 1; missing <= 4; missing++) {
		message.len = 0;
		put_svid(&message, USERS, &users, NULL, 0);
		put_svid(&message, ORDERS, &orders, NULL, missing);
		refused(&message, MESH_E_CORRUPT, names[missing]);
	}
}

static void what_does_not_fit_together_is_refused(void **state)
{
	struct message message = { .len = 0 };
	struct certificate mixed = users;

	(void)state;
	put_svid(&message, ORDERS, &users, NULL, 0);
	refused(&message, MESH_E_CORRUPT, "is a certificate of " USERS);
	message.len = 0;
	memcpy(mixed.key_der, orders.key_der, sizeof(mixed.key_der));
	mixed.key_len = orders.key_len;
	put_svid(&message, USERS, &mixed, NULL, 0);
	refused(&message, MESH_E_CORRUPT, "private key");
	message.len = 0;
	put_svid(&message, "spiffe://Prod.example/x", &users, NULL, 0);
	refused(&message, MESH_E_CORRUPT, "spiffe_id");
	message.len = 0;
	put_svid(&message, USERS, &old, NULL, 0);
	refused(&message, MESH_E_IDENTITY, "expired");
	message.len = 0;
	put_svid(&message, USERS, &users, NULL, 0);
	put_federated(&message, "", &stranger);
	refused(&message, MESH_E_CORRUPT, "trust domain");
}

static void our_own_bundle_comes_before_a_federated_one(void **state)
{
	struct message message = { .len = 0 };
	struct mesh__credentials *made;

	(void)state;
	put_federated(&message, "spiffe://prod.example", &stranger);
	put_svid(&message, USERS, &users, NULL, 0);
	made = parse_good(&message);
	assert_int_equal(made->bundle_count, 1);
	assert_memory_equal(made->bundles[0]->cas.raw.p, root.der, root.len);
	mesh__credentials_unref(made);
}

static void revocation_lists_come_with_a_message_or_refuse_it(void **state)
{
	struct message message = { .len = 0 };
	struct mesh__credentials *made;
	struct crl crl, strange, late;

	(void)state;
	make_crl(&crl, &(struct crl_spec){ .issuer = &root, .revoked = { &orders } });
	make_crl(&strange, &(struct crl_spec){ .issuer = &stranger, .revoked = { &users } });
	make_crl(&late, &(struct crl_spec){ .issuer = &root, .from_s = -200, .until_s = -100 });
	/* Before the bundles, whose authority is to be found. */
	put(&message, 2, crl.der, crl.len);
	put(&message, 2, strange.der, strange.len);
	put_svid(&message, USERS, &users, NULL, 0);
	made = parse_good(&message);
	assert_int_equal(made->revocations.count, 2);
	assert_int_equal(made->revocations.stranger_count, 1);
	assert_true(mesh__revocations_name(&made->revocations, made->svids[0]->chain.raw.p, made->svids[0]->chain.raw.len) == false);
	mesh__credentials_unref(made);
	put_federated(&message, "spiffe://partner.example", &stranger);
	made = parse_good(&message);
	assert_int_equal(made->revocations.stranger_count, 0);
	mesh__credentials_unref(made);
	put(&message, 2, "a CRL", 5);
	refused(&message, MESH_E_CORRUPT, "crl cannot be used, so all of its message was discarded: revocation list 3");
	/* What we would show is taken back, or nobody can know. */
	message.len = 0;
	put_svid(&message, ORDERS, &orders, NULL, 0);
	put(&message, 2, crl.der, crl.len);
	refused(&message, MESH_E_CORRUPT, "was revoked by who signed it");
	message.len = 0;
	put_svid(&message, USERS, &users, NULL, 0);
	put(&message, 2, late.der, late.len);
	refused(&message, MESH_E_IDENTITY, "should have been renewed by");
}

/* Cut at any byte; only behind the first SVID is it a whole message. */
static void a_cut_message_is_refused_wherever_it_is_cut(void **state)
{
	struct message message = { .len = 0 };
	struct mesh__credentials *made;
	char why[512];
	size_t first;

	(void)state;
	put_svid(&message, USERS, &users, NULL, 0);
	first = message.len;
	put_federated(&message, "spiffe://partner.example", &stranger);
	for (size_t len = 0; len < message.len; len++)
		if (len != first)
			assert_int_equal(parse(&message, len, &made, why), MESH_E_CORRUPT);
}

static void varints_end_where_they_must(void **state)
{
	static const uint8_t too_long[] = { 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2 }, group[] = { 0x0b }, zero[] = { 0, 1 },
			     huge[] = { 0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1 };
	static const uint8_t good[] = { 8, 0x96, 1, 0x15, 1, 2, 3, 4, 0x19, 1, 0, 0, 0, 0, 0, 0, 0x80 };
	struct mesh__protobuf reader;
	struct mesh__protobuf_field field;

	(void)state;
	mesh__protobuf_init(&reader, good, sizeof(good));
	assert_true(mesh__protobuf_next(&reader, &field) && field.number == 1 && field.value == 150);
	assert_true(mesh__protobuf_next(&reader, &field) && field.number == 2 && field.value == 0x04030201);
	assert_true(mesh__protobuf_next(&reader, &field) && field.number == 3 && field.value == UINT64_C(0x8000000000000001));
	assert_false(mesh__protobuf_next(&reader, &field));
	assert_false(reader.is_broken);
#define BREAKS(bytes)                                              \
	mesh__protobuf_init(&reader, bytes, sizeof(bytes));        \
	assert_false(mesh__protobuf_next(&reader, &field));        \
	assert_true(reader.is_broken);
	BREAKS(too_long)
	BREAKS(group)
	BREAKS(zero)
	BREAKS(huge)
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_message_is_taken_whole),
		cmocka_unit_test(of_one_hint_the_first_is_found),
		cmocka_unit_test(an_empty_mandatory_field_discards_the_message),
		cmocka_unit_test(what_does_not_fit_together_is_refused),
		cmocka_unit_test(our_own_bundle_comes_before_a_federated_one),
		cmocka_unit_test(revocation_lists_come_with_a_message_or_refuse_it),
		cmocka_unit_test(a_cut_message_is_refused_wherever_it_is_cut),
		cmocka_unit_test(varints_end_where_they_must),
	};

	return cmocka_run_group_tests(tests, make_all, free_all);
}
