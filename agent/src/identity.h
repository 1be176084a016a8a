/* The parts of IDENTITY. */
#ifndef ATTEST_IDENTITY_H
#define ATTEST_IDENTITY_H

#include <stdbool.h>

/* What went wrong first, and with what. */
struct failure {
    char subject[128];
    int error;
};

/* Note an errno, unless it is 0; whether it is not. */
bool failed(struct failure *failure, const char *subject, int error);

/* Remove what every copy of a guest would share: leases of DHCP clients, and the seed for the next boot. */
void forget_original(struct failure *failure);

/* The paths of the SSH host keys that are there, a line each, for free(); NULL when there are none. */
char *ssh_host_keys(struct failure *failure);

/* Put key pairs in their places, as the request has them: their texts end with NULL and are changed. */
void set_ssh_host_keys(char **keys, struct failure *failure);

#endif
