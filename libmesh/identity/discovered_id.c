#include "identity/discovered_id.h"

#include "base/memory.h"
#include "identity/spiffe_id.h"
#include "mesh/error.h"

#include <string.h>

int mesh__discovered_id_parse(struct mesh__discovered_id **out, const char *text, size_t len, const char **why)
{
	struct mesh__discovered_id *made;
	struct mesh__spiffe_id id;

	if (mesh__spiffe_id_parse(&id, text, len, why))
		return -1;
	if (!*mesh__spiffe_id_path(&id)) {
		*why = "it names a whole trust domain: a workload's ID has a path";
		return -1;
	}
	made = mesh__memory_alloc(sizeof(*made) + id.len + 1u);
	if (!made)
		return MESH_E_NOMEM;
	atomic_init(&made->refs, 1);
	memcpy(made->text, id.text, id.len + 1u);
	*out = made;
	return 0;
}

struct mesh__discovered_id *mesh__discovered_id_ref(struct mesh__discovered_id *id)
{
	if (id)
		atomic_fetch_add_explicit(&id->refs, 1, memory_order_relaxed);
	return id;
}

void mesh__discovered_id_unref(struct mesh__discovered_id *id)
{
	if (id && atomic_fetch_sub_explicit(&id->refs, 1, memory_order_acq_rel) == 1)
		mesh__memory_free(id);
}

bool mesh__discovered_id_equal(const struct mesh__discovered_id *a, const struct mesh__discovered_id *b)
{
	return a == b || (a && b && strcmp(a->text, b->text) == 0);
}
