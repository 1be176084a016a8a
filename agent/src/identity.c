#include <errno.h>

#include "operations.h"

static void identity_open(struct stream *stream, const struct request *request)
{
    (void)request;
    stream_fail(stream, ENOSYS, "not there yet");
}

const struct operation identity_operation = {.number = 6, .fields = "tttTb8", .open = identity_open};
