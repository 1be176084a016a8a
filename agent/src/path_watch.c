#include "path_watch.h"

#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "loop.h"
#include "memory.h"

enum { RENEWALS_MAX = 16 };

static const uint32_t mask = IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF |
                             IN_ATTRIB | IN_ONLYDIR;

static struct watch inotify; /* one instance for all: a user may have few */
static struct path_watch *watches;

static void mark_touched(int descriptor)
{
    for (struct path_watch *watch = watches; watch; watch = watch->next)
        watch->touched |= descriptor < 0 || watch->descriptor == descriptor;
}

static struct path_watch *next_touched(void)
{
    struct path_watch *watch = watches;
    while (watch && !watch->touched)
        watch = watch->next;
    return watch;
}

static void inotify_ready(struct watch *ready, uint32_t events)
{
    static union {
        struct inotify_event event;
        char bytes[16384];
    } batch;
    ssize_t got;
    (void)events;
    while ((got = read(ready->fd, &batch, sizeof batch)) > 0) {
        for (char *at = batch.bytes; at < batch.bytes + got;) {
            const struct inotify_event *event = (const struct inotify_event *)(const void *)at;
            mark_touched(event->mask & IN_Q_OVERFLOW ? -1 : event->wd);
            at += sizeof *event + event->len;
        }
    }
    for (struct path_watch *watch; (watch = next_touched());) {
        watch->touched = false;
        watch->changed(watch); /* may stop this one and others */
    }
}

static bool is_shared(const struct path_watch *watch)
{
    for (struct path_watch *other = watches; other; other = other->next)
        if (other != watch && other->descriptor == watch->descriptor)
            return true;
    return false;
}

static void release_descriptor(struct path_watch *watch)
{
    if (watch->descriptor >= 0 && !is_shared(watch))
        inotify_rm_watch(inotify.fd, watch->descriptor);
    watch->descriptor = -1;
}

/* Watch the nearest directory above the path that exists. Whether it is the last but one of the path. */
static bool watch_nearest(struct path_watch *watch)
{
    char *directory = copy_text(watch->path, strlen(watch->path));
    bool direct = true;
    release_descriptor(watch);
    for (char *slash; (slash = strrchr(directory, '/')); direct = false) {
        slash[slash == directory] = 0;
        watch->descriptor = inotify_add_watch(inotify.fd, directory, mask);
        if (watch->descriptor >= 0 || slash == directory)
            break;
    }
    free(directory);
    return direct;
}

void path_watch_renew(struct path_watch *watch)
{
    /* A directory may have appeared between the failed try and the one above it: until the same one answers twice. */
    int before = -2;
    for (int i = 0; i < RENEWALS_MAX; i++) {
        if (watch_nearest(watch) || watch->descriptor == before)
            return;
        before = watch->descriptor;
    }
}

void path_watch_start(struct path_watch *watch, const char *path, void (*changed)(struct path_watch *))
{
    if (!watch_active(&inotify)) {
        int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        if (fd >= 0)
            watch_start(&inotify, fd, EPOLLIN, inotify_ready);
    }
    *watch = (struct path_watch){.path = path, .descriptor = -1, .changed = changed, .next = watches};
    watches = watch;
    path_watch_renew(watch);
}

void path_watch_stop(struct path_watch *watch)
{
    for (struct path_watch **at = &watches; *at; at = &(*at)->next) {
        if (*at == watch) {
            *at = watch->next;
            release_descriptor(watch);
            return;
        }
    }
}
