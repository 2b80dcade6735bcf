#include "identity/identity_check.h"

#include "base/address.h"
#include "base/fault.h"
#include "identity/policy.h"
#include "identity/spiffe_id.h"

#include <string.h>

enum { SOCKET_PATH_MAX = 107 }; /* sockaddr_un */

static bool begins_with(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

/* Source: spiffe/spiffe standards/SPIFFE_Workload_Endpoint.md, section 4 */
static int check_endpoint(const char *endpoint, struct mesh_error *err)
{
	struct mesh__address address;
	const char *why, *path = endpoint + strlen("unix:");

	if (begins_with(endpoint, "unix:")) {
		if (begins_with(path, "//"))
			path += 2;
		if (*path != '/' || strlen(path) > SOCKET_PATH_MAX || strpbrk(path, "?#"))
			return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE,
					   "option identity: \"%.160s\" is no socket: unix:// is followed by an absolute path of at most %d characters",
					   endpoint, SOCKET_PATH_MAX);
		return 0;
	}
	if (begins_with(endpoint, "tcp://")) {
		endpoint += strlen("tcp://");
		if (mesh__address_parse(&address, endpoint, strlen(endpoint), &why))
			return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "option identity: \"tcp://%.64s\" is not tcp://IP:PORT: %s", endpoint, why);
		return 0;
	}
	if (!*endpoint)
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE,
				   "option identity: spiffe: needs the socket of the Workload API, as in spiffe:unix:///run/spire/agent.sock, or SPIFFE_ENDPOINT_SOCKET");
	return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "option identity: \"%.64s\" is no Workload API endpoint: unix:///PATH or tcp://IP:PORT", endpoint);
}

int mesh__identity_check_uri(const char *uri, struct mesh_error *err)
{
	if (!*uri || strcmp(uri, "off") == 0 || strcmp(uri, "local:") == 0)
		return 0;
	if (begins_with(uri, "local:"))
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "option identity: nothing follows local: (option state.dir says where its authority is)");
	if (begins_with(uri, "file:"))
		return uri[5] == '/' ? 0 : mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE,
						       "option identity: \"%.64s\": file: is followed by the absolute path of a directory", uri);
	if (begins_with(uri, "spiffe:"))
		return check_endpoint(uri + 7, err);
	return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE,
			   "option identity: \"%.64s\" is none of local:, file:/DIR, spiffe:unix:///PATH, spiffe:tcp://IP:PORT, off", uri);
}

static int check_identity(const char *text, struct mesh_error *err)
{
	/* Its socket comes from the environment; whether it does is seen when the identity is opened. */
	return strcmp(text, "spiffe:") == 0 ? 0 : mesh__identity_check_uri(text, err);
}

static int check_namespace(const char *text, struct mesh_error *err)
{
	struct mesh__spiffe_id id;
	const char *why;

	if (mesh__spiffe_id_of_service(&id, "mesh.local", text, "x", &why))
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "option namespace: \"%.64s\" cannot stand in a SPIFFE ID: %s", text, why);
	return 0;
}

static int check_peer_id(const char *text, struct mesh_error *err)
{
	struct mesh__spiffe_id id;
	const char *why;

	if (mesh__spiffe_id_parse(&id, text, strlen(text), &why))
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "option peer.id: \"%.128s\" is no SPIFFE ID: %s", text, why);
	if (!*mesh__spiffe_id_path(&id))
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "option peer.id: \"%.128s\" names a whole trust domain: a workload's ID has a path", text);
	return 0;
}

static int check_domain(const char *text, struct mesh_error *err)
{
	const char *why;

	if (mesh__trust_domain_check(text, strlen(text), &why))
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "option trust.domain: \"%.64s\" is no trust domain: %s", text, why);
	return 0;
}

static int check_allow(const char *text, struct mesh_error *err)
{
	struct mesh_error why = MESH_ERROR_INIT;
	struct mesh__policy *policy;
	int rc = mesh__policy_from_allow(&policy, text, &why);

	if (!rc)
		mesh__policy_unref(policy);
	return !rc ? 0 : rc == MESH_E_NOMEM ? rc : mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "option allow: %.300s", why.message);
}

int mesh__identity_check(enum mesh__option option, const char *text, struct mesh_error *err)
{
	switch (option) {
	case MESH__OPTION_IDENTITY:
		return check_identity(text, err);
	case MESH__OPTION_TRUST_DOMAIN:
		return check_domain(text, err);
	case MESH__OPTION_NAMESPACE:
		return check_namespace(text, err);
	case MESH__OPTION_PEER_ID:
		return *text ? check_peer_id(text, err) : 0;
	case MESH__OPTION_ALLOW:
		return *text ? check_allow(text, err) : 0;
	default:
		return 0;
	}
}
