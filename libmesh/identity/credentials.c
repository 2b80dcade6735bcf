#include "identity/credentials.h"

#include "base/clock.h"
#include "base/fork_gate.h"
#include "base/memory.h"
#include "mesh/error.h"

#include <mbedtls/platform_util.h>
#include <mbedtls/psa_util.h>
#include <stdio.h>
#include <string.h>

#define say mesh__certificate_say

enum { CHAIN_CERTIFICATES_MAX = 16, REASON_MAX = 768 };

int mesh__credentials_new(struct mesh__credentials **out)
{
	*out = mesh__memory_zalloc(sizeof(**out));
	if (!*out)
		return MESH_E_NOMEM;
	atomic_init(&(*out)->refs, 1);
	return 0;
}

struct mesh__credentials *mesh__credentials_ref(struct mesh__credentials *credentials)
{
	atomic_fetch_add_explicit(&credentials->refs, 1, memory_order_relaxed);
	return credentials;
}

static void free_svid(struct mesh__svid *svid)
{
	if (!svid)
		return;
	mbedtls_x509_crt_free(&svid->chain);
	mbedtls_pk_free(&svid->key);
	mesh__memory_free(svid);
}

void mesh__credentials_unref(struct mesh__credentials *credentials)
{
	if (!credentials || atomic_fetch_sub_explicit(&credentials->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (uint32_t i = 0; i < credentials->svid_count; i++)
		free_svid(credentials->svids[i]);
	for (uint32_t i = 0; i < credentials->bundle_count; i++)
		mesh__bundle_unref(credentials->bundles[i]);
	mesh__revocations_fini(&credentials->revocations);
	mesh__memory_free(credentials);
}

/* --- one SVID --- */

struct pieces {
	const void *chain, *key;
	size_t chain_len, key_len;
	bool der;
	char *why;
	size_t capacity;
};

static int refuse(const struct pieces *in, int code, const char *sentence)
{
	say(in->why, in->capacity, "%s", sentence);
	return code;
}

static int read_chain(struct mesh__svid *svid, const struct pieces *in)
{
	char reason[REASON_MAX] = "";
	uint32_t count;
	int rc = mesh__certificate_parse_all(&svid->chain, in->der, in->chain, in->chain_len, CHAIN_CERTIFICATES_MAX, &count, reason, sizeof(reason));

	if (!rc && count)
		return 0;
	say(in->why, in->capacity, "the certificate chain cannot be used: %s", rc ? reason : "it is empty");
	return rc ? rc : MESH_E_CORRUPT;
}

static int complain_about_key(const struct pieces *in, int rc)
{
	if (mesh__certificate_is_out_of_memory(rc))
		return refuse(in, MESH_E_NOMEM, "the private key could not be read: out of memory");
	if (rc == MBEDTLS_ERR_PK_PASSWORD_REQUIRED || rc == MBEDTLS_ERR_PK_PASSWORD_MISMATCH)
		return refuse(in, MESH_E_CORRUPT, "the private key is encrypted; libmesh needs it without a password, in a file that only its user can read");
	if (!in->key_len)
		return refuse(in, MESH_E_CORRUPT, "the private key is empty");
	say(in->why, in->capacity, "the private key cannot be read: it is cut off, or it is not %s", in->der ? "PKCS#8 DER" : "PEM");
	return MESH_E_CORRUPT;
}

/* mbedTLS takes what ends with a NUL for PEM, all else for DER. */
static int read_key(struct mesh__svid *svid, const struct pieces *in)
{
	size_t len = in->key_len;
	unsigned char *copy;
	int rc;

	if (in->der || !len) {
		rc = mbedtls_pk_parse_key(&svid->key, in->key, len, NULL, 0, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE);
		return rc ? complain_about_key(in, rc) : 0;
	}
	copy = mesh__memory_alloc(len + 1);
	if (!copy)
		return complain_about_key(in, MBEDTLS_ERR_PK_ALLOC_FAILED);
	memcpy(copy, in->key, len);
	copy[len] = '\0';
	rc = mbedtls_pk_parse_key(&svid->key, copy, len + 1, NULL, 0, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE);
	mbedtls_platform_zeroize(copy, len + 1);
	mesh__memory_free(copy);
	return rc ? complain_about_key(in, rc) : 0;
}

static int check_pair(struct mesh__svid *svid, const struct pieces *in)
{
	int rc = mbedtls_pk_check_pair(&svid->chain.pk, &svid->key, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE);

	if (!rc)
		return 0;
	if (mesh__certificate_is_out_of_memory(rc))
		return refuse(in, MESH_E_NOMEM, "the private key could not be checked: out of memory");
	say(in->why, in->capacity, "the private key is not the one of the certificate of %.256s: the two were mixed up, or only one of them was renewed",
	    svid->facts.id.text);
	return MESH_E_CORRUPT;
}

/* Without a bundle, too: nobody would take it from us. */
static int check_time(const struct mesh__svid *svid, const struct pieces *in)
{
	int64_t now_s = (int64_t)(mesh__clock_wall_ns() / MESH__NS_PER_SEC);
	const char *id = svid->facts.id.text;

	if (now_s > svid->facts.not_after_s) {
		say(in->why, in->capacity, "the certificate of %.256s expired %lld s ago", id, (long long)(now_s - svid->facts.not_after_s));
		return MESH_E_IDENTITY;
	}
	if (now_s < svid->facts.not_before_s) {
		say(in->why, in->capacity, "the certificate of %.256s is valid only in %lld s; is this machine's clock right?", id,
		    (long long)(svid->facts.not_before_s - now_s));
		return MESH_E_IDENTITY;
	}
	return 0;
}

static int check_chain(const struct mesh__credentials *credentials, struct mesh__svid *svid, const struct pieces *in)
{
	struct mesh__spiffe_id id = svid->facts.id;
	struct mesh__bundle *bundle = mesh__credentials_bundle(credentials, mesh__spiffe_id_domain(&id), id.domain_len);
	enum mesh__refusal refusal = MESH__REFUSAL_NONE;

	if (bundle)
		refusal = mesh__certificate_verify(&svid->chain, bundle, &credentials->revocations, &id, in->why, in->capacity);
	if (!refusal)
		return 0;
	return refusal == MESH__REFUSAL_EXPIRED || refusal == MESH__REFUSAL_NOT_YET_VALID || refusal == MESH__REFUSAL_STALE_CRL ? MESH_E_IDENTITY : MESH_E_CORRUPT;
}

static int fill(const struct mesh__credentials *credentials, struct mesh__svid *svid, const struct pieces *in)
{
	struct mesh__spiffe_id id;
	int rc = read_chain(svid, in);

	if (rc)
		return rc;
	if (mesh__certificate_check_leaf(&svid->chain, &id, in->why, in->capacity))
		return MESH_E_CORRUPT;
	mesh__certificate_facts(&svid->chain, &svid->facts);
	rc = read_key(svid, in);
	if (!rc)
		rc = check_pair(svid, in);
	if (!rc)
		rc = check_time(svid, in);
	return rc ? rc : check_chain(credentials, svid, in);
}

int mesh__credentials_add_svid(struct mesh__credentials *credentials, bool der, const void *chain, size_t chain_len, const void *key,
			       size_t key_len, const char *hint, char *why, size_t capacity)
{
	const struct pieces in = { chain, key, chain_len, key_len, der, why, capacity };
	struct mesh__svid *svid;
	int rc;

	if (credentials->svid_count == MESH__SVIDS_MAX) {
		say(why, capacity, "there are more than %d identities", MESH__SVIDS_MAX);
		return MESH_E_CORRUPT;
	}
	svid = mesh__memory_zalloc(sizeof(*svid));
	if (!svid)
		return refuse(&in, MESH_E_NOMEM, "out of memory");
	mbedtls_x509_crt_init(&svid->chain);
	mbedtls_pk_init(&svid->key);
	snprintf(svid->hint, sizeof(svid->hint), "%s", hint ? hint : "");
	mesh__fork_gate_enter();
	rc = fill(credentials, svid, &in);
	mesh__fork_gate_leave();
	if (rc)
		free_svid(svid);
	else
		credentials->svids[credentials->svid_count++] = svid;
	return rc;
}

int mesh__credentials_add_bundle(struct mesh__credentials *credentials, struct mesh__bundle *bundle)
{
	if (mesh__credentials_bundle(credentials, bundle->domain, strlen(bundle->domain)))
		return MESH_E_CORRUPT;
	if (credentials->bundle_count == MESH__BUNDLES_MAX)
		return MESH_E_NOMEM;
	credentials->bundles[credentials->bundle_count++] = bundle;
	return 0;
}

int mesh__credentials_add_crl(struct mesh__credentials *credentials, bool der, const void *data, size_t len, char *why, size_t capacity)
{
	return mesh__revocations_add(&credentials->revocations, credentials->bundles, credentials->bundle_count, der, data, len, why, capacity);
}

/* --- choosing --- */

bool mesh__credentials_prefer(struct mesh__credentials *credentials, const char *hint)
{
	struct mesh__svid *preferred;
	uint32_t at = 0;

	if (!*hint)
		return true;
	while (at < credentials->svid_count && strcmp(credentials->svids[at]->hint, hint) != 0)
		at++;
	if (at == credentials->svid_count)
		return false;
	preferred = credentials->svids[at];
	memmove(&credentials->svids[1], &credentials->svids[0], at * sizeof(credentials->svids[0]));
	credentials->svids[0] = preferred;
	return true;
}

const struct mesh__svid *mesh__credentials_svid(const struct mesh__credentials *credentials, const char *id, const char *hint)
{
	for (uint32_t i = 0; id && i < credentials->svid_count; i++)
		if (!strcmp(credentials->svids[i]->facts.id.text, id))
			return credentials->svids[i];
	for (uint32_t i = 0; hint && *hint && i < credentials->svid_count; i++)
		if (!strcmp(credentials->svids[i]->hint, hint))
			return credentials->svids[i];
	return credentials->svid_count ? credentials->svids[0] : NULL;
}

struct mesh__bundle *mesh__credentials_bundle(const struct mesh__credentials *credentials, const char *domain, size_t len)
{
	for (uint32_t i = 0; i < credentials->bundle_count; i++)
		if (strlen(credentials->bundles[i]->domain) == len && !memcmp(credentials->bundles[i]->domain, domain, len))
			return credentials->bundles[i];
	return NULL;
}
