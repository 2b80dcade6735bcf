#include "identity/crypto.h"

#include "base/fault.h"
#include "base/fork_gate.h"

#include <psa/crypto.h>

int mesh__crypto_start(struct mesh_error *err)
{
	psa_status_t status;

	if (mesh__fork_gate_watch())
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while preparing for fork()");
	mesh__fork_gate_enter();
	status = psa_crypto_init();
	mesh__fork_gate_leave();
	if (status == PSA_ERROR_INSUFFICIENT_MEMORY)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory while starting mbedTLS");
	return status == PSA_SUCCESS ? 0 : mesh__fault(err, MESH_E_SYSTEM, MESH_STAGE_NONE, "mbedTLS cannot start: the system gives no random numbers");
}
