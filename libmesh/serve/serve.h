/*
 * The incoming path: a server, its connections, and the requests on them.
 *
 *   accept -> authenticate -> authorize -> admit -> dispatch -> record
 *
 * One file per step; serve.c holds the server together, request.c a request from its first header to its last event, reply.c what goes back.
 */
#ifndef MESH_SERVE_SERVE_H
#define MESH_SERVE_SERVE_H

#include "base/map.h"
#include "config/config.h"
#include "discovery/directory.h"
#include "identity/policy_path.h"
#include "loop/queue.h"
#include "mesh/server.h"
#include "stats/outcome.h"
#include "wire/grpc.h"
#include "wire/h2.h"
#include "wire/peer.h"
#include "wire/pipe.h"

struct mesh__handler {
	struct mesh__handler *next; /* in server->prefixes, longest first */
	uint32_t flags;
	mesh_request_fn fn;
	void *user;
	mesh_queue *queue; /* instead of fn */
	uint64_t token;
	size_t path_len;
	char path[];       /* without the final "*" */
};

struct mesh__health_entry;

/* What strangers cause may come by the thousand: the log gets some of it, the counters all. */
struct mesh__log_quota {
	uint64_t second; /* of the monotonic clock; what follows is about it */
	uint32_t logged, unlogged;
};

struct mesh__server_loop {
	mesh_server *server;
	struct mesh__loop *lp;
	struct mesh__list conns;
	struct mesh__list orphans; /* requests still held whose connection is gone */
	uint32_t conn_count, request_count; /* requests: until their handler is done with them */
	struct mesh__task stop, drain;
	struct mesh__policy *policy; /* the newest that this loop has seen: asking takes no lock; NULL: none yet */
	uint64_t policy_generation;
	struct mesh__log_quota refusals, denials;
	bool is_closing;
};

struct mesh__server_options {
	const struct mesh__config *config;
	struct mesh__stats *stats;
	struct mesh__directory *directory;
	const struct mesh__log *log;
	struct mesh__loop *const *lps;
	uint32_t loop_count;
	const char *service;
	struct mesh__address listen;
	struct mesh__identity *identity;
	const struct mesh__secure_options *secure; /* NULL: plain text */
	struct mesh__policy_live *policy;          /* the mesh's; NULL with plain text */
};

enum mesh__server_state { MESH__SERVER_NEW, MESH__SERVER_OPEN, MESH__SERVER_DRAINING, MESH__SERVER_STOPPED };

struct mesh_server {
	struct mesh__list node; /* in the mesh's list of servers; api/ */
	void *mesh;             /* api/ */
	uint32_t generation;
	struct mesh__server_options opts;
	char service[256], address_text[MESH__ADDRESS_TEXT_MAX];
	struct mesh__address address;
	_Atomic int state;
	struct mesh__announcement *announcement;
	struct mesh__policy_live *policy; /* the mesh's; who may call */
	struct mesh__conn_limits limits;
	uint64_t message_max_bytes, buffer_bytes, memory_max_bytes;
	_Atomic uint64_t memory_bytes; /* of bodies, but for small ones */
	uint32_t conns_max, requests_max;
	atomic_uint conn_count, request_count;

	/* Read-only once started. */
	struct mesh__map exact[2]; /* path -> handler: [0] HTTP, [1] gRPC */
	struct mesh__handler *prefixes[2], *all;

	/* Health, under its lock: rarely touched. */
	struct {
		pthread_mutex_t lock;
		struct mesh__health_entry *first;
		struct mesh__list watchers;
	} health;

	mesh__cell *requests, *in_flight, *conns, *conns_opened, *sent_bytes, *received_bytes;
	struct mesh__histogram *latency;
	struct mesh__outcome_cells ended;

	/* on the first loop */
	int listen_fd, reserve_fd;
	struct mesh__watch watch;
	struct mesh__timer accept_again;
	uint64_t accept_backoff_ns;
	uint32_t next_loop;
	struct mesh__task open_task;
	bool is_accepting;

	struct mesh__server_loop loops[];
};

struct mesh__reply_block;

struct mesh_request {
	atomic_uint refs;      /* ours: stream, tasks, and one for all of the users' */
	atomic_uint user_refs;
	atomic_bool is_answered, is_cancelled, is_begun;
	mesh_server *server; /* on_loop: NULL once the server has stopped */
	struct mesh__server_loop *sl;
	struct mesh__loop *lp;
	uint64_t message_max_bytes;
	const struct mesh__handler *handler;
	struct mesh__pipe *pipe; /* streaming handlers only */
	mesh_event_fn on_event;
	void *on_event_user;
	struct mesh__queue_node nodes[4]; /* request, readable, writable, ended */
	char peer_text[MESH__ADDRESS_TEXT_MAX];
	struct mesh__peer *peer_identity;      /* holds the next two; NULL: the connection is plain text */
	const struct mesh__spiffe_id *peer_id; /* verified; NULL: the connection is plain text */
	const char *own_domain; /* trust domain of the SVID that the peer was shown */
	uint32_t generation;
	uint64_t start_ns, deadline_ns; /* deadline 0: none */
	bool is_grpc, is_head;

	/* on_loop */
	struct mesh__task task, auto_reply;
	struct mesh__conn_entry *entry; /* connection; NULL once it is gone */
	struct mesh__list entry_node;   /* in entry->requests or sl->orphans */
	struct mesh__stream stream;
	struct mesh__chunk chunk;
	struct mesh__timer deadline;
	uint8_t *body;
	uint64_t body_len, body_capacity;
	uint64_t reserved_bytes; /* of the server's memory_bytes */
	struct mesh__reply_block *blocks;
	uint32_t outcome;
	bool is_open; /* the stream */
	bool is_dispatched, is_rejected, has_responded, has_status, is_late;
};

/* A connection of a peer. */
struct mesh__conn_entry {
	struct mesh__conn conn;
	struct mesh__list node;
	struct mesh__server_loop *sl;
	struct mesh__list requests;
	char peer_text[MESH__ADDRESS_TEXT_MAX];
	struct mesh__peer *peer; /* who it is; NULL: plain text, or not known yet */
	uint32_t running; /* requests whose handler has not finished, also those whose stream is gone */
};

/* serve.c */
int mesh__server_new(const struct mesh__server_options *opts, mesh_server **out, struct mesh_error *err);
int mesh__server_handle(mesh_server *server, const char *path, const struct mesh__handler *like, struct mesh_error *err);
int mesh__server_start(mesh_server *server, struct mesh_error *err);
void mesh__server_stop_loop(mesh_server *server, uint32_t loop_index); /* on that loop: accepts no more, ends all */
void mesh__server_withdraw(mesh_server *server);                      /* out of discovery, health NOT_SERVING */
void mesh__server_drain(mesh_server *server);                         /* any thread: GOAWAY on all connections */
bool mesh__server_is_drained(const mesh_server *server);
void mesh__server_free(mesh_server *server);                          /* after its loops were told to stop */
void mesh__server_count_refused(mesh_server *server, const char *reason);

/* accept.c */
int mesh__accept_start(mesh_server *server);
bool mesh__server_may_log(struct mesh__server_loop *sl, struct mesh__log_quota *quota, const char *rest); /* rest: what "N more" of the second before were */
void mesh__accept_stop(mesh_server *server);
void mesh__accept_drain(mesh_server *server); /* takes who has knocked already, and stops: newcomers go elsewhere at once */
extern const struct mesh__conn_events mesh__server_conn_events;

/* authenticate.c, on_loop */
void mesh__authenticate_conn(struct mesh__conn_entry *entry);    /* the connection is open */
bool mesh__authenticate_is_done(const struct mesh__conn_entry *entry); /* false: nobody knows who asks, so nothing may be answered */
void mesh__authenticate_request(struct mesh_request *request);   /* from now on the request knows who asks */

/* admit.c: storage for a new request, or NULL when a limit is reached */
struct mesh_request *mesh__server_admit(struct mesh__conn_entry *entry);

/* authorize.c, on_loop: once method and path are known. false: refused and counted, the request has its answer */
bool mesh__authorize(struct mesh_request *request, const char *method, size_t method_len, const char *path, size_t path_len);

/* dispatch.c */
const struct mesh__handler *mesh__dispatch_find(const mesh_server *server, const char *path, size_t len, bool is_grpc);
void mesh__dispatch_later(struct mesh_request *request);

/* request.c */
void mesh__request_orphan_all(struct mesh__conn_entry *entry); /* its connection is gone */
void mesh__request_forget_server(struct mesh__server_loop *sl); /* the server is about to go */
struct mesh__stream *mesh__request_new(struct mesh__conn *conn);
void mesh__request_hold(struct mesh_request *request);
void mesh__request_drop(struct mesh_request *request);
void mesh__request_emit(struct mesh_request *request, uint32_t type, int32_t code);

/* reply.c: thread any, unless said otherwise */
int mesh__request_reply(struct mesh_request *request, const struct mesh_reply *reply);
int mesh__request_begin(struct mesh_request *request, const struct mesh_reply *reply);
int mesh__request_finish(struct mesh_request *request, const struct mesh_reply *reply);
/* on_loop: an answer of our own; at most once, loses to one that was given. */
void mesh__request_refuse(struct mesh_request *request, int http_status, int grpc_status, const char *message);
void mesh__request_refuse_with(struct mesh_request *request, const struct mesh_reply *reply);
void mesh__reply_free_blocks(struct mesh_request *request);

/* record.c */
void mesh__server_record(struct mesh_request *request);

/* health.c */
int mesh__health_init(mesh_server *server);
void mesh__health_fini(mesh_server *server);
int mesh__health_set(mesh_server *server, const char *service, bool is_serving);
void mesh__health_set_all(mesh_server *server, bool is_serving);
void mesh__health_tell(mesh_server *server); /* whoever watches, of what is no longer so or so again */
void mesh__health_end_watches(mesh_server *server); /* or they would hold up the drain for ever */

#endif
