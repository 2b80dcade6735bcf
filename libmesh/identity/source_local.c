/*
 * local: identities signed in this process by the authority in the user's state directory. One certificate for the mesh itself, and one for each name
 * that a server shows; every renewal makes all of them anew, with new keys, as one generation.
 */
#include "identity/source.h"

#include "base/fault.h"
#include "base/memory.h"
#include "identity/authority.h"
#include "identity/private_files.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { WHY_MAX = 320 };

struct local {
	char dir[MESH__PRIVATE_PATH_MAX];
	struct { /* servers start in any thread, renewal runs on the control loop; held while a generation is made, so that none overtakes another */
		pthread_mutex_t lock;
		struct mesh__authority *authority;
		char *services[MESH__SVIDS_MAX]; /* the mesh's own name first */
		uint32_t count;
	} shared;
};

static int64_t lifetime_s(const struct mesh__identity_source *source)
{
	return (int64_t)(mesh__config_ns(source->opts->config, MESH__OPTION_IDENTITY_LIFETIME, NULL) / UINT64_C(1000000000));
}

static int issue(struct mesh__identity_source *source, const char *service, struct mesh__issued *issued, struct mesh_error *err)
{
	struct local *local = source->data;
	const char *why = "", *dns[2], *name_space = mesh__config_text(source->opts->config, MESH__OPTION_NAMESPACE, service);
	struct mesh__spiffe_id id;
	uint32_t dns_count = 0;

	if (mesh__spiffe_id_of_service(&id, mesh__authority_domain(local->shared.authority), name_space, service, &why))
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "no identity can be made of service \"%.128s\" and namespace \"%.128s\": %s", service,
				   name_space, why);
	if (mesh__authority_is_dns_name(service) && strcmp(service, "localhost") != 0)
		dns[dns_count++] = service;
	dns[dns_count++] = "localhost";
	return mesh__authority_issue(local->shared.authority, &id, dns, dns_count, lifetime_s(source), issued, err);
}

static int add_bundle(struct local *local, struct mesh__credentials *credentials, struct mesh_error *err)
{
	struct mesh__bundle *bundle = NULL;
	char why[WHY_MAX] = "";
	size_t len;
	const void *pem = mesh__authority_bundle_pem(local->shared.authority, &len);
	int rc = mesh__bundle_parse(&bundle, mesh__authority_domain(local->shared.authority), MESH__BUNDLE_PEM, pem, len, false, why, sizeof(why));

	if (rc)
		return mesh__fault(err, rc, MESH_STAGE_NONE, "%s/ca.crt: %s", local->dir, why);
	rc = mesh__credentials_add_bundle(credentials, bundle);
	return rc ? mesh__fault(err, rc, MESH_STAGE_NONE, "%s/ca.crt cannot be used as a bundle", local->dir) : 0;
}

static int add_svid(struct mesh__identity_source *source, struct mesh__credentials *credentials, const char *service, struct mesh_error *err)
{
	struct mesh__issued issued;
	char why[WHY_MAX] = "";
	int rc = issue(source, service, &issued, err);

	if (rc)
		return rc;
	rc = mesh__credentials_add_svid(credentials, true, issued.chain, issued.chain_len, issued.key, issued.key_len, service, why, sizeof(why));
	mesh__authority_free_issued(&issued);
	return rc ? mesh__fault(err, rc, MESH_STAGE_NONE, "the certificate made for %.128s is not usable: %s", service, why) : 0;
}

/* Under the lock. */
static int deliver_all(struct mesh__identity_source *source, struct mesh_error *err)
{
	struct local *local = source->data;
	struct mesh__credentials *credentials = NULL;
	int rc = mesh__credentials_new(&credentials);

	if (rc)
		return mesh__fault(err, rc, MESH_STAGE_NONE, "out of memory while making an identity");
	rc = add_bundle(local, credentials, err);
	for (uint32_t i = 0; !rc && i < local->shared.count; i++)
		rc = add_svid(source, credentials, local->shared.services[i], err);
	if (rc)
		mesh__credentials_unref(credentials);
	else
		mesh__identity_deliver(source, credentials);
	return rc;
}

static bool has_service(const struct local *local, const char *service)
{
	for (uint32_t i = 0; i < local->shared.count; i++)
		if (strcmp(local->shared.services[i], service) == 0)
			return true;
	return false;
}

/* Under the lock. */
static int add_name(struct mesh__identity_source *source, const char *service, struct mesh_error *err)
{
	struct local *local = source->data;
	int rc;

	if (has_service(local, service))
		return 0;
	if (local->shared.count == MESH__SVIDS_MAX)
		return mesh__fault(err, MESH_E_STATE, MESH_STAGE_NONE, "one mesh has identities for at most %d services: open another mesh for %.128s", MESH__SVIDS_MAX,
				   service);
	local->shared.services[local->shared.count] = mesh__memory_strdup(service);
	if (!local->shared.services[local->shared.count])
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while making an identity");
	local->shared.count++;
	rc = deliver_all(source, err);
	/* A name that cannot have an identity must not stand in the way of the others' renewal. */
	if (rc)
		mesh__memory_free(local->shared.services[--local->shared.count]);
	return rc;
}

static void free_local(struct local *local)
{
	for (uint32_t i = 0; i < local->shared.count; i++)
		mesh__memory_free(local->shared.services[i]);
	mesh__authority_free(local->shared.authority);
	pthread_mutex_destroy(&local->shared.lock);
	mesh__memory_free(local);
}

/* A disk that does not want it is not the end: there may be another. */
static int open_authority(struct local *local, const char *domain, struct mesh_error *err)
{
	struct mesh_error why = MESH_ERROR_INIT;
	int rc = mesh__authority_open(local->dir, domain, true, &local->shared.authority, &why);

	if (rc == MESH_E_SYSTEM)
		return mesh__fault(err, rc, MESH_STAGE_NONE, "identity local: has no place for its authority: %.384s; MESH_STATE_DIR names another", why.message);
	if (rc)
		mesh__fault_copy(err, &why);
	return rc;
}

static int open_local(struct mesh__identity_source *source, const char *rest, struct mesh_error *err)
{
	const struct mesh__config *cfg = source->opts->config;
	struct local *local;
	int rc;

	if (*rest)
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE,
				   "identity local:%.128s: nothing follows \"local:\"; the directory is option state.dir (MESH_STATE_DIR)", rest);
	local = mesh__memory_zalloc(sizeof(*local));
	if (local && pthread_mutex_init(&local->shared.lock, NULL)) {
		mesh__memory_free(local);
		local = NULL;
	}
	if (!local)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while making an identity");
	source->data = local;
	rc = mesh__authority_default_dir(cfg, local->dir, sizeof(local->dir), err);
	if (!rc)
		rc = open_authority(local, mesh__config_text(cfg, MESH__OPTION_TRUST_DOMAIN, NULL), err);
	pthread_mutex_lock(&local->shared.lock);
	if (!rc)
		rc = add_name(source, source->opts->service, err);
	pthread_mutex_unlock(&local->shared.lock);
	if (rc) {
		free_local(local);
		source->data = NULL;
	}
	return rc;
}

static void start(struct mesh__identity_source *source)
{
	(void)source; /* open has delivered already */
}

/*
 * Under the lock. What is in the directory now counts: it may have been replaced, or be private no more. Where it is gone altogether (a state directory on a file system that
 * went away), what we have in memory goes on.
 */
static int reread(struct mesh__identity_source *source, struct mesh_error *err)
{
	struct local *local = source->data;
	struct mesh__authority *authority = NULL;
	int rc = mesh__authority_open(local->dir, mesh__config_text(source->opts->config, MESH__OPTION_TRUST_DOMAIN, NULL), false, &authority, err);

	if (rc == MESH_E_NOT_FOUND) {
		mesh__log_write(source->opts->log, MESH_LOG_WARN, "identity: %s is gone: renewing with the authority in memory; new processes will not be trusted",
				local->dir);
		return 0;
	}
	if (rc)
		return rc;
	mesh__authority_free(local->shared.authority);
	local->shared.authority = authority;
	return 0;
}

static void renew(struct mesh__identity_source *source)
{
	struct local *local = source->data;
	struct mesh_error err = MESH_ERROR_INIT;
	int rc;

	pthread_mutex_lock(&local->shared.lock);
	rc = reread(source, &err);
	if (!rc)
		rc = deliver_all(source, &err);
	pthread_mutex_unlock(&local->shared.lock);
	if (rc)
		mesh__identity_failed(source, "authority", err.message);
}

static int add_service(struct mesh__identity_source *source, const char *service, struct mesh_error *err)
{
	struct local *local = source->data;
	int rc;

	pthread_mutex_lock(&local->shared.lock);
	rc = add_name(source, service, err);
	pthread_mutex_unlock(&local->shared.lock);
	return rc;
}

static void stop(struct mesh__identity_source *source)
{
	(void)source; /* nothing runs by itself */
}

static void close_local(struct mesh__identity_source *source)
{
	if (source->data)
		free_local(source->data);
	source->data = NULL;
}

const struct mesh__identity_source_ops mesh__identity_local = {
	.scheme = "local", .open = open_local, .start = start, .renew = renew, .add_service = add_service, .stop = stop, .close = close_local,
};
