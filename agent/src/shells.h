/* Shells that were started beforehand and wait for a command. */
#ifndef ATTEST_SHELLS_H
#define ATTEST_SHELLS_H

#include <stdbool.h>

#include "spawn.h"

/* Hand the command to a waiting shell. False: there is none that would run it as a fresh one does. */
bool shells_take(const char *command, struct running *running);

/* Whether there are any. */
bool shells_waiting(void);

/* Whether there are fewer than there should be, and the start of one more: for when the loop has nothing else to do. */
bool shells_wanting(void);
void shells_add(void);

#endif
