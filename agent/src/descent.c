#include "descent.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "session.h"

enum { SHOWN_MAX = 300 };

bool descent_name(struct descent *descent, const char *name)
{
    size_t start = descent->level ? descent->level->length : 0, length = strlen(name);
    if (start + 1 + length > TAR_PATH_MAX)
        return false;
    if (descent->level)
        descent->path[start++] = '/';
    memcpy(descent->path + start, name, length + 1);
    return true;
}

int descent_enter(struct descent *descent, struct level *level, int fd, const char *name)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return errno;
    if (!descent_name(descent, name))
        return ENAMETOOLONG;
    *level = (struct level){descent->level, status.st_dev, status.st_ino, strlen(descent->path)};
    if (descent->level)
        close(descent->fd);
    descent->level = level;
    descent->fd = fd;
    return 0;
}

/* Somebody may have moved a directory meanwhile: then `..` leads out of the tree. */
static int open_above(const struct level *level, int fd)
{
    struct stat status;
    int above = openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (above < 0)
        return -1;
    if (fstat(above, &status) == 0 && status.st_dev == level->device && status.st_ino == level->inode)
        return above;
    close(above);
    errno = ESTALE;
    return -1;
}

int descent_leave(struct descent *descent)
{
    struct level *above = descent->level->up;
    int fd = above ? open_above(above, descent->fd) : -1;
    int error = above && fd < 0 ? errno : 0;
    close(descent->fd);
    descent->fd = fd;
    descent->level = above;
    descent->path[above ? above->length : 0] = 0;
    return error;
}

void fail_at(struct stream *stream, const char *path, int error, const char *reason)
{
    size_t length = strlen(path);
    const char *end = length > SHOWN_MAX ? path + length - SHOWN_MAX : path;
    stream_fail(stream, error, "%s%s: %s", end == path ? "" : "...", end, reason ? reason : strerror(error));
}
