/* The session with a host, and its streams: one for each operation under way. */
#ifndef ATTEST_SESSION_H
#define ATTEST_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "frame.h"
#include "request.h"

struct stream;

enum { OPERATIONS_MAX = 1024 };

enum status { DONE, EXITED, KILLED, TIMED_OUT, CANCELLED, FAILED };

/* What a RESULT says. */
struct outcome {
    enum status status;
    int code; /* with EXITED and KILLED */
    int error; /* with FAILED */
    const char *message, *value, *state;
};

/* What an operation does when something happens to its stream. Members that are NULL are not for it. */
struct operation {
    uint8_t number;
    const char *fields; /* as for request_check() */
    bool keeps_shells;  /* it changes nothing that a shell takes in at its start */
    void (*open)(struct stream *stream, const struct request *request);
    void (*data)(struct stream *stream, const uint8_t *bytes, size_t size);
    void (*eof)(struct stream *stream);
    /* stream_room() is positive again after it was 0. */
    void (*room)(struct stream *stream);
    void (*resize)(struct stream *stream, uint16_t rows, uint16_t columns);
    /* End soon, with stream_end(). NULL: the stream is dropped and ends as CANCELLED at once. */
    void (*cancel)(struct stream *stream);
    /* The session is over: stop and free everything; there is nobody to tell. */
    void (*drop)(struct stream *stream);
};

struct stream {
    uint32_t number;
    const struct operation *operation;
    void *state; /* the operation's own */
    uint32_t send_window, receive_window, consumed;
    bool starved; /* stream_room() was 0 */
    bool input_ended;
    struct stream *next;
};

/* From here on a HELLO on any link begins a session, which has these operations; their array ends with NULL. */
void session_start(const struct operation *const *offered);

/* For operations. How many bytes of DATA may be sent now in one frame. */
size_t stream_room(struct stream *stream);
void stream_send(struct stream *stream, uint8_t channel, const void *bytes, size_t size);
ssize_t stream_send_from(struct stream *stream, uint8_t channel, int fd, size_t limit);
void stream_send_eof(struct stream *stream, uint8_t channel);
/* Tell the people at the host how it goes. */
void stream_note(struct stream *stream, const char *text);
/* `size` bytes of DATA are used up: the host may send as many more. */
void stream_consumed(struct stream *stream, size_t size);
/* Send the RESULT and free the stream. */
void stream_end(struct stream *stream, const struct outcome *outcome);
/* End as FAILED with a sentence and an errno. */
void stream_fail(struct stream *stream, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));

size_t session_operations(void);

#endif
