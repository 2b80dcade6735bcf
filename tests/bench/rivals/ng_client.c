/*
 * The floor for our client, and the load for rows that must not depend on a generator of others: bare nghttp2 and epoll,
 * --connections x --streams calls outstanding, a new one for each that ends.
 *
 *	--tls DIR       over TLS
 *	--mode storm    --connections of them at the same moment, one call on each: ends when all have their answer, or failed
 *	--mode hold     as many connections as standard input says, line by line, one call on each; says "ready" after each line
 */
#include "ng_conn.h"

struct stream {
	uint64_t started_ns;
	size_t sent;
	int got_status;
};

static uint8_t *message;
static size_t message_len;
static struct bench_window *window;
static int is_over, is_once;

/* What libmesh sends, so that the byte counts are the same. */
#define FIELD(n, v) { (uint8_t *)(n), (uint8_t *)(v), sizeof(n) - 1, sizeof(v) - 1, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE }
static const nghttp2_nv request[] = {
	FIELD(":method", "POST"), FIELD(":scheme", "http"), FIELD(":path", BENCH_PATH), FIELD(":authority", "echo"),
	FIELD("content-type", "application/grpc"), FIELD("te", "trailers"), FIELD("grpc-timeout", "9999900u"), FIELD("user-agent", "libmesh/0.1.0"),
};

static ssize_t read_body(nghttp2_session *session, int32_t id, uint8_t *buf, size_t room, uint32_t *flags, nghttp2_data_source *source, void *user)
{
	struct stream *stream = source->ptr;
	size_t n = message_len - stream->sent < room ? message_len - stream->sent : room;

	(void)session, (void)id, (void)user;
	memcpy(buf, message + stream->sent, n);
	stream->sent += n;
	if (stream->sent == message_len)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	return (ssize_t)n;
}

static void start_call(nghttp2_session *session)
{
	struct stream *stream = calloc(1, sizeof(*stream));
	nghttp2_data_provider provider = { { .ptr = stream }, read_body };

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
	struct conn *conn = user;
	int is_ok;

	if (!stream)
		return 0;
	is_ok = code == 0 && stream->got_status;
	if (is_once)
		conn->calls_done += is_ok;
	else if (!bench_window_add(window, stream->started_ns, bench_now_ns(), is_ok))
		is_over = 1;
	free(stream);
	if (!is_once)
		start_call(session);
	return 0;
}

/* Not connected yet. */
static struct conn *conn_new(const struct bench_args *args, nghttp2_session_callbacks *callbacks, const struct rival_tls_config *tls)
{
	struct conn *conn = calloc(1, sizeof(*conn));
	int i;

	conn->tls = tls ? rival_tls_new(tls) : NULL;
	nghttp2_session_client_new(&conn->session, callbacks, conn);
	nghttp2_submit_settings(conn->session, NGHTTP2_FLAG_NONE, NULL, 0);
	nghttp2_session_set_local_window_size(conn->session, NGHTTP2_FLAG_NONE, 0, NG_CONNECTION_WINDOW_BYTES);
	for (i = 0; i < args->streams; i++)
		start_call(conn->session);
	return conn;
}

static void conn_begin(struct conn *conn, const struct bench_args *args, int epoll)
{
	conn->fd = rival_connect(args);
	rival_watch(epoll, conn->fd, conn);
	if (conn->tls ? rival_tls_handshake(conn->tls, conn->fd) < 0 : ng_flush(conn))
		rival_die("connection");
}

static void load(const struct bench_args *args, nghttp2_session_callbacks *callbacks, const struct rival_tls_config *tls, int epoll)
{
	struct epoll_event events[64];
	int i, n;

	for (i = 0; i < args->connections; i++)
		conn_begin(conn_new(args, callbacks, tls), args, epoll);
	window = bench_window_new(args);
	while (!is_over) {
		n = epoll_wait(epoll, events, 64, -1);
		for (i = 0; i < n; i++)
			if (ng_turn(events[i].data.ptr))
				rival_die("connection");
	}
	bench_window_print(window);
}

/* Until all of these have had their answer, or 60 seconds. Those that end before it have failed. */
static int wait_for(int count, int epoll, int *failed)
{
	uint64_t until_ns = bench_now_ns() + 60000000000u;
	struct epoll_event events[64];
	int i, n, done = 0;

	*failed = 0;
	while (done + *failed < count && bench_now_ns() < until_ns) {
		n = epoll_wait(epoll, events, 64, 1000);
		for (i = 0; i < n; i++) {
			struct conn *conn = events[i].data.ptr;
			int before = conn->calls_done, has_ended = ng_turn(conn);

			done += conn->calls_done - before;
			if (!has_ended)
				continue;
			*failed += !conn->calls_done;
			epoll_ctl(epoll, EPOLL_CTL_DEL, conn->fd, NULL);
			ng_free(conn);
		}
	}
	return done;
}

/* What each has to say first is made beforehand: so they come at the same moment, not as fast as one process can calculate. */
static void storm(const struct bench_args *args, nghttp2_session_callbacks *callbacks, const struct rival_tls_config *tls, int epoll)
{
	struct { struct conn *conn; uint8_t hello[1024]; size_t len; } *all = calloc((size_t)args->connections, sizeof(*all));
	uint64_t began_ns;
	int i, failed, done;

	for (i = 0; i < args->connections; i++) {
		all[i].conn = conn_new(args, callbacks, tls);
		if (mbedtls_ssl_handshake(&all[i].conn->tls->ssl) != MBEDTLS_ERR_SSL_WANT_READ || rival_sealed_len > sizeof(all[i].hello))
			exit(1);
		memcpy(all[i].hello, rival_sealed, rival_sealed_len);
		all[i].len = rival_sealed_len;
		rival_sealed_len = 0;
	}
	began_ns = bench_now_ns();
	for (i = 0; i < args->connections; i++) {
		all[i].conn->fd = rival_connect(args);
		rival_watch(epoll, all[i].conn->fd, all[i].conn);
		if (rival_write(all[i].conn->fd, all[i].hello, all[i].len))
			rival_die("write");
	}
	done = wait_for(args->connections, epoll, &failed);
	printf("{\"done\": %d, \"failed\": %d, \"seconds\": %.3f}\n", done, args->connections - done, (double)(bench_now_ns() - began_ns) / 1e9);
}

static void hold(const struct bench_args *args, nghttp2_session_callbacks *callbacks, const struct rival_tls_config *tls, int epoll)
{
	char line[32];
	int failed;

	while (fgets(line, sizeof(line), stdin)) {
		for (int i = atoi(line); i > 0; i--) {
			conn_begin(conn_new(args, callbacks, tls), args, epoll);
			if (wait_for(1, epoll, &failed) != 1)
				rival_die("call");
		}
		puts("ready");
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	struct bench_args args = bench_parse(argc, argv);
	struct rival_tls_config *tls = args.tls ? rival_tls_config_new(args.tls, 0) : NULL;
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	nghttp2_session_callbacks *callbacks;

	message = bench_framed_message((size_t)args.payload, &message_len);
	nghttp2_session_callbacks_new(&callbacks);
	nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
	is_once = *args.mode != '\0';
	if (strcmp(args.mode, "storm") == 0 && tls)
		storm(&args, callbacks, tls, epoll);
	else if (strcmp(args.mode, "hold") == 0)
		hold(&args, callbacks, tls, epoll);
	else if (is_once)
		bench_usage(argv[0]);
	else
		load(&args, callbacks, tls, epoll);
	return 0;
}
