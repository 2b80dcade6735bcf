/*
 * A fuzz target is one function. With --enable-fuzz (clang) libFuzzer drives it; without, fuzz.c replays the corpus:
 * tests/fuzz/corpus/TARGET/, which is how it runs as a test.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* A copy with a NUL behind it, for parsers of text; free() it. */
static inline char *fuzz_text(const uint8_t *data, size_t len)
{
	char *text = malloc(len + 1);

	memcpy(text, data, len);
	text[len] = '\0';
	return text;
}

#endif
