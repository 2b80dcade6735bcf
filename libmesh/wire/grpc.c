#include "wire/grpc.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>

#define TIMEOUT_MAX_NS (UINT64_MAX / 2)

bool mesh__grpc_is_content_type(const char *value, size_t len)
{
	static const char name[] = "application/grpc";
	const size_t name_len = sizeof(name) - 1;

	if (len < name_len || strncasecmp(value, name, name_len) != 0)
		return false;
	return len == name_len || value[name_len] == '+' || value[name_len] == ';';
}

void mesh__grpc_write_prefix(uint8_t prefix[MESH__GRPC_PREFIX_BYTES], uint32_t len)
{
	prefix[0] = 0;
	prefix[1] = (uint8_t)(len >> 24);
	prefix[2] = (uint8_t)(len >> 16);
	prefix[3] = (uint8_t)(len >> 8);
	prefix[4] = (uint8_t)len;
}

bool mesh__grpc_read_prefix(const uint8_t prefix[MESH__GRPC_PREFIX_BYTES], uint32_t *len)
{
	*len = (uint32_t)prefix[1] << 24 | (uint32_t)prefix[2] << 16 | (uint32_t)prefix[3] << 8 | prefix[4];
	return prefix[0] == 0;
}

struct timeout_unit {
	uint64_t ns;
	char letter;
};

static const struct timeout_unit timeout_units[] = {
	{ 1, 'n' }, { MESH__NS_PER_US, 'u' }, { MESH__NS_PER_MS, 'm' }, { MESH__NS_PER_SEC, 'S' }, { 60 * MESH__NS_PER_SEC, 'M' },
	{ 3600 * MESH__NS_PER_SEC, 'H' },
};

size_t mesh__grpc_print_timeout(uint64_t timeout_ns, char text[MESH__GRPC_TIMEOUT_TEXT_MAX])
{
	/* Microseconds are fine enough for a deadline, and shorter. */
	const struct timeout_unit *unit = &timeout_units[1];
	char digits[24];
	size_t n = 0, len = 0;
	uint64_t value;

	while (timeout_ns / unit->ns >= 99999999 && unit->letter != 'H')
		unit++;
	value = timeout_ns / unit->ns + (timeout_ns % unit->ns != 0);
	if (value > 99999999)
		value = 99999999;
	do
		digits[n++] = (char)('0' + value % 10);
	while ((value /= 10));
	while (n)
		text[len++] = digits[--n];
	text[len++] = unit->letter;
	text[len] = '\0';
	return len;
}

bool mesh__grpc_parse_timeout(const char *text, size_t len, uint64_t *timeout_ns)
{
	uint64_t value = 0;

	if (len < 2 || len > 9)
		return false;
	for (size_t i = 0; i < len - 1; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		value = value * 10 + (uint64_t)(text[i] - '0');
	}
	for (size_t i = 0; i < sizeof(timeout_units) / sizeof(timeout_units[0]); i++) {
		if (timeout_units[i].letter != text[len - 1])
			continue;
		*timeout_ns = value > TIMEOUT_MAX_NS / timeout_units[i].ns ? TIMEOUT_MAX_NS : value * timeout_units[i].ns;
		return true;
	}
	return false;
}

int32_t mesh__grpc_parse_status(const char *text, size_t len)
{
	int32_t value = 0;

	if (len == 0 || len > 8)
		return MESH__GRPC_UNKNOWN;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return MESH__GRPC_UNKNOWN;
		value = value * 10 + (text[i] - '0');
	}
	return value < MESH__GRPC_STATUS_COUNT ? value : MESH__GRPC_UNKNOWN;
}

/* Source: grpc/grpc doc/http-grpc-status-mapping.md */
int32_t mesh__grpc_status_of_http(int http_status)
{
	switch (http_status) {
	case 400:
		return MESH__GRPC_INTERNAL;
	case 401:
		return MESH__GRPC_UNAUTHENTICATED;
	case 403:
		return MESH__GRPC_PERMISSION_DENIED;
	case 404:
		return MESH__GRPC_UNIMPLEMENTED;
	case 429:
	case 502:
	case 503:
	case 504:
		return MESH__GRPC_UNAVAILABLE;
	default:
		return MESH__GRPC_UNKNOWN;
	}
}

/* Source: grpc/grpc doc/PROTOCOL-HTTP2.md, "Errors". The numbers are RFC 9113's. */
int32_t mesh__grpc_status_of_reset(uint32_t h2_error_code)
{
	switch (h2_error_code) {
	case 0x7: /* REFUSED_STREAM */
		return MESH__GRPC_UNAVAILABLE;
	case 0x8: /* CANCEL */
		return MESH__GRPC_CANCELLED;
	case 0xb: /* ENHANCE_YOUR_CALM */
		return MESH__GRPC_RESOURCE_EXHAUSTED;
	case 0xc: /* INADEQUATE_SECURITY */
		return MESH__GRPC_PERMISSION_DENIED;
	default:
		return MESH__GRPC_INTERNAL;
	}
}

void mesh__grpc_percent_encode(struct mesh__text *out, const char *text)
{
	for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
		if (*at >= 0x20 && *at <= 0x7e && *at != '%')
			mesh__text_add_bytes(out, (const char *)at, 1);
		else if (out->capacity - out->len > 3) /* never half an escape */
			mesh__text_addf(out, "%%%02X", *at);
	}
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

size_t mesh__grpc_percent_decode(char *text, size_t len)
{
	size_t out = 0;

	for (size_t i = 0; i < len; i++) {
		int high = i + 2 < len && text[i] == '%' ? hex_digit(text[i + 1]) : -1;
		int low = high >= 0 ? hex_digit(text[i + 2]) : -1;

		if (low >= 0) {
			text[out++] = (char)(high << 4 | low);
			i += 2;
		} else {
			text[out++] = text[i];
		}
	}
	return out;
}

static int base64_digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* One value; len without padding. */
static int decode_one(const char *text, size_t len, uint8_t *out, size_t *out_len)
{
	uint32_t bits = 0;
	size_t n = 0;

	if (len % 4 == 1)
		return -1;
	for (size_t i = 0; i < len; i++) {
		int digit = base64_digit(text[i]);

		if (digit < 0)
			return -1;
		bits = bits << 6 | (uint32_t)digit;
		if (i % 4)
			out[n++] = (uint8_t)(bits >> (6 - 2 * (i % 4)));
	}
	*out_len = n;
	return 0;
}

int mesh__grpc_base64_decode(const char *text, size_t len, uint8_t *out, size_t *out_len)
{
	size_t total = 0, from = 0;

	for (size_t i = 0; i <= len; i++) {
		size_t end = i, n;

		if (i < len && text[i] != ',')
			continue;
		while (from < end && (text[from] == ' ' || text[from] == '\t'))
			from++;
		for (int pads = 0; end > from && text[end - 1] == '=' && pads < 2; pads++)
			end--;
		if (decode_one(text + from, end - from, out + total, &n))
			return -1;
		total += n;
		if (i < len)
			out[total++] = ',';
		from = i + 1;
	}
	*out_len = total;
	return 0;
}

size_t mesh__grpc_base64_encode(const uint8_t *data, size_t len, char *out)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t n = 0;

	for (size_t i = 0; i < len; i += 3) {
		uint32_t bits = (uint32_t)data[i] << 16 | (i + 1 < len ? (uint32_t)data[i + 1] << 8 : 0) | (i + 2 < len ? data[i + 2] : 0);

		out[n++] = digits[bits >> 18];
		out[n++] = digits[bits >> 12 & 63];
		if (i + 1 < len)
			out[n++] = digits[bits >> 6 & 63];
		if (i + 2 < len)
			out[n++] = digits[bits & 63];
	}
	return n;
}
