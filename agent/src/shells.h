/* A shell that has been started beforehand, and forks for each command. */
#ifndef ATTEST_SHELLS_H
#define ATTEST_SHELLS_H

#include <stdbool.h>

#include "spawn.h"

enum {
    COMMAND_MAX = 4096, /* with its NUL */
    SHELL_SOCKET = 3,   /* what a shell that the agent talks to has it on */
};

#define SHELL_DIRECTORY "/tmp" /* where it runs */

/* Run the command in a fork, as by `bash -euo pipefail -c COMMAND`. False: there is none that would run it as a fresh shell
 * does. */
bool shells_take(const char *command, bool takes_input, struct running *running);

/* An operation has ended, after which a fresh shell may be another than before. */
void shells_doubt(void);

/* Whether something could be prepared for the next command, and doing so: for when the loop has nothing else to do. */
bool shells_wanting(void);
void shells_prepare(void);

#endif
