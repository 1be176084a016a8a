/* The tar format: headers and pax records, read and written. No input or output. */
#ifndef ATTEST_TAR_H
#define ATTEST_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "memory.h"

enum { TAR_BLOCK = 512, TAR_EXTRA_MAX = 1 << 20 };
enum { TAR_FILE = '0', TAR_HARD_LINK = '1', TAR_LINK = '2', TAR_DIRECTORY = '5' };
enum { TAR_PAX = 'x', TAR_PAX_GLOBAL = 'g', TAR_LONG_NAME = 'L', TAR_LONG_LINK = 'K' };

struct tar_member {
    char type;
    char *name, *link; /* the member's own */
    uint32_t mode, uid, gid;
    uint64_t size; /* of what follows its header */
    bool sparse;   /* that begins with a map of its data, and the file is larger */
    uint64_t real_size;
    struct timespec changed;
};

void tar_member_clear(struct tar_member *member);

static inline size_t tar_padding(uint64_t size)
{
    return (size_t)((TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK);
}

bool tar_is_zero(const uint8_t *bytes, size_t size);

/* Bytes of the whole file. */
static inline uint64_t tar_file_size(const struct tar_member *member)
{
    return member->sparse ? member->real_size : member->size;
}

/* What the records of a pax header say of the member that follows. */
struct tar_pax {
    char *name, *link;
    bool has_size, has_uid, has_gid, has_changed, has_real_size;
    uint64_t size, real_size;
    uint32_t uid, gid;
    struct timespec changed;
};

void tar_pax_clear(struct tar_pax *pax);
/* NULL, or what is wrong. */
const char *tar_read_pax(const uint8_t *bytes, size_t size, struct tar_pax *pax);
const char *tar_read_header(const uint8_t block[TAR_BLOCK], struct tar_member *member);
/* What a pax header says goes before the header itself. */
void tar_apply_pax(struct tar_member *member, struct tar_pax *pax);

/* Write a member's header, with the pax header that it needs. */
void tar_add_header(struct buffer *out, const struct tar_member *member);

#endif
