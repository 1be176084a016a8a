/* POWER, and the end of a guest whose init is the agent. */
#include "power.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "system.h"

/* systemd(1) documents SIGRTMIN+4 and +5; its C library's SIGRTMIN is 34, this one's may be 35. */
enum { SYSTEMD_POWEROFF = 34 + 4, SYSTEMD_REBOOT = 34 + 5, GRACE_MS = 1000 };

static enum power requested;

void power_request(enum power action)
{
    requested = action;
}

/* Wait until there are no children, or the time is over. As PID 1 the agent is, in the end, everyone's parent. */
static void wait_for_children(int limit_ms)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    const struct timespec step = {.tv_nsec = 10 * 1000000};
    for (int waited = 0; waited < limit_ms; waited += 10) {
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD)
            return;
        sigtimedwait(&set, NULL, &step);
    }
}

static void stop_everything(enum power action)
{
    if (action != POWER_OFF_NOW && action != POWER_REBOOT_NOW) {
        kill(-1, SIGTERM);
        kill(-1, SIGCONT);
        wait_for_children(GRACE_MS);
    }
    kill(-1, SIGKILL);
    wait_for_children(GRACE_MS);
}

bool power_off_is_reboot(void)
{
    char *value = kernel_parameter("attest.poweroff");
    bool reboot = value && strcmp(value, "reboot") == 0;
    free(value);
    return reboot;
}

static void say_power_off(void)
{
    static const char line[] = "\n" SAY_POWER_OFF "\n";
    int console = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (console >= 0 && write(console, line, sizeof line - 1) > 0)
        tcdrain(console);
}

void power_act(void)
{
    if (requested == POWER_NONE)
        return;
    bool off = requested == POWER_OFF || requested == POWER_OFF_NOW, halt = requested == POWER_HALT;
    bool services = requested == POWER_OFF || requested == POWER_REBOOT;
    if (getpid() == 1)
        stop_everything(requested);
    else if (services) {
        kill(1, off ? SYSTEMD_POWEROFF : SYSTEMD_REBOOT);
        requested = POWER_NONE;
        return;
    }
    requested = POWER_NONE;
    sync();
    if (halt)
        reboot(RB_HALT_SYSTEM);
    if (off && !power_off_is_reboot())
        reboot(RB_POWER_OFF);
    if (off)
        say_power_off();
    reboot(RB_AUTOBOOT);
}

static void power_open(struct stream *stream, const struct request *request)
{
    uint32_t action = request_u32(request, 1, POWER_NONE);
    bool services = action == POWER_OFF || action == POWER_REBOOT;
    if (action < POWER_OFF || action > POWER_REBOOT_NOW)
        stream_fail(stream, EINVAL, "action %u is not known: 1 to 4 are", action);
    else if (geteuid() != 0)
        stream_fail(stream, EPERM, "the agent is not root");
    else if (services && strcmp(init_name(), "other") == 0)
        stream_fail(stream, EOPNOTSUPP, "this guest's init is not systemd: only actions 3 and 4 work");
    else {
        stream_end(stream, &(struct outcome){.status = DONE});
        power_request((enum power)action);
    }
}

const struct operation power_operation = {.number = 7, .fields = "4", .open = power_open};
