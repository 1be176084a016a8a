/* Tar headers (POSIX ustar and pax), and what they say of a file. */
#ifndef ATTEST_TAR_FORMAT_H
#define ATTEST_TAR_FORMAT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

enum { TAR_BLOCK = 512, TAR_PATH_MAX = 4096, TAR_EXTENDED_MAX = 65536 };

enum tar_type {
    TAR_FILE = '0',
    TAR_HARD_LINK = '1',
    TAR_SYMLINK = '2',
    TAR_DIRECTORY = '5',
    TAR_PAX = 'x',
    TAR_LONG_NAME = 'L', /* GNU's, as the next */
    TAR_LONG_LINK = 'K',
};

struct tar_header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
    char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], unused[12];
};

_Static_assert(sizeof(struct tar_header) == TAR_BLOCK, "a header is one block");

struct tar_member {
    char type;
    const char *path, *link;
    uint64_t size; /* 0 unless it is a file */
    mode_t mode;   /* permissions, and the set-ID and sticky bits */
    uid_t uid;
    gid_t gid;
    struct timespec modified;
};

/* What follows so much content, to the end of its last block. */
static inline size_t tar_padding(uint64_t size)
{
    return (size_t)(-size % TAR_BLOCK);
}

/* The sum of a header's bytes, those of the sum itself taken as spaces. */
static inline uint32_t tar_checksum(const struct tar_header *header)
{
    const uint8_t *bytes = (const uint8_t *)header;
    uint32_t sum = sizeof header->checksum * ' ';
    for (size_t i = 0; i < TAR_BLOCK; i++)
        if (i < offsetof(struct tar_header, checksum) || i >= offsetof(struct tar_header, type))
            sum += bytes[i];
    return sum;
}

#endif
