/* GET: pack a file or a tree into a tar stream, as far as the host takes it. */
#ifndef ATTEST_GET_H
#define ATTEST_GET_H

#include "session.h"

extern const struct operation get_operation;

#endif
