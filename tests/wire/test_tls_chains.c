/* What a peer may show in a handshake that mbedTLS on its own would not read, or would not mind. */
#include "../lib/certificates.h"

#include "base/memory.h"
#include "wire/tls.h"

#include <psa/crypto.h>

#define USERS "spiffe://prod.example/ns/shop/sa/users"
#define SHOP "spiffe://prod.example/ns/shop/sa/shop"

static struct certificate root;

static int make_root(void **state)
{
	(void)state;
	if (psa_crypto_init() != PSA_SUCCESS)
		return -1;
	make_certificate(&root, &(struct certificate_spec){ AUTHORITY("prod.example") });
	return 0;
}

static int free_root(void **state)
{
	(void)state;
	free_certificate(&root);
	return 0;
}

static int take_any(void *user, const mbedtls_x509_crt *crt, const mbedtls_x509_buf *oid, int is_critical, const unsigned char *p, const unsigned char *end)
{
	(void)user;
	(void)crt;
	(void)oid;
	(void)is_critical;
	(void)p;
	(void)end;
	return 0;
}

/* Past all checks of what we take for ourselves: a peer may show anything. `between` and `crl` may be NULL. */
static struct mesh__credentials *make_party(const struct certificate *leaf, const struct certificate *between, const struct crl *crl)
{
	struct mesh__svid *svid = mesh__memory_zalloc(sizeof(*svid));
	struct mesh__credentials *party;
	struct mesh__bundle *bundle;
	char why[256];

	assert_int_equal(mesh__credentials_new(&party), 0);
	mbedtls_x509_crt_init(&svid->chain);
	mbedtls_pk_init(&svid->key);
	assert_int_equal(mbedtls_pk_parse_key(&svid->key, leaf->key_der, leaf->key_len, NULL, 0, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE), 0);
	assert_int_equal(mbedtls_x509_crt_parse_der_with_ext_cb(&svid->chain, leaf->der, leaf->len, 1, take_any, NULL), 0);
	if (between)
		assert_int_equal(mbedtls_x509_crt_parse_der_with_ext_cb(&svid->chain, between->der, between->len, 1, take_any, NULL), 0);
	mesh__certificate_facts(&svid->chain, &svid->facts);
	party->svids[party->svid_count++] = svid;
	assert_int_equal(mesh__bundle_parse(&bundle, "prod.example", MESH__BUNDLE_DER, root.der, root.len, false, why, sizeof(why)), 0);
	assert_int_equal(mesh__credentials_add_bundle(party, bundle), 0);
	if (crl)
		assert_int_equal(mesh__credentials_add_crl(party, true, crl->der, crl->len, why, sizeof(why)), 0);
	return party;
}

/* --- two sessions in memory --- */

struct end {
	struct mesh__tls *tls;
	struct mesh__tls_output out;
	enum mesh__tls_progress progress;
};

/* What `from` said goes to `to`, in pieces of `piece` bytes; after its handshake, to its decryption. */
static void carry(struct end *from, struct end *to, size_t piece)
{
	uint8_t plain[256];
	size_t used;

	for (size_t at = 0; at < from->out.len; at += used) {
		size_t len = from->out.len - at < piece ? from->out.len - at : piece;

		used = len;
		if (to->progress == MESH__TLS_MORE)
			to->progress = mesh__tls_handshake_step(to->tls, from->out.data + at, len, &used, &to->out);
		else if (to->progress == MESH__TLS_DONE) {
			mesh__tls_feed(to->tls, from->out.data + at, len);
			if (mesh__tls_decrypt(to->tls, plain, sizeof(plain)) == MESH__TLS_BROKEN)
				to->progress = MESH__TLS_FAILED;
		}
	}
	from->out.len = 0;
}

/* Takes over both credentials. */
static void shake_hands(struct end *client, struct end *server, struct mesh__credentials *clients, struct mesh__credentials *servers, size_t piece)
{
	struct mesh__tls_options opts = { .credentials = clients, .svid = clients->svids[0] };
	size_t used;

	*client = *server = (struct end){ .progress = MESH__TLS_MORE };
	assert_int_equal(mesh__tls_new(&opts, &client->tls), 0);
	opts = (struct mesh__tls_options){ .credentials = servers, .svid = servers->svids[0], .is_server = true };
	assert_int_equal(mesh__tls_new(&opts, &server->tls), 0);
	mesh__credentials_unref(clients);
	mesh__credentials_unref(servers);
	client->progress = mesh__tls_handshake_step(client->tls, NULL, 0, &used, &client->out);
	for (int i = 0; i < 4; i++) {
		carry(client, server, piece);
		carry(server, client, piece);
	}
}

static void end_pair(struct end *client, struct end *server)
{
	mesh__tls_free(client->tls);
	mesh__tls_free(server->tls);
	mesh__memory_free(client->out.data);
	mesh__memory_free(server->out.data);
}

static void say(struct end *from, struct end *to, const char *word)
{
	uint8_t sealed[256], plain[64];
	ssize_t len = mesh__tls_encrypt(from->tls, word, strlen(word), sealed, sizeof(sealed));

	assert_true(len > 0);
	mesh__tls_feed(to->tls, sealed, (size_t)len);
	assert_int_equal(mesh__tls_decrypt(to->tls, plain, sizeof(plain)), strlen(word));
	assert_memory_equal(plain, word, strlen(word));
}

struct chain {
	struct certificate leaf, between;
	bool has_between, is_broken;
};

static void make_chain(struct chain *chain, const char *id, const struct certificate_spec *between, struct certificate_spec leaf)
{
	chain->has_between = between != NULL;
	chain->is_broken = false;
	if (between)
		make_certificate(&chain->between, between);
	leaf.issuer = between ? &chain->between : &root;
	leaf.uris[0] = id;
	make_certificate(&chain->leaf, &leaf);
}

static struct mesh__credentials *party_of(const struct chain *chain, const struct crl *crl)
{
	struct mesh__credentials *party = make_party(&chain->leaf, chain->has_between ? &chain->between : NULL, crl);

	if (chain->is_broken)
		party->svids[0]->chain.next->raw.p[4] ^= 1; /* what is sent, not what was parsed */
	return party;
}

static void free_chain(struct chain *chain)
{
	free_certificate(&chain->leaf);
	if (chain->has_between)
		free_certificate(&chain->between);
}

static void an_authority_with_name_constraints_works_in_a_handshake(void **state)
{
	const struct certificate_spec bound = { .issuer = &root, .subject = "CN=bound", .is_ca = true, .permitted = { "uri:prod.example" },
						.excluded = { "dns:elsewhere" }, .is_name_constraints_optional = true };
	struct chain users, shop;
	struct end client, server;
	const uint8_t *chain;
	size_t len;

	(void)state;
	make_chain(&users, USERS, &bound, (struct certificate_spec){ .dns = { "users" } });
	make_chain(&shop, SHOP, &bound, (struct certificate_spec){ .subject = "CN=shop" });
	for (size_t piece = 1; piece <= 4096; piece *= 64) {
		shake_hands(&client, &server, party_of(&shop, NULL), party_of(&users, NULL), piece);
		if (client.progress != MESH__TLS_DONE || server.progress != MESH__TLS_DONE)
			fail_msg("client: %s; server: %s", mesh__tls_why(client.tls), mesh__tls_why(server.tls));
		assert_string_equal(mesh__tls_peer_id(client.tls)->text, USERS);
		assert_string_equal(mesh__tls_peer_id(server.tls)->text, SHOP);
		chain = mesh__tls_peer_chain(client.tls, &len);
		assert_int_equal(len, users.leaf.len + users.between.len);
		assert_memory_equal(chain, users.leaf.der, users.leaf.len);
		chain = mesh__tls_peer_chain(server.tls, &len);
		assert_int_equal(len, shop.leaf.len + shop.between.len);
		assert_memory_equal(chain + shop.leaf.len, shop.between.der, shop.between.len);
		say(&client, &server, "hello");
		say(&server, &client, "who is there");
		end_pair(&client, &server);
	}
	free_chain(&users);
	free_chain(&shop);
}

/* As a client and as a server: the reason, and what the other side hears. */
static void expect_refused(const struct chain *bad, const struct crl *crl, const char *reason, const char *phrase, const char *heard)
{
	struct chain good;
	struct end ends[2];

	make_chain(&good, SHOP, NULL, (struct certificate_spec){ .subject = "CN=good" });
	for (int refuser = 0; refuser < 2; refuser++) { /* 0: the client */
		struct mesh__credentials *goods = party_of(&good, crl), *bads = party_of(bad, NULL);

		shake_hands(&ends[0], &ends[1], refuser ? bads : goods, refuser ? goods : bads, 4096);
		assert_int_equal(ends[refuser].progress, MESH__TLS_FAILED);
		if (strcmp(mesh__tls_reason(ends[refuser].tls), reason) || !strstr(mesh__tls_why(ends[refuser].tls), phrase))
			fail_msg("%s, not %s with \"%s\": %s", mesh__tls_reason(ends[refuser].tls), reason, phrase, mesh__tls_why(ends[refuser].tls));
		assert_int_equal(ends[!refuser].progress, MESH__TLS_FAILED);
		assert_string_equal(mesh__tls_reason(ends[!refuser].tls), "alert");
		if (!strstr(mesh__tls_why(ends[!refuser].tls), heard))
			fail_msg("the peer hears \"%s\"", mesh__tls_why(ends[!refuser].tls));
		end_pair(&ends[0], &ends[1]);
	}
	free_chain(&good);
}

static void who_breaks_name_constraints_is_refused(void **state)
{
	const struct certificate_spec bound = { .issuer = &root, .subject = "CN=bound", .is_ca = true, .excluded = { "uri:prod.example" },
						.is_name_constraints_optional = true };
	struct chain bad;

	(void)state;
	make_chain(&bad, USERS, &bound, (struct certificate_spec){ 0 });
	expect_refused(&bad, NULL, "name_constraints", "exclude the URI \"" USERS "\"", "access denied");
	free_chain(&bad);
}

static void a_critical_extension_that_nobody_knows_is_named(void **state)
{
	const struct certificate_spec odd = { .issuer = &root, .subject = "CN=odd", .is_ca = true, .extension = "\x2a\x03\x05", .extension_len = 3,
					      .is_extension_critical = true };
	struct chain bad;

	(void)state;
	make_chain(&bad, USERS, NULL, (struct certificate_spec){ .extension = "\x2a\x03\x04", .extension_len = 3, .is_extension_critical = true });
	expect_refused(&bad, NULL, "critical_extension", "certificate 1 of what it showed: it has a critical extension that libmesh does not know (1.2.3.4)",
		       "refused our certificate");
	free_chain(&bad);
	make_chain(&bad, USERS, &odd, (struct certificate_spec){ 0 });
	expect_refused(&bad, NULL, "critical_extension", "certificate 2 of what it showed: it has a critical extension that libmesh does not know (1.2.3.5)",
		       "refused our certificate");
	free_chain(&bad);
	make_chain(&bad, USERS, NULL, (struct certificate_spec){ .permitted = { "uri:prod.example" } });
	expect_refused(&bad, NULL, "critical_extension", "critical name constraints", "refused our certificate");
	free_chain(&bad);
	make_chain(&bad, USERS, &(struct certificate_spec){ .issuer = &root, .subject = "CN=bound", .is_ca = true, .permitted = { "uri:prod.example" } },
		   (struct certificate_spec){ 0 });
	expect_refused(&bad, NULL, "critical_extension", "certificate 2 of what it showed: it has critical name constraints", "refused our certificate");
	free_chain(&bad);
}

static void what_cannot_be_read_is_malformed(void **state)
{
	struct chain bad;

	(void)state;
	make_chain(&bad, USERS, &(struct certificate_spec){ .issuer = &root, .subject = "CN=between", .is_ca = true }, (struct certificate_spec){ 0 });
	bad.is_broken = true;
	expect_refused(&bad, NULL, "malformed", "certificate 2 of what it showed: it is no certificate that can be read", "refused our certificate");
	free_chain(&bad);
}

static void who_was_revoked_is_refused_and_hears_it(void **state)
{
	struct chain bad;
	struct crl crl, late;

	(void)state;
	make_chain(&bad, USERS, &(struct certificate_spec){ .issuer = &root, .subject = "CN=between", .is_ca = true }, (struct certificate_spec){ 0 });
	make_crl(&crl, &(struct crl_spec){ .issuer = &root, .revoked = { &bad.between } });
	expect_refused(&bad, &crl, "revoked", "the certificate \"CN=between\" with serial number", "certificate revoked");
	make_crl(&crl, &(struct crl_spec){ .issuer = &bad.between, .revoked = { &bad.leaf } });
	expect_refused(&bad, &crl, "revoked", "the certificate \"CN=test\" with serial number", "certificate revoked");
	make_crl(&late, &(struct crl_spec){ .issuer = &root, .from_s = -200, .until_s = -100 });
	expect_refused(&bad, &late, "stale_crl", "should have been renewed by", "access denied");
	free_chain(&bad);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_authority_with_name_constraints_works_in_a_handshake),
		cmocka_unit_test(who_breaks_name_constraints_is_refused),
		cmocka_unit_test(a_critical_extension_that_nobody_knows_is_named),
		cmocka_unit_test(what_cannot_be_read_is_malformed),
		cmocka_unit_test(who_was_revoked_is_refused_and_hears_it),
	};

	return cmocka_run_group_tests(tests, make_root, free_root);
}
