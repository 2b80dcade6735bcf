/*
 * An HTTP/2 connection, either side, and its streams. The only door to nghttp2.
 *
 * Everything here is on_loop. Nothing is written before the end of the turn: then one flush gathers what all streams have to
 * say into as few send() calls as the socket takes. Closing is deferred to the same place, so that no callback finds its
 * connection gone.
 *
 * Memory is bounded: received bytes by the windows (bytes are given back when the reader takes them), bytes to send by the
 * owner's accounting per stream and by `queued_bytes` per connection: over the limit a server takes no new streams, and while the
 * peer does not read, neither do we.
 */
#ifndef MESH_WIRE_H2_H
#define MESH_WIRE_H2_H

#include "base/address.h"
#include "loop/loop.h"
#include "stats/stats.h"
#include "wire/abuse.h"
#include "wire/headers.h"

struct nghttp2_session;
struct mesh__discovered_id;
struct mesh__secure;
struct mesh__secure_options;
struct mesh__spiffe_id;
struct mesh__conn;
struct mesh__stream;

enum mesh__conn_state {
#define MESH_CONN_STATE(name, next) MESH__CONN_##name,
#include "tables/states.def"
#undef MESH_CONN_STATE
};

/* What HTTP/2 calls an error code; the few that we use. */
enum {
	MESH__H2_NO_ERROR = 0x0,
	MESH__H2_PROTOCOL_ERROR = 0x1,
	MESH__H2_INTERNAL_ERROR = 0x2,
	MESH__H2_STREAM_CLOSED = 0x5,
	MESH__H2_REFUSED_STREAM = 0x7,
	MESH__H2_CANCEL = 0x8,
	MESH__H2_ENHANCE_YOUR_CALM = 0xb
};

struct mesh__conn_limits {
	uint32_t streams_max;          /* that the peer may have open (server), or that we want open at once (client) */
	uint32_t stream_window_bytes, connection_window_bytes;
	uint32_t header_bytes_max, header_count_max;
	uint64_t queued_bytes_max;     /* over it a server takes no new streams, nor reads from a peer that does not read either */
	uint64_t connect_timeout_ns, preface_timeout_ns, header_timeout_ns, body_timeout_ns, write_timeout_ns, idle_timeout_ns;
	uint64_t age_max_ns;           /* 0: no limit */
	uint64_t keepalive_interval_ns, keepalive_timeout_ns; /* interval 0: off */
	uint32_t resets_burst, resets_per_sec;
};

/* One piece of a body on its way out. `release` runs once its bytes have been taken, or will never be. */
struct mesh__chunk {
	struct mesh__chunk *next;
	const uint8_t *data;
	size_t len;
	void (*release)(struct mesh__chunk *chunk, struct mesh__stream *stream);
};

struct mesh__stream_events {
	/* The header block of a request or of the final answer is complete. `is_end`: no body follows. */
	void (*on_headers)(struct mesh__stream *stream, bool is_end);
	/* Body bytes. Whoever takes them says so, now or later: mesh__stream_consume(). */
	void (*on_data)(struct mesh__stream *stream, const uint8_t *data, size_t len);
	/* The peer has said all it will; trailers, if any, are in stream->headers. Not after on_headers(is_end). */
	void (*on_end)(struct mesh__stream *stream);
	/* Every chunk given so far has been taken. */
	void (*on_drained)(struct mesh__stream *stream);
	/* The stream is over and off its connection. `unprocessed`: the peer provably never acted on it. The last one. */
	void (*on_close)(struct mesh__stream *stream, uint32_t error_code, bool unprocessed);
};

struct mesh__stream {
	const struct mesh__stream_events *events;
	struct mesh__conn *conn; /* NULL: not open */
	struct mesh__list node;
	int32_t id;
	bool has_headers;     /* the (final) header block has come */
	bool ended_by_peer;   /* END_STREAM seen */
	bool is_gathering;    /* set by a server that waits for the whole body: option body.timeout applies */
	bool end_queued;      /* mesh__stream_send_end() was called */
	bool end_sent;        /* ... and has been serialised */
	bool is_deferred;     /* nghttp2 waits for more chunks */
	bool headers_refused; /* a header block, or the trailers, went over a limit */
	bool has_stalled;     /* we reset it: the peer took no bytes for write.timeout */
	struct mesh__headers headers;
	struct mesh__chunk *out_first, **out_last;
	uint64_t out_bytes;         /* in chunks, not yet taken */
	size_t out_taken;           /* of the first chunk */
	const struct mesh_header *trailers;
	uint32_t trailer_count;
	uint64_t sent_bytes, received_bytes; /* body */
	uint64_t headers_at;        /* position in the connection's output where its header block begins; UINT64_MAX: not yet */
	uint64_t opened_ns, last_in_ns, last_out_ns;
	uint32_t unconsumed_bytes;
};

struct mesh__conn_events {
	void (*on_open)(struct mesh__conn *conn);                   /* the peer has sent its SETTINGS (client), or was accepted (server) */
	struct mesh__stream *(*on_request)(struct mesh__conn *conn); /* server: storage for a new stream; NULL refuses it */
	void (*on_room)(struct mesh__conn *conn);                   /* client: a stream may be opened again */
	void (*on_draining)(struct mesh__conn *conn);               /* no new streams from now on */
	void (*on_close)(struct mesh__conn *conn);                  /* all streams are gone; the owner frees it now */
	void (*on_abuse)(struct mesh__conn *conn, const char *kind); /* server: a bucket ran low or dry */
};

struct mesh__conn {
	const struct mesh__conn_events *events;
	void *owner;
	struct mesh__loop *lp;
	struct nghttp2_session *session;
	enum mesh__conn_state state;
	bool is_server, got_settings, reading_paused, said_last_goaway;
	bool is_broken; /* the socket failed, or the peer would not understand: nothing more is written */
	bool is_silent; /* the peer may hear nothing more than that we close: what is queued for it stays here */
	bool has_input; /* server: the peer has said something */
	bool lingers;   /* server: it turned the peer away, and gives it time to hear why */
	size_t lingered_bytes; /* 0: it has not begun to; else one more than were read and dropped */
	int fd;
	struct mesh__watch watch;
	struct mesh__flush flush;
	struct mesh__timer tick;
	struct mesh__conn_limits limits;
	struct mesh__address peer;
	struct mesh__list streams;
	uint32_t stream_count;
	uint8_t *unsent; /* what the socket did not take */
	size_t unsent_at, unsent_len;
	uint8_t *gather; /* lp->scratch while flushing */
	size_t gathered;
	uint64_t enqueued_bytes, written_bytes, queued_bytes; /* before encryption; queued: chunks of all streams */
	int32_t header_stream_id; /* whose header block began at header_since_ns */
	int32_t last_peer_id;     /* server: the highest stream that the peer has opened */
	struct {
		int32_t ids[32];   /* streams that we reset: what the peer had on its way for them is ignored (RFC 9113, 5.1) */
		uint32_t count;    /* ever */
		int32_t forgotten; /* the highest that fell out of the list */
	} resets;
	uint32_t pings; /* since the peer last said something on a stream */
	uint64_t opened_ns, last_read_ns, last_write_ns, last_active_ns, header_since_ns, ping_sent_ns, drain_since_ns;
	struct mesh__abuse abuse;
	mesh__cell *sent_cell, *received_cell; /* bytes on the wire; may be NULL */
	int32_t close_code;       /* MESH_E_* that streams end with; 0: in order */
	char close_reason[32];    /* a short label for counters: "idle", "lost", "ping_flood" */
	char close_text[384];     /* for people */
	const struct mesh__secure_options *secure_options; /* NULL: plain text */
	struct mesh__discovered_id *discovered;    /* client: whom discovery expects, when the handshake begins; the owner's; NULL: nobody */
	struct mesh__secure *secure;               /* its TLS, from the handshake on */
	const struct mesh__spiffe_id *peer_id;     /* verified; NULL: plain text, or not open yet; valid until on_close() returns */
};

/*
 * Client: starts connecting. Server: takes over an accepted descriptor. `secure` NULL is plain text, see wire/secure.h.
 * On an error nothing happened, and `fd` is closed.
 * `conn` is the caller's storage, zeroed by us; after events->on_close() it is the caller's again.
 */
int mesh__conn_connect(struct mesh__conn *conn, struct mesh__loop *lp, const struct mesh__address *peer, const struct mesh__conn_limits *limits,
		       const struct mesh__secure_options *secure, const struct mesh__conn_events *events, void *owner);
/* The same with a socket of any family that is connecting, or connected already; `peer` may be no address at all. */
int mesh__conn_connect_fd(struct mesh__conn *conn, struct mesh__loop *lp, int fd, const struct mesh__address *peer,
			  const struct mesh__conn_limits *limits, const struct mesh__secure_options *secure, const struct mesh__conn_events *events,
			  void *owner);
int mesh__conn_accept(struct mesh__conn *conn, struct mesh__loop *lp, int fd, const struct mesh__address *peer,
		      const struct mesh__conn_limits *limits, const struct mesh__secure_options *secure, const struct mesh__conn_events *events,
		      void *owner);

/* Takes no new streams; says GOAWAY; ends when the last stream has. */
void mesh__conn_drain(struct mesh__conn *conn);
/* The same, of an open one, with the reason that it will have ended for. */
void mesh__conn_retire(struct mesh__conn *conn, const char *reason, const char *text);

/* Ends at the end of this turn. `reason` is a label, `text` a phrase for people; `code` is what open streams end with. */
void mesh__conn_close(struct mesh__conn *conn, int32_t code, const char *reason, const char *text);

/* Ends right now: only outside of the connection's own callbacks (closing the loop). */
void mesh__conn_abort(struct mesh__conn *conn, int32_t code, const char *reason, const char *text);

/* Looks at all open TLS connections of the loop: those that were made with what is not trusted any more end at the end of this turn. */
void mesh__conn_judge_all(struct mesh__loop *lp);

bool mesh__conn_has_room(const struct mesh__conn *conn);

/*
 * Opens a stream on a client connection. `fields` and what they point to must live until on_close. `stream` is zeroed storage
 * with `events` set; chunks may be queued before. Errors: MESH_E_NOMEM, MESH_E_STATE (no room), MESH_E_PROTOCOL.
 */
int mesh__stream_open(struct mesh__stream *stream, struct mesh__conn *conn, const struct mesh_header *fields, uint32_t count, bool has_body);
void mesh__stream_init(struct mesh__stream *stream, const struct mesh__stream_events *events);

/* Server: the header block of the answer. Without a body the stream ends with it. */
int mesh__stream_respond(struct mesh__stream *stream, const struct mesh_header *fields, uint32_t count, bool has_body);

/* Server: 100 (Continue), for a peer that waits for it with the body. Before mesh__stream_respond(). */
void mesh__stream_continue(struct mesh__stream *stream);

void mesh__stream_send(struct mesh__stream *stream, struct mesh__chunk *chunk);
/* No chunk follows. `trailers` (may be none) must live until on_close. */
void mesh__stream_send_end(struct mesh__stream *stream, const struct mesh_header *trailers, uint32_t count);
void mesh__stream_reset(struct mesh__stream *stream, uint32_t error_code); /* on_close follows, later */
void mesh__stream_consume(struct mesh__stream *stream, size_t bytes);      /* reader took them; fine after on_close */
void mesh__stream_fini(struct mesh__stream *stream, struct mesh__pool *pool);

#endif
