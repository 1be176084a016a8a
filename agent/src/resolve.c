#include "resolve.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

static bool numeric_ipv4(const char *host, uint16_t port, struct address *address)
{
    struct sockaddr_in *socket = (struct sockaddr_in *)&address->socket;
    *socket = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
    address->size = sizeof *socket;
    return inet_pton(AF_INET, host, &socket->sin_addr) == 1;
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
        socket->sin6_scope_id = if_nametoindex(host + length + 1);
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

static bool named_address(const char *host, uint16_t port, struct address *address)
{
    FILE *hosts = fopen("/etc/hosts", "re");
    char *line = NULL;
    size_t size = 0;
    bool found = false;
    while (hosts && !found && getline(&line, &size, hosts) > 0)
        found = line_names(line, host) && numeric_address(line + strspn(line, " \t"), port, address);
    free(line);
    if (hosts)
        fclose(hosts);
    return found;
}

bool resolve_address(const char *host, uint16_t port, struct address *address)
{
    return numeric_address(host, port, address) || named_address(host, port, address) ||
           (strcasecmp(host, "localhost") == 0 && numeric_address("127.0.0.1", port, address));
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
