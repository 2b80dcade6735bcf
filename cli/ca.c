/* mesh ca: a certificate authority without having to learn openssl, for tests and small installations. */
#include "command.h"
#include "identity.h"
#include "output.h"
#include "session.h"

#include "mesh/identity.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct ca_args {
	const char *dir, *domain, *out;
	struct arg_list dns;
	uint64_t lifetime_ns;
	bool is_json;
};

static const struct arg args[] = {
	{ "dir", 0, ARG_TEXT, offsetof(struct ca_args, dir), "DIR", "the authority's directory; that of identity local:\nif not given", 0, 0 },
	{ "domain", 0, ARG_TEXT, offsetof(struct ca_args, domain), "DOMAIN", "init: the trust domain; option trust.domain if not given", 0, 0 },
	{ "out", 'o', ARG_TEXT, offsetof(struct ca_args, out), "DIR", "issue: where tls.crt, tls.key and ca.crt go; ID's last part\nif not given", 0, 0 },
	{ "dns", 0, ARG_LIST, offsetof(struct ca_args, dns), "NAME", "issue: a DNS name, for clients that know no SPIFFE; may be\nrepeated. ID's last part and localhost if not given", 0, 0 },
	{ "lifetime", 0, ARG_DURATION, offsetof(struct ca_args, lifetime_ns), "TIME", "issue: how long it is valid; option identity.lifetime if\nnot given",
	  1, 315360000 },
	{ "json", 0, ARG_FLAG, offsetof(struct ca_args, is_json), NULL, "print as JSON", 0, 0 },
	{ 0 },
};

static int fail(const struct mesh_error *err, bool is_json)
{
	int status = err->code == MESH_E_NOT_FOUND ? EXIT_UNREACHABLE : session_status(err);

	if (is_json)
		print_json(json_pack("{s:o}", "error", json_error(err)));
	else
		session_complain(err);
	return status;
}

static int print_info(const struct mesh_ca_info *info, bool is_json)
{
	char from[WALL_TIME_BYTES], until[WALL_TIME_BYTES], dir[2048];
	long long days = ((long long)info->not_after_s - (long long)time(NULL)) / 86400;

	wall_time(from, info->not_before_s);
	wall_time(until, info->not_after_s);
	if (is_json)
		return print_json(json_pack("{s:o, s:s, s:s, s:s, s:s, s:s, s:I, s:i}", "dir", json_text(info->dir, strlen(info->dir)), "trust_domain", info->domain,
					    "subject", info->subject, "serial", info->serial, "not_before", from, "not_after", until, "days_left",
					    (json_int_t)days, "certificates", (int)info->certificate_count));
	printf("trust domain  %s\n", info->domain);
	printf("directory     %s\n", escape(dir, sizeof(dir), info->dir));
	printf("subject       %s\n", info->subject);
	printf("serial        %s\n", info->serial);
	printf("valid         %s to %s (%lld days left)\n", from, until, days);
	if (info->certificate_count > 1)
		printf("certificates  %u: the first signs, all are trusted\n", (unsigned)info->certificate_count);
	return EXIT_DONE;
}

static int show(const struct ca_args *given)
{
	struct mesh_ca_info info = MESH_CA_INFO_INIT;
	struct mesh_error err = MESH_ERROR_INIT;

	return mesh_ca_show(given->dir, &info, &err) ? fail(&err, given->is_json) : print_info(&info, given->is_json);
}

static int init(const struct ca_args *given)
{
	struct mesh_error err = MESH_ERROR_INIT;

	return mesh_ca_init(given->dir, given->domain, &err) ? fail(&err, given->is_json) : show(given);
}

static const char *last_part(const char *id)
{
	const char *slash = strrchr(id, '/');

	return slash ? slash + 1 : id;
}

static bool looks_like_dns(const char *name)
{
	size_t len = strlen(name);

	return len > 0 && len <= 63 && strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == len && name[0] != '-' &&
	       name[len - 1] != '-' && strspn(name, "0123456789") < len && strcspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") < len;
}

static int issue(const struct ca_args *given, const char *id)
{
	struct mesh_ca_issue_options opts = MESH_CA_ISSUE_OPTIONS_INIT;
	struct mesh_error err = MESH_ERROR_INIT;
	const char *usual[2] = { "localhost", last_part(id) };
	char where[2048];

	opts.id = id;
	opts.out_dir = given->out ? given->out : last_part(id);
	opts.dns = given->dns.count ? given->dns.items : usual;
	opts.dns_count = given->dns.count ? (uint32_t)given->dns.count : looks_like_dns(usual[1]) && strcmp(usual[1], usual[0]) != 0 ? 2 : 1;
	opts.lifetime_s = (int64_t)(given->lifetime_ns / UINT64_C(1000000000));
	if (mesh_ca_issue(given->dir, &opts, &err))
		return fail(&err, given->is_json);
	if (given->is_json)
		return print_json(json_pack("{s:o, s:[s, s, s]}", "dir", json_text(opts.out_dir, strlen(opts.out_dir)), "files", "tls.key", "tls.crt", "ca.crt"));
	escape(where, sizeof(where), opts.out_dir);
	printf("%s/tls.key, tls.crt and ca.crt are written.\n", where);
	printf("Use them:  MESH_IDENTITY=file:%s%s mesh serve NAME\n", *where == '/' ? "" : "\"$PWD\"/", where);
	return EXIT_DONE;
}

static int act(const struct ca_args *given, char **operands, int count)
{
	static const char *const actions[] = { "init", "issue", "show", NULL };

	if (count == 0) {
		complain("what is to be done? init, issue or show: `mesh help ca` tells more");
		return EXIT_USAGE;
	}
	if (strcmp(operands[0], "issue") == 0) {
		if (count == 2 && *operands[1])
			return issue(given, operands[1]);
		complain("issue needs one ID: a service's name, /PATH or spiffe://DOMAIN/PATH");
		return EXIT_USAGE;
	}
	if (strcmp(operands[0], "init") && strcmp(operands[0], "show")) {
		const char *nearest = args_nearest(operands[0], actions);
		complain("no such action: %s: %s%s%s", operands[0], nearest ? "did you mean `mesh ca " : "init, issue or show", nearest ? nearest : "", nearest ? "`?" : "");
		return EXIT_USAGE;
	}
	if (count > 1) {
		complain("%s takes no %s: did you mean --dir %s?", operands[0], operands[1], operands[1]);
		return EXIT_USAGE;
	}
	return operands[0][0] == 'i' ? init(given) : show(given);
}

static int run(const struct command *cmd, int argc, char **argv)
{
	struct ca_args given = { 0 };
	int first, status;
	enum args_result result = args_parse(cmd, argc, argv, &given, &first);

	if (result == ARGS_GO)
		status = act(&given, argv + first, argc - first);
	else
		status = result == ARGS_DONE ? EXIT_DONE : EXIT_USAGE;
	args_list_free(&given.dns);
	return status;
}

const struct command command_ca = {
	"ca", "ACTION [ID]", "init, issue, show: a certificate authority for tests and small installations",
	"  mesh ca init --dir ./ca --domain prod.example\n"
	"  mesh ca issue users --dir ./ca -o ./users        spiffe://prod.example/ns/default/sa/users\n"
	"  mesh ca issue /job/7 --dir ./ca -o ./job         spiffe://prod.example/job/7\n"
	"  mesh ca show --dir ./ca\n\n"
	"Whoever can read ca.key can be anybody in its trust domain: it and its directory are private (0600, 0700),\n"
	"and refused if they are not. An authority is never overwritten.\n",
	args, run, false
};
