#include "identity.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "copy.h"
#include "failure.h"
#include "memory.h"
#include "netlink.h"
#include "replace.h"
#include "system.h"

#define HOSTS "/etc/hosts"
#define HOSTS_BEGIN "# attest: begin\n"
#define HOSTS_END "# attest: end\n"
#define MACHINE_ID "/etc/machine-id"

enum { HOST_NAME = 1, MACHINE, HOSTS_LINES, INTERFACE, SEED, CLOCK, COPY, SSH_HOST_KEY };
enum { MACHINE_ID_SIZE = 32 };

/* --- files --- */

/* A name that it has already is not set again: systemd and journald would look at it. */
static int set_host_name(const char *name)
{
    struct utsname now;
    bool same = uname(&now) == 0 && strcmp(now.nodename, name) == 0;
    if (!*name || (!same && sethostname(name, strlen(name)) < 0))
        return *name ? errno : EINVAL;
    char *line = format_text("%s\n", name);
    int error = replace_file("/etc/hostname", line, 0644);
    free(line);
    return error == EROFS ? 0 : error; /* the name is set, and a file that cannot be written is kept by whoever made it so */
}

/* journald goes on writing under the old machine-id, journalctl looks under the new one. */
static void link_journal(const char *directory, const char *before, const char *now)
{
    char *from = format_text("%s/%s", directory, before);
    char *to = format_text("%s/%s", directory, now);
    if (access(from, F_OK) == 0 && access(to, F_OK) != 0 && symlink(before, to) < 0)
        fprintf(stderr, "attest-agent: %s: %s\n", to, strerror(errno));
    free(from);
    free(to);
}

static int set_machine_id(const char *id)
{
    char before[64];
    if (strlen(id) != MACHINE_ID_SIZE || strspn(id, "0123456789abcdef") != MACHINE_ID_SIZE)
        return EINVAL;
    read_line(MACHINE_ID, before, sizeof before);
    char *line = format_text("%s\n", id);
    int error = replace_file(MACHINE_ID, line, 0644);
    free(line);
    if (!error && strlen(before) == MACHINE_ID_SIZE) {
        link_journal("/run/log/journal", before, id);
        link_journal("/var/log/journal", before, id);
    }
    return error;
}

/* Put the lines where the block of last time was, or at the end. */
static int set_hosts(const char *lines)
{
    char *text = read_file(HOSTS);
    char *begin = strstr(text, HOSTS_BEGIN);
    char *end = begin ? strstr(begin, HOSTS_END) : NULL;
    size_t head = begin && end ? (size_t)(begin - text) : strlen(text);
    const char *tail = end ? end + strlen(HOSTS_END) : "";
    const char *gap = head && text[head - 1] != '\n' ? "\n" : "";
    const char *last = *lines && lines[strlen(lines) - 1] != '\n' ? "\n" : "";
    char *changed = format_text("%.*s%s" HOSTS_BEGIN "%s%s" HOSTS_END "%s", (int)head, text, gap, lines, last, tail);
    int error = replace_file(HOSTS, changed, 0644);
    free(changed);
    free(text);
    return error;
}

/* --- interfaces --- */

struct wish {
    char name[64]; /* as the request has it, for messages */
    int index;     /* among the Ethernet interfaces, or -1: by `match` */
    bool has_mac, up;
    uint8_t match[ETH_ALEN], mac[ETH_ALEN];
    struct ip_address addresses[ADDRESSES_MAX];
    size_t address_count;
    struct interface interface; /* the one that is meant */
};

static bool parse_mac(const char *text, uint8_t mac[ETH_ALEN])
{
    unsigned bytes[ETH_ALEN];
    int used = 0;
    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &bytes[0], &bytes[1], &bytes[2], &bytes[3], &bytes[4], &bytes[5],
               &used) != ETH_ALEN || text[used])
        return false;
    for (int i = 0; i < ETH_ALEN; i++)
        mac[i] = (uint8_t)bytes[i];
    return true;
}

static bool parse_number(const char *text, long most, long *number)
{
    char *end;
    *number = strtol(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && *number <= most;
}

static bool parse_address(char *text, struct ip_address *address)
{
    char *slash = strchr(text, '/');
    long prefix;
    if (!slash)
        return false;
    *slash = 0;
    address->family = strchr(text, ':') ? AF_INET6 : AF_INET;
    bool good = inet_pton(address->family, text, address->bytes) == 1 &&
                parse_number(slash + 1, address->family == AF_INET ? 32 : 128, &prefix);
    *slash = '/';
    address->prefix = good ? (uint8_t)prefix : 0;
    return good;
}

static bool parse_line(struct wish *wish, char *line)
{
    long index;
    if (strncmp(line, "index=", 6) == 0) {
        bool good = parse_number(line + 6, INTERFACES_MAX - 1, &index);
        wish->index = (int)index;
        return good;
    }
    if (strncmp(line, "match=", 6) == 0)
        return parse_mac(line + 6, wish->match);
    if (strncmp(line, "mac=", 4) == 0)
        return wish->has_mac = parse_mac(line + 4, wish->mac);
    if (strncmp(line, "address=", 8) == 0)
        return wish->address_count < ADDRESSES_MAX && parse_address(line + 8, &wish->addresses[wish->address_count++]);
    return wish->up = strcmp(line, "up") == 0;
}

static bool parse_wish(struct wish *wish, char *text, struct failure *failure)
{
    char *rest;
    *wish = (struct wish){.index = -1};
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (!wish->name[0])
            snprintf(wish->name, sizeof wish->name, "%s", line);
        if (!parse_line(wish, line))
            return !failure_note(failure, line, EINVAL);
    }
    return true;
}

static bool find_interface(struct wish *wish, const struct interface *interfaces, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        bool meant = wish->index >= 0 ? (size_t)wish->index == i : !memcmp(wish->match, interfaces[i].mac, ETH_ALEN);
        if (meant) {
            wish->interface = interfaces[i];
            return true;
        }
    }
    return false;
}

static int set_mac(int netlink, const struct wish *wish)
{
    const struct interface *interface = &wish->interface;
    if (memcmp(interface->mac, wish->mac, ETH_ALEN) == 0)
        return 0;
    int error = netlink_set_mac(netlink, interface->index, wish->mac);
    if (error != EBUSY)
        return error;
    /* A driver that cannot change it in use. */
    error = netlink_set_up(netlink, interface->index, false);
    error = error ? error : netlink_set_mac(netlink, interface->index, wish->mac);
    int again = netlink_set_up(netlink, interface->index, true);
    return error ? error : again;
}

static bool same_address(const struct ip_address *one, const struct ip_address *other)
{
    size_t size = one->family == AF_INET ? 4 : 16;
    return one->family == other->family && one->prefix == other->prefix && !memcmp(one->bytes, other->bytes, size);
}

static bool is_link_local(const struct ip_address *address)
{
    return address->family == AF_INET6 && address->bytes[0] == 0xfe && (address->bytes[1] & 0xc0) == 0x80;
}

static struct ip_address link_local(const uint8_t mac[ETH_ALEN])
{
    return (struct ip_address){
        .family = AF_INET6,
        .prefix = 64,
        .bytes = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]},
    };
}

static bool is_wanted(const struct wish *wish, const struct ip_address *address)
{
    for (size_t i = 0; i < wish->address_count; i++)
        if (same_address(&wish->addresses[i], address))
            return true;
    return is_link_local(address) || wish->address_count == 0;
}

/* All copies of a guest that was up had the same link-local address, made from the same MAC. */
static int renew_link_local(int netlink, const struct wish *wish, const struct ip_address *address)
{
    struct ip_address before = link_local(wish->interface.mac), now = link_local(wish->mac);
    if (!wish->has_mac || !same_address(address, &before) || same_address(&before, &now))
        return 0;
    int error = netlink_remove_address(netlink, wish->interface.index, &before);
    return error ? error : netlink_add_address(netlink, wish->interface.index, &now);
}

static int set_addresses(int netlink, const struct wish *wish)
{
    static struct ip_address present[ADDRESSES_MAX];
    int index = wish->interface.index;
    size_t count;
    int error = netlink_addresses(netlink, index, present, &count);
    for (size_t i = 0; i < count && !error; i++) {
        if (is_wanted(wish, &present[i]))
            error = renew_link_local(netlink, wish, &present[i]);
        else {
            error = netlink_remove_address(netlink, index, &present[i]);
            /* A primary address takes its secondary ones with it. */
            error = error == EADDRNOTAVAIL ? 0 : error;
        }
    }
    for (size_t i = 0; i < wish->address_count && !error; i++)
        error = netlink_add_address(netlink, index, &wish->addresses[i]);
    return error;
}

static int grant_wish(int netlink, const struct wish *wish)
{
    int error = wish->has_mac ? set_mac(netlink, wish) : 0;
    error = error ? error : set_addresses(netlink, wish);
    return error || !wish->up ? error : netlink_set_up(netlink, wish->interface.index, true);
}

/* All interfaces are found before the first is changed: `match` means what is there when the request comes. */
static void set_interfaces(int netlink, struct wish *wishes, size_t count, struct failure *failure)
{
    static struct interface interfaces[INTERFACES_MAX];
    size_t present;
    if (failure_note(failure, "interfaces", netlink_interfaces(netlink, interfaces, &present)))
        return;
    for (size_t i = 0; i < count; i++)
        if (!find_interface(&wishes[i], interfaces, present))
            failure_note(failure, wishes[i].name, ENODEV);
    for (size_t i = 0; i < count && !failure->error; i++)
        failure_note(failure, wishes[i].name, grant_wish(netlink, &wishes[i]));
}

static void change_interfaces(struct wish *wishes, size_t count, struct failure *failure)
{
    static int netlink = -1; /* kept, since a clone has it open then, which takes as long as to set an address */
    if (netlink < 0)
        netlink = netlink_open();
    if (!count || failure_note(failure, "netlink", netlink < 0 ? errno : 0))
        return;
    set_interfaces(netlink, wishes, count, failure);
    if (!failure->error)
        return;
    close(netlink); /* what is still to come on it are no answers to the next request */
    netlink = -1;
}

/* --- random numbers and time --- */

static int set_seed(const struct field *seed)
{
    int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    /* Writing alone leaves the generator's present state in use for minutes. */
    bool done = write(fd, seed->value, seed->length) == (ssize_t)seed->length && ioctl(fd, RNDRESEEDCRNG) == 0;
    int error = done ? 0 : errno;
    close(fd);
    return error;
}

static int set_clock(uint64_t nanoseconds)
{
    struct timespec now = {.tv_sec = (time_t)(nanoseconds / 1000000000), .tv_nsec = (long)(nanoseconds % 1000000000)};
    return clock_settime(CLOCK_REALTIME, &now) < 0 ? errno : 0;
}

/* --- the operation --- */

static void set_text(const struct request *request, uint8_t tag, const char *subject, int (*set_one)(const char *),
                     struct failure *failure)
{
    char *text = request_text(request, tag);
    if (text && !failure->error)
        failure_note(failure, subject, set_one(text));
    free(text);
}

static void apply_settings(const struct request *request, struct failure *failure)
{
    struct field seed;
    /* The clock first, so that files get the new time. */
    if (request_has(request, CLOCK))
        failure_note(failure, "clock", set_clock(request_u64(request, CLOCK, 0)));
    if (request_find(request, SEED, &seed))
        failure_note(failure, "seed", set_seed(&seed));
    set_text(request, HOST_NAME, "host name", set_host_name, failure);
    set_text(request, MACHINE, "machine-id", set_machine_id, failure);
    set_text(request, HOSTS_LINES, HOSTS, set_hosts, failure);
}

/* Before the interfaces change, at which a DHCP client may write a lease of this guest's own. Returns the SSH host keys' paths. */
static char *leave_original(const struct request *request, struct failure *failure)
{
    size_t count;
    char *found = NULL;
    if (request_u32(request, COPY, 0)) {
        forget_original(failure);
        found = ssh_host_keys(failure);
    }
    char **keys = request_texts(request, SSH_HOST_KEY, &count, 0);
    if (!failure->error)
        set_ssh_host_keys(keys, failure);
    texts_free(keys);
    return found;
}

static void identity_open(struct stream *stream, const struct request *request)
{
    static struct wish wishes[INTERFACES_MAX];
    struct failure failure = {.error = 0};
    size_t count;
    char *found = NULL;
    char **texts = request_texts(request, INTERFACE, &count, 0);
    failure_note(&failure, "interfaces", count > INTERFACES_MAX ? E2BIG : 0);
    for (size_t i = 0; i < count && !failure.error && parse_wish(&wishes[i], texts[i], &failure); i++)
        ;
    if (!failure.error)
        apply_settings(request, &failure);
    if (!failure.error)
        found = leave_original(request, &failure);
    if (!failure.error)
        change_interfaces(wishes, count, &failure);
    texts_free(texts);
    if (failure.error)
        stream_fail(stream, failure.error, "%s: %s", failure.subject, strerror(failure.error));
    else
        stream_end(stream, &(struct outcome){.status = DONE, .value = found});
    free(found);
}

const struct operation identity_operation = {.number = 6, .fields = "tttTb84T", .keeps_shells = true, .open = identity_open};
