/* The end of this process after an error. */
#ifndef ATTEST_FATAL_H
#define ATTEST_FATAL_H

/* Say why in one line, end the VMM, whose guest would wait for its memory for ever, and end. */
_Noreturn void fatal_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The VMM that fatal_error() ends, as a pidfd; until one is given, it ends none. */
void fatal_for_vmm(int vmm);

#endif
