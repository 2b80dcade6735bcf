/* What names a process beyond its number, which the kernel uses again. */
#ifndef MESH_STATS_PROCESS_H
#define MESH_STATS_PROCESS_H

#include <stddef.h>
#include <stdint.h>

enum { MESH__BOOT_ID_BYTES = 40 };

uint64_t mesh__process_start_ticks(int64_t pid); /* 0: no such process, or no /proc */
uint64_t mesh__process_pid_namespace(void);      /* 0: unknown */
void mesh__process_boot_id(char id[MESH__BOOT_ID_BYTES]); /* "": unknown */

#endif
