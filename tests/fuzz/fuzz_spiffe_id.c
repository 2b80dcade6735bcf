/* An ID that is taken is written with nothing but the characters of the standard, and reads again as itself. */
#include "fuzz.h"

#include "identity/spiffe_id.h"

static void check(const struct mesh__spiffe_id *id, const uint8_t *data, size_t len)
{
	struct mesh__spiffe_id again;
	char domain[MESH__TRUST_DOMAIN_MAX + 1];
	const char *why, *path = mesh__spiffe_id_path(id);

	if (id->len != len || memcmp(id->text, data, len) || strlen(id->text) != len || len > MESH__SPIFFE_ID_MAX)
		abort();
	if (strspn(id->text + 9, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") != len - 9u)
		abort();
	if ((*path && *path != '/') || strstr(path, "//") || strstr(path, "/../") || strstr(path, "/./") || id->text[len - 1] == '/')
		abort();
	memcpy(domain, mesh__spiffe_id_domain(id), id->domain_len);
	domain[id->domain_len] = '\0';
	if (!mesh__spiffe_id_is_member(id, domain) || mesh__trust_domain_check(domain, id->domain_len, &why))
		abort();
	if (mesh__spiffe_id_parse(&again, id->text, id->len, &why) || !mesh__spiffe_id_equal(&again, id))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct mesh__spiffe_id id;
	const char *why = NULL;
	char *text = fuzz_text(data, len), *second, *third;

	if (mesh__spiffe_id_parse(&id, (const char *)data, len, &why) == 0)
		check(&id, data, len);
	else if (!why || id.len)
		abort();
	/* Three words for the template. */
	second = strchr(text, ' ');
	third = second ? strchr(second + 1, ' ') : NULL;
	if (third) {
		*second = *third = '\0';
		if (mesh__spiffe_id_of_service(&id, text, second + 1, third + 1, &why) == 0)
			check(&id, (const uint8_t *)id.text, id.len);
		else if (!why)
			abort();
	}
	free(text);
	return 0;
}
