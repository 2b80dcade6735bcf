#include "base/fault.h"

#include "base/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

enum grpc_code {
	GRPC_OK, GRPC_CANCELLED, GRPC_UNKNOWN, GRPC_INVALID_ARGUMENT, GRPC_DEADLINE_EXCEEDED, GRPC_NOT_FOUND, GRPC_ALREADY_EXISTS,
	GRPC_PERMISSION_DENIED, GRPC_RESOURCE_EXHAUSTED, GRPC_FAILED_PRECONDITION, GRPC_ABORTED, GRPC_OUT_OF_RANGE,
	GRPC_UNIMPLEMENTED, GRPC_INTERNAL, GRPC_UNAVAILABLE, GRPC_DATA_LOSS, GRPC_UNAUTHENTICATED
};

static const char *const grpc_names[] = {
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
	"DATA_LOSS", "UNAUTHENTICATED"
};

struct error_row {
	const char *name, *text, *hint;
	int32_t code, grpc;
};

static const struct error_row rows[] = {
	{ "OK", "no error", "", 0, GRPC_OK },
#define MESH_ERROR(name, value, grpc, text, hint) { #name, text, hint, value, GRPC_##grpc },
#include "tables/errors.def"
#undef MESH_ERROR
};

/* The public constants and the table must agree. */
#define MESH_ERROR(name, value, grpc, text, hint) _Static_assert(MESH_E_##name == (value), "mesh/error.h and errors.def differ: " #name);
#include "tables/errors.def"
#undef MESH_ERROR
#define MESH_STAGE(NAME, name, value, side, reason) \
	_Static_assert(MESH_STAGE_##NAME == (value), "mesh/error.h and stages.def differ: " #NAME);
#include "tables/stages.def"
#undef MESH_STAGE

static const struct error_row *find_row(int32_t code)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (rows[i].code == code)
			return &rows[i];
	return NULL;
}

const char *mesh_error_name(int32_t code)
{
	const struct error_row *row = find_row(code);

	return row ? row->name : "UNKNOWN";
}

const char *mesh_error_text(int32_t code)
{
	const struct error_row *row = find_row(code);

	return row ? row->text : "not an error code of this library";
}

const char *mesh_error_hint(int32_t code)
{
	const struct error_row *row = find_row(code);

	return row ? row->hint : "";
}

const char *mesh_stage_name(int32_t stage)
{
	switch (stage) {
#define MESH_STAGE(NAME, name, value, side, reason) case value: return name;
#include "tables/stages.def"
#undef MESH_STAGE
	}
	return "unknown";
}

const char *mesh_grpc_status_name(int32_t status)
{
	size_t count = sizeof(grpc_names) / sizeof(grpc_names[0]);

	return status >= 0 && (size_t)status < count ? grpc_names[status] : "UNKNOWN";
}

void mesh__fault_copy(struct mesh_error *to, const struct mesh_error *from)
{
	uint32_t size;

	if (!to)
		return;
	size = to->size < from->size ? to->size : from->size;
	if (size <= sizeof(to->size))
		return;
	memcpy((char *)to + sizeof(to->size), (const char *)from + sizeof(from->size), size - sizeof(to->size));
	mesh__text_end_inside(to, size, offsetof(struct mesh_error, endpoint), sizeof(to->endpoint));
	mesh__text_end_inside(to, size, offsetof(struct mesh_error, message), sizeof(to->message));
}

__attribute__((format(printf, 4, 0)))
static void fill(struct mesh_error *err, int32_t code, int32_t stage, const char *format, va_list args, const char *reason)
{
	struct mesh_error full = MESH_ERROR_INIT;
	const struct error_row *row = find_row(code);
	struct mesh__text text;

	if (!err)
		return;
	full.code = code;
	full.stage = stage;
	full.grpc_status = row ? row->grpc : GRPC_UNKNOWN;
	mesh__text_init(&text, full.message, sizeof(full.message));
	mesh__text_addv_escaped(&text, format, args);
	if (reason) {
		mesh__text_add(&text, ": ");
		mesh__text_add(&text, reason);
	}
	mesh__fault_copy(err, &full);
}

int mesh__fault(struct mesh_error *err, int32_t code, int32_t stage, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fill(err, code, stage, format, args, NULL);
	va_end(args);
	return code;
}

int mesh__fault_code_of_errno(int number)
{
	switch (number) {
	case EMFILE:
	case ENFILE:
		return MESH_E_NO_DESCRIPTORS;
	case ENOMEM:
	case ENOBUFS:
		return MESH_E_NOMEM;
	default:
		return MESH_E_SYSTEM;
	}
}

int mesh__fault_errno(struct mesh_error *err, int32_t stage, int number, const char *format, ...)
{
	char storage[128];
	/* _GNU_SOURCE: the variant that returns the text, without global state. */
	const char *reason = strerror_r(number, storage, sizeof(storage));
	int code = mesh__fault_code_of_errno(number);
	va_list args;

	va_start(args, format);
	fill(err, code, stage, format, args, reason);
	va_end(args);
	return code;
}
