/* A builtin for bash that the agent has its template load (../src/shells.c): fork for each shell that the agent wants, and give
 * each its command.
 *
 * `attest_fork` returns in the forks only, each of which goes on as a `bash -c COMMAND` that the agent has just started: its
 * parent is the agent, and it has a process ID, a session and descriptors of its own. What takes long at a start, the template
 * has done.
 *
 * Nothing is linked to it: what it does not define is bash's, or of the library that bash uses; a bash without any of that cannot
 * load it. The system call clone() is used as the library's fork() cannot make a process the parent's child. So the library
 * keeps the template's thread ID in a fork, which it uses for nothing but locks between threads. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../src/shells.h"

/* bash's own: what its builtins.h says of loadable builtins, and variables. */
struct builtin {
    const char *name;
    int (*function)(void *words);
    int flags;
    const char *const *documentation;
    const char *usage;
    void *handle;
};

enum { ENABLED = 1 };

extern struct builtin *shell_builtins, static_shell_builtins[];
extern int num_shell_builtins;
extern char *command_execution_string; /* the argument of -c */
extern pid_t dollar_dollar_pid, shell_pgrp;
int parse_and_execute(char *commands /* which it frees */, const char *from, int flags);
void *bind_variable(const char *name, char *value, int flags);
/* Of glibc; musl has none. */
__attribute__((weak)) int on_exit(void (*function)(int status, void *argument), void *argument);

extern struct builtin attest_fork_struct;

enum { SMALL_MAPPING = 200000, DONT_NEED = 4 /* MADV_DONTNEED */, NO_HISTORY = 4 /* SEVAL_NOHIST of bash's common.h */ };

/* A message with so many descriptors, and at most so many bytes; false when the agent wants nothing more. */
static int receive_message(char *text, size_t size, int descriptors[], size_t count)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(3 * sizeof(int))];
    } control;
    struct iovec bytes = {text, size};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (recvmsg(SHELL_SOCKET, &message, 0) <= 0 || message.msg_controllen < CMSG_LEN(count * sizeof(int)))
        return 0;
    memcpy(descriptors, CMSG_DATA(&control.header), count * sizeof(int));
    return 1;
}

/* What would be different in a bash that starts now: shells that wait in a snapshot wake up under other names and times, and
 * would all draw the same $RANDOM. */
static void become_fresh(void)
{
    char text[65] = "0";
    uint32_t seed = 0;
    bind_variable("BASH_EXECUTION_STRING", command_execution_string, 0);
    bind_variable("SECONDS", text, 0);
    gethostname(text, sizeof text - 1);
    bind_variable("HOSTNAME", text, 0);
    syscall(SYS_getrandom, &seed, sizeof seed, 1); /* GRND_NONBLOCK */
    snprintf(text, sizeof text, "%u", seed);
    bind_variable("RANDOM", text, 0);
}

/* All is done but to leave the memory, which takes as long as most commands: tell the agent already, and let it go first. The
 * libraries have nothing to do then, and would write to their pages for it. */
static void end_shell(int status, void *argument)
{
    const union sigval code = {.sival_int = status & 0xff};
    (void)argument;
    if (getpid() != dollar_dollar_pid) /* a subshell */
        return;
    fflush(NULL);
    if (syscall(SYS_close_range, 0, ~0U, 0) == 0 && sigqueue(getppid(), SIGCHLD, code) == 0)
        sched_yield();
    _exit(status);
}

/* In a fork: wait for a command, and become the shell that runs it. */
static int begin_shell(int socket)
{
    int descriptors[3];
    pid_t pid = getpid();
    setsid();
    dollar_dollar_pid = shell_pgrp = pid;
    dup2(socket, SHELL_SOCKET);
    close(socket);
    become_fresh(); /* has its own copy of each page that it will write to once there is a command */
    if (!receive_message(command_execution_string, COMMAND_MAX, descriptors, 3))
        return 1;
    for (int i = 0; i < 3; i++) {
        dup2(descriptors[i], i);
        close(descriptors[i]);
    }
    become_fresh();
    /* An agent that does not hear of it runs the command elsewhere. */
    if (send(SHELL_SOCKET, &pid, sizeof pid, MSG_NOSIGNAL) < 0)
        return 1;
    close(SHELL_SOCKET);
    if (on_exit)
        on_exit(end_shell, NULL);
    return 0;
}

/* A fork inherits the pages of a program that are in memory only where some page of the mapping is the process' own, and takes
 * a page fault for each of the others. So each large mapping gets one: a write through this file, of what is there, copies a
 * page. What was needed for the start alone is dropped before (it is in the page cache; code has no relocations), since to
 * inherit it and to give it back takes time, too. */
static void own_pages(void)
{
    unsigned long start, end;
    char line[512], byte;
    int memory = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    FILE *mappings = fopen("/proc/self/maps", "re");
    while (memory >= 0 && mappings && fgets(line, sizeof line, mappings))
        if (sscanf(line, "%lx-%lx", &start, &end) == 2 && end - start >= SMALL_MAPPING && strstr(line, " r-x") &&
            syscall(SYS_madvise, start, end - start, DONT_NEED) == 0 && pread(memory, &byte, 1, (off_t)start) == 1 &&
            pwrite(memory, &byte, 1, (off_t)start) < 0)
            break; /* it is only slower */
    if (mappings)
        fclose(mappings);
    if (memory >= 0)
        close(memory);
}

static int serve_forks(void *words)
{
    int socket;
    char ready = 0, nothing;
    (void)words;
    /* bash has put this builtin into a copy of its table. */
    shell_builtins = static_shell_builtins;
    num_shell_builtins--;
    memset(command_execution_string, 0, strlen(command_execution_string)); /* the place for the command */
    own_pages();
    parse_and_execute(strdup("true"), "attest", NO_HISTORY); /* brings in what commands need */
    send(SHELL_SOCKET, &ready, sizeof ready, MSG_NOSIGNAL);
    while (receive_message(&nothing, 1, &socket, 1)) {
        if (syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, NULL) == 0)
            return begin_shell(socket);
        close(socket);
    }
    return 1;
}

struct builtin attest_fork_struct = {.name = "attest_fork", .function = serve_forks, .flags = ENABLED, .usage = "attest_fork"};
