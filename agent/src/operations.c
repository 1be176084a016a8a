#include "operations.h"

#include <stddef.h>

#include "connect.h"
#include "exec.h"
#include "get.h"
#include "identity.h"
#include "info.h"
#include "power.h"
#include "put.h"
#include "wait.h"

const struct operation *const operations[] = {
    &exec_operation,    &wait_operation,     &put_operation,   &get_operation,
    &connect_operation, &identity_operation, &power_operation, &info_operation, NULL,
};
