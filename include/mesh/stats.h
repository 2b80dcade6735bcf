/*
 * Counters: this process' own, and those of every other process of the same user on this machine.
 *
 * Each mesh publishes its counters in one file of shared memory (mesh-stats(5)). Reading them costs the writer nothing, works
 * while it runs, while it hangs, and after it was killed. A reader copies the file and trusts nothing in it: whatever a broken
 * or hostile writer put there, the functions below end with a value or with an error.
 *
 * Texts that come out of a segment (names, labels, the service) are a stranger's: bounded and NUL-terminated, but any bytes.
 * Print them through mesh_stats_escape().
 */
#ifndef MESH_STATS_H
#define MESH_STATS_H

#include <mesh/mesh.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What one segment held when it was last read. Not thread-safe: one thread at a time. */
typedef struct mesh_stats_view mesh_stats_view;

/* The segments that were there when the list was made. Not thread-safe. */
typedef struct mesh_stats_list mesh_stats_list;

/* A distribution put together from histograms, of several series or processes, or of the time between two reads. */
typedef struct mesh_stats_histogram mesh_stats_histogram;

enum mesh_stats_type { MESH_STATS_COUNTER = 1, MESH_STATS_GAUGE = 2, MESH_STATS_HISTOGRAM = 3 };

enum mesh_stats_state {
	MESH_STATS_UNKNOWN = 0, /* the segment cannot be read; the entry says why */
	MESH_STATS_ALIVE = 1,
	MESH_STATS_STUCK = 2,   /* the process exists, and a loop of it has not turned for five seconds */
	MESH_STATS_DEAD = 3,    /* the process is gone; its last values stay for a minute and more */
	MESH_STATS_CLOSED = 4   /* the mesh was closed properly after this view was opened */
};

/* The process behind a segment. Strings are valid as long as the view. Set `size` before the call; smaller ones get less. */
struct mesh_stats_process {
	uint32_t size;
	int32_t state;         /* enum mesh_stats_state, when the view was last read */
	const char *service;
	const char *version;   /* of its libmesh */
	const char *path;      /* of the segment; "" if it is in private memory */
	int64_t pid;           /* in the writer's PID namespace */
	uint64_t start_ticks;  /* field 22 of /proc/PID/stat */
	uint64_t start_wall_ns;
	uint64_t uptime_ns;    /* since its mesh was opened */
	uint32_t loop_count;   /* loops that beat, at most 16 */
	uint32_t reserved;
	uint64_t beat_age_ns[16]; /* time since each loop last turned; UINT64_MAX: it never did */
};

enum mesh_stats_identity_state {
	MESH_STATS_IDENTITY_UNKNOWN = 0,
	MESH_STATS_IDENTITY_OK = 1,
	MESH_STATS_IDENTITY_NONE = 2,    /* it is wanted, and the source has given none yet, or took it back: nobody is talked to */
	MESH_STATS_IDENTITY_EXPIRED = 3, /* by the reader's clock, also if the process hangs: no new connection can be made */
	MESH_STATS_IDENTITY_OVERDUE = 4, /* still valid, and should have been renewed before now */
	MESH_STATS_IDENTITY_OFF = 5      /* plain text: nothing is encrypted, and nobody shows who he is */
};

/* Who a process is. Times are Unix time in seconds, 0: never. Strings are valid until the view is read again or closed, "" if not known. */
struct mesh_stats_identity {
	uint32_t size;
	int32_t state;            /* enum mesh_stats_identity_state */
	const char *spiffe_id;    /* "spiffe://mesh.local/ns/default/sa/users" */
	const char *trust_domain; /* "mesh.local" */
	const char *source;       /* "local:", "file:/etc/tls" */
	const char *serial;       /* of the certificate, hexadecimal */
	const char *issuer;       /* its distinguished name */
	const char *last_failure; /* the last failed renewal, as a sentence */
	int64_t not_before_s;
	int64_t not_after_s;
	int64_t last_renewal_s;
	int64_t next_renewal_s;
	int64_t overdue_since_s;
	int64_t last_failure_s;
	int64_t issuer_not_after_s; /* of the intermediate certificate that ends first; 0: the root signed the certificate itself */
	uint64_t generation;      /* of the credentials, from 1 */
	uint64_t renewals;
	uint64_t failures;
	uint32_t bundle_count;    /* that mesh_stats_identity_bundle() gives */
	uint32_t bundle_total;    /* that the process has; the page has room for 32 at most */
};

/* Whom a process trusts: the certificate authorities of one trust domain. The string as above. */
struct mesh_stats_bundle {
	uint32_t size;
	uint32_t certificate_count;
	const char *trust_domain;
	int64_t earliest_not_after_s; /* when the first of them expires; 0: there is none */
	int64_t latest_not_after_s;   /* when the last does, and nobody of the domain can be verified any more */
};

/* One series. Strings are valid until the view is read again or closed. */
struct mesh_stats_series {
	uint32_t size;
	int32_t type;          /* enum mesh_stats_type */
	const char *name;      /* "mesh_calls_total" */
	const char *unit;      /* "calls", "bytes", "ns", ""; histograms: of their values */
	const char *help;
	uint32_t label_count;  /* labels that apply; those without a value are left out */
	uint32_t reserved;
	const char *label_names[8];
	const char *label_values[8];
	int64_t value;         /* counters and gauges; histograms: how many values were recorded */
	uint64_t sum;          /* histograms: of all values, exact; wraps after 584 years of nanoseconds */
	uint64_t max;          /* histograms: the largest value, exact */
};

/* One entry of a list. Strings are valid until the list is freed. */
struct mesh_stats_entry {
	uint32_t size;
	int32_t state;         /* enum mesh_stats_state */
	const char *path;      /* for mesh_stats_open() */
	const char *service;   /* "" if the segment cannot be read */
	int64_t pid;
	uint64_t start_ticks;
	uint64_t start_wall_ns;
	int32_t error;         /* MESH_E_*: why it cannot be read; 0 */
	uint32_t reserved;
	const char *message;   /* the same as a sentence; "" */
};

/*
 * Copies the segment at `path`.
 *
 * thread   any; nothing of the writer is waited for, a FIFO or device at `path` neither
 * memory   *out is closed with mesh_stats_close(); at most 64 MiB are copied
 * errors   MESH_E_NOT_FOUND     there is no such file
 *          MESH_E_NOT_PRIVATE   not a regular file, a symbolic link, or it belongs to another user than we are (root may read all)
 *          MESH_E_VERSION       written by a library whose layout is not known here, or on a machine of other byte order
 *          MESH_E_CORRUPT       not a segment, cut off, or it contradicts itself; the sentence says where
 *          MESH_E_NOMEM, MESH_E_NO_DESCRIPTORS, MESH_E_SYSTEM
 * since    0.1
 */
MESH_API int mesh_stats_open(const char *path, mesh_stats_view **out, struct mesh_error *err);

/*
 * Copies this mesh's own counters, also when they are in private memory.
 *
 * thread   any; the making of new series waits meanwhile, counting does not
 * memory   as mesh_stats_open(); the view may outlive the mesh, but not be read again then
 * errors   MESH_E_FORKED, MESH_E_NOMEM
 * since    0.1
 */
MESH_API int mesh_stats_open_self(mesh *m, mesh_stats_view **out, struct mesh_error *err);

/*
 * Copies the same segment again: new values, and new series behind the old ones, whose numbers stay. Works after the writer's
 * end, too. A view of mesh_stats_open_self() must not be read again once its mesh is closed.
 *
 * thread   the view's
 * errors   as mesh_stats_open(); the view then keeps what it had
 * since    0.1
 */
MESH_API int mesh_stats_read(mesh_stats_view *view, struct mesh_error *err);

/* thread the view's; NULL is fine. since 0.1 */
MESH_API void mesh_stats_close(mesh_stats_view *view);

/* Who wrote it, and does it live? thread the view's. errors MESH_E_INVALID: `out->size` is not set. since 0.1 */
MESH_API int mesh_stats_process(const mesh_stats_view *view, struct mesh_stats_process *out);

/*
 * Who the process is, as it last said.
 *
 * thread   the view's
 * errors   MESH_E_NOT_FOUND   the process has not said who it is, or its library is older
 *          MESH_E_CORRUPT     the page contradicts itself, or its writer was killed while it wrote; the counters may be fine
 *          MESH_E_INVALID     `out->size` is not set
 * since    0.1
 */
MESH_API int mesh_stats_identity(const mesh_stats_view *view, struct mesh_stats_identity *out);

/* Whom it trusts, numbered from 0. thread the view's. errors MESH_E_NOT_FOUND, MESH_E_CORRUPT, MESH_E_INVALID. since 0.1 */
MESH_API int mesh_stats_identity_bundle(const mesh_stats_view *view, uint32_t number, struct mesh_stats_bundle *out);

/* Series are numbered from 0, in the order of their making. thread the view's. since 0.1 */
MESH_API uint64_t mesh_stats_count(const mesh_stats_view *view);

/*
 * One series with its value.
 *
 * thread   the view's
 * errors   MESH_E_NOT_FOUND   no series has this number
 *          MESH_E_INVALID     `out->size` is not set
 *          MESH_E_CORRUPT     what the segment says about this series is impossible; the others may be fine
 * since    0.1
 */
MESH_API int mesh_stats_series(const mesh_stats_view *view, uint64_t number, struct mesh_stats_series *out);

/*
 * Its value alone (of a histogram: the count): the fast way through a hundred thousand series.
 *
 * thread   the view's
 * errors   MESH_E_NOT_FOUND, MESH_E_CORRUPT, as mesh_stats_series()
 * since    0.1
 */
MESH_API int mesh_stats_value(const mesh_stats_view *view, uint64_t number, int64_t *value);

/*
 * The first series from number `from` on whose metric is `name` and whose labels have the given values: `labels` is
 * name, value, name, value, ... of `label_count` pairs; labels that are not given may have any value.
 *
 * thread   the view's
 * returns  the series' number, or MESH_E_NOT_FOUND
 * since    0.1
 */
MESH_API int64_t mesh_stats_find(const mesh_stats_view *view, uint64_t from, const char *name, const char *const *labels,
				 uint64_t label_count);

/*
 * Makes an empty distribution; frees it; empties it again.
 *
 * thread   any, one at a time for each distribution
 * errors   MESH_E_NOMEM
 * since    0.1
 */
MESH_API int mesh_stats_histogram_new(mesh_stats_histogram **out);
MESH_API void mesh_stats_histogram_free(mesh_stats_histogram *h); /* NULL is fine */
MESH_API void mesh_stats_histogram_clear(mesh_stats_histogram *h);

/*
 * Adds a histogram series' values, or takes an earlier read of the same series away again, which leaves what was recorded
 * in between (the maximum is then that of the highest cell that is left).
 *
 * thread   the view's; one at a time for each distribution
 * errors   MESH_E_NOT_FOUND, MESH_E_INVALID (the series is no histogram), MESH_E_CORRUPT
 * since    0.1
 */
MESH_API int mesh_stats_histogram_add(mesh_stats_histogram *h, const mesh_stats_view *view, uint64_t number);
MESH_API int mesh_stats_histogram_subtract(mesh_stats_histogram *h, const mesh_stats_view *view, uint64_t number);

/* How many values, their sum (exact), and the largest. thread any, while none changes the distribution. since 0.1 */
MESH_API uint64_t mesh_stats_histogram_count(const mesh_stats_histogram *h);
MESH_API uint64_t mesh_stats_histogram_sum(const mesh_stats_histogram *h);
MESH_API uint64_t mesh_stats_histogram_max(const mesh_stats_histogram *h);

/*
 * The value that a share `quantile` (0 to 1) of all values does not exceed, at most 0.8 % beside the true one; 0 if there is
 * none. Values above 73 minutes count as that.
 *
 * thread   any, while none changes the distribution
 * since    0.1
 */
MESH_API uint64_t mesh_stats_histogram_quantile(const mesh_stats_histogram *h, double quantile);

/*
 * Walks the cells that hold something, upwards: start with *at = 0. Values of a cell are lower <= value < upper.
 *
 * thread   any, while none changes the distribution
 * returns  1, or 0 at the end
 * since    0.1
 */
MESH_API int mesh_stats_histogram_next(const mesh_stats_histogram *h, uint32_t *at, uint64_t *lower, uint64_t *upper, uint64_t *count);

/*
 * Lists the segments of this user on this machine.
 *
 * dir      the runtime directory (option `stats.dir`); NULL: the environment's MESH_STATS_DIR or MESH_RUNTIME_DIR; else both places that a process
 *          without this option may have chosen, $XDG_RUNTIME_DIR/mesh and /dev/shm/mesh-UID. That there is none is not an error.
 * thread   any that may call getenv()
 * memory   *out is freed with mesh_stats_list_free()
 * errors   MESH_E_NOT_PRIVATE, MESH_E_NOMEM, MESH_E_NO_DESCRIPTORS, MESH_E_SYSTEM
 * since    0.1
 */
MESH_API int mesh_stats_list_new(const char *dir, mesh_stats_list **out, struct mesh_error *err);
MESH_API void mesh_stats_list_free(mesh_stats_list *list); /* NULL is fine */
MESH_API uint64_t mesh_stats_list_count(const mesh_stats_list *list);
MESH_API int mesh_stats_list_get(const mesh_stats_list *list, uint64_t number, struct mesh_stats_entry *out); /* MESH_E_NOT_FOUND, MESH_E_INVALID */

/*
 * Removes what dead processes left: segments whose lock is free and that are silent for a minute. Every mesh_open() does so, too.
 *
 * dir      as in mesh_stats_list_new()
 * thread   any that may call getenv()
 * returns  how many were removed, or an error as there
 * since    0.1
 */
MESH_API int64_t mesh_stats_reap(const char *dir, struct mesh_error *err);

/*
 * Copies `text` with control characters and bytes outside ASCII as \xNN, so that no terminal obeys them.
 *
 * thread   any
 * returns  the length that the whole would have; it is cut at `capacity` with its NUL
 * since    0.1
 */
MESH_API uint64_t mesh_stats_escape(char *buffer, uint64_t capacity, const char *text);

#ifdef __cplusplus
}
#endif

#endif
