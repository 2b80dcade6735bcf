/*
 * One file that others replace. Its directory is watched: an atomic replacement is a rename there, and so is Kubernetes' swap of the link
 * "..data"; and it is looked at every two seconds in any case, for what a link elsewhere leads to. Without inotify that is all there is.
 * All on_loop, but for the functions about what was seen, which touch nothing else. Zeroed storage with a path is a watch not started.
 */
#ifndef MESH_LOOP_FILE_WATCH_H
#define MESH_LOOP_FILE_WATCH_H

#include "loop/loop.h"

#include <sys/stat.h>
#include <time.h>

enum { MESH__FILE_WATCH_PATH_MAX = 1024 };

struct mesh__file_watch {
	char path[MESH__FILE_WATCH_PATH_MAX]; /* absolute */
	/*
	 * Time to look. `is_changed`: for sure, though inode, size and time may say otherwise (a clock tick is long). Not so for changes
	 * of other names in the directory, over which links may lead.
	 */
	void (*look)(struct mesh__file_watch *file, bool is_changed);
	bool is_started;
	struct mesh__timer again;
	struct mesh__watch watch; /* of inotify's descriptor */
	/* What the links led to when it was last read; inode 0: nothing. */
	ino_t seen_inode;
	dev_t seen_device;
	off_t seen_bytes;
	struct timespec seen_time;
};

void mesh__file_watch_start(struct mesh__file_watch *file, struct mesh__loop *lp); /* once; looks for the first time later */
void mesh__file_watch_stop(struct mesh__file_watch *file);                         /* not started: nothing happens */

bool mesh__file_watch_is_as_seen(const struct mesh__file_watch *file, const struct stat *info);
void mesh__file_watch_remember(struct mesh__file_watch *file, const struct stat *info);
void mesh__file_watch_forget(struct mesh__file_watch *file);

#endif
