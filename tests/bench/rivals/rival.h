/* Sockets for the bare epoll rivals: as little as one can write, so that nothing but the protocol is measured. */
#ifndef TESTS_BENCH_RIVAL_H
#define TESTS_BENCH_RIVAL_H

#include "../bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static inline void rival_die(const char *what)
{
	perror(what);
	exit(1);
}

static inline int rival_socket(const struct bench_args *args, struct sockaddr_in *address)
{
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memset(address, 0, sizeof(*address));
	address->sin_family = AF_INET;
	address->sin_port = htons((uint16_t)args->port);
	if (fd < 0 || inet_pton(AF_INET, args->host, &address->sin_addr) != 1)
		rival_die("socket");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	return fd;
}

static inline int rival_listen(const struct bench_args *args)
{
	struct sockaddr_in address;
	int fd = rival_socket(args, &address);

	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 4096))
		rival_die("listen");
	return fd;
}

static inline int rival_connect(const struct bench_args *args)
{
	struct sockaddr_in address;
	int fd = rival_socket(args, &address);

	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		rival_die("connect");
	return fd;
}

static inline int rival_accept(int listener)
{
	int one = 1, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		rival_die("accept");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static inline void rival_watch(int epoll, int fd, void *data)
{
	struct epoll_event ev = { EPOLLIN, { data } };

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev))
		rival_die("epoll_ctl");
}

/* Blocking: on loopback, with bounded outstanding calls, it never has to wait. */
static inline int rival_write(int fd, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

#endif
