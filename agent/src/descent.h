/* A way down into a tree: one open directory, and how to get back up from it. Only one descriptor is held, however deep. */
#ifndef ATTEST_DESCENT_H
#define ATTEST_DESCENT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "tar_format.h"

struct stream;

/* A directory on the way; its owner allocates and frees it. */
struct level {
    struct level *up;
    dev_t device;
    ino_t inode;
    size_t length; /* of its path */
};

/* A new one is all zero bytes. */
struct descent {
    int fd; /* of the last level, when there is one */
    struct level *level;
    char path[TAR_PATH_MAX + 1]; /* of the last level, or of what descent_name() named in it */
};

/* Make `path` that of an entry of the last level, or of the top. False: it would be too long. */
bool descent_name(struct descent *descent, const char *name);

/* Go down into a directory of that name, which is open as `fd`. 0, or an errno and `fd` and `level` are still the caller's. */
int descent_enter(struct descent *descent, struct level *level, int fd, const char *name);

/* Go up, also when that fails: with 0, or an errno when the directory above is not the one that it was. Then, as at the
 * top, no directory is open. */
int descent_leave(struct descent *descent);

/* End a stream because of an errno, or for a reason in words, at a path. */
void fail_at(struct stream *stream, const char *path, int error, const char *reason);

#endif
