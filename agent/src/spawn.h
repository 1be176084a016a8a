/* Starting processes. */
#ifndef ATTEST_SPAWN_H
#define ATTEST_SPAWN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "account.h"

struct spawn {
    const char *program; /* a path, or a name that is looked up in the environment's PATH */
    char *const *arguments;
    char *const *environment;
    const char *directory;
    const struct account *account; /* NULL: as the agent is */
    int extra;                     /* becomes descriptor 3, when positive */
    /* Set when it fails. */
    int failure;
    const char *failed_step;
    /* What becomes 0, 1, 2: set by spawn_on_pipes() and spawn_on_terminal(). */
    int input, output, error;
    bool terminal;
};

/* A process, the leader of its own session, and the agent's ends of its descriptors (-1: none). */
struct running {
    pid_t pid;
    int input, output, error;
};

/* Start a program. It has been executed when this returns true; when not, `failure` and `failed_step` say why. */
bool spawn_on_pipes(struct spawn *spawn, bool takes_input, struct running *running);
/* The same with what `start` starts, given the ends that become its descriptors; -1: it could not. */
bool start_on_pipes(struct running *running, bool takes_input, pid_t (*start)(const int ends[3], void *context), void *context);
/* The same on the descriptors that are named in it: the process ID, or -1. */
pid_t spawn_on_descriptors(struct spawn *spawn);
/* Likewise on a new controlling terminal, whose master side is `output`. */
bool spawn_on_terminal(struct spawn *spawn, uint16_t rows, uint16_t columns, struct running *running);
void running_close(struct running *running);

/* Remember the limits of commands, and raise the agent's own. */
void spawn_prepare(void);

#endif
