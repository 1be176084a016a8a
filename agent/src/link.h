/* One connection to a host: bytes in through the frame parser, frames out through a buffer. */
#ifndef ATTEST_LINK_H
#define ATTEST_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "frame.h"
#include "loop.h"
#include "memory.h"

struct link {
    struct watch watch;
    /* A virtio-serial port, which stays open while hosts come and go; else a socket. Told when the device is gone. */
    void (*unplugged)(void);
    struct parser parser;
    struct buffer out;
    bool stalled; /* writing would block */
    bool closed;  /* freed by the next links_flush() */
    struct link *next;
};

/* What is above the links: it is told of each of them. */
struct link_handler {
    void (*frame)(struct link *link, const struct frame *frame);
    /* What came is no frame, and why. The parser looks for a HELLO. */
    void (*error)(struct link *link, const char *text);
    /* Its host is gone. */
    void (*lost)(struct link *link);
    /* link_congested() is no longer so. */
    void (*resume)(struct link *link);
    /* Whether it is in use: then it does not make room for newer ones. */
    bool (*in_use)(const struct link *link);
};

/* Before the first link_open(); the handler stays the caller's. */
void links_start(const struct link_handler *handler);

/* Take over a descriptor (non-blocking, close-on-exec). `unplugged` is NULL for a socket. */
void link_open(int fd, void (*unplugged)(void));
/* End a connection from this side; a port stays open and looks for a HELLO. */
void link_drop(struct link *link);

void link_send(struct link *link, enum frame_type type, uint8_t flags, uint32_t stream, const void *payload,
               size_t size);
/* A DATA frame whose payload is read from a descriptor: what read() returned; no frame goes out unless it is positive. */
ssize_t link_send_from(struct link *link, uint8_t channel, uint32_t stream, int fd, size_t limit);

/* So much is waiting to be written that operations should send no more DATA. */
bool link_congested(const struct link *link);

/* Write what is waiting, on all links: called between turns, so that the frames of one turn leave together. */
void links_flush(void);

#endif
