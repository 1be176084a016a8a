#include "serve.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "link.h"
#include "loop.h"
#include "system.h"
#include "uevent.h"

#define PORTS "/sys/class/virtio-ports"
#define PORT_NAME "org.attest.agent"

enum { VSOCK_PORT = 1024, RETRY_MS = 50 };

/* --- a Unix socket --- */

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

/* --- vsock --- */

static void vsock_ready(struct watch *watch, uint32_t events)
{
    struct sockaddr_vm peer;
    socklen_t size = sizeof peer;
    (void)events;
    int fd = accept4(watch->fd, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    /* Other guests, and processes of this one, are not the host. */
    if (peer.svm_cid == VMADDR_CID_HOST)
        link_open(fd, NULL);
    else
        close(fd);
}

static void serve_vsock(void)
{
    static struct watch listener;
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = VSOCK_PORT};
    /* Without a device, the kernel would have modules looked for at each call. */
    if (watch_active(&listener) || !has_vsock())
        return;
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 16) == 0)
        watch_start(&listener, fd, EPOLLIN, vsock_ready);
    else
        close(fd);
}

/* --- virtio-serial --- */

static struct watch uevents;
static struct timer retry;

static void look_for_devices(void);

static void retry_now(struct timer *timer)
{
    (void)timer;
    look_for_devices();
}

/* The device's name (vport0p1) of the port that is the agent's. */
static bool find_port(char *name, size_t size)
{
    DIR *ports = opendir(PORTS);
    bool found = false;
    for (struct dirent *entry; ports && !found && (entry = readdir(ports));) {
        char path[300], label[64];
        snprintf(path, sizeof path, PORTS "/%s/name", entry->d_name);
        if (strcmp(read_line(path, label, sizeof label), PORT_NAME) == 0)
            found = snprintf(name, size, "/dev/%s", entry->d_name) < (int)size;
    }
    if (ports)
        closedir(ports);
    return found;
}

/* Whether the port is served now. */
static bool serve_port(void)
{
    char path[64];
    if (!find_port(path, sizeof path))
        return false;
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        /* An agent that has just been killed still holds it, or its node is not there yet. */
        timer_set(&retry, RETRY_MS, retry_now);
        return false;
    }
    link_open(fd, look_for_devices);
    return true;
}

static void uevents_ready(struct watch *watch, uint32_t events)
{
    (void)events;
    uevent_drain(watch->fd);
    look_for_devices();
}

static void look_for_devices(void)
{
    timer_stop(&retry);
    if (!watch_active(&uevents)) {
        int fd = uevent_open();
        if (fd >= 0)
            watch_start(&uevents, fd, EPOLLIN, uevents_ready);
    }
    serve_vsock();
    if (serve_port())
        watch_close(&uevents);
}

void serve_devices(void)
{
    look_for_devices();
}
