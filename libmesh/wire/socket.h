/* TCP sockets as we use them: non-blocking, close-on-exec, no SIGPIPE, no Nagle. */
#ifndef MESH_WIRE_SOCKET_H
#define MESH_WIRE_SOCKET_H

#include "base/address.h"
#include "mesh/error.h"

#include <stddef.h>
#include <sys/types.h>

/* Each returns 0 with *fd_out, or a code with *err filled; the descriptor is registered with base/descriptors. */
int mesh__socket_listen(const struct mesh__address *address, int *fd_out, struct mesh_error *err);
int mesh__socket_connect(const struct mesh__address *address, int *fd_out); /* in progress on 0; else -errno */
int mesh__socket_connect_unix(const char *path, int *fd_out);              /* connected on 0; else -errno */
int mesh__socket_accept(int listener, struct mesh__address *peer);         /* the descriptor, or -errno */
void mesh__socket_name(int fd, struct mesh__address *address);             /* its own end */
int mesh__socket_result(int fd);                                           /* errno of the finished connect, 0 if it worked */
ssize_t mesh__socket_send(int fd, const void *data, size_t len);           /* bytes, or -errno */
ssize_t mesh__socket_recv(int fd, void *data, size_t len);                 /* bytes, 0 at the end, or -errno */
void mesh__socket_end_output(int fd);                                      /* nothing more will be sent; receiving goes on */
void mesh__socket_reset_on_close(int fd);                                  /* what the peer has not taken is dropped, not kept for minutes */

#endif
