/*
 * For callers that bring their own transport: which address now, and how did it go. Discovery and balancing as for
 * calls that libmesh makes itself; they are counted per service (mesh_picks_total, mesh_pick_reports_total, mesh_call_latency_ns).
 */
#ifndef MESH_ENDPOINT_H
#define MESH_ENDPOINT_H

#include <mesh/client.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A choice. It holds the endpoint until mesh_report(). */
struct mesh_pick {
	uint32_t size;
	uint16_t family;    /* 4 or 6 */
	uint16_t port;      /* host order */
	uint8_t ip[16];     /* network order; IPv4 in the first four */
	uint64_t handle[2]; /* the library's */
};

enum mesh_outcome {
	MESH_OUTCOME_OK = 0,
	MESH_OUTCOME_FAILED = 1,    /* it answered with an error that is its own fault */
	MESH_OUTCOME_OVERLOAD = 2,  /* it said that it is too busy */
	MESH_OUTCOME_TIMEOUT = 3,
	MESH_OUTCOME_UNREACHABLE = 4, /* no connection */
	MESH_OUTCOME_CANCELLED = 5, /* the caller gave up: says nothing about the endpoint */
	MESH_OUTCOME_COUNT = 6
};

/*
 * Chooses an endpoint of the client's service.
 *
 * thread   any, without a lock and without waiting
 * memory   every successful pick needs one mesh_report(), from any thread
 * errors   MESH_E_NO_NAME      no source knows the service (or has not answered yet)
 *          MESH_E_NO_ENDPOINT  it has no usable endpoint
 *          MESH_E_INVALID (NULL), MESH_E_CLOSING, MESH_E_FORKED, MESH_E_VERSION
 * since    0.1
 */
MESH_API int mesh_pick(mesh_client *client, struct mesh_pick *pick, struct mesh_error *err);

/* Its address as text: "10.0.0.4:9000", "[::1]:9000". thread any; memory `text` is the caller's. since 0.1 */
MESH_API void mesh_pick_address(const struct mesh_pick *pick, char text[64]);

/*
 * Says how it went and how long it took.
 *
 * thread   any, without a lock; a mesh that closes meanwhile is no harm
 * errors   MESH_E_INVALID  NULL, no such outcome, or the pick holds nothing (any more)
 *          MESH_E_CLOSING, MESH_E_FORKED
 * since    0.1
 */
MESH_API int mesh_report(mesh_client *client, struct mesh_pick *pick, int32_t outcome, uint64_t latency_ns);

/* One endpoint as discovery and balancer see it; strings are valid inside the callback. */
struct mesh_endpoint_info {
	uint32_t size;
	uint32_t in_flight;
	const char *address;
	const char *source;      /* "local", "static", "file" */
	uint64_t first_seen_ns, last_seen_ns; /* CLOCK_MONOTONIC */
	uint32_t is_draining;    /* left the set, still has calls */
	uint32_t weight;
};
typedef void (*mesh_endpoint_fn)(const struct mesh_endpoint_info *info, void *user);

/*
 * Lists the endpoints of now, with those that have left and still have calls.
 *
 * thread   any; `fn` runs in it, once per endpoint, under no lock, and may call any function
 * returns  their number, or MESH_E_NO_NAME and MESH_E_NO_ENDPOINT as mesh_pick() if there is none
 * errors   MESH_E_INVALID (NULL), MESH_E_FORKED, MESH_E_CLOSING, MESH_E_NOMEM
 * since    0.1
 */
MESH_API int mesh_endpoints_list(mesh_client *client, mesh_endpoint_fn fn, void *user);

#ifdef __cplusplus
}
#endif

#endif
