/*
 * Paths as handlers may read them. Who serves a path often decodes and tidies it first: "/%61dmin", "//admin", "/./admin" and "/admin;v=1" are all
 * "/admin" to somebody. Rules must not be talked out of by spelling.
 */
#ifndef MESH_IDENTITY_PLAIN_PATH_H
#define MESH_IDENTITY_PLAIN_PATH_H

#include <stdbool.h>
#include <stddef.h>

bool mesh__plain_path_is(const char *path, size_t len); /* false: it may have a plainer form */

/*
 * Into `out`, which has room for `len` bytes; *made is the length of what is there then. In this order: parameters of segments (from ';' on) go, and
 * so does all from '?' or '#' on, %XX is decoded once, '\' is '/', "//" is '/', and "." goes. What does not begin with '/' stays as it is.
 * `is_prefix`: its last segment may go on, and is no "." yet.
 *
 * false: it has no one plain form, since handlers differ too much: it has a segment "..", which leads elsewhere before and after decoding, or
 * a zero byte, which ends it for some.
 */
bool mesh__plain_path_make(const char *path, size_t len, bool is_prefix, char *out, size_t *made);

#endif
