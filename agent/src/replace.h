/* Replacing files. */
#ifndef ATTEST_REPLACE_H
#define ATTEST_REPLACE_H

#include <sys/types.h>

/* Replace a text file at once, so that no reader sees a part of it; a file that is a mount of its own is written in place. It
 * keeps its mode and owner; where there was none it gets `mode`. On a disk that is full, one that has the text already will do.
 * Returns 0 or an errno. */
int replace_file(const char *path, const char *text, mode_t mode);

#endif
