/* What a guest that is the copy of another has of it, and must not keep: leases, a seed, SSH host keys. */
#ifndef ATTEST_COPY_H
#define ATTEST_COPY_H

#include "failure.h"

/* Remove what every copy of a guest would share: leases of DHCP clients, and the seed for the next boot. */
void forget_original(struct failure *failure);

/* The paths of the SSH host keys that are there, a line each, for free(); NULL when there are none. */
char *ssh_host_keys(struct failure *failure);

/* Put key pairs in their places, as the request has them: their texts end with NULL and are changed. */
void set_ssh_host_keys(char **keys, struct failure *failure);

#endif
