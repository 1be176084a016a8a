/* Files with holes: where their data are, found in a file, and as the map that precedes them in GNU tar's sparse format 1.0. */
#ifndef ATTEST_SPARSE_H
#define ATTEST_SPARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "memory.h"

/* Parts of data in a file, at most; what comes after so many is taken for data. */
enum { SPARSE_PARTS_MAX = 1 << 13 };

struct sparse_part {
    uint64_t offset, size;
};

struct sparse {
    struct sparse_part *parts; /* in the order of the file; one without a size may be the last */
    size_t count;
    uint64_t data; /* bytes in all parts */
};

void sparse_free(struct sparse *sparse);

/* Find the data of a file of this size. False when it has no holes, or its file system does not tell. */
bool sparse_find(int file, uint64_t size, struct sparse *sparse);
/* Write the map, with its padding. */
void sparse_add_map(struct buffer *out, const struct sparse *sparse);

/* A map that comes in pieces. Begins zeroed. */
struct sparse_reader {
    struct sparse sparse;
    size_t wanted, numbers; /* parts that it is to have, and numbers of them that have come */
    uint64_t number, taken;
    bool digits, counted, complete;
};

/* Take bytes of a map, of a file of this size. How many were taken: fewer than `size` when it is complete. -1: it is none. */
ssize_t sparse_read_map(struct sparse_reader *reader, const uint8_t *bytes, size_t size, uint64_t file_size);

#endif
