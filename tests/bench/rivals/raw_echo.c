/*
 * The physical limit: epoll, one read, one write. A server that answers every request of REQUEST_BYTES with ANSWER_BYTES, and
 * (with --mode client) its mate with --connections x 1 outstanding. The numbers are what one warm gRPC call of the other
 * rows has on the wire: HEADERS and DATA, then HEADERS, DATA and trailers, indexed fields throughout.
 */
#include "rival.h"

enum { BODY_BYTES = BENCH_PREFIX_BYTES + 2 + BENCH_PAYLOAD_BYTES, REQUEST_BYTES = 9 + 15 + 9 + BODY_BYTES, ANSWER_BYTES = 9 + 2 + 9 + BODY_BYTES + 9 + 1 };

static uint8_t buffer[65536];

static int serve(const struct bench_args *args)
{
	int listener = rival_listen(args), epoll = epoll_create1(EPOLL_CLOEXEC), i, n, *fd;
	struct epoll_event events[64];

	rival_watch(epoll, listener, NULL);
	for (;;) {
		n = epoll_wait(epoll, events, 64, -1);
		for (i = 0; i < n; i++) {
			fd = events[i].data.ptr;
			if (!fd) {
				fd = malloc(sizeof(*fd));
				*fd = rival_accept(listener);
				rival_watch(epoll, *fd, fd);
			} else if (read(*fd, buffer, sizeof(buffer)) <= 0 || rival_write(*fd, buffer, ANSWER_BYTES)) {
				close(*fd);
				free(fd);
			}
		}
	}
}

struct mate {
	int fd;
	uint64_t started_ns;
};

static void send_request(struct mate *mate)
{
	mate->started_ns = bench_now_ns();
	if (rival_write(mate->fd, buffer, REQUEST_BYTES))
		rival_die("write");
}

static int load(const struct bench_args *args)
{
	struct bench_window *window = bench_window_new(args);
	struct mate *mates = calloc((size_t)args->connections, sizeof(*mates));
	int epoll = epoll_create1(EPOLL_CLOEXEC), i, n, is_over = 0;
	struct epoll_event events[64];

	for (i = 0; i < args->connections; i++) {
		mates[i].fd = rival_connect(args);
		rival_watch(epoll, mates[i].fd, &mates[i]);
		send_request(&mates[i]);
	}
	while (!is_over) {
		n = epoll_wait(epoll, events, 64, -1);
		for (i = 0; i < n; i++) {
			struct mate *mate = events[i].data.ptr;

			if (read(mate->fd, buffer, sizeof(buffer)) != ANSWER_BYTES)
				rival_die("read");
			is_over |= !bench_window_add(window, mate->started_ns, bench_now_ns(), 1);
			send_request(mate);
		}
	}
	bench_window_print(window);
	return 0;
}

int main(int argc, char **argv)
{
	struct bench_args args = bench_parse(argc, argv);

	return strcmp(args.mode, "client") == 0 ? load(&args) : serve(&args);
}
