/* WAIT: until something is so. What cannot tell of itself is looked at again after a delay that grows. */
#ifndef ATTEST_WAIT_H
#define ATTEST_WAIT_H

#include "session.h"

extern const struct operation wait_operation;

#endif
