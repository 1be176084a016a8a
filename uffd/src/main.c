/* attest-uffd: brings the guest of a restored Firecracker its memory, page by page, when it touches it.
 *
 * Standard input is a listening Unix socket. Firecracker connects to it and sends one message: where the guest's memory
 * is, as JSON, and the userfaultfd that tells of its faults. Nothing else ever goes over the connection. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fatal.h"
#include "layout.h"

/* A batch has room for faults of all of a VMM's threads, which are read before other events: those that are woken in
 * vain come again, and may not keep these out. Firecracker has 32 virtual CPUs at most. */
enum { LONGEST_MESSAGE = 16384, BATCH = 64 };

/* Threads that touch one page at once are each told of, though the first brings it to all. No VMM has so many. */
enum { VAIN = 1024 };

static int vmm = -1; /* a pidfd */
static int uffd = -1;
static int file = -1; /* the guest's memory */
static struct layout layout;
static char *contents; /* of the page that is being brought */
static int vain;       /* how often in a row a page was said to be there already */

static int accept_vmm(int listener)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (connection < 0)
        fatal_error("accept: %s", strerror(errno));
    if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        fatal_error("SO_PEERCRED: %s", strerror(errno));
    vmm = (int)syscall(SYS_pidfd_open, peer.pid, 0);
    if (vmm < 0 && errno == ESRCH) /* it has ended */
        exit(0);
    if (vmm < 0)
        fatal_error("process %d, which connected: %s", (int)peer.pid, strerror(errno));
    fatal_for_vmm(vmm);
    return connection;
}

static void receive_layout(int connection, uint64_t file_size)
{
    static char text[LONGEST_MESSAGE + 1];
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof uffd)];
    } control;
    struct iovec bytes = {text, LONGEST_MESSAGE};
    struct msghdr message = {
        .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t length = recvmsg(connection, &message, MSG_CMSG_CLOEXEC);
    if (length <= 0)
        fatal_error("no memory layout came: %s", length ? strerror(errno) : "the connection was closed");
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS ||
        header->cmsg_len != CMSG_LEN(sizeof uffd))
        fatal_error("the memory layout came without one userfaultfd");
    memcpy(&uffd, CMSG_DATA(header), sizeof uffd);
    if (memchr(text, '\0', (size_t)length))
        fatal_error("the memory layout holds a NUL byte");
    layout_read(&layout, text, file_size);
}

static uint64_t open_file(const char *path)
{
    struct stat status;
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status) < 0)
        fatal_error("%s: %s", path, strerror(errno));
    return (uint64_t)status.st_size;
}

static void allocate_contents(void)
{
    uint64_t largest = 0;
    for (size_t i = 0; i < layout.count; i++)
        if (layout.regions[i].page_size > largest)
            largest = layout.regions[i].page_size;
    contents = malloc(largest);
    if (!contents)
        fatal_error("out of memory");
}

/* Let the threads that wait for a page try again; those that still lack it are told of anew. */
static void wake_threads(uint64_t address, uint64_t size)
{
    struct uffdio_range range = {address, size};
    if (ioctl(uffd, UFFDIO_WAKE, &range) < 0)
        fatal_error("waking 0x%" PRIx64 ": %s", address, strerror(errno));
}

static void load_page(const struct region *region, uint64_t page)
{
    if (region->removed[page]) {
        memset(contents, 0, region->page_size);
        return;
    }
    uint64_t start = region->offset + page * region->page_size;
    ssize_t length = pread(file, contents, region->page_size, (off_t)start);
    if (length != (ssize_t)region->page_size)
        fatal_error("reading the memory file at byte %" PRIu64 ": %s", start,
                    length < 0 ? strerror(errno) : "it has been cut");
}

/* The copy is from memory that is there, not from a mapping of the file: for a source that is yet to be read, Linux
 * needs a second huge page for a moment, and the guest may have the last one. */
static void bring_page(uint64_t address)
{
    struct region *region = layout_find(&layout, address);
    if (!region)
        fatal_error("0x%" PRIx64 " was touched, which is in no region", address);
    uint64_t size = region->page_size, page = (address - region->base) / size, start = region->base + page * size;
    load_page(region, page);
    struct uffdio_copy copy = {.dst = start, .src = (uintptr_t)contents, .len = size};
    if (ioctl(uffd, UFFDIO_COPY, &copy) == 0) {
        vain = 0;
        return;
    }
    /* Where no huge page is free, Linux 6.18 says that the page exists, 6.1 that there is no memory. */
    if (errno == EEXIST && ++vain == VAIN)
        errno = ENOMEM;
    /* It is there already; or pages are being removed, of which the next events tell. */
    if (errno == EEXIST || errno == EAGAIN)
        wake_threads(start, size);
    else if (errno == ESRCH) /* the VMM is ending */
        exit(0);
    else
        fatal_error("page of %" PRIu64 " KiB at 0x%" PRIx64 ": %s", size / 1024, start,
                    errno == ENOMEM ? "no page of that size is free" : strerror(errno));
}

static void serve_events(void)
{
    struct uffd_msg events[BATCH];
    ssize_t length = read(uffd, events, sizeof events);
    if (length < 0 && errno == EAGAIN)
        return;
    if (length <= 0 || length % (ssize_t)sizeof *events)
        fatal_error("reading page faults: %s", length < 0 ? strerror(errno) : "no userfaultfd");
    const struct uffd_msg *end = events + length / (ssize_t)sizeof *events;
    /* Faults are read before the removals that preceded them, and a removed page must not come back from the file. */
    for (const struct uffd_msg *event = events; event < end; event++)
        if (event->event == UFFD_EVENT_REMOVE)
            layout_remove(&layout, event->arg.remove.start, event->arg.remove.end);
    for (const struct uffd_msg *event = events; event < end; event++)
        if (event->event == UFFD_EVENT_PAGEFAULT)
            bring_page(event->arg.pagefault.address);
        else if (event->event != UFFD_EVENT_REMOVE)
            fatal_error("the userfaultfd tells of an event of the unknown kind 0x%x", event->event);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fputs("usage: attest-uffd MEMORY-FILE <listening socket>\n", stderr);
        return 2;
    }
    /* What fails from here on ends the VMM. */
    int connection = accept_vmm(0);
    receive_layout(connection, open_file(argv[1]));
    allocate_contents();
    for (;;) {
        struct pollfd polled[] = {{.fd = vmm, .events = POLLIN}, {.fd = uffd, .events = POLLIN}};
        if (poll(polled, 2, -1) < 0 && errno != EINTR)
            fatal_error("poll: %s", strerror(errno));
        if (polled[0].revents)
            return 0;
        if (polled[1].revents & ~POLLIN)
            fatal_error("the userfaultfd is one that waits, or none");
        if (polled[1].revents)
            serve_events();
    }
}
