#include "session.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "child.h"
#include "link.h"
#include "memory.h"
#include "shells.h"
#include "system.h"
#include "version.h"

enum { BUCKETS = 256, CREDIT = 65536 };

static const struct operation *const *operations;
static struct link *owner; /* the link of the session, NULL when there is none */
static struct stream *streams[BUCKETS];
static size_t stream_count;

/* --- streams --- */

static struct stream **stream_slot(uint32_t number)
{
    struct stream **slot = &streams[number % BUCKETS];
    while (*slot && (*slot)->number != number)
        slot = &(*slot)->next;
    return slot;
}

static void stream_free(struct stream *stream)
{
    struct stream **slot = stream_slot(stream->number);
    *slot = stream->next;
    stream_count--;
    if (!stream->operation->keeps_shells)
        shells_doubt();
    free(stream);
}

size_t stream_room(struct stream *stream)
{
    size_t room = link_congested(owner) ? 0 : stream->send_window;
    stream->starved = room == 0;
    return room < DATA_MAX ? room : DATA_MAX;
}

void stream_send(struct stream *stream, uint8_t channel, const void *bytes, size_t size)
{
    link_send(owner, FRAME_DATA, channel, stream->number, bytes, size);
    stream->send_window -= (uint32_t)size;
}

ssize_t stream_send_from(struct stream *stream, uint8_t channel, int fd, size_t limit)
{
    ssize_t got = link_send_from(owner, channel, stream->number, fd, limit);
    if (got > 0)
        stream->send_window -= (uint32_t)got;
    return got;
}

void stream_send_eof(struct stream *stream, uint8_t channel)
{
    link_send(owner, FRAME_EOF, channel, stream->number, NULL, 0);
}

void stream_note(struct stream *stream, const char *text)
{
    link_send(owner, FRAME_NOTE, 0, stream->number, text, strlen(text));
}

void stream_consumed(struct stream *stream, size_t size)
{
    stream->consumed += (uint32_t)size;
    if (stream->consumed < CREDIT)
        return;
    uint8_t payload[4];
    put_u32(payload, stream->consumed);
    link_send(owner, FRAME_WINDOW, 0, stream->number, payload, sizeof payload);
    stream->receive_window += stream->consumed;
    stream->consumed = 0;
}

static void add_field(struct buffer *fields, uint8_t tag, const void *value, size_t size)
{
    uint8_t header[FIELD_HEADER_SIZE] = {tag};
    put_u32(header + 1, (uint32_t)size);
    buffer_add(fields, header, sizeof header);
    buffer_add(fields, value, size);
}

static void add_u32(struct buffer *fields, uint8_t tag, uint32_t value)
{
    uint8_t bytes[4];
    put_u32(bytes, value);
    add_field(fields, tag, bytes, sizeof bytes);
}

static void add_text(struct buffer *fields, uint8_t tag, const char *text)
{
    if (text)
        add_field(fields, tag, text, strlen(text));
}

void stream_end(struct stream *stream, const struct outcome *outcome)
{
    struct buffer fields = {0};
    add_u32(&fields, 1, outcome->status);
    if (outcome->status == EXITED || outcome->status == KILLED)
        add_u32(&fields, 2, (uint32_t)outcome->code);
    add_text(&fields, 3, outcome->message);
    if (outcome->status == FAILED)
        add_u32(&fields, 4, (uint32_t)outcome->error);
    add_text(&fields, 5, outcome->value);
    add_text(&fields, 6, outcome->state);
    link_send(owner, FRAME_RESULT, 0, stream->number, fields.bytes, buffer_size(&fields));
    buffer_free(&fields);
    stream_free(stream);
}

void stream_fail(struct stream *stream, int error, const char *format, ...)
{
    char message[512];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    stream_end(stream, &(struct outcome){.status = FAILED, .error = error, .message = message});
}

size_t session_operations(void)
{
    return stream_count;
}

/* --- the session --- */

static void drop_streams(void)
{
    for (size_t i = 0; i < BUCKETS; i++) {
        while (streams[i]) {
            struct stream *stream = streams[i];
            if (stream->operation->drop)
                stream->operation->drop(stream);
            stream_free(stream);
        }
    }
}

static void session_lost(struct link *link)
{
    if (owner != link)
        return;
    drop_streams();
    owner = NULL;
}

static bool session_owns(const struct link *link)
{
    return owner == link;
}

static void session_error(struct link *link, const char *text)
{
    session_lost(link);
    parser_desync(&link->parser);
    link_send(link, FRAME_ERROR, 0, 0, text, strlen(text));
}

static void session_resume(struct link *link)
{
    if (owner != link)
        return;
    for (size_t i = 0; i < BUCKETS; i++) {
        for (struct stream *stream = streams[i], *next; stream; stream = next) {
            next = stream->next;
            if (stream->starved && stream->operation->room && stream_room(stream))
                stream->operation->room(stream);
        }
    }
}

static void send_welcome(struct link *link, const uint8_t *nonce)
{
    struct buffer payload = {0};
    uint8_t version[2];
    put_u16(version, PROTOCOL_VERSION);
    buffer_add(&payload, nonce, NONCE_SIZE);
    buffer_add(&payload, version, sizeof version);
    struct utsname names;
    uname(&names);
    add_text(&payload, 1, AGENT_VERSION);
    add_text(&payload, 2, boot_id());
    add_text(&payload, 3, init_name());
    add_text(&payload, 4, shell_path());
    add_text(&payload, 5, names.machine);
    link_send(link, FRAME_WELCOME, 0, 0, payload.bytes, buffer_size(&payload));
    buffer_free(&payload);
}

static void session_hello(struct link *link, const struct frame *frame)
{
    struct link *before = owner;
    drop_streams();
    owner = NULL;
    if (before && before != link) {
        session_error(before, "another host has begun a session");
        link_drop(before);
    }
    /* What the session before left unsent is nothing to the host of this one. */
    buffer_take(&link->out, buffer_size(&link->out));
    owner = link;
    send_welcome(link, frame->payload + HELLO_MAGIC_SIZE);
}

static const struct operation *operation_numbered(uint8_t number)
{
    for (const struct operation *const *each = operations; *each; each++)
        if ((*each)->number == number)
            return *each;
    return NULL;
}

static void open_stream(struct link *link, const struct frame *frame)
{
    char fault[128], error[192];
    const struct operation *operation = operation_numbered(frame->payload[0]);
    struct request request = {{frame->payload + 1, frame->length - 1}};
    struct stream **slot = stream_slot(frame->stream);
    if (!operation)
        snprintf(error, sizeof error, "stream %u: operation %u is not known", frame->stream, frame->payload[0]);
    else if (*slot)
        snprintf(error, sizeof error, "stream %u was opened while it was in use", frame->stream);
    else if (!request_check(&request, operation->fields, fault, sizeof fault))
        snprintf(error, sizeof error, "stream %u, operation %u: %s", frame->stream, operation->number, fault);
    else
        error[0] = 0;
    if (error[0]) {
        session_error(link, error);
        return;
    }
    children_settle();
    struct stream *stream = *slot = allocate_zeroed(sizeof *stream);
    *stream = (struct stream){.number = frame->stream, .operation = operation, .send_window = WINDOW_START,
                              .receive_window = WINDOW_START};
    if (stream_count++ >= OPERATIONS_MAX)
        stream_fail(stream, EAGAIN, "%d operations are under way, which is the most", OPERATIONS_MAX);
    else
        operation->open(stream, &request);
}

static void stream_data(struct link *link, struct stream *stream, const struct frame *frame)
{
    char error[128];
    if (!stream->operation->data)
        snprintf(error, sizeof error, "stream %u: DATA came, its operation takes none", stream->number);
    else if (frame->flags)
        snprintf(error, sizeof error, "stream %u: DATA came on channel %u", stream->number, frame->flags);
    else if (stream->input_ended)
        snprintf(error, sizeof error, "stream %u: DATA came after EOF", stream->number);
    else if (frame->length > stream->receive_window)
        snprintf(error, sizeof error, "stream %u: %u bytes of DATA came, the window has %u", stream->number,
                 frame->length, stream->receive_window);
    else {
        stream->receive_window -= frame->length;
        stream->operation->data(stream, frame->payload, frame->length);
        return;
    }
    session_error(link, error);
}

static void stream_window(struct link *link, struct stream *stream, uint32_t more)
{
    char error[128];
    if (more > UINT32_MAX - stream->send_window) {
        snprintf(error, sizeof error, "stream %u: a WINDOW of %u on top of %u is too much", stream->number, more,
                 stream->send_window);
        session_error(link, error);
        return;
    }
    stream->send_window += more;
    if (stream->starved && stream->operation->room && stream_room(stream))
        stream->operation->room(stream);
}

static void stream_eof(struct stream *stream)
{
    if (stream->input_ended)
        return;
    stream->input_ended = true;
    if (stream->operation->eof)
        stream->operation->eof(stream);
}

static void stream_cancel(struct stream *stream)
{
    if (stream->operation->cancel) {
        stream->operation->cancel(stream);
        return;
    }
    if (stream->operation->drop)
        stream->operation->drop(stream);
    stream_end(stream, &(struct outcome){.status = CANCELLED});
}

static void stream_resize(struct stream *stream, const uint8_t *payload)
{
    if (stream->operation->resize)
        stream->operation->resize(stream, get_u16(payload), get_u16(payload + 2));
}

static void session_frame(struct link *link, const struct frame *frame)
{
    if (frame->type == FRAME_HELLO) {
        session_hello(link, frame);
        return;
    }
    if (owner != link)
        return;
    if (frame->type == FRAME_OPEN) {
        open_stream(link, frame);
        return;
    }
    /* A stream that is not known has just ended: its RESULT and this frame crossed. */
    struct stream *stream = *stream_slot(frame->stream);
    if (!stream)
        return;
    switch (frame->type) {
    case FRAME_DATA:
        stream_data(link, stream, frame);
        break;
    case FRAME_EOF:
        stream_eof(stream);
        break;
    case FRAME_WINDOW:
        stream_window(link, stream, get_u32(frame->payload));
        break;
    case FRAME_CANCEL:
        stream_cancel(stream);
        break;
    case FRAME_RESIZE:
        stream_resize(stream, frame->payload);
        break;
    }
}

void session_start(const struct operation *const *offered)
{
    static const struct link_handler handler = {
        .frame = session_frame,
        .error = session_error,
        .lost = session_lost,
        .resume = session_resume,
        .in_use = session_owns,
    };
    operations = offered;
    links_start(&handler);
}
