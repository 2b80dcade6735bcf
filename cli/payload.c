#include "payload.h"

#include "output.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More than any server takes; keeps `-d @/dev/zero` from filling the memory. */
#define PAYLOAD_MAX_BYTES ((size_t)256 << 20)

static bool complain_no_memory(void)
{
	complain("out of memory");
	return false;
}

static bool read_stream(struct payload *payload, FILE *file, const char *name)
{
	size_t capacity = 0, got;

	do {
		if (payload->body_len == capacity) {
			capacity = capacity ? 2 * capacity : 64 * 1024;
			if (capacity > PAYLOAD_MAX_BYTES) {
				complain("%s: more than %zu bytes", name, PAYLOAD_MAX_BYTES / 2);
				return false;
			}
			char *body = realloc(payload->body, capacity);
			if (!body)
				return complain_no_memory();
			payload->body = body;
		}
		got = fread(payload->body + payload->body_len, 1, capacity - payload->body_len, file);
		payload->body_len += got;
	} while (got > 0);
	if (!ferror(file))
		return true;
	complain("cannot read %s: %s", name, strerror(errno));
	return false;
}

static bool read_file(struct payload *payload, const char *name)
{
	if (strcmp(name, "-") == 0)
		return read_stream(payload, stdin, "standard input");
	FILE *file = fopen(name, "rbe");
	if (!file) {
		complain("cannot read %s: %s", name, strerror(errno));
		return false;
	}
	bool is_read = read_stream(payload, file, name);
	fclose(file);
	return is_read;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* In place; blanks between the digits are fine. */
static bool unhex(struct payload *payload)
{
	size_t used = 0, digits = 0;
	int high = 0;

	for (size_t i = 0; i < payload->body_len; i++) {
		char c = payload->body[i];
		int value = hex_digit(c);
		if (isspace((unsigned char)c))
			continue;
		if (value < 0) {
			complain("the data is not hexadecimal: byte %zu is '%c'", i + 1, c);
			return false;
		}
		if (digits++ % 2 == 0)
			high = value;
		else
			payload->body[used++] = (char)(high << 4 | value);
	}
	if (digits % 2) {
		complain("the data is not hexadecimal: an odd number of digits");
		return false;
	}
	payload->body_len = used;
	return true;
}

static bool read_data(struct payload *payload, const char *data, bool is_hex)
{
	if (!data)
		return true;
	if (*data == '@') {
		if (!read_file(payload, data + 1))
			return false;
	} else {
		payload->body = strdup(data);
		if (!payload->body)
			return complain_no_memory();
		payload->body_len = strlen(data);
	}
	return !is_hex || unhex(payload);
}

static bool read_header(struct payload *payload, const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		return complain_no_memory();
	payload->header_texts[payload->header_count] = copy;
	char *colon = strchr(copy + (*copy == ':'), ':');
	if (!colon || colon == copy) {
		payload->header_count++;
		complain("-H %s: a header looks like 'name: value'", text);
		return false;
	}
	*colon = '\0';
	for (char *c = copy; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	const char *value = colon + 1 + strspn(colon + 1, " \t");
	payload->headers[payload->header_count++] = (struct mesh_header){ copy, value, 0, 0 };
	return true;
}

static bool read_headers(struct payload *payload, const struct arg_list *list)
{
	payload->headers = calloc(list->count + 1, sizeof(*payload->headers));
	payload->header_texts = calloc(list->count + 1, sizeof(*payload->header_texts));
	if (!payload->headers || !payload->header_texts)
		return complain_no_memory();
	for (size_t i = 0; i < list->count; i++) {
		if (!read_header(payload, list->items[i]))
			return false;
	}
	return true;
}

static bool read_grpc(struct payload *payload, const char *grpc)
{
	const char *method = grpc + (*grpc == '/');
	const char *slash = strchr(method, '/');
	size_t size = strlen(method) + 2;

	if (!slash || slash == method || slash[1] == '\0' || strchr(slash + 1, '/')) {
		complain("--grpc %s: a method looks like package.Service/Method", grpc);
		return false;
	}
	payload->grpc_path = malloc(size);
	if (!payload->grpc_path)
		return complain_no_memory();
	snprintf(payload->grpc_path, size, "/%s", method);
	return true;
}

bool payload_init(struct payload *payload, const char *data, bool is_hex, const char *grpc, const struct arg_list *headers, const char *path)
{
	memset(payload, 0, sizeof(*payload));
	if (grpc && strcmp(path, "/") != 0) {
		complain("a gRPC call has no path but its method: leave out %s", path);
		return false;
	}
	if (grpc && !read_grpc(payload, grpc))
		return false;
	payload->path = grpc ? payload->grpc_path : path;
	return read_data(payload, data, is_hex) && read_headers(payload, headers);
}

void payload_apply(const struct payload *payload, struct mesh_call_options *opts)
{
	opts->path = payload->path;
	opts->body = payload->body;
	opts->body_len = payload->body_len;
	opts->headers = payload->headers;
	opts->header_count = payload->header_count;
}

void payload_fini(struct payload *payload)
{
	for (uint32_t i = 0; i < payload->header_count; i++)
		free(payload->header_texts[i]);
	free(payload->header_texts);
	free(payload->headers);
	free(payload->body);
	free(payload->grpc_path);
	memset(payload, 0, sizeof(*payload));
}
