/*
 * The floor for our server: a gRPC echo on bare nghttp2 and epoll, one thread. One read, nghttp2, one gathered write per
 * event. It has no limits, no deadlines, no counters, and trusts its clients; with --tls, those that its authority has signed.
 */
#include "ng_conn.h"

struct stream {
	size_t len, sent, capacity;
	uint8_t *body;
};

#define FIELD(n, v) { (uint8_t *)(n), (uint8_t *)(v), sizeof(n) - 1, sizeof(v) - 1, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE }
static const nghttp2_nv answer[] = { FIELD(":status", "200"), FIELD("content-type", "application/grpc") };
static const nghttp2_nv trailers[] = { FIELD("grpc-status", "0") };

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
	(void)user;
	nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, calloc(1, sizeof(struct stream)));
	return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *user)
{
	struct stream *stream = nghttp2_session_get_stream_user_data(session, id);

	(void)flags, (void)user;
	if (stream->len + len > stream->capacity) {
		stream->capacity = 2 * (stream->len + len);
		stream->body = realloc(stream->body, stream->capacity);
	}
	memcpy(stream->body + stream->len, data, len);
	stream->len += len;
	return 0;
}

static ssize_t read_body(nghttp2_session *session, int32_t id, uint8_t *buf, size_t room, uint32_t *flags, nghttp2_data_source *source, void *user)
{
	struct stream *stream = source->ptr;
	size_t n = stream->len - stream->sent < room ? stream->len - stream->sent : room;

	(void)user;
	memcpy(buf, stream->body + stream->sent, n);
	stream->sent += n;
	if (stream->sent == stream->len) {
		*flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
		nghttp2_submit_trailer(session, id, trailers, 1);
	}
	return (ssize_t)n;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
	nghttp2_data_provider provider = { { 0 }, read_body };

	(void)user;
	if ((frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS) || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
		return 0;
	provider.source.ptr = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
	return nghttp2_submit_response(session, frame->hd.stream_id, answer, 2, &provider);
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
	struct stream *stream = nghttp2_session_get_stream_user_data(session, id);

	(void)code, (void)user;
	if (stream)
		free(stream->body);
	free(stream);
	return 0;
}

static struct conn *conn_new(int fd, nghttp2_session_callbacks *callbacks, const struct rival_tls_config *tls)
{
	static const nghttp2_settings_entry settings[] = { { NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 1000 } };
	struct conn *conn = calloc(1, sizeof(*conn));

	conn->fd = fd;
	conn->tls = tls ? rival_tls_new(tls) : NULL;
	nghttp2_session_server_new(&conn->session, callbacks, conn);
	nghttp2_submit_settings(conn->session, NGHTTP2_FLAG_NONE, settings, 1);
	nghttp2_session_set_local_window_size(conn->session, NGHTTP2_FLAG_NONE, 0, NG_CONNECTION_WINDOW_BYTES);
	return conn;
}

int main(int argc, char **argv)
{
	struct bench_args args = bench_parse(argc, argv);
	int listener = rival_listen(&args), epoll = epoll_create1(EPOLL_CLOEXEC), i, n;
	struct rival_tls_config *tls = args.tls ? rival_tls_config_new(args.tls, 1) : NULL;
	nghttp2_session_callbacks *callbacks;
	struct epoll_event events[64];

	nghttp2_session_callbacks_new(&callbacks);
	nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
	nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
	rival_watch(epoll, listener, NULL);
	for (;;) {
		n = epoll_wait(epoll, events, 64, -1);
		for (i = 0; i < n; i++) {
			struct conn *conn = events[i].data.ptr;

			if (!conn) {
				conn = conn_new(rival_accept(listener), callbacks, tls);
				rival_watch(epoll, conn->fd, conn);
				ng_flush(conn);
			} else if (ng_turn(conn)) {
				ng_free(conn);
			}
		}
	}
}
