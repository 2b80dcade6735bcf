/* The local authority: made once however many come, never used when it is not private, and what it signs is what peers accept. */
#include "identity/authority.h"

#include "../lib/mesh_test.h"
#include "base/clock.h"
#include "base/memory.h"
#include "mesh/identity.h"

#include <fcntl.h>
#include <mbedtls/psa_util.h>

static char ca_dir[96];

static int new_dir(void **state)
{
	if (make_test_dir(state))
		return -1;
	snprintf(ca_dir, sizeof(ca_dir), "%s/state/ca", test_dir);
	return 0;
}

static const char *in_ca(const char *name)
{
	static char path[160];

	snprintf(path, sizeof(path), "%s/%s", ca_dir, name);
	return path;
}

static struct mesh__authority *make_authority(const char *dir, const char *domain)
{
	struct mesh__authority *authority = NULL;
	struct mesh_error err = MESH_ERROR_INIT;

	if (mesh__authority_open(dir, domain, true, &authority, &err))
		fail_msg("%s", err.message);
	assert_int_equal(err.code, 0);
	return authority;
}

static void assert_refused(int code, const char *says)
{
	struct mesh__authority *authority = NULL;
	struct mesh_error err = MESH_ERROR_INIT;

	assert_int_equal(mesh__authority_open(ca_dir, "mesh.local", true, &authority, &err), code);
	assert_null(authority);
	if (!strstr(err.message, says))
		fail_msg("no \"%s\" in: %s", says, err.message);
}

static int read_file(const char *path, char *text, size_t capacity)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? -1 : read(fd, text, capacity);

	if (fd >= 0)
		close(fd);
	return (int)len;
}

static void write_file(const char *path, const char *text, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, len), len);
	close(fd);
}

static void one_is_made_by_twenty_at_the_same_moment(void **state)
{
	int gate[2], made = 0;
	char first[8192] = "", text[8192], go = 1;
	struct { int rc, was_made, len; char pem[8192]; } answer;

	(void)state;
	assert_int_equal(pipe(gate), 0);
	for (int i = 0; i < 20; i++) {
		if (fork())
			continue;
		struct mesh__authority *authority = NULL;
		size_t len = 0;

		memset(&answer, 0, sizeof(answer));
		close(gate[1]);
		(void)!read(gate[0], &go, 1); /* ends when the parent closes its end */
		answer.rc = mesh__authority_open(ca_dir, "mesh.local", true, &authority, NULL);
		if (!answer.rc) {
			const void *pem = mesh__authority_bundle_pem(authority, &len);

			answer.len = (int)len;
			memcpy(answer.pem, pem, len < sizeof(answer.pem) ? len : 0);
			answer.was_made = mesh__authority_was_made(authority);
		}
		snprintf(text, sizeof(text), "%s/answer.%d", test_dir, i);
		write_file(text, (const char *)&answer, sizeof(answer));
		_exit(0);
	}
	close(gate[0]);
	close(gate[1]);
	for (int i = 0; i < 20; i++)
		wait(NULL);
	for (int i = 0; i < 20; i++) {
		snprintf(text, sizeof(text), "%s/answer.%d", test_dir, i);
		assert_int_equal(read_file(text, (char *)&answer, sizeof(answer)), sizeof(answer));
		assert_int_equal(answer.rc, 0);
		assert_true(answer.len > 100);
		if (!*first)
			memcpy(first, answer.pem, sizeof(first));
		assert_string_equal(answer.pem, first);
		made += answer.was_made;
	}
	assert_int_equal(made, 1);
}

static void key_and_directory_are_private(void **state)
{
	struct stat found;

	(void)state;
	mesh__authority_free(make_authority(ca_dir, "mesh.local"));
	assert_int_equal(stat(in_ca("ca.key"), &found), 0);
	assert_int_equal(found.st_mode & 07777, 0600);
	assert_int_equal(stat(ca_dir, &found), 0);
	assert_int_equal(found.st_mode & 07777, 0700);
	assert_int_equal(chmod(in_ca("ca.key"), 0644), 0);
	assert_refused(MESH_E_NOT_PRIVATE, "ca.key has mode 0644");
	assert_int_equal(stat(in_ca("ca.key"), &found), 0);
	assert_int_equal(found.st_mode & 07777, 0644); /* and not repaired in silence */
	chmod(in_ca("ca.key"), 0600);
	chmod(ca_dir, 0770);
	assert_refused(MESH_E_NOT_PRIVATE, "chmod 700");
}

static void symbolic_links_are_refused(void **state)
{
	char moved[160];

	(void)state;
	mesh__authority_free(make_authority(ca_dir, "mesh.local"));
	snprintf(moved, sizeof(moved), "%s/elsewhere.key", test_dir);
	assert_int_equal(rename(in_ca("ca.key"), moved) | symlink(moved, in_ca("ca.key")), 0);
	assert_refused(MESH_E_NOT_PRIVATE, "symbolic link");
	assert_int_equal(unlink(in_ca("ca.key")) | rename(moved, in_ca("ca.key")), 0);
	snprintf(moved, sizeof(moved), "%s/elsewhere", test_dir);
	assert_int_equal(rename(ca_dir, moved) | symlink(moved, ca_dir), 0);
	assert_refused(MESH_E_NOT_PRIVATE, "symbolic link");
}

static void a_foreign_owner_is_refused(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	mesh__authority_free(make_authority(ca_dir, "mesh.local"));
	assert_int_equal(chown(in_ca("ca.key"), 12345, 12345), 0);
	assert_refused(MESH_E_NOT_PRIVATE, "belongs to user 12345");
	assert_int_equal(chown(in_ca("ca.key"), 0, 0) | chown(ca_dir, 12345, 12345), 0);
	assert_refused(MESH_E_NOT_PRIVATE, "belongs to user 12345");
}

static void what_is_broken_is_refused_and_stays(void **state)
{
	char other[96], key[4096], certificate[8192], mixed[160];
	int key_len, certificate_len;

	(void)state;
	snprintf(other, sizeof(other), "%s/other", test_dir);
	mesh__authority_free(make_authority(ca_dir, "mesh.local"));
	mesh__authority_free(make_authority(other, "mesh.local"));
	snprintf(mixed, sizeof(mixed), "%s/ca.key", other);
	key_len = read_file(mixed, key, sizeof(key));
	certificate_len = read_file(in_ca("ca.crt"), certificate, sizeof(certificate));
	assert_true(key_len > 0 && certificate_len > 0);
	write_file(in_ca("ca.key"), key, (size_t)key_len);
	assert_refused(MESH_E_CORRUPT, "not the key of ca.crt");
	write_file(in_ca("ca.key"), key, (size_t)key_len / 2);
	assert_refused(MESH_E_CORRUPT, "ca.key is not");
	unlink(in_ca("ca.key"));
	assert_refused(MESH_E_CORRUPT, "no ca.key");
	write_file(in_ca("ca.crt"), certificate, (size_t)certificate_len / 2);
	assert_refused(MESH_E_CORRUPT, "ca.crt is not");
	assert_int_equal(read_file(in_ca("ca.crt"), certificate, sizeof(certificate)), certificate_len / 2);
}

static void a_key_without_certificate_is_taken_over(void **state)
{
	char before[4096], after[4096];
	int len;

	(void)state;
	mesh__authority_free(make_authority(ca_dir, "mesh.local"));
	len = read_file(in_ca("ca.key"), before, sizeof(before));
	unlink(in_ca("ca.crt"));
	mesh__authority_free(make_authority(ca_dir, "mesh.local"));
	assert_int_equal(read_file(in_ca("ca.key"), after, sizeof(after)), len);
	assert_memory_equal(before, after, (size_t)len);
}

static void another_trust_domain_is_refused(void **state)
{
	struct mesh__authority *authority = make_authority(ca_dir, "prod.example");

	(void)state;
	assert_string_equal(mesh__authority_domain(authority), "prod.example");
	mesh__authority_free(authority);
	assert_refused(MESH_E_STATE, "MESH_TRUST_DOMAIN=prod.example");
	authority = NULL;
	assert_int_equal(mesh__authority_open(ca_dir, NULL, false, &authority, NULL), 0);
	mesh__authority_free(authority);
}

/* Signs for `service`, and reads it as a peer would. */
static enum mesh__refusal verify_issued(struct mesh__authority *authority, int64_t lifetime_s, struct mesh__certificate_facts *facts, size_t *chain_len)
{
	static const char *const dns[] = { "users", "*.users.example" };
	struct mesh__issued issued;
	struct mesh__bundle *bundle = NULL;
	struct mesh__spiffe_id id, seen;
	mbedtls_x509_crt leaf;
	mbedtls_pk_context key;
	struct mesh_error err = MESH_ERROR_INIT;
	enum mesh__refusal refusal;
	const char *reason;
	char why[256] = "";
	size_t len;
	const void *pem = mesh__authority_bundle_pem(authority, &len);

	assert_int_equal(mesh__spiffe_id_of_service(&id, "mesh.local", "default", "users", &reason), 0);
	if (mesh__authority_issue(authority, &id, dns, 2, lifetime_s, &issued, &err))
		fail_msg("%s", err.message);
	assert_int_equal(mesh__bundle_parse(&bundle, "mesh.local", MESH__BUNDLE_PEM, pem, len, false, why, sizeof(why)), 0);
	mbedtls_x509_crt_init(&leaf);
	mbedtls_pk_init(&key);
	assert_int_equal(mbedtls_x509_crt_parse_der(&leaf, issued.chain, issued.chain_len), 0);
	/* PKCS#8: version 0, then the algorithm. */
	assert_memory_equal(issued.key + 3, "\x02\x01\x00\x30", 4);
	assert_int_equal(mbedtls_pk_parse_key(&key, issued.key, issued.key_len, NULL, 0, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE), 0);
	assert_int_equal(mbedtls_pk_check_pair(&leaf.pk, &key, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE), 0);
	refusal = mesh__certificate_verify(&leaf, bundle, NULL, &seen, why, sizeof(why));
	if (refusal)
		print_message("%s\n", why);
	else
		assert_true(mesh__spiffe_id_equal(&id, &seen));
	mesh__certificate_facts(&leaf, facts);
	*chain_len = issued.chain_len;
	mesh__authority_free_issued(&issued);
	mbedtls_x509_crt_free(&leaf);
	mbedtls_pk_free(&key);
	mesh__bundle_unref(bundle);
	return refusal;
}

static void what_it_signs_is_accepted(void **state)
{
	struct mesh__authority *authority = make_authority(ca_dir, "mesh.local");
	struct mesh__certificate_facts facts, next;
	int64_t now = (int64_t)(mesh__clock_wall_ns() / MESH__NS_PER_SEC);
	size_t len;

	(void)state;
	assert_int_equal(verify_issued(authority, 3600, &facts, &len), MESH__REFUSAL_NONE);
	assert_in_range(facts.not_after_s, now + 3600, now + 3660);
	assert_in_range(facts.not_before_s, now - 60, now);
	assert_int_equal(strlen(facts.serial), 32);
	assert_int_equal(verify_issued(authority, 3600, &next, &len), MESH__REFUSAL_NONE);
	assert_string_not_equal(facts.serial, next.serial);
	mesh__authority_free(authority);
}

static void a_lifetime_ends_with_the_authority(void **state)
{
	struct mesh__authority *authority = make_authority(ca_dir, "mesh.local");
	struct mesh__certificate_facts facts, own;
	uint32_t count;
	size_t len;

	(void)state;
	mesh__authority_facts(authority, &own, &count);
	assert_int_equal(count, 1);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(verify_issued(authority, i ? INT64_MAX : INT64_C(12) * 365 * 86400, &facts, &len), MESH__REFUSAL_NONE);
		assert_int_equal(facts.not_after_s, own.not_after_s);
	}
	mesh__authority_free(authority);
}

static void it_signs_only_what_is_its_own(void **state)
{
	static const char *const foreign[] = { "spiffe://other.example/x", "spiffe://mesh.local" };
	struct mesh__authority *authority = make_authority(ca_dir, "mesh.local");
	const char *why, *bad = "127.0.0.1";
	struct mesh__issued issued;
	struct mesh__spiffe_id id;

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(mesh__spiffe_id_parse(&id, foreign[i], strlen(foreign[i]), &why), 0);
		assert_int_equal(mesh__authority_issue(authority, &id, NULL, 0, 60, &issued, NULL), MESH_E_INVALID);
	}
	assert_int_equal(mesh__spiffe_id_parse(&id, "spiffe://mesh.local/a", 21, &why), 0);
	assert_int_equal(mesh__authority_issue(authority, &id, &bad, 1, 60, &issued, NULL), MESH_E_INVALID);
	assert_int_equal(mesh__authority_issue(authority, &id, NULL, 0, 0, &issued, NULL), MESH_E_INVALID);
	assert_int_equal(mesh__authority_issue(authority, &id, NULL, 0, 60, &issued, NULL), 0);
	mesh__authority_free_issued(&issued);
	mesh__authority_free(authority);
}

static void dns_names_are_told_from_others(void **state)
{
	static const char *const good[] = { "users", "a-1.example", "*.example", "1.a", "xn--bcher-kva.example" };
	static const char *const bad[] = { "", ".", "a.", ".a", "-a", "a-", "a_b", "10.0.0.1", "a b", "*", "a.*", "a/b", "b\xc3\xbc" };

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		if (!mesh__authority_is_dns_name(good[i]))
			fail_msg("%s", good[i]);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (mesh__authority_is_dns_name(bad[i]))
			fail_msg("%s", bad[i]);
}

static void public_functions_make_issue_and_show(void **state)
{
	struct mesh_ca_issue_options opts = MESH_CA_ISSUE_OPTIONS_INIT;
	struct mesh_ca_info info = MESH_CA_INFO_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	struct stat found;
	char out[96], key[160];

	(void)state;
	snprintf(out, sizeof(out), "%s/out", test_dir);
	snprintf(key, sizeof(key), "%s/tls.key", out);
	opts.id = "/job/7";
	opts.out_dir = out;
	assert_int_equal(mesh_ca_issue(ca_dir, &opts, &err), MESH_E_NOT_FOUND);
	assert_int_equal(mesh_ca_init(ca_dir, "prod.example", &err), 0);
	assert_int_equal(mesh_ca_init(ca_dir, "prod.example", &err), MESH_E_STATE);
	assert_int_equal(mesh_ca_issue(ca_dir, &opts, &err), 0);
	assert_int_equal(stat(key, &found), 0);
	assert_int_equal(found.st_mode & 07777, 0600);
	assert_int_equal(mesh_ca_show(ca_dir, &info, &err), 0);
	assert_string_equal(info.domain, "prod.example");
	assert_string_equal(info.dir, ca_dir);
	info.size = 4;
	assert_int_equal(mesh_ca_show(ca_dir, &info, &err), MESH_E_VERSION);
	opts.id = "a//b";
	assert_int_equal(mesh_ca_issue(ca_dir, &opts, &err), MESH_E_INVALID);
}

static void issuing_into_an_authority_leaves_it_as_it_is(void **state)
{
	struct mesh_ca_issue_options opts = MESH_CA_ISSUE_OPTIONS_INIT;
	struct mesh_ca_info info = MESH_CA_INFO_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	char other[96];

	(void)state;
	snprintf(other, sizeof(other), "%s/other", test_dir);
	assert_int_equal(mesh_ca_init(ca_dir, "prod.example", &err), 0);
	assert_int_equal(mesh_ca_init(other, "staging.example", &err), 0);
	opts.id = "users";
	opts.out_dir = other;
	assert_int_equal(mesh_ca_issue(ca_dir, &opts, &err), MESH_E_STATE);
	assert_non_null(strstr(err.message, "name another directory"));
	assert_int_equal(mesh_ca_show(other, &info, &err), 0);
	assert_string_equal(info.domain, "staging.example");
}

static void out_of_memory_is_an_ordinary_error(void **state)
{
	struct mesh__authority *authority = NULL;
	struct mesh__issued issued;
	struct mesh__spiffe_id id;
	const char *why;
	int rc = -1, nth;

	(void)state;
	assert_int_equal(mesh__spiffe_id_parse(&id, "spiffe://mesh.local/a", 21, &why), 0);
	for (nth = 0; rc && nth < 100; nth++) {
		mesh__memory_fail_after(nth);
		rc = mesh__authority_open(ca_dir, "mesh.local", true, &authority, NULL);
		if (!rc) {
			rc = mesh__authority_issue(authority, &id, NULL, 0, 60, &issued, NULL);
			mesh__authority_free(authority);
		}
		mesh__memory_fail_after(-1);
		if (rc)
			assert_int_equal(rc, MESH_E_NOMEM);
	}
	assert_int_equal(rc, 0);
	assert_true(nth > 5);
	mesh__authority_free_issued(&issued);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, new_dir, remove_test_dir)
		TEST(one_is_made_by_twenty_at_the_same_moment),
		TEST(key_and_directory_are_private),
		TEST(symbolic_links_are_refused),
		TEST(a_foreign_owner_is_refused),
		TEST(what_is_broken_is_refused_and_stays),
		TEST(a_key_without_certificate_is_taken_over),
		TEST(another_trust_domain_is_refused),
		TEST(what_it_signs_is_accepted),
		TEST(a_lifetime_ends_with_the_authority),
		TEST(it_signs_only_what_is_its_own),
		TEST(dns_names_are_told_from_others),
		TEST(out_of_memory_is_an_ordinary_error),
		TEST(public_functions_make_issue_and_show),
		TEST(issuing_into_an_authority_leaves_it_as_it_is),
#undef TEST
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
