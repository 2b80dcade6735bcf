/*
 * How a call, attempt or request ended, as one small number: 0 ok, 1 to 16 a gRPC status, then HTTP classes, then our own
 * errors. The label is what counters show as `reason`. Cells are looked up once per outcome and kept.
 */
#ifndef MESH_STATS_OUTCOME_H
#define MESH_STATS_OUTCOME_H

#include "stats/stats.h"

enum {
	MESH__OUTCOME_OK = 0,
	MESH__OUTCOME_HTTP_4XX = 17,
	MESH__OUTCOME_HTTP_5XX,
	MESH__OUTCOME_ERRORS,
	/* one per row of errors.def */
#define MESH_ERROR(name, value, grpc, text, hint) MESH__OUTCOME_E_##name,
#include "tables/errors.def"
#undef MESH_ERROR
	MESH__OUTCOME_COUNT
};

struct mesh__outcome_cells {
	_Atomic(mesh__cell *) cells[MESH__OUTCOME_COUNT];
};

uint32_t mesh__outcome_of_grpc(int32_t status); /* out of range: UNKNOWN */
uint32_t mesh__outcome_of_http(int status);
uint32_t mesh__outcome_of_error(int32_t code);
const char *mesh__outcome_label(uint32_t outcome);

/* The first time of an outcome: makes its cell, under a lock. */
mesh__cell *mesh__outcome_cell(struct mesh__outcome_cells *cells, struct mesh__stats *stats, enum mesh__metric metric, struct mesh__labels with,
			       uint32_t outcome);

/* Adds one; `reason` among the labels is filled in here. thread any. */
static inline void mesh__outcome_count(struct mesh__outcome_cells *cells, struct mesh__stats *stats, enum mesh__metric metric,
				       struct mesh__labels with, uint32_t outcome, uint32_t shard)
{
	mesh__cell *cell = atomic_load_explicit(&cells->cells[outcome], memory_order_acquire);

	if (__builtin_expect(!cell, 0))
		cell = mesh__outcome_cell(cells, stats, metric, with, outcome);
	mesh__counter_add(cell, shard, 1);
}

#endif
