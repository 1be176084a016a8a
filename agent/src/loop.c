#include "loop.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64 };

static int epoll_fd = -1;
static struct epoll_event batch[BATCH];
static int batch_at, batch_size;
static struct timer *timers; /* soonest first */

void loop_start(void)
{
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) {
        perror("attest-agent: epoll_create1");
        exit(1);
    }
}

void watch_start(struct watch *watch, int fd, uint32_t events, void (*ready)(struct watch *, uint32_t))
{
    *watch = (struct watch){.fd = fd, .events = events, .ready = ready};
    struct epoll_event event = {.events = events, .data.ptr = watch};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        perror("attest-agent: epoll_ctl");
        abort();
    }
}

bool watch_active(const struct watch *watch)
{
    return watch->fd > 0;
}

void watch_events(struct watch *watch, uint32_t events)
{
    if (!watch_active(watch) || watch->events == events)
        return;
    watch->events = events;
    struct epoll_event event = {.events = events, .data.ptr = watch};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, watch->fd, &event);
}

void watch_stop(struct watch *watch)
{
    if (!watch_active(watch))
        return;
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    /* Its event may be in the batch that is being handled, and its memory gone by then. */
    for (int i = batch_at; i < batch_size; i++)
        if (batch[i].data.ptr == watch)
            batch[i].data.ptr = NULL;
    watch->fd = 0;
}

void watch_close(struct watch *watch)
{
    int fd = watch->fd;
    watch_stop(watch);
    if (fd > 0)
        close(fd);
}

uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void timer_set(struct timer *timer, uint64_t delay_ms, void (*fire)(struct timer *))
{
    timer_stop(timer);
    uint64_t now = now_ms();
    timer->at = delay_ms > UINT64_MAX - now ? UINT64_MAX : now + delay_ms;
    timer->fire = fire;
    struct timer **link = &timers;
    while (*link && (*link)->at <= timer->at)
        link = &(*link)->next;
    timer->next = *link;
    timer->link = link;
    if (timer->next)
        timer->next->link = &timer->next;
    *link = timer;
}

void timer_stop(struct timer *timer)
{
    if (!timer->link)
        return;
    *timer->link = timer->next;
    if (timer->next)
        timer->next->link = timer->link;
    timer->link = NULL;
    timer->at = 0;
}

static int wait_ms(int limit_ms)
{
    if (!timers)
        return limit_ms;
    uint64_t now = now_ms();
    uint64_t left = timers->at > now ? timers->at - now : 0;
    if (left > INT_MAX)
        left = INT_MAX;
    return limit_ms < 0 || (int)left < limit_ms ? (int)left : limit_ms;
}

static bool fire_timers(void)
{
    uint64_t now = timers ? now_ms() : 0;
    bool fired = false;
    while (timers && timers->at <= now) {
        struct timer *timer = timers;
        timer_stop(timer);
        timer->fire(timer);
        fired = true;
    }
    return fired;
}

bool loop_turn(int limit_ms)
{
    int count = epoll_wait(epoll_fd, batch, BATCH, wait_ms(limit_ms));
    if (count < 0 && errno != EINTR) {
        perror("attest-agent: epoll_wait");
        exit(1);
    }
    batch_size = count < 0 ? 0 : count;
    for (batch_at = 0; batch_at < batch_size; batch_at++) {
        struct watch *watch = batch[batch_at].data.ptr;
        if (watch)
            watch->ready(watch, batch[batch_at].events);
    }
    batch_size = batch_at = 0;
    return fire_timers() || count > 0;
}
