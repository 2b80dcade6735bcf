#include "base/log.h"

#include "base/text.h"

enum { LINE_BYTES_MAX = MESH__TEXT_FORMATTED_MAX };

void mesh__log_write(const struct mesh__log *log, int32_t level, const char *format, ...)
{
	char storage[LINE_BYTES_MAX];
	struct mesh__text line;
	va_list args;

	if (!log || !log->fn || level > log->level)
		return;
	mesh__text_init(&line, storage, sizeof(storage));
	va_start(args, format);
	mesh__text_addv_escaped(&line, format, args);
	va_end(args);
	log->fn(level, line.data, log->user);
}
