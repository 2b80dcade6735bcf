#include "mesh/identity.h"

#include "base/fault.h"
#include "config/config.h"
#include "identity/authority.h"
#include "identity/private_files.h"

#include <stdio.h>
#include <string.h>

_Static_assert(sizeof(((struct mesh_ca_info *)0)->dir) >= MESH__PRIVATE_PATH_MAX, "mesh_ca_info.dir");
_Static_assert(sizeof(((struct mesh_ca_info *)0)->domain) > MESH__TRUST_DOMAIN_MAX, "mesh_ca_info.domain");
_Static_assert(sizeof(((struct mesh_ca_info *)0)->serial) >= MESH__SERIAL_TEXT_MAX, "mesh_ca_info.serial");
_Static_assert(sizeof(((struct mesh_ca_info *)0)->subject) >= MESH__ISSUER_TEXT_MAX, "mesh_ca_info.subject");

/* The environment's options, and the directory that is meant. */
static int begin(const char *dir, struct mesh__config **cfg, char *path, size_t capacity, struct mesh_error *err)
{
	static const struct mesh__log silent = { NULL, NULL, MESH_LOG_OFF };
	int rc = mesh__config_new(cfg, NULL, NULL, 0, NULL, &silent, err);

	if (rc)
		return rc;
	if (!dir)
		rc = mesh__authority_default_dir(*cfg, path, capacity, err);
	else if ((size_t)snprintf(path, capacity, "%s", dir) >= capacity)
		rc = mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the path of the authority's directory has more than %zu bytes", capacity - 1);
	if (rc)
		mesh__config_free(*cfg);
	return rc;
}

int mesh_ca_init(const char *dir, const char *domain, struct mesh_error *err)
{
	struct mesh__authority *authority = NULL;
	struct mesh__config *cfg = NULL;
	char path[MESH__PRIVATE_PATH_MAX];
	int rc = begin(dir, &cfg, path, sizeof(path), err);

	if (rc)
		return rc;
	rc = mesh__authority_open(path, domain ? domain : mesh__config_text(cfg, MESH__OPTION_TRUST_DOMAIN, NULL), true, &authority, err);
	if (!rc && !mesh__authority_was_made(authority))
		rc = mesh__fault(err, MESH_E_STATE, MESH_STAGE_NONE, "%s has an authority already, of trust domain %s: it stays as it is", path,
				 mesh__authority_domain(authority));
	mesh__authority_free(authority);
	mesh__config_free(cfg);
	return rc;
}

static int read_id(const struct mesh__config *cfg, const char *domain, const char *text, struct mesh__spiffe_id *id, struct mesh_error *err)
{
	char whole[MESH__SPIFFE_ID_MAX + 2];
	const char *why = "";
	int rc, len;

	if (text[0] != '/' && strncmp(text, "spiffe:", 7) != 0) {
		rc = mesh__spiffe_id_of_service(id, domain, mesh__config_text(cfg, MESH__OPTION_NAMESPACE, text), text, &why);
	} else {
		len = snprintf(whole, sizeof(whole), "%s%s%s", text[0] == '/' ? "spiffe://" : "", text[0] == '/' ? domain : "", text);
		rc = mesh__spiffe_id_parse(id, whole, (size_t)len < sizeof(whole) ? (size_t)len : sizeof(whole) - 1, &why);
	}
	return rc ? mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "\"%.256s\" is not an ID: %s", text, why) : 0;
}

static int check_options(const struct mesh_ca_issue_options *opts, struct mesh_error *err)
{
	if (!opts)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "nothing says what to issue: opts is NULL");
	if (opts->size < sizeof(*opts))
		return mesh__fault(err, MESH_E_VERSION, MESH_STAGE_NONE,
				   "mesh_ca_issue_options.size is %u, expected %zu: set it to sizeof(struct mesh_ca_issue_options)", opts->size, sizeof(*opts));
	if (!opts->id || !*opts->id)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "a certificate needs an ID: opts.id is empty");
	if (!opts->out_dir || !*opts->out_dir)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "a certificate needs a place: opts.out_dir is empty");
	if (opts->dns_count && !opts->dns)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "there are to be %u DNS names, but opts.dns is NULL", opts->dns_count);
	if (opts->lifetime_s < 0)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "a certificate's lifetime must be at least 1 s");
	return 0;
}

int mesh_ca_issue(const char *dir, const struct mesh_ca_issue_options *opts, struct mesh_error *err)
{
	struct mesh__authority *authority = NULL;
	struct mesh__config *cfg = NULL;
	struct mesh__spiffe_id id;
	char path[MESH__PRIVATE_PATH_MAX];
	int64_t lifetime_s;
	int rc = check_options(opts, err);

	if (!rc)
		rc = begin(dir, &cfg, path, sizeof(path), err);
	if (rc)
		return rc;
	lifetime_s = opts->lifetime_s ? opts->lifetime_s : (int64_t)(mesh__config_ns(cfg, MESH__OPTION_IDENTITY_LIFETIME, NULL) / UINT64_C(1000000000));
	rc = mesh__authority_open(path, NULL, false, &authority, err);
	if (!rc)
		rc = read_id(cfg, mesh__authority_domain(authority), opts->id, &id, err);
	if (!rc)
		rc = mesh__authority_issue_files(authority, &id, opts->dns, opts->dns_count, lifetime_s, opts->out_dir, err);
	mesh__authority_free(authority);
	mesh__config_free(cfg);
	return rc;
}

static void fill_info(const struct mesh__authority *authority, const char *path, struct mesh_ca_info *out)
{
	struct mesh_ca_info full = MESH_CA_INFO_INIT;
	struct mesh__certificate_facts facts;
	uint32_t size = out->size;

	mesh__authority_facts(authority, &facts, &full.certificate_count);
	full.size = size;
	full.not_before_s = facts.not_before_s;
	full.not_after_s = facts.not_after_s;
	snprintf(full.dir, sizeof(full.dir), "%s", path);
	snprintf(full.domain, sizeof(full.domain), "%s", mesh__authority_domain(authority));
	snprintf(full.serial, sizeof(full.serial), "%s", facts.serial);
	snprintf(full.subject, sizeof(full.subject), "%s", facts.subject);
	memcpy(out, &full, size < sizeof(full) ? size : sizeof(full));
}

int mesh_ca_show(const char *dir, struct mesh_ca_info *out, struct mesh_error *err)
{
	struct mesh__authority *authority = NULL;
	struct mesh__config *cfg = NULL;
	char path[MESH__PRIVATE_PATH_MAX];
	int rc;

	if (!out)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "there is no place for what is found: out is NULL");
	if (out->size < sizeof(*out))
		return mesh__fault(err, MESH_E_VERSION, MESH_STAGE_NONE, "mesh_ca_info.size is %u, expected %zu: set it to sizeof(struct mesh_ca_info)",
				   out->size, sizeof(*out));
	rc = begin(dir, &cfg, path, sizeof(path), err);
	if (rc)
		return rc;
	rc = mesh__authority_open(path, NULL, false, &authority, err);
	if (!rc)
		fill_info(authority, path, out);
	mesh__authority_free(authority);
	mesh__config_free(cfg);
	return rc;
}
