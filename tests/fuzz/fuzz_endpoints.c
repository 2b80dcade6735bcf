/* Endpoint files and registry entries of others. */
#include "fuzz.h"

#include "discovery/source.h"
#include "identity/spiffe_id.h"

static void take(void *user, const char *service, const struct mesh__found *found, uint32_t count)
{
	char text[MESH__ADDRESS_TEXT_MAX];
	struct mesh__spiffe_id id;
	const char *why;

	(void)user;
	if (!service)
		abort();
	for (uint32_t i = 0; i < count; i++) {
		if (!found[i].weight)
			abort();
		if (found[i].id && mesh__spiffe_id_parse(&id, found[i].id->text, strlen(found[i].id->text), &why))
			abort();
		mesh__address_print(&found[i].address, text);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct mesh__found found;
	struct mesh__address address;
	const char *phrase = NULL;
	char why[256] = "";

	if (mesh__source_file_parse((const char *)data, len, take, NULL, why, sizeof(why)) && !*why)
		abort();
	if (mesh__source_local_parse((const char *)data, len, "users", &found, &phrase) && !phrase)
		abort();
	phrase = NULL;
	if (mesh__address_parse(&address, (const char *)data, len, &phrase) && !phrase)
		abort();
	return 0;
}
