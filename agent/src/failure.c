#include "failure.h"

#include <stdio.h>

bool failure_note(struct failure *failure, const char *subject, int error)
{
    if (error && !failure->error) {
        snprintf(failure->subject, sizeof failure->subject, "%s", subject);
        failure->error = error;
    }
    return error != 0;
}
