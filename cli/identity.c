#include "identity.h"

#include "output.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

int64_t wall_s(void)
{
	return (int64_t)time(NULL);
}

/* A stranger's number may be anything. */
static uint64_t distance(int64_t from, int64_t to)
{
	return to > from ? (uint64_t)to - (uint64_t)from : 0;
}

char *wall_time(char *buffer, int64_t seconds)
{
	time_t at = (time_t)seconds;
	struct tm parts;

	if (!seconds)
		strcpy(buffer, "-");
	else if (!gmtime_r(&at, &parts) || !strftime(buffer, WALL_TIME_BYTES, "%Y-%m-%dT%H:%M:%SZ", &parts))
		snprintf(buffer, WALL_TIME_BYTES, "%lld", (long long)seconds);
	return buffer;
}

char *human_seconds(char *buffer, int64_t seconds)
{
	uint64_t s = seconds > 0 ? (uint64_t)seconds : 0;

	if (s < 120)
		snprintf(buffer, HUMAN_BYTES, "%" PRIu64 "s", s);
	else if (s < 7200)
		snprintf(buffer, HUMAN_BYTES, "%" PRIu64 "m", s / 60);
	else if (s < 172800)
		snprintf(buffer, HUMAN_BYTES, "%" PRIu64 "h %" PRIu64 "m", s / 3600, s / 60 % 60);
	else
		snprintf(buffer, HUMAN_BYTES, "%" PRIu64 "d", s / 86400);
	return buffer;
}

static void explain(struct identity *identity, const char *what, const char *hint)
{
	const char *failure = identity->info.last_failure;

	snprintf(identity->reason, sizeof(identity->reason), "%s%s%.255s", what, *failure ? ": " : "", failure);
	snprintf(identity->hint, sizeof(identity->hint), "%s", hint);
}

static void judge_overdue(struct identity *identity)
{
	char since[HUMAN_BYTES], left[HUMAN_BYTES], what[128];
	int64_t now = wall_s();

	snprintf(what, sizeof(what), "its renewal is %s late, and it expires in %s",
		 human_seconds(since, (int64_t)distance(identity->info.overdue_since_s, now)),
		 human_seconds(left, (int64_t)distance(now, identity->info.not_after_s)));
	identity->is_usable = true;
	explain(identity, what, "see to its source before the certificate expires: mesh-identity(7)");
}

/* Long before it is overdue: what a source wrote just now cannot be used. */
static void note_failure(struct identity *identity)
{
	const struct mesh_stats_identity *info = &identity->info;
	char ago[HUMAN_BYTES];
	/* In the same second the page does not say which came last, but that nothing is planned. */
	bool is_newest = info->last_failure_s > info->last_renewal_s || (info->last_failure_s == info->last_renewal_s && !info->next_renewal_s);

	if (is_newest && *info->last_failure)
		snprintf(identity->note, sizeof(identity->note), "its last renewal failed %s ago, and what it had stays in use: %.400s",
			 human_seconds(ago, (int64_t)distance(info->last_failure_s, wall_s())), info->last_failure);
}

static void judge(struct identity *identity)
{
	char ago[HUMAN_BYTES], what[128];

	identity->is_usable = false;
	switch (identity->info.state) {
	case MESH_STATS_IDENTITY_OK:
		identity->state = "ok";
		identity->is_usable = true;
		note_failure(identity);
		break;
	case MESH_STATS_IDENTITY_NONE:
		identity->state = "none";
		explain(identity, identity->info.renewals > 0 ? "its source took its identity back: it can talk to nobody" : "its source has given no identity: it can talk to nobody", "is the source there, and does it know this process? mesh-identity(7)");
		break;
	case MESH_STATS_IDENTITY_EXPIRED:
		identity->state = "expired";
		snprintf(what, sizeof(what), "expired %s ago: no new connection can be made",
			 human_seconds(ago, (int64_t)distance(identity->info.not_after_s, wall_s())));
		explain(identity, what, "its source gives nothing new, or the process hangs: mesh-identity(7)");
		break;
	case MESH_STATS_IDENTITY_OVERDUE:
		identity->state = "overdue";
		judge_overdue(identity);
		break;
	case MESH_STATS_IDENTITY_OFF:
		identity->state = "off";
		snprintf(identity->reason, sizeof(identity->reason), "PLAIN TEXT: nothing is encrypted, and nobody shows who he is");
		snprintf(identity->hint, sizeof(identity->hint), "start it without MESH_TLS=off and MESH_IDENTITY=off");
		break;
	default:
		identity->state = "unknown";
		snprintf(identity->reason, sizeof(identity->reason), "a state that this version does not know");
		snprintf(identity->hint, sizeof(identity->hint), "use the mesh command of the same version as the process");
	}
}

void identity_read(const struct counters_process *process, struct identity *identity)
{
	memset(identity, 0, sizeof(*identity));
	identity->process = process;
	identity->info.size = sizeof(identity->info);
	int result = mesh_stats_identity(process->view, &identity->info);
	if (result == 0) {
		judge(identity);
		return;
	}
	identity->info.spiffe_id = identity->info.trust_domain = identity->info.source = "";
	identity->info.serial = identity->info.issuer = identity->info.last_failure = "";
	identity->state = "unknown";
	snprintf(identity->reason, sizeof(identity->reason), "%s",
		 result == MESH_E_NOT_FOUND ? "it has not said who it is" : "its identity cannot be read: it was killed while it wrote, or the file is damaged");
	snprintf(identity->hint, sizeof(identity->hint), "%s",
		 result == MESH_E_NOT_FOUND ? "its libmesh has no identity: start it with a newer one" : "restart it");
}
