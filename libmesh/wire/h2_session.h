/* Between h2.c (bytes, timers, life of a connection) and h2_session.c (what frames mean); nobody else includes it. */
#ifndef MESH_WIRE_H2_SESSION_H
#define MESH_WIRE_H2_SESSION_H

#include "wire/h2.h"

enum { MESH__H2_FRAME_BYTES_MAX = 16 * 1024 + 9 };

int mesh__h2_begin(struct mesh__conn *conn);                       /* makes the session and queues our SETTINGS */
void mesh__h2_input_failed(struct mesh__conn *conn, int nghttp2_error);
void mesh__conn_remember(struct mesh__conn *conn, int32_t code, const char *reason, const char *text); /* why it ends; the first counts */
void mesh__h2_ping(struct mesh__conn *conn);
void mesh__h2_start_draining(struct mesh__conn *conn); /* OPEN -> DRAINING, tells the owner; either side may have begun it */
void mesh__h2_say_goaway(struct mesh__conn *conn);     /* server: the notice, with a ping whose answer brings the last one */
void mesh__h2_say_last_goaway(struct mesh__conn *conn);
void mesh__h2_count_abuse(struct mesh__conn *conn, enum mesh__abuse_kind kind, uint64_t now_ns);
void mesh__h2_stream_closed(struct mesh__stream *stream, uint32_t error_code, bool unprocessed); /* detaches it, tells its owner */
void mesh__h2_handshake_stepped(struct mesh__conn *conn); /* conn->secure has something to say, or has ended */

/* While flushing: room for len bytes of output; NULL: the socket is full, or broken. */
uint8_t *mesh__h2_gather(struct mesh__conn *conn, size_t len);
bool mesh__h2_gather_flush(struct mesh__conn *conn);

#endif
