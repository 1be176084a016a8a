/* Block devices that are made of others, see Documentation/admin-guide/device-mapper in the kernel. */
#ifndef ATTEST_DEVICE_MAPPER_H
#define ATTEST_DEVICE_MAPPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A part of a device: what is in its `sectors` (of 512 bytes). */
struct target {
    uint64_t sectors;
    const char *type;
    char parameters[160];
};

/* Make the device NAME of targets that follow each other. `device` becomes its path. False with errno; `step` says what
 * failed. */
bool device_mapper_create(const char *name, const struct target *targets, size_t count, char *device, size_t size,
                          const char **step);

#endif
