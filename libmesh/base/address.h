/* An IP address with a port, small enough to have a hundred thousand of. */
#ifndef MESH_BASE_ADDRESS_H
#define MESH_BASE_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sockaddr;

enum { MESH__ADDRESS_TEXT_MAX = 64 };

struct mesh__address {
	uint8_t family; /* 4 or 6; 0: none */
	uint8_t reserved;
	uint16_t port;  /* host order */
	uint8_t ip[16]; /* network order; IPv4 in the first four */
};

/* "10.0.0.4:9000" or "[::1]:9000"; only literals. Returns 0 or MESH_E_INVALID with *why set to a static phrase. */
int mesh__address_parse(struct mesh__address *address, const char *text, size_t len, const char **why);
/* The same for an endpoint: port 0, with which a listener takes a free one, cannot be called. */
int mesh__address_parse_endpoint(struct mesh__address *address, const char *text, size_t len, const char **why);
void mesh__address_print(const struct mesh__address *address, char text[MESH__ADDRESS_TEXT_MAX]);
bool mesh__address_equal(const struct mesh__address *a, const struct mesh__address *b);
void mesh__address_from_sockaddr(struct mesh__address *address, const struct sockaddr *from);
uint32_t mesh__address_to_sockaddr(const struct mesh__address *address, void *storage, size_t capacity); /* the length */

#endif
