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

bool resolve_address(const char *host, uint16_t port, struct address *address);
/* False when the path is too long. */
bool unix_address(const char *path, struct address *address);

#endif
