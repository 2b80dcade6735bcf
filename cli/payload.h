/* What a call or a load sends: body, headers and path, as given on the command line. */
#ifndef MESH_CLI_PAYLOAD_H
#define MESH_CLI_PAYLOAD_H

#include "args.h"

#include "mesh/client.h"

struct payload {
	char *body;
	size_t body_len;
	struct mesh_header *headers;
	char **header_texts; /* one string per header, cut in two at its colon */
	uint32_t header_count;
	char *grpc_path;
	const char *path;
};

/* `data`: text, "@FILE", "@-" or NULL; `grpc`: "package.Service/Method" or NULL. Complains and returns false if one is wrong. */
bool payload_init(struct payload *payload, const char *data, bool is_hex, const char *grpc, const struct arg_list *headers, const char *path);
void payload_apply(const struct payload *payload, struct mesh_call_options *opts); /* borrows; the payload must outlive opts */
void payload_fini(struct payload *payload);

#endif
