#include "wire/socket.h"

#include "base/descriptors.h"
#include "base/fault.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { LISTEN_BACKLOG = 4096 };

static int new_socket(const struct sockaddr_storage *sa)
{
	const int on = 1, idle_s = 20, between_s = 10, probes = 3;
	int fd = mesh__descriptors_add(socket(sa->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));

	if (fd < 0)
		return fd;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	/* A host that is gone is found out while nothing is under way, too. */
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &between_s, sizeof(between_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	return fd;
}

int mesh__socket_listen(const struct mesh__address *address, int *fd_out, struct mesh_error *err)
{
	char text[MESH__ADDRESS_TEXT_MAX];
	struct sockaddr_storage sa;
	socklen_t len = mesh__address_to_sockaddr(address, &sa, sizeof(sa));
	const int on = 1;
	int fd = new_socket(&sa), number;

	mesh__address_print(address, text);
	if (fd < 0)
		return mesh__fault_errno(err, MESH_STAGE_ACCEPT, errno, "cannot make a socket to listen on %s", text);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&sa, len) == 0 && listen(fd, LISTEN_BACKLOG) == 0) {
		*fd_out = fd;
		return 0;
	}
	number = errno;
	mesh__descriptors_close(fd);
	return mesh__fault_errno(err, MESH_STAGE_ACCEPT, number, "cannot listen on %s", text);
}

int mesh__socket_connect(const struct mesh__address *address, int *fd_out)
{
	struct sockaddr_storage sa;
	socklen_t len = mesh__address_to_sockaddr(address, &sa, sizeof(sa));
	int fd = new_socket(&sa), number;

	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS) {
		number = errno;
		mesh__descriptors_close(fd);
		return -number;
	}
	*fd_out = fd;
	return 0;
}

/* A Unix socket connects at once or not at all: EAGAIN means that the listener's line is full. */
int mesh__socket_connect_unix(const char *path, int *fd_out)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	size_t len = strlen(path);
	int fd, number;

	if (!len || len >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	memcpy(sa.sun_path, path, len);
	fd = mesh__descriptors_add(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		number = errno;
		mesh__descriptors_close(fd);
		return -number;
	}
	*fd_out = fd;
	return 0;
}

int mesh__socket_accept(int listener, struct mesh__address *peer)
{
	struct sockaddr_storage sa = { 0 };
	socklen_t len = sizeof(sa);
	const int on = 1;
	int fd = mesh__descriptors_add(accept4(listener, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC));

	if (fd < 0)
		return -errno;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	mesh__address_from_sockaddr(peer, (struct sockaddr *)&sa);
	return fd;
}

void mesh__socket_name(int fd, struct mesh__address *address)
{
	struct sockaddr_storage sa = { 0 };
	socklen_t len = sizeof(sa);

	*address = (struct mesh__address){ 0 };
	if (getsockname(fd, (struct sockaddr *)&sa, &len) == 0)
		mesh__address_from_sockaddr(address, (struct sockaddr *)&sa);
}

int mesh__socket_result(int fd)
{
	int number = 0;
	socklen_t len = sizeof(number);

	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &number, &len) < 0 ? errno : number;
}

ssize_t mesh__socket_send(int fd, const void *data, size_t len)
{
	ssize_t n;

	do
		n = send(fd, data, len, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

ssize_t mesh__socket_recv(int fd, void *data, size_t len)
{
	ssize_t n;

	do
		n = recv(fd, data, len, 0);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

void mesh__socket_end_output(int fd)
{
	shutdown(fd, SHUT_WR);
}

void mesh__socket_reset_on_close(int fd)
{
	const struct linger at_once = { .l_onoff = 1 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
}
