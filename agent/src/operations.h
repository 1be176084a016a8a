/* All that a host can ask of the agent. */
#ifndef ATTEST_OPERATIONS_H
#define ATTEST_OPERATIONS_H

#include "session.h"

/* Ends with NULL. */
extern const struct operation *const operations[];

#endif
