/* Filling a struct mesh_error in one line. */
#ifndef MESH_BASE_FAULT_H
#define MESH_BASE_FAULT_H

#include "mesh/error.h"

/*
 * Fills *err (NULL is fine; respects err->size) with code, step and sentence; the gRPC status comes from the table.
 * Returns code, so that `return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "...")` reads well.
 */
int mesh__fault(struct mesh_error *err, int32_t code, int32_t stage, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* errno as an error: EMFILE and ENFILE are MESH_E_NO_DESCRIPTORS, ENOMEM is MESH_E_NOMEM, all else MESH_E_SYSTEM. "what: reason". */
int mesh__fault_errno(struct mesh_error *err, int32_t stage, int number, const char *format, ...) __attribute__((format(printf, 4, 5)));

int mesh__fault_code_of_errno(int number);

/* Copies between differently sized versions of the structure. */
void mesh__fault_copy(struct mesh_error *to, const struct mesh_error *from);

#endif
