#include <errno.h>

#include "operations.h"

static void get_open(struct stream *stream, const struct request *request)
{
    (void)request;
    stream_fail(stream, ENOSYS, "not there yet");
}

const struct operation get_operation = {.number = 4, .fields = "t", .open = get_open};
