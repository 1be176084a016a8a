/* What PID 1 says of its boot, on the guest's console. */
#ifndef ATTEST_CONSOLE_H
#define ATTEST_CONSOLE_H

#include <stdbool.h>

/* Make the console the standard input, output and error. */
bool open_console(void);

__attribute__((format(printf, 1, 2))) void say_on_console(const char *format, ...);

/* Say why the guest does not boot, and end. PID 1's exit is a kernel panic, which ends the machine as the command
 * line's panic= says. */
__attribute__((format(printf, 1, 2), noreturn)) void give_up(const char *format, ...);

#endif
