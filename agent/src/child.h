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

/* SIGKILL for the process group of a session's leader and every process of its session. */
void kill_session(pid_t leader);

#endif
