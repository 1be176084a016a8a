#include "link.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    READ_SIZE = 65536,
    CONGESTED = 1 << 20, /* operations stop sending DATA */
    OVERFULL = 4 << 20,  /* a host that sends and does not read: nothing is read from it either */
    LINKS_MAX = 16,
};

static const struct link_handler *handler;
static struct link *links; /* newest first */

static const uint32_t edge_events = EPOLLIN | EPOLLRDHUP | EPOLLET;

void links_start(const struct link_handler *above)
{
    handler = above;
}

static void link_close(struct link *link)
{
    handler->lost(link);
    watch_close(&link->watch);
    link->closed = true;
}

static void links_reap(void)
{
    for (struct link **at = &links; *at;) {
        struct link *link = *at;
        if (!link->closed) {
            at = &link->next;
            continue;
        }
        *at = link->next;
        parser_free(&link->parser);
        buffer_free(&link->out);
        free(link);
    }
}

/* Whether the link is still good. */
static bool link_write(struct link *link)
{
    while (buffer_size(&link->out) && !link->stalled) {
        ssize_t put = write(link->watch.fd, link->out.bytes + link->out.start, buffer_size(&link->out));
        if (put < 0 && errno == EAGAIN)
            link->stalled = true;
        else if (put < 0 && errno != EINTR)
            return false;
        else if (put > 0)
            buffer_take(&link->out, (size_t)put);
    }
    watch_events(&link->watch, edge_events | (link->stalled ? EPOLLOUT : 0));
    return true;
}

void link_drop(struct link *link)
{
    if (!link->unplugged) {
        link_write(link);
        link_close(link);
        return;
    }
    handler->lost(link);
    parser_desync(&link->parser);
    buffer_free(&link->out);
}

static void link_parse(struct link *link, const uint8_t *data, size_t size)
{
    struct frame frame;
    enum parse_result result;
    while ((result = parser_next(&link->parser, &data, &size, &frame)) != PARSE_MORE) {
        if (result == PARSE_FRAME)
            handler->frame(link, &frame);
        else
            handler->error(link, link->parser.error);
    }
}

/* End of file or an error. A port reads so while no host has it open, and fails for good when its device is removed. */
static void link_ended(struct link *link, int error)
{
    void (*unplugged)(void) = link->unplugged;
    link_drop(link);
    if (unplugged && error == ENODEV) {
        link->unplugged = NULL;
        link_close(link);
        unplugged();
    }
}

static void link_read(struct link *link)
{
    static uint8_t input[READ_SIZE];
    while (!link->closed && buffer_size(&link->out) < OVERFULL) {
        ssize_t got = read(link->watch.fd, input, sizeof input);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0) {
            link_ended(link, got < 0 ? errno : 0);
            return;
        }
        link_parse(link, input, (size_t)got);
    }
}

static void link_ready(struct watch *watch, uint32_t events)
{
    struct link *link = container_of(watch, struct link, watch);
    if (events & EPOLLOUT)
        link->stalled = false; /* links_flush() goes on */
    if (events & ~(uint32_t)EPOLLOUT)
        link_read(link);
}

void link_open(int fd, void (*unplugged)(void))
{
    size_t count = 0;
    for (struct link *link = links; link; link = link->next)
        if (!link->unplugged && !link->closed && ++count >= LINKS_MAX && !handler->in_use(link))
            link_close(link);
    struct link *link = allocate_zeroed(sizeof *link);
    link->unplugged = unplugged;
    link->next = links;
    links = link;
    watch_start(&link->watch, fd, edge_events, link_ready);
}

void link_send(struct link *link, enum frame_type type, uint8_t flags, uint32_t stream, const void *payload,
               size_t size)
{
    uint8_t *bytes = buffer_room(&link->out, HEADER_SIZE + size);
    put_header(bytes, type, flags, stream, (uint32_t)size);
    buffer_added(&link->out, HEADER_SIZE);
    buffer_add(&link->out, payload, size);
}

ssize_t link_send_from(struct link *link, uint8_t channel, uint32_t stream, int fd, size_t limit)
{
    uint8_t *bytes = buffer_room(&link->out, HEADER_SIZE + limit);
    ssize_t got = read(fd, bytes + HEADER_SIZE, limit);
    if (got > 0) {
        put_header(bytes, FRAME_DATA, channel, stream, (uint32_t)got);
        buffer_added(&link->out, HEADER_SIZE + (size_t)got);
    }
    return got;
}

bool link_congested(const struct link *link)
{
    return buffer_size(&link->out) >= CONGESTED;
}

static void link_flush(struct link *link)
{
    size_t before = buffer_size(&link->out);
    if (!before || link->stalled || link->closed)
        return;
    if (!link_write(link)) {
        link_drop(link);
        return;
    }
    size_t after = buffer_size(&link->out);
    if (before >= CONGESTED && after < CONGESTED)
        handler->resume(link);
    if (before >= OVERFULL && after < OVERFULL)
        link_read(link);
}

void links_flush(void)
{
    for (struct link *link = links; link; link = link->next)
        link_flush(link);
    links_reap();
}
