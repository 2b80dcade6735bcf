/*
 * What goes back. An answer is copied into one block, handed to the request's loop (at once, if we are there), and kept until
 * the request is freed, since the connection reads header texts where they are.
 *
 * Exactly one answer wins: is_answered is taken before anything else happens.
 */
#include "serve/serve.h"

#include "base/memory.h"

#include <string.h>

enum { GRPC_MESSAGE_MAX = 3 * 1024, OWN_FIELDS_MAX = 4 };

struct mesh__reply_block {
	struct mesh__reply_block *next;
	struct mesh__task task;
	struct mesh_request *request;
	int32_t http_status, grpc_status;
	uint32_t header_count, trailer_count;
	struct mesh_header *headers, *trailers;
	const uint8_t *body;
	uint64_t body_len;
	bool is_last, has_message;
	uint8_t from; /* enum mesh__memory_from */
	char status_text[16], length_text[24], grpc_status_text[12];
};

void mesh__reply_free_blocks(struct mesh_request *request)
{
	for (struct mesh__reply_block *block = request->blocks, *next; block; block = next) {
		next = block->next;
		mesh__loop_free_memory(request->lp, block, block->from);
	}
	request->blocks = NULL;
}

/* --- building, on any thread --- */

static uint32_t len_or(uint32_t len, const char *text)
{
	return len || !text ? len : (uint32_t)strlen(text);
}

static bool is_binary(const struct mesh_request *request, const struct mesh_header *header, uint32_t name_len)
{
	return request->is_grpc && name_len >= 4 && memcmp(header->name + name_len - 4, "-bin", 4) == 0;
}

static size_t list_bytes(const struct mesh_header *list, uint32_t count)
{
	size_t bytes = 0;

	for (uint32_t i = 0; i < count; i++)
		bytes += len_or(list[i].name_len, list[i].name) + (size_t)len_or(list[i].value_len, list[i].value) * 4 / 3 + 6;
	return bytes;
}

static char *copy_list(struct mesh_request *request, struct mesh_header *to, const struct mesh_header *from, uint32_t count, char *room)
{
	for (uint32_t i = 0; i < count; i++, to++, from++) {
		uint32_t value_len = len_or(from->value_len, from->value);

		to->name_len = len_or(from->name_len, from->name);
		to->name = room;
		memcpy(room, from->name, to->name_len);
		room += to->name_len;
		to->value = room;
		if (is_binary(request, from, to->name_len)) {
			to->value_len = (uint32_t)mesh__grpc_base64_encode((const uint8_t *)from->value, value_len, room);
		} else {
			to->value_len = value_len;
			if (value_len)
				memcpy(room, from->value, value_len);
		}
		room += to->value_len;
	}
	return room;
}

/* Decimal digits, without the cost of snprintf(), which shows in a profile of small answers. Returns their number. */
static uint32_t print_number(char *text, uint64_t number)
{
	char reversed[20];
	uint32_t n = 0;

	do
		reversed[n++] = (char)('0' + number % 10);
	while (number /= 10);
	for (uint32_t i = 0; i < n; i++)
		text[i] = reversed[n - 1 - i];
	return n;
}

#define FIELD(n, v, len) (struct mesh_header){ .name = (n), .value = (v), .name_len = sizeof(n) - 1, .value_len = (uint32_t)(len) }

static uint32_t own_headers(struct mesh_request *request, struct mesh__reply_block *block, const struct mesh_reply *reply, bool is_whole)
{
	uint32_t n = 0;

	block->headers[n++] = FIELD(":status", block->status_text, print_number(block->status_text, (uint64_t)block->http_status));
	if (request->is_grpc)
		block->headers[n++] = FIELD("content-type", "application/grpc", 16);
	else if (is_whole && block->http_status != 204 && block->http_status != 304)
		block->headers[n++] = FIELD("content-length", block->length_text, print_number(block->length_text, reply->body_len));
	return n;
}

static uint32_t own_trailers(struct mesh__reply_block *block, const char *message, char **room)
{
	struct mesh__text text;
	uint32_t n = 0;

	block->trailers[n++] = FIELD("grpc-status", block->grpc_status_text,
				     print_number(block->grpc_status_text, (uint64_t)block->grpc_status));
	if (message && *message) {
		mesh__text_init(&text, *room, GRPC_MESSAGE_MAX);
		mesh__grpc_percent_encode(&text, message);
		block->trailers[n++] = FIELD("grpc-message", text.data, text.len);
		*room += GRPC_MESSAGE_MAX;
	}
	return n;
}

/* `with_headers`, `with_trailers`: which parts this block carries. */
static struct mesh__reply_block *new_block(struct mesh_request *request, const struct mesh_reply *reply, bool with_headers, bool with_trailers)
{
	uint32_t headers = OWN_FIELDS_MAX + (with_headers ? reply->header_count : 0);
	uint32_t trailers = OWN_FIELDS_MAX + (with_trailers ? reply->trailer_count : 0);
	bool has_message = reply->grpc_message && *reply->grpc_message && with_trailers;
	size_t prefix = request->is_grpc ? MESH__GRPC_PREFIX_BYTES : 0;
	size_t bytes = sizeof(struct mesh__reply_block) + (headers + trailers) * sizeof(struct mesh_header) +
		       (with_headers ? list_bytes(reply->headers, reply->header_count) : 0) +
		       (with_trailers ? list_bytes(reply->trailers, reply->trailer_count) : 0) + (has_message ? GRPC_MESSAGE_MAX : 0) + prefix +
		       reply->body_len;
	uint8_t from;
	struct mesh__reply_block *block = mesh__loop_alloc(request->lp, bytes, &from);
	char *room;

	if (!block)
		return NULL;
	memset(block, 0, sizeof(*block));
	block->request = request;
	block->from = from;
	block->http_status = reply->http_status && !request->is_grpc ? reply->http_status : 200;
	block->grpc_status = reply->grpc_status;
	block->headers = (struct mesh_header *)(void *)(block + 1);
	block->trailers = block->headers + headers;
	room = (char *)(block->trailers + trailers);
	if (with_headers) {
		block->header_count = own_headers(request, block, reply, with_trailers);
		room = copy_list(request, block->headers + block->header_count, reply->headers, reply->header_count, room);
		block->header_count += reply->header_count;
	}
	if (with_trailers) {
		block->is_last = true;
		block->trailer_count = request->is_grpc ? own_trailers(block, reply->grpc_message, &room) : 0;
		room = copy_list(request, block->trailers + block->trailer_count, reply->trailers, reply->trailer_count, room);
		block->trailer_count += reply->trailer_count;
	}
	/* A gRPC error has no message; OK always has one, even an empty one. */
	block->has_message = with_headers && with_trailers && (request->is_grpc ? reply->grpc_status == 0 : reply->body_len > 0);
	if (block->has_message) {
		block->body = (uint8_t *)room;
		block->body_len = prefix + reply->body_len;
		if (prefix)
			mesh__grpc_write_prefix((uint8_t *)room, (uint32_t)reply->body_len);
		if (reply->body_len)
			memcpy(room + prefix, reply->body, reply->body_len);
	}
	return block;
}

/* --- applying, on the loop --- */

static void release_body(struct mesh__chunk *chunk, struct mesh__stream *stream)
{
	(void)chunk;
	(void)stream;
}

static void note_status(struct mesh_request *request, const struct mesh__reply_block *block)
{
	if (request->has_status)
		return;
	request->has_status = true;
	request->outcome = request->is_grpc ? mesh__outcome_of_grpc(block->grpc_status) : mesh__outcome_of_http(block->http_status);
}

/* An answer to HEAD, and these statuses, end with the headers whatever the handler gave (RFC 9110, 6.4.1). */
static bool has_no_body(const struct mesh_request *request, const struct mesh__reply_block *block)
{
	return !request->is_grpc && (request->is_head || block->http_status == 204 || block->http_status == 304);
}

static void respond_whole(struct mesh_request *request, struct mesh__reply_block *block)
{
	struct mesh__stream *stream = &request->stream;

	if (has_no_body(request, block) || (!block->has_message && !(block->trailer_count && !request->is_grpc))) {
		/* Nothing but headers: for gRPC the trailers are among them ("trailers-only"). */
		struct mesh_header all[OWN_FIELDS_MAX * 2 + 128];
		uint32_t n = 0;

		for (uint32_t i = 0; i < block->header_count && n < sizeof(all) / sizeof(all[0]); i++)
			all[n++] = block->headers[i];
		for (uint32_t i = 0; request->is_grpc && i < block->trailer_count && n < sizeof(all) / sizeof(all[0]); i++)
			all[n++] = block->trailers[i];
		mesh__stream_respond(stream, all, n, false);
		return;
	}
	if (block->body_len) {
		request->chunk = (struct mesh__chunk){ .data = block->body, .len = block->body_len, .release = release_body };
		mesh__stream_send(stream, &request->chunk);
	}
	mesh__stream_send_end(stream, block->trailers, block->trailer_count);
	mesh__stream_respond(stream, block->headers, block->header_count, true);
}

static void apply(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh__reply_block *block = MESH__CONTAINER(task, struct mesh__reply_block, task);
	struct mesh_request *request = block->request;

	(void)lp;
	block->next = request->blocks;
	request->blocks = block;
	if (block->is_last)
		note_status(request, block);
	if (request->is_open) {
		bool is_whole = block->header_count && block->is_last && !request->has_responded;

		if (is_whole && !(request->pipe && atomic_load_explicit(&request->is_begun, memory_order_relaxed))) {
			respond_whole(request, block);
		} else {
			if (block->header_count && !request->has_responded)
				mesh__stream_respond(&request->stream, block->headers, block->header_count, !has_no_body(request, block));
			if (block->is_last) {
				request->stream.trailers = block->trailers;
				request->stream.trailer_count = block->trailer_count;
				mesh__pipe_allow_end(request->pipe);
			}
		}
		/* Who finishes while another thread begins may come first: the end waits for the headers. */
		request->has_responded = request->has_responded || block->header_count;
	}
	if (block->is_last)
		mesh__timer_cancel(&request->deadline);
	mesh__request_drop(request);
}

static int hand_in(struct mesh_request *request, struct mesh__reply_block *block)
{
	block->task.run = apply;
	mesh__request_hold(request);
	if (mesh__loop_is_mine(request->lp)) {
		apply(&block->task, request->lp);
		return 0;
	}
	if (mesh__loop_post(request->lp, &block->task))
		return 0;
	mesh__memory_free(block);
	mesh__request_drop(request);
	return MESH_E_CANCELLED;
}

static bool has_bad_list(const struct mesh_request *request, const struct mesh_header *list, uint32_t count)
{
	if (count && !list)
		return true;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t name_len = list[i].name ? len_or(list[i].name_len, list[i].name) : 0, value_len = len_or(list[i].value_len, list[i].value);

		if (!name_len || list[i].name[0] == ':' || (value_len && !list[i].value))
			return true;
		for (uint32_t k = 0; k < name_len; k++)
			if ((list[i].name[k] >= 'A' && list[i].name[k] <= 'Z') || list[i].name[k] <= ' ' || list[i].name[k] == 0x7f)
				return true;
		if (is_binary(request, &list[i], name_len))
			continue;
		for (uint32_t k = 0; k < value_len; k++)
			if (list[i].value[k] == '\r' || list[i].value[k] == '\n' || list[i].value[k] == '\0')
				return true;
	}
	return false;
}

static int check(struct mesh_request *request, const struct mesh_reply *reply)
{
	if (reply->size < sizeof(*reply))
		return MESH_E_VERSION;
	if ((reply->body_len && !reply->body) || has_bad_list(request, reply->headers, reply->header_count) ||
	    has_bad_list(request, reply->trailers, reply->trailer_count) || reply->header_count > 120 || reply->trailer_count > 120)
		return MESH_E_INVALID;
	if (!request->is_grpc && reply->http_status && (reply->http_status < 200 || reply->http_status > 599))
		return MESH_E_INVALID;
	if (request->is_grpc && (reply->grpc_status < 0 || reply->body_len > UINT32_MAX))
		return MESH_E_INVALID;
	if (request->is_grpc && reply->body_len > request->message_max_bytes)
		return MESH_E_TOO_LARGE;
	return 0;
}

int mesh__request_reply(struct mesh_request *request, const struct mesh_reply *reply)
{
	int rc = check(request, reply);
	struct mesh__reply_block *block;

	if (rc)
		return rc;
	if (atomic_load_explicit(&request->is_begun, memory_order_acquire))
		return MESH_E_STATE;
	if (atomic_load_explicit(&request->is_cancelled, memory_order_acquire))
		return MESH_E_CANCELLED;
	block = new_block(request, reply, true, true);
	if (!block)
		return MESH_E_NOMEM;
	if (atomic_exchange_explicit(&request->is_answered, true, memory_order_acq_rel)) {
		mesh__loop_free_memory(request->lp, block, block->from);
		return MESH_E_STATE;
	}
	return hand_in(request, block);
}

int mesh__request_begin(struct mesh_request *request, const struct mesh_reply *reply)
{
	static const struct mesh_reply plain = { .size = sizeof(plain) };
	struct mesh__reply_block *block;
	int rc = reply ? check(request, reply) : 0;

	if (rc)
		return rc;
	if (!request->pipe || atomic_load_explicit(&request->is_answered, memory_order_acquire))
		return MESH_E_STATE;
	if (atomic_load_explicit(&request->is_cancelled, memory_order_acquire))
		return MESH_E_CANCELLED;
	if (atomic_load_explicit(&request->is_begun, memory_order_acquire))
		return reply ? MESH_E_STATE : 0;
	block = new_block(request, reply ? reply : &plain, true, false);
	if (!block)
		return MESH_E_NOMEM;
	if (atomic_exchange_explicit(&request->is_begun, true, memory_order_acq_rel)) {
		mesh__loop_free_memory(request->lp, block, block->from);
		return reply ? MESH_E_STATE : 0;
	}
	return hand_in(request, block);
}

int mesh__request_finish(struct mesh_request *request, const struct mesh_reply *reply)
{
	struct mesh__reply_block *block;
	int rc = check(request, reply);

	if (rc)
		return rc;
	if (!request->pipe)
		return MESH_E_STATE;
	/* Nothing was sent: headers and status can go in one. */
	if (!atomic_load_explicit(&request->is_begun, memory_order_acquire) && request->is_grpc && reply->grpc_status)
		return mesh__request_reply(request, reply);
	rc = mesh__request_begin(request, NULL);
	if (rc)
		return rc;
	block = new_block(request, reply, false, true);
	if (!block)
		return MESH_E_NOMEM;
	if (atomic_exchange_explicit(&request->is_answered, true, memory_order_acq_rel)) {
		mesh__loop_free_memory(request->lp, block, block->from);
		return MESH_E_STATE;
	}
	/* First "nothing follows", then the trailers: the end goes out when both are there. */
	mesh__pipe_send(request->pipe, NULL, 0, true, 0);
	return hand_in(request, block);
}

void mesh__request_refuse(struct mesh_request *request, int http_status, int grpc_status, const char *message)
{
	struct mesh_reply reply = { .size = sizeof(reply), .http_status = http_status, .grpc_status = grpc_status, .grpc_message = message };

	if (!request->is_grpc) {
		reply.body = message;
		reply.body_len = strlen(message);
	}
	mesh__request_refuse_with(request, &reply);
}

void mesh__request_refuse_with(struct mesh_request *request, const struct mesh_reply *reply)
{
	struct mesh__reply_block *block;

	request->is_rejected = true;
	if (request->has_responded || atomic_load_explicit(&request->is_begun, memory_order_acquire)) {
		mesh__stream_reset(&request->stream, MESH__H2_INTERNAL_ERROR);
		return;
	}
	if (atomic_exchange_explicit(&request->is_answered, true, memory_order_acq_rel))
		return;
	block = new_block(request, reply, true, true);
	if (block)
		hand_in(request, block);
	else
		mesh__stream_reset(&request->stream, MESH__H2_INTERNAL_ERROR);
}
