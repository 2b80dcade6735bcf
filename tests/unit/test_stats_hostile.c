/* Segments that lie. The reader may say what it likes about them, but it ends, soon, and stays inside its copy. */
#include "test_stats_lib.h"

#include "base/random.h"
#include "stats/identity_page.h"
#include "stats/layout.h"

#include <sys/file.h>

enum { MUTANTS = 10000, COPY_BYTES_MAX = 1024 * 1024 };

static uint8_t original[COPY_BYTES_MAX], mutant[COPY_BYTES_MAX];
static size_t original_bytes;
static char mutant_path[128];

static int make_original(void **state)
{
	struct mesh__stats *stats;
	int fd, result = make_test_dir(state);
	ssize_t got;

	if (result)
		return result;
	stats = open_stats();
	for (int i = 0; i < 30; i++) {
		char name[32];

		snprintf(name, sizeof(name), "service-%d", i);
		mesh__counter_add(calls_of(stats, name), (uint32_t)i % MESH__SHARD_COUNT, (uint64_t)i);
		for (uint64_t value = 1; value < UINT64_C(1) << 40; value *= 7)
			mesh__histogram_record(mesh__stats_histogram(stats, MESH__METRIC_ATTEMPT_LATENCY_NS,
								     &(struct mesh__labels){ .service = name, .endpoint = "e" }),
					       (uint32_t)i % MESH__SHARD_COUNT, value);
	}
	mesh__stats_set_identity(stats, &(struct mesh__stats_identity){
					 .state = MESH_STATS_IDENTITY_OK, .spiffe_id = "spiffe://a.b/c", .trust_domain = "a.b", .bundle_count = 1,
					 .bundles = &(struct mesh__stats_bundle){ "a.b", 1, 1, 1 } });
	fd = open(mesh__stats_path(stats), O_RDONLY | O_CLOEXEC);
	got = read(fd, original, sizeof(original));
	close(fd);
	original_bytes = (size_t)got;
	mesh__stats_close(stats);
	snprintf(mutant_path, sizeof(mutant_path), "%s/mutant", test_dir);
	return got > 0 ? 0 : -1;
}

static void read_identity(const mesh_stats_view *view)
{
	struct mesh_stats_identity identity = { .size = sizeof(identity) };
	struct mesh_stats_bundle bundle = { .size = sizeof(bundle) };
	int result = mesh_stats_identity(view, &identity);

	assert_true(result == 0 || result == MESH_E_CORRUPT || result == MESH_E_NOT_FOUND);
	if (result == 0) {
		assert_in_range(identity.state, MESH_STATS_IDENTITY_UNKNOWN, MESH_STATS_IDENTITY_OFF);
		assert_true(strlen(identity.spiffe_id) + strlen(identity.last_failure) < 4096);
		assert_true(identity.bundle_count <= 32);
	}
	for (uint32_t i = 0; i < 64; i++)
		if (mesh_stats_identity_bundle(view, i, &bundle) == 0)
			assert_true(strlen(bundle.trust_domain) < 4096);
	mesh_stats_identity_bundle(view, UINT32_MAX, &bundle);
}

/* Reads all that there is, through every function; gives what opening it said. */
static int read_mutant(size_t bytes)
{
	int fd = open(mutant_path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600), result;
	struct mesh_error err = MESH_ERROR_INIT;
	struct mesh_stats_process process = { .size = sizeof(process) };
	mesh_stats_histogram *all = NULL;
	mesh_stats_view *view = NULL;

	assert_int_equal(write(fd, mutant, bytes), bytes);
	close(fd);
	result = mesh_stats_open(mutant_path, &view, &err);
	if (result) {
		assert_true(result == MESH_E_CORRUPT || result == MESH_E_VERSION);
		assert_true(err.message[0] != '\0');
		return result;
	}
	mesh_stats_histogram_new(&all);
	mesh_stats_process(view, &process);
	assert_true(strlen(process.service) < 128);
	for (uint64_t i = 0; i < mesh_stats_count(view); i++) {
		struct mesh_stats_series series = { .size = sizeof(series) };
		int found = mesh_stats_series(view, i, &series);

		assert_true(found == 0 || found == MESH_E_CORRUPT);
		for (uint32_t label = 0; found == 0 && label < series.label_count; label++)
			assert_true(strlen(series.label_names[label]) + strlen(series.label_values[label]) < 8192);
		if (found == 0 && series.type == MESH_STATS_HISTOGRAM)
			mesh_stats_histogram_add(all, view, i);
	}
	read_identity(view);
	mesh_stats_find(view, 0, "no such metric", NULL, 0);
	mesh_stats_histogram_quantile(all, 0.99);
	mesh_stats_histogram_free(all);
	mesh_stats_close(view);
	return 0;
}

static void restore(void)
{
	memcpy(mutant, original, original_bytes);
}

static void set_word(size_t offset, uint64_t word)
{
	memcpy(mutant + offset, &word, sizeof(word));
}

static uint64_t word_at(size_t offset)
{
	uint64_t word;

	memcpy(&word, original + offset, sizeof(word));
	return word;
}

static void the_original_is_read(void **state)
{
	(void)state;
	restore();
	assert_int_equal(read_mutant(original_bytes), 0);
}

/* Mostly in header and directory, where the structure is: a bit, a byte, or a word that could be an offset or a count. */
static void mutants_end_with_a_value_or_an_error(void **state)
{
	static const uint64_t nasty[] = { 0, 1, 7, 8, 64, 4096, 8192, 8200, 65528, 65536, 0x7fffffff, 0xffffffff, UINT64_C(1) << 32,
					  UINT64_MAX / 2, UINT64_MAX, UINT64_MAX - 7 };
	size_t directory = word_at(offsetof(struct mesh__layout_header, directory_offset));
	struct mesh__random random;
	int good = 0;

	(void)state;
	mesh__random_init(&random, 42);
	for (int i = 0; i < MUTANTS; i++) {
		restore();
		for (uint32_t changes = 1 + mesh__random_below(&random, 4); changes; changes--) {
			uint32_t where = mesh__random_below(&random, 4);
			size_t base = where == 0 ? 0 : where == 1 ? 512 : where == 2 ? directory : 8192;
			size_t range = where == 0 ? 512 : where == 1 ? 64 : where == 2 ? 4096 : original_bytes - 8192;
			size_t at = base + mesh__random_below(&random, (uint32_t)range);

			switch (mesh__random_below(&random, 3)) {
			case 0:
				mutant[at] = (uint8_t)(mutant[at] ^ 1u << mesh__random_below(&random, 8));
				break;
			case 1:
				mutant[at] = (uint8_t)mesh__random_next(&random);
				break;
			default:
				set_word(at / 8 * 8, nasty[mesh__random_below(&random, sizeof(nasty) / sizeof(nasty[0]))]);
			}
		}
		good += read_mutant(original_bytes) == 0;
	}
	/* If all were refused at the door, nothing behind it was tested; and the other way round. */
	assert_in_range(good, MUTANTS / 10, MUTANTS * 9 / 10);
}

static void a_directory_that_leads_in_a_circle_ends(void **state)
{
	size_t directory = word_at(offsetof(struct mesh__layout_header, directory_offset));

	(void)state;
	restore();
	set_word(offsetof(struct mesh__layout_header, record_count), UINT64_MAX);
	set_word(directory, directory);
	assert_int_equal(read_mutant(original_bytes), MESH_E_CORRUPT);
	set_word(directory, 8192);
	assert_int_equal(read_mutant(original_bytes), MESH_E_CORRUPT);
	set_word(directory, UINT64_MAX - 4095);
	assert_int_equal(read_mutant(original_bytes), MESH_E_CORRUPT);
}

/* One directory full of series that all are the same largest histogram would take hours to read. */
static void histograms_that_share_their_parts_are_refused(void **state)
{
	size_t directory = word_at(offsetof(struct mesh__layout_header, directory_offset)), at = directory + 16;
	struct mesh__layout_metric metric = { .record = { .bytes = 32, .kind = MESH__LAYOUT_METRIC }, .type = MESH_STATS_HISTOGRAM,
					      .sub_bits = 6, .group_count = 59 };
	uint64_t records = 1;

	(void)state;
	memset(mutant, 0, sizeof(mutant));
	memcpy(mutant, original, 8192);
	set_word(offsetof(struct mesh__layout_header, size_bytes), sizeof(mutant));
	set_word(directory, 0);
	set_word(directory + 8, sizeof(mutant) / 2); /* one large block */
	memcpy(mutant + at, &metric, sizeof(metric));
	for (at += 32; at + 16 < directory + sizeof(mutant) / 2; at += 16, records++) {
		struct mesh__layout_series series = { .record = { .bytes = 16, .kind = MESH__LAYOUT_SERIES }, .offset = sizeof(mutant) - 4096 };

		memcpy(mutant + at, &series, sizeof(series));
	}
	for (size_t shard = 0; shard < MESH__SHARD_COUNT; shard++)
		set_word(sizeof(mutant) - 4096 + 8 * shard, sizeof(mutant) - 2048);
	for (size_t group = 0; group < 59; group++)
		set_word(sizeof(mutant) - 2048 + 16 + 8 * group, sizeof(mutant) - 1024);
	set_word(offsetof(struct mesh__layout_header, record_count), records);
	assert_int_equal(read_mutant(sizeof(mutant)), MESH_E_CORRUPT);
}

static void sizes_that_lie_are_refused(void **state)
{
	static const uint64_t sizes[] = { 0, 1, 8191, UINT64_C(64) * 1024 * 1024 + 8, UINT64_C(1) << 40, UINT64_MAX };

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		restore();
		set_word(offsetof(struct mesh__layout_header, size_bytes), sizes[i]);
		assert_int_equal(read_mutant(original_bytes), MESH_E_CORRUPT);
	}
	restore();
	set_word(offsetof(struct mesh__layout_header, size_bytes), original_bytes + 65536);
	assert_int_equal(read_mutant(original_bytes), MESH_E_CORRUPT);
}

static void strings_without_an_end_are_refused(void **state)
{
	size_t directory = word_at(offsetof(struct mesh__layout_header, directory_offset)), at = directory + 16;
	struct mesh__layout_record record;
	struct mesh_stats_series series = { .size = sizeof(series) };
	mesh_stats_view *view;

	(void)state;
	restore();
	memcpy(&record, mutant + at, sizeof(record));
	memset(mutant + at + sizeof(struct mesh__layout_metric), 'x', record.bytes - sizeof(struct mesh__layout_metric));
	memset(mutant + offsetof(struct mesh__layout_header, service), 'x', 128);
	assert_int_equal(read_mutant(original_bytes), 0);
	view = open_view(mutant_path);
	assert_int_equal(mesh_stats_series(view, 0, &series), MESH_E_CORRUPT);
	mesh_stats_close(view);
}

static int identity_of_mutant(void)
{
	struct mesh_stats_identity identity = { .size = sizeof(identity) };
	mesh_stats_view *view;
	int result;

	assert_int_equal(read_mutant(original_bytes), 0);
	view = open_view(mutant_path);
	result = mesh_stats_identity(view, &identity);
	mesh_stats_close(view);
	return result;
}

/* The counters are fine meanwhile. */
static void identities_that_lie_are_refused(void **state)
{
	const size_t page = offsetof(struct mesh__layout_header, identity);
	const size_t texts = page + offsetof(struct mesh__identity_page, texts);

	(void)state;
	restore();
	assert_int_equal(identity_of_mutant(), 0);
	set_word(page, 3); /* its writer was killed */
	assert_int_equal(identity_of_mutant(), MESH_E_CORRUPT);
	restore();
	memset(mutant + texts, 'x', sizeof(((struct mesh__identity_page *)0)->texts));
	assert_int_equal(identity_of_mutant(), MESH_E_CORRUPT);
	restore();
	memset(mutant + page + offsetof(struct mesh__identity_page, text_bytes), 0xff, sizeof(uint32_t));
	assert_int_equal(identity_of_mutant(), MESH_E_CORRUPT);
	restore();
	memset(mutant + page + offsetof(struct mesh__identity_page, bundle_count), 0xff, sizeof(uint32_t));
	assert_int_equal(identity_of_mutant(), MESH_E_CORRUPT);
	restore();
	memset(mutant + page + 8, 0xff, 128);
	identity_of_mutant();
}

static void identities_of_noise_end_with_a_value_or_an_error(void **state)
{
	const size_t page = offsetof(struct mesh__layout_header, identity);
	struct mesh__random random;

	(void)state;
	mesh__random_init(&random, 7);
	for (int i = 0; i < MUTANTS / 10; i++) {
		restore();
		for (uint32_t changes = 1 + mesh__random_below(&random, 40); changes; changes--)
			mutant[page + 8 + mesh__random_below(&random, MESH__LAYOUT_PAGE_BYTES - 8)] = (uint8_t)mesh__random_next(&random);
		assert_int_equal(read_mutant(original_bytes), 0);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_original, remove_test_dir)
	const struct CMUnitTest tests[] = {
		TEST(the_original_is_read),
		TEST(mutants_end_with_a_value_or_an_error),
		TEST(a_directory_that_leads_in_a_circle_ends),
		TEST(histograms_that_share_their_parts_are_refused),
		TEST(sizes_that_lie_are_refused),
		TEST(strings_without_an_end_are_refused),
		TEST(identities_that_lie_are_refused),
		TEST(identities_of_noise_end_with_a_value_or_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
