/* INFO: what the agent knows about the guest at once. */
#ifndef ATTEST_INFO_H
#define ATTEST_INFO_H

#include "session.h"

extern const struct operation info_operation;

#endif
