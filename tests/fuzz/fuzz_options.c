/* A configuration file, the environment and the API, with whatever text: options are read or refused with a sentence. */
#include "fuzz.h"

#include "config/config.h"

#include <stdio.h>
#include <unistd.h>

static void read_one(const struct mesh_option_info *info, void *user)
{
	if (!info->value || !info->source || !strlen(info->help))
		abort();
	(void)user;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static char path[64], variable[96];
	char *text = fuzz_text(data, len), *equals, *newline = strchr(text, '\n');
	const char *environment[] = { variable, "MESH_TIMEOUT__USERS=1s", text, NULL };
	struct mesh_error err = MESH_ERROR_INIT;
	struct mesh_setting setting = { text, "" };
	struct mesh__config *cfg = NULL;
	FILE *file;

	if (!*path) {
		snprintf(path, sizeof(path), "%s/mesh-fuzz-%ld", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", (long)getpid());
		snprintf(variable, sizeof(variable), "MESH_CONFIG=%s", path);
	}
	file = fopen(path, "wb");
	if (!file)
		abort();
	fwrite(data, 1, len, file);
	fclose(file);
	if (mesh__config_new(&cfg, environment, NULL, 0, NULL, NULL, &err) == 0) {
		mesh__config_list(cfg, read_one, NULL);
		equals = strchr(text, '=');
		if (newline)
			*newline = '\0';
		if (equals && (!newline || equals < newline)) {
			*equals = '\0';
			mesh__config_set(cfg, text, equals + 1, &err);
		}
	} else if (!*err.message) {
		abort();
	}
	mesh__config_free(cfg);
	cfg = NULL;
	if (mesh__config_new(&cfg, (const char *const[]){ NULL }, &setting, 1, NULL, NULL, NULL) == 0)
		mesh__config_free(cfg);
	unlink(path);
	free(text);
	return 0;
}
