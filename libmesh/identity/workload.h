/*
 * What the SPIFFE Workload API says: an X509SVIDResponse, read and checked as a whole. Pure, but for the wall clock.
 *
 * Each message is the whole truth: what an earlier one had and this one has not is gone. A message with an empty mandatory field is
 * discarded; so is one with a certificate, key, bundle or revocation list that cannot be used. Of several SVIDs with one hint the first is found.
 * Source: spiffe/spiffe standards/SPIFFE_Workload_API.md, section 5.2.
 */
#ifndef MESH_IDENTITY_WORKLOAD_H
#define MESH_IDENTITY_WORKLOAD_H

#include "identity/credentials.h"

#define MESH__WORKLOAD_FETCH_X509_SVID "/SpiffeWorkloadAPI/FetchX509SVID"

enum { MESH__WORKLOAD_MESSAGE_BYTES_MAX = 16 * 1024 * 1024 };

/* 0, or MESH_E_CORRUPT, MESH_E_IDENTITY (expired, or not yet valid), MESH_E_NOMEM with `why` a sentence. */
int mesh__workload_parse(const void *data, size_t len, struct mesh__credentials **out, char *why, size_t capacity);

#endif
