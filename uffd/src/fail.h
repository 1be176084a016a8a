/* The end of this process after an error. */
#ifndef ATTEST_FAIL_H
#define ATTEST_FAIL_H

/* Say why in one line, end the VMM, whose guest would wait for its memory for ever, and end. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
