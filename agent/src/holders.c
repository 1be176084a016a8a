#include "holders.h"

#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "memory.h"
#include "system.h"

enum { NAMED_MAX = 5, TEXT_SIZE = 512 };

struct holders {
    size_t count;
    char named[TEXT_SIZE]; /* the first of them */
};

/* What the links in /proc/PID/fd of those say that hold the other end. */
static bool other_end(int fd, char *target, size_t size)
{
    char path[64];
    int terminal;
    if (ioctl(fd, TIOCGPTN, &terminal) == 0)
        return snprintf(target, size, "/dev/pts/%d", terminal) > 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(path, target, size - 1); /* "pipe:[INODE]", the same for both ends */
    target[length > 0 ? length : 0] = 0;
    return length > 0;
}

static bool process_holds(const char *pid, const char *target)
{
    char path[300], found[PATH_MAX];
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *descriptors = opendir(path);
    bool holds = false;
    for (struct dirent *entry; descriptors && !holds && (entry = readdir(descriptors));) {
        ssize_t length = readlinkat(dirfd(descriptors), entry->d_name, found, sizeof found - 1);
        found[length > 0 ? length : 0] = 0;
        holds = strcmp(found, target) == 0;
    }
    if (descriptors)
        closedir(descriptors);
    return holds;
}

static void name_holder(struct holders *holders, const char *pid)
{
    char path[300], name[64];
    size_t used = strlen(holders->named);
    if (holders->count++ >= NAMED_MAX)
        return;
    snprintf(path, sizeof path, "/proc/%s/comm", pid);
    snprintf(holders->named + used, sizeof holders->named - used, "%s%s (%s)", used ? ", " : "", pid,
             read_line(path, name, sizeof name));
}

static void find_holders(struct holders *holders, const char *target)
{
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc && (entry = readdir(proc));)
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && atoi(entry->d_name) != getpid() &&
            process_holds(entry->d_name, target))
            name_holder(holders, entry->d_name);
    if (proc)
        closedir(proc);
}

char *holders_text(int fd)
{
    char target[64];
    struct holders holders = {0};
    if (other_end(fd, target, sizeof target))
        find_holders(&holders, target);
    if (!holders.count)
        return format_text("something holds");
    if (holders.count == 1)
        return format_text("process %s holds", holders.named);
    if (holders.count <= NAMED_MAX)
        return format_text("processes %s hold", holders.named);
    return format_text("processes %s and %zu more hold", holders.named, holders.count - NAMED_MAX);
}
