/* Reads what came: for gRPC the status in the trailers, the message behind its prefix, binary metadata. */
#include "flow/answer.h"

#include "flow/call.h"

#include <string.h>

static bool has_whole_message(const struct mesh_call *call)
{
	uint32_t announced;

	if (call->pipe)
		return !mesh__pipe_has_partial(call->pipe);
	if (call->answer_len < MESH__GRPC_PREFIX_BYTES)
		return false;
	mesh__grpc_read_prefix(call->answer, &announced);
	return call->answer_len == (uint64_t)announced + MESH__GRPC_PREFIX_BYTES;
}

static const char *find(const struct mesh_call *call, const char *name, uint32_t *len)
{
	const char *value = mesh__headers_find(&call->headers, name, strlen(name), true, len);

	/* An answer of nothing but trailers has them in its only header block. */
	return value ? value : mesh__headers_find(&call->headers, name, strlen(name), false, len);
}

static void read_message(struct mesh_call *call)
{
	uint32_t len;
	char *text = (char *)(uintptr_t)find(call, "grpc-message", &len);

	call->grpc_message = "";
	if (!text)
		return;
	/* Decoding only shortens; nobody else sees the call yet. */
	text[mesh__grpc_percent_decode(text, len)] = '\0';
	call->grpc_message = text;
}

static void blame_status(struct mesh_call *call)
{
	char storage[256];
	struct mesh__text text;

	mesh__text_init(&text, storage, sizeof(storage));
	mesh__text_add_escaped(&text, call->grpc_message, strlen(call->grpc_message));
	mesh__call_blame(call, MESH_E_STATUS, MESH_STAGE_ATTEMPT, "%s: %s answered %s%s%s", call->target->name, call->attempt.reach->reach->name,
			 mesh_grpc_status_name(call->grpc_status), text.len ? ": " : "", storage);
}

static void blame_type(struct mesh_call *call, const char *type, uint32_t len)
{
	char storage[64];
	struct mesh__text text;

	mesh__text_init(&text, storage, sizeof(storage));
	mesh__text_add_escaped(&text, type ? type : "missing", type ? len : 7);
	mesh__call_blame(call, MESH_E_PROTOCOL, MESH_STAGE_ATTEMPT, "%s: %s did not answer in gRPC: its content-type is %s; is it a gRPC server?",
			 call->target->name, call->attempt.reach->reach->name, storage);
}

static void read_grpc(struct mesh_call *call)
{
	const char *who = call->attempt.reach->reach->name;
	uint32_t len, type_len;
	const char *status = find(call, "grpc-status", &len);
	const char *type = mesh__headers_find(&call->headers, "content-type", 12, false, &type_len);

	if (mesh__headers_decode_binary(&call->headers)) {
		mesh__call_blame(call, MESH_E_PROTOCOL, MESH_STAGE_ATTEMPT, "%s: %s sent binary metadata that is not base64", call->target->name, who);
		return;
	}
	read_message(call);
	if (!status && call->http_status != 200) {
		call->grpc_status = mesh__grpc_status_of_http(call->http_status);
		mesh__call_blame(call, MESH_E_STATUS, MESH_STAGE_ATTEMPT, "%s: %s answered HTTP %d instead of gRPC", call->target->name, who,
				 call->http_status);
	} else if (!type || !mesh__grpc_is_content_type(type, type_len)) {
		call->grpc_status = MESH__GRPC_UNKNOWN;
		blame_type(call, type, type_len);
	} else if (!status) {
		mesh__call_blame(call, MESH_E_PROTOCOL, MESH_STAGE_ATTEMPT, "%s: %s ended its answer without a grpc-status", call->target->name, who);
	} else if ((call->grpc_status = mesh__grpc_parse_status(status, len)) != 0) {
		blame_status(call);
	} else if (!has_whole_message(call)) {
		mesh__call_blame(call, MESH_E_PROTOCOL, MESH_STAGE_ATTEMPT, "%s: %s said OK, but its message is %s", call->target->name, who,
				 call->answer_len ? "cut short, or there is more than one" : "missing");
	}
}

void mesh__answer_read(struct mesh_call *call)
{
	struct mesh__headers *from = &call->attempt.stream.headers;

	call->headers = *from;
	mesh__headers_init(from);
	call->code = 0;
	if (call->is_grpc)
		read_grpc(call);
}
