#include "resolve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

static bool numeric_ipv4(const char *host, uint16_t port, struct address *address)
{
    struct sockaddr_in *socket = (struct sockaddr_in *)&address->socket;
    *socket = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
    address->size = sizeof *socket;
    return inet_pton(AF_INET, host, &socket->sin_addr) == 1;
}

/* By its name, or its number; 0 where there is none. */
static unsigned interface_index(const char *interface)
{
    unsigned index = if_nametoindex(interface);
    return index ? index : (unsigned)strtoul(interface, NULL, 10);
}

/* Also ADDRESS%INTERFACE, which link-local addresses need. */
static bool numeric_ipv6(const char *host, uint16_t port, struct address *address)
{
    struct sockaddr_in6 *socket = (struct sockaddr_in6 *)&address->socket;
    *socket = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port)};
    address->size = sizeof *socket;
    char number[INET6_ADDRSTRLEN];
    size_t length = strcspn(host, "%");
    if (length >= sizeof number)
        return false;
    memcpy(number, host, length);
    number[length] = 0;
    if (host[length])
        socket->sin6_scope_id = interface_index(host + length + 1);
    return inet_pton(AF_INET6, number, &socket->sin6_addr) == 1;
}

static bool numeric_address(const char *host, uint16_t port, struct address *address)
{
    memset(&address->socket, 0, sizeof address->socket);
    return numeric_ipv4(host, port, address) || numeric_ipv6(host, port, address);
}

/* Whether a line of /etc/hosts names the host; its address is then the line's first word. */
static bool line_names(char *line, const char *host)
{
    line[strcspn(line, "#\n")] = 0;
    char *rest, *word = strtok_r(line, " \t", &rest);
    while (word && (word = strtok_r(NULL, " \t", &rest)))
        if (strcasecmp(word, host) == 0)
            return true;
    return false;
}

static void add_numeric(const char *host, uint16_t port, struct addresses *addresses)
{
    struct address *address = &addresses->each[addresses->count];
    if (addresses->count == ADDRESSES_MAX || !numeric_address(host, port, address))
        return;
    for (unsigned i = 0; i < addresses->count; i++)
        if (memcmp(&addresses->each[i].socket, &address->socket, sizeof address->socket) == 0)
            return;
    addresses->count++;
}

static void add_named(const char *host, uint16_t port, struct addresses *addresses)
{
    FILE *hosts = fopen("/etc/hosts", "re");
    char *line = NULL;
    size_t size = 0;
    while (hosts && getline(&line, &size, hosts) > 0)
        if (line_names(line, host))
            add_numeric(line + strspn(line, " \t"), port, addresses);
    free(line);
    if (hosts)
        fclose(hosts);
}

bool resolve_addresses(const char *host, uint16_t port, struct addresses *addresses)
{
    char bare[INET6_ADDRSTRLEN + IF_NAMESIZE + 1];
    size_t length = strlen(host);
    addresses->count = addresses->next = 0;
    if (*host == '[' && host[length - 1] == ']' && length - 2 < sizeof bare) {
        memcpy(bare, host + 1, length - 2);
        bare[length - 2] = 0;
        host = bare;
    }
    add_numeric(host, port, addresses);
    if (addresses->count == 0)
        add_named(host, port, addresses);
    if (strcasecmp(host, "localhost") == 0) { /* RFC 6761, 6.3, whatever the file has */
        add_numeric("127.0.0.1", port, addresses);
        add_numeric("::1", port, addresses);
    }
    return addresses->count > 0;
}

/* The kernel calls it an invalid argument. */
static bool lacks_interface(const struct address *address)
{
    const struct sockaddr_in6 *socket = (const struct sockaddr_in6 *)&address->socket;
    return socket->sin6_family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&socket->sin6_addr) && !socket->sin6_scope_id;
}

int connect_next(struct addresses *addresses, int *error)
{
    while (addresses->next < addresses->count) {
        const struct address *address = &addresses->each[addresses->next++];
        int fd = socket(address->socket.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        *error = fd < 0 || connect(fd, (const struct sockaddr *)&address->socket, address->size) < 0 ? errno : 0;
        if (fd >= 0 && (*error == 0 || *error == EINPROGRESS))
            return fd;
        if (fd >= 0)
            close(fd);
        if (*error == EINVAL && lacks_interface(address))
            *error = ENODEV;
    }
    return -1;
}

bool unix_address(const char *path, struct address *address)
{
    struct sockaddr_un *socket = (struct sockaddr_un *)&address->socket;
    *socket = (struct sockaddr_un){.sun_family = AF_UNIX};
    address->size = sizeof *socket;
    if (strlen(path) >= sizeof socket->sun_path)
        return false;
    strcpy(socket->sun_path, path);
    return true;
}
