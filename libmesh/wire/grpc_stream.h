/*
 * One server-streaming gRPC call on a connection of its own, plain text, over a Unix socket or TCP: how the library itself talks to
 * an agent on this machine. No deadline: such a stream lives as long as the process.
 */
#ifndef MESH_WIRE_GRPC_STREAM_H
#define MESH_WIRE_GRPC_STREAM_H

#include "identity/identity.h"

extern const struct mesh__stream_client mesh__grpc_streams;

#endif
