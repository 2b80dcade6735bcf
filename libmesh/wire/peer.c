#include "wire/peer.h"

#include "base/memory.h"

#include <stddef.h>
#include <string.h>

struct mesh__peer *mesh__peer_new(const struct mesh__spiffe_id *id, const struct mesh__svid *own)
{
	/* An ID may have 2 KiB and seldom has 100 bytes; there is one of these per connection. */
	struct mesh__peer *peer = mesh__memory_zalloc(offsetof(struct mesh__peer, id) + offsetof(struct mesh__spiffe_id, text) + id->len + 1u);

	if (!peer)
		return NULL;
	atomic_init(&peer->refs, 1);
	mesh__spiffe_id_copy_domain(&own->facts.id, peer->own_domain);
	memcpy(&peer->id, id, offsetof(struct mesh__spiffe_id, text) + id->len + 1u);
	return peer;
}

struct mesh__peer *mesh__peer_ref(struct mesh__peer *peer)
{
	if (peer)
		atomic_fetch_add_explicit(&peer->refs, 1, memory_order_relaxed);
	return peer;
}

void mesh__peer_unref(struct mesh__peer *peer)
{
	if (peer && atomic_fetch_sub_explicit(&peer->refs, 1, memory_order_acq_rel) == 1)
		mesh__memory_free(peer);
}
