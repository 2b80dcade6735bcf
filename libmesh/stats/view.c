/*
 * A copy of a segment, and the way through it.
 *
 * Every read copies all of it and walks the directory anew: what a hostile writer changed since the last time is checked like
 * the first time. The walk is bounded by the copy: blocks only lead onwards, records lie inside their block, and histograms may
 * not refer to more than the file holds. Strings and cells are checked when they are asked for, so that one bad series
 * does not hide the others.
 */
#include "stats/view.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/fault.h"
#include "base/memory.h"
#include "base/text.h"
#include "stats/reader.h"
#include "stats/stats_internal.h"

#include <fcntl.h>
#include <string.h>

enum { LABELS_MAX = 8, METRICS_MAX = 65535, METRIC_STRINGS = 3 };

static bool has_bytes(const struct mesh_stats_view *view, uint64_t offset, uint64_t bytes)
{
	return offset % 8 == 0 && offset >= view->header.header_bytes && offset <= view->size_bytes && bytes <= view->size_bytes - offset;
}

const struct mesh__view_shard *mesh__view_shard(const struct mesh_stats_view *view, const struct mesh__view_metric *metric, uint64_t offset)
{
	return has_bytes(view, offset, 16 + 8 * (uint64_t)metric->group_count) ? (const void *)(view->data + offset) : NULL;
}

const uint64_t *mesh__view_cells(const struct mesh_stats_view *view, uint64_t offset, uint64_t count)
{
	return has_bytes(view, offset, count * sizeof(uint64_t)) ? (const void *)(view->data + offset) : NULL;
}

/* Sums what one shard's table and groups take up; false: an offset is out of range. */
static bool measure_shard(const struct mesh_stats_view *view, const struct mesh__view_metric *metric, uint64_t offset, uint64_t *bytes)
{
	const struct mesh__view_shard *table = mesh__view_shard(view, metric, offset);

	if (!table)
		return false;
	*bytes += MESH__HISTOGRAM_ALIGN_BYTES;
	for (uint32_t group = 0; group < metric->group_count; group++)
		/* One that was made after the size was read lies behind it, and is not read. */
		*bytes += table->group_offsets[group] && mesh__view_cells(view, table->group_offsets[group], MESH__HISTOGRAM_GROUP_CELLS)
				  ? MESH__HISTOGRAM_GROUP_CELLS * sizeof(uint64_t)
				  : 0;
	return true;
}

/*
 * The groups of a true segment lie side by side. If histograms together claim more than there is, they share parts, and to
 * read a few million of such would take hours: refuse it at once.
 */
static bool is_plausible(const struct mesh_stats_view *view)
{
	uint64_t claimed_bytes = 0;

	for (uint64_t i = 0; i < view->series_count && claimed_bytes <= view->size_bytes; i++) {
		const struct mesh__view_metric *metric = &view->metrics[view->series[i].metric];
		const uint64_t *root;

		if (metric->type != MESH_STATS_HISTOGRAM)
			continue;
		root = mesh__view_cells(view, mesh__view_offset(view, i), view->header.shard_count);
		for (uint32_t shard = 0; root && shard < view->header.shard_count; shard++)
			if (root[shard])
				measure_shard(view, metric, root[shard], &claimed_bytes);
	}
	return claimed_bytes <= view->size_bytes;
}

static int grow_array(void **array, uint64_t *capacity, uint64_t count, size_t bytes_each)
{
	uint64_t wanted = *capacity ? *capacity * 2 : 64;
	void *bigger;

	if (count < *capacity)
		return 0;
	bigger = mesh__memory_realloc(*array, wanted * bytes_each);
	if (!bigger)
		return MESH_E_NOMEM;
	*array = bigger;
	*capacity = wanted;
	return 0;
}

static int take_metric(struct mesh_stats_view *view, const struct mesh__layout_metric *record, uint64_t offset)
{
	struct mesh__view_metric metric = { .record_offset = (uint32_t)offset, .type = record->type };
	void *metrics = view->metrics;
	bool is_histogram = record->type == MESH_STATS_HISTOGRAM;

	if (record->record.bytes < sizeof(*record) || record->record.metric != view->metric_count || record->label_count > LABELS_MAX)
		return MESH_E_CORRUPT;
	if (is_histogram && (record->sub_bits != MESH__HISTOGRAM_SUB_BITS || record->group_count > MESH__VIEW_GROUPS_MAX))
		return MESH_E_VERSION;
	if (grow_array(&metrics, &view->metric_capacity, view->metric_count, sizeof(metric)))
		return MESH_E_NOMEM;
	metric.label_count = record->label_count;
	metric.group_count = is_histogram ? record->group_count : 0;
	view->metrics = metrics;
	view->metrics[view->metric_count++] = metric;
	return 0;
}

static int take_series(struct mesh_stats_view *view, const struct mesh__layout_series *record, uint64_t offset)
{
	void *series = view->series;

	if (record->record.bytes < sizeof(*record) || record->record.metric >= view->metric_count)
		return MESH_E_CORRUPT;
	if (grow_array(&series, &view->series_capacity, view->series_count, sizeof(*view->series)))
		return MESH_E_NOMEM;
	view->series = series;
	view->series[view->series_count++] = (struct mesh__view_series){ .record_offset = (uint32_t)offset,
									 .metric = record->record.metric };
	return 0;
}

static int take_record(struct mesh_stats_view *view, uint64_t offset)
{
	const void *record = view->data + offset;

	switch (((const struct mesh__layout_record *)record)->kind) {
	case MESH__LAYOUT_METRIC:
		return take_metric(view, record, offset);
	case MESH__LAYOUT_SERIES:
		return take_series(view, record, offset);
	default: /* of a newer minor version */
		return 0;
	}
}

/* The records of one block; *left counts those that are still to come. */
static int walk_block(struct mesh_stats_view *view, uint64_t offset, uint64_t *left)
{
	const struct mesh__layout_block *block = (const void *)(view->data + offset);
	uint64_t at = offset + sizeof(*block), end = offset + block->bytes;
	int result = 0;

	if (block->bytes < sizeof(*block) || !has_bytes(view, offset, block->bytes))
		return MESH_E_CORRUPT;
	while (!result && *left && end - at >= sizeof(struct mesh__layout_record)) {
		const struct mesh__layout_record *record = (const void *)(view->data + at);

		if (record->bytes == 0)
			break;
		if (record->bytes < sizeof(*record) || record->bytes % 8 || record->bytes > end - at)
			return MESH_E_CORRUPT;
		result = take_record(view, at);
		at += record->bytes;
		--*left;
	}
	return result;
}

static int walk_directory(struct mesh_stats_view *view)
{
	uint64_t offset = view->header.directory_offset, left = view->header.record_count, before = 0;
	int result = 0;

	view->metric_count = view->series_count = 0;
	while (!result && left && offset) {
		if (offset <= before || !has_bytes(view, offset, sizeof(struct mesh__layout_block)))
			return MESH_E_CORRUPT;
		result = walk_block(view, offset, &left);
		before = offset;
		offset = ((const struct mesh__layout_block *)(const void *)(view->data + offset))->next_offset;
	}
	if (!result && (left || !is_plausible(view)))
		result = MESH_E_CORRUPT;
	return result;
}

static int make_room(struct mesh_stats_view *view, uint64_t bytes, struct mesh_error *err)
{
	uint8_t *data;

	if (bytes <= view->capacity_bytes)
		return 0;
	data = mesh__memory_alloc(bytes);
	if (!data)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "no memory for a copy of %llu bytes", (unsigned long long)bytes);
	mesh__memory_free(view->data);
	view->data = data;
	view->capacity_bytes = bytes;
	return 0;
}

/* Word by word, since others count meanwhile; under the lock, so that nothing is made meanwhile. */
static int copy_self(struct mesh_stats_view *view, struct mesh_error *err)
{
	const struct mesh__stats *stats = view->self;
	const mesh__cell *from = mesh__stats_at(stats, 0);
	size_t bytes = stats->segment.size_bytes;
	uint64_t *to;

	if (make_room(view, bytes, err))
		return MESH_E_NOMEM;
	to = (void *)view->data;
	for (size_t i = 0; i < bytes / sizeof(*to); i++)
		to[i] = atomic_load_explicit(&from[i], memory_order_relaxed);
	memcpy(&view->header, view->data, sizeof(view->header));
	return mesh__reader_check(&view->header, view->path, err);
}

static void keep_identity(struct mesh_stats_view *view, int result, const struct mesh__identity_page *page)
{
	view->identity_error = result;
	if (!result)
		view->identity = *page;
}

/* The lock under which it was copied is the writer's, too. */
static void take_own_identity(struct mesh_stats_view *view)
{
	struct mesh__identity_page page;

	memcpy(&page, view->header.identity, sizeof(page));
	keep_identity(view, page.sequence ? 0 : MESH_E_NOT_FOUND, &page);
}

static void read_identity(struct mesh_stats_view *view)
{
	struct mesh__identity_page page;
	int result = mesh__identity_page_copy(view->fd, &page);

	keep_identity(view, result, &page);
}

static int read_self(struct mesh_stats_view *view, struct mesh_error *err)
{
	int result;

	if (!mesh__stats_lock(view->self))
		return mesh__fault(err, MESH_E_FORKED, MESH_STAGE_NONE, "the counters belong to the parent process");
	result = copy_self(view, err);
	mesh__stats_unlock(view->self);
	if (!result)
		take_own_identity(view);
	return result;
}

/*
 * The header first: what it counts as complete is complete in what is copied after it. And the header twice, since a read of it
 * is no single moment: how many records there are must be known before how long the file is, or the last ones lie behind the end.
 */
static int read_file(struct mesh_stats_view *view, struct mesh_error *err)
{
	uint64_t record_count;
	int result;

	if (view->fork_generation != mesh__descriptors_generation())
		return mesh__fault(err, MESH_E_FORKED, MESH_STAGE_NONE, "the view was opened by the parent process");
	result = mesh__reader_header(view->fd, view->path, &view->header, err);
	record_count = view->header.record_count;
	atomic_thread_fence(memory_order_acquire);
	if (!result)
		result = mesh__reader_header(view->fd, view->path, &view->header, err);
	view->header.record_count = record_count;
	atomic_thread_fence(memory_order_acquire);
	if (!result)
		result = make_room(view, view->header.size_bytes, err);
	if (!result)
		result = mesh__reader_copy(view->fd, view->path, view->data, view->header.size_bytes, err);
	if (!result)
		read_identity(view);
	return result;
}

int mesh_stats_read(mesh_stats_view *view, struct mesh_error *err)
{
	int result = view->self ? read_self(view, err) : read_file(view, err);

	view->series_count = 0;
	view->read_ns = mesh__clock_now_ns();
	if (result)
		return result;
	view->size_bytes = view->header.size_bytes;
	view->state = mesh__reader_state(&view->header, view->fd);
	result = walk_directory(view);
	if (!result)
		return 0;
	view->series_count = 0;
	if (result == MESH_E_NOMEM)
		return mesh__fault(err, result, MESH_STAGE_NONE, "no memory for an index of the counters");
	return mesh__fault(err, result, MESH_STAGE_NONE, result == MESH_E_VERSION ? "%s has histograms of a kind that this library does not know" :
							 "%s has a directory that contradicts itself", view->path);
}

static int open_view(struct mesh__stats *self, int fd, const char *path, mesh_stats_view **out, struct mesh_error *err)
{
	struct mesh_stats_view *view = mesh__memory_zalloc(sizeof(*view));
	int result;

	*out = NULL;
	if (view) {
		view->fd = fd;
		view->self = self;
		view->fork_generation = mesh__descriptors_generation();
		view->path = mesh__memory_strdup(path);
	}
	if (!view || !view->path) {
		mesh__memory_free(view);
		mesh__descriptors_close(fd);
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "no memory for a view of the counters");
	}
	result = mesh_stats_read(view, err);
	if (result)
		mesh_stats_close(view);
	else
		*out = view;
	return result;
}

int mesh_stats_open(const char *path, mesh_stats_view **out, struct mesh_error *err)
{
	int fd;

	if (!path || !out)
		return mesh__fault(err, MESH_E_INVALID, MESH_STAGE_NONE, "mesh_stats_open: path or out is NULL");
	*out = NULL;
	fd = mesh__reader_open(AT_FDCWD, path, path, err);
	return fd < 0 ? fd : open_view(NULL, fd, path, out, err);
}

int mesh__stats_view_self(struct mesh__stats *stats, struct mesh_stats_view **out, struct mesh_error *err)
{
	return open_view(stats, -1, stats->path, out, err);
}

void mesh_stats_close(mesh_stats_view *view)
{
	if (!view)
		return;
	if (view->fork_generation == mesh__descriptors_generation())
		mesh__descriptors_close(view->fd);
	mesh__memory_free(view->data);
	mesh__memory_free(view->metrics);
	mesh__memory_free(view->series);
	mesh__memory_free(view->path);
	mesh__memory_free(view);
}

/* Fills a caller's structure of another age: his size wins, and stays. */
static int give(void *out, uint32_t size, const void *full, size_t full_bytes)
{
	if (size < 2 * sizeof(uint32_t))
		return MESH_E_INVALID;
	memcpy((char *)out + sizeof(size), (const char *)full + sizeof(size), (size < full_bytes ? size : full_bytes) - sizeof(size));
	return 0;
}

int mesh_stats_process(const mesh_stats_view *view, struct mesh_stats_process *out)
{
	const struct mesh__layout_header *header = &view->header;
	struct mesh_stats_process full = { .state = view->state };

	full.service = header->service;
	full.version = header->version;
	full.path = view->path;
	full.pid = (int64_t)header->pid;
	full.start_ticks = header->start_ticks;
	full.start_wall_ns = header->start_wall_ns;
	full.uptime_ns = view->read_ns > header->start_ns ? view->read_ns - header->start_ns : 0;
	full.loop_count = header->loop_count;
	for (uint32_t i = 0; i < MESH__LAYOUT_LOOPS; i++)
		full.beat_age_ns[i] = mesh__reader_beat_age_ns(header, i, view->read_ns);
	return give(out, out->size, &full, sizeof(full));
}

int mesh_stats_identity(const mesh_stats_view *view, struct mesh_stats_identity *out)
{
	struct mesh_stats_identity full = { .size = 0 };
	int result = mesh__identity_page_read(&view->identity, &full);

	if (result)
		return view->identity_error ? view->identity_error : result;
	return give(out, out->size, &full, sizeof(full));
}

int mesh_stats_identity_bundle(const mesh_stats_view *view, uint32_t number, struct mesh_stats_bundle *out)
{
	struct mesh_stats_bundle full = { .size = 0 };
	int result = mesh__identity_page_bundle(&view->identity, number, &full);

	return result ? result : give(out, out->size, &full, sizeof(full));
}

uint64_t mesh_stats_count(const mesh_stats_view *view)
{
	return view->series_count;
}

/* The next string of a record; NULL: it does not end inside. */
static const char *next_string(const char **at, const char *end)
{
	const char *text = *at, *nul = memchr(text, '\0', (size_t)(end - text));

	*at = nul ? nul + 1 : end;
	return nul ? text : NULL;
}

static int fill_labels(const struct mesh_stats_view *view, const struct mesh__view_series *series, struct mesh_stats_series *out)
{
	const struct mesh__view_metric *metric = &view->metrics[series->metric];
	const char *names = view->data_text + metric->record_offset + sizeof(struct mesh__layout_metric);
	const char *names_end = view->data_text + metric->record_offset + mesh__view_record_bytes(view, metric->record_offset);
	const char *values = view->data_text + series->record_offset + sizeof(struct mesh__layout_series);
	const char *values_end = view->data_text + series->record_offset + mesh__view_record_bytes(view, series->record_offset);

	out->name = next_string(&names, names_end);
	out->unit = next_string(&names, names_end);
	out->help = next_string(&names, names_end);
	if (!out->name || !out->unit || !out->help)
		return MESH_E_CORRUPT;
	for (uint32_t i = 0; i < metric->label_count; i++) {
		const char *name = next_string(&names, names_end), *value = next_string(&values, values_end);

		if (!name || !value)
			return MESH_E_CORRUPT;
		if (!*value)
			continue;
		out->label_names[out->label_count] = name;
		out->label_values[out->label_count++] = value;
	}
	return 0;
}

static int sum_cells(const struct mesh_stats_view *view, uint64_t number, int64_t *value)
{
	uint64_t offset = mesh__view_offset(view, number), stride = view->header.stride_bytes / sizeof(uint64_t), sum = 0;
	uint64_t last = (view->header.shard_count - 1) * stride;
	const uint64_t *cells = mesh__view_cells(view, offset, last + 1);

	if (!cells)
		return MESH_E_CORRUPT;
	for (uint64_t at = 0; at <= last; at += stride)
		sum += cells[at];
	*value = (int64_t)sum;
	return 0;
}

int mesh_stats_value(const mesh_stats_view *view, uint64_t number, int64_t *value)
{
	struct mesh__view_totals totals;
	int result;

	*value = 0;
	if (number >= view->series_count)
		return MESH_E_NOT_FOUND;
	if (view->metrics[view->series[number].metric].type != MESH_STATS_HISTOGRAM)
		return sum_cells(view, number, value);
	result = mesh__view_totals(view, number, NULL, &totals);
	if (!result)
		*value = (int64_t)totals.count;
	return result;
}

int mesh_stats_series(const mesh_stats_view *view, uint64_t number, struct mesh_stats_series *out)
{
	struct mesh_stats_series full = { .size = 0 };
	struct mesh__view_totals totals = { .count = 0 };
	int result;

	if (number >= view->series_count)
		return MESH_E_NOT_FOUND;
	full.type = view->metrics[view->series[number].metric].type;
	result = fill_labels(view, &view->series[number], &full);
	if (!result && full.type == MESH_STATS_HISTOGRAM)
		result = mesh__view_totals(view, number, NULL, &totals);
	else if (!result)
		result = sum_cells(view, number, &full.value);
	if (result)
		return result;
	if (full.type == MESH_STATS_HISTOGRAM)
		full.value = (int64_t)totals.count;
	full.sum = totals.sum;
	full.max = totals.max;
	return give(out, out->size, &full, sizeof(full));
}

static bool has_label(const struct mesh_stats_series *series, const char *name, const char *value)
{
	for (uint32_t i = 0; i < series->label_count; i++)
		if (strcmp(series->label_names[i], name) == 0)
			return strcmp(series->label_values[i], value) == 0;
	return false;
}

int64_t mesh_stats_find(const mesh_stats_view *view, uint64_t from, const char *name, const char *const *labels, uint64_t label_count)
{
	for (uint64_t number = from; number < view->series_count; number++) {
		struct mesh_stats_series series = { .size = 0 };
		uint64_t i = 0;

		if (fill_labels(view, &view->series[number], &series) || strcmp(series.name, name) != 0)
			continue;
		while (i < label_count && has_label(&series, labels[2 * i], labels[2 * i + 1]))
			i++;
		if (i == label_count)
			return (int64_t)number;
	}
	return MESH_E_NOT_FOUND;
}

uint64_t mesh_stats_escape(char *buffer, uint64_t capacity, const char *text)
{
	char none[1];
	struct mesh__text out;
	uint64_t len = 0;

	mesh__text_init(&out, capacity ? buffer : none, capacity ? capacity : sizeof(none));
	mesh__text_add_escaped(&out, text, strlen(text));
	for (; *text; text++)
		len += (unsigned char)*text < 0x20 || (unsigned char)*text >= 0x7f ? 4 : 1;
	return len;
}
