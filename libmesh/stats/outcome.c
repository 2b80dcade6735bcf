#include "stats/outcome.h"

static const char *const labels[MESH__OUTCOME_COUNT] = {
	[MESH__OUTCOME_OK] = "ok",
	[1] = "status:CANCELLED", "status:UNKNOWN", "status:INVALID_ARGUMENT", "status:DEADLINE_EXCEEDED", "status:NOT_FOUND",
	"status:ALREADY_EXISTS", "status:PERMISSION_DENIED", "status:RESOURCE_EXHAUSTED", "status:FAILED_PRECONDITION", "status:ABORTED",
	"status:OUT_OF_RANGE", "status:UNIMPLEMENTED", "status:INTERNAL", "status:UNAVAILABLE", "status:DATA_LOSS", "status:UNAUTHENTICATED",
	[MESH__OUTCOME_HTTP_4XX] = "http_4xx",
	[MESH__OUTCOME_HTTP_5XX] = "http_5xx",
	[MESH__OUTCOME_ERRORS] = "other_error",
#define MESH_ERROR(name, value, grpc, text, hint) [MESH__OUTCOME_E_##name] = #name,
#include "tables/errors.def"
#undef MESH_ERROR
};

uint32_t mesh__outcome_of_grpc(int32_t status)
{
	return status >= 0 && status <= 16 ? (uint32_t)status : 2;
}

uint32_t mesh__outcome_of_http(int status)
{
	if (status >= 500)
		return MESH__OUTCOME_HTTP_5XX;
	return status >= 400 ? MESH__OUTCOME_HTTP_4XX : MESH__OUTCOME_OK;
}

uint32_t mesh__outcome_of_error(int32_t code)
{
	switch (code) {
	case 0:
		return MESH__OUTCOME_OK;
#define MESH_ERROR(name, value, grpc, text, hint) case value: return MESH__OUTCOME_E_##name;
#include "tables/errors.def"
#undef MESH_ERROR
	default:
		return MESH__OUTCOME_ERRORS;
	}
}

const char *mesh__outcome_label(uint32_t outcome)
{
	return outcome < MESH__OUTCOME_COUNT ? labels[outcome] : "other_error";
}

mesh__cell *mesh__outcome_cell(struct mesh__outcome_cells *cells, struct mesh__stats *stats, enum mesh__metric metric, struct mesh__labels with,
			       uint32_t outcome)
{
	mesh__cell *cell;

	with.reason = mesh__outcome_label(outcome);
	cell = mesh__stats_counter(stats, metric, &with);
	atomic_store_explicit(&cells->cells[outcome], cell, memory_order_release);
	return cell;
}
