#include <errno.h>

#include "operations.h"

static void put_open(struct stream *stream, const struct request *request)
{
    (void)request;
    stream_fail(stream, ENOSYS, "not there yet");
}

const struct operation put_operation = {.number = 3, .fields = "tt", .open = put_open};
