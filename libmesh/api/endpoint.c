#include "api/handle.h"

#include "base/fault.h"
#include "discovery/set.h"
#include "mesh/endpoint.h"

#include <string.h>

/* Each thread draws from its own generator; seeded at its first pick. */
static _Thread_local struct mesh__random thread_random;
static _Thread_local bool thread_random_is_seeded;

/*
 * The mesh stays open until mesh__set_read_end(): mesh_close() says that it closes, and then waits for the read sections. Not for
 * what takes a lock that the directory holds while it waits for readers, too.
 */
static inline bool enter(const mesh_client *client)
{
	mesh__set_read_enter();
	if (!mesh__handle_check(client->mesh, NULL))
		return true;
	mesh__set_read_end();
	return false;
}

static int blame(const mesh_client *client, struct mesh_error *err)
{
	int rc = mesh__handle_enter(client->mesh, err);
	enum mesh__service_state state;
	char why[400];

	if (rc)
		return rc;
	state = mesh__service_state(client->target->service);
	rc = state == MESH__SERVICE_RESOLVING || state == MESH__SERVICE_UNKNOWN ? MESH_E_NO_NAME : MESH_E_NO_ENDPOINT;
	if (err) {
		mesh__service_explain(client->target->service, why, sizeof(why));
		mesh__fault(err, rc, MESH_STAGE_BALANCE, "%s: no endpoint: %s", client->target->name, why);
	}
	mesh__handle_leave(client->mesh);
	return rc;
}

static void fill(struct mesh_pick *pick, struct mesh__endpoint *ep)
{
	pick->family = ep->address.family;
	pick->port = ep->address.port;
	memcpy(pick->ip, ep->address.ip, sizeof(pick->ip));
	pick->handle[0] = (uint64_t)(uintptr_t)ep;
}

int mesh_pick(mesh_client *client, struct mesh_pick *pick, struct mesh_error *err)
{
	uint32_t shard = mesh__shard_mine();
	struct mesh__endpoint *ep;

	if (!client)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "the client is NULL");
	if (!pick || pick->size < sizeof(*pick))
		return mesh__fault(err, MESH_E_VERSION, MESH_STAGE_NONE, "mesh_pick.size is not set to sizeof(struct mesh_pick)");
	if (!thread_random_is_seeded) {
		mesh__random_init(&thread_random, mesh__random_entropy());
		thread_random_is_seeded = true;
	}
	if (!enter(client))
		return mesh__handle_check(client->mesh, err);
	ep = mesh__balance_pick(client->target, &thread_random, shard, NULL, 0);
	if (ep) {
		mesh__counter_add(client->target->picks, shard, 1);
		fill(pick, ep);
	}
	mesh__set_read_end();
	return ep ? 0 : blame(client, err);
}

void mesh_pick_address(const struct mesh_pick *pick, char text[64])
{
	struct mesh__address address;

	if (text)
		text[0] = '\0';
	if (!pick || !text)
		return;
	address = (struct mesh__address){ .family = (uint8_t)pick->family, .port = pick->port };
	memcpy(address.ip, pick->ip, sizeof(address.ip));
	mesh__address_print(&address, text);
}

int mesh_report(mesh_client *client, struct mesh_pick *pick, int32_t outcome, uint64_t latency_ns)
{
	static const uint32_t outcomes[MESH_OUTCOME_COUNT] = { MESH__OUTCOME_OK, MESH__OUTCOME_E_STATUS, MESH__OUTCOME_E_UNPROCESSED,
							       MESH__OUTCOME_E_DEADLINE, MESH__OUTCOME_E_CONNECT, MESH__OUTCOME_E_CANCELLED };
	uint32_t shard = mesh__shard_mine();
	struct mesh__labels labels;

	if (!client || !pick || !pick->handle[0] || outcome < 0 || outcome >= MESH_OUTCOME_COUNT)
		return MESH_E_INVALID;
	if (!enter(client))
		return mesh__handle_check(client->mesh, NULL);
	labels = (struct mesh__labels){ .service = client->target->name };
	mesh__endpoint_done((struct mesh__endpoint *)(uintptr_t)pick->handle[0], shard);
	pick->handle[0] = 0;
	mesh__outcome_count(&client->target->reports, client->mesh->stats, MESH__METRIC_PICK_REPORTS_TOTAL, labels, outcomes[outcome], shard);
	mesh__histogram_record(client->target->latency, shard, latency_ns);
	mesh__set_read_end();
	return 0;
}

struct listing {
	mesh_endpoint_fn fn;
	void *user;
};

static void list_one(const struct mesh__endpoint_view *view, void *user)
{
	struct listing *listing = user;
	char address[MESH__ADDRESS_TEXT_MAX];
	int32_t in_flight = mesh__endpoint_in_flight(view->ep);
	struct mesh_endpoint_info info = {
		.size = sizeof(info), .in_flight = in_flight > 0 ? (uint32_t)in_flight : 0, .address = address, .source = view->source,
		.first_seen_ns = view->first_seen_ns, .last_seen_ns = view->last_seen_ns, .is_draining = view->is_draining,
		.weight = view->ep->weight,
	};

	mesh__address_print(&view->ep->address, address);
	listing->fn(&info, listing->user);
}

int mesh_endpoints_list(mesh_client *client, mesh_endpoint_fn fn, void *user)
{
	struct listing listing = { fn, user };
	int rc;

	if (!client || !fn)
		return MESH_E_INVALID;
	rc = mesh__handle_enter(client->mesh, NULL);
	if (rc)
		return rc;
	rc = mesh__service_list(client->target->service, list_one, &listing);
	if (rc == 0)
		rc = mesh__service_state(client->target->service) == MESH__SERVICE_EMPTY ? MESH_E_NO_ENDPOINT : MESH_E_NO_NAME;
	mesh__handle_leave(client->mesh);
	return rc;
}
