#include "child.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "system.h"

enum { KILLED_MAX = 4096, ENDING_MAX = 64, PATIENCE_S = 1 };

static struct child *children;
static pid_t ending[ENDING_MAX];
static size_t ending_count;

void child_watch(struct child *child, pid_t pid, void (*exited)(struct child *, int))
{
    *child = (struct child){.pid = pid, .exited = exited, .next = children};
    children = child;
}

void child_forget(struct child *child)
{
    for (struct child **at = &children; *at; at = &(*at)->next) {
        if (*at == child) {
            *at = child->next;
            break;
        }
    }
    child->pid = 0;
}

static struct child *child_find(pid_t pid)
{
    struct child *child = children;
    while (child && child->pid != pid)
        child = child->next;
    return child;
}

static void ending_forget(pid_t pid)
{
    for (size_t i = 0; i < ending_count; i++)
        if (ending[i] == pid)
            ending[i--] = ending[--ending_count];
}

void children_reap(void)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        ending_forget(pid);
        struct child *child = child_find(pid);
        if (child) {
            child_forget(child);
            child->exited(child, status);
        }
    }
}

void child_ends(pid_t pid, int code)
{
    struct child *child = child_find(pid);
    if (!child || ending_count == ENDING_MAX)
        return;
    ending[ending_count++] = pid;
    child_forget(child);
    child->exited(child, (code & 0xff) << 8 /* as waitpid() has it */);
}

void children_settle(void)
{
    const struct timespec at_once = {0}, patience = {.tv_sec = PATIENCE_S};
    siginfo_t info;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    /* Also one that waits for nobody: while it does, the kernel keeps no other. */
    while (sigtimedwait(&set, &info, ending_count ? &patience : &at_once) > 0) {
        if (info.si_code == SI_QUEUE)
            child_ends(info.si_pid, info.si_value.sival_int);
        children_reap();
    }
    ending_count = 0; /* a debugger may hold them for ever */
}

/* Whether /proc/PID/stat says that it is a living process of the session. */
static bool in_session(const char *pid, pid_t session)
{
    char path[300], line[512], state;
    int parent, group, found;
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    char *after_name = strrchr(read_line(path, line, sizeof line), ')');
    return after_name && sscanf(after_name + 1, " %c %d %d %d", &state, &parent, &group, &found) == 4 &&
           found == session && state != 'Z' && state != 'X';
}

struct killed {
    pid_t pids[KILLED_MAX];
    size_t count;
};

static bool is_new(struct killed *killed, pid_t pid)
{
    for (size_t i = 0; i < killed->count; i++)
        if (killed->pids[i] == pid)
            return false;
    if (killed->count < KILLED_MAX)
        killed->pids[killed->count++] = pid;
    return killed->count < KILLED_MAX;
}

/* Whether there were processes that the rounds before did not see. */
static bool kill_round(pid_t session, struct killed *killed)
{
    DIR *proc = opendir("/proc");
    bool found = false;
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || !in_session(entry->d_name, session))
            continue;
        pid_t pid = (pid_t)atoi(entry->d_name);
        kill(pid, SIGKILL);
        found |= is_new(killed, pid);
    }
    if (proc)
        closedir(proc);
    return found;
}

void kill_session(pid_t leader)
{
    static struct killed killed;
    killed.count = 0;
    kill(-leader, SIGKILL);
    /* A process may have forked behind the reading of /proc. What has got SIGKILL forks no more, so this ends soon. */
    while (kill_round(leader, &killed))
        ;
}
