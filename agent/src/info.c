#include "info.h"

#include <stdlib.h>
#include <time.h>

#include "loop.h"
#include "memory.h"
#include "system.h"

static void info_open(struct stream *stream, const struct request *request)
{
    (void)request;
    struct timespec up, real;
    clock_gettime(CLOCK_BOOTTIME, &up);
    clock_gettime(CLOCK_REALTIME, &real);
    char *value = format_text("uptime_ms=%lld\nboot_id=%s\noperations=%zu\nrealtime_ns=%lld\n",
                              (long long)up.tv_sec * 1000 + up.tv_nsec / 1000000,
                              boot_id(), session_operations() - 1, (long long)real.tv_sec * 1000000000 + real.tv_nsec);
    stream_end(stream, &(struct outcome){.status = DONE, .value = value});
    free(value);
}

const struct operation info_operation = {.number = 8, .fields = "", .keeps_shells = true, .open = info_open};
