#include <errno.h>

#include "operations.h"

static void connect_open(struct stream *stream, const struct request *request)
{
    (void)request;
    stream_fail(stream, ENOSYS, "not there yet");
}

const struct operation connect_operation = {.number = 5, .fields = "t4", .open = connect_open};
