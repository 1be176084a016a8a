/* Where a guest's memory is: in its VMM's address space, and in the snapshot's file. */
#ifndef ATTEST_LAYOUT_H
#define ATTEST_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { REGIONS = 64 };

struct region {
    uint64_t base, size, offset, page_size; /* bytes; the offset is the file's */
    bool *removed;                          /* for each page: it is zero from now on */
};

struct layout {
    struct region regions[REGIONS];
    size_t count;
};

/* Read it from its JSON text, which a NUL ends. What is not exactly a layout of pages of a file with so many bytes is
 * the end of this process. */
void layout_read(struct layout *layout, const char *text, uint64_t file_size);

/* The region that an address is in, or NULL. */
struct region *layout_find(struct layout *layout, uint64_t address);

/* From now on the pages that lie in a range of addresses are zero. */
void layout_remove(struct layout *layout, uint64_t start, uint64_t end);

#endif
