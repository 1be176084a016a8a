/* The event loop: descriptors and timers. */
#ifndef ATTEST_LOOP_H
#define ATTEST_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

/* A descriptor and what to do when it is ready. The owner keeps the struct in place until watch_stop() or watch_close().
 * Descriptors 0 to 2 are never watched, so a zeroed struct is one that watches nothing. */
struct watch {
    int fd;
    uint32_t events; /* as epoll has them now */
    void (*ready)(struct watch *watch, uint32_t events);
};

struct timer {
    uint64_t at; /* 0: not set */
    void (*fire)(struct timer *timer);
    struct timer *next, **link;
};

void loop_start(void);

/* Wait at most `limit_ms` (-1: without limit) and handle what is ready; whether there was anything. */
bool loop_turn(int limit_ms);

void watch_start(struct watch *watch, int fd, uint32_t events, void (*ready)(struct watch *, uint32_t));
bool watch_active(const struct watch *watch);
void watch_events(struct watch *watch, uint32_t events);
/* Stop watching; the descriptor stays open. */
void watch_stop(struct watch *watch);
/* Stop watching and close, if it is not closed already. */
void watch_close(struct watch *watch);

/* CLOCK_MONOTONIC. */
uint64_t now_ms(void);
void timer_set(struct timer *timer, uint64_t delay_ms, void (*fire)(struct timer *));
void timer_stop(struct timer *timer);

#endif
