/* attest-agent: carries commands, files, connections and identity between a host and the guest it runs in. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "boot.h"
#include "child.h"
#include "early.h"
#include "link.h"
#include "loop.h"
#include "operations.h"
#include "power.h"
#include "serve.h"
#include "session.h"
#include "shells.h"
#include "spawn.h"
#include "version.h"

/* How long nothing must happen before a shell is prepared. While a command runs, it has the processor; and when one has just
 * ended, the host has it, which may run this guest on the processor that it needs to go on. */
enum { IDLE_MS = 2, BUSY_MS = 100 };

static struct watch signals;

/* What signals mean for PID 1, as for busybox' init: reboot sends the first, and the kernel the second for Ctrl-Alt-Del. */
static enum power power_of(uint32_t signal_number)
{
    if (signal_number == SIGTERM || signal_number == SIGINT)
        return POWER_REBOOT;
    return signal_number == SIGUSR1 ? POWER_HALT : POWER_OFF;
}

static void signals_ready(struct watch *watch, uint32_t events)
{
    struct signalfd_siginfo info;
    (void)events;
    while (read(watch->fd, &info, sizeof info) == sizeof info)
        if (info.ssi_signo == SIGCHLD && info.ssi_code == SI_QUEUE)
            child_ends((pid_t)info.ssi_pid, info.ssi_int);
        else if (info.ssi_signo != SIGCHLD && getpid() != 1)
            exit(0);
        else if (info.ssi_signo != SIGCHLD)
            power_request(power_of(info.ssi_signo));
    children_reap();
}

/* What the agent's starter ignores, as the shell of a background job does, no command is to ignore. By a raw call,
 * since musl keeps signals 32 to 34 to itself. */
static void ignore_nothing(void)
{
    struct {
        void (*handler)(int);
        unsigned long flags, restorer, mask;
    } action; /* the kernel's form */
    for (int number = 1; number < NSIG; number++) {
        if (syscall(SYS_rt_sigaction, number, NULL, &action, NSIG / 8) < 0 || action.handler != SIG_IGN)
            continue;
        action.handler = SIG_DFL;
        syscall(SYS_rt_sigaction, number, &action, NULL, NSIG / 8);
    }
}

static void watch_signals(void)
{
    static const int ends[] = {SIGTERM, SIGINT, SIGPWR, SIGUSR1, SIGUSR2};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        sigaddset(&set, ends[i]);
    sigprocmask(SIG_SETMASK, &set, NULL);
    watch_start(&signals, signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC), EPOLLIN, signals_ready);
}

/* The loop's zeroed watches stand on 0, 1 and 2 being taken. */
static void take_standard_descriptors(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd <= 2);
    close(fd);
}

static void run_loop(void)
{
    for (;;) {
        links_flush();
        power_act();
        bool wanting = shells_wanting();
        int patience = session_operations() > 0 ? BUSY_MS : IDLE_MS;
        if (!loop_turn(wanting ? patience : -1) && wanting)
            shells_prepare();
    }
}

static int print_usage(void)
{
    fputs("usage: attest-agent [--unix PATH | --version]\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    const char *unix_path = NULL;
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        puts("attest-agent " AGENT_VERSION);
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "--unix") == 0)
        unix_path = argv[2];
    else if (argc != 1 && getpid() != 1) /* the kernel hands words of its command line to PID 1 */
        return print_usage();
    if (getpid() == 1 && !unix_path)
        boot_guest(argv);
    take_standard_descriptors();
    ignore_nothing();
    spawn_prepare();
    loop_start();
    watch_signals();
    session_start(operations);
    if (unix_path && !serve_unix(unix_path))
        return 1;
    if (!unix_path) {
        unmask_generators();
        serve_devices();
    }
    run_loop();
}
