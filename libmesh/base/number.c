#include "base/number.h"

#include "base/clock.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit durations[] = { { "ns", 1 }, { "us", MESH__NS_PER_US }, { "ms", MESH__NS_PER_MS }, { "s", MESH__NS_PER_SEC },
					 { "m", 60 * MESH__NS_PER_SEC }, { "h", 3600 * MESH__NS_PER_SEC }, { NULL, 0 } };
static const struct unit sizes[] = { { "B", 1 }, { "KiB", 1 << 10 }, { "MiB", 1 << 20 }, { "GiB", 1 << 30 }, { "kB", 1000 },
				     { "KB", 1000 }, { "MB", 1000000 }, { "GB", 1000000000 }, { NULL, 0 } };
static const struct unit counts[] = { { "k", 1000 }, { "M", 1000000 }, { NULL, 0 } };

/* whole.fraction, at most nine digits of fraction; *end is what follows. */
static int parse_decimal(const char *text, uint64_t *whole, uint64_t *billionths, const char **end, const char **why)
{
	const char *at = text;
	uint64_t scale = UINT64_C(100000000);

	*whole = *billionths = 0;
	if (*at < '0' || *at > '9') {
		*why = "it does not begin with a digit";
		return -1;
	}
	for (; *at >= '0' && *at <= '9'; at++) {
		if (*whole > UINT64_MAX / 10 || *whole * 10 > UINT64_MAX - (uint64_t)(*at - '0')) {
			*why = "the number is too large";
			return -1;
		}
		*whole = *whole * 10 + (uint64_t)(*at - '0');
	}
	if (*at == '.') {
		if (at[1] < '0' || at[1] > '9') {
			*why = "no digit follows the point";
			return -1;
		}
		for (at++; *at >= '0' && *at <= '9'; at++, scale /= 10)
			*billionths += (uint64_t)(*at - '0') * scale;
	}
	*end = at;
	return 0;
}

static int scale(uint64_t whole, uint64_t billionths, uint64_t factor, uint64_t *value, const char **why)
{
	uint64_t fraction = (uint64_t)((double)billionths * 1e-9 * (double)factor + 0.5);

	if (whole > (UINT64_MAX - fraction) / factor) {
		*why = "the number is too large";
		return -1;
	}
	*value = whole * factor + fraction;
	return 0;
}

static int parse(const char *text, const struct unit *units, uint64_t plain_factor, const char *no_unit, uint64_t *value, const char **why)
{
	uint64_t whole, billionths;
	const char *end;

	if (parse_decimal(text, &whole, &billionths, &end, why))
		return -1;
	if (!*end) {
		if (plain_factor && !billionths)
			return scale(whole, 0, plain_factor, value, why);
		if (!plain_factor && !whole && !billionths) {
			*value = 0;
			return 0;
		}
		*why = no_unit;
		return -1;
	}
	for (; units->name; units++)
		if (strcmp(units->name, end) == 0)
			return scale(whole, billionths, units->factor, value, why);
	*why = no_unit;
	return -1;
}

int mesh__number_parse_count(const char *text, uint64_t *value, const char **why)
{
	return parse(text, counts, 1, "it is not a whole number (k and M are understood)", value, why);
}

int mesh__number_parse_duration(const char *text, uint64_t *value_ns, const char **why)
{
	return parse(text, durations, 0, "a duration needs a unit: ns, us, ms, s, m or h", value_ns, why);
}

int mesh__number_parse_bytes(const char *text, uint64_t *value, const char **why)
{
	return parse(text, sizes, 1, "a size is a whole number of bytes, or has a unit: KiB, MiB, GiB, kB, MB or GB", value, why);
}

int mesh__number_parse_bool(const char *text, uint64_t *value, const char **why)
{
	static const char *const words[2][4] = { { "false", "off", "no", "0" }, { "true", "on", "yes", "1" } };

	for (uint64_t truth = 0; truth < 2; truth++)
		for (int i = 0; i < 4; i++)
			if (strcasecmp(text, words[truth][i]) == 0) {
				*value = truth;
				return 0;
			}
	*why = "it is neither true nor false";
	return -1;
}

static void print_exact(uint64_t value, const struct unit *units, int largest, char *text)
{
	for (int i = largest; i >= 0; i--)
		if (i == 0 || value % units[i].factor == 0) {
			snprintf(text, MESH__NUMBER_TEXT_MAX, "%llu%s", (unsigned long long)(value / units[i].factor), units[i].name);
			return;
		}
}

void mesh__number_print_duration(uint64_t value_ns, char text[MESH__NUMBER_TEXT_MAX])
{
	if (value_ns)
		print_exact(value_ns, durations, 5, text);
	else
		snprintf(text, MESH__NUMBER_TEXT_MAX, "0");
}

void mesh__number_print_bytes(uint64_t value, char text[MESH__NUMBER_TEXT_MAX])
{
	if (value >= 1024 && value % 1024 == 0)
		print_exact(value, sizes, 3, text);
	else
		snprintf(text, MESH__NUMBER_TEXT_MAX, "%llu", (unsigned long long)value);
}
