/* IDENTITY: the name, addresses, random numbers and time of a guest that may be the copy of another; copy.c has what such a copy
 * loses. No process is started. */
#ifndef ATTEST_IDENTITY_H
#define ATTEST_IDENTITY_H

#include "session.h"

extern const struct operation identity_operation;

#endif
