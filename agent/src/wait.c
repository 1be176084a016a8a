#include "wait.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loop.h"
#include "memory.h"
#include "path_watch.h"
#include "process.h"
#include "resolve.h"
#include "system.h"
#include "unit.h"

enum { KIND = 1, SUBJECT, PORT, LIMIT, FLAGS, WANTED, ATTEMPT_LIMIT };
enum kind { PORT_OPEN = 1, PORT_CLOSED, SOCKET_ACCEPTS, FILE_EXISTS, UNIT_STATE, PROCESS_EXISTS, PROCESS_GONE, FILE_GONE };
enum { DATAGRAM = 1 };
enum {
    DELAY_FIRST_MS = 1,
    DELAY_MOST_MS = 50,
    PATH_DELAY_MS = 500, /* for what inotify does not tell: mounts, and the far end of symbolic links */
    CONNECT_MS = 1000,
    FIRST_LOOK_MS = 5000, /* what a look may take beyond the time limit, when it is the first */
};

struct wait {
    struct stream *stream;
    enum kind kind;
    char *subject, *wanted;
    uint16_t port;
    bool datagram;
    bool looked, overdue; /* it has been looked once; the time limit has passed */
    bool was_there;       /* the unit, at one of the looks */
    struct timer limit, retry;
    uint64_t delay, attempt_ms;
    struct watch attempt; /* a connect() under way */
    struct addresses addresses;
    struct path_watch path;
    struct unit unit;
    char seen[256]; /* what was last the case */
};

static void try_again(struct timer *timer);

static void wait_free(struct wait *wait)
{
    timer_stop(&wait->limit);
    timer_stop(&wait->retry);
    watch_close(&wait->attempt);
    path_watch_stop(&wait->path);
    unit_leave(&wait->unit);
    free(wait->subject);
    free(wait->wanted);
    free(wait);
}

static void wait_end(struct wait *wait, struct outcome outcome)
{
    struct stream *stream = wait->stream;
    char seen[sizeof wait->seen];
    strcpy(seen, wait->seen);
    if (outcome.status == DONE)
        outcome.value = seen;
    else if (!outcome.message)
        outcome.message = seen;
    wait_free(wait);
    stream_end(stream, &outcome);
}

/* Write down what is the case, for the RESULT. */
__attribute__((format(printf, 2, 3))) static void note_seen(struct wait *wait, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(wait->seen, sizeof wait->seen, format, args);
    va_end(args);
}

static void wait_finish(struct wait *wait)
{
    wait_end(wait, (struct outcome){.status = DONE});
}

/* It was looked, and it is not so. */
static void look_again(struct wait *wait, uint64_t delay)
{
    wait->looked = true;
    if (wait->overdue)
        wait_end(wait, (struct outcome){.status = TIMED_OUT});
    else
        timer_set(&wait->retry, delay, try_again);
}

static void retry_later(struct wait *wait)
{
    uint64_t delay = wait->delay;
    wait->delay = delay * 2 < DELAY_MOST_MS ? delay * 2 : DELAY_MOST_MS;
    look_again(wait, delay);
}

/* --- ports --- */

/* A connect() to one's own side can meet itself: when the port that the kernel picks for it is the one it goes to. */
static bool met_itself(int fd)
{
    struct sockaddr_storage own = {0}, peer = {0};
    socklen_t own_size = sizeof own, peer_size = sizeof peer;
    return getsockname(fd, (struct sockaddr *)&own, &own_size) == 0 &&
           getpeername(fd, (struct sockaddr *)&peer, &peer_size) == 0 && own_size == peer_size &&
           memcmp(&own, &peer, own_size) == 0;
}

static void try_next_address(struct wait *wait, int error);

static void port_answered(struct wait *wait, int error)
{
    if (!error && met_itself(wait->attempt.fd))
        error = ECONNREFUSED;
    watch_close(&wait->attempt);
    if (error && wait->addresses.next < wait->addresses.count) {
        try_next_address(wait, error);
        return;
    }
    note_seen(wait, "%s", error ? strerror(error) : "open");
    if ((error == 0) == (wait->kind == PORT_OPEN))
        wait_finish(wait);
    else
        retry_later(wait);
}

static void port_unanswered(struct timer *timer)
{
    port_answered(container_of(timer, struct wait, retry), ETIMEDOUT);
}

static void attempt_ready(struct watch *watch, uint32_t events)
{
    int error = 0;
    socklen_t size = sizeof error;
    (void)events;
    getsockopt(watch->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    port_answered(container_of(watch, struct wait, attempt), error);
}

static void try_port(struct wait *wait)
{
    if (!resolve_addresses(wait->subject, wait->port, &wait->addresses)) {
        note_seen(wait, "%s is neither an address nor in /etc/hosts, and no name server is asked", wait->subject);
        wait_end(wait, (struct outcome){.status = FAILED, .error = EADDRNOTAVAIL});
        return;
    }
    try_next_address(wait, 0);
}

static void try_next_address(struct wait *wait, int error)
{
    int fd = connect_next(&wait->addresses, &error);
    if (fd >= 0)
        watch_start(&wait->attempt, fd, EPOLLOUT, attempt_ready);
    if (fd >= 0 && error == EINPROGRESS)
        timer_set(&wait->retry, wait->attempt_ms, port_unanswered);
    else
        port_answered(wait, error);
}

/* --- files and Unix sockets --- */

static void try_file(struct wait *wait)
{
    struct stat status;
    bool exists = stat(wait->subject, &status) == 0;
    note_seen(wait, "%s", exists ? "it exists" : strerror(errno));
    if (exists == (wait->kind == FILE_EXISTS))
        wait_finish(wait);
    else
        look_again(wait, PATH_DELAY_MS);
}

static int connect_unix(const struct wait *wait)
{
    struct address address;
    if (!unix_address(wait->subject, &address))
        return ENAMETOOLONG;
    int fd = socket(AF_UNIX, (wait->datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int error = fd < 0 || connect(fd, (struct sockaddr *)&address.socket, address.size) < 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    return error;
}

static void try_socket(struct wait *wait)
{
    int error = connect_unix(wait);
    note_seen(wait, "%s", error ? strerror(error) : "open");
    if (!error)
        wait_finish(wait);
    else if (error == ENOENT)
        look_again(wait, PATH_DELAY_MS);
    else
        retry_later(wait); /* bound, but its owner does not listen yet */
}

static void path_changed(struct path_watch *path)
{
    struct wait *wait = container_of(path, struct wait, path);
    path_watch_renew(path);
    wait->delay = DELAY_FIRST_MS;
    try_again(&wait->retry);
}

/* --- processes --- */

static void try_process(struct wait *wait)
{
    pid_t pid = process_find(wait->subject);
    if (pid)
        note_seen(wait, "process %d", pid);
    else
        note_seen(wait, "there is none");
    if ((pid != 0) == (wait->kind == PROCESS_EXISTS))
        wait_finish(wait);
    else
        retry_later(wait);
}

/* --- units --- */

static void fail_unit(struct wait *wait, int error)
{
    const struct unit *unit = &wait->unit;
    char state[256] = "";
    if (*unit->active) {
        int length = snprintf(state, sizeof state, "ActiveState=%s\nSubState=%s\nResult=%s\n", unit->active, unit->sub,
                              unit->result);
        if (unit->main_status >= 0)
            snprintf(state + length, sizeof state - (size_t)length, "ExecMainStatus=%d\n", unit->main_status);
    }
    wait_end(wait, (struct outcome){.status = FAILED, .error = error, .state = *state ? state : NULL});
}

static void note_failure(struct wait *wait)
{
    const struct unit *unit = &wait->unit;
    if (unit->main_status >= 0 && strcmp(unit->result, "exit-code") == 0)
        note_seen(wait, "it has failed (exit code %d)", unit->main_status);
    else if (unit->main_status >= 0 && strcmp(unit->result, "signal") == 0)
        note_seen(wait, "it has failed (signal %d)", unit->main_status);
    else
        note_seen(wait, "it has failed (%s)", unit->result);
}

/* Of a name that no unit has, systemd says that it is inactive. One that is about to start is not what was meant. */
static bool has_wanted_state(const struct wait *wait)
{
    const struct unit *unit = &wait->unit;
    return strcmp(unit->active, wait->wanted) == 0 &&
           (strcmp(unit->active, "inactive") != 0 || (wait->was_there && !unit->has_job));
}

static void unit_changed(struct unit *unit)
{
    struct wait *wait = container_of(unit, struct wait, unit);
    bool idle = unit->started && !unit->has_job && unit->jobs == 0, unknown = strcmp(unit->load, "not-found") == 0;
    bool hopeless = idle && strcmp(unit->active, "inactive") == 0 && strcmp(wait->wanted, "inactive") != 0;
    wait->was_there = wait->was_there || !unknown;
    wait->looked = true;
    note_seen(wait, "%s", unit->active);
    if (*unit->refusal) {
        note_seen(wait, "%s", unit->refusal);
        fail_unit(wait, EINVAL);
    } else if (has_wanted_state(wait)) {
        wait_finish(wait);
    } else if (strcmp(unit->active, "failed") == 0 && !unit->has_job) {
        note_failure(wait);
        fail_unit(wait, 0);
    } else if (unknown && unit->started) {
        note_seen(wait, "systemd knows no unit of that name");
        fail_unit(wait, ENOENT);
    } else if (hopeless && strcmp(unit->load, "masked") == 0) {
        note_seen(wait, "it is masked");
        fail_unit(wait, 0);
    } else {
        note_seen(wait, "it is %s (%s)%s", unit->active, unit->sub,
                  unit->has_job ? ", with a job pending" : hopeless ? ", and no job is pending" : "");
        if (hopeless)
            fail_unit(wait, 0);
        else if (wait->overdue)
            wait_end(wait, (struct outcome){.status = TIMED_OUT});
    }
}

static void follow_unit(struct wait *wait)
{
    if (strcmp(init_name(), "systemd") != 0) {
        note_seen(wait, "this guest's init is not systemd");
        wait_end(wait, (struct outcome){.status = FAILED, .error = EOPNOTSUPP});
        return;
    }
    unit_follow(&wait->unit, wait->subject, wait->wanted, unit_changed);
}

/* --- the operation --- */

static void try_again(struct timer *timer)
{
    struct wait *wait = container_of(timer, struct wait, retry);
    timer_stop(timer);
    switch (wait->kind) {
    case PORT_OPEN:
    case PORT_CLOSED:
        try_port(wait);
        break;
    case SOCKET_ACCEPTS:
        try_socket(wait);
        break;
    case FILE_EXISTS:
    case FILE_GONE:
        try_file(wait);
        break;
    case PROCESS_EXISTS:
    case PROCESS_GONE:
        try_process(wait);
        break;
    case UNIT_STATE:
        follow_unit(wait);
        break;
    }
}

/* What is so already is seen, however short the limit: a first look that goes on is waited for. */
static void wait_overdue(struct timer *timer)
{
    struct wait *wait = container_of(timer, struct wait, limit);
    bool looks = watch_active(&wait->attempt) || (wait->kind == UNIT_STATE && unit_is_looked_at(&wait->unit));
    if (looks && !wait->looked && !wait->overdue) {
        wait->overdue = true;
        timer_set(timer, FIRST_LOOK_MS, wait_overdue);
        return;
    }
    if (wait->kind == UNIT_STATE && !wait->unit.known)
        note_seen(wait, "nothing is known of it: %s", unit_trouble());
    wait_end(wait, (struct outcome){.status = TIMED_OUT});
}

static bool is_path(enum kind kind)
{
    return kind == SOCKET_ACCEPTS || kind == FILE_EXISTS || kind == FILE_GONE;
}

static const char *wait_fault(const struct request *request, const char *subject)
{
    uint32_t kind = request_u32(request, KIND, 0), port = request_u32(request, PORT, 0);
    if (kind < PORT_OPEN || kind > FILE_GONE)
        return "its kind is none of 1 to 8";
    if (!subject || !*subject)
        return "it has no subject";
    if ((kind == PORT_OPEN || kind == PORT_CLOSED) && (port < 1 || port > 65535))
        return "its port is not between 1 and 65535";
    if (is_path(kind) && *subject != '/')
        return "its path is not absolute";
    return NULL;
}

static void wait_open(struct stream *stream, const struct request *request)
{
    struct wait *wait = allocate_zeroed(sizeof *wait);
    stream->state = wait;
    wait->stream = stream;
    wait->kind = (enum kind)request_u32(request, KIND, 0);
    wait->subject = request_text(request, SUBJECT);
    wait->wanted = request_has(request, WANTED) ? request_text(request, WANTED) : copy_text("active", 6);
    wait->port = (uint16_t)request_u32(request, PORT, 0);
    wait->datagram = request_u32(request, FLAGS, 0) & DATAGRAM;
    wait->delay = DELAY_FIRST_MS;
    wait->attempt_ms = request_u64(request, ATTEMPT_LIMIT, CONNECT_MS);
    const char *wrong = wait_fault(request, wait->subject);
    if (wrong) {
        note_seen(wait, "the wait cannot be: %s", wrong);
        wait_end(wait, (struct outcome){.status = FAILED, .error = EINVAL});
        return;
    }
    if (request_has(request, LIMIT))
        timer_set(&wait->limit, request_u64(request, LIMIT, 0), wait_overdue);
    if (is_path(wait->kind))
        path_watch_start(&wait->path, wait->subject, path_changed);
    try_again(&wait->retry);
}

static void wait_drop(struct stream *stream)
{
    wait_free(stream->state);
}

const struct operation wait_operation = {.number = 2, .fields = "4t484t8", .open = wait_open, .drop = wait_drop};
