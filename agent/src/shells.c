/* Starting bash costs 20 to 50 ms in an emulated guest, most of it before it looks at its command. So some are started
 * beforehand, and stand still at the last moment: `bash -c PLACE` with BASH_ENV naming a pipe, which bash reads to its end
 * before it runs the command. A command is handed over in two steps: it is written over PLACE, where the shell's memory holds
 * its argument, and then the pipe gets a few lines that undo what the waiting has changed, and ends. From there on the
 * shell is a `bash -c COMMAND` like any other: it executes a last command without forking, and says `-c` in its messages.
 *
 * PLACE is itself a command that runs the right one, should the argument not be writable, or be copied before by some bash. When
 * the agent dies, BASH_ENV is still set, and the shell ends. */
#include "shells.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "child.h"
#include "loop.h"
#include "memory.h"
#include "request.h"
#include "system.h"

#define PLACE "[[ $BASH_ENV ]] || eval \"$BASH_EXECUTION_STRING\""

enum { PLACE_SIZE = 4096, SHELLS_MAX = 8, DEATHS_MAX = 8, SHRINK_MS = 30000 };

struct shell {
    struct child child;
    struct running running;
    int control; /* the pipe that it waits for */
    struct shell *next;
};

/* What a shell has taken in at its start. When it is no longer so, a waiting shell would not be like a fresh one. */
struct stamp {
    const char *shell, *path;
    struct {
        dev_t device;
        ino_t inode;
        struct timespec changed;
    } files[3];
    struct rlimit limits[RLIM_NLIMITS];
};

static struct shell *waiting; /* oldest first */
static size_t waiting_count, fewest;
static size_t wanted = 1;
static size_t deaths; /* of waiting shells, since one was last used */
static struct stamp stamp;
static struct timer shrinking;

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
    for (int i = 0; i < RLIM_NLIMITS; i++)
        getrlimit(i, &now->limits[i]);
}

static void shell_remove(struct shell *shell)
{
    struct shell **at = &waiting;
    while (*at != shell)
        at = &(*at)->next;
    *at = shell->next;
    waiting_count--;
    child_forget(&shell->child);
    close(shell->control);
}

static void shell_discard(struct shell *shell)
{
    kill(shell->running.pid, SIGKILL);
    shell_remove(shell);
    running_close(&shell->running);
    free(shell);
}

static void shell_died(struct child *child, int status)
{
    struct shell *shell = container_of(child, struct shell, child);
    (void)status;
    deaths++;
    shell_remove(shell);
    running_close(&shell->running);
    free(shell);
}

/* Throw the waiting shells away when fresh ones would be different. */
static void check_stamp(void)
{
    struct stamp now;
    stamp_now(&now);
    if (memcmp(&now, &stamp, sizeof now) == 0)
        return;
    while (waiting)
        shell_discard(waiting);
    stamp = now;
    deaths = 0;
}

/* --- the hand-over --- */

static void add_quoted(struct buffer *script, const char *text)
{
    buffer_add(script, "'", 1);
    for (; *text; text++) {
        if (*text == '\'')
            buffer_add(script, "'\\''", 4);
        else
            buffer_add(script, text, 1);
    }
    buffer_add(script, "'\n", 2);
}

/* Variables are set to what they would be at a start: shells that wait in a snapshot wake up under other names and times,
 * and would all draw the same $RANDOM. */
static bool send_script(const struct shell *shell, const char *command)
{
    char name[65] = "", line[256];
    uint32_t seed = 0;
    struct buffer script = {0};
    gethostname(name, sizeof name - 1);
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) < 0)
        seed = (uint32_t)now_ms();
    int length = snprintf(line, sizeof line, "exec 3<&-\nunset BASH_ENV\nSECONDS=0\nRANDOM=%u\nHOSTNAME=", seed);
    buffer_add(&script, line, (size_t)length);
    add_quoted(&script, name);
    buffer_add(&script, "BASH_EXECUTION_STRING=", 22);
    add_quoted(&script, command);
    buffer_add(&script, ": ", 2); /* for $_ */
    add_quoted(&script, strrchr(stamp.shell, '/') + 1);
    ssize_t put = write(shell->control, script.bytes, buffer_size(&script));
    bool sent = put == (ssize_t)buffer_size(&script);
    buffer_free(&script);
    return sent;
}

/* What /proc/PID/stat says of a shell, by the numbers of its columns in proc(5). */
struct status {
    char state;           /* 3 */
    unsigned long flags;  /* 9: PF_... */
    unsigned long signal; /* 31: pending ones, with SIGKILL when any is going to end the process */
    unsigned long start;  /* 48: the address of the arguments */
};

enum { COLUMN_STATE = 3, COLUMN_FLAGS = 9, COLUMN_SIGNAL = 31, COLUMN_START = 48, EXITING = 0x4, NOT_EXECUTED = 0x40 };

static struct status shell_status(const struct shell *shell)
{
    char path[64], line[1024];
    struct status status = {.state = 'X'};
    snprintf(path, sizeof path, "/proc/%d/stat", shell->running.pid);
    char *column = strrchr(read_line(path, line, sizeof line), ')');
    for (int number = COLUMN_STATE; column && (column = strchr(column + 1, ' ')) && number <= COLUMN_START; number++) {
        unsigned long value = strtoul(column + 1, NULL, 10);
        if (number == COLUMN_STATE)
            status.state = column[1];
        else if (number == COLUMN_FLAGS)
            status.flags = value;
        else if (number == COLUMN_SIGNAL)
            status.signal = value;
        else if (number == COLUMN_START)
            status.start = value;
    }
    return status;
}

/* It was killed and is not dead yet, or the news of that is not read yet: `killall bash` was the command before, maybe. */
static bool is_dying(const struct status *status)
{
    return status->state == 'Z' || status->state == 'X' || status->flags & EXITING || status->signal;
}

/* A child that has only just been started may still have the agent's memory: vfork() returns a moment before that changes. */
static void write_argument(const struct shell *shell, const struct status *status, const char *command)
{
    char path[64];
    unsigned long start = status->flags & NOT_EXECUTED ? 0 : status->start;
    unsigned long address = start + strlen(strrchr(stamp.shell, '/') + 1) + 1 + sizeof "-c";
    static char place[PLACE_SIZE]; /* the rest is NUL: end of the argument */
    memset(place, 0, sizeof place);
    strcpy(place, command);
    snprintf(path, sizeof path, "/proc/%d/mem", shell->running.pid);
    int fd = start ? open(path, O_WRONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    if (pwrite(fd, place, sizeof place, (off_t)address) < 0)
        perror("attest-agent: a waiting shell's argument"); /* nothing has changed, and PLACE runs the command */
    close(fd);
}

bool shells_take(const char *command, struct running *running)
{
    check_stamp();
    if (strlen(command) >= PLACE_SIZE)
        return false;
    struct shell *shell;
    struct status status;
    while ((shell = waiting) && (status = shell_status(shell), is_dying(&status)))
        shell_discard(shell);
    if (!shell) {
        wanted = wanted < SHELLS_MAX ? wanted + 1 : wanted;
        return false;
    }
    write_argument(shell, &status, command);
    if (!send_script(shell, command)) {
        shell_discard(shell);
        return false;
    }
    *running = shell->running;
    shell_remove(shell);
    free(shell);
    fewest = waiting_count < fewest ? waiting_count : fewest;
    deaths = 0;
    return true;
}

/* --- the number of shells --- */

/* One fewer when not all were used of late. */
static void shrink(struct timer *timer)
{
    if (fewest > 0 && waiting && wanted > 1) {
        wanted--;
        if (waiting_count > wanted)
            shell_discard(waiting);
    }
    fewest = waiting_count;
    if (wanted > 1)
        timer_set(timer, SHRINK_MS, shrink);
}

bool shells_waiting(void)
{
    return waiting_count > 0;
}

bool shells_wanting(void)
{
    return waiting_count < wanted && deaths < DEATHS_MAX;
}

static char **shell_arguments(void)
{
    static char place[PLACE_SIZE];
    static char *arguments[4];
    memset(place, ' ', sizeof place - 1);
    memcpy(place, PLACE, strlen(PLACE));
    arguments[0] = strrchr(stamp.shell, '/') + 1;
    arguments[1] = "-c";
    arguments[2] = place;
    return arguments;
}

static bool shell_start(struct shell *shell)
{
    int control[2];
    static char *const extra[] = {"BASH_ENV=/proc/self/fd/3", NULL};
    if (pipe2(control, O_CLOEXEC | O_NONBLOCK) < 0)
        return false;
    fcntl(control[0], F_SETFL, 0);
    char **environment = environment_make(NULL, false, extra);
    struct spawn spawn = {.program = stamp.shell, .arguments = shell_arguments(), .environment = environment,
                          .directory = "/", .extra = control[0]};
    bool started = spawn_on_pipes(&spawn, &shell->running);
    texts_free(environment);
    close(control[0]);
    shell->control = control[1];
    if (!started)
        close(control[1]);
    return started;
}

void shells_add(void)
{
    check_stamp();
    struct shell *shell = allocate(sizeof *shell);
    if (strcmp(strrchr(stamp.shell, '/'), "/bash") != 0 || !shell_start(shell)) {
        free(shell);
        deaths = DEATHS_MAX; /* until the stamp is another */
        return;
    }
    child_watch(&shell->child, shell->running.pid, shell_died);
    struct shell **end = &waiting;
    while (*end)
        end = &(*end)->next;
    *end = shell;
    waiting_count++;
    if (wanted > 1 && !shrinking.at)
        timer_set(&shrinking, SHRINK_MS, shrink);
}
