#include "api/handle.h"

#include "base/fault.h"

int mesh_options_set(mesh *m, const char *name, const char *value, struct mesh_error *err)
{
	int rc = mesh__handle_enter(m, err);

	if (rc)
		return rc;
	rc = mesh__config_set(m->config, name, value, err);
	mesh__handle_leave(m);
	return rc;
}

int64_t mesh_options_get(mesh *m, const char *name, const char *service, char *buffer, uint64_t capacity)
{
	int64_t rc = mesh__handle_enter(m, NULL);

	if (rc)
		return rc;
	rc = mesh__config_get(m->config, name, service, buffer, buffer ? capacity : 0);
	mesh__handle_leave(m);
	return rc;
}

int mesh_options_list(mesh *m, mesh_option_fn fn, void *user)
{
	int rc = mesh__handle_enter(m, NULL);

	if (rc)
		return rc;
	rc = fn ? mesh__config_list(m->config, fn, user) : MESH_E_INVALID;
	mesh__handle_leave(m);
	return rc;
}
