/*
 * The local certificate authority. ca.key is written first, ca.crt last: whoever sees ca.crt sees both. Looking takes no lock; making does,
 * and looks again under it. A crash between the two leaves a key without a certificate, which the next one to make an authority takes over.
 */
#include "identity/authority.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"
#include "identity/crypto.h"
#include "identity/private_files.h"
#include "identity/signer.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <mbedtls/entropy.h>
#include <mbedtls/platform_util.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DAY_S INT64_C(86400)
#define AUTHORITY_LIFETIME_S (3650 * DAY_S)
#define BACKDATE_S 60
#define AUTHORITY_NAME "CN=libmesh local authority"

enum { WHY_MAX = 320, SUBJECT_MAX = 64, DNS_NAME_MAX = 253, DNS_LABEL_MAX = 63, HOME_TEXT_MAX = 4096 };

struct mesh__authority {
	char dir[MESH__PRIVATE_PATH_MAX];
	char domain[MESH__TRUST_DOMAIN_MAX + 1];
	char *pem; /* of ca.crt, as it is in the file */
	size_t pem_len;
	bool was_made;
	mbedtls_x509_crt crt; /* ours is the first */
	mbedtls_entropy_context entropy;
	struct { /* mbedTLS changes key and generator when it signs */
		pthread_mutex_t lock;
		mbedtls_pk_context key;
		mbedtls_ctr_drbg_context rng;
	} shared;
};

static int64_t now_s(void)
{
	return (int64_t)(mesh__clock_wall_ns() / MESH__NS_PER_SEC);
}

/* --- reading --- */

static int parse_certificate(struct mesh__authority *authority, struct mesh__certificate_facts *facts, struct mesh_error *err)
{
	char why[WHY_MAX] = "";
	uint32_t count = 0;
	int rc = mesh__certificate_parse_all(&authority->crt, false, authority->pem, authority->pem_len, MESH__BUNDLE_CERTIFICATES_MAX, &count, why,
					     sizeof(why));

	if (rc == MESH_E_NOMEM)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while reading %s/ca.crt", authority->dir);
	if (rc || !count)
		return mesh__fault(err, MESH_E_CORRUPT, MESH_STAGE_NONE,
				   "%s/ca.crt is not a certificate in PEM: put the right one back, or move ca.crt and ca.key away for a new authority", authority->dir);
	if (mesh__certificate_check_ca(&authority->crt, NULL, why, sizeof(why)))
		return mesh__fault(err, MESH_E_CORRUPT, MESH_STAGE_NONE, "%s/ca.crt cannot be an authority: %s", authority->dir, why);
	mesh__certificate_facts(&authority->crt, facts);
	if (!facts->id.len)
		return mesh__fault(err, MESH_E_CORRUPT, MESH_STAGE_NONE,
				   "%s/ca.crt names no trust domain (a URI spiffe://DOMAIN): `mesh ca init` makes one that does", authority->dir);
	snprintf(authority->domain, sizeof(authority->domain), "%.*s", (int)facts->id.domain_len, mesh__spiffe_id_domain(&facts->id));
	return 0;
}

static int check_validity(const struct mesh__authority *authority, const struct mesh__certificate_facts *facts, struct mesh_error *err)
{
	time_t at = (time_t)facts->not_after_s;
	char date[32] = "?";
	struct tm parts;

	if (facts->not_before_s > now_s())
		return mesh__fault(err, MESH_E_IDENTITY, MESH_STAGE_NONE, "%s/ca.crt is not valid yet: see whether this machine's clock is right", authority->dir);
	if (facts->not_after_s > now_s())
		return 0;
	if (gmtime_r(&at, &parts))
		strftime(date, sizeof(date), "%Y-%m-%d", &parts);
	return mesh__fault(err, MESH_E_IDENTITY, MESH_STAGE_NONE,
			   "%s/ca.crt expired on %s: move ca.crt and ca.key away for a new authority, and restart what trusts the old one", authority->dir, date);
}

static int parse_key(struct mesh__authority *authority, const char *text, size_t len, struct mesh_error *err)
{
	mbedtls_pk_context *key = &authority->shared.key;
	int rc = mbedtls_pk_parse_key(key, (const unsigned char *)text, len + 1, NULL, 0, mbedtls_ctr_drbg_random, &authority->shared.rng);

	if (mesh__certificate_is_out_of_memory(rc))
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while reading %s/ca.key", authority->dir);
	if (rc)
		return mesh__fault(err, MESH_E_CORRUPT, MESH_STAGE_NONE,
				   "%s/ca.key is not an unencrypted private key in PEM: put the right one back, or move ca.crt and ca.key away for a new authority",
				   authority->dir);
	if (mbedtls_pk_get_type(key) != MBEDTLS_PK_ECKEY || mbedtls_pk_get_bitlen(key) != 256)
		return mesh__fault(err, MESH_E_CORRUPT, MESH_STAGE_NONE, "%s/ca.key is not a P-256 key, as those of `mesh ca init` are", authority->dir);
	return 0;
}

static int read_key(struct mesh__authority *authority, int dir_fd, struct mesh_error *err)
{
	char *text = NULL;
	size_t len = 0;
	int rc = mesh__private_files_read(dir_fd, authority->dir, "ca.key", true, &text, &len, err);

	if (!rc)
		rc = parse_key(authority, text, len, err);
	mesh__private_files_free(text, len);
	return rc;
}

static int check_pair(struct mesh__authority *authority, struct mesh_error *err)
{
	int rc = mbedtls_pk_check_pair(&authority->crt.pk, &authority->shared.key, mbedtls_ctr_drbg_random, &authority->shared.rng);

	if (mesh__certificate_is_out_of_memory(rc)) /* nobody shall replace an authority because of that */
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while checking %s/ca.key", authority->dir);
	return rc ? mesh__fault(err, MESH_E_CORRUPT, MESH_STAGE_NONE,
				"%s/ca.key is not the key of ca.crt: put the right one back, or move both away for a new authority", authority->dir) : 0;
}

/* MESH_E_NOT_FOUND: there is no authority here. */
static int load(struct mesh__authority *authority, int dir_fd, struct mesh_error *err)
{
	struct mesh__certificate_facts facts;
	int rc = mesh__private_files_read(dir_fd, authority->dir, "ca.crt", false, &authority->pem, &authority->pem_len, err);

	if (rc)
		return rc;
	rc = parse_certificate(authority, &facts, err);
	if (!rc)
		rc = read_key(authority, dir_fd, err);
	if (rc == MESH_E_NOT_FOUND)
		return mesh__fault(err, MESH_E_CORRUPT, MESH_STAGE_NONE,
				   "%s has ca.crt but no ca.key: put the key back, or move ca.crt away for a new authority", authority->dir);
	if (!rc)
		rc = check_pair(authority, err);
	return rc ? rc : check_validity(authority, &facts, err);
}

/* --- making --- */

static int write_key(struct mesh__authority *authority, int dir_fd, struct mesh_error *err)
{
	unsigned char der[MESH__SIGNER_KEY_BYTES_MAX];
	char *pem = NULL;
	size_t len = 0;
	int rc = mesh__signer_write_key(&authority->shared.key, der, sizeof(der), err);

	if (rc > 0)
		rc = mesh__signer_pem("PRIVATE KEY", der + sizeof(der) - rc, (size_t)rc, &pem, &len, err);
	if (!rc)
		rc = mesh__private_files_write(dir_fd, authority->dir, "ca.key", 0600, pem, len, err);
	mbedtls_platform_zeroize(der, sizeof(der));
	mesh__private_files_free(pem, len);
	return rc;
}

/* DER of a certificate, allocated. */
static int sign(struct mesh__authority *authority, const struct mesh__signer_request *request, uint8_t **out, size_t *len, struct mesh_error *err)
{
	unsigned char *der = mesh__memory_alloc(MESH__SIGNER_CERTIFICATE_BYTES_MAX);
	int rc = der ? mesh__signer_write_certificate(request, &authority->shared.rng, der, MESH__SIGNER_CERTIFICATE_BYTES_MAX, err) :
		       mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while writing a certificate");

	if (rc > 0) {
		*out = mesh__memory_alloc((size_t)rc);
		if (*out)
			memcpy(*out, der + MESH__SIGNER_CERTIFICATE_BYTES_MAX - rc, (size_t)rc);
		*len = (size_t)rc;
		rc = *out ? 0 : mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while writing a certificate");
	}
	mesh__memory_free(der);
	return rc;
}

static int write_certificate(struct mesh__authority *authority, int dir_fd, const char *domain, struct mesh_error *err)
{
	struct mesh__signer_request request = {
		.is_ca = true, .subject = AUTHORITY_NAME, .issuer = AUTHORITY_NAME, .subject_key = &authority->shared.key, .issuer_key = &authority->shared.key,
		.not_before_s = now_s() - BACKDATE_S, .not_after_s = now_s() + AUTHORITY_LIFETIME_S,
	};
	char uri[MESH__TRUST_DOMAIN_MAX + 16], *pem = NULL;
	uint8_t *der = NULL;
	size_t der_len = 0, len = 0;
	int rc;

	snprintf(uri, sizeof(uri), "spiffe://%s", domain);
	request.uri = uri;
	rc = sign(authority, &request, &der, &der_len, err);
	if (!rc)
		rc = mesh__signer_pem("CERTIFICATE", der, der_len, &pem, &len, err);
	if (!rc)
		rc = mesh__private_files_write(dir_fd, authority->dir, "ca.crt", 0644, pem, len, err);
	mesh__memory_free(der);
	mesh__memory_free(pem);
	return rc;
}

/* Under the lock. A key that is there already was left by one who did not come to the certificate. */
static int make(struct mesh__authority *authority, int dir_fd, const char *domain, struct mesh_error *err)
{
	int rc = read_key(authority, dir_fd, err);

	if (rc == MESH_E_NOT_FOUND) {
		rc = mesh__signer_make_key(&authority->shared.key, &authority->shared.rng, err);
		if (!rc)
			rc = write_key(authority, dir_fd, err);
	}
	if (!rc)
		rc = write_certificate(authority, dir_fd, domain, err);
	mbedtls_pk_free(&authority->shared.key);
	mbedtls_pk_init(&authority->shared.key);
	authority->was_made = !rc;
	return rc ? rc : load(authority, dir_fd, err);
}

static int load_or_make(struct mesh__authority *authority, int dir_fd, const char *domain, struct mesh_error *err)
{
	int rc = load(authority, dir_fd, err), lock;

	if (rc != MESH_E_NOT_FOUND)
		return rc;
	lock = mesh__private_files_lock(dir_fd, authority->dir, err);
	if (lock < 0)
		return lock;
	rc = load(authority, dir_fd, err);
	if (rc == MESH_E_NOT_FOUND)
		rc = make(authority, dir_fd, domain, err);
	mesh__descriptors_close(lock);
	return rc;
}

/* --- opening --- */

static int check_domain(const char *domain, struct mesh_error *err)
{
	const char *why = "";

	if (mesh__trust_domain_check(domain, strlen(domain), &why))
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "the trust domain \"%.64s\" is not one: %s", domain, why);
	return 0;
}

static int open_dir(struct mesh__authority *authority, const char *domain, bool create, struct mesh_error *err)
{
	struct mesh_error why = MESH_ERROR_INIT; /* err stays as it was when a file is missing and then made */
	int dir_fd = mesh__private_files_open_dir(authority->dir, create, false, &why), rc;

	if (dir_fd >= 0)
		rc = create ? load_or_make(authority, dir_fd, domain, &why) : load(authority, dir_fd, &why);
	else
		rc = dir_fd;
	mesh__descriptors_close(dir_fd);
	if (rc && rc != MESH_E_NOT_FOUND)
		mesh__fault_copy(err, &why);
	if (rc == MESH_E_NOT_FOUND)
		return mesh__fault(err, MESH_E_NOT_FOUND, MESH_STAGE_NONE, "there is no authority in %s: `mesh ca init` makes one", authority->dir);
	if (!rc && domain && strcmp(domain, authority->domain) != 0)
		return mesh__fault(err, MESH_E_STATE, MESH_STAGE_NONE,
				   "the authority in %s is that of trust domain %s, not of %s: set MESH_TRUST_DOMAIN=%s, or use another directory (MESH_STATE_DIR)",
				   authority->dir, authority->domain, domain, authority->domain);
	return rc;
}

static struct mesh__authority *new_authority(const char *dir)
{
	struct mesh__authority *authority = mesh__memory_zalloc(sizeof(*authority));

	if (!authority)
		return NULL;
	if (pthread_mutex_init(&authority->shared.lock, NULL)) {
		mesh__memory_free(authority);
		return NULL;
	}
	snprintf(authority->dir, sizeof(authority->dir), "%s", dir);
	mbedtls_x509_crt_init(&authority->crt);
	mbedtls_pk_init(&authority->shared.key);
	mbedtls_entropy_init(&authority->entropy);
	mbedtls_ctr_drbg_init(&authority->shared.rng);
	return authority;
}

int mesh__authority_open(const char *dir, const char *domain, bool create, struct mesh__authority **out, struct mesh_error *err)
{
	struct mesh__authority *authority;
	int rc = domain ? check_domain(domain, err) : 0;

	if (rc)
		return rc;
	if (create && !domain)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "an authority is made for a trust domain: name it");
	if (strlen(dir) >= MESH__PRIVATE_PATH_MAX)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the path of the authority's directory has more than %d bytes", MESH__PRIVATE_PATH_MAX - 1);
	rc = mesh__crypto_start(err);
	if (rc)
		return rc;
	authority = new_authority(dir);
	if (!authority)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while opening %s", dir);
	rc = mbedtls_ctr_drbg_seed(&authority->shared.rng, mbedtls_entropy_func, &authority->entropy, NULL, 0);
	rc = rc ? mesh__signer_fault(err, rc, "no random numbers") : open_dir(authority, domain, create, err);
	if (rc) {
		mesh__authority_free(authority);
		return rc;
	}
	*out = authority;
	return 0;
}

void mesh__authority_free(struct mesh__authority *authority)
{
	if (!authority)
		return;
	mbedtls_x509_crt_free(&authority->crt);
	mbedtls_pk_free(&authority->shared.key);
	mbedtls_ctr_drbg_free(&authority->shared.rng);
	mbedtls_entropy_free(&authority->entropy);
	pthread_mutex_destroy(&authority->shared.lock);
	mesh__memory_free(authority->pem);
	mesh__memory_free(authority);
}

bool mesh__authority_was_made(const struct mesh__authority *authority)
{
	return authority->was_made;
}

const char *mesh__authority_domain(const struct mesh__authority *authority)
{
	return authority->domain;
}

const void *mesh__authority_bundle_pem(const struct mesh__authority *authority, size_t *len)
{
	*len = authority->pem_len;
	return authority->pem;
}

void mesh__authority_facts(const struct mesh__authority *authority, struct mesh__certificate_facts *facts, uint32_t *certificate_count)
{
	mesh__certificate_facts(&authority->crt, facts);
	*certificate_count = 0;
	for (const mbedtls_x509_crt *crt = &authority->crt; crt; crt = crt->next)
		++*certificate_count;
}

/* --- where --- */

/* As the C library does it for ~: the environment may not say, as in a service without a session. */
static int home_of_user(char *path, size_t capacity)
{
	char storage[HOME_TEXT_MAX];
	struct passwd entry, *found = NULL;

	if (getpwuid_r(geteuid(), &entry, storage, sizeof(storage), &found) || !found || found->pw_dir[0] != '/')
		return -1;
	return snprintf(path, capacity, "%s", found->pw_dir) < (int)capacity ? 0 : -1;
}

int mesh__authority_default_dir(const struct mesh__config *cfg, char *path, size_t capacity, struct mesh_error *err)
{
	const char *state = mesh__config_text(cfg, MESH__OPTION_STATE_DIR, NULL), *xdg = mesh__config_environment(cfg, "XDG_STATE_HOME");
	const char *home = mesh__config_environment(cfg, "HOME");
	char entry[MESH__PRIVATE_PATH_MAX];
	int len;

	if (*state) {
		len = snprintf(path, capacity, "%s/ca", state);
	} else if (xdg && *xdg == '/') { /* the specification says that a relative path is to be ignored */
		len = snprintf(path, capacity, "%s/mesh/ca", xdg);
	} else {
		if ((!home || *home != '/') && home_of_user(entry, sizeof(entry)))
			return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE,
					   "there is no place for the local authority, as user %u has no home: set MESH_STATE_DIR to a private directory that stays",
					   (unsigned)geteuid());
		len = snprintf(path, capacity, "%s/.local/state/mesh/ca", home && *home == '/' ? home : entry);
	}
	if (len < 0 || (size_t)len >= capacity || len >= MESH__PRIVATE_PATH_MAX)
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "the path of the state directory is too long: set MESH_STATE_DIR to a shorter one");
	return 0;
}

/* --- issuing --- */

bool mesh__authority_is_dns_name(const char *name)
{
	size_t len = strlen(name);
	bool has_letter = false;

	if (len == 0 || len > DNS_NAME_MAX)
		return false;
	if (strncmp(name, "*.", 2) == 0)
		name += 2;
	for (;;) {
		size_t label = strcspn(name, ".");

		if (label == 0 || label > DNS_LABEL_MAX || name[0] == '-' || name[label - 1] == '-')
			return false;
		has_letter = false;
		for (size_t i = 0; i < label; i++) {
			unsigned char c = (unsigned char)name[i];

			if (c > 0x7f || (!isalnum(c) && c != '-'))
				return false;
			has_letter |= isalpha(c) != 0;
		}
		if (!name[label])
			return has_letter; /* of the last label: else it is an address */
		name += label + 1;
	}
}

static int check_request(const struct mesh__authority *authority, const struct mesh__spiffe_id *id, const char *const *dns, uint32_t dns_count,
			 int64_t lifetime_s, struct mesh_error *err)
{
	if (!mesh__spiffe_id_is_member(id, authority->domain))
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "%.256s is not in the trust domain of this authority, %s", id->text, authority->domain);
	if (!*mesh__spiffe_id_path(id))
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "%s is the trust domain's own ID: a workload's has a path", id->text);
	if (lifetime_s <= 0)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "a certificate's lifetime must be at least 1 s");
	if (dns_count > MESH__SIGNER_DNS_MAX)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "a certificate has at most %d DNS names here", MESH__SIGNER_DNS_MAX);
	for (uint32_t i = 0; i < dns_count; i++)
		if (!mesh__authority_is_dns_name(dns[i]))
			return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "\"%.253s\" is not a DNS name", dns[i]);
	return 0;
}

/* A name for people: the last part of the ID, which is what a distinguished name can hold without escapes. */
static void name_subject(const struct mesh__spiffe_id *id, char *subject, size_t capacity)
{
	snprintf(subject, capacity, "CN=%.*s", SUBJECT_MAX, strrchr(mesh__spiffe_id_path(id), '/') + 1);
}

static int fill_period(const struct mesh__authority *authority, int64_t lifetime_s, struct mesh__signer_request *request, struct mesh_error *err)
{
	struct mesh__certificate_facts facts;
	int64_t now = now_s();
	int rc;

	mesh__certificate_facts(&authority->crt, &facts);
	rc = check_validity(authority, &facts, err);
	request->not_before_s = now - BACKDATE_S;
	request->not_after_s = lifetime_s < facts.not_after_s - now ? now + lifetime_s : facts.not_after_s;
	return rc;
}

static int export_key(const mbedtls_pk_context *key, struct mesh__issued *out, struct mesh_error *err)
{
	unsigned char der[MESH__SIGNER_KEY_BYTES_MAX];
	int rc = mesh__signer_write_key(key, der, sizeof(der), err);

	if (rc > 0) {
		out->key = mesh__memory_alloc((size_t)rc);
		if (out->key)
			memcpy(out->key, der + sizeof(der) - rc, (size_t)rc);
		out->key_len = (size_t)rc;
		rc = out->key ? 0 : mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while writing a key");
	}
	mbedtls_platform_zeroize(der, sizeof(der));
	return rc;
}

int mesh__authority_issue(struct mesh__authority *authority, const struct mesh__spiffe_id *id, const char *const *dns, uint32_t dns_count,
			  int64_t lifetime_s, struct mesh__issued *out, struct mesh_error *err)
{
	struct mesh__signer_request request = { .issuer = AUTHORITY_NAME, .uri = id->text, .dns = dns, .dns_count = dns_count };
	char subject[SUBJECT_MAX + 8], issuer[MESH__ISSUER_TEXT_MAX];
	mbedtls_pk_context key;
	int rc = check_request(authority, id, dns, dns_count, lifetime_s, err);

	memset(out, 0, sizeof(*out));
	if (!rc)
		rc = fill_period(authority, lifetime_s, &request, err);
	if (rc)
		return rc;
	name_subject(id, subject, sizeof(subject));
	/* An authority that others made may have another name. */
	if (mbedtls_x509_dn_gets(issuer, sizeof(issuer), &authority->crt.subject) > 0)
		request.issuer = issuer;
	request.subject = subject;
	request.subject_key = &key;
	request.issuer_key = &authority->shared.key;
	mbedtls_pk_init(&key);
	pthread_mutex_lock(&authority->shared.lock);
	rc = mesh__signer_make_key(&key, &authority->shared.rng, err);
	if (!rc)
		rc = sign(authority, &request, &out->chain, &out->chain_len, err);
	pthread_mutex_unlock(&authority->shared.lock);
	if (!rc)
		rc = export_key(&key, out, err);
	mbedtls_pk_free(&key);
	if (rc)
		mesh__authority_free_issued(out);
	return rc;
}

void mesh__authority_free_issued(struct mesh__issued *issued)
{
	if (issued->key)
		mbedtls_platform_zeroize(issued->key, issued->key_len);
	mesh__memory_free(issued->key);
	mesh__memory_free(issued->chain);
	memset(issued, 0, sizeof(*issued));
}

static int write_pem(int dir_fd, const char *dir, const char *name, unsigned mode, const char *label, const void *der, size_t der_len, struct mesh_error *err)
{
	char *pem = NULL;
	size_t len = 0;
	int rc = mesh__signer_pem(label, der, der_len, &pem, &len, err);

	if (!rc)
		rc = mesh__private_files_write(dir_fd, dir, name, mode, pem, len, err);
	mesh__private_files_free(pem, len);
	return rc;
}

/* Its ca.crt would become ours, and its key that of nobody. */
static int spare_authority(int dir_fd, const char *dir, struct mesh_error *err)
{
	if (faccessat(dir_fd, "ca.key", F_OK, AT_SYMLINK_NOFOLLOW))
		return 0;
	return mesh__fault(err, MESH_E_STATE, MESH_STAGE_NONE, "%s holds an authority (ca.key), which stays as it is: name another directory for the certificate",
			   dir);
}

int mesh__authority_issue_files(struct mesh__authority *authority, const struct mesh__spiffe_id *id, const char *const *dns, uint32_t dns_count,
				int64_t lifetime_s, const char *out_dir, struct mesh_error *err)
{
	struct mesh__issued issued;
	int rc = mesh__authority_issue(authority, id, dns, dns_count, lifetime_s, &issued, err), dir_fd;

	if (rc)
		return rc;
	dir_fd = mesh__private_files_open_dir(out_dir, true, true, err);
	rc = dir_fd < 0 ? dir_fd : spare_authority(dir_fd, out_dir, err);
	if (!rc)
		rc = mesh__private_files_write(dir_fd, out_dir, "ca.crt", 0644, authority->pem, authority->pem_len, err);
	if (!rc)
		rc = write_pem(dir_fd, out_dir, "tls.key", 0600, "PRIVATE KEY", issued.key, issued.key_len, err);
	if (!rc)
		rc = write_pem(dir_fd, out_dir, "tls.crt", 0644, "CERTIFICATE", issued.chain, issued.chain_len, err);
	mesh__descriptors_close(dir_fd);
	mesh__authority_free_issued(&issued);
	return rc;
}
