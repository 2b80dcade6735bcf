/*
 * What a peer may do to a server connection before it is shown the door: one token bucket per kind of cheap, costly or pointless
 * frame (hardening against Rapid Reset, MadeYouReset, floods of PING, SETTINGS, PRIORITY, empty DATA, WINDOW_UPDATE).
 *
 * Pure: it is told what happened and when. Below a quarter of its burst a bucket asks for a soft end (GOAWAY, streams may
 * finish); empty, for a hard one (ENHANCE_YOUR_CALM).
 */
#ifndef MESH_WIRE_ABUSE_H
#define MESH_WIRE_ABUSE_H

#include <stdint.h>

/* kind, name in counters and logs, burst, refill per second */
#define MESH__ABUSE_TABLE(ROW) \
	ROW(RESET, "stream_resets", 200, 20)           /* RST_STREAM from the peer: Rapid Reset */ \
	ROW(PROVOKED, "provoked_resets", 100, 10)      /* RST_STREAM that its breaches made us send: MadeYouReset */ \
	ROW(PING, "ping_flood", 100, 10) \
	ROW(SETTINGS, "settings_flood", 20, 1) \
	ROW(PRIORITY, "priority_flood", 100, 10) \
	ROW(EMPTY, "empty_data", 50, 10)               /* DATA of nothing, or of nothing but padding, without the end */ \
	ROW(UNKNOWN, "unknown_frames", 100, 10)        /* types that we do not know: legal, useless */ \
	ROW(GOAWAY, "goaway_flood", 10, 1)             /* one or two are enough to say goodbye */ \
	ROW(WINDOW, "window_updates", 1000, 200)       /* beyond what the DATA we sent explains */ \
	ROW(BAD_HEADERS, "oversized_headers", 20, 2)

enum mesh__abuse_kind {
#define ROW(name, label, burst, rate) MESH__ABUSE_##name,
	MESH__ABUSE_TABLE(ROW)
#undef ROW
	MESH__ABUSE_KINDS
};

enum mesh__abuse_verdict { MESH__ABUSE_FINE, MESH__ABUSE_SOFT, MESH__ABUSE_HARD };

struct mesh__abuse {
	uint32_t resets_burst, resets_per_sec; /* instead of the table's for RESET; 0: the table's */
	uint64_t refilled_ns[MESH__ABUSE_KINDS];
	uint32_t spent_milli[MESH__ABUSE_KINDS]; /* thousandths of tokens */
};

enum mesh__abuse_verdict mesh__abuse_note(struct mesh__abuse *abuse, enum mesh__abuse_kind kind, uint64_t now_ns);
void mesh__abuse_excuse(struct mesh__abuse *abuse, enum mesh__abuse_kind kind, uint32_t tokens); /* gives some back */
const char *mesh__abuse_name(enum mesh__abuse_kind kind);

#endif
