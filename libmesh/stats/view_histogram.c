/* Distributions made of histogram series. A cell stands for its middle, which is at most 1/128 of any value in it away. */
#include "stats/view.h"

#include "base/memory.h"

#include <string.h>

enum { CELLS = MESH__VIEW_GROUPS_MAX * MESH__HISTOGRAM_GROUP_CELLS };

struct mesh_stats_histogram {
	uint64_t count, sum, max;
	uint64_t cells[CELLS];
	uint64_t scratch[CELLS]; /* one series, before it is taken off */
};

/* Cell numbers are what mesh__histogram_bucket() gives. */
static uint64_t lower_of(uint32_t cell)
{
	uint32_t group = cell / MESH__HISTOGRAM_GROUP_CELLS, shift = group ? group - 1 : 0;

	return (uint64_t)(cell - shift * MESH__HISTOGRAM_GROUP_CELLS) << shift;
}

static uint64_t width_of(uint32_t cell)
{
	uint32_t group = cell / MESH__HISTOGRAM_GROUP_CELLS;

	return UINT64_C(1) << (group ? group - 1 : 0);
}

static int add_group(const struct mesh_stats_view *view, uint64_t offset, uint64_t *to, uint64_t *count)
{
	const uint64_t *from = mesh__view_cells(view, offset, MESH__HISTOGRAM_GROUP_CELLS);

	if (!from)
		return MESH_E_CORRUPT;
	for (uint32_t i = 0; i < MESH__HISTOGRAM_GROUP_CELLS; i++) {
		*count += from[i];
		if (to)
			to[i] += from[i];
	}
	return 0;
}

/*
 * While a segment is copied its writer goes on: a table may already name a group that was made behind the end of the copy.
 * It was empty when the copy began.
 */
static bool is_later(const struct mesh_stats_view *view, uint64_t offset)
{
	return offset >= view->size_bytes;
}

static int add_shard(const struct mesh_stats_view *view, const struct mesh__view_metric *metric, uint64_t offset, uint64_t *cells,
		     struct mesh__view_totals *totals)
{
	const struct mesh__view_shard *table = mesh__view_shard(view, metric, offset);
	int result = table ? 0 : MESH_E_CORRUPT;

	for (uint32_t group = 0; !result && group < metric->group_count; group++) {
		uint64_t group_offset = table->group_offsets[group];

		if (group_offset && !is_later(view, group_offset))
			result = add_group(view, group_offset, cells ? cells + group * MESH__HISTOGRAM_GROUP_CELLS : NULL, &totals->count);
	}
	if (result)
		return result;
	totals->sum += table->sum;
	totals->max = table->max > totals->max ? table->max : totals->max;
	return 0;
}

int mesh__view_totals(const struct mesh_stats_view *view, uint64_t number, uint64_t *cells, struct mesh__view_totals *totals)
{
	const struct mesh__view_metric *metric = &view->metrics[view->series[number].metric];
	const uint64_t *root = mesh__view_cells(view, mesh__view_offset(view, number), view->header.shard_count);

	int result = root ? 0 : MESH_E_CORRUPT;

	*totals = (struct mesh__view_totals){ .count = 0 };
	for (uint32_t shard = 0; !result && shard < view->header.shard_count; shard++)
		if (root[shard] && !is_later(view, root[shard]))
			result = add_shard(view, metric, root[shard], cells, totals);
	return result;
}

int mesh_stats_histogram_new(mesh_stats_histogram **out)
{
	*out = mesh__memory_zalloc(sizeof(**out));
	return *out ? 0 : MESH_E_NOMEM;
}

void mesh_stats_histogram_free(mesh_stats_histogram *h)
{
	mesh__memory_free(h);
}

void mesh_stats_histogram_clear(mesh_stats_histogram *h)
{
	memset(h, 0, sizeof(*h));
}

static int load(mesh_stats_histogram *h, const mesh_stats_view *view, uint64_t number, struct mesh__view_totals *totals)
{
	if (number >= view->series_count)
		return MESH_E_NOT_FOUND;
	if (view->metrics[view->series[number].metric].type != MESH_STATS_HISTOGRAM)
		return MESH_E_INVALID;
	memset(h->scratch, 0, sizeof(h->scratch));
	return mesh__view_totals(view, number, h->scratch, totals);
}

int mesh_stats_histogram_add(mesh_stats_histogram *h, const mesh_stats_view *view, uint64_t number)
{
	struct mesh__view_totals totals;
	int result = load(h, view, number, &totals);

	if (result)
		return result;
	for (uint32_t i = 0; i < CELLS; i++)
		h->cells[i] += h->scratch[i];
	h->count += totals.count;
	h->sum += totals.sum;
	h->max = totals.max > h->max ? totals.max : h->max;
	return 0;
}

int mesh_stats_histogram_subtract(mesh_stats_histogram *h, const mesh_stats_view *view, uint64_t number)
{
	struct mesh__view_totals totals;
	int result = load(h, view, number, &totals);
	uint64_t highest = 0;

	if (result)
		return result;
	h->count = 0;
	for (uint32_t i = 0; i < CELLS; i++) {
		h->cells[i] -= h->scratch[i] < h->cells[i] ? h->scratch[i] : h->cells[i];
		h->count += h->cells[i];
		if (h->cells[i])
			highest = lower_of(i) + width_of(i) - 1;
	}
	h->sum -= totals.sum < h->sum ? totals.sum : h->sum;
	h->max = highest < h->max ? highest : h->max;
	return 0;
}

uint64_t mesh_stats_histogram_count(const mesh_stats_histogram *h)
{
	return h->count;
}

uint64_t mesh_stats_histogram_sum(const mesh_stats_histogram *h)
{
	return h->sum;
}

uint64_t mesh_stats_histogram_max(const mesh_stats_histogram *h)
{
	return h->max;
}

/* Nearest rank: the smallest value that at least ceil(quantile x count) values do not exceed. */
uint64_t mesh_stats_histogram_quantile(const mesh_stats_histogram *h, double quantile)
{
	double wanted = (quantile > 0 ? quantile < 1 ? quantile : 1 : 0) * (double)h->count;
	uint64_t rank = wanted >= (double)h->count ? h->count : (uint64_t)wanted, seen = 0, middle;

	if (rank == 0 || (double)rank < wanted)
		rank++;
	if (rank == h->count)
		return h->max;
	for (uint32_t i = 0; i < CELLS; i++) {
		seen += h->cells[i];
		if (seen < rank || !h->cells[i])
			continue;
		middle = lower_of(i) + width_of(i) / 2;
		return middle < h->max ? middle : h->max;
	}
	return 0;
}

int mesh_stats_histogram_next(const mesh_stats_histogram *h, uint32_t *at, uint64_t *lower, uint64_t *upper, uint64_t *count)
{
	while (*at < CELLS && !h->cells[*at])
		++*at;
	if (*at >= CELLS)
		return 0;
	*lower = lower_of(*at);
	*upper = *lower + width_of(*at) ? *lower + width_of(*at) : UINT64_MAX;
	*count = h->cells[(*at)++];
	return 1;
}
