#include "console.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

bool open_console(void)
{
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);
    if (fd < 0)
        return false;
    for (int standard = 0; standard <= 2; standard++)
        if (fd != standard)
            dup2(fd, standard);
    if (fd > 2)
        close(fd);
    return true;
}

void say_on_console(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vdprintf(1, format, args);
    va_end(args);
}

void give_up(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    dprintf(1, "attest-agent: boot failed: ");
    vdprintf(1, format, args);
    dprintf(1, "\n");
    va_end(args);
    sync();
    exit(1);
}
