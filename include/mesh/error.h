/*
 * Errors: one negative code, one sentence, and what a caller needs to decide what to do next.
 *
 * Fallible functions return 0 (or a count) or one of the codes below. Those that take a `struct mesh_error *` fill it on
 * failure and leave it alone on success; NULL is fine. There is no thread-local "last error".
 */
#ifndef MESH_ERROR_H
#define MESH_ERROR_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MESH_API __attribute__((visibility("default")))
#else
#define MESH_API
#endif

/* Values never change; mesh-errors(7) explains each. */
enum mesh_error_code {
	MESH_OK = 0,
	MESH_E_INVALID = -1,
	MESH_E_CLOSING = -2,
	MESH_E_FORKED = -3,
	MESH_E_AGAIN = -4,
	MESH_E_STATE = -5,
	MESH_E_WRONG_THREAD = -6,
	MESH_E_OPTION = -7,
	MESH_E_VERSION = -8,
	MESH_E_NO_NAME = -100,
	MESH_E_NO_ENDPOINT = -101,
	MESH_E_REFUSED_LOCALLY = -102,
	MESH_E_CONNECT = -103,
	MESH_E_IDENTITY = -104,
	MESH_E_DEADLINE = -200,
	MESH_E_CANCELLED = -201,
	MESH_E_RESET = -202,
	MESH_E_LOST = -203,
	MESH_E_PROTOCOL = -204,
	MESH_E_TOO_LARGE = -205,
	MESH_E_UNPROCESSED = -206,
	MESH_E_HANDSHAKE = -207,
	MESH_E_STATUS = -300,
	MESH_E_NOMEM = -400,
	MESH_E_SYSTEM = -401,
	MESH_E_NO_DESCRIPTORS = -402,
	MESH_E_NOT_FOUND = -403,
	MESH_E_NOT_PRIVATE = -404,
	MESH_E_CORRUPT = -405,
	MESH_E_INTERNAL = -499
};

/* Which step of a call decided; the order and its reasons are in libmesh/tables/stages.def. */
enum mesh_stage {
	MESH_STAGE_NONE = 0,
	MESH_STAGE_ROUTE = 1,
	MESH_STAGE_RESOLVE = 2,
	MESH_STAGE_BALANCE = 3,
	MESH_STAGE_ADMIT = 4,
	MESH_STAGE_ATTEMPT = 5,
	MESH_STAGE_RETRY = 6,
	MESH_STAGE_RECORD = 7,
	MESH_STAGE_ACCEPT = 20,
	MESH_STAGE_AUTHENTICATE = 21,
	MESH_STAGE_AUTHORIZE = 22,
	MESH_STAGE_SERVER_ADMIT = 23,
	MESH_STAGE_DISPATCH = 24,
	MESH_STAGE_SERVER_RECORD = 25
};

/*
 * What failed and why. Set `size` to sizeof(struct mesh_error) before passing it (MESH_ERROR_INIT does); fields beyond the
 * caller's size are not written.
 */
struct mesh_error {
	uint32_t size;
	int32_t code;        /* MESH_E_* */
	int32_t stage;       /* MESH_STAGE_* */
	int32_t grpc_status; /* 0 to 16: the peer's, or the one this failure maps to */
	int32_t http_status; /* the peer's, 0 if there was no answer */
	uint32_t attempts;   /* streams opened or connections tried for this call */
	uint32_t in_doubt;   /* 1: the peer may have acted on the call */
	uint32_t retry_safe; /* 1: provably not acted upon, or declared idempotent: calling again cannot act twice */
	char endpoint[64];   /* the last endpoint tried, "" if none */
	char message[512];   /* one sentence that a person can act on; control characters and bytes outside ASCII are \xNN */
};

#define MESH_ERROR_INIT { sizeof(struct mesh_error), 0, 0, 0, 0, 0, 0, 0, { 0 }, { 0 } }

/* The code's name ("DEADLINE"), "OK" for 0, "UNKNOWN" for a number that is none. thread any; memory static. since 0.1 */
MESH_API const char *mesh_error_name(int32_t code);

/* What the code means in general, and what to do about it. thread any; memory static. since 0.1 */
MESH_API const char *mesh_error_text(int32_t code);
MESH_API const char *mesh_error_hint(int32_t code);

/* The step's name ("balance"). thread any; memory static. since 0.1 */
MESH_API const char *mesh_stage_name(int32_t stage);

/* A gRPC status' name ("UNAVAILABLE"). thread any; memory static. since 0.1 */
MESH_API const char *mesh_grpc_status_name(int32_t status);

#ifdef __cplusplus
}
#endif

#endif
