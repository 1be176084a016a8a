/* EXEC: run a command, with its input, output and end. */
#ifndef ATTEST_EXEC_H
#define ATTEST_EXEC_H

#include "session.h"

extern const struct operation exec_operation;

#endif
