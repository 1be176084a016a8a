#include <errno.h>

#include "operations.h"

static void power_open(struct stream *stream, const struct request *request)
{
    (void)request;
    stream_fail(stream, ENOSYS, "not there yet");
}

const struct operation power_operation = {.number = 7, .fields = "4", .open = power_open};
