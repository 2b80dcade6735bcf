#include "api/handle.h"

#include "base/fault.h"
#include "mesh/stats.h"

int mesh_stats_open_self(mesh *m, mesh_stats_view **out, struct mesh_error *err)
{
	int rc;

	if (!out)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "there is no place for the view: out is NULL");
	rc = mesh__handle_enter(m, err);
	if (rc)
		return rc;
	rc = mesh__stats_view_self(m->stats, out, err);
	mesh__handle_leave(m);
	return rc;
}
