#include <errno.h>

#include "operations.h"

static void wait_open(struct stream *stream, const struct request *request)
{
    (void)request;
    stream_fail(stream, ENOSYS, "not there yet");
}

const struct operation wait_operation = {.number = 2, .fields = "4t484t", .open = wait_open};
