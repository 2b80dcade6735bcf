/* mbedTLS, ready for use. */
#ifndef MESH_IDENTITY_CRYPTO_H
#define MESH_IDENTITY_CRYPTO_H

#include "mesh/error.h"

int mesh__crypto_start(struct mesh_error *err); /* before all else; again is fine. MESH_E_SYSTEM, MESH_E_NOMEM. thread any */

#endif
