/*
 * gRPC over HTTP/2, the parts that are text and bytes: message framing, timeouts, percent-encoding, binary metadata, statuses.
 * Source: grpc/grpc doc/PROTOCOL-HTTP2.md. Pure: no I/O, no clock, no state but the caller's.
 */
#ifndef MESH_WIRE_GRPC_H
#define MESH_WIRE_GRPC_H

#include "base/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MESH__GRPC_PREFIX_BYTES = 5, MESH__GRPC_TIMEOUT_TEXT_MAX = 12 };

enum mesh__grpc_status {
	MESH__GRPC_OK = 0,
	MESH__GRPC_CANCELLED = 1,
	MESH__GRPC_UNKNOWN = 2,
	MESH__GRPC_INVALID_ARGUMENT = 3,
	MESH__GRPC_DEADLINE_EXCEEDED = 4,
	MESH__GRPC_NOT_FOUND = 5,
	MESH__GRPC_PERMISSION_DENIED = 7,
	MESH__GRPC_RESOURCE_EXHAUSTED = 8,
	MESH__GRPC_UNIMPLEMENTED = 12,
	MESH__GRPC_INTERNAL = 13,
	MESH__GRPC_UNAVAILABLE = 14,
	MESH__GRPC_UNAUTHENTICATED = 16,
	MESH__GRPC_STATUS_COUNT = 17
};

/* "application/grpc", "application/grpc+proto", "application/grpc;..." but not "application/grpc-web". */
bool mesh__grpc_is_content_type(const char *value, size_t len);

/* The five bytes before a message: not compressed, length in network order. */
void mesh__grpc_write_prefix(uint8_t prefix[MESH__GRPC_PREFIX_BYTES], uint32_t len);
/* Reads them; false if the message is compressed. */
bool mesh__grpc_read_prefix(const uint8_t prefix[MESH__GRPC_PREFIX_BYTES], uint32_t *len);

/* At most eight digits and a unit; rounds up, so that the peer never gives up before we do. Returns the length. */
size_t mesh__grpc_print_timeout(uint64_t timeout_ns, char text[MESH__GRPC_TIMEOUT_TEXT_MAX]);
/* false: not a timeout. Values that overflow are cut to UINT64_MAX / 2. */
bool mesh__grpc_parse_timeout(const char *text, size_t len, uint64_t *timeout_ns);

/* 0 to 16; anything else, whether a number or not, is UNKNOWN, as in gRPC's own clients. */
int32_t mesh__grpc_parse_status(const char *text, size_t len);
int32_t mesh__grpc_status_of_http(int http_status);
int32_t mesh__grpc_status_of_reset(uint32_t h2_error_code);

void mesh__grpc_percent_encode(struct mesh__text *out, const char *text);
/* In place; returns the new length. Bad escapes stay as they are. */
size_t mesh__grpc_percent_decode(char *text, size_t len);

/* Padded or not. `out` may be `text` itself. Several values joined by "," are decoded each and stay joined by ",". 0 or -1. */
int mesh__grpc_base64_decode(const char *text, size_t len, uint8_t *out, size_t *out_len);
/* Unpadded; needs (len * 4 + 2) / 3 bytes; returns the length. */
size_t mesh__grpc_base64_encode(const uint8_t *data, size_t len, char *out);

#endif
