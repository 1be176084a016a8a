/* The states of systemd's units, as systemd itself tells them on its private socket. */
#ifndef ATTEST_UNIT_H
#define ATTEST_UNIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loop.h"

enum { UNIT_CALLS_MAX = 6, STATE_SIZE = 40 };

struct unit {
    const char *name, *wanted; /* the caller's: with its suffix; the ActiveState that it waits for */
    void (*changed)(struct unit *unit);
    /* What systemd says; `known` once it has said it. Of a unit that is as wanted it may have been asked for `active` alone. */
    bool known;
    char load[STATE_SIZE], active[STATE_SIZE], sub[STATE_SIZE], result[STATE_SIZE];
    int32_t main_status; /* -1: not a service */
    bool has_job;
    /* Known when the unit is inactive or failed, and that is not what is wanted: */
    uint32_t jobs; /* of all units */
    bool started;  /* systemd has finished its start-up */
    char refusal[160]; /* systemd has no such unit and will not, and why */
    /* This module's own. */
    char *path;
    uint32_t calls[UNIT_CALLS_MAX]; /* serials under way, 0 when answered */
    bool dirty, whole, complete;
    struct timer reload; /* a look that waits */
    uint64_t reload_ms;
    struct unit *next;
};

/* Follow a unit: changed() is called when its state is known and whenever it may be another. */
void unit_follow(struct unit *unit, const char *name, const char *wanted, void (*changed)(struct unit *));
void unit_leave(struct unit *unit);
/* systemd has been asked, and has not answered yet. */
bool unit_is_looked_at(const struct unit *unit);

/* Why nothing is known: the state of the connection to systemd. */
const char *unit_trouble(void);

#endif
