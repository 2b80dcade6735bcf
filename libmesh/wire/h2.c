/*
 * The engine of a connection: bytes in, frames out, timers, the end. What the frames mean is in h2_session.c.
 *
 * Reading: readable -> recv into the loop's scratch -> nghttp2 -> our callbacks -> flush later.
 * Writing: end of turn -> nghttp2 serialises frame by frame into the scratch -> send. What the socket does not take is kept
 * (`unsent`), and nothing more is serialised until it has left: the bytes wait in the streams, where they are counted.
 * With TLS, ciphertext is received into the scratch and plain bytes come out in lp->sealed; what is sent goes the other way.
 * Ending: any step may call mesh__conn_close(); the flush then says what is left to say, and end() takes all apart. A server that has
 * told a peer why its handshake failed lingers a moment: a client sends its request right behind the handshake, and closing with
 * bytes unread, or still on their way, makes a reset that overtakes what we said.
 */
#include "wire/h2.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/memory.h"
#include "wire/h2_session.h"
#include "wire/secure.h"
#include "wire/socket.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <string.h>

enum {
	READS_PER_TURN_MAX = 4, /* then the others get their turn */
	OUTBOUND_FRAMES_MAX = 1000, /* of control: answers to a peer that does not read them */
	PINGS_IN_SILENCE = 3,
	LINGER_BYTES_MAX = 256 * 1024 /* of a peer that was turned away */
};

#define TICK_NS MESH__NS_PER_SEC /* how often a connection looks at its timeouts: they are seconds to minutes */
#define LINGER_NS MESH__NS_PER_SEC /* for a peer that was turned away to hear why */
#define LONG_PING_NS (310 * MESH__NS_PER_SEC)
#define COMPLAIN_EVERY_NS (10 * MESH__NS_PER_SEC)

static const struct {
	const char *name;
	unsigned next;
} states[] = {
#define MESH_CONN_STATE(name, next) { #name, next },
#include "tables/states.def"
#undef MESH_CONN_STATE
};

static void set_state(struct mesh__conn *conn, enum mesh__conn_state to)
{
	if (states[conn->state].next & (1u << to))
		conn->state = to;
	else
		mesh__log_write(conn->lp->log, MESH_LOG_ERROR, "connection: illegal move from %s to %s", states[conn->state].name,
				states[to].name);
}

/*
 * The last words of a TLS session. What the peer has sent meanwhile is taken off the socket: closing with bytes unread resets the
 * connection, and the reset might overtake what we said.
 */
static void end_tls(struct mesh__conn *conn)
{
	struct mesh__loop *lp = conn->lp;
	ssize_t n;

	if (conn->is_broken || conn->unsent_len || !mesh__descriptors_is_ours(conn->fd))
		return;
	if (conn->session) {
		n = mesh__tls_close_notify(conn->secure->tls, lp->sealed, mesh__tls_sealed_max(MESH__LOOP_BUFFER_BYTES));
		if (n > 0)
			mesh__socket_send(conn->fd, lp->sealed, (size_t)n);
	}
	mesh__socket_recv(conn->fd, lp->scratch, MESH__LOOP_BUFFER_BYTES);
}

static void end(struct mesh__conn *conn)
{
	struct mesh__secure *secure = conn->secure;
	struct mesh__list *node;

	if (secure) {
		end_tls(conn);
		if (!secure->is_confirmed && conn->close_code != MESH_E_CLOSING)
			mesh__secure_count_failure(secure, conn->close_reason);
	}
	set_state(conn, MESH__CONN_CLOSED);
	mesh__timer_cancel(&conn->tick);
	mesh__watch_close(&conn->watch);
	/* A peer that takes nothing would make the kernel keep megabytes for it. */
	if (conn->unsent_len)
		mesh__socket_reset_on_close(conn->fd);
	mesh__descriptors_close(conn->fd);
	conn->fd = -1;
	if (conn->flush.node.next)
		mesh__list_remove(&conn->flush.node);
	while ((node = mesh__list_take_first(&conn->streams))) {
		struct mesh__stream *stream = MESH__CONTAINER(node, struct mesh__stream, node);

		mesh__h2_stream_closed(stream, MESH__H2_CANCEL, stream->headers_at >= conn->written_bytes);
	}
	nghttp2_session_del(conn->session);
	conn->session = NULL;
	mesh__memory_free(conn->unsent);
	conn->unsent = NULL;
	conn->events->on_close(conn);
	mesh__secure_release(secure);
}

void mesh__conn_remember(struct mesh__conn *conn, int32_t code, const char *reason, const char *text)
{
	if (conn->close_reason[0])
		return;
	conn->close_code = code;
	snprintf(conn->close_reason, sizeof(conn->close_reason), "%s", reason);
	snprintf(conn->close_text, sizeof(conn->close_text), "%.*s", (int)sizeof(conn->close_text) - 1, text); /* cut, if need be */
}

void mesh__conn_close(struct mesh__conn *conn, int32_t code, const char *reason, const char *text)
{
	if (conn->state >= MESH__CONN_CLOSING)
		return;
	mesh__conn_remember(conn, code, reason, text);
	set_state(conn, MESH__CONN_CLOSING);
	mesh__loop_flush_later(conn->lp, &conn->flush);
}

void mesh__conn_abort(struct mesh__conn *conn, int32_t code, const char *reason, const char *text)
{
	if (conn->state == MESH__CONN_CLOSED)
		return;
	mesh__conn_remember(conn, code, reason, text);
	if (conn->state != MESH__CONN_CLOSING)
		set_state(conn, MESH__CONN_CLOSING);
	end(conn);
}

/* What an end says about the handshake, for an end that says nothing itself. */
static const char *handshake_part(const struct mesh__conn *conn)
{
	const struct mesh__secure *secure = conn->secure;

	if (!secure || secure->is_confirmed)
		return "";
	if (conn->state != MESH__CONN_HANDSHAKING || (conn->is_server && !secure->is_busy && secure->tls))
		return " when it had our certificate, and does not say why: perhaps it does not accept it";
	return " during the TLS handshake";
}

static void close_as_lost(struct mesh__conn *conn, const char *what)
{
	const char *part = handshake_part(conn);
	char text[sizeof(conn->close_text)];

	snprintf(text, sizeof(text), "%s%s", what, part);
	mesh__conn_close(conn, *part ? MESH_E_HANDSHAKE : MESH_E_LOST, "lost", text);
}

static void close_with_errno(struct mesh__conn *conn, int number)
{
	conn->is_broken = true;
	close_as_lost(conn, strerrordesc_np(number) ? strerrordesc_np(number) : "unknown error");
}

/* --- writing --- */

static void want_events(struct mesh__conn *conn)
{
	bool is_deaf = conn->reading_paused || (conn->state == MESH__CONN_HANDSHAKING && conn->secure->is_busy);
	int what = is_deaf ? 0 : MESH__WATCH_READ;

	if (conn->unsent_len || conn->state == MESH__CONN_CONNECTING)
		what |= MESH__WATCH_WRITE;
	if (conn->fd >= 0 && mesh__watch_want(&conn->watch, what))
		mesh__conn_close(conn, MESH_E_NOMEM, "nomem", "out of memory while watching the socket");
}

static void count_sent(struct mesh__conn *conn, size_t n)
{
	/* Of a batch that is encrypted nobody knows which frames have left; that none did is known. */
	conn->written_bytes = conn->secure ? conn->enqueued_bytes : conn->written_bytes + n;
	conn->last_write_ns = conn->lp->now_ns;
	if (conn->sent_cell)
		mesh__counter_add(conn->sent_cell, mesh__shard_mine(), n);
}

static bool keep_unsent(struct mesh__conn *conn, const uint8_t *data, size_t len)
{
	uint8_t *bigger = mesh__memory_realloc(conn->unsent, conn->unsent_at + conn->unsent_len + len);

	if (!bigger) {
		mesh__conn_close(conn, MESH_E_NOMEM, "nomem", "out of memory while writing");
		return false;
	}
	memcpy(bigger + conn->unsent_at + conn->unsent_len, data, len);
	conn->unsent = bigger;
	conn->unsent_len += len;
	want_events(conn);
	return true;
}

/* Gives data to the socket; keeps what it does not take. false: the connection is broken. */
static bool write_out(struct mesh__conn *conn, const uint8_t *data, size_t len)
{
	ssize_t n = conn->unsent_len ? -EAGAIN : mesh__socket_send(conn->fd, data, len);

	if (n < 0 && n != -EAGAIN) {
		close_with_errno(conn, (int)-n);
		return false;
	}
	if (n > 0) {
		count_sent(conn, (size_t)n);
		data += n;
		len -= (size_t)n;
	}
	return len == 0 || keep_unsent(conn, data, len);
}

static bool write_sealed(struct mesh__conn *conn, const uint8_t *plain, size_t len)
{
	uint8_t *sealed = conn->lp->sealed;
	ssize_t n = mesh__tls_encrypt(conn->secure->tls, plain, len, sealed, mesh__tls_sealed_max(MESH__LOOP_BUFFER_BYTES));

	if (n >= 0)
		return write_out(conn, sealed, (size_t)n);
	conn->is_broken = true;
	mesh__conn_close(conn, MESH_E_LOST, "tls", mesh__tls_why(conn->secure->tls));
	return false;
}

bool mesh__h2_gather_flush(struct mesh__conn *conn)
{
	size_t len = conn->gathered;

	conn->gathered = 0;
	return len == 0 || (conn->secure ? write_sealed(conn, conn->gather, len) : write_out(conn, conn->gather, len));
}

/* More is to come: what fills no record waits for it. */
static bool make_room(struct mesh__conn *conn)
{
	size_t len = conn->gathered, rest = conn->secure ? len % mesh__tls_record_room(conn->secure->tls) : 0;

	if (rest == len)
		return mesh__h2_gather_flush(conn);
	conn->gathered = len - rest;
	if (!mesh__h2_gather_flush(conn))
		return false;
	memmove(conn->gather, conn->gather + len - rest, rest);
	conn->gathered = rest;
	return true;
}

uint8_t *mesh__h2_gather(struct mesh__conn *conn, size_t len)
{
	uint8_t *at;

	if (conn->gathered + len > MESH__LOOP_BUFFER_BYTES && (!make_room(conn) || conn->unsent_len))
		return NULL;
	at = conn->gather + conn->gathered;
	conn->gathered += len;
	conn->enqueued_bytes += len;
	return at;
}

static void serialise(struct mesh__conn *conn)
{
	const uint8_t *data;
	uint8_t *at;

	conn->gather = conn->lp->scratch;
	conn->gathered = 0;
	while (!conn->unsent_len) {
		/* Room for a whole frame first: what nghttp2 hands out cannot be handed back. */
		if (conn->gathered + MESH__H2_FRAME_BYTES_MAX > MESH__LOOP_BUFFER_BYTES) {
			if (!make_room(conn) || conn->unsent_len)
				break;
		}
		ssize_t n = nghttp2_session_mem_send(conn->session, &data);

		if (n < 0) {
			mesh__conn_close(conn, n == NGHTTP2_ERR_NOMEM ? MESH_E_NOMEM : MESH_E_PROTOCOL, "protocol", nghttp2_strerror((int)n));
			break;
		}
		if (n == 0)
			break;
		at = mesh__h2_gather(conn, (size_t)n);
		if (!at) {
			mesh__conn_close(conn, MESH_E_INTERNAL, "internal", "a frame is larger than the buffer for frames");
			break;
		}
		memcpy(at, data, (size_t)n);
	}
	mesh__h2_gather_flush(conn);
}

/*
 * A server does not read from a peer that does not read: nearly every frame is answered by one that would be kept here. As long as
 * the socket takes what we write we go on reading, however much waits in streams: the peer's WINDOW_UPDATE is what lets it out.
 */
static void pause_or_resume_reading(struct mesh__conn *conn)
{
	bool pause = conn->is_server && conn->unsent_len &&
		     (conn->queued_bytes > conn->limits.queued_bytes_max ||
		      nghttp2_session_get_outbound_queue_size(conn->session) > OUTBOUND_FRAMES_MAX);

	if (pause == conn->reading_paused)
		return;
	conn->reading_paused = pause;
	want_events(conn);
}

/* --- lingering --- */

/* false: no need to, or no more. */
static bool linger(struct mesh__conn *conn)
{
	if (!conn->lingers || conn->is_broken || conn->unsent_len || !mesh__descriptors_is_ours(conn->fd))
		return false;
	if (conn->lingered_bytes)
		return true;
	conn->lingered_bytes = 1;
	mesh__secure_shrink(conn->secure);
	mesh__socket_end_output(conn->fd);
	mesh__timer_set(conn->lp, &conn->tick, conn->lp->now_ns + LINGER_NS);
	want_events(conn);
	return true;
}

static void stop_lingering(struct mesh__conn *conn)
{
	conn->lingers = false;
	mesh__loop_flush_later(conn->lp, &conn->flush);
}

static void read_lingering(struct mesh__conn *conn)
{
	ssize_t n = mesh__socket_recv(conn->fd, conn->lp->scratch, MESH__LOOP_BUFFER_BYTES);

	if (n > 0)
		conn->lingered_bytes += (size_t)n;
	if ((n <= 0 && n != -EAGAIN) || conn->lingered_bytes > LINGER_BYTES_MAX)
		stop_lingering(conn);
}

/* --- the end of a turn --- */

static void on_flush(struct mesh__flush *flush, struct mesh__loop *lp)
{
	struct mesh__conn *conn = MESH__CONTAINER(flush, struct mesh__conn, flush);

	(void)lp;
	if (conn->state == MESH__CONN_CONNECTING || conn->state == MESH__CONN_HANDSHAKING)
		return;
	/* Our SETTINGS wait for the peer's first bytes: they tell whether it would understand them. */
	if (conn->state == MESH__CONN_OPEN && conn->is_server && !conn->has_input)
		return;
	if (conn->fd >= 0 && !conn->unsent_len && conn->session && !conn->is_broken && !conn->is_silent)
		serialise(conn);
	if (conn->state == MESH__CONN_CLOSING) {
		if (!linger(conn))
			end(conn);
		return;
	}
	pause_or_resume_reading(conn);
	if (!conn->unsent_len && !nghttp2_session_want_read(conn->session) && !nghttp2_session_want_write(conn->session)) {
		mesh__conn_close(conn, MESH_E_LOST, conn->state == MESH__CONN_DRAINING ? "drained" : "goaway", "the connection was ended in order");
		return;
	}
	if (conn->state == MESH__CONN_DRAINING && conn->stream_count == 0 && !conn->unsent_len && conn->said_last_goaway)
		mesh__conn_close(conn, MESH_E_LOST, "drained", "the connection was drained");
}

/* --- reading --- */

/* Does the first line that we get ask for HTTP/1? (Without a line end yet it is as much of it as there is.) */
static bool is_http1(const uint8_t *data, size_t len)
{
	static const char version[] = " HTTP/1.";
	const uint8_t *line_end = memchr(data, '\n', len);

	return memmem(data, line_end ? (size_t)(line_end - data) : len, version, sizeof(version) - 1) != NULL;
}

/* In the peer's own words; frames would be garbage to it. */
static void turn_away_http1(struct mesh__conn *conn)
{
	static const char answer[] = "HTTP/1.1 505 HTTP Version Not Supported\r\nconnection: close\r\ncontent-type: text/plain\r\n\r\n"
				     "This server speaks HTTP/2 from the first byte on, and nothing else (curl --http2-prior-knowledge).\n";

	mesh__socket_send(conn->fd, answer, sizeof(answer) - 1); /* into an empty socket; if even that fails, closing must do */
	conn->is_broken = true;
	mesh__conn_close(conn, MESH_E_PROTOCOL, "protocol", "the peer speaks HTTP/1, not HTTP/2");
}

/* What the first bytes of somebody show who does not speak as we do; then the connection ends. */
static bool is_turned_away(struct mesh__conn *conn, const uint8_t *data, size_t len)
{
	static const uint8_t settings[] = { 0, 0, 0, 4, 0, 0, 0, 0, 0 }; /* empty: a client of TLS that is ours knows by it what is spoken here */

	if (conn->is_server && is_http1(data, len)) {
		turn_away_http1(conn);
	} else if (conn->is_server && mesh__tls_is_hello(data, len)) {
		mesh__socket_send(conn->fd, settings, sizeof(settings));
		conn->is_broken = true;
		mesh__conn_close(conn, MESH_E_PROTOCOL, "tls", "the peer speaks TLS, this server plain text (MESH_TLS=off)");
	} else if (!conn->is_server && mesh__tls_is_alert_record(data, len)) {
		conn->is_broken = true;
		mesh__conn_close(conn, MESH_E_PROTOCOL, "tls", "the peer speaks TLS, this client plain text (MESH_TLS=off)");
	}
	return conn->is_broken;
}

static void take_plain(struct mesh__conn *conn, const uint8_t *data, size_t len)
{
	ssize_t rv;

	conn->has_input = true;
	rv = nghttp2_session_mem_recv(conn->session, data, len);
	if (rv < 0 && conn->state < MESH__CONN_CLOSING)
		mesh__h2_input_failed(conn, (int)rv);
}

static void tls_ended(struct mesh__conn *conn, ssize_t how)
{
	struct mesh__secure *secure = conn->secure;

	if (how == MESH__TLS_END) {
		close_as_lost(conn, "the peer closed the connection");
	} else if (how == MESH__TLS_DEAF) {
		mesh__h2_say_last_goaway(conn);
		mesh__conn_close(conn, MESH_E_LOST, mesh__tls_reason(secure->tls), mesh__tls_why(secure->tls));
	} else if (!secure->is_confirmed) {
		/* In TLS 1.3 a client learns only after its own last message what the server thinks of it. */
		conn->is_broken = true;
		mesh__conn_close(conn, MESH_E_HANDSHAKE, mesh__tls_reason(secure->tls), mesh__tls_why(secure->tls));
	} else {
		conn->is_broken = true;
		mesh__conn_close(conn, MESH_E_LOST, "tls", mesh__tls_why(secure->tls));
	}
}

/* All that these bytes hold, in one go: no part of them waits for a readiness that may not come again. */
static void take_sealed(struct mesh__conn *conn, const uint8_t *data, size_t len)
{
	struct mesh__tls *tls = conn->secure->tls;
	uint8_t *plain = conn->lp->sealed;
	ssize_t n = 0;

	mesh__tls_feed(tls, data, len);
	while (conn->state < MESH__CONN_CLOSING && (n = mesh__tls_decrypt(tls, plain, MESH__LOOP_BUFFER_BYTES)) > 0) {
		mesh__secure_confirm(conn->secure);
		take_plain(conn, plain, (size_t)n);
	}
	mesh__tls_feed(tls, NULL, 0);
	if (n < 0)
		tls_ended(conn, n);
}

static void count_received(struct mesh__conn *conn, uint64_t n)
{
	conn->last_read_ns = conn->lp->now_ns;
	if (conn->received_cell)
		mesh__counter_add(conn->received_cell, mesh__shard_mine(), n);
}

/* Bytes, or 0: none now, or the connection has failed. */
static size_t receive(struct mesh__conn *conn)
{
	ssize_t n = mesh__socket_recv(conn->fd, conn->lp->scratch, MESH__LOOP_BUFFER_BYTES);

	if (n > 0)
		return (size_t)n;
	if (n == 0)
		close_as_lost(conn, "the peer closed the connection");
	else if (n != -EAGAIN)
		close_with_errno(conn, (int)-n);
	return 0;
}

static void read_some(struct mesh__conn *conn)
{
	struct mesh__loop *lp = conn->lp;
	uint64_t total = 0;
	bool more = true;

	for (int i = 0; more && i < READS_PER_TURN_MAX && conn->state < MESH__CONN_CLOSING; i++) {
		size_t n = receive(conn);

		if (!n)
			break;
		total += n;
		more = n == MESH__LOOP_BUFFER_BYTES;
		if (conn->secure)
			take_sealed(conn, lp->scratch, n);
		else if (conn->has_input || !is_turned_away(conn, lp->scratch, n))
			take_plain(conn, lp->scratch, n);
	}
	if (total)
		count_received(conn, total);
	mesh__loop_flush_later(lp, &conn->flush);
}

static void write_unsent(struct mesh__conn *conn)
{
	ssize_t n = mesh__socket_send(conn->fd, conn->unsent + conn->unsent_at, conn->unsent_len);

	if (n == -EAGAIN)
		return;
	if (n < 0) {
		close_with_errno(conn, (int)-n);
		return;
	}
	count_sent(conn, (size_t)n);
	conn->unsent_at += (size_t)n;
	conn->unsent_len -= (size_t)n;
	if (conn->unsent_len)
		return;
	mesh__memory_free(conn->unsent);
	conn->unsent = NULL;
	conn->unsent_at = 0;
	want_events(conn);
	mesh__loop_flush_later(conn->lp, &conn->flush);
}

static void opened(struct mesh__conn *conn)
{
	conn->opened_ns = conn->last_read_ns = conn->last_write_ns = conn->last_active_ns = conn->lp->now_ns;
	set_state(conn, MESH__CONN_OPEN);
	want_events(conn);
	if (mesh__h2_begin(conn)) {
		mesh__conn_close(conn, MESH_E_NOMEM, "nomem", "out of memory");
		return;
	}
	/* A client waits for the peer's SETTINGS: one that goes away before has seen no request. */
	if (conn->is_server)
		conn->events->on_open(conn);
	mesh__loop_flush_later(conn->lp, &conn->flush);
	mesh__timer_set(conn->lp, &conn->tick, conn->lp->now_ns + TICK_NS);
}

/* --- TLS handshake --- */

static void step(struct mesh__conn *conn)
{
	if (mesh__secure_step(conn->secure))
		want_events(conn);
	else
		mesh__conn_close(conn, MESH_E_HANDSHAKE, "handshake_queue", "too many TLS handshakes wait already (option handshakes.max)");
}

static void begin_handshake(struct mesh__conn *conn)
{
	const struct mesh__secure_options *opts = conn->secure_options;

	if (mesh__secure_new(conn, opts, conn->is_server, &conn->secure)) {
		mesh__conn_close(conn, MESH_E_NOMEM, "nomem", "out of memory for a TLS session");
		return;
	}
	set_state(conn, MESH__CONN_HANDSHAKING);
	mesh__timer_set(conn->lp, &conn->tick, conn->lp->now_ns + opts->timeout_ns);
	if (conn->is_server)
		want_events(conn);
	else
		step(conn);
}

static void handshake_failed(struct mesh__conn *conn)
{
	struct mesh__secure *secure = conn->secure;

	if (conn->is_server && !secure->tls) /* there was nothing yet that could have told the client */
		mesh__socket_send(conn->fd, mesh__tls_cannot_begin, sizeof(mesh__tls_cannot_begin));
	if (secure->code == MESH_E_IDENTITY && (!conn->lp->complained_ns || conn->lp->now_ns - conn->lp->complained_ns >= COMPLAIN_EVERY_NS)) {
		conn->lp->complained_ns = conn->lp->now_ns;
		mesh__log_write(conn->lp->log, MESH_LOG_ERROR, "no TLS handshake: %s", secure->why);
	}
	conn->lingers = conn->is_server && secure->out.len;
	mesh__conn_close(conn, secure->code, secure->reason, secure->why);
}

/* Other credentials may be there by now: ours were replaced or revoked, or the peer's issuer was. */
static void judge_credentials(struct mesh__conn *conn)
{
	switch (mesh__secure_judge(conn->secure, conn->lp)) {
	case MESH__OLD_ENDS:
		conn->is_silent = true;
		mesh__conn_close(conn, MESH_E_IDENTITY, "revoked", "the identity with which this connection was made, or its peer's, is not trusted any more");
		return;
	case MESH__OLD_DRAINS:
		mesh__conn_retire(conn, "rotated", "the connection made way for one with newer credentials");
		return;
	case MESH__OLD_STAYS:
		return;
	}
}

static void handshake_done(struct mesh__conn *conn)
{
	struct mesh__secure *secure = conn->secure;
	uint8_t *rest = secure->in;
	size_t len = secure->in_len;

	mesh__tls_settle(secure->tls, conn->lp->records);
	conn->peer_id = mesh__tls_peer_id(secure->tls);
	conn->has_input = true; /* that it understands HTTP/2 has been agreed on */
	if (conn->is_server)
		mesh__secure_confirm(secure);
	secure->in = NULL;
	secure->in_len = secure->in_capacity = 0;
	mesh__list_append(&conn->lp->secured, &secure->node);
	opened(conn);
	if (conn->state < MESH__CONN_CLOSING)
		judge_credentials(conn); /* what was good when it began may have been taken back */
	if (len && conn->state < MESH__CONN_CLOSING)
		take_sealed(conn, rest, len);
	mesh__memory_free(rest);
}

void mesh__h2_handshake_stepped(struct mesh__conn *conn)
{
	struct mesh__secure *secure = conn->secure;

	if (conn->state != MESH__CONN_HANDSHAKING)
		return;
	if (secure->progress == MESH__TLS_FAILED) /* first: that it cannot be told any more is not why */
		mesh__conn_remember(conn, secure->code, secure->reason, secure->why);
	if (secure->out.len && !write_out(conn, secure->out.data, secure->out.len))
		return;
	if (secure->progress == MESH__TLS_FAILED) {
		handshake_failed(conn);
	} else if (secure->progress == MESH__TLS_DONE) {
		mesh__memory_free(secure->out.data);
		secure->out = (struct mesh__tls_output){ 0 };
		handshake_done(conn);
	} else {
		want_events(conn);
	}
}

/* So that both sides know: in its own words where it has any, else with the alert of TLS (unexpected message). */
static void turn_away_plaintext(struct mesh__conn *conn, const uint8_t *data, size_t len, const char *what)
{
	static const char answer[] = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\r\n"
				     "This port speaks TLS 1.3 with a client certificate, and nothing else.\n";
	static const uint8_t alert[] = { 21, 3, 3, 0, 2, 2, 10 };

	if (conn->is_server && is_http1(data, len))
		mesh__socket_send(conn->fd, answer, sizeof(answer) - 1);
	else
		mesh__socket_send(conn->fd, alert, sizeof(alert));
	conn->lingers = conn->is_server;
	mesh__conn_close(conn, MESH_E_HANDSHAKE, "plaintext", what);
}

static void read_handshake(struct mesh__conn *conn)
{
	struct mesh__secure *secure = conn->secure;
	uint8_t *data = conn->lp->scratch;
	size_t n = receive(conn);
	const char *plaintext;

	if (!n)
		return;
	count_received(conn, n);
	plaintext = conn->has_input ? NULL : mesh__tls_name_plaintext(data, n);
	conn->has_input = true;
	if (plaintext)
		turn_away_plaintext(conn, data, n, plaintext);
	else if (mesh__secure_add(secure, data, n))
		mesh__conn_close(conn, MESH_E_NOMEM, "nomem", "out of memory during a TLS handshake");
	else if (mesh__secure_has_record(secure))
		step(conn);
}

static void handshake_timed_out(struct mesh__conn *conn)
{
	char text[160];

	snprintf(text, sizeof(text), "the TLS handshake took longer than %.1f s: %s", (double)conn->secure_options->timeout_ns / (double)MESH__NS_PER_SEC,
		 conn->secure->is_busy ? "this process is too busy with others" : "the peer did not go on with it");
	mesh__conn_close(conn, MESH_E_HANDSHAKE, "handshake_timeout", text);
}

static void on_ready(struct mesh__watch *watch, struct mesh__loop *lp, int what)
{
	struct mesh__conn *conn = MESH__CONTAINER(watch, struct mesh__conn, watch);

	(void)lp;
	if (conn->state == MESH__CONN_CONNECTING) {
		int number = mesh__socket_result(conn->fd);

		if (number)
			close_with_errno(conn, number);
		else if (conn->secure_options)
			begin_handshake(conn);
		else
			opened(conn);
		return;
	}
	if (what & MESH__WATCH_WRITE && conn->unsent_len)
		write_unsent(conn);
	if (conn->state == MESH__CONN_CLOSING && conn->lingers)
		read_lingering(conn);
	if (!(what & MESH__WATCH_READ) || conn->state >= MESH__CONN_CLOSING)
		return;
	if (conn->state != MESH__CONN_HANDSHAKING)
		read_some(conn);
	else if (!conn->secure->is_busy)
		read_handshake(conn);
}

/* --- time --- */

static bool is_over(uint64_t since_ns, uint64_t limit_ns, uint64_t now_ns)
{
	return limit_ns && now_ns - since_ns >= limit_ns && now_ns > since_ns;
}

static void end_slow_stream(struct mesh__stream *stream, const char *kind)
{
	struct mesh__conn *conn = stream->conn;

	if (conn->is_server)
		conn->events->on_abuse(conn, kind);
	mesh__stream_reset(stream, MESH__H2_CANCEL);
}

static void check_streams(struct mesh__conn *conn, uint64_t now_ns)
{
	for (struct mesh__list *node = conn->streams.next, *next; node != &conn->streams; node = next) {
		struct mesh__stream *stream = MESH__CONTAINER(node, struct mesh__stream, node);

		next = node->next;
		if (stream->end_sent && conn->is_server) {
			if (is_over(stream->last_out_ns, TICK_NS, now_ns)) /* answered, but the request does not end */
				mesh__stream_reset(stream, MESH__H2_NO_ERROR);
		} else if (stream->is_gathering && is_over(stream->last_in_ns, conn->limits.body_timeout_ns, now_ns)) {
			mesh__h2_count_abuse(conn, MESH__ABUSE_PROVOKED, now_ns);
			end_slow_stream(stream, "body_timeout");
		} else if (stream->out_bytes && !stream->is_deferred && !stream->has_stalled &&
			   is_over(stream->last_out_ns, conn->limits.write_timeout_ns, now_ns)) {
			stream->has_stalled = true;
			end_slow_stream(stream, "write_stall");
		}
	}
}

/*
 * gRPC's servers take a third ping within five minutes in which they sent nothing for an attack, and hang up (gRFC A8). Three in a row
 * find out a peer that died lately; for one that dies in a longer silence there is also the kernel's keepalive (socket.c).
 */
static uint64_t ping_interval_ns(const struct mesh__conn *conn)
{
	uint64_t interval_ns = conn->limits.keepalive_interval_ns;

	return conn->pings < PINGS_IN_SILENCE || interval_ns > LONG_PING_NS ? interval_ns : LONG_PING_NS;
}

static void keep_alive(struct mesh__conn *conn, uint64_t now_ns)
{
	if (!conn->limits.keepalive_interval_ns || conn->reading_paused)
		return;
	if (conn->ping_sent_ns && is_over(conn->ping_sent_ns, conn->limits.keepalive_timeout_ns, now_ns)) {
		mesh__conn_close(conn, MESH_E_LOST, "keepalive", "the peer did not answer a keepalive ping");
		return;
	}
	if (!conn->ping_sent_ns && conn->stream_count && is_over(conn->last_read_ns, ping_interval_ns(conn), now_ns)) {
		conn->ping_sent_ns = now_ns;
		conn->pings++;
		mesh__h2_ping(conn);
	}
}

/* The reason to end this connection now, or NULL. */
static const char *overdue(const struct mesh__conn *conn, uint64_t now_ns, const char **text)
{
	const struct mesh__conn_limits *limits = &conn->limits;

	if (!conn->got_settings && is_over(conn->opened_ns, limits->preface_timeout_ns, now_ns)) {
		*text = "the peer sent no HTTP/2 preface in time: is it an HTTP/2 peer?";
		return "preface_timeout";
	}
	if (conn->header_since_ns && is_over(conn->header_since_ns, limits->header_timeout_ns, now_ns)) {
		*text = "the peer did not finish a header block in time";
		return "header_timeout";
	}
	if (conn->unsent_len && is_over(conn->last_write_ns, limits->write_timeout_ns, now_ns)) {
		*text = "the peer did not read for too long";
		return "write_stall";
	}
	return NULL;
}

void mesh__conn_judge_all(struct mesh__loop *lp)
{
	for (struct mesh__list *node = lp->secured.next, *next; node != &lp->secured; node = next) {
		struct mesh__conn *conn = MESH__CONTAINER(node, struct mesh__secure, node)->conn;

		next = node->next;
		if (conn->state < MESH__CONN_CLOSING)
			judge_credentials(conn);
	}
}

static void on_tick(struct mesh__timer *timer, struct mesh__loop *lp)
{
	struct mesh__conn *conn = MESH__CONTAINER(timer, struct mesh__conn, tick);
	uint64_t now_ns = lp->now_ns;
	const char *reason, *text = "";

	if (conn->state == MESH__CONN_CONNECTING) {
		mesh__conn_close(conn, MESH_E_LOST, "connect_timeout", "no answer to the connection attempt in time");
		return;
	}
	if (conn->state == MESH__CONN_HANDSHAKING) {
		handshake_timed_out(conn);
		return;
	}
	if (conn->state == MESH__CONN_CLOSING && conn->lingers) {
		stop_lingering(conn);
		return;
	}
	reason = overdue(conn, now_ns, &text);
	if (reason) {
		mesh__conn_close(conn, MESH_E_LOST, reason, text);
		return;
	}
	if (conn->stream_count)
		conn->last_active_ns = now_ns;
	check_streams(conn, now_ns);
	keep_alive(conn, now_ns);
	if (conn->secure && conn->state < MESH__CONN_CLOSING)
		judge_credentials(conn);
	if (conn->state == MESH__CONN_DRAINING && !conn->said_last_goaway && is_over(conn->drain_since_ns, TICK_NS, now_ns))
		mesh__h2_say_last_goaway(conn);
	if (is_over(conn->last_active_ns, conn->limits.idle_timeout_ns, now_ns) || is_over(conn->opened_ns, conn->limits.age_max_ns, now_ns))
		mesh__conn_retire(conn, conn->stream_count ? "age" : "idle", "the connection reached its idle or age limit");
	if (conn->state < MESH__CONN_CLOSING) {
		mesh__timer_set(lp, &conn->tick, now_ns + TICK_NS);
		mesh__loop_flush_later(lp, &conn->flush);
	}
}

/* --- life --- */

static void init(struct mesh__conn *conn, struct mesh__loop *lp, const struct mesh__address *peer, const struct mesh__conn_limits *limits,
		 const struct mesh__secure_options *secure, const struct mesh__conn_events *events, void *owner)
{
	*conn = (struct mesh__conn){ .events = events, .owner = owner, .lp = lp, .limits = *limits, .peer = *peer, .fd = -1,
				     .secure_options = secure,
				     .abuse = { .resets_burst = limits->resets_burst, .resets_per_sec = limits->resets_per_sec } };
	conn->flush.run = on_flush;
	conn->tick.fire = on_tick;
	mesh__list_init(&conn->streams);
	mesh__list_init(&conn->flush.node);
}

int mesh__conn_connect_fd(struct mesh__conn *conn, struct mesh__loop *lp, int fd, const struct mesh__address *peer,
			  const struct mesh__conn_limits *limits, const struct mesh__secure_options *secure, const struct mesh__conn_events *events,
			  void *owner)
{
	init(conn, lp, peer, limits, secure, events, owner);
	conn->state = MESH__CONN_CONNECTING;
	conn->fd = fd;
	if (mesh__watch_open(lp, &conn->watch, conn->fd, MESH__WATCH_WRITE, on_ready)) {
		mesh__descriptors_close(conn->fd);
		conn->fd = -1;
		return -ENOMEM;
	}
	mesh__timer_set(lp, &conn->tick, lp->now_ns + limits->connect_timeout_ns);
	return 0;
}

int mesh__conn_connect(struct mesh__conn *conn, struct mesh__loop *lp, const struct mesh__address *peer, const struct mesh__conn_limits *limits,
		       const struct mesh__secure_options *secure, const struct mesh__conn_events *events, void *owner)
{
	int fd, rc = mesh__socket_connect(peer, &fd);

	return rc ? rc : mesh__conn_connect_fd(conn, lp, fd, peer, limits, secure, events, owner);
}

int mesh__conn_accept(struct mesh__conn *conn, struct mesh__loop *lp, int fd, const struct mesh__address *peer,
		      const struct mesh__conn_limits *limits, const struct mesh__secure_options *secure, const struct mesh__conn_events *events,
		      void *owner)
{
	int rc;

	init(conn, lp, peer, limits, secure, events, owner);
	conn->is_server = true;
	conn->state = MESH__CONN_CONNECTING;
	conn->fd = fd;
	rc = mesh__watch_open(lp, &conn->watch, fd, MESH__WATCH_READ, on_ready);
	if (rc) {
		mesh__descriptors_close(fd);
		conn->fd = -1;
		return rc;
	}
	if (secure)
		begin_handshake(conn);
	else
		opened(conn);
	return 0;
}

void mesh__conn_drain(struct mesh__conn *conn)
{
	if (conn->state == MESH__CONN_CONNECTING || conn->state == MESH__CONN_HANDSHAKING) {
		mesh__conn_close(conn, MESH_E_CLOSING, "drained", "the connection was drained before it was made");
		return;
	}
	if (conn->state != MESH__CONN_OPEN)
		return;
	mesh__h2_say_goaway(conn);
	mesh__h2_start_draining(conn);
	mesh__loop_flush_later(conn->lp, &conn->flush);
}

void mesh__conn_retire(struct mesh__conn *conn, const char *reason, const char *text)
{
	/* A client's that waits for the peer's SETTINGS has not been of use yet: whoever waits for it would hear that it failed. Later is soon enough. */
	if (conn->state != MESH__CONN_OPEN || (!conn->is_server && !conn->got_settings))
		return;
	mesh__conn_remember(conn, MESH_E_LOST, reason, text);
	mesh__conn_drain(conn);
}

void mesh__h2_start_draining(struct mesh__conn *conn)
{
	if (conn->state != MESH__CONN_OPEN)
		return;
	conn->drain_since_ns = conn->lp->now_ns;
	set_state(conn, MESH__CONN_DRAINING);
	conn->events->on_draining(conn);
}
