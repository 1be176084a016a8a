/* What went wrong first, among steps of which each is about something else. */
#ifndef ATTEST_FAILURE_H
#define ATTEST_FAILURE_H

#include <stdbool.h>

struct failure {
    char subject[128]; /* what the step was about */
    int error;         /* an errno; 0: nothing went wrong */
};

/* Note an errno, unless it is 0; whether it is not. */
bool failure_note(struct failure *failure, const char *subject, int error);

#endif
