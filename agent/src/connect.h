/* CONNECT: a connection from inside the guest, carried over a stream. */
#ifndef ATTEST_CONNECT_H
#define ATTEST_CONNECT_H

#include "session.h"

extern const struct operation connect_operation;

#endif
