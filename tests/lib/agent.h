/*
 * A Workload API for tests, with our own server in plain text: it says what it is told to say, as often as that changes, to every process that asks.
 * That the protocol is understood is shown by tests/interop/workload, whose server is somebody else's.
 *
 *	struct agent agent;
 *	struct agent_message message = { 0 };
 *
 *	agent_start(&agent);
 *	add_svid(&message, "spiffe://prod.example/users", &leaf, (const struct certificate *const[]){ &root }, 1);
 *	agent_say(&agent, &message);
 *	m = OPEN_MESH("users", "tls", "on", "identity", agent.endpoint);
 */
#ifndef TESTS_LIB_AGENT_H
#define TESTS_LIB_AGENT_H

#include "certificates.h"
#include "mesh_test.h"

enum { AGENT_STREAMS_MAX = 64, GRPC_PERMISSION_DENIED = 7 };

struct agent_message {
	uint8_t data[64 * 1024];
	size_t len;
};

struct agent {
	mesh *m;
	mesh_server *server;
	char endpoint[128]; /* for option identity */
	pthread_mutex_t lock;
	struct agent_message said; /* the last; len 0: nothing yet */
	bool is_denying;
	mesh_request *streams[AGENT_STREAMS_MAX];
	unsigned stream_count;
};

/* --- messages: fields of protobuf, all of wire type 2 --- */

static inline size_t put_varint(uint8_t *at, size_t value)
{
	size_t len = 0;

	for (; value > 127; value >>= 7)
		at[len++] = (uint8_t)(value | 128);
	at[len++] = (uint8_t)value;
	return len;
}

static inline void put_field(struct agent_message *out, unsigned number, const void *data, size_t len)
{
	assert_true(out->len + len + 16 < sizeof(out->data));
	out->len += put_varint(out->data + out->len, number << 3 | 2);
	out->len += put_varint(out->data + out->len, len);
	memcpy(out->data + out->len, data, len);
	out->len += len;
}

/* The chain is the leaf alone; the roots are the bundle of its trust domain. */
static inline void add_svid_with_hint(struct agent_message *out, const char *id, const struct certificate *leaf, const struct certificate *const *roots,
				      size_t root_count, const char *hint)
{
	struct agent_message svid = { 0 };
	uint8_t bundle[32 * 1024];
	size_t len = 0;

	for (size_t i = 0; i < root_count; i++) {
		memcpy(bundle + len, roots[i]->der, roots[i]->len);
		len += roots[i]->len;
	}
	put_field(&svid, 1, id, strlen(id));
	put_field(&svid, 2, leaf->der, leaf->len);
	put_field(&svid, 3, leaf->key_der, leaf->key_len);
	put_field(&svid, 4, bundle, len);
	put_field(&svid, 5, hint, strlen(hint));
	put_field(out, 1, svid.data, svid.len);
}

static inline void add_svid(struct agent_message *out, const char *id, const struct certificate *leaf, const struct certificate *const *roots, size_t root_count)
{
	add_svid_with_hint(out, id, leaf, roots, root_count, "");
}

static inline void add_federated(struct agent_message *out, const char *domain_id, const struct certificate *root)
{
	struct agent_message entry = { 0 };

	put_field(&entry, 1, domain_id, strlen(domain_id));
	put_field(&entry, 2, root->der, root->len);
	put_field(out, 3, entry.data, entry.len);
}

/* --- the agent --- */

static inline void agent_deny_one(mesh_request *request)
{
	struct mesh_reply denied = { .size = sizeof(denied), .grpc_status = GRPC_PERMISSION_DENIED, .grpc_message = "no identity issued" };

	mesh_request_finish(request, &denied);
	mesh_request_unref(request);
}

static inline void agent_on_fetch(mesh_request *request, void *user)
{
	struct agent *agent = user;

	mesh_request_ref(request);
	pthread_mutex_lock(&agent->lock);
	if (agent->is_denying || agent->stream_count == AGENT_STREAMS_MAX) {
		agent_deny_one(request);
	} else {
		agent->streams[agent->stream_count++] = request;
		if (agent->said.len)
			mesh_request_send(request, agent->said.data, agent->said.len, 0);
	}
	pthread_mutex_unlock(&agent->lock);
}

static inline void agent_start(struct agent *agent)
{
	memset(agent, 0, sizeof(*agent));
	pthread_mutex_init(&agent->lock, NULL);
	agent->m = OPEN_MESH("agent", "tls", "off", "discovery", "");
	agent->server = new_server(agent->m, NULL);
	add_handler(agent->server, "/SpiffeWorkloadAPI/FetchX509SVID", MESH_HANDLER_GRPC | MESH_HANDLER_STREAM, agent_on_fetch, agent);
	start_server(agent->server);
	snprintf(agent->endpoint, sizeof(agent->endpoint), "spiffe:tcp://%s", mesh_server_address(agent->server));
}

static inline void agent_say(struct agent *agent, const struct agent_message *message)
{
	unsigned kept = 0;

	pthread_mutex_lock(&agent->lock);
	agent->said = *message;
	agent->is_denying = false;
	for (unsigned i = 0; i < agent->stream_count; i++) {
		if (mesh_request_send(agent->streams[i], message->data, message->len, 5000))
			agent_deny_one(agent->streams[i]); /* who asked has gone */
		else
			agent->streams[kept++] = agent->streams[i];
	}
	agent->stream_count = kept;
	pthread_mutex_unlock(&agent->lock);
}

/* Takes back what it has given, until it says something again. */
static inline void agent_deny(struct agent *agent)
{
	pthread_mutex_lock(&agent->lock);
	agent->is_denying = true;
	while (agent->stream_count)
		agent_deny_one(agent->streams[--agent->stream_count]);
	pthread_mutex_unlock(&agent->lock);
}

/* Goes without a word. */
static inline void agent_stop(struct agent *agent)
{
	mesh_server_free(agent->server);
	while (agent->stream_count)
		mesh_request_unref(agent->streams[--agent->stream_count]);
	mesh_close(agent->m);
	pthread_mutex_destroy(&agent->lock);
}

#endif
