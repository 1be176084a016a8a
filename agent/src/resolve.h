/* Addresses, from numbers and /etc/hosts alone: a name server could keep the loop waiting. */
#ifndef ATTEST_RESOLVE_H
#define ATTEST_RESOLVE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct address {
    struct sockaddr_storage socket;
    socklen_t size;
};

enum { ADDRESSES_MAX = 16 };

/* Those of a host, of which each is tried until one accepts. */
struct addresses {
    struct address each[ADDRESSES_MAX];
    unsigned count, next;
};

/* False when the host is neither a number, in square brackets or not, nor in /etc/hosts. */
bool resolve_addresses(const char *host, uint16_t port, struct addresses *addresses);
/* A socket on which a connection to the next address is under way, or was made: `error` is EINPROGRESS or 0 then. -1: no
 * address is left, and `error` says why the last one failed. */
int connect_next(struct addresses *addresses, int *error);
/* False when the path is too long. */
bool unix_address(const char *path, struct address *address);

#endif
