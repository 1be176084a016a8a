#include "fatal.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int ended_vmm = -1;

void fatal_for_vmm(int vmm)
{
    ended_vmm = vmm;
}

void fatal_error(const char *format, ...)
{
    char line[256];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    dprintf(2, "attest-uffd: %s\n", line);
    if (ended_vmm >= 0)
        syscall(SYS_pidfd_send_signal, ended_vmm, SIGKILL, NULL, 0);
    exit(1);
}
