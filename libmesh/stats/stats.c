#include "stats/stats.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"
#include "stats/list.h"
#include "stats/process.h"
#include "stats/stats_internal.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LABELS_MAX = 8, RECORD_STRINGS_MAX = LABELS_MAX * (MESH__LAYOUT_TEXT_MAX + 1), ARENA_BYTES = 8 * 1024 };

struct row {
	const char *name, *unit, *labels, *help;
	uint8_t type;
};

enum { TYPE_counter = MESH_STATS_COUNTER, TYPE_gauge = MESH_STATS_GAUGE, TYPE_histogram = MESH_STATS_HISTOGRAM };

static const struct row rows[MESH__METRIC_COUNT] = {
#define MESH_COUNTER(NAME, name, type, unit, labels, help) { name, unit, labels, help, TYPE_##type },
#include "tables/counters.def"
#undef MESH_COUNTER
};

/* Strings of one record, each with its NUL. */
struct strings {
	char data[RECORD_STRINGS_MAX];
	size_t len;
	uint8_t count;
};

static void add_string(struct strings *strings, const char *text, size_t len)
{
	if (strings->len + len + 1 > sizeof(strings->data))
		return;
	memcpy(strings->data + strings->len, text, len);
	strings->data[strings->len + len] = '\0';
	strings->len += len + 1;
	strings->count++;
}

/* Takes the next name off a list with commas; false at its end. */
static bool next_label(const char **list, const char **name, size_t *len)
{
	*name = *list;
	*len = strcspn(*list, ",");
	*list += *len + ((*list)[*len] == ',');
	return *len > 0;
}

static const char *label_value(const struct mesh__labels *labels, const char *name, size_t len)
{
	const struct {
		const char *name, *value;
	} known[] = {
		{ "service", labels->service }, { "endpoint", labels->endpoint }, { "peer", labels->peer },
		{ "reason", labels->reason }, { "side", labels->side },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strlen(known[i].name) == len && memcmp(known[i].name, name, len) == 0)
			return known[i].value ? known[i].value : "";
	return "";
}

static void collect_values(struct strings *strings, const struct row *row, const struct mesh__labels *labels)
{
	const char *list = row->labels, *name;
	size_t len;

	strings->len = strings->count = 0;
	while (next_label(&list, &name, &len)) {
		const char *value = labels ? label_value(labels, name, len) : "other";

		add_string(strings, value, strnlen(value, MESH__LAYOUT_TEXT_MAX));
	}
}

bool mesh__stats_lock(struct mesh__stats *stats)
{
	if (stats->fork_generation != mesh__descriptors_generation())
		return false;
	pthread_mutex_lock(&stats->lock);
	return true;
}

void mesh__stats_unlock(struct mesh__stats *stats)
{
	pthread_mutex_unlock(&stats->lock);
}

void mesh__stats_count_overflow(struct mesh__stats *stats)
{
	if (stats->overflow)
		mesh__counter_add(stats->overflow, mesh__shard_mine(), 1);
}

static uint64_t alloc_pages(struct mesh__stats *stats, size_t bytes)
{
	uint64_t offset = mesh__segment_alloc(&stats->segment, bytes);

	atomic_store_explicit(&mesh__stats_header(stats)->size_bytes, stats->segment.size_bytes, memory_order_release);
	return offset;
}

uint64_t mesh__stats_arena(struct mesh__stats *stats, size_t bytes)
{
	struct mesh__stats_cut *arena = &stats->arena;
	uint64_t offset;

	bytes = (bytes + MESH__HISTOGRAM_ALIGN_BYTES - 1) / MESH__HISTOGRAM_ALIGN_BYTES * MESH__HISTOGRAM_ALIGN_BYTES;
	if (arena->used + bytes > arena->capacity) {
		offset = alloc_pages(stats, ARENA_BYTES);
		if (!offset)
			return 0;
		*arena = (struct mesh__stats_cut){ .offset = offset, .capacity = ARENA_BYTES };
	}
	offset = arena->offset + arena->used;
	arena->used += (uint32_t)bytes;
	return offset;
}

static uint64_t alloc_cell(struct mesh__stats *stats)
{
	struct mesh__stats_cut *cells = &stats->cells;
	uint64_t offset;

	if (cells->used == cells->capacity) {
		offset = alloc_pages(stats, MESH__LAYOUT_CHUNK_BYTES);
		if (!offset)
			return 0;
		*cells = (struct mesh__stats_cut){ .offset = offset, .capacity = MESH__LAYOUT_STRIDE_BYTES };
	}
	offset = cells->offset + cells->used;
	cells->used += sizeof(mesh__cell);
	return offset;
}

/* Room for a record in the directory's last block, or in a new one behind it. */
static void *reserve_record(struct mesh__stats *stats, size_t bytes)
{
	struct mesh__layout_header *header = mesh__stats_header(stats);
	struct mesh__stats_cut *last = &stats->directory;
	struct mesh__layout_block *block;
	uint64_t offset;

	if (last->used + bytes > last->capacity) {
		offset = alloc_pages(stats, MESH__LAYOUT_PAGE_BYTES);
		if (!offset)
			return NULL;
		block = mesh__stats_at(stats, offset);
		block->bytes = MESH__LAYOUT_PAGE_BYTES;
		atomic_store_explicit(last->offset ? &((struct mesh__layout_block *)mesh__stats_at(stats, last->offset))->next_offset :
						     &header->directory_offset, offset, memory_order_release);
		*last = (struct mesh__stats_cut){ .offset = offset, .used = sizeof(*block), .capacity = block->bytes };
	}
	return mesh__stats_at(stats, last->offset + last->used);
}

/* `head` is a metric or series record of `head_bytes`; the strings go behind it. Then readers may see it. */
static bool append_record(struct mesh__stats *stats, void *head, size_t head_bytes, const struct strings *strings)
{
	struct mesh__layout_header *header = mesh__stats_header(stats);
	struct mesh__layout_record *record = head;
	size_t bytes = (head_bytes + strings->len + 7) / 8 * 8;
	uint8_t *to = reserve_record(stats, bytes);

	if (!to)
		return false;
	record->bytes = (uint32_t)bytes;
	memcpy(to, head, head_bytes);
	memcpy(to + head_bytes, strings->data, strings->len);
	stats->directory.used += (uint32_t)bytes;
	atomic_fetch_add_explicit(&header->record_count, 1, memory_order_release);
	atomic_fetch_add_explicit(&header->generation, 1, memory_order_release);
	return true;
}

static bool define_metric(struct mesh__stats *stats, enum mesh__metric metric)
{
	const struct row *row = &rows[metric];
	const char *list = row->labels, *name;
	bool is_histogram = row->type == MESH_STATS_HISTOGRAM;
	struct strings strings = { .len = 0 };
	struct mesh__layout_metric head = { .record = { .kind = MESH__LAYOUT_METRIC, .metric = stats->metric_count }, .type = row->type };
	size_t len;

	add_string(&strings, row->name, strlen(row->name));
	add_string(&strings, row->unit, strlen(row->unit));
	add_string(&strings, row->help, strlen(row->help));
	while (next_label(&list, &name, &len))
		add_string(&strings, name, len);
	head.label_count = (uint8_t)(strings.count - 3);
	head.sub_bits = is_histogram ? MESH__HISTOGRAM_SUB_BITS : 0;
	head.group_count = is_histogram ? MESH__HISTOGRAM_GROUPS : 0;
	if (!append_record(stats, &head, sizeof(head), &strings))
		return false;
	stats->metric_number[metric] = stats->metric_count++;
	return true;
}

static bool append_series(struct mesh__stats *stats, enum mesh__metric metric, uint64_t offset, const struct strings *values)
{
	struct mesh__layout_series head = { .record = { .kind = MESH__LAYOUT_SERIES }, .offset = offset };

	if (stats->metric_number[metric] < 0 && !define_metric(stats, metric))
		return false;
	head.record.metric = (uint16_t)stats->metric_number[metric];
	return append_record(stats, &head, sizeof(head), values);
}

static struct mesh__histogram *make_histogram(struct mesh__stats *stats, uint64_t root_offset)
{
	struct mesh__histogram *h = mesh__memory_zalloc(sizeof(*h));

	if (!h)
		return NULL;
	h->stats = stats;
	h->root_offset = root_offset;
	for (uint32_t shard = 0; shard < MESH__SHARD_COUNT; shard++)
		atomic_init(&h->shards[shard], &stats->empty);
	return h;
}

static void free_histogram(struct mesh__histogram *h)
{
	for (uint32_t shard = 0; h && shard < MESH__SHARD_COUNT; shard++) {
		struct mesh__histogram_shard *own = atomic_load_explicit(&h->shards[shard], memory_order_relaxed);

		if (own != &h->stats->empty && own != &h->stats->sink)
			mesh__memory_free(own);
	}
	mesh__memory_free(h);
}

/* The map's key: the metric's number, then the label values, each with its NUL. */
struct key {
	char data[2 + RECORD_STRINGS_MAX];
	size_t len;
};

static void make_key(struct key *key, enum mesh__metric metric, const struct strings *values)
{
	key->data[0] = (char)(metric & 0xff);
	key->data[1] = (char)(metric >> 8);
	memcpy(key->data + 2, values->data, values->len);
	key->len = 2 + values->len;
}

static enum mesh__metric metric_of_key(const char *key)
{
	return (enum mesh__metric)((unsigned char)key[0] | (unsigned)(unsigned char)key[1] << 8);
}

static void *make_series(struct mesh__stats *stats, enum mesh__metric metric, const struct key *key, const struct strings *values)
{
	bool is_histogram = rows[metric].type == MESH_STATS_HISTOGRAM;
	uint64_t offset = is_histogram ? mesh__stats_arena(stats, sizeof(struct mesh__layout_histogram)) : alloc_cell(stats);
	void *made = NULL;

	if (offset)
		made = is_histogram ? (void *)make_histogram(stats, offset) : mesh__stats_at(stats, offset);
	if (!made || mesh__map_put(&stats->series, key->data, key->len, made))
		goto out;
	if (append_series(stats, metric, offset, values)) {
		stats->series_count++;
		return made;
	}
	mesh__map_remove(&stats->series, key->data, key->len);
out:
	if (is_histogram)
		free_histogram(made);
	else if (offset)
		stats->cells.used -= (uint32_t)sizeof(mesh__cell);
	return NULL;
}

/* With `labels` NULL: the series that takes what does not fit. */
static void *find_or_make(struct mesh__stats *stats, enum mesh__metric metric, const struct mesh__labels *labels)
{
	struct strings values;
	struct key key;
	void *found;

	collect_values(&values, &rows[metric], labels);
	make_key(&key, metric, &values);
	found = mesh__map_get(&stats->series, key.data, key.len);
	if (!found && (!labels || stats->series_count < stats->series_max))
		found = make_series(stats, metric, &key, &values);
	if (found || !labels)
		return found;
	/* A metric without labels has one series, which is its own overflow. */
	if (rows[metric].labels[0])
		mesh__stats_count_overflow(stats);
	return find_or_make(stats, metric, NULL);
}

static void *series(struct mesh__stats *stats, enum mesh__metric metric, const struct mesh__labels *labels, bool is_histogram)
{
	static const struct mesh__labels none;
	void *found;

	if ((unsigned)metric >= MESH__METRIC_COUNT || (rows[metric].type == MESH_STATS_HISTOGRAM) != is_histogram)
		return NULL;
	if (!mesh__stats_lock(stats))
		return NULL;
	found = find_or_make(stats, metric, labels ? labels : &none);
	mesh__stats_unlock(stats);
	return found;
}

mesh__cell *mesh__stats_counter(struct mesh__stats *stats, enum mesh__metric metric, const struct mesh__labels *labels)
{
	mesh__cell *cell = series(stats, metric, labels, false);

	return cell ? cell : stats->sink_cell;
}

struct mesh__histogram *mesh__stats_histogram(struct mesh__stats *stats, enum mesh__metric metric, const struct mesh__labels *labels)
{
	struct mesh__histogram *h = series(stats, metric, labels, true);

	return h ? h : &stats->sink_histogram;
}

uint64_t mesh__counter_read(const mesh__cell *cell)
{
	uint64_t sum = 0;

	for (uint32_t shard = 0; shard < MESH__SHARD_COUNT; shard++)
		sum += atomic_load_explicit(cell + shard * (MESH__LAYOUT_STRIDE_BYTES / sizeof(*cell)), memory_order_relaxed);
	return sum;
}

void mesh__stats_beat(struct mesh__stats *stats, uint32_t loop_index, uint64_t now_ns)
{
	struct mesh__layout_loop *loop;
	uint64_t count;

	if (loop_index >= MESH__LAYOUT_LOOPS)
		return;
	loop = &mesh__stats_header(stats)->loops[loop_index];
	count = atomic_load_explicit(&loop->beat_count, memory_order_relaxed);
	atomic_store_explicit(&loop->beat_count, count + 1, memory_order_relaxed);
	atomic_store_explicit(&loop->beat_ns, now_ns, memory_order_relaxed);
}

const char *mesh__stats_path(const struct mesh__stats *stats)
{
	return stats->path;
}

static uint64_t hash_more(uint64_t hash, const char *text)
{
	do {
		hash = (hash ^ (unsigned char)*text) * UINT64_C(1099511628211);
	} while (*text++);
	return hash;
}

/* FNV-1a over all that the rows say: two processes with the same hash count the same things. */
static uint64_t hash_of_table(void)
{
	uint64_t hash = UINT64_C(14695981039346656037);

	for (size_t i = 0; i < MESH__METRIC_COUNT; i++) {
		hash = hash_more(hash, rows[i].name);
		hash = hash_more(hash, rows[i].unit);
		hash = hash_more(hash, rows[i].labels);
		hash = (hash ^ rows[i].type) * UINT64_C(1099511628211);
	}
	return hash;
}

static void fill_header(struct mesh__stats *stats, const struct mesh__stats_options *opts)
{
	size_t offset = mesh__segment_alloc(&stats->segment, sizeof(struct mesh__layout_header));
	struct mesh__layout_header *header = mesh__stats_at(stats, offset);

	memcpy(header->magic, MESH__LAYOUT_MAGIC, sizeof(header->magic));
	header->byte_order = MESH__LAYOUT_BYTE_ORDER;
	header->major = MESH__LAYOUT_MAJOR;
	header->minor = MESH__LAYOUT_MINOR;
	header->header_bytes = sizeof(*header);
	header->shard_count = MESH__SHARD_COUNT;
	header->stride_bytes = MESH__LAYOUT_STRIDE_BYTES;
	header->loop_count = opts->loops < MESH__LAYOUT_LOOPS ? opts->loops : MESH__LAYOUT_LOOPS;
	header->table_hash = hash_of_table();
	header->pid = (uint64_t)getpid();
	header->start_ticks = mesh__process_start_ticks(getpid());
	header->pid_namespace = mesh__process_pid_namespace();
	header->start_wall_ns = mesh__clock_wall_ns();
	header->start_ns = mesh__clock_now_ns();
	mesh__process_boot_id(header->boot_id);
	snprintf(header->service, sizeof(header->service), "%s", opts->service ? opts->service : "");
	snprintf(header->version, sizeof(header->version), "%u.%u.%u", MESH_VERSION >> 16, MESH_VERSION >> 8 & 0xff, MESH_VERSION & 0xff);
	atomic_store_explicit(&header->size_bytes, stats->segment.size_bytes, memory_order_relaxed);
	atomic_store_explicit(&header->state, MESH__LAYOUT_OPEN, memory_order_relaxed);
}

static void init_sink(struct mesh__stats *stats)
{
	stats->sink.sum = &stats->sink_sum;
	stats->sink.max = &stats->sink_max;
	for (uint32_t group = 0; group < MESH__HISTOGRAM_GROUPS; group++)
		atomic_init(&stats->sink.groups[group], stats->sink_cells);
	stats->sink_histogram.stats = stats;
	for (uint32_t shard = 0; shard < MESH__SHARD_COUNT; shard++)
		atomic_init(&stats->sink_histogram.shards[shard], &stats->sink);
}

/* A file if that can be had, else private memory; the reason goes to the log. */
static int open_segment(struct mesh__stats *stats, const struct mesh__stats_options *opts, struct mesh_error *err)
{
	struct mesh_error reason = MESH_ERROR_INIT;

	if (!opts->is_off && mesh__publish_open(stats, opts, &reason) == 0)
		return 0;
	if (!opts->is_off)
		mesh__log_write(&stats->log, MESH_LOG_WARN, "counters stay in private memory, other processes cannot read them: %s",
				reason.message);
	if (mesh__segment_init(&stats->segment, -1))
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "no memory for the counters");
	return 0;
}

/* Under its real name others can find the file. If that fails the counters stay in a file without a name. */
static void publish(struct mesh__stats *stats, const struct mesh__stats_options *opts)
{
	struct mesh_error reason = MESH_ERROR_INIT;
	mesh__cell *is_private = mesh__stats_counter(stats, MESH__METRIC_STATS_PRIVATE, NULL);

	if (stats->fd >= 0 && mesh__publish_link(stats, opts->service && *opts->service ? opts->service : "mesh", &reason)) {
		mesh__log_write(&stats->log, MESH_LOG_WARN, "other processes cannot read the counters: %s", reason.message);
		mesh__publish_unlink(stats);
	}
	mesh__gauge_set(is_private, stats->path[0] == '\0');
	if (stats->dir_fd >= 0)
		mesh__list_reap(stats->dir_fd, MESH__LIST_REAP_AT_OPEN);
}

int mesh__stats_open(const struct mesh__stats_options *opts, struct mesh__stats **out, struct mesh_error *err)
{
	struct mesh__stats *stats = mesh__memory_zalloc(sizeof(*stats));
	int result;

	*out = NULL;
	if (!stats)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "no memory for the counters");
	if (opts->log)
		stats->log = *opts->log;
	stats->fd = stats->dir_fd = -1;
	stats->fork_generation = mesh__descriptors_generation();
	stats->series_max = opts->series_max ? opts->series_max : MESH__STATS_SERIES_MAX_DEFAULT;
	memset(stats->metric_number, -1, sizeof(stats->metric_number));
	init_sink(stats);
	result = open_segment(stats, opts, err);
	if (result) {
		mesh__memory_free(stats);
		return result;
	}
	pthread_mutex_init(&stats->lock, NULL);
	mesh__map_init(&stats->series);
	fill_header(stats, opts);
	stats->sink_cell = mesh__stats_at(stats, alloc_cell(stats));
	stats->overflow = mesh__stats_counter(stats, MESH__METRIC_SERIES_OVERFLOW_TOTAL, NULL);
	publish(stats, opts);
	*out = stats;
	return 0;
}

void mesh__stats_close(struct mesh__stats *stats)
{
	const char *key;
	void *found;

	if (!stats)
		return;
	if (stats->fork_generation == mesh__descriptors_generation()) {
		atomic_store_explicit(&mesh__stats_header(stats)->state, MESH__LAYOUT_CLOSED, memory_order_release);
		mesh__publish_unlink(stats);
		mesh__publish_close(stats);
		pthread_mutex_destroy(&stats->lock);
	}
	for (uint32_t at = 0; (found = mesh__map_next(&stats->series, &at, &key));)
		if (rows[metric_of_key(key)].type == MESH_STATS_HISTOGRAM)
			free_histogram(found);
	mesh__map_fini(&stats->series);
	mesh__segment_fini(&stats->segment);
	mesh__memory_free(stats);
}
