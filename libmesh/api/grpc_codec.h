/* Between protobuf-c messages and bytes, with bounds on what a stranger's bytes may cost. */
#ifndef MESH_API_GRPC_CODEC_H
#define MESH_API_GRPC_CODEC_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

enum {
	MESH__GRPC_CODEC_DEPTH = 100,    /* messages within messages: what other protobuf libraries allow */
	MESH__GRPC_CODEC_STORAGE = 1024, /* smaller messages are packed on the stack */
	MESH__GRPC_CODEC_PATH = 512      /* longest "/package.Service/Method" with its NUL */
};

/* A packed message: in the caller's storage when it is small, on the heap otherwise. */
struct mesh__grpc_packed {
	const uint8_t *data;
	size_t len;
	uint8_t *heap; /* NULL: data is in storage */
	uint8_t storage[MESH__GRPC_CODEC_STORAGE];
};

/* MESH_E_NOMEM, or 0 and then mesh__grpc_codec_release(). */
int mesh__grpc_codec_pack(const ProtobufCMessage *message, struct mesh__grpc_packed *packed);
void mesh__grpc_codec_release(struct mesh__grpc_packed *packed);

/*
 * MESH_E_PROTOCOL: the bytes are no such message, or nest too deep; MESH_E_TOO_LARGE: it would need far more memory than its
 * bytes justify; MESH_E_NOMEM. The message is of the heap: protobuf_c_message_free_unpacked(message, NULL) frees it.
 */
int mesh__grpc_codec_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t len, ProtobufCMessage **out);

/* "/package.Service/Method"; MESH_E_INVALID if it does not fit. */
int mesh__grpc_codec_path(char path[MESH__GRPC_CODEC_PATH], const ProtobufCServiceDescriptor *service,
			  const ProtobufCMethodDescriptor *method);

#endif
