#include "base/memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Global state, and why: failure injection must reach every allocation of the process. -1 means off. */
static atomic_int_fast64_t fail_countdown = -1;

static _Thread_local int spared;

void mesh__memory_spare(int is_spared)
{
	spared = is_spared;
}

static int must_fail(void)
{
	if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) < 0 || spared)
		return 0;
	return atomic_fetch_sub_explicit(&fail_countdown, 1, memory_order_relaxed) == 0;
}

void mesh__memory_fail_after(int64_t countdown)
{
	atomic_store_explicit(&fail_countdown, countdown, memory_order_relaxed);
}

void *mesh__memory_alloc(size_t bytes)
{
	return must_fail() ? NULL : malloc(bytes ? bytes : 1);
}

void *mesh__memory_zalloc(size_t bytes)
{
	return must_fail() ? NULL : calloc(1, bytes ? bytes : 1);
}

void *mesh__memory_zalloc_array(size_t count, size_t bytes_each)
{
	size_t whole;

	return __builtin_mul_overflow(count, bytes_each, &whole) ? NULL : mesh__memory_zalloc(whole);
}

void *mesh__memory_realloc(void *memory, size_t bytes)
{
	return must_fail() ? NULL : realloc(memory, bytes ? bytes : 1);
}

char *mesh__memory_strndup(const char *text, size_t len)
{
	char *copy = mesh__memory_alloc(len + 1);

	if (!copy)
		return NULL;
	memcpy(copy, text, len);
	copy[len] = '\0';
	return copy;
}

char *mesh__memory_strdup(const char *text)
{
	return mesh__memory_strndup(text, strlen(text));
}

void mesh__memory_free(void *memory)
{
	free(memory);
}
