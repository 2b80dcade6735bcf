/* One connection of the bare nghttp2 rivals: one read, nghttp2, one gathered write; with TLS, one pass of mbedTLS on either way. */
#ifndef TESTS_BENCH_NG_CONN_H
#define TESTS_BENCH_NG_CONN_H

#include "rival_tls.h"

#include <nghttp2/nghttp2.h>

enum { NG_CONNECTION_WINDOW_BYTES = 1024 * 1024 }; /* as libmesh's */

struct conn {
	int fd;
	nghttp2_session *session;
	struct rival_tls *tls; /* NULL: plain text */
	int calls_done;
};

static uint8_t ng_in[RIVAL_BUFFER_BYTES], ng_out[RIVAL_BUFFER_BYTES], ng_plain[RIVAL_BUFFER_BYTES];

static inline int ng_write(struct conn *conn, size_t len)
{
	return conn->tls ? rival_tls_write(conn->tls, conn->fd, ng_out, len) : rival_write(conn->fd, ng_out, len);
}

static inline int ng_flush(struct conn *conn)
{
	const uint8_t *data;
	size_t filled = 0;
	ssize_t n;

	if (conn->tls && !conn->tls->is_open)
		return 0;
	while ((n = nghttp2_session_mem_send(conn->session, &data)) > 0) {
		if (filled + (size_t)n > sizeof(ng_out)) {
			if (ng_write(conn, filled))
				return -1;
			filled = 0;
		}
		memcpy(ng_out + filled, data, (size_t)n);
		filled += (size_t)n;
	}
	return n < 0 ? -1 : ng_write(conn, filled);
}

static inline int ng_turn_sealed(struct conn *conn, size_t len)
{
	struct rival_tls *tls = conn->tls;
	int n;

	tls->in = ng_in;
	tls->in_len = len;
	if (!tls->is_open) {
		n = rival_tls_handshake(tls, conn->fd);
		if (n <= 0)
			return n;
	}
	while ((n = mbedtls_ssl_read(&tls->ssl, ng_plain, sizeof(ng_plain))) > 0)
		if (nghttp2_session_mem_recv(conn->session, ng_plain, (size_t)n) < 0)
			return -1;
	return n == MBEDTLS_ERR_SSL_WANT_READ ? ng_flush(conn) : -1;
}

static inline int ng_turn(struct conn *conn)
{
	ssize_t n = read(conn->fd, ng_in, sizeof(ng_in));

	if (n <= 0)
		return -1;
	if (conn->tls)
		return ng_turn_sealed(conn, (size_t)n);
	return nghttp2_session_mem_recv(conn->session, ng_in, (size_t)n) < 0 ? -1 : ng_flush(conn);
}

static inline void ng_free(struct conn *conn)
{
	close(conn->fd);
	nghttp2_session_del(conn->session);
	rival_tls_free(conn->tls);
	free(conn);
}

#endif
