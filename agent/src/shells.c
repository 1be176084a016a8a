/* Starting bash costs 8 to 50 ms in an emulated guest, most of it before it looks at its command; forking one that has been
 * started costs 1 or 2. So one is, the template: `bash -euo pipefail -c PLACE` with BASH_ENV naming a script that loads the
 * builtin `attest_fork` (../bash/fork.c), which forks when it is told to. A fork waits until it gets a command and its
 * descriptors, has the command in PLACE, where the shell's memory holds its argument, and leaves the script. From there on it is
 * a `bash -euo pipefail -c COMMAND` like any other: it is the agent's child and leads a session, executes a last command without
 * forking, and says `-c` in its messages. One fork is made while nothing happens, for the next command; others when they are
 * needed.
 *
 * A bash that cannot load the builtin ends at once, and shells are started for commands. When the agent dies, the sockets end,
 * and with them the template and the fork that waits. */
#include "shells.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "loop.h"
#include "memory.h"
#include "request.h"
#include "system.h"

#define SCRIPT                                                                                                         \
    "unset BASH_ENV LD_BIND_NOW\n"                                                                                     \
    "enable -f /proc/%d/fd/%d attest_fork 2>/dev/null && attest_fork || exit\n"                                        \
    ": %s\n" /* for $_ */

enum { DEATHS_MAX = 8, PATIENCE_S = 1, MAY_EXECUTE = 0x10 /* MFD_EXEC, which C libraries do not know yet */ };

/* The builtin, as a shared object. */
static const unsigned char builtin[] = {
#include FORK_OBJECT
};

/* What a shell takes in at its start. When it is no longer so, the template is not like a fresh one. That is looked at after
 * each operation of the host, which may have changed it. */
struct stamp {
    const char *shell, *path;
    struct {
        dev_t device;
        ino_t inode;
        struct timespec changed;
    } files[3], directory; /* what is in the directory does not matter */
    struct rlimit limits[RLIM_NLIMITS];
};

static struct child template;       /* its `pid` is 0 when there is none */
static struct watch template_watch; /* of its socket */
static bool ready;                  /* it has said so */
static int waiting;                 /* the socket of a fork that waits for a command, or 0 */
static size_t deaths;               /* of templates, since one was last used */
static struct stamp stamp;
static bool doubted = true; /* the stamp may be another now */

static void stamp_now(struct stamp *now)
{
    memset(now, 0, sizeof *now);
    now->shell = shell_path();
    now->path = default_path();
    const char *const files[] = {now->shell, "/etc/ld.so.cache", "/etc/ld.so.preload"};
    struct stat status;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (stat(files[i], &status) < 0)
            continue;
        now->files[i].device = status.st_dev;
        now->files[i].inode = status.st_ino;
        now->files[i].changed = status.st_mtim;
    }
    if (stat(SHELL_DIRECTORY, &status) == 0) {
        now->directory.device = status.st_dev;
        now->directory.inode = status.st_ino;
    }
    for (int i = 0; i < RLIM_NLIMITS; i++)
        getrlimit(i, &now->limits[i]);
}

static const char *shell_name(void)
{
    return strrchr(stamp.shell, '/') + 1;
}

/* --- the template --- */

static void template_forget(void)
{
    child_forget(&template);
    watch_close(&template_watch);
    if (waiting)
        close(waiting);
    waiting = 0;
    ready = false;
}

static void template_discard(void)
{
    kill(template.pid, SIGKILL);
    template_forget();
}

static void template_died(struct child *child, int status)
{
    (void)child;
    deaths = ready || WIFSIGNALED(status) ? deaths + 1 : DEATHS_MAX; /* it cannot load the builtin */
    template_forget();
}

static void template_speaks(struct watch *watch, uint32_t events)
{
    char nothing;
    (void)events;
    if (recv(watch->fd, &nothing, sizeof nothing, MSG_DONTWAIT) == sizeof nothing)
        ready = true;
    else
        watch_events(watch, 0); /* its end is told by its exit */
}

/* Throw the template away when a fresh shell would be different. */
static void check_stamp(void)
{
    struct stamp now;
    if (!doubted)
        return;
    doubted = false;
    stamp_now(&now);
    if (memcmp(&now, &stamp, sizeof now) == 0)
        return;
    if (template.pid)
        template_discard();
    stamp = now;
    deaths = 0;
}

/* --- its start --- */

/* A file in memory. */
static int file_of(const void *bytes, size_t size)
{
    int fd = memfd_create("attest", MFD_CLOEXEC | MAY_EXECUTE);
    if (fd < 0) /* a kernel that knows no others */
        fd = memfd_create("attest", MFD_CLOEXEC);
    if (fd < 0 || write(fd, bytes, size) == (ssize_t)size)
        return fd;
    close(fd);
    return -1;
}

/* What BASH_ENV names, as a path; false when it cannot be made. */
static bool write_script(char *path, size_t size)
{
    static int object, script;
    char text[256];
    if (object <= 0)
        object = file_of(builtin, sizeof builtin);
    if (script > 0)
        close(script);
    int length = snprintf(text, sizeof text, SCRIPT, getpid(), object, shell_name());
    script = file_of(text, (size_t)length);
    snprintf(path, size, "BASH_ENV=/proc/%d/fd/%d", getpid(), script);
    return object > 0 && script > 0;
}

static char **shell_arguments(void)
{
    static char place[COMMAND_MAX];
    static char *arguments[] = {NULL, "-euo", "pipefail", "-c", place, NULL};
    memset(place, ' ', sizeof place - 1);
    arguments[0] = (char *)shell_name();
    return arguments;
}

static pid_t template_execute(int socket)
{
    char path[64];
    /* With all of its libraries' functions looked up, which the forks need not do then. */
    char *const extra[] = {path, "LD_BIND_NOW=1", NULL};
    if (!write_script(path, sizeof path))
        return -1;
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    char **environment = environment_make(NULL, false, extra);
    struct spawn spawn = {.program = stamp.shell, .arguments = shell_arguments(), .environment = environment,
                          .directory = SHELL_DIRECTORY, .input = nothing, .output = nothing, .error = nothing,
                          .extra = socket};
    pid_t pid = spawn_on_descriptors(&spawn);
    texts_free(environment);
    close(nothing);
    return pid;
}

static bool shell_socket(int ends[2])
{
    struct timeval patience = {.tv_sec = PATIENCE_S};
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0 &&
           setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0;
}

static void template_start(void)
{
    int ends[2];
    pid_t pid = -1;
    if (strcmp(shell_name(), "bash") == 0 && shell_socket(ends)) {
        pid = template_execute(ends[1]);
        close(ends[1]);
        if (pid < 0)
            close(ends[0]);
    }
    if (pid < 0) {
        deaths = DEATHS_MAX; /* until the stamp is another */
        return;
    }
    child_watch(&template, pid, template_died);
    watch_start(&template_watch, ends[0], EPOLLIN, template_speaks);
}

/* --- forks --- */

static bool send_to(int socket, const char *text, const int descriptors[], size_t count)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(3 * sizeof(int))];
    } control = {{.cmsg_len = CMSG_LEN(count * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec bytes = {(char *)text, strlen(text) + 1};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    memcpy(CMSG_DATA(&control.header), descriptors, count * sizeof(int));
    return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
}

/* The socket of a new fork; 0 when there is none. */
static int fork_template(void)
{
    int ends[2];
    if (!shell_socket(ends))
        return 0;
    bool sent = send_to(template_watch.fd, "", &ends[1], 1);
    close(ends[1]);
    if (sent)
        return ends[0];
    close(ends[0]);
    return 0;
}

/* Give a fork its command: it says in a moment that it begins. One that was killed, or stopped, does not; and one that goes on
 * after the socket was shut down cannot, and ends. */
static pid_t begin_command(const int ends[3], void *command)
{
    pid_t pid = -1;
    int socket = waiting ? waiting : fork_template();
    waiting = 0;
    if (!socket)
        return -1;
    if (send_to(socket, command, ends, 3) && recv(socket, &pid, sizeof pid, 0) < 0) {
        shutdown(socket, SHUT_RDWR);
        recv(socket, &pid, sizeof pid, MSG_DONTWAIT);
    }
    close(socket);
    return pid;
}

bool shells_take(const char *command, bool takes_input, struct running *running)
{
    check_stamp();
    if (strlen(command) >= COMMAND_MAX || !ready)
        return false;
    if (!start_on_pipes(running, takes_input, begin_command, (void *)command)) {
        template_discard();
        return false;
    }
    deaths = 0;
    return true;
}

void shells_doubt(void)
{
    doubted = true;
}

static bool wants_template(void)
{
    return !template.pid && deaths < DEATHS_MAX;
}

static bool wants_fork(void)
{
    return ready && !waiting;
}

bool shells_wanting(void)
{
    return doubted || wants_template() || wants_fork();
}

void shells_prepare(void)
{
    check_stamp();
    if (wants_template())
        template_start();
    else if (wants_fork())
        waiting = fork_template();
}
