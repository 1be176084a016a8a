#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "memory.h"
#include "system.h"

enum { CHILD_STACK = 32768 };

static struct rlimit files_limit; /* of commands; the agent's own is higher */
static bool oom_adjusted;         /* the agent is spared by the OOM killer; commands are not */

void spawn_prepare(void)
{
    signal(SIGPIPE, SIG_IGN);
    /* A command that writes, or ends, goes on until it waits or its time slice is over, instead of giving way to the agent at
     * each of its last steps: each change of process empties an emulated processor's translation buffer. */
    struct sched_param none = {0};
    syscall(SYS_sched_setscheduler, 0, SCHED_BATCH | SCHED_RESET_ON_FORK, &none);
    umask(022);
    getrlimit(RLIMIT_NOFILE, &files_limit);
    struct rlimit raised = {.rlim_cur = files_limit.rlim_max, .rlim_max = files_limit.rlim_max};
    setrlimit(RLIMIT_NOFILE, &raised);
    char line[16];
    oom_adjusted = strcmp(read_line("/proc/self/oom_score_adj", line, sizeof line), "0") != 0 && line[0];
}

/* --- in the new process ---
 * It shares the agent's memory until it executes the program (the agent stands still meanwhile), which spares the copying of
 * page tables: under emulation that is a third of the cost of a new process. So only system calls here, nothing that allocates. */

static int spawn_fail(struct spawn *spawn, const char *step)
{
    spawn->failure = errno;
    spawn->failed_step = step;
    return 127;
}

static int become_account(const struct account *account)
{
    /* The bare system calls: the library's would look for threads to tell. */
    if (syscall(SYS_setgroups, account->group_count, account->groups) < 0)
        return -1;
    if (syscall(SYS_setresgid, account->gid, account->gid, account->gid) < 0)
        return -1;
    return (int)syscall(SYS_setresuid, account->uid, account->uid, account->uid);
}

static int execute_program(const struct spawn *spawn)
{
    char path[4096];
    const char *place = environment_get(spawn->environment, "PATH");
    int failure = ENOENT;
    if (strchr(spawn->program, '/') || !place)
        return execve(spawn->program, spawn->arguments, spawn->environment);
    for (;; place++) {
        size_t length = strcspn(place, ":");
        if (length + strlen(spawn->program) + 2 < sizeof path) {
            memcpy(path, place, length);
            path[length] = '/';
            strcpy(path + length + (length > 0), spawn->program);
            execve(path, spawn->arguments, spawn->environment);
            if (errno != ENOENT && errno != ENOTDIR)
                failure = errno;
        }
        place += length;
        if (!*place)
            break;
    }
    errno = failure;
    return -1;
}

static int prepare_and_execute(struct spawn *spawn)
{
    sigset_t none;
    sigemptyset(&none);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setrlimit(RLIMIT_NOFILE, &files_limit);
    if (oom_adjusted)
        write_text("/proc/self/oom_score_adj", "0");
    if (setsid() < 0)
        return spawn_fail(spawn, "setsid");
    if (spawn->terminal && ioctl(spawn->input, TIOCSCTTY, 0) < 0)
        return spawn_fail(spawn, "controlling terminal");
    if (dup2(spawn->input, 0) < 0 || dup2(spawn->output, 1) < 0 || dup2(spawn->error, 2) < 0)
        return spawn_fail(spawn, "descriptors");
    if (spawn->extra == 3)
        fcntl(3, F_SETFD, 0);
    else if (spawn->extra > 0 && dup2(spawn->extra, 3) < 0)
        return spawn_fail(spawn, "descriptors");
    if (spawn->account && become_account(spawn->account) < 0)
        return spawn_fail(spawn, "user");
    if (chdir(spawn->directory) < 0)
        return spawn_fail(spawn, "working directory");
    execute_program(spawn);
    return spawn_fail(spawn, "execute");
}

__attribute__((no_sanitize("address", "undefined"))) static int child_main(void *spawn)
{
    /* Not exit(): that would run what the agent has registered. */
    syscall(SYS_exit_group, prepare_and_execute(spawn));
    return 127;
}

/* --- in the agent --- */

pid_t spawn_on_descriptors(struct spawn *spawn)
{
    static uint8_t *stack;
    stack = stack ? stack : allocate_zeroed(CHILD_STACK);
    spawn->failure = 0;
    pid_t pid = clone(child_main, stack + CHILD_STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, spawn);
    if (pid < 0)
        spawn_fail(spawn, "new process");
    if (!spawn->failure)
        return pid;
    if (pid > 0)
        waitpid(pid, NULL, 0);
    return -1;
}

/* A pipe of which the agent has the end that does not wait, and a command the other. */
static bool make_pipe(int *agents, int *commands, bool agent_reads)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return false;
    *agents = ends[agent_reads ? 0 : 1];
    *commands = ends[agent_reads ? 1 : 0];
    fcntl(*agents, F_SETFL, O_NONBLOCK);
    return true;
}

bool start_on_pipes(struct running *running, bool takes_input, pid_t (*start)(const int ends[3], void *context),
                    void *context)
{
    static int nothing;
    int ends[3] = {-1, -1, -1};
    *running = (struct running){.pid = -1, .input = -1, .output = -1, .error = -1};
    if (nothing <= 0)
        nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (takes_input)
        make_pipe(&running->input, &ends[0], false);
    else
        ends[0] = nothing;
    if (ends[0] >= 0 && make_pipe(&running->output, &ends[1], true) && make_pipe(&running->error, &ends[2], true))
        running->pid = start(ends, context);
    for (int i = 0; i < 3; i++)
        if (ends[i] >= 0 && ends[i] != nothing)
            close(ends[i]);
    if (running->pid < 0)
        running_close(running);
    return running->pid > 0;
}

static pid_t spawn_with(const int ends[3], void *context)
{
    struct spawn *spawn = context;
    spawn->input = ends[0];
    spawn->output = ends[1];
    spawn->error = ends[2];
    return spawn_on_descriptors(spawn);
}

bool spawn_on_pipes(struct spawn *spawn, bool takes_input, struct running *running)
{
    bool started = start_on_pipes(running, takes_input, spawn_with, spawn);
    if (!started && !spawn->failed_step)
        spawn_fail(spawn, "pipes");
    return started;
}

static int open_terminal(struct spawn *spawn, int master, uint16_t rows, uint16_t columns)
{
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    char name[32];
    int number, locked = 0;
    if (ioctl(master, TIOCGPTN, &number) < 0 || ioctl(master, TIOCSPTLCK, &locked) < 0 ||
        ioctl(master, TIOCSWINSZ, &size) < 0)
        return -1;
    snprintf(name, sizeof name, "/dev/pts/%d", number);
    int side = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (side >= 0 && spawn->account && fchown(side, spawn->account->uid, (gid_t)-1) < 0) {
        close(side);
        return -1;
    }
    return side;
}

bool spawn_on_terminal(struct spawn *spawn, uint16_t rows, uint16_t columns, struct running *running)
{
    *running = (struct running){.input = -1, .error = -1};
    running->output = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    int side = running->output < 0 ? -1 : open_terminal(spawn, running->output, rows, columns);
    if (side < 0) {
        spawn_fail(spawn, "terminal");
        running_close(running);
        return false;
    }
    spawn->input = spawn->output = spawn->error = side;
    spawn->terminal = true;
    running->pid = spawn_on_descriptors(spawn);
    close(side);
    if (running->pid < 0)
        running_close(running);
    return running->pid > 0;
}

void running_close(struct running *running)
{
    int *const ends[] = {&running->input, &running->output, &running->error};
    for (int i = 0; i < 3; i++) {
        if (*ends[i] > 0)
            close(*ends[i]);
        *ends[i] = -1;
    }
}
