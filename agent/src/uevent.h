/* The kernel's announcements of devices. */
#ifndef ATTEST_UEVENT_H
#define ATTEST_UEVENT_H

/* A non-blocking socket that becomes readable when a device comes or goes; -1 with errno. */
int uevent_open(void);
/* Read away what has been announced. */
void uevent_drain(int fd);

#endif
