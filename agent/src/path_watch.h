/* Telling that something may have happened to a path, by inotify on it or on the nearest directory above that exists. */
#ifndef ATTEST_PATH_WATCH_H
#define ATTEST_PATH_WATCH_H

#include <stdbool.h>

struct path_watch {
    const char *path; /* absolute; stays the caller's */
    int descriptor;
    bool touched;
    void (*changed)(struct path_watch *watch);
    struct path_watch *next;
};

/* Look at the path after this call, not before: what happens from here on is told. */
void path_watch_start(struct path_watch *watch, const char *path, void (*changed)(struct path_watch *));
/* Again, after a change: the directories above may be others now. */
void path_watch_renew(struct path_watch *watch);
void path_watch_stop(struct path_watch *watch);

#endif
