/*
 * A server and whatever bytes a peer may send. The first byte says whether a proper preface and SETTINGS stand before the rest,
 * and in how many pieces it is sent. The server lives as long as the process; after each input it must still be there.
 */
#include "fuzz.h"

#include "mesh/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint8_t preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";

static struct event_base *base;
static uint16_t port;

static void echo(mesh_request *request, void *user)
{
	struct mesh_reply reply = { .size = sizeof(reply) };
	struct mesh_header header;

	(void)user;
	for (uint32_t i = 0; mesh_request_header_at(request, i, &header) == 0; i++)
		if (!header.name || !header.value || strlen(header.name) > 65536)
			abort();
	reply.body = mesh_request_body(request, &reply.body_len);
	mesh_request_reply(request, &reply);
}

static void echo_stream(const struct mesh_event *event, void *user)
{
	struct mesh_message message = { .size = sizeof(message) };
	struct mesh_reply reply = { .size = sizeof(reply) };
	int rc = 1;

	/* What a handler has been given stays where it is, whatever comes behind it. */
	if (mesh_request_path(event->request) != user)
		abort();
	while (event->type == MESH_EVENT_REQUEST_READABLE && (rc = mesh_request_recv(event->request, &message, 0)) == 1) {
		mesh_request_send(event->request, message.data, message.len, 0);
		mesh_message_release(&message);
	}
	if (rc == 0)
		mesh_request_finish(event->request, &reply);
	if (event->type == MESH_EVENT_REQUEST_ENDED)
		mesh_request_unref(event->request);
}

static void start_stream(mesh_request *request, void *user)
{
	(void)user;
	mesh_request_on_event(mesh_request_ref(request), echo_stream, (void *)(uintptr_t)mesh_request_path(request));
}

static void start_server(void)
{
	struct mesh_setting settings[] = { { "stats", "off" }, { "discovery", "static:none=127.0.0.1:1" }, { "idle.timeout", "1s" } };
	struct mesh_options opts = MESH_OPTIONS_INIT;
	struct mesh_server_options server_opts = { .size = sizeof(server_opts) };
	struct mesh_error err = MESH_ERROR_INIT;
	mesh_server *server;
	mesh *m;

	base = event_base_new();
	opts.service = "fuzz";
	opts.settings = settings;
	opts.setting_count = 3;
	opts.event_base = base;
	if (mesh_open(&opts, &m, &err) || mesh_server_new(m, &server_opts, &server, &err) ||
	    mesh_server_handle(server, "/stream", MESH_HANDLER_STREAM, start_stream, NULL, &err) ||
	    mesh_server_handle(server, "/stream", MESH_HANDLER_STREAM | MESH_HANDLER_GRPC, start_stream, NULL, &err) ||
	    mesh_server_handle(server, "*", 0, echo, NULL, &err) || mesh_server_handle(server, "*", MESH_HANDLER_GRPC, echo, NULL, &err) ||
	    mesh_server_start(server, &err)) {
		fprintf(stderr, "%s\n", err.message);
		abort();
	}
	port = (uint16_t)atoi(strrchr(mesh_server_address(server), ':') + 1);
}

static void turn(int fd, int times)
{
	uint8_t answer[65536];

	for (int i = 0; i < times; i++) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		if (fd >= 0)
			(void)!recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	const struct linger at_once = { 1, 0 };
	int fd, pieces;

	if (!len)
		return 0;
	if (!base)
		start_server();
	to.sin_port = htons(port);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* Reset at the end, so that thousands of inputs a second leave no port waiting. */
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		/* Out of ports after a hundred thousand connections, or an alarm of the fuzzer: nobody's fault. */
		if (fd < 0 || (errno != EADDRNOTAVAIL && errno != EINTR)) {
			perror("connect");
			abort();
		}
		close(fd);
		return 0;
	}
	pieces = 1 + (data[0] >> 1 & 3);
	if (data[0] & 1)
		(void)!send(fd, preface, sizeof(preface) - 1, MSG_NOSIGNAL);
	data++;
	len--;
	for (int i = 0; i < pieces; i++) {
		size_t part = i == pieces - 1 ? len : len / (size_t)(pieces - i);

		(void)!send(fd, data, part, MSG_NOSIGNAL | MSG_DONTWAIT);
		data += part;
		len -= part;
		turn(fd, 4);
	}
	shutdown(fd, SHUT_WR);
	turn(fd, 6);
	close(fd);
	turn(-1, 3);
	return 0;
}
