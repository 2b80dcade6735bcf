/*
 * The floor for our client, and the load for rows that must not depend on a generator of others: bare nghttp2 and epoll,
 * --connections x --streams calls outstanding, a new one for each that ends.
 */
#include "rival.h"

#include <nghttp2/nghttp2.h>

struct conn {
	int fd;
	nghttp2_session *session;
};

struct stream {
	uint64_t started_ns;
	int got_status;
};

static uint8_t in[65536], out[65536], message[BENCH_FRAMED_BYTES];
static struct bench_window *window;
static int is_over;

/* What libmesh sends, so that the byte counts are the same. */
#define FIELD(n, v) { (uint8_t *)(n), (uint8_t *)(v), sizeof(n) - 1, sizeof(v) - 1, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE }
static const nghttp2_nv request[] = {
	FIELD(":method", "POST"), FIELD(":scheme", "http"), FIELD(":path", BENCH_PATH), FIELD(":authority", "echo"),
	FIELD("content-type", "application/grpc"), FIELD("te", "trailers"), FIELD("grpc-timeout", "9999900u"), FIELD("user-agent", "libmesh/0.1.0"),
};

static ssize_t read_body(nghttp2_session *session, int32_t id, uint8_t *buf, size_t room, uint32_t *flags, nghttp2_data_source *source, void *user)
{
	(void)session, (void)id, (void)room, (void)source, (void)user;
	memcpy(buf, message, sizeof(message));
	*flags |= NGHTTP2_DATA_FLAG_EOF;
	return sizeof(message);
}

static void start_call(nghttp2_session *session)
{
	nghttp2_data_provider provider = { { 0 }, read_body };
	struct stream *stream = calloc(1, sizeof(*stream));

	stream->started_ns = bench_now_ns();
	if (nghttp2_submit_request(session, NULL, request, sizeof(request) / sizeof(request[0]), &provider, stream) < 0)
		exit(1);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len, const uint8_t *value, size_t len,
		     uint8_t flags, void *user)
{
	struct stream *stream;

	(void)flags, (void)user;
	if (name_len == 11 && memcmp(name, "grpc-status", 11) == 0 && len == 1 && value[0] == '0') {
		stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
		stream->got_status = 1;
	}
	return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
	struct stream *stream = nghttp2_session_get_stream_user_data(session, id);

	(void)user;
	if (!stream)
		return 0;
	if (!bench_window_add(window, stream->started_ns, bench_now_ns(), code == 0 && stream->got_status))
		is_over = 1;
	free(stream);
	start_call(session);
	return 0;
}

static int conn_flush(struct conn *conn)
{
	const uint8_t *data;
	size_t filled = 0;
	ssize_t n;

	while ((n = nghttp2_session_mem_send(conn->session, &data)) > 0) {
		if (filled + (size_t)n > sizeof(out)) {
			if (rival_write(conn->fd, out, filled))
				return -1;
			filled = 0;
		}
		memcpy(out + filled, data, (size_t)n);
		filled += (size_t)n;
	}
	return n < 0 ? -1 : rival_write(conn->fd, out, filled);
}

static int conn_turn(struct conn *conn)
{
	ssize_t n = read(conn->fd, in, sizeof(in));

	return n <= 0 || nghttp2_session_mem_recv(conn->session, in, (size_t)n) < 0 ? -1 : conn_flush(conn);
}

static struct conn *conn_new(const struct bench_args *args, nghttp2_session_callbacks *callbacks)
{
	struct conn *conn = calloc(1, sizeof(*conn));
	int i;

	conn->fd = rival_connect(args);
	nghttp2_session_client_new(&conn->session, callbacks, conn);
	nghttp2_submit_settings(conn->session, NGHTTP2_FLAG_NONE, NULL, 0);
	for (i = 0; i < args->streams; i++)
		start_call(conn->session);
	return conn;
}

int main(int argc, char **argv)
{
	struct bench_args args = bench_parse(argc, argv);
	int epoll = epoll_create1(EPOLL_CLOEXEC), i, n;
	nghttp2_session_callbacks *callbacks;
	struct epoll_event events[64];

	bench_framed_message(message);
	window = bench_window_new(&args);
	nghttp2_session_callbacks_new(&callbacks);
	nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
	for (i = 0; i < args.connections; i++) {
		struct conn *conn = conn_new(&args, callbacks);

		rival_watch(epoll, conn->fd, conn);
		conn_flush(conn);
	}
	while (!is_over) {
		n = epoll_wait(epoll, events, 64, -1);
		for (i = 0; i < n; i++)
			if (conn_turn(events[i].data.ptr))
				rival_die("connection");
	}
	bench_window_print(window);
	return 0;
}
