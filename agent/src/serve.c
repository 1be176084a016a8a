#include "serve.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "link.h"
#include "loop.h"

static struct watch unix_listener;

static void unix_ready(struct watch *watch, uint32_t events)
{
    (void)events;
    int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0)
        link_open(fd, NULL);
}

bool serve_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        fprintf(stderr, "attest-agent: %s: a socket's path has at most %zu bytes\n", path, sizeof address.sun_path - 1);
        return false;
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 16) < 0) {
        fprintf(stderr, "attest-agent: %s: %s\n", path, strerror(errno));
        return false;
    }
    watch_start(&unix_listener, fd, EPOLLIN, unix_ready);
    return true;
}

void serve_devices(void)
{
}
