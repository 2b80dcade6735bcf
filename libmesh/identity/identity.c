#include "identity/identity.h"

#include "base/address.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/memory.h"
#include "base/text.h"
#include "identity/crypto.h"
#include "identity/identity_check.h"
#include "identity/rotation.h"
#include "identity/source.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define TICK_NS MESH__NS_PER_SEC
#define SAY_FAILURES_NS (5 * MESH__NS_PER_SEC) /* a directory that somebody keeps touching fails many times a second */

enum { NS_PER_SEC = 1000000000 };

static const struct mesh__identity_source_ops *const sources[] = { &mesh__identity_local, &mesh__identity_file, &mesh__identity_spiffe };

struct mesh__identity {
	struct mesh__identity_options opts;
	struct mesh__identity_source source;
	bool is_tls;
	mesh__cell *expiration, *refreshes, *missed, *overdue, *plaintext;
	atomic_uint_fast64_t generation; /* changes whenever `newest` does */
	atomic_bool news_posted, is_started, is_ending;
	struct mesh__task start, news;

	/* Short holds; nothing is called and nothing freed under it. */
	struct {
		pthread_mutex_t lock;
		struct mesh__credentials *newest; /* NULL: none yet, or taken back */
		struct mesh__lifetime life;       /* of the leaf that ends first */
		bool is_redacted, is_renewal_wanted;
		uint32_t failures_in_row, failures_unsaid;
		uint64_t said_ns; /* when a failure was last logged; 0: never */
		bool has_news;    /* the last failure is another than the one that was logged */
		uint64_t renewals, failures;
		int64_t last_renewal_s, next_renewal_s, overdue_since_s, last_failure_s;
		char last_failure[512];
	} shared;

	/* on the control loop */
	struct mesh__timer tick, renew;
	struct mesh__clocks seen;
	int64_t said_left_s; /* what was left when it was last said that a renewal was missed */
	bool is_stopped;
};

/* --- clocks --- */

static int64_t read_clock(clockid_t id)
{
	struct timespec ts = { 0 };

	clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

static struct mesh__clocks read_clocks(void)
{
	return (struct mesh__clocks){ read_clock(CLOCK_REALTIME), (uint64_t)read_clock(CLOCK_BOOTTIME), (uint64_t)read_clock(CLOCK_MONOTONIC) };
}

static int64_t wall_s(void)
{
	return read_clock(CLOCK_REALTIME) / NS_PER_SEC;
}

static const char *print_span(char *text, size_t capacity, int64_t seconds)
{
	if (seconds < 120)
		snprintf(text, capacity, "%" PRId64 " s", seconds);
	else if (seconds < 7200)
		snprintf(text, capacity, "%" PRId64 " min", seconds / 60);
	else if (seconds < 172800)
		snprintf(text, capacity, "%" PRId64 " h", seconds / 3600);
	else
		snprintf(text, capacity, "%" PRId64 " days", seconds / 86400);
	return text;
}

/* --- what others hold --- */

static const struct mesh__svid *first_to_end(const struct mesh__credentials *credentials)
{
	const struct mesh__svid *first = NULL;

	for (uint32_t i = 0; i < credentials->svid_count; i++)
		if (!first || credentials->svids[i]->facts.not_after_s < first->facts.not_after_s)
			first = credentials->svids[i];
	return first;
}

static bool is_valid_now(const struct mesh__svid *svid, int64_t now_s)
{
	return now_s >= svid->facts.not_before_s && now_s <= svid->facts.not_after_s;
}

static struct mesh__credentials *take_newest(struct mesh__identity *identity)
{
	struct mesh__credentials *newest;

	pthread_mutex_lock(&identity->shared.lock);
	newest = identity->shared.newest ? mesh__credentials_ref(identity->shared.newest) : NULL;
	pthread_mutex_unlock(&identity->shared.lock);
	return newest;
}

static void add_last_failure(struct mesh__identity *identity, struct mesh__text *text, int64_t now_s)
{
	char failure[512], span[32];
	int64_t when_s;

	pthread_mutex_lock(&identity->shared.lock);
	memcpy(failure, identity->shared.last_failure, sizeof(failure));
	when_s = identity->shared.last_failure_s;
	pthread_mutex_unlock(&identity->shared.lock);
	if (*failure)
		mesh__text_addf(text, "; %s ago: %s", print_span(span, sizeof(span), now_s > when_s ? now_s - when_s : 0), failure);
}

static void say_why_none(struct mesh__identity *identity, char *why, size_t capacity)
{
	struct mesh__text text;

	mesh__text_init(&text, why, capacity);
	pthread_mutex_lock(&identity->shared.lock);
	mesh__text_addf(&text, identity->shared.is_redacted ? "%s has taken our identity back" : "%s has given us no identity yet", identity->source.uri);
	pthread_mutex_unlock(&identity->shared.lock);
	add_last_failure(identity, &text, wall_s());
}

static void say_why_not_now(struct mesh__identity *identity, const struct mesh__svid *svid, int64_t now_s, char *why, size_t capacity)
{
	bool is_early = now_s < svid->facts.not_before_s;
	int64_t apart_s = is_early ? svid->facts.not_before_s - now_s : now_s - svid->facts.not_after_s;
	struct mesh__text text;
	char span[32];

	mesh__text_init(&text, why, capacity);
	mesh__text_addf(&text, "our identity %.200s from %s ", svid->facts.id.text, identity->source.uri);
	print_span(span, sizeof(span), apart_s);
	if (is_early)
		mesh__text_addf(&text, "is not valid before %s from now: is the clock right?", span);
	else
		mesh__text_addf(&text, "expired %s ago and was not renewed", span);
	add_last_failure(identity, &text, now_s);
}

struct mesh__credentials *mesh__identity_take(struct mesh__identity *identity, char *why, size_t capacity)
{
	struct mesh__credentials *newest = take_newest(identity);
	const struct mesh__svid *svid = newest ? mesh__identity_svid(identity, newest, NULL) : NULL;
	int64_t now_s = wall_s();

	if (svid && is_valid_now(svid, now_s))
		return newest;
	if (svid)
		say_why_not_now(identity, svid, now_s, why, capacity);
	else
		say_why_none(identity, why, capacity);
	mesh__credentials_unref(newest);
	return NULL;
}

uint64_t mesh__identity_generation(const struct mesh__identity *identity)
{
	return atomic_load_explicit(&identity->generation, memory_order_acquire);
}

bool mesh__identity_is_tls(const struct mesh__identity *identity)
{
	return identity->is_tls;
}

bool mesh__identity_is_ending(const struct mesh__identity *identity)
{
	return atomic_load_explicit(&identity->is_ending, memory_order_relaxed);
}

static const char *own_domain(const struct mesh__credentials *credentials, char storage[MESH__TRUST_DOMAIN_MAX + 1])
{
	const struct mesh__svid *svid = mesh__credentials_svid(credentials, NULL, NULL);

	if (!svid)
		return NULL;
	mesh__spiffe_id_copy_domain(&svid->facts.id, storage);
	return storage;
}

static int id_by_template(const struct mesh__identity *identity, const struct mesh__credentials *credentials, const char *service,
			  struct mesh__spiffe_id *id, const char **why)
{
	char domain[MESH__TRUST_DOMAIN_MAX + 1];

	if (!own_domain(credentials, domain)) {
		*why = "we have no identity, thus no trust domain";
		return -1;
	}
	return mesh__spiffe_id_of_service(id, domain, mesh__config_text(identity->opts.config, MESH__OPTION_NAMESPACE, service), service, why);
}

const struct mesh__svid *mesh__identity_svid(const struct mesh__identity *identity, const struct mesh__credentials *credentials, const char *service)
{
	const char *hint = mesh__config_text(identity->opts.config, MESH__OPTION_IDENTITY_HINT, NULL);
	bool is_own = !service || strcmp(service, identity->opts.service) == 0;
	struct mesh__spiffe_id id;
	const char *why;

	/* Whoever names one for this process means it, whatever the ID of another looks like. */
	if ((is_own && *hint) || id_by_template(identity, credentials, is_own ? identity->opts.service : service, &id, &why))
		return mesh__credentials_svid(credentials, NULL, hint);
	return mesh__credentials_svid(credentials, id.text, hint);
}

int mesh__identity_expected(const struct mesh__identity *identity, const struct mesh__credentials *credentials, const char *service,
			    const struct mesh__discovered_id *discovered, struct mesh__spiffe_id *id, const char **from, const char **why)
{
	const char *given = mesh__config_text(identity->opts.config, MESH__OPTION_PEER_ID, service);

	*from = *given ? "by option peer.id" : "from discovery";
	if (!*given && discovered)
		given = discovered->text;
	if (*given)
		return mesh__spiffe_id_parse(id, given, strlen(given), why);
	*from = "by the name of the service";
	return id_by_template(identity, credentials, service, id, why);
}

/* --- old connections --- */

static bool has_id(const struct mesh__credentials *credentials, const char *id)
{
	for (uint32_t i = 0; i < credentials->svid_count; i++)
		if (strcmp(credentials->svids[i]->facts.id.text, id) == 0)
			return true;
	return false;
}

static bool trusts(const struct mesh__credentials *credentials, const struct mesh__spiffe_id *peer)
{
	return mesh__credentials_bundle(credentials, mesh__spiffe_id_domain(peer), peer->domain_len) != NULL;
}

/* Is something gone with which connections were made? */
static bool lacks_some(const struct mesh__credentials *newest, const struct mesh__credentials *old)
{
	for (uint32_t i = 0; i < old->svid_count; i++)
		if (!has_id(newest, old->svids[i]->facts.id.text))
			return true;
	for (uint32_t i = 0; i < old->bundle_count; i++)
		if (!mesh__credentials_bundle(newest, old->bundles[i]->domain, strlen(old->bundles[i]->domain)))
			return true;
	return false;
}

/* Only who is named in a list is read and verified again: that costs milliseconds. What cannot be, for want of memory, may not stay. */
static bool is_revoked(const struct mesh__credentials *credentials, const struct mesh__session *session)
{
	struct mesh__bundle *bundle = mesh__credentials_bundle(credentials, mesh__spiffe_id_domain(session->peer), session->peer->domain_len);
	struct mesh__spiffe_id id;
	mbedtls_x509_crt chain;
	uint32_t count;
	bool is_revoked;

	if (!mesh__revocations_name(&credentials->revocations, session->peer_chain, session->peer_chain_len))
		return false;
	mbedtls_x509_crt_init(&chain);
	is_revoked = mesh__certificate_parse_all(&chain, true, session->peer_chain, session->peer_chain_len, UINT32_MAX, &count, NULL, 0) ||
		     mesh__certificate_verify(&chain, bundle, &credentials->revocations, &id, NULL, 0) == MESH__REFUSAL_REVOKED;
	mbedtls_x509_crt_free(&chain);
	return is_revoked;
}

static enum mesh__verdict_on_old judge_superseded(struct mesh__identity *identity, const struct mesh__session *session)
{
	struct mesh__credentials *newest = take_newest(identity);
	enum mesh__verdict_on_old verdict = MESH__OLD_DRAINS;

	if (!newest || (*session->own_id && !has_id(newest, session->own_id)) ||
	    (session->peer->len && (!trusts(newest, session->peer) || is_revoked(newest, session))))
		verdict = MESH__OLD_ENDS;
	mesh__credentials_unref(newest);
	return verdict;
}

enum mesh__verdict_on_old mesh__identity_judge(struct mesh__identity *identity, const struct mesh__credentials *used,
					       const struct mesh__session *session)
{
	const struct mesh__svid *own;
	int64_t now_s;

	if (used->number != mesh__identity_generation(identity))
		return judge_superseded(identity, session);
	/* Nothing newer came. What has expired makes no new streams; those that are open may end. */
	now_s = wall_s();
	own = *session->own_id ? mesh__credentials_svid(used, session->own_id, NULL) : first_to_end(used);
	if ((own && now_s > own->facts.not_after_s) || (session->peer_not_after_s && now_s > session->peer_not_after_s))
		return MESH__OLD_DRAINS;
	return MESH__OLD_STAYS;
}

/* --- news --- */

static void count_failure(struct mesh__identity *identity, const char *reason)
{
	struct mesh__labels labels = { .reason = reason };

	mesh__counter_add(mesh__stats_counter(identity->opts.stats, MESH__METRIC_IDENTITY_FAILURES_TOTAL, &labels), mesh__shard_mine(), 1);
}

/* Timers belong to the control loop; news may come before it turns, or from whoever starts a server. */
static void post_news(struct mesh__identity *identity)
{
	if (!atomic_exchange(&identity->news_posted, true))
		mesh__loop_post(identity->opts.control, &identity->news);
}

static void log_new(const struct mesh__identity *identity, const struct mesh__svid *svid, uint64_t number)
{
	char span[32];
	int64_t left_s = svid->facts.not_after_s - wall_s();

	mesh__log_write(identity->opts.log, number == 1 ? MESH_LOG_INFO : MESH_LOG_DEBUG, "identity: %.200s from %s, serial %s, valid for %s",
			svid->facts.id.text, identity->source.uri, svid->facts.serial, print_span(span, sizeof(span), left_s));
}

void mesh__identity_deliver(struct mesh__identity_source *source, struct mesh__credentials *credentials)
{
	struct mesh__identity *identity = source->identity;
	const struct mesh__svid *first = first_to_end(credentials);
	uint32_t stranger_count = credentials->revocations.stranger_count;
	struct mesh__clocks now = read_clocks();
	struct mesh__credentials *old;
	bool is_narrower, is_first;

	if (!first) {
		mesh__credentials_unref(credentials);
		mesh__identity_failed(source, "empty", "what came holds no certificate");
		return;
	}
	pthread_mutex_lock(&identity->shared.lock);
	credentials->number = atomic_load_explicit(&identity->generation, memory_order_relaxed) + 1;
	old = identity->shared.newest;
	identity->shared.newest = credentials;
	identity->shared.life = mesh__rotation_lifetime(first->facts.not_before_s, first->facts.not_after_s, &now);
	identity->shared.is_redacted = false;
	identity->shared.failures_in_row = 0;
	identity->shared.has_news = false; /* what was not said yet is over */
	identity->shared.is_renewal_wanted = true;
	identity->shared.renewals++;
	identity->shared.last_renewal_s = now.wall_ns / NS_PER_SEC;
	atomic_store_explicit(&identity->generation, credentials->number, memory_order_release);
	log_new(identity, credentials->svids[0], credentials->number);
	mesh__gauge_set(identity->expiration, (uint64_t)first->facts.not_after_s);
	is_first = credentials->number == 1;
	is_narrower = old && (credentials->revocations.count || lacks_some(credentials, old));
	pthread_mutex_unlock(&identity->shared.lock);
	mesh__counter_add(identity->refreshes, mesh__shard_mine(), 1);
	if (stranger_count)
		mesh__log_write(identity->opts.log, MESH_LOG_WARN, "identity: %s: %u revocation list%s signed by no authority in our bundles: of no use, unless a peer shows one that did",
				source->uri, stranger_count, stranger_count == 1 ? " is" : "s are");
	mesh__credentials_unref(old);
	if (is_narrower || (is_first && atomic_load(&identity->is_started)))
		identity->opts.on_change(identity->opts.user);
	post_news(identity);
}

/* What is the same as before is not said again, and nothing too often; what has to wait is said by a tick. */
static void say_failure(struct mesh__identity *identity)
{
	uint64_t now_ns = mesh__clock_now_ns();
	char failure[512], more[64] = "";
	uint32_t unsaid;
	bool is_due;

	pthread_mutex_lock(&identity->shared.lock);
	is_due = identity->shared.has_news && (!identity->shared.said_ns || now_ns - identity->shared.said_ns >= SAY_FAILURES_NS);
	unsaid = identity->shared.failures_unsaid;
	memcpy(failure, identity->shared.last_failure, sizeof(failure));
	if (is_due) {
		identity->shared.has_news = false;
		identity->shared.failures_unsaid = 0;
		identity->shared.said_ns = now_ns;
	}
	pthread_mutex_unlock(&identity->shared.lock);
	if (!is_due)
		return;
	if (unsaid > 1)
		snprintf(more, sizeof(more), " (and %" PRIu32 " failures before this one were not said)", unsaid - 1);
	mesh__log_write(identity->opts.log, MESH_LOG_WARN, "identity: renewal failed: %s: %s%s", identity->source.uri, failure, more);
}

void mesh__identity_failed(struct mesh__identity_source *source, const char *reason, const char *why)
{
	struct mesh__identity *identity = source->identity;

	count_failure(identity, reason);
	pthread_mutex_lock(&identity->shared.lock);
	if (identity->shared.failures_in_row++ == 0 || strncmp(identity->shared.last_failure, why, sizeof(identity->shared.last_failure) - 1) != 0)
		identity->shared.has_news = true;
	identity->shared.failures++;
	identity->shared.failures_unsaid++;
	identity->shared.is_renewal_wanted = true;
	identity->shared.last_failure_s = wall_s();
	snprintf(identity->shared.last_failure, sizeof(identity->shared.last_failure), "%s", why);
	pthread_mutex_unlock(&identity->shared.lock);
	say_failure(identity);
	post_news(identity);
}

void mesh__identity_redacted(struct mesh__identity_source *source, const char *why)
{
	struct mesh__identity *identity = source->identity;
	struct mesh__credentials *old;

	count_failure(identity, "redacted");
	pthread_mutex_lock(&identity->shared.lock);
	old = identity->shared.newest;
	identity->shared.newest = NULL;
	identity->shared.is_redacted = true;
	identity->shared.next_renewal_s = 0;
	identity->shared.failures++;
	identity->shared.last_failure_s = wall_s();
	snprintf(identity->shared.last_failure, sizeof(identity->shared.last_failure), "%s", why);
	atomic_fetch_add_explicit(&identity->generation, 1, memory_order_release);
	mesh__gauge_set(identity->expiration, 0);
	pthread_mutex_unlock(&identity->shared.lock);
	mesh__log_write(identity->opts.log, MESH_LOG_ERROR, "identity: taken back: by %s: %s; connections made with it end", source->uri, why);
	mesh__credentials_unref(old);
	identity->opts.on_change(identity->opts.user);
	post_news(identity);
}

/* --- renewal, on the control loop --- */

static void plan_renewal(struct mesh__identity *identity, struct mesh__loop *lp, const struct mesh__clocks *now)
{
	double jitter = mesh__random_unit(&lp->random);
	uint64_t when_ns;

	pthread_mutex_lock(&identity->shared.lock);
	identity->shared.is_renewal_wanted = false;
	if (identity->shared.failures_in_row) /* without renew() the source tries again by itself, or has given up */
		when_ns = identity->source.ops->renew ? now->mono_ns + mesh__rotation_retry_ns(identity->shared.failures_in_row, jitter) : 0;
	else if (identity->shared.newest)
		when_ns = mesh__rotation_plan(&identity->shared.life, now, jitter);
	else
		when_ns = 0; /* the source will say when there is something */
	identity->shared.next_renewal_s = when_ns ? (now->wall_ns + (int64_t)(when_ns - now->mono_ns)) / NS_PER_SEC : 0;
	pthread_mutex_unlock(&identity->shared.lock);
	if (when_ns && identity->source.ops->renew)
		mesh__timer_set(lp, &identity->renew, when_ns);
}

static void renew_now(struct mesh__timer *timer, struct mesh__loop *lp)
{
	struct mesh__identity *identity = MESH__CONTAINER(timer, struct mesh__identity, renew);

	(void)lp;
	identity->source.ops->renew(&identity->source);
}

/* At once, again whenever half of what was left then has gone by, and at the end. */
static void say_missed(struct mesh__identity *identity, int64_t left_s, const char *failure)
{
	char span[32];

	if (left_s < 0 ? identity->said_left_s < 0 : left_s >= identity->said_left_s / 2)
		return;
	identity->said_left_s = left_s;
	failure = *failure ? failure : "none, nothing new has come";
	if (left_s < 0)
		mesh__log_write(identity->opts.log, MESH_LOG_ERROR, "identity: expired: %s ago, and no new one came from %s: no connection can be made; last failure: %s",
				print_span(span, sizeof(span), -left_s), identity->source.uri, failure);
	else
		mesh__log_write(identity->opts.log, MESH_LOG_WARN, "identity: renewal missed: ours should have been renewed by now, and expires in %s: see %s; last failure: %s",
				print_span(span, sizeof(span), left_s), identity->source.uri, failure);
}

static void note_overdue(struct mesh__identity *identity, const struct mesh__clocks *now)
{
	bool is_overdue, was_overdue, has_any, is_ending;
	char failure[512];
	int64_t left_s;

	pthread_mutex_lock(&identity->shared.lock);
	has_any = identity->shared.newest != NULL;
	is_overdue = has_any && mesh__rotation_is_overdue(&identity->shared.life, now);
	is_ending = has_any ? mesh__rotation_is_nearly_over(&identity->shared.life, now) : identity->shared.is_redacted;
	was_overdue = identity->shared.overdue_since_s != 0;
	left_s = mesh__rotation_left_ns(&identity->shared.life, now) / NS_PER_SEC;
	if (is_overdue != was_overdue)
		identity->shared.overdue_since_s = is_overdue ? now->wall_ns / NS_PER_SEC : 0;
	memcpy(failure, identity->shared.last_failure, sizeof(failure));
	pthread_mutex_unlock(&identity->shared.lock);
	if (atomic_exchange(&identity->is_ending, is_ending) != is_ending)
		identity->opts.on_change(identity->opts.user);
	if (is_overdue != was_overdue) {
		mesh__gauge_set(identity->overdue, is_overdue);
		mesh__counter_add(identity->missed, mesh__shard_mine(), is_overdue);
		mesh__identity_show(identity, identity->opts.stats);
	}
	if (is_overdue) {
		say_missed(identity, left_s, failure);
		return;
	}
	identity->said_left_s = INT64_MAX;
	if (was_overdue && has_any)
		mesh__log_write(identity->opts.log, MESH_LOG_INFO, "identity: renewed late");
}

static void note_clocks(struct mesh__identity *identity, struct mesh__loop *lp, const struct mesh__clocks *now)
{
	enum mesh__clock_change change = mesh__rotation_compare(&identity->seen, now);

	identity->seen = *now;
	if (change == MESH__CLOCK_STEADY)
		return;
	mesh__log_write(identity->opts.log, MESH_LOG_INFO, "identity: %s: looking again at when to renew",
			change == MESH__CLOCK_SLEPT ? "the machine was asleep" : "the clock was set");
	plan_renewal(identity, lp, now);
	mesh__identity_show(identity, identity->opts.stats);
}

static void on_tick(struct mesh__timer *timer, struct mesh__loop *lp)
{
	struct mesh__identity *identity = MESH__CONTAINER(timer, struct mesh__identity, tick);
	struct mesh__clocks now = read_clocks();

	note_clocks(identity, lp, &now);
	note_overdue(identity, &now);
	say_failure(identity);
	mesh__timer_set(lp, timer, lp->now_ns + TICK_NS);
}

static void on_news(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh__identity *identity = MESH__CONTAINER(task, struct mesh__identity, news);
	struct mesh__clocks now = read_clocks();
	bool is_renewal_wanted;

	atomic_store(&identity->news_posted, false);
	if (identity->is_stopped)
		return;
	pthread_mutex_lock(&identity->shared.lock);
	is_renewal_wanted = identity->shared.is_renewal_wanted;
	pthread_mutex_unlock(&identity->shared.lock);
	if (is_renewal_wanted)
		plan_renewal(identity, lp, &now);
	else
		mesh__timer_cancel(&identity->renew);
	note_overdue(identity, &now);
	mesh__identity_show(identity, identity->opts.stats);
}

/* --- servers --- */

int mesh__identity_add_service(struct mesh__identity *identity, const char *service, struct mesh_error *err)
{
	if (!identity->is_tls || !identity->source.ops->add_service)
		return 0;
	return identity->source.ops->add_service(&identity->source, service, err);
}

/* --- life --- */

static const struct mesh__identity_source_ops *find_source(const char *uri, const char **rest)
{
	for (size_t i = 0; i < sizeof(sources) / sizeof(*sources); i++) {
		size_t len = strlen(sources[i]->scheme);

		if (strncmp(uri, sources[i]->scheme, len) == 0 && uri[len] == ':') {
			*rest = uri + len + 1;
			return sources[i];
		}
	}
	return NULL;
}

/* Which source, as a URI. false: identity is off. */
static bool choose_source(const struct mesh__config *cfg, char *uri, size_t capacity)
{
	const char *given = mesh__config_text(cfg, MESH__OPTION_IDENTITY, NULL);
	const char *socket = mesh__config_environment(cfg, "SPIFFE_ENDPOINT_SOCKET");

	if (strcmp(given, "off") == 0)
		snprintf(uri, capacity, "off");
	else if ((!*given && socket) || strcmp(given, "spiffe:") == 0)
		snprintf(uri, capacity, "spiffe:%s", socket ? socket : "");
	else
		snprintf(uri, capacity, "%s", *given ? given : "local:");
	return strcmp(uri, "off") != 0;
}

/* Options were checked when they were read, that variable was not: what is wrong by now came from it. */
static int blame_environment(struct mesh_error *err)
{
	struct mesh_error why = *err;

	return mesh__fault(err, why.code, MESH_STAGE_NONE, "environment SPIFFE_ENDPOINT_SOCKET: %s", why.message);
}

static int open_source(struct mesh__identity *identity, struct mesh_error *err)
{
	struct mesh__identity_source *source = &identity->source;
	const char *rest = "";
	int rc;

	rc = mesh__identity_check_uri(source->uri, err);
	if (rc)
		return strcmp(source->uri, "spiffe:") == 0 ? rc : blame_environment(err);
	source->ops = find_source(source->uri, &rest);
	if (!source->ops)
		return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "option identity: \"%.64s\" names no source", source->uri);
	rc = mesh__crypto_start(err);
	if (rc)
		return rc;
	rc = source->ops->open(source, rest, err);
	if (rc)
		source->ops = NULL; /* it left nothing to close */
	return rc;
}

static void say_plaintext(struct mesh__identity *identity, const char *why)
{
	mesh__gauge_set(identity->plaintext, 1);
	mesh__log_write(identity->opts.log, MESH_LOG_WARN, "connections are PLAIN TEXT and nobody shows who they are, because %s", why);
}

static void start_on_loop(struct mesh__task *task, struct mesh__loop *lp)
{
	struct mesh__identity *identity = MESH__CONTAINER(task, struct mesh__identity, start);

	if (identity->is_stopped)
		return;
	identity->seen = read_clocks();
	mesh__timer_set(lp, &identity->tick, lp->now_ns + TICK_NS);
	identity->source.ops->start(&identity->source);
}

int mesh__identity_open(const struct mesh__identity_options *opts, struct mesh__identity **out, struct mesh_error *err)
{
	struct mesh__identity *identity = mesh__memory_zalloc(sizeof(*identity));
	struct mesh__labels none = { 0 };
	bool is_off;
	int rc = 0;

	if (!identity)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for the identity");
	identity->opts = *opts;
	identity->source.identity = identity;
	identity->source.opts = &identity->opts;
	pthread_mutex_init(&identity->shared.lock, NULL);
	identity->said_left_s = INT64_MAX;
	identity->start.run = start_on_loop;
	identity->news.run = on_news;
	identity->tick.fire = on_tick;
	identity->renew.fire = renew_now;
	identity->expiration = mesh__stats_counter(opts->stats, MESH__METRIC_IDENTITY_EXPIRATION_TIMESTAMP_SECONDS, &none);
	identity->refreshes = mesh__stats_counter(opts->stats, MESH__METRIC_IDENTITY_REFRESHES_TOTAL, &none);
	identity->missed = mesh__stats_counter(opts->stats, MESH__METRIC_IDENTITY_MISSED_TOTAL, &none);
	identity->overdue = mesh__stats_counter(opts->stats, MESH__METRIC_IDENTITY_OVERDUE, &none);
	identity->plaintext = mesh__stats_counter(opts->stats, MESH__METRIC_PLAINTEXT, &none);
	is_off = !choose_source(opts->config, identity->source.uri, sizeof(identity->source.uri));
	identity->is_tls = !is_off && mesh__config_choice(opts->config, MESH__OPTION_TLS, NULL) == 0;
	if (identity->is_tls)
		rc = open_source(identity, err);
	else
		say_plaintext(identity, is_off ? "option identity is off" : "option tls is off");
	if (rc) {
		mesh__identity_free(identity);
		return rc;
	}
	mesh__identity_show(identity, opts->stats);
	*out = identity;
	return 0;
}

void mesh__identity_start(struct mesh__identity *identity)
{
	atomic_store(&identity->is_started, true);
	if (identity->source.ops)
		mesh__loop_post(identity->opts.control, &identity->start);
}

void mesh__identity_stop(struct mesh__identity *identity)
{
	if (identity->is_stopped)
		return;
	identity->is_stopped = true;
	mesh__timer_cancel(&identity->tick);
	mesh__timer_cancel(&identity->renew);
	if (identity->source.ops)
		identity->source.ops->stop(&identity->source);
}

void mesh__identity_free(struct mesh__identity *identity)
{
	if (!identity)
		return;
	if (identity->source.ops)
		identity->source.ops->close(&identity->source);
	mesh__credentials_unref(identity->shared.newest);
	pthread_mutex_destroy(&identity->shared.lock);
	mesh__memory_free(identity);
}

/* --- to be seen --- */

void mesh__identity_status(struct mesh__identity *identity, struct mesh__identity_status *out)
{
	*out = (struct mesh__identity_status){
		.source = identity->is_tls ? identity->source.uri : "off", .is_tls = identity->is_tls, .generation = mesh__identity_generation(identity),
	};
	pthread_mutex_lock(&identity->shared.lock);
	out->last_renewal_s = identity->shared.last_renewal_s;
	out->next_renewal_s = identity->shared.next_renewal_s;
	out->overdue_since_s = identity->shared.overdue_since_s;
	out->renewals = identity->shared.renewals;
	out->failures = identity->shared.failures;
	out->last_failure_s = identity->shared.last_failure_s;
	memcpy(out->last_failure, identity->shared.last_failure, sizeof(out->last_failure));
	pthread_mutex_unlock(&identity->shared.lock);
}

struct mesh__credentials *mesh__identity_peek(struct mesh__identity *identity)
{
	return take_newest(identity);
}
