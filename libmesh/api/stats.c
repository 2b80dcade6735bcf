#include "api/handle.h"

#include "base/fault.h"
#include "mesh/stats.h"

int mesh_stats_open_self(mesh *m, mesh_stats_view **out, struct mesh_error *err)
{
	int rc = mesh__handle_check(m, err);

	if (rc)
		return rc;
	if (!out)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "there is no place for the view: out is NULL");
	return mesh__stats_view_self(m->stats, out, err);
}
