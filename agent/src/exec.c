#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "account.h"
#include "child.h"
#include "holders.h"
#include "loop.h"
#include "memory.h"
#include "shells.h"
#include "spawn.h"
#include "system.h"

enum { COMMAND = 1, ARGUMENT, DIRECTORY, USER, ENVIRONMENT, LIMIT, TERMINAL, FLAGS };
enum { INPUT_FOLLOWS = 1, LEAVE_BACKGROUND = 2, STRICT = 4 };
enum { OUTPUT, ERROR, CHANNELS, DEATH_MS = 5000, HELD_MS = 3000, END_OF_INPUT = 4 };

static const uint32_t reading = EPOLLIN | EPOLLET;
static const size_t endless = SIZE_MAX;

struct output {
    struct watch watch;
    uint8_t channel;
    size_t left; /* to be read before it is closed: endless while others may still write what belongs to the command */
};

struct exec {
    struct stream *stream;
    struct child child;
    pid_t session;
    struct timer limit, held;
    struct output outputs[CHANNELS];
    struct watch input;  /* a pipe; a terminal's input goes to outputs[OUTPUT] */
    struct buffer unread; /* input that the pipe has not taken yet */
    bool terminal, leave_background, input_closed;
    bool is_shell, exited;
    int status;         /* of waitpid(), when exited */
    enum status killed; /* TIMED_OUT or CANCELLED when the agent ended it, else DONE */
    char *late;         /* why it had not ended by its time limit, though it has exited; else NULL */
};

static void exec_free(struct exec *exec)
{
    child_forget(&exec->child);
    timer_stop(&exec->limit);
    timer_stop(&exec->held);
    free(exec->late);
    for (int i = 0; i < CHANNELS; i++)
        watch_close(&exec->outputs[i].watch);
    watch_close(&exec->input);
    buffer_free(&exec->unread);
    free(exec);
}

static void exec_finish(struct exec *exec)
{
    struct stream *stream = exec->stream;
    char *late = exec->late;
    struct outcome outcome = {.status = exec->killed, .message = late};
    /* With the RESULT, so that the host is woken once. */
    for (uint8_t channel = 0; channel < CHANNELS && exec->killed == DONE; channel++)
        stream_send_eof(stream, channel);
    if (exec->killed == DONE && WIFSIGNALED(exec->status)) {
        outcome.status = KILLED;
        outcome.code = WTERMSIG(exec->status);
    } else if (exec->killed == DONE) {
        outcome.status = EXITED;
        outcome.code = WEXITSTATUS(exec->status);
    }
    exec->late = NULL;
    exec_free(exec);
    stream_end(stream, &outcome);
    free(late);
}

/* --- output --- */

/* Send what is there, as far as the host takes it. */
static void output_pump(struct exec *exec, struct output *output)
{
    while (watch_active(&output->watch)) {
        size_t room = output->left ? stream_room(exec->stream) : 1;
        if (!room)
            return;
        if (room > output->left)
            room = output->left;
        ssize_t got = room ? stream_send_from(exec->stream, output->channel, output->watch.fd, room) : 0;
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN && output->left == endless)
            return;
        if (got <= 0) /* also EIO, when the last process has left a terminal */
            watch_close(&output->watch);
        else if (output->left != endless)
            output->left -= (size_t)got;
    }
}

/* Others may hold the command's output open for ever: take what is there now, and no more. */
static void output_limit(struct output *output)
{
    int waiting = 0;
    if (watch_active(&output->watch) && output->left == endless) {
        ioctl(output->watch.fd, FIONREAD, &waiting);
        output->left = (size_t)waiting;
    }
}

static bool outputs_open(const struct exec *exec)
{
    return watch_active(&exec->outputs[OUTPUT].watch) || watch_active(&exec->outputs[ERROR].watch);
}

/* Move on what can be moved on, and end the operation when that was all. */
static void exec_progress(struct exec *exec)
{
    for (int i = 0; i < CHANNELS; i++) {
        /* What goes on in the background holds a command by its output, not by its errors. */
        bool held = i == OUTPUT || watch_active(&exec->outputs[OUTPUT].watch);
        if (exec->exited && (exec->leave_background || exec->killed != DONE || !held))
            output_limit(&exec->outputs[i]);
        output_pump(exec, &exec->outputs[i]);
    }
    /* What is left of a killed command's output is not worth waiting for a host that takes none. */
    if (exec->exited && (!outputs_open(exec) || exec->killed != DONE))
        exec_finish(exec);
}

/* --- input --- */

static void input_close(struct exec *exec)
{
    exec->input_closed = true;
    watch_close(&exec->input);
    stream_consumed(exec->stream, buffer_size(&exec->unread));
    buffer_free(&exec->unread);
}

/* The end of input to a terminal is a character, which ends what its reader reads now. */
static void input_end(struct exec *exec)
{
    static const char end = END_OF_INPUT;
    if (exec->terminal && write(exec->outputs[OUTPUT].watch.fd, &end, 1) < 0 && errno == EAGAIN)
        return;
    input_close(exec);
}

static void input_pump(struct exec *exec)
{
    int fd = exec->terminal ? exec->outputs[OUTPUT].watch.fd : exec->input.fd;
    while (!exec->input_closed && buffer_size(&exec->unread)) {
        ssize_t put = write(fd, exec->unread.bytes + exec->unread.start, buffer_size(&exec->unread));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno == EAGAIN)
            return;
        if (put < 0) {
            input_close(exec);
            return;
        }
        buffer_take(&exec->unread, (size_t)put);
        stream_consumed(exec->stream, (size_t)put);
    }
    if (!exec->input_closed && exec->stream->input_ended)
        input_end(exec);
}

static void input_ready(struct watch *watch, uint32_t events)
{
    struct exec *exec = container_of(watch, struct exec, input);
    if (events & EPOLLERR) /* nobody will read it */
        input_close(exec);
    else
        input_pump(exec);
}

static void output_ready(struct watch *watch, uint32_t events)
{
    struct output *output = container_of(watch, struct output, watch);
    struct exec *exec = container_of(output - output->channel, struct exec, outputs[0]);
    if (events & EPOLLOUT)
        input_pump(exec);
    if (events & ~(uint32_t)EPOLLOUT)
        exec_progress(exec);
}

/* --- the end --- */

/* Why the command has not ended, though its process has. */
static char *held_text(const struct exec *exec)
{
    const char *who = exec->is_shell ? "its shell" : "it";
    bool killed = WIFSIGNALED(exec->status);
    char *holders = holders_text(exec->outputs[OUTPUT].watch.fd);
    char *text = killed ? format_text("%s was killed by signal %d, but %s its output open", who, WTERMSIG(exec->status), holders)
                        : format_text("%s has exited with %d, but %s its output open", who, WEXITSTATUS(exec->status), holders);
    free(holders);
    return text;
}

/* Whether only its output keeps it; the host may be slow to take that. */
static bool is_held(const struct exec *exec)
{
    return exec->exited && watch_active(&exec->outputs[OUTPUT].watch) && exec->stream->send_window;
}

static void exec_held(struct timer *timer)
{
    struct exec *exec = container_of(timer, struct exec, held);
    if (!is_held(exec))
        return;
    char *text = held_text(exec);
    stream_note(exec->stream, text);
    free(text);
}

static void exec_exited(struct child *child, int status)
{
    struct exec *exec = container_of(child, struct exec, child);
    exec->exited = true;
    exec->status = status;
    timer_set(&exec->held, HELD_MS, exec_held);
    exec_progress(exec);
}

static void exec_undead(struct timer *timer)
{
    exec_finish(container_of(timer, struct exec, limit));
}

static void exec_kill(struct exec *exec, enum status why)
{
    if (exec->killed != DONE)
        return;
    exec->killed = why;
    kill_session(exec->session);
    /* A process in an uninterruptible sleep dies when that ends, which may be never. */
    timer_set(&exec->limit, DEATH_MS, exec_undead);
    if (exec->exited)
        exec_progress(exec);
}

static void exec_overdue(struct timer *timer)
{
    struct exec *exec = container_of(timer, struct exec, limit);
    if (is_held(exec))
        exec->late = held_text(exec);
    exec_kill(exec, TIMED_OUT);
}

/* --- the start --- */

/* From one request: what to start. */
struct command {
    char *text, *directory;
    char **arguments; /* of the program: given, or the shell's */
    char **environment;
    const char *program;
    struct account *account;
    uint32_t flags;
    bool terminal;
    uint16_t rows, columns;
};

static void command_free(struct command *command)
{
    free(command->text);
    free(command->directory);
    texts_free(command->arguments);
    texts_free(command->environment);
    account_free(command->account);
}

/* The arguments of SHELL -c TEXT, or of SHELL -euo pipefail -c TEXT. */
static char **shell_arguments(const char *shell, bool strict, const char *text)
{
    char **arguments = allocate_zeroed(6 * sizeof *arguments);
    const char *const words[] = {strrchr(shell, '/') + 1, "-euo", "pipefail", "-c", text};
    size_t count = 0;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strict || i < 1 || i > 2)
            arguments[count++] = copy_text(words[i], strlen(words[i]));
    return arguments;
}

/* NULL, or what is wrong with the request. */
static const char *command_read(struct command *command, const struct request *request)
{
    size_t argument_count, extra_count;
    char *user = request_text(request, USER);
    uint32_t size = request_u32(request, TERMINAL, 0);
    *command = (struct command){
        .text = request_text(request, COMMAND),
        .directory = request_text(request, DIRECTORY),
        .arguments = request_texts(request, ARGUMENT, &argument_count, 0),
        .flags = request_u32(request, FLAGS, 0),
        .terminal = request_has(request, TERMINAL),
        .rows = (uint16_t)size,
        .columns = (uint16_t)(size >> 16),
    };
    if (user)
        command->account = account_find(user);
    bool user_missing = user && !command->account;
    free(user);
    if (user_missing)
        return "there is no such user";
    if ((command->text != NULL) == (argument_count > 0))
        return "one of a command and arguments belongs there";
    char **extra = request_texts(request, ENVIRONMENT, &extra_count, 0);
    command->environment = environment_make(command->account, command->terminal, extra);
    texts_free(extra);
    if (command->text) {
        texts_free(command->arguments);
        command->program = shell_path();
        command->arguments = shell_arguments(command->program, command->flags & STRICT, command->text);
    } else {
        command->program = command->arguments[0];
    }
    return NULL;
}

/* Whether a forked shell would do: it is a strict one, in the default surroundings. */
static bool is_plain(const struct request *request)
{
    return (request_u32(request, FLAGS, 0) & STRICT) && request_has(request, COMMAND) && !request_has(request, ARGUMENT) &&
           !request_has(request, DIRECTORY) && !request_has(request, USER) && !request_has(request, ENVIRONMENT) &&
           !request_has(request, TERMINAL);
}

static bool start_warm(const struct request *request, struct running *running)
{
    if (!is_plain(request))
        return false;
    char *text = request_text(request, COMMAND);
    bool taken = shells_take(text, request_u32(request, FLAGS, 0) & INPUT_FOLLOWS, running);
    free(text);
    return taken;
}

static const char *default_directory(const struct command *command)
{
    const struct account *account = command->account;
    if (command->flags & STRICT)
        return SHELL_DIRECTORY;
    return account && access(account->home, X_OK) == 0 ? account->home : "/";
}

static bool start_cold(struct stream *stream, const struct command *command, struct running *running)
{
    struct spawn spawn = {.program = command->program, .arguments = command->arguments, .account = command->account,
                          .environment = command->environment, .directory = command->directory};
    if (!spawn.directory)
        spawn.directory = default_directory(command);
    if (command->terminal ? spawn_on_terminal(&spawn, command->rows, command->columns, running)
                          : spawn_on_pipes(&spawn, command->flags & INPUT_FOLLOWS, running))
        return true;
    const char *what = spawn.failed_step;
    if (strcmp(what, "execute") == 0)
        what = spawn.program;
    else if (strcmp(what, "working directory") == 0)
        what = spawn.directory;
    stream_fail(stream, spawn.failure, "%s: %s", what, strerror(spawn.failure));
    return false;
}

static void watch_output(struct exec *exec, uint8_t channel, int fd, uint32_t events)
{
    struct output *output = &exec->outputs[channel];
    output->channel = channel;
    output->left = endless;
    if (fd > 0)
        watch_start(&output->watch, fd, events, output_ready);
}

static void exec_begin(struct stream *stream, const struct request *request, const struct running *running)
{
    struct exec *exec = allocate_zeroed(sizeof *exec);
    uint32_t flags = request_u32(request, FLAGS, 0);
    exec->stream = stream;
    exec->session = running->pid;
    exec->terminal = request_has(request, TERMINAL);
    exec->is_shell = request_has(request, COMMAND);
    exec->leave_background = flags & LEAVE_BACKGROUND;
    stream->state = exec;
    child_watch(&exec->child, running->pid, exec_exited);
    watch_output(exec, OUTPUT, running->output, exec->terminal ? reading | EPOLLOUT : reading);
    watch_output(exec, ERROR, running->error, reading);
    if (request_has(request, LIMIT))
        timer_set(&exec->limit, request_u64(request, LIMIT, 0), exec_overdue);
    if (flags & INPUT_FOLLOWS) {
        if (!exec->terminal)
            watch_start(&exec->input, running->input, EPOLLOUT | EPOLLET, input_ready);
        return;
    }
    stream->input_ended = true;
    input_end(exec);
}

static void exec_open(struct stream *stream, const struct request *request)
{
    struct running running;
    if (start_warm(request, &running)) {
        exec_begin(stream, request, &running);
        return;
    }
    struct command command;
    const char *fault = command_read(&command, request);
    if (fault)
        stream_fail(stream, EINVAL, "%s", fault);
    else if (start_cold(stream, &command, &running))
        exec_begin(stream, request, &running);
    command_free(&command);
}

/* --- what the host sends --- */

static void exec_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct exec *exec = stream->state;
    if (exec->input_closed) {
        stream_consumed(stream, size);
        return;
    }
    buffer_add(&exec->unread, bytes, size);
    input_pump(exec);
}

static void exec_eof(struct stream *stream)
{
    input_pump(stream->state);
}

static void exec_room(struct stream *stream)
{
    exec_progress(stream->state);
}

static void exec_resize(struct stream *stream, uint16_t rows, uint16_t columns)
{
    struct exec *exec = stream->state;
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    if (exec->terminal && watch_active(&exec->outputs[OUTPUT].watch))
        ioctl(exec->outputs[OUTPUT].watch.fd, TIOCSWINSZ, &size);
}

static void exec_cancel(struct stream *stream)
{
    exec_kill(stream->state, CANCELLED);
}

static void exec_drop(struct stream *stream)
{
    struct exec *exec = stream->state;
    kill_session(exec->session);
    exec_free(exec);
}

const struct operation exec_operation = {
    .number = 1,
    .fields = "tTttT8w4",
    .open = exec_open,
    .data = exec_data,
    .eof = exec_eof,
    .room = exec_room,
    .resize = exec_resize,
    .cancel = exec_cancel,
    .drop = exec_drop,
};
