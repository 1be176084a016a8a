/* Watching and killing processes. */
#ifndef ATTEST_CHILD_H
#define ATTEST_CHILD_H

#include <sys/types.h>

struct child {
    pid_t pid; /* 0: not watched */
    void (*exited)(struct child *child, int status);
    struct child *next;
};

void child_watch(struct child *child, pid_t pid, void (*exited)(struct child *, int));
void child_forget(struct child *child);

/* Collect processes that have ended, those nobody watches too. Called after SIGCHLD. */
void children_reap(void);

/* A process says that it is about to exit with this code, and holds nothing any more but its memory. */
void child_ends(pid_t pid, int code);
/* Return when all who said so are gone, so that what comes next finds them gone. */
void children_settle(void);

/* SIGKILL for the process group of a session's leader and every process of its session. */
void kill_session(pid_t leader);

#endif
