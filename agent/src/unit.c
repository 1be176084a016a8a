#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dbus.h"
#include "loop.h"
#include "memory.h"
#include "resolve.h"

#define SOCKET "/run/systemd/private"
#define MANAGER_PATH "/org/freedesktop/systemd1"
#define UNITS MANAGER_PATH "/unit/"
#define MANAGER "org.freedesktop.systemd1.Manager"
#define UNIT "org.freedesktop.systemd1.Unit"
#define SERVICE "org.freedesktop.systemd1.Service"
#define PROPERTIES "org.freedesktop.DBus.Properties"

enum { RETRY_FIRST_MS = 1, RETRY_MOST_MS = 50, RELOAD_FIRST_MS = 50, RELOAD_MOST_MS = 1000, READ_SIZE = 65536 };

/* The calls of one look at a unit, in the order in which systemd gets them; each after the first, and after the second, only when
 * what came before leaves a question. */
enum { ACTIVE, STATE, JOBS, START_UP, RESULT, MAIN_STATUS };

static struct unit *units;
static struct watch bus;
static struct buffer incoming, outgoing;
static bool greeted; /* the authentication is over */
static uint32_t last_serial;
static struct timer retry;
static uint64_t retry_ms = RETRY_FIRST_MS;
static char trouble[160] = "not connected to " SOCKET " yet";

static void bus_connect(void);

const char *unit_trouble(void)
{
    return trouble;
}

/* --- the connection --- */

static void bus_reconnect(struct timer *timer)
{
    (void)timer;
    bus_connect();
}

/* systemd closes the connection when it re-executes itself, and has no socket in its first moments. */
static void bus_lost(const char *why, int error)
{
    snprintf(trouble, sizeof trouble, "%s: %s", SOCKET, error ? strerror(error) : why);
    watch_close(&bus);
    buffer_free(&incoming);
    buffer_free(&outgoing);
    greeted = false;
    for (struct unit *unit = units; unit; unit = unit->next) {
        memset(unit->calls, 0, sizeof unit->calls);
        timer_stop(&unit->reload);
    }
    if (!units)
        return;
    timer_set(&retry, retry_ms, bus_reconnect);
    retry_ms = retry_ms * 2 < RETRY_MOST_MS ? retry_ms * 2 : RETRY_MOST_MS;
}

static void bus_flush(void)
{
    while (watch_active(&bus) && buffer_size(&outgoing)) {
        ssize_t put = send(bus.fd, outgoing.bytes + outgoing.start, buffer_size(&outgoing), MSG_NOSIGNAL);
        if (put < 0 && errno == EAGAIN)
            return;
        if (put < 0 && errno != EINTR)
            return; /* the reading side learns of it */
        if (put > 0)
            buffer_take(&outgoing, (size_t)put);
    }
}

static uint32_t bus_call(const char *path, const char *interface, const char *member, const char *first, const char *second)
{
    const char *arguments[] = {first, second, NULL};
    dbus_add_call(&outgoing, ++last_serial, path, interface, member, arguments);
    return last_serial;
}

/* --- looking at a unit --- */

/* The interface of the unit's type, which has its Result: `ssh.socket` is a Socket. */
static const char *type_interface(const struct unit *unit)
{
    static char interface[96];
    const char *suffix = strrchr(unit->name, '.');
    if (!suffix || !suffix[1])
        return SERVICE;
    snprintf(interface, sizeof interface, "org.freedesktop.systemd1.%c%.32s", suffix[1] & ~0x20, suffix + 2);
    return interface;
}

static bool is_service(const struct unit *unit)
{
    return strcmp(type_interface(unit), SERVICE) == 0;
}

/* Letters and digits stay, all else is _ and two hexadecimal digits; so is a digit at the start. */
static char *unit_path(const char *name)
{
    struct buffer path = {0};
    buffer_add(&path, UNITS, strlen(UNITS));
    for (const char *at = name; *at; at++) {
        char escaped[4];
        const char lower = *at | 0x20;
        bool plain = (lower >= 'a' && lower <= 'z') || (*at >= '0' && *at <= '9' && at > name);
        snprintf(escaped, sizeof escaped, plain ? "%c" : "_%02x", (unsigned char)*at);
        buffer_add(&path, escaped, strlen(escaped));
    }
    buffer_add(&path, "", 1);
    return (char *)path.bytes;
}

/* systemd answers in order, and tells of changes in the same stream: a change that comes before the last answer
 * makes the unit dirty, and it is looked at again before anything is concluded from it. */
static void look_at_unit(struct unit *unit)
{
    unit->dirty = unit->whole = unit->complete = false;
    unit->calls[ACTIVE] = bus_call(unit->path, PROPERTIES, "Get", UNIT, "ActiveState");
}

/* Some hundred properties, which systemd in an emulated guest takes some 8 ms to tell. */
static void look_at_all(struct unit *unit)
{
    unit->whole = true;
    unit->calls[STATE] = bus_call(unit->path, PROPERTIES, "GetAll", UNIT, NULL);
}

/* Whether the unit may be given up depends on more than itself. A look costs systemd a good deal: it loads a unit that
 * it does not need, and forgets it again, each time. */
static void look_further(struct unit *unit)
{
    unit->complete = true;
    unit->calls[JOBS] = bus_call(MANAGER_PATH, PROPERTIES, "Get", MANAGER, "NJobs");
    unit->calls[START_UP] = bus_call(MANAGER_PATH, PROPERTIES, "Get", MANAGER, "FinishTimestampMonotonic");
    unit->calls[RESULT] = bus_call(unit->path, PROPERTIES, "Get", type_interface(unit), "Result");
    if (is_service(unit))
        unit->calls[MAIN_STATUS] = bus_call(unit->path, PROPERTIES, "Get", SERVICE, "ExecMainStatus");
}

/* The unit is in none of the states that lead somewhere. */
static bool is_at_rest(const struct unit *unit)
{
    return strcmp(unit->active, "inactive") == 0 || strcmp(unit->active, "failed") == 0;
}

bool unit_is_looked_at(const struct unit *unit)
{
    for (size_t i = 0; i < UNIT_CALLS_MAX; i++)
        if (unit->calls[i])
            return true;
    return false;
}

static void touch_unit(struct unit *unit)
{
    if (unit_is_looked_at(unit))
        unit->dirty = true;
    else
        look_at_unit(unit);
}

/* The unit that an alias stands for has its signals sent from its own path. */
static void take_id(struct unit *unit, const char *id)
{
    free(unit->path);
    unit->path = unit_path(id);
}

static void take_property(struct unit *unit, const char *name, const char *signature, struct dbus_reader *body)
{
    char *text = strcmp(name, "LoadState") == 0     ? unit->load
                 : strcmp(name, "ActiveState") == 0 ? unit->active
                 : strcmp(name, "SubState") == 0    ? unit->sub
                                                    : NULL;
    if (text && strcmp(signature, "s") == 0) {
        snprintf(text, STATE_SIZE, "%s", dbus_read_string(body));
    } else if (strcmp(name, "Id") == 0 && strcmp(signature, "s") == 0) {
        take_id(unit, dbus_read_string(body));
    } else if (strcmp(name, "Job") == 0 && strcmp(signature, "(uo)") == 0) {
        dbus_align(body, 8);
        unit->has_job = dbus_read_u32(body) != 0;
        dbus_read_string(body);
    } else {
        dbus_skip(body, signature);
    }
}

/* a{sv}: the length, then entries of a name and a variant. */
static void take_properties(struct unit *unit, struct dbus_reader *body)
{
    size_t length = dbus_read_u32(body);
    dbus_align(body, 8);
    if (length < body->size - body->at)
        body->size = body->at + length;
    while (!body->bad && body->at < body->size) {
        dbus_align(body, 8);
        const char *name = dbus_read_string(body);
        const char *signature = dbus_read_signature(body);
        take_property(unit, name, signature, body);
    }
}

static void take_reply(struct unit *unit, size_t which, struct dbus_reader *body)
{
    if (which == STATE) {
        take_properties(unit, body);
        return;
    }
    const char *signature = dbus_read_signature(body);
    if (which == ACTIVE)
        take_property(unit, "ActiveState", signature, body);
    else if (which == JOBS && strcmp(signature, "u") == 0)
        unit->jobs = dbus_read_u32(body);
    else if (which == START_UP && strcmp(signature, "t") == 0)
        unit->started = dbus_read_u64(body) != 0;
    else if (which == RESULT && strcmp(signature, "s") == 0)
        snprintf(unit->result, sizeof unit->result, "%s", dbus_read_string(body));
    else if (which == MAIN_STATUS && strcmp(signature, "i") == 0)
        unit->main_status = (int32_t)dbus_read_u32(body);
}

/* There is an object for every name that could be a unit's, and a type of unit may have no Result. */
static void take_error(struct unit *unit, size_t which, struct dbus_message *message)
{
    if (which == ACTIVE || which == STATE)
        snprintf(unit->refusal, sizeof unit->refusal, "%s",
                 *message->signature == 's' ? dbus_read_string(&message->body) : message->error);
}

/* All answers are there. */
static void conclude_look(struct unit *unit)
{
    bool inactive = strcmp(unit->active, "inactive") == 0; /* which says little: so is a name that no unit has */
    bool settled = (strcmp(unit->active, unit->wanted) == 0 && !inactive) || *unit->refusal;
    if (unit->dirty) {
        look_at_unit(unit);
    } else if (!settled && !unit->whole) {
        look_at_all(unit);
    } else if (!settled && !unit->complete && is_at_rest(unit)) {
        look_further(unit);
    } else {
        unit->known = true;
        unit->changed(unit); /* may leave */
    }
}

static void take_answer(struct dbus_message *message)
{
    for (struct unit *unit = units; unit; unit = unit->next) {
        for (size_t i = 0; i < UNIT_CALLS_MAX; i++) {
            if (!unit->calls[i] || unit->calls[i] != message->reply_to)
                continue;
            unit->calls[i] = 0;
            if (message->type == DBUS_REPLY)
                take_reply(unit, i, &message->body);
            else
                take_error(unit, i, message);
            if (!unit_is_looked_at(unit))
                conclude_look(unit);
            return;
        }
    }
}

/* --- what systemd tells --- */

static void reload_due(struct timer *timer)
{
    struct unit *unit = container_of(timer, struct unit, reload);
    if (unit_is_looked_at(unit)) {
        timer_set(timer, unit->reload_ms, reload_due);
        return;
    }
    look_at_unit(unit);
    bus_flush();
}

/* systemd forgets an idle unit, and loads it again for our look at it, which it tells of. So this news is not followed by a look at
 * once. It is the only news of some units, as of a device that appears. */
static void take_unit_new(struct dbus_message *message)
{
    dbus_read_string(&message->body);
    const char *path = dbus_read_string(&message->body);
    for (struct unit *unit = units; unit; unit = unit->next) {
        if (strcmp(path, unit->path) != 0 || unit->reload.at)
            continue;
        timer_set(&unit->reload, unit->reload_ms, reload_due);
        unit->reload_ms = unit->reload_ms * 2 < RELOAD_MOST_MS ? unit->reload_ms * 2 : RELOAD_MOST_MS;
    }
}

/* Its number, its path, its unit, its result. */
static void take_job_removed(struct dbus_message *message)
{
    dbus_read_u32(&message->body);
    dbus_read_string(&message->body);
    const char *name = dbus_read_string(&message->body);
    for (struct unit *unit = units; unit; unit = unit->next) {
        /* Another unit's job matters only to one that is given up when the last job is done. */
        bool last_hope = unit->known && unit->started && is_at_rest(unit);
        if (last_hope || strcmp(name, unit->name) == 0)
            touch_unit(unit);
    }
}

static void take_signal(struct dbus_message *message)
{
    const char *member = message->member;
    bool all = strcmp(member, "StartupFinished") == 0 || strcmp(member, "Reloading") == 0;
    if (strcmp(member, "UnitNew") == 0)
        take_unit_new(message);
    else if (strcmp(member, "JobRemoved") == 0)
        take_job_removed(message);
    else
        for (struct unit *unit = units; unit; unit = unit->next)
            if (all || strcmp(message->path, unit->path) == 0)
                touch_unit(unit);
}

static bool take_greeting(void)
{
    static const char accepted[] = "OK ";
    const uint8_t *bytes = incoming.bytes + incoming.start;
    const uint8_t *end = buffer_size(&incoming) ? memchr(bytes, '\n', buffer_size(&incoming)) : NULL;
    if (!end)
        return true;
    greeted = (size_t)(end - bytes) > strlen(accepted) && memcmp(bytes, accepted, strlen(accepted)) == 0;
    buffer_take(&incoming, (size_t)(end - bytes) + 1);
    return greeted;
}

/* Whether the bytes were good. */
static bool take_messages(void)
{
    for (;;) {
        const uint8_t *bytes = incoming.bytes + incoming.start;
        size_t size = dbus_message_size(bytes, buffer_size(&incoming));
        if (size == 0 || (size != SIZE_MAX && size > buffer_size(&incoming)))
            return true;
        struct dbus_message message;
        if (size == SIZE_MAX || !dbus_parse(bytes, size, &message))
            return false;
        if (message.type == DBUS_SIGNAL)
            take_signal(&message);
        else if (message.type == DBUS_REPLY || message.type == DBUS_ERROR)
            take_answer(&message);
        if (!watch_active(&bus)) /* the last unit was left */
            return true;
        buffer_take(&incoming, size);
    }
}

static void bus_ready(struct watch *watch, uint32_t events)
{
    (void)events;
    for (;;) {
        ssize_t got = read(watch->fd, buffer_room(&incoming, READ_SIZE), READ_SIZE);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            break;
        if (got <= 0) {
            bus_lost("systemd closed the connection", got < 0 ? errno : 0);
            return;
        }
        retry_ms = RETRY_FIRST_MS;
        buffer_added(&incoming, (size_t)got);
        if ((!greeted && !take_greeting()) || (greeted && !take_messages())) {
            bus_lost("what came was not D-Bus", 0);
            return;
        }
        if (!watch_active(watch))
            return;
    }
    bus_flush();
}

/* The user is the socket's peer credential; EXTERNAL wants its number once more, as hexadecimal digits of ASCII ones. */
static void bus_greet(void)
{
    char number[16], line[96] = "AUTH EXTERNAL ";
    snprintf(number, sizeof number, "%u", (unsigned)geteuid());
    for (char *digit = number; *digit; digit++)
        sprintf(line + strlen(line), "%02x", (unsigned)*digit);
    strcat(line, "\r\nBEGIN\r\n");
    buffer_add(&outgoing, "", 1);
    buffer_add(&outgoing, line, strlen(line));
    bus_call(MANAGER_PATH, MANAGER, "Subscribe", NULL, NULL);
}

static void bus_connect(void)
{
    struct address address;
    unix_address(SOCKET, &address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address.socket, address.size) < 0) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        bus_lost("", error);
        return;
    }
    timer_stop(&retry);
    watch_start(&bus, fd, EPOLLIN | EPOLLOUT | EPOLLET, bus_ready);
    bus_greet();
    for (struct unit *unit = units; unit; unit = unit->next)
        look_at_unit(unit);
    bus_flush();
}

void unit_follow(struct unit *unit, const char *name, const char *wanted, void (*changed)(struct unit *))
{
    *unit = (struct unit){.name = name, .wanted = wanted, .changed = changed, .main_status = -1, .path = unit_path(name),
                          .reload_ms = RELOAD_FIRST_MS, .next = units};
    units = unit;
    if (!watch_active(&bus) && !retry.at) {
        bus_connect();
    } else if (watch_active(&bus)) {
        look_at_unit(unit);
        bus_flush();
    }
}

void unit_leave(struct unit *unit)
{
    struct unit **at = &units;
    while (*at && *at != unit)
        at = &(*at)->next;
    if (!*at)
        return;
    *at = unit->next;
    timer_stop(&unit->reload);
    free(unit->path);
    /* An open connection costs systemd a message for every change of every unit. */
    if (!units) {
        bus_lost("", 0);
        timer_stop(&retry);
    }
}
