#include "uevent.h"

#include <errno.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <unistd.h>

int uevent_open(void)
{
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK, .nl_groups = 1};
    if (fd < 0 || bind(fd, (struct sockaddr *)&kernel, sizeof kernel) == 0)
        return fd;
    close(fd);
    return -1;
}

void uevent_drain(int fd)
{
    char event[8192];
    /* ENOBUFS says that events were lost: the caller looks at the devices anyway. */
    while (read(fd, event, sizeof event) >= 0 || errno == ENOBUFS || errno == EINTR)
        ;
}
