#include "output.h"

#include "command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const char *command_name = "";

void output_set_command(const char *name)
{
	command_name = name;
}

/* ---- bytes of strangers ---- */

/* The length of the UTF-8 sequence at `text`, 0 if it is none; *point is its code point. */
static size_t decode(const unsigned char *text, size_t len, uint32_t *point)
{
	static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t size = text[0] < 0x80 ? 1 : (text[0] & 0xe0) == 0xc0 ? 2 : (text[0] & 0xf0) == 0xe0 ? 3 : (text[0] & 0xf8) == 0xf0 ? 4 : 0;

	if (size == 0 || size > len)
		return 0;
	uint32_t value = size == 1 ? text[0] : text[0] & (0x7fu >> size);
	for (size_t i = 1; i < size; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		value = value << 6 | (text[i] & 0x3fu);
	}
	if (value < smallest[size] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
		return 0;
	*point = value;
	return size;
}

/* Terminals act on control characters; direction marks make a line read as another one. */
static bool is_harmful(uint32_t point)
{
	return point < 0x20 || (point >= 0x7f && point < 0xa0) || point == 0x200e || point == 0x200f || point == 0x061c ||
	       (point >= 0x2028 && point <= 0x202e) || (point >= 0x2066 && point <= 0x2069) || point == 0xfeff;
}

/* Writes the visible form of what stands at `text` into `out` (at most 12 bytes and a NUL); returns how many bytes it stood for. */
static size_t show(const unsigned char *text, size_t len, bool keep_lines, char out[16])
{
	uint32_t point = 0;
	size_t size = decode(text, len, &point);

	if (size == 0) {
		snprintf(out, 16, "\\x%02x", text[0]);
		return 1;
	}
	if (!is_harmful(point) || (keep_lines && (point == '\n' || point == '\t'))) {
		memcpy(out, text, size);
		out[size] = '\0';
	} else if (point == '\n' || point == '\r' || point == '\t') {
		snprintf(out, 16, "\\%c", point == '\n' ? 'n' : point == '\r' ? 'r' : 't');
	} else if (point < 0x80) {
		snprintf(out, 16, "\\x%02x", point);
	} else {
		snprintf(out, 16, "\\u{%x}", point);
	}
	return size;
}

void print_escaped(FILE *file, const char *text, size_t len, bool keep_lines)
{
	char piece[16];

	for (size_t at = 0; at < len;) {
		at += show((const unsigned char *)text + at, len - at, keep_lines, piece);
		fputs(piece, file);
	}
}

char *escape(char *buffer, size_t capacity, const char *text)
{
	size_t len = strlen(text), used = 0;
	char piece[16];

	for (size_t at = 0; at < len;) {
		at += show((const unsigned char *)text + at, len - at, false, piece);
		size_t size = strlen(piece);
		if (used + size >= capacity)
			break;
		memcpy(buffer + used, piece, size);
		used += size;
	}
	buffer[used] = '\0';
	return buffer;
}

bool is_utf8(const char *text, size_t len)
{
	uint32_t point;

	for (size_t at = 0, size; at < len; at += size) {
		size = decode((const unsigned char *)text + at, len - at, &point);
		if (size == 0)
			return false;
	}
	return true;
}

static size_t display_width(const char *text)
{
	size_t width = 0;

	for (; *text; text++)
		width += ((unsigned char)*text & 0xc0) != 0x80;
	return width;
}

/* ---- colour and messages ---- */

bool output_has_colour(FILE *file)
{
	const char *no_color = getenv("NO_COLOR"), *force = getenv("CLICOLOR_FORCE"), *term = getenv("TERM");

	if (no_color && *no_color)
		return false;
	if (force && *force && strcmp(force, "0") != 0)
		return true;
	if (!term || !*term || strcmp(term, "dumb") == 0)
		return false;
	return isatty(fileno(file)) == 1;
}

void paint(FILE *file, enum colour colour, const char *format, ...)
{
	static const char *const codes[] = { "0", "1", "2", "31", "32", "33", "36" };
	bool is_painted = colour != PLAIN && output_has_colour(file);
	va_list args;

	if (is_painted)
		fprintf(file, "\033[%sm", codes[colour]);
	va_start(args, format);
	vfprintf(file, format, args);
	va_end(args);
	if (is_painted)
		fputs("\033[0m", file);
}

static void print_message(enum colour colour, const char *text)
{
	fflush(stdout);
	paint(stderr, colour, "mesh%s%s: ", *command_name ? " " : "", command_name);
	print_escaped(stderr, text, strlen(text), false);
	fputc('\n', stderr);
}

void complain(const char *format, ...)
{
	char text[2048];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	print_message(RED, text);
}

void complain_error(const struct mesh_error *err)
{
	print_message(RED, err->message[0] ? err->message : mesh_error_text(err->code));
	paint(stderr, DIM, "  %s", mesh_error_name(err->code));
	if (err->stage != MESH_STAGE_NONE)
		paint(stderr, DIM, ", decided by step `%s`", mesh_stage_name(err->stage));
	paint(stderr, DIM, ". Hint: %s\n", mesh_error_hint(err->code));
}

/* ---- numbers for people ---- */

char *human_duration(char *buffer, uint64_t ns)
{
	double value = (double)ns;

	if (ns < 1000)
		snprintf(buffer, HUMAN_BYTES, "%uns", (unsigned)ns);
	else if (value < 999.5e3)
		snprintf(buffer, HUMAN_BYTES, "%.0fus", value / 1e3);
	else if (value < 999.5e6)
		snprintf(buffer, HUMAN_BYTES, "%.*fms", value < 9.995e6 ? 2 : value < 99.95e6 ? 1 : 0, value / 1e6);
	else if (value < 120e9)
		snprintf(buffer, HUMAN_BYTES, "%.*fs", value < 9.995e9 ? 2 : 1, value / 1e9);
	else
		snprintf(buffer, HUMAN_BYTES, "%.0fm%02.0fs", value / 60e9 - 0.5, (double)(ns / 1000000000 % 60));
	return buffer;
}

char *human_count(char *buffer, uint64_t count)
{
	char digits[24];
	int len = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)count), used = 0;

	for (int i = 0; i < len; i++) {
		if (i > 0 && (len - i) % 3 == 0)
			buffer[used++] = ',';
		buffer[used++] = digits[i];
	}
	buffer[used] = '\0';
	return buffer;
}

char *human_rate(char *buffer, double per_second)
{
	if (per_second < 99.95)
		snprintf(buffer, HUMAN_BYTES, "%.1f", per_second);
	else
		human_count(buffer, (uint64_t)(per_second + 0.5));
	return buffer;
}

char *human_share(char *buffer, uint64_t part, uint64_t whole)
{
	/* Rounded down to hundredths: one failure in a million must not read as 100%. */
	uint64_t hundredths = whole ? (uint64_t)((double)part / (double)whole * 10000) : 0;

	if (whole == 0)
		snprintf(buffer, HUMAN_BYTES, "-");
	else if (part >= whole)
		snprintf(buffer, HUMAN_BYTES, "100.00%%");
	else
		snprintf(buffer, HUMAN_BYTES, "%u.%02u%%", (unsigned)(hundredths / 100), (unsigned)(hundredths % 100));
	return buffer;
}

char *human_bytes(char *buffer, uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double value = (double)bytes;
	size_t unit = 0;

	for (; value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0]); unit++)
		value /= 1024;
	snprintf(buffer, HUMAN_BYTES, unit == 0 ? "%.0f%s" : "%.1f%s", value, units[unit]);
	return buffer;
}

/* ---- tables ---- */

struct cell {
	char *text;
	enum colour colour;
};

struct table {
	const struct table_column *columns;
	size_t column_count;
	struct cell *cells;
	size_t cell_count, capacity;
};

struct table *table_new(const struct table_column *columns, size_t count)
{
	struct table *table = calloc(1, sizeof(*table));

	if (table) {
		table->columns = columns;
		table->column_count = count;
	}
	return table;
}

void table_add(struct table *table, enum colour colour, const char *text)
{
	char shown[1024];

	if (table->cell_count == table->capacity) {
		size_t capacity = table->capacity ? 2 * table->capacity : 64;
		struct cell *cells = realloc(table->cells, capacity * sizeof(*cells));
		if (!cells)
			return;
		table->cells = cells;
		table->capacity = capacity;
	}
	table->cells[table->cell_count++] = (struct cell){ strdup(escape(shown, sizeof(shown), text)), colour };
}

void table_addf(struct table *table, enum colour colour, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	table_add(table, colour, text);
}

size_t table_rows(const struct table *table)
{
	return table->cell_count / table->column_count;
}

static size_t column_width(const struct table *table, size_t column)
{
	size_t width = display_width(table->columns[column].title);

	for (size_t i = column; i < table->cell_count; i += table->column_count) {
		size_t cell = table->cells[i].text ? display_width(table->cells[i].text) : 0;
		width = cell > width ? cell : width;
	}
	return width;
}

/* 0: unlimited, since nobody looks at lines that break. */
static size_t terminal_width(FILE *file)
{
	const char *columns = getenv("COLUMNS");
	struct winsize size = { 0 };

	if (isatty(fileno(file)) != 1)
		return 0;
	if (columns && atoi(columns) > 0)
		return (size_t)atoi(columns);
	return ioctl(fileno(file), TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

/* Leaves out columns, those that can best be spared first, until a line fits; none, if that does not suffice. */
static void fit(const struct table *table, size_t terminal, const size_t *widths, bool *is_shown)
{
	size_t total = 0;

	for (size_t i = 0; i < table->column_count; i++)
		total += widths[i] + (i ? 2 : 0);
	while (terminal && total > terminal) {
		size_t most = 0;
		for (size_t i = 1; i < table->column_count; i++) {
			if (is_shown[i] && table->columns[i].spare > table->columns[most].spare)
				most = i;
		}
		if (most == 0) {
			memset(is_shown, true, table->column_count * sizeof(*is_shown));
			return;
		}
		is_shown[most] = false;
		total -= widths[most] + 2;
	}
}

static void print_cell(const struct table_column *column, bool is_last, size_t width, enum colour colour, const char *text, FILE *file)
{
	size_t padding = width - display_width(text);

	if (column->is_number)
		fprintf(file, "%*s", (int)padding, "");
	paint(file, colour, "%s", text);
	if (!column->is_number && !is_last)
		fprintf(file, "%*s", (int)padding, "");
	fputs(is_last ? "\n" : "  ", file);
}

static void print_missing(const struct table *table, const bool *is_shown, FILE *file)
{
	const char *lead = "No room here for ";

	for (size_t i = 0; i < table->column_count; i++) {
		if (is_shown[i])
			continue;
		paint(file, DIM, "%s%s", lead, table->columns[i].title);
		lead = ", ";
	}
	if (*lead == ',')
		paint(file, DIM, ": `| cat` shows all.\n");
}

void table_print(const struct table *table, FILE *file)
{
	size_t widths[32], last = 0;
	bool is_shown[32];

	for (size_t i = 0; i < table->column_count; i++) {
		widths[i] = column_width(table, i);
		is_shown[i] = true;
	}
	fit(table, terminal_width(file), widths, is_shown);
	for (size_t i = 0; i < table->column_count; i++)
		last = is_shown[i] ? i : last;
	for (size_t i = 0; i < table->column_count; i++) {
		if (is_shown[i])
			print_cell(&table->columns[i], i == last, widths[i], BOLD, table->columns[i].title, file);
	}
	for (size_t i = 0; i < table->cell_count; i++) {
		const struct cell *cell = &table->cells[i];
		size_t column = i % table->column_count;
		if (is_shown[column])
			print_cell(&table->columns[column], column == last, widths[column], cell->colour, cell->text ? cell->text : "", file);
	}
	print_missing(table, is_shown, file);
}

void table_free(struct table *table)
{
	if (!table)
		return;
	for (size_t i = 0; i < table->cell_count; i++)
		free(table->cells[i].text);
	free(table->cells);
	free(table);
}

/* ---- JSON ---- */

json_t *json_text(const char *text, size_t len)
{
	static const char replacement[] = "\xef\xbf\xbd";
	json_t *whole = json_stringn(text, len);

	if (whole)
		return whole;
	char *repaired = malloc(3 * len + 1);
	size_t used = 0;
	if (!repaired)
		return NULL;
	for (size_t at = 0; at < len;) {
		uint32_t point;
		size_t size = decode((const unsigned char *)text + at, len - at, &point);
		memcpy(repaired + used, size ? text + at : replacement, size ? size : 3);
		used += size ? size : 3;
		at += size ? size : 1;
	}
	whole = json_stringn(repaired, used);
	free(repaired);
	return whole;
}

static char *base64(const unsigned char *data, size_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	char *out = malloc((len + 2) / 3 * 4 + 1), *at = out;

	if (!out)
		return NULL;
	for (size_t i = 0; i < len; i += 3) {
		uint32_t group = (uint32_t)data[i] << 16 | (i + 1 < len ? (uint32_t)data[i + 1] << 8 : 0) | (i + 2 < len ? data[i + 2] : 0);
		*at++ = digits[group >> 18];
		*at++ = digits[group >> 12 & 63];
		*at++ = i + 1 < len ? digits[group >> 6 & 63] : '=';
		*at++ = i + 2 < len ? digits[group & 63] : '=';
	}
	*at = '\0';
	return out;
}

void json_set_bytes(json_t *object, const char *key, const void *data, size_t len)
{
	json_t *text = json_stringn(len ? data : "", len);
	char name[64];

	if (text) {
		json_object_set_new(object, key, text);
		return;
	}
	char *encoded = base64(data, len);
	snprintf(name, sizeof(name), "%s_base64", key);
	json_object_set_new(object, name, encoded ? json_string(encoded) : json_null());
	free(encoded);
}

json_t *json_error(const struct mesh_error *err)
{
	json_t *object = json_object();

	json_object_set_new(object, "code", json_string(mesh_error_name(err->code)));
	json_object_set_new(object, "stage", json_string(mesh_stage_name(err->stage)));
	json_object_set_new(object, "message", json_text(err->message, strnlen(err->message, sizeof(err->message))));
	json_object_set_new(object, "endpoint", json_text(err->endpoint, strnlen(err->endpoint, sizeof(err->endpoint))));
	json_object_set_new(object, "attempts", json_integer(err->attempts));
	json_object_set_new(object, "in_doubt", json_boolean(err->in_doubt));
	json_object_set_new(object, "retry_safe", json_boolean(err->retry_safe));
	return object;
}

int print_json(json_t *root)
{
	int status = EXIT_DONE;

	if (!root || json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) != 0) {
		complain("cannot print the answer as JSON: out of memory or a full disk");
		status = EXIT_FAILED;
	}
	putchar('\n');
	json_decref(root);
	return status;
}

bool print_raw(FILE *file, const void *data, size_t len)
{
	return len == 0 || fwrite(data, 1, len, file) == len;
}

int output_finish(int status)
{
	bool had_failed = ferror(stdout);

	errno = 0;
	if (fflush(stdout) == 0 && !had_failed)
		return status;
	if (errno == EPIPE)
		return status; /* the reader has left, and the command did not want to end for that: see SIGPIPE in serve.c */
	complain("cannot write to standard output: %s", errno ? strerror(errno) : "some of what was printed is missing");
	return status == EXIT_DONE ? EXIT_FAILED : status;
}
