/* Who holds a command's output open. */
#ifndef ATTEST_HOLDERS_H
#define ATTEST_HOLDERS_H

/* The processes that hold the other end of a pipe or terminal, for people, such as `process 140 (sleep) holds`. For free(). */
char *holders_text(int fd);

#endif
