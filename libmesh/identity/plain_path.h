/*
 * Paths as handlers may read them. Who serves a path often decodes and tidies it first: "/%61dmin", "//admin", "/x/../admin" and "/admin;v=1" are all
 * "/admin" to somebody. Rules must not be talked out of by spelling.
 */
#ifndef MESH_IDENTITY_PLAIN_PATH_H
#define MESH_IDENTITY_PLAIN_PATH_H

#include <stdbool.h>
#include <stddef.h>

bool mesh__plain_path_is(const char *path, size_t len); /* false: it may have a plainer form */

/*
 * Into `out`, which has room for `len` bytes; the length of what is there then. In this order: parameters of segments (from ';' on) go, %XX is
 * decoded once, '\' is '/', "//" is '/', "." and ".." are resolved (RFC 3986, 5.2.4). What does not begin with '/' stays as it is.
 */
size_t mesh__plain_path_make(const char *path, size_t len, char *out);

#endif
