/* Looking for processes. */
#ifndef ATTEST_PROCESS_H
#define ATTEST_PROCESS_H

#include <sys/types.h>

/* The PID of a living process by its name as in /proc/PID/comm, or by its decimal PID; 0 when there is none. A zombie has ended. */
pid_t process_find(const char *name);

/* A decimal PID as a number; 0 when it is none, or of no living process with that name (NULL: any). */
pid_t process_with_pid(const char *pid, const char *name);

#endif
