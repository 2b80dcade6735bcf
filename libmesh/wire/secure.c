#include "wire/secure.h"

#include "base/clock.h"
#include "base/memory.h"
#include "wire/h2_session.h"

#include <stdio.h>
#include <string.h>

enum {
	RECORD_HEADER_BYTES = 5,
	RETIRE_WITHIN_S = 30,
	JUMPED_S = 5, /* connections are judged each second: what ended longer ago than this did not end, the clock has jumped */
	RENEWED_WITHIN_S = 3 /* who sees the clock jump renews within a second or two */
};

static void free_secure(struct mesh__secure *secure)
{
	mesh__secure_shrink(secure);
	mesh__discovered_id_unref(secure->discovered);
	mesh__memory_free(secure);
}

/* --- on a worker --- */

static void fail(struct mesh__secure *secure, int32_t code, const char *reason, const char *why)
{
	secure->progress = MESH__TLS_FAILED;
	secure->code = code;
	snprintf(secure->reason, sizeof(secure->reason), "%s", reason);
	snprintf(secure->why, sizeof(secure->why), "%s", why);
}

/* mesh__identity_take() has looked at the mesh's own; a server may show another. */
static bool is_expired(struct mesh__secure *secure, const struct mesh__svid *svid)
{
	int64_t ago_s = (int64_t)(mesh__clock_wall_ns() / MESH__NS_PER_SEC) - svid->facts.not_after_s;
	char why[MESH__TLS_WHY_MAX];

	if (ago_s <= 0)
		return false;
	snprintf(why, sizeof(why), "our certificate for %.256s expired %lld s ago and was not renewed", svid->facts.id.text, (long long)ago_s);
	fail(secure, MESH_E_IDENTITY, "no_identity", why);
	return true;
}

static int make_session(struct mesh__secure *secure, struct mesh__credentials *credentials)
{
	const struct mesh__secure_options *opts = secure->opts;
	struct mesh__tls_options tls = { .credentials = credentials, .is_server = secure->is_server, .is_hopeless = opts->is_hopeless, .user = opts->user };
	struct mesh__spiffe_id expected;
	const char *why = "";

	tls.svid = mesh__identity_svid(opts->identity, credentials, opts->service);
	if (!tls.svid) {
		fail(secure, MESH_E_IDENTITY, "no_identity", "this process has no certificate to show");
		return -1;
	}
	if (is_expired(secure, tls.svid))
		return -1;
	if (!secure->is_server) {
		if (mesh__identity_expected(opts->identity, credentials, opts->expected_service, secure->discovered, &expected,
					    &tls.expected_from, &why)) {
			fail(secure, MESH_E_IDENTITY, "no_identity", why);
			return -1;
		}
		tls.expected = &expected;
	}
	if (!mesh__tls_new(&tls, &secure->tls))
		return 0;
	fail(secure, MESH_E_NOMEM, "nomem", "out of memory for a TLS session");
	return -1;
}

static int begin(struct mesh__secure *secure)
{
	char why[MESH__TLS_WHY_MAX] = "";
	struct mesh__credentials *credentials = mesh__identity_take(secure->opts->identity, why, sizeof(why));
	int rc;

	if (!credentials) {
		fail(secure, MESH_E_IDENTITY, "no_identity", why);
		return -1;
	}
	rc = make_session(secure, credentials);
	mesh__credentials_unref(credentials);
	return rc;
}

/* The bytes of whole records at its beginning. The rest waits for its own rest, so that what comes then is known for what it is. */
static size_t whole_records(const struct mesh__secure *secure)
{
	size_t at = 0, next;

	while (secure->in_len - at >= RECORD_HEADER_BYTES) {
		next = at + RECORD_HEADER_BYTES + ((size_t)secure->in[at + 3] << 8 | secure->in[at + 4]);
		if (next > secure->in_len)
			break;
		at = next;
	}
	return at;
}

static void work(struct mesh__job *job)
{
	struct mesh__secure *secure = MESH__CONTAINER(job, struct mesh__secure, job);
	size_t used;

	if (!secure->tls && begin(secure))
		return;
	secure->progress = mesh__tls_handshake_step(secure->tls, secure->in, whole_records(secure), &used, &secure->out);
	secure->in_len -= used;
	if (secure->in_len)
		memmove(secure->in, secure->in + used, secure->in_len);
	if (secure->progress == MESH__TLS_FAILED)
		fail(secure, MESH_E_HANDSHAKE, mesh__tls_reason(secure->tls), mesh__tls_why(secure->tls));
}

/* --- on the loop --- */

static void done(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh__secure *secure = MESH__CONTAINER(task, struct mesh__secure, job.done);

	secure->is_busy = false;
	if (!secure->conn) {
		free_secure(secure);
		return;
	}
	secure->took_ns = lp->now_ns - secure->began_ns;
	mesh__h2_handshake_stepped(secure->conn);
}

static void dropped(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh__secure *secure = MESH__CONTAINER(task, struct mesh__secure, job.done);

	(void)lp;
	secure->is_busy = false;
	if (secure->conn)
		mesh__conn_close(secure->conn, MESH_E_CLOSING, "closing", "the mesh is closing");
	else
		free_secure(secure);
}

int mesh__secure_new(struct mesh__conn *conn, const struct mesh__secure_options *opts, bool is_server, struct mesh__secure **out)
{
	struct mesh__loop *lp = conn->lp;
	struct mesh__secure *secure;

	if (!lp->sealed)
		lp->sealed = mesh__memory_alloc(mesh__tls_sealed_max(MESH__LOOP_BUFFER_BYTES));
	secure = lp->sealed ? mesh__memory_zalloc(sizeof(*secure)) : NULL;
	if (!secure)
		return MESH_E_NOMEM;
	mesh__list_init(&secure->node);
	secure->opts = opts;
	secure->discovered = mesh__discovered_id_ref(conn->discovered);
	secure->conn = conn;
	secure->is_server = is_server;
	secure->began_ns = lp->now_ns;
	secure->job.lp = lp;
	secure->job.work = work;
	secure->job.done.run = done;
	secure->job.dropped = dropped;
	*out = secure;
	return 0;
}

void mesh__secure_release(struct mesh__secure *secure)
{
	if (!secure)
		return;
	mesh__list_remove(&secure->node);
	secure->conn = NULL;
	if (!secure->is_busy)
		free_secure(secure);
}

void mesh__secure_shrink(struct mesh__secure *secure)
{
	mesh__tls_free(secure->tls);
	mesh__memory_free(secure->in);
	mesh__memory_free(secure->out.data);
	secure->tls = NULL;
	secure->in = NULL;
	secure->in_len = secure->in_capacity = 0;
	secure->out = (struct mesh__tls_output){ 0 };
}

int mesh__secure_add(struct mesh__secure *secure, const uint8_t *data, size_t len)
{
	if (secure->in_capacity - secure->in_len < len) {
		uint8_t *bigger = mesh__memory_realloc(secure->in, secure->in_len + len);

		if (!bigger)
			return MESH_E_NOMEM;
		secure->in = bigger;
		secure->in_capacity = secure->in_len + len;
	}
	memcpy(secure->in + secure->in_len, data, len);
	secure->in_len += len;
	return 0;
}

/* A job for every byte that a slow peer sends would be a job for everybody else to wait for. */
bool mesh__secure_has_record(const struct mesh__secure *secure)
{
	return whole_records(secure) > 0;
}

bool mesh__secure_step(struct mesh__secure *secure)
{
	secure->out.len = 0;
	secure->is_busy = true;
	if (!mesh__workers_submit(secure->opts->workers, &secure->job))
		secure->is_busy = false;
	return secure->is_busy;
}

void mesh__secure_confirm(struct mesh__secure *secure)
{
	const struct mesh__secure_options *opts = secure->opts;

	if (secure->is_confirmed)
		return;
	secure->is_confirmed = true;
	if (opts->handshakes)
		mesh__counter_add(opts->handshakes, mesh__shard_mine(), 1);
	if (opts->latency)
		mesh__histogram_record(opts->latency, mesh__shard_mine(), secure->took_ns);
}

void mesh__secure_count_failure(struct mesh__secure *secure, const char *reason)
{
	const struct mesh__secure_options *opts = secure->opts;
	struct mesh__labels labels = { .service = opts->counted_as, .side = secure->is_server ? "server" : "client", .reason = reason };

	if (opts->stats)
		mesh__counter_add(mesh__stats_counter(opts->stats, MESH__METRIC_HANDSHAKE_FAILURES_TOTAL, &labels), mesh__shard_mine(), 1);
}

bool mesh__secure_is_expected(const struct mesh__secure *secure, const struct mesh__discovered_id *discovered)
{
	const struct mesh__secure_options *opts = secure->opts;
	struct mesh__spiffe_id expected;
	const char *from, *why;

	if (mesh__identity_expected(opts->identity, mesh__tls_credentials(secure->tls), opts->expected_service, discovered, &expected, &from, &why))
		return false;
	return mesh__spiffe_id_equal(&expected, mesh__tls_peer_id(secure->tls));
}

/*
 * Connections that retire together would come back together: each takes its own moment, well within what life is left. Where the clock was
 * set or the machine has slept, neither side has an identity for new ones yet: theirs is the moment when both have renewed.
 */
static uint64_t retire_at(const struct mesh__secure *secure, struct mesh__loop *lp)
{
	int64_t left_s = mesh__tls_svid(secure->tls)->facts.not_after_s - (int64_t)(mesh__clock_wall_ns() / MESH__NS_PER_SEC);
	double within_s = left_s > 0 ? (double)left_s / 10 : 0;

	if (left_s < -JUMPED_S)
		return lp->now_ns + RENEWED_WITHIN_S * MESH__NS_PER_SEC;
	if (within_s > RETIRE_WITHIN_S)
		within_s = RETIRE_WITHIN_S;
	return lp->now_ns + (uint64_t)(mesh__random_unit(&lp->random) * within_s * (double)MESH__NS_PER_SEC);
}

enum mesh__verdict_on_old mesh__secure_judge(struct mesh__secure *secure, struct mesh__loop *lp)
{
	struct mesh__session session = { .own_id = mesh__tls_svid(secure->tls)->facts.id.text, .peer = mesh__tls_peer_id(secure->tls),
					 .peer_not_after_s = mesh__tls_peer_not_after_s(secure->tls) };
	enum mesh__verdict_on_old verdict;

	session.peer_chain = mesh__tls_peer_chain(secure->tls, &session.peer_chain_len);
	verdict = mesh__identity_judge(secure->opts->identity, mesh__tls_credentials(secure->tls), &session);
	if (verdict != MESH__OLD_DRAINS)
		return verdict;
	if (!secure->retire_ns)
		secure->retire_ns = retire_at(secure, lp);
	return lp->now_ns >= secure->retire_ns ? MESH__OLD_DRAINS : MESH__OLD_STAYS;
}
