/* Where hosts come from: a Unix socket, vsock, the virtio-serial port. */
#ifndef ATTEST_SERVE_H
#define ATTEST_SERVE_H

#include <stdbool.h>

/* Whether it listens; when not, it has said why on stderr. */
bool serve_unix(const char *path);

/* Serve the guest's devices, those that appear later too. */
void serve_devices(void);

#endif
