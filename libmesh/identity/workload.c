#include "identity/workload.h"

#include "base/memory.h"
#include "base/protobuf.h"
#include "mesh/error.h"

#include <stdio.h>
#include <string.h>

#define say mesh__certificate_say

/* Field numbers. */
enum { RESPONSE_SVIDS = 1, RESPONSE_CRL = 2, RESPONSE_FEDERATED = 3, SVID_ID = 1, SVID_CHAIN = 2, SVID_KEY = 3, SVID_BUNDLE = 4, SVID_HINT = 5, MAP_KEY = 1, MAP_VALUE = 2 };

enum { REASON_MAX = 768, SCHEME_LEN = 9 }; /* of "spiffe://" */

struct piece {
	const uint8_t *data;
	size_t len;
};

struct svid_message {
	struct piece fields[SVID_HINT + 1];
	struct mesh__spiffe_id id;
};

struct reading {
	struct mesh__credentials *credentials;
	const void *data;
	size_t len;
	char *why;
	size_t capacity;
};

static int refuse(const struct reading *in, const char *sentence)
{
	say(in->why, in->capacity, "the Workload API's message %s", sentence);
	return MESH_E_CORRUPT;
}

/* The bytes of each field up to `last`, of which the last one given counts. A number where bytes belong is none of ours. */
static int read_pieces(const uint8_t *data, size_t len, struct piece *pieces, uint32_t last)
{
	struct mesh__protobuf reader;
	struct mesh__protobuf_field field;

	mesh__protobuf_init(&reader, data, len);
	while (mesh__protobuf_next(&reader, &field))
		if (field.number <= last && field.type == MESH__PROTOBUF_BYTES)
			pieces[field.number] = (struct piece){ field.data, field.len };
	return reader.is_broken ? -1 : 0;
}

static int read_svid(const struct reading *in, const struct mesh__protobuf_field *field, struct svid_message *svid)
{
	static const char *const names[] = { NULL, "spiffe_id", "x509_svid", "x509_svid_key", "bundle" };
	const char *phrase;

	memset(svid->fields, 0, sizeof(svid->fields));
	if (read_pieces(field->data, field->len, svid->fields, SVID_HINT))
		return refuse(in, "holds an SVID that is cut off or no protobuf");
	for (uint32_t i = SVID_ID; i <= SVID_BUNDLE; i++)
		if (!svid->fields[i].len) {
			say(in->why, in->capacity, "the Workload API's message has an SVID whose mandatory field %s is empty, so all of it was discarded", names[i]);
			return MESH_E_CORRUPT;
		}
	if (mesh__spiffe_id_parse(&svid->id, (const char *)svid->fields[SVID_ID].data, svid->fields[SVID_ID].len, &phrase)) {
		say(in->why, in->capacity, "the Workload API's message has an SVID whose spiffe_id is none: %s", phrase);
		return MESH_E_CORRUPT;
	}
	return 0;
}

/* One that is there already stays: our own before a federated one, the default's before another SVID's. */
static int add_bundle(const struct reading *in, const char *domain, size_t domain_len, struct piece der, bool may_be_empty)
{
	char name[MESH__TRUST_DOMAIN_MAX + 1], reason[REASON_MAX] = "";
	struct mesh__bundle *bundle;
	int rc;

	if (mesh__credentials_bundle(in->credentials, domain, domain_len))
		return 0;
	memcpy(name, domain, domain_len);
	name[domain_len] = '\0';
	rc = mesh__bundle_parse(&bundle, name, MESH__BUNDLE_DER, der.data, der.len, may_be_empty, reason, sizeof(reason));
	if (rc) {
		say(in->why, in->capacity, "the Workload API's bundle of trust domain %s cannot be used: %s", name, reason);
		return rc;
	}
	rc = mesh__credentials_add_bundle(in->credentials, bundle);
	if (rc) {
		mesh__bundle_unref(bundle);
		say(in->why, in->capacity, "the Workload API's message has bundles of more than %d trust domains", MESH__BUNDLES_MAX);
	}
	return rc;
}

static int add_federated(const struct reading *in, const struct mesh__protobuf_field *field)
{
	struct piece pieces[MAP_VALUE + 1] = { 0 };
	const char *domain, *phrase;
	size_t len;

	if (read_pieces(field->data, field->len, pieces, MAP_VALUE))
		return refuse(in, "holds a federated bundle that is cut off or no protobuf");
	domain = (const char *)pieces[MAP_KEY].data;
	len = pieces[MAP_KEY].len;
	if (len > SCHEME_LEN && memcmp(domain, "spiffe://", SCHEME_LEN) == 0) {
		domain += SCHEME_LEN;
		len -= SCHEME_LEN;
	}
	if (mesh__trust_domain_check(domain ? domain : "", len, &phrase)) {
		say(in->why, in->capacity, "the Workload API's message has a federated bundle without a trust domain: %s", phrase);
		return MESH_E_CORRUPT;
	}
	return add_bundle(in, domain, len, pieces[MAP_VALUE], true);
}

static int add_crl(const struct reading *in, const struct mesh__protobuf_field *field)
{
	char reason[REASON_MAX] = "";
	int rc = mesh__credentials_add_crl(in->credentials, true, field->data, field->len, reason, sizeof(reason));

	if (rc)
		say(in->why, in->capacity, "the Workload API's crl cannot be used, so all of its message was discarded: %s", reason);
	return rc;
}

static int add_own_bundle(const struct reading *in, const struct mesh__protobuf_field *field)
{
	struct svid_message svid;
	int rc = read_svid(in, field, &svid);

	return rc ? rc : add_bundle(in, mesh__spiffe_id_domain(&svid.id), svid.id.domain_len, svid.fields[SVID_BUNDLE], false);
}

static int add_svid(const struct reading *in, const struct mesh__protobuf_field *field)
{
	char hint[sizeof(((struct mesh__svid *)0)->hint)], reason[REASON_MAX] = "";
	struct svid_message svid;
	int rc = read_svid(in, field, &svid);

	if (rc)
		return rc;
	snprintf(hint, sizeof(hint), "%.*s", (int)(svid.fields[SVID_HINT].len < sizeof(hint) ? svid.fields[SVID_HINT].len : sizeof(hint) - 1),
		 svid.fields[SVID_HINT].data ? (const char *)svid.fields[SVID_HINT].data : "");
	rc = mesh__credentials_add_svid(in->credentials, true, svid.fields[SVID_CHAIN].data, svid.fields[SVID_CHAIN].len, svid.fields[SVID_KEY].data,
					svid.fields[SVID_KEY].len, hint, reason, sizeof(reason));
	if (rc) {
		say(in->why, in->capacity, "the Workload API's SVID for %.256s cannot be used: %s", svid.id.text, reason);
		return rc;
	}
	if (!mesh__spiffe_id_equal(&in->credentials->svids[in->credentials->svid_count - 1]->facts.id, &svid.id)) {
		say(in->why, in->capacity, "the Workload API's SVID for %.256s is a certificate of %.256s", svid.id.text,
		    in->credentials->svids[in->credentials->svid_count - 1]->facts.id.text);
		return MESH_E_CORRUPT;
	}
	return 0;
}

static int walk(const struct reading *in, uint32_t number, int (*add)(const struct reading *, const struct mesh__protobuf_field *))
{
	struct mesh__protobuf reader;
	struct mesh__protobuf_field field;
	int rc = 0;

	mesh__protobuf_init(&reader, in->data, in->len);
	while (!rc && mesh__protobuf_next(&reader, &field))
		if (field.number == number && field.type == MESH__PROTOBUF_BYTES)
			rc = add(in, &field);
	return !rc && reader.is_broken ? refuse(in, "is cut off, or no protobuf") : rc;
}

/* Bundles first: a CRL is signed by an authority in one, and an SVID is checked against that of its own trust domain. */
int mesh__workload_parse(const void *data, size_t len, struct mesh__credentials **out, char *why, size_t capacity)
{
	struct reading in = { .data = data, .len = len, .why = why, .capacity = capacity };
	int rc = mesh__credentials_new(&in.credentials);

	if (rc) {
		say(why, capacity, "out of memory for the Workload API's message");
		return rc;
	}
	rc = walk(&in, RESPONSE_SVIDS, add_own_bundle);
	if (!rc)
		rc = walk(&in, RESPONSE_FEDERATED, add_federated);
	if (!rc)
		rc = walk(&in, RESPONSE_CRL, add_crl);
	if (!rc)
		rc = walk(&in, RESPONSE_SVIDS, add_svid);
	if (!rc && !in.credentials->svid_count)
		rc = refuse(&in, "holds no SVID, though it must have one at least, so it was discarded");
	if (rc)
		mesh__credentials_unref(in.credentials);
	else
		*out = in.credentials;
	return rc;
}
