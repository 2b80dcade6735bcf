#include "base/address.h"

#include "mesh/error.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static int parse_port(const char *text, size_t len, uint16_t *port)
{
	uint32_t value = 0;

	if (len == 0 || len > 5)
		return -1;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -1;
		value = value * 10 + (uint32_t)(text[i] - '0');
	}
	*port = (uint16_t)value;
	return value > 65535 ? -1 : 0;
}

int mesh__address_parse(struct mesh__address *address, const char *text, size_t len, const char **why)
{
	const char *colon = memrchr(text, ':', len);
	bool is_v6 = len && text[0] == '[';
	char host[INET6_ADDRSTRLEN];
	size_t host_len;

	*address = (struct mesh__address){ 0 };
	*why = "expected IP:PORT, or [IPv6]:PORT";
	if (!colon || (is_v6 && (colon == text || colon[-1] != ']')))
		return MESH_E_INVALID;
	host_len = (size_t)(colon - text);
	if (is_v6) {
		text++;
		host_len = host_len < 2 ? 0 : host_len - 2;
	}
	if (parse_port(colon + 1, len - (size_t)(colon + 1 - (is_v6 ? text - 1 : text)), &address->port)) {
		*why = "the port is not a number from 0 to 65535";
		return MESH_E_INVALID;
	}
	if (host_len == 0 || host_len >= sizeof(host))
		return MESH_E_INVALID;
	memcpy(host, text, host_len);
	host[host_len] = '\0';
	if (strlen(host) != host_len || inet_pton(is_v6 ? AF_INET6 : AF_INET, host, address->ip) != 1) {
		*why = is_v6 ? "the part in brackets is not an IPv6 address" : "the host is not an IPv4 address, and names are not looked up";
		return MESH_E_INVALID;
	}
	address->family = is_v6 ? 6 : 4;
	return 0;
}

int mesh__address_parse_endpoint(struct mesh__address *address, const char *text, size_t len, const char **why)
{
	int rc = mesh__address_parse(address, text, len, why);

	if (rc || address->port)
		return rc;
	*why = "nobody can be called at port 0";
	return MESH_E_INVALID;
}

void mesh__address_print(const struct mesh__address *address, char text[MESH__ADDRESS_TEXT_MAX])
{
	char host[INET6_ADDRSTRLEN];

	text[0] = '\0';
	if (address->family == 4 && inet_ntop(AF_INET, address->ip, host, sizeof(host)))
		snprintf(text, MESH__ADDRESS_TEXT_MAX, "%s:%u", host, address->port);
	else if (address->family == 6 && inet_ntop(AF_INET6, address->ip, host, sizeof(host)))
		snprintf(text, MESH__ADDRESS_TEXT_MAX, "[%s]:%u", host, address->port);
}

bool mesh__address_equal(const struct mesh__address *a, const struct mesh__address *b)
{
	return a->family == b->family && a->port == b->port && memcmp(a->ip, b->ip, sizeof(a->ip)) == 0;
}

void mesh__address_from_sockaddr(struct mesh__address *address, const struct sockaddr *from)
{
	struct sockaddr_in6 v6;
	struct sockaddr_in v4;

	*address = (struct mesh__address){ 0 };
	if (from->sa_family == AF_INET) {
		memcpy(&v4, from, sizeof(v4));
		address->family = 4;
		address->port = ntohs(v4.sin_port);
		memcpy(address->ip, &v4.sin_addr, sizeof(v4.sin_addr));
	} else if (from->sa_family == AF_INET6) {
		memcpy(&v6, from, sizeof(v6));
		address->family = 6;
		address->port = ntohs(v6.sin6_port);
		memcpy(address->ip, &v6.sin6_addr, sizeof(v6.sin6_addr));
	}
}

uint32_t mesh__address_to_sockaddr(const struct mesh__address *address, void *storage, size_t capacity)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(address->port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(address->port) };

	memset(storage, 0, capacity);
	if (address->family == 6) {
		memcpy(&v6.sin6_addr, address->ip, sizeof(v6.sin6_addr));
		memcpy(storage, &v6, sizeof(v6));
		return sizeof(v6);
	}
	memcpy(&v4.sin_addr, address->ip, sizeof(v4.sin_addr));
	memcpy(storage, &v4, sizeof(v4));
	return sizeof(v4);
}
