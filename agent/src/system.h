/* What kind of guest this is. */
#ifndef ATTEST_SYSTEM_H
#define ATTEST_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>

/* The first line of a file; empty when it cannot be read. Returns `line`. */
char *read_line(const char *path, char *line, size_t size);
/* The text of a file, up to a MiB of it, for free(); empty when it cannot be read. */
char *read_file(const char *path);
/* Write a whole file in one go, as /proc and /sys want it. */
bool write_text(const char *path, const char *text);

/* The value of NAME= on the kernel command line, for free(); NULL when it is not there. */
char *kernel_parameter(const char *name);

/* What tells this boot from others; empty when it cannot be read. */
const char *boot_id(void);
/* Whether there is a virtio device by which the host is reached over vsock. */
bool has_vsock(void);

/* `systemd`, `agent` (this process is PID 1) or `other`. */
const char *init_name(void);

/* The shell that runs commands: bash where the guest has it, else /bin/sh. */
const char *shell_path(void);

/* The PATH of commands. */
const char *default_path(void);

#endif
