/* The segments of a directory: showing them, and removing what the dead left. */
#ifndef MESH_STATS_LIST_H
#define MESH_STATS_LIST_H

#include <stdint.h>

enum { MESH__LIST_REAP_AT_OPEN = 256 }; /* files looked at by a mesh that starts: it must start soon */

/* Looks at no more than `files_max` files of an open directory; how many it removed. */
uint32_t mesh__list_reap(int dir_fd, uint32_t files_max);

#endif
