/*
 * spiffe:unix:///PATH or spiffe:tcp://IP:PORT: the SPIFFE Workload API of an agent on this machine (SPIRE and others).
 *
 * One stream, FetchX509SVID, for as long as the process lives. Each message is a whole generation. Without the stream what we have stays as long as
 * it is valid, and the stream is opened again: at once if it ended in order after a message, else after a backoff with jitter. That
 * goes for PermissionDenied, too, which is what an agent says that does not know the process yet; said to a process that had an
 * identity, it takes that back. InvalidArgument and Unimplemented would be said again: no retry.
 * An agent that takes the stream and then says nothing is told apart from one that has nothing new only before its first message.
 *
 * Source: spiffe/spiffe standards/SPIFFE_Workload_API.md and SPIFFE_Workload_Endpoint.md.
 */
#include "identity/source.h"

#include "base/address.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/memory.h"
#include "base/text.h"
#include "identity/workload.h"

#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#define BACKOFF_FIRST_NS (100 * MESH__NS_PER_MS)
#define BACKOFF_MAX_NS (10 * MESH__NS_PER_SEC)
#define FIRST_MESSAGE_NS (10 * MESH__NS_PER_SEC)
#define BACKOFF_JITTER 0.2

/* gRPC's statuses; wire/ stands right of us. */
enum { GRPC_OK = 0, GRPC_INVALID_ARGUMENT = 3, GRPC_PERMISSION_DENIED = 7, GRPC_UNIMPLEMENTED = 12, GRPC_UNAVAILABLE = 14 };

enum { TARGET_MAX = 256, WHY_MAX = 512 };

struct spiffe {
	struct mesh__identity_source *source;
	char target[TARGET_MAX];
	void *stream; /* NULL: none */
	struct mesh__timer again, silent;
	uint64_t backoff_ns, opened_ns;
	bool has_message; /* on this stream */
	bool has_identity, has_given_up;
};

static void connect_now(struct spiffe *spiffe);

/* --- when to try again --- */

static void on_again(struct mesh__timer *timer, struct mesh__loop *lp)
{
	(void)lp;
	connect_now(MESH__CONTAINER(timer, struct spiffe, again));
}

static void try_later(struct spiffe *spiffe)
{
	struct mesh__loop *lp = spiffe->source->opts->control;
	double jitter = 1 + BACKOFF_JITTER * (2 * mesh__random_unit(&lp->random) - 1);

	spiffe->backoff_ns = spiffe->backoff_ns ? spiffe->backoff_ns * 2 : BACKOFF_FIRST_NS;
	if (spiffe->backoff_ns > BACKOFF_MAX_NS)
		spiffe->backoff_ns = BACKOFF_MAX_NS;
	mesh__timer_set(lp, &spiffe->again, lp->now_ns + (uint64_t)((double)spiffe->backoff_ns * jitter));
}

/* At once, but an agent that ends every stream at once shall not keep both of us busy. */
static void try_again_at_once(struct spiffe *spiffe)
{
	struct mesh__loop *lp = spiffe->source->opts->control;

	if (lp->now_ns - spiffe->opened_ns < BACKOFF_FIRST_NS)
		try_later(spiffe);
	else
		mesh__timer_set(lp, &spiffe->again, lp->now_ns);
}

/* --- what the agent says --- */

static void take_back(struct spiffe *spiffe, const char *reason, const char *why)
{
	if (!spiffe->has_identity) {
		mesh__identity_failed(spiffe->source, reason, why);
		return;
	}
	spiffe->has_identity = false;
	mesh__identity_redacted(spiffe->source, why);
}

static void on_message(void *user, const void *data, size_t len)
{
	struct spiffe *spiffe = user;
	const char *hint = mesh__config_text(spiffe->source->opts->config, MESH__OPTION_IDENTITY_HINT, NULL);
	struct mesh__credentials *credentials;
	char why[WHY_MAX] = "";
	int rc = mesh__workload_parse(data, len, &credentials, why, sizeof(why));

	spiffe->has_message = true;
	mesh__timer_cancel(&spiffe->silent);
	if (rc) {
		mesh__identity_failed(spiffe->source, rc == MESH_E_IDENTITY ? "expired" : rc == MESH_E_NOMEM ? "nomem" : "malformed", why);
		return;
	}
	/* The one that was asked for is the default from here on: our trust domain is its own, and it is the one that is shown. */
	if (!mesh__credentials_prefer(credentials, hint)) {
		snprintf(why, sizeof(why), "none of the %u identities that the Workload API gave us has the hint \"%.64s\" of option identity.hint",
			 credentials->svid_count, hint);
		mesh__credentials_unref(credentials);
		take_back(spiffe, "hint", why);
		return;
	}
	spiffe->has_identity = true;
	spiffe->backoff_ns = 0;
	mesh__identity_deliver(spiffe->source, credentials);
}

static void give_up(struct spiffe *spiffe, const char *reason, const char *what, const char *text)
{
	char why[WHY_MAX];

	spiffe->has_given_up = true;
	snprintf(why, sizeof(why), "the Workload API at %.160s says %s (%.128s): asking again would not help, so it is not tried again until this process restarts",
		 spiffe->target, what, text);
	mesh__identity_failed(spiffe->source, reason, why);
}

static void on_denied(struct spiffe *spiffe, const char *text)
{
	char why[WHY_MAX];

	if (spiffe->has_identity)
		snprintf(why, sizeof(why), "the Workload API at %.160s no longer has an identity for this process (%.128s)", spiffe->target, text);
	else
		snprintf(why, sizeof(why), "the Workload API at %.160s has no identity for this process (%.128s): is it registered? It is asked again",
			 spiffe->target, text);
	take_back(spiffe, "permission_denied", why);
	try_later(spiffe);
}

static void on_broken(struct spiffe *spiffe, int status, const char *text)
{
	char why[WHY_MAX];

	if (status == GRPC_UNAVAILABLE)
		snprintf(why, sizeof(why), "the Workload API at %.160s cannot be reached: %.160s; is the agent running, and its socket there? It is tried again",
			 spiffe->target, text);
	else
		snprintf(why, sizeof(why), "the Workload API at %.160s ended the stream with gRPC status %d: %.160s; it is tried again", spiffe->target, status,
			 text);
	mesh__identity_failed(spiffe->source, status == GRPC_UNAVAILABLE ? "socket" : "stream", why);
	try_later(spiffe);
}

static void on_ended(void *user, int status, const char *text)
{
	struct spiffe *spiffe = user;

	spiffe->stream = NULL;
	mesh__timer_cancel(&spiffe->silent);
	if (status == GRPC_INVALID_ARGUMENT)
		give_up(spiffe, "invalid_argument", "InvalidArgument", text);
	else if (status == GRPC_UNIMPLEMENTED)
		give_up(spiffe, "unimplemented", "Unimplemented", text);
	else if (status == GRPC_PERMISSION_DENIED)
		on_denied(spiffe, text);
	else if (status == GRPC_OK && spiffe->has_message)
		try_again_at_once(spiffe);
	else
		on_broken(spiffe, status, status == GRPC_OK ? "it ended without a message" : text);
}

static void on_silent(struct mesh__timer *timer, struct mesh__loop *lp)
{
	struct spiffe *spiffe = MESH__CONTAINER(timer, struct spiffe, silent);
	char why[WHY_MAX];

	(void)lp;
	spiffe->source->opts->streams->cancel(spiffe->stream);
	spiffe->stream = NULL;
	snprintf(why, sizeof(why), "the Workload API at %.160s took our stream but has said nothing for 10 s; it is tried again", spiffe->target);
	mesh__identity_failed(spiffe->source, "silent", why);
	try_later(spiffe);
}

static void connect_now(struct spiffe *spiffe)
{
	struct mesh__loop *lp = spiffe->source->opts->control;

	spiffe->has_message = false;
	spiffe->opened_ns = lp->now_ns;
	spiffe->stream = spiffe->source->opts->streams->open(lp, spiffe->target, MESH__WORKLOAD_FETCH_X509_SVID, "workload.spiffe.io", "true", NULL, 0,
							     MESH__WORKLOAD_MESSAGE_BYTES_MAX, on_message, on_ended, spiffe);
	if (spiffe->stream) {
		mesh__timer_set(lp, &spiffe->silent, lp->now_ns + FIRST_MESSAGE_NS);
		return;
	}
	mesh__identity_failed(spiffe->source, "nomem", "out of memory for a stream to the Workload API; it is tried again");
	try_later(spiffe);
}

/* --- life --- */

static int refuse(const char *endpoint, const char *why, struct mesh_error *err)
{
	return mesh__fault(err, MESH_E_OPTION, MESH_STAGE_NONE, "option identity: spiffe:%.128s names no Workload API: %s", endpoint, why);
}

/* The Workload API has no TLS, and it is our private key that comes. */
static void warn_of_network(const struct spiffe *spiffe, const struct mesh__address *address)
{
	static const uint8_t here[16] = { [15] = 1 };
	bool is_here = address->family == 4 ? address->ip[0] == 127 : memcmp(address->ip, here, sizeof(here)) == 0;

	if (!is_here)
		mesh__log_write(spiffe->source->opts->log, MESH_LOG_WARN,
				"identity: %s is another machine's, and our private key comes from there in PLAIN TEXT: prefer an agent's Unix socket on this one",
				spiffe->target);
}

/* Source: SPIFFE_Workload_Endpoint.md, section 4. unix:/PATH is the same URI without its empty authority. */
static int read_target(struct spiffe *spiffe, const char *endpoint, struct mesh_error *err)
{
	struct mesh__address address;
	const char *path, *why;

	if (strncmp(endpoint, "tcp://", 6) == 0) {
		if (mesh__address_parse_endpoint(&address, endpoint + 6, strlen(endpoint + 6), &why))
			return refuse(endpoint, why, err);
		snprintf(spiffe->target, sizeof(spiffe->target), "%s", endpoint);
		warn_of_network(spiffe, &address);
		return 0;
	}
	if (strncmp(endpoint, "unix:", 5) != 0)
		return refuse(endpoint, "it is unix:///PATH or tcp://IP:PORT", err);
	path = strncmp(endpoint + 5, "//", 2) == 0 ? endpoint + 7 : endpoint + 5;
	if (*path != '/' || strpbrk(path, "?#"))
		return refuse(endpoint, "unix:// is followed by an absolute path, without host, query or fragment", err);
	if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return refuse(endpoint, "its path is longer than the 107 characters that a Unix socket's may have", err);
	snprintf(spiffe->target, sizeof(spiffe->target), "unix://%s", path);
	return 0;
}

static int open_spiffe(struct mesh__identity_source *source, const char *rest, struct mesh_error *err)
{
	const char *environment = mesh__config_environment(source->opts->config, "SPIFFE_ENDPOINT_SOCKET");
	struct spiffe *spiffe = mesh__memory_zalloc(sizeof(*spiffe));
	int rc;

	if (!spiffe)
		return mesh__fault(err, MESH_E_NOMEM, MESH_STAGE_NONE, "out of memory for an identity source");
	spiffe->source = source;
	spiffe->again.fire = on_again;
	spiffe->silent.fire = on_silent;
	rc = read_target(spiffe, *rest ? rest : environment ? environment : "", err);
	if (rc)
		mesh__memory_free(spiffe);
	else
		source->data = spiffe;
	return rc;
}

static void start(struct mesh__identity_source *source)
{
	connect_now(source->data);
}

static void stop(struct mesh__identity_source *source)
{
	struct spiffe *spiffe = source->data;

	mesh__timer_cancel(&spiffe->again);
	mesh__timer_cancel(&spiffe->silent);
	if (spiffe->stream)
		source->opts->streams->cancel(spiffe->stream);
	spiffe->stream = NULL;
}

static void close_spiffe(struct mesh__identity_source *source)
{
	mesh__memory_free(source->data);
	source->data = NULL;
}

const struct mesh__identity_source_ops mesh__identity_spiffe = {
	.scheme = "spiffe", .open = open_spiffe, .start = start, .stop = stop, .close = close_spiffe,
};
