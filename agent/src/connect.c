#include "connect.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop.h"
#include "memory.h"
#include "resolve.h"

enum { ADDRESS = 1, PORT };

static const uint32_t edges = EPOLLIN | EPOLLOUT | EPOLLET;

struct connection {
    struct stream *stream;
    struct watch watch;
    struct addresses addresses; /* those that are still to be tried, until it is connected */
    struct buffer unsent; /* from the host, not taken by the peer yet */
    bool connected;
    bool peer_ended;    /* the peer sends no more */
    bool writing_ended; /* the peer gets no more */
};

static void connection_free(struct connection *connection)
{
    watch_close(&connection->watch);
    buffer_free(&connection->unsent);
    free(connection);
}

static void connection_fail(struct connection *connection, int error)
{
    struct stream *stream = connection->stream;
    connection_free(connection);
    stream_fail(stream, error, "%s", strerror(error));
}

static void end_if_over(struct connection *connection)
{
    if (!connection->peer_ended || !connection->writing_ended)
        return;
    struct stream *stream = connection->stream;
    connection_free(connection);
    stream_end(stream, &(struct outcome){.status = DONE});
}

/* To the host. 0, or the errno that ends the connection. */
static int pump_in(struct connection *connection)
{
    while (!connection->peer_ended) {
        size_t room = stream_room(connection->stream);
        if (!room)
            return 0;
        ssize_t got = stream_send_from(connection->stream, 0, connection->watch.fd, room);
        if (got < 0 && errno != EINTR)
            return errno == EAGAIN ? 0 : errno;
        if (got == 0) {
            connection->peer_ended = true;
            stream_send_eof(connection->stream, 0);
        }
    }
    return 0;
}

/* The peer takes no more, or is to get no more. */
static void end_writing(struct connection *connection)
{
    connection->writing_ended = true;
    shutdown(connection->watch.fd, SHUT_WR);
    stream_consumed(connection->stream, buffer_size(&connection->unsent));
    buffer_free(&connection->unsent);
}

/* To the peer. */
static int pump_out(struct connection *connection)
{
    struct buffer *unsent = &connection->unsent;
    while (buffer_size(unsent)) {
        ssize_t put = send(connection->watch.fd, unsent->bytes + unsent->start, buffer_size(unsent), MSG_NOSIGNAL);
        if (put < 0 && errno == EAGAIN)
            return 0;
        if (put < 0 && errno == EPIPE) /* what it has sent before is still to be read */
            end_writing(connection);
        else if (put < 0 && errno != EINTR)
            return errno;
        if (put > 0) {
            buffer_take(unsent, (size_t)put);
            stream_consumed(connection->stream, (size_t)put);
        }
    }
    if (connection->stream->input_ended && !connection->writing_ended)
        end_writing(connection);
    return 0;
}

static void connection_pump(struct connection *connection)
{
    if (!connection->connected)
        return;
    int error = pump_out(connection);
    error = error ? error : pump_in(connection);
    if (error)
        connection_fail(connection, error);
    else
        end_if_over(connection);
}

static void connection_begin(struct connection *connection, int error);

static void connection_ready(struct watch *watch, uint32_t events)
{
    struct connection *connection = container_of(watch, struct connection, watch);
    int error = 0;
    socklen_t size = sizeof error;
    (void)events;
    if (!connection->connected) {
        getsockopt(watch->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            watch_close(&connection->watch);
            connection_begin(connection, error);
            return;
        }
        connection->connected = true;
        stream_send(connection->stream, 0, NULL, 0);
    }
    connection_pump(connection);
}

/* Try the next address; the last one failed with `error`. */
static void connection_begin(struct connection *connection, int error)
{
    int fd = connect_next(&connection->addresses, &error);
    if (fd >= 0)
        watch_start(&connection->watch, fd, edges, connection_ready);
    else
        connection_fail(connection, error);
}

static bool find_addresses(const struct request *request, struct addresses *addresses)
{
    char *host = request_text(request, ADDRESS);
    bool is_path = host && *host == '/';
    bool found = is_path ? unix_address(host, &addresses->each[0])
                         : host && resolve_addresses(host, (uint16_t)request_u32(request, PORT, 0), addresses);
    if (is_path)
        addresses->count = found;
    free(host);
    return found;
}

static void connect_open(struct stream *stream, const struct request *request)
{
    struct connection *connection = allocate_zeroed(sizeof *connection);
    connection->stream = stream;
    stream->state = connection;
    if (find_addresses(request, &connection->addresses)) {
        connection_begin(connection, 0);
        return;
    }
    connection_free(connection);
    stream_fail(stream, EADDRNOTAVAIL, "the address is neither a number nor in /etc/hosts");
}

static void connect_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct connection *connection = stream->state;
    if (connection->writing_ended)
        stream_consumed(stream, size);
    else
        buffer_add(&connection->unsent, bytes, size);
    connection_pump(connection);
}

static void connect_pump(struct stream *stream)
{
    connection_pump(stream->state);
}

static void connect_drop(struct stream *stream)
{
    connection_free(stream->state);
}

const struct operation connect_operation = {
    .number = 5,
    .fields = "t4",
    .open = connect_open,
    .data = connect_data,
    .eof = connect_pump,
    .room = connect_pump,
    .drop = connect_drop,
};
