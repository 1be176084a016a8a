#ifndef ATTEST_OPERATIONS_H
#define ATTEST_OPERATIONS_H

#include "session.h"

extern const struct operation exec_operation, wait_operation, put_operation, get_operation, connect_operation,
    identity_operation, power_operation, info_operation;

#endif
