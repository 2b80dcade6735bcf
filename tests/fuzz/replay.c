/* Replays a corpus: every file of the directories and every file named. What a build without libFuzzer has as main(). */
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>

static int replayed;

static int replay_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data = malloc(1 << 20);
	size_t len;

	if (!file || !data) {
		fprintf(stderr, "cannot read %s\n", path);
		return 1;
	}
	len = fread(data, 1, 1 << 20, file);
	fclose(file);
	/* Of exactly its size, so that a sanitizer sees what reads beyond. */
	data = realloc(data, len ? len : 1);
	LLVMFuzzerTestOneInput(data, len);
	free(data);
	replayed++;
	return 0;
}

static int replay(const char *path)
{
	struct dirent *found;
	struct stat info;
	char child[1024];
	int rc = 0;
	DIR *dir;

	if (stat(path, &info) || !S_ISDIR(info.st_mode))
		return replay_file(path);
	dir = opendir(path);
	while (dir && (found = readdir(dir)))
		if (found->d_name[0] != '.' && snprintf(child, sizeof(child), "%s/%s", path, found->d_name) < (int)sizeof(child))
			rc |= replay_file(child);
	if (dir)
		closedir(dir);
	return rc;
}

int main(int argc, char **argv)
{
	int rc = 0;

	for (int i = 1; i < argc; i++)
		if (argv[i][0] != '-')
			rc |= replay(argv[i]);
	printf("%d inputs replayed\n", replayed);
	return rc || !replayed;
}
