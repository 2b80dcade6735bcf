/*
 * Somebody who makes handshakes, and nothing else: --rate per second for --seconds, at most --connections under way at once (the moments
 * of those that would be more pass unused). Written for rows in which a server must go on with its work meanwhile.
 *
 *	--mode full     whole ones, with a valid certificate; then the connection is closed
 *	--mode hello    one recorded ClientHello again and again: the server calculates, we do not. Closed when it has answered
 *	--mode garbage  the beginning of a ClientHello, then what is none
 */
#include "rival_tls.h"

#include <fcntl.h>

struct attempt {
	int fd; /* -1: free */
	struct rival_tls *tls;
	uint64_t began_ns;
};

enum { GIVE_UP_S = 15 };

static uint8_t in[RIVAL_BUFFER_BYTES], first[2048];
static size_t first_len;
static struct {
	unsigned long long begun, done, ended, unused;
} count;
static int is_full;

/* What is said first: the same every time, but in mode full. */
static void record_first(const struct bench_args *args, const struct rival_tls_config *config)
{
	static const uint8_t head[] = { 22, 3, 1, 1, 4, 1, 0, 1, 0 }; /* a record of 260 bytes, with a ClientHello of 256 */
	struct rival_tls *tls;

	if (strcmp(args->mode, "garbage") == 0) {
		memset(first, 'x', sizeof(head) + 256);
		memcpy(first, head, sizeof(head));
		first_len = sizeof(head) + 256;
		return;
	}
	tls = rival_tls_new(config);
	if (mbedtls_ssl_handshake(&tls->ssl) != MBEDTLS_ERR_SSL_WANT_READ || rival_sealed_len > sizeof(first))
		exit(1);
	memcpy(first, rival_sealed, rival_sealed_len);
	first_len = rival_sealed_len;
	rival_sealed_len = 0;
	rival_tls_free(tls);
}

static void end(struct attempt *attempt, int is_done)
{
	/* At once, so that ports do not run out. */
	struct linger linger = { 1, 0 };

	setsockopt(attempt->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(attempt->fd);
	attempt->fd = -1;
	rival_tls_free(attempt->tls);
	attempt->tls = NULL;
	count.done += is_done;
	count.ended += !is_done;
}

static void begin(struct attempt *attempt, const struct bench_args *args, const struct rival_tls_config *config, int epoll)
{
	attempt->fd = rival_connect(args);
	attempt->began_ns = bench_now_ns();
	count.begun++;
	rival_watch(epoll, attempt->fd, attempt);
	if (is_full) {
		attempt->tls = rival_tls_new(config);
		if (rival_tls_handshake(attempt->tls, attempt->fd) < 0)
			end(attempt, 0);
	} else if (rival_write(attempt->fd, first, first_len)) {
		end(attempt, 0);
	}
}

static void go_on(struct attempt *attempt)
{
	ssize_t n;
	int rc;

	if (attempt->fd < 0)
		return;
	n = read(attempt->fd, in, sizeof(in));
	if (n <= 0 || !is_full) {
		end(attempt, n > 0);
		return;
	}
	attempt->tls->in = in;
	attempt->tls->in_len = (size_t)n;
	rc = rival_tls_handshake(attempt->tls, attempt->fd);
	if (rc)
		end(attempt, rc > 0);
}

static void give_up(struct attempt *attempts, int n, uint64_t now_ns)
{
	for (int i = 0; i < n; i++)
		if (attempts[i].fd >= 0 && now_ns - attempts[i].began_ns > GIVE_UP_S * 1000000000ull)
			end(&attempts[i], 0);
}

static struct attempt *find_free(struct attempt *attempts, int n)
{
	static int at;

	for (int i = 0; i < n; i++) {
		at = (at + 1) % n;
		if (attempts[at].fd < 0)
			return &attempts[at];
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct bench_args args = bench_parse(argc, argv);
	struct rival_tls_config *config = args.tls ? rival_tls_config_new(args.tls, 0) : NULL;
	struct attempt *attempts = calloc((size_t)args.connections, sizeof(*attempts)), *attempt;
	uint64_t began_ns = bench_now_ns(), ends_ns = began_ns + (uint64_t)(args.seconds * 1e9), now_ns, looked_ns = began_ns;
	int epoll = epoll_create1(EPOLL_CLOEXEC), i, n;
	struct epoll_event events[64];

	is_full = strcmp(args.mode, "full") == 0;
	if (!config || args.rate <= 0 || (!is_full && strcmp(args.mode, "hello") != 0 && strcmp(args.mode, "garbage") != 0))
		bench_usage(argv[0]);
	record_first(&args, config);
	for (i = 0; i < args.connections; i++)
		attempts[i].fd = -1;
	while ((now_ns = bench_now_ns()) < ends_ns) {
		uint64_t due = (uint64_t)((double)(now_ns - began_ns) * args.rate / 1e9);

		while (count.begun + count.unused < due) {
			attempt = find_free(attempts, args.connections);
			if (attempt)
				begin(attempt, &args, config, epoll);
			else
				count.unused = due - count.begun;
		}
		n = epoll_wait(epoll, events, 64, 1);
		for (i = 0; i < n; i++)
			go_on(events[i].data.ptr);
		if (now_ns - looked_ns > 1000000000u) {
			give_up(attempts, args.connections, now_ns);
			looked_ns = now_ns;
		}
	}
	printf("{\"begun\": %llu, \"done\": %llu, \"ended\": %llu, \"unused\": %llu, \"seconds\": %.3f, \"cpu_us\": %.0f}\n", count.begun, count.done,
	       count.ended, count.unused, (double)(bench_now_ns() - began_ns) / 1e9, bench_cpu_us());
	return 0;
}
