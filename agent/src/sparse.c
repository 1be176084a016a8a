#include "sparse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tar.h"

void sparse_free(struct sparse *sparse)
{
    free(sparse->parts);
    *sparse = (struct sparse){0};
}

static void add_part(struct sparse *sparse, uint64_t offset, uint64_t size)
{
    if ((sparse->count & (sparse->count - 1)) == 0) { /* a power of two: all places are taken */
        struct sparse_part *more = allocate_zeroed(2 * (sparse->count + 1) * sizeof *more);
        if (sparse->count)
            memcpy(more, sparse->parts, sparse->count * sizeof *more);
        free(sparse->parts);
        sparse->parts = more;
    }
    sparse->parts[sparse->count++] = (struct sparse_part){offset, size};
    sparse->data += size;
}

/* --- a file --- */

bool sparse_find(int file, uint64_t size, struct sparse *sparse)
{
    off_t end = (off_t)size, hole = 0;
    *sparse = (struct sparse){0};
    while (hole < end) {
        off_t data = lseek(file, hole, SEEK_DATA);
        if (data < 0 || data >= end) /* nothing but a hole is left, or nobody knows */
            break;
        hole = lseek(file, data, SEEK_HOLE);
        if (hole < 0 || hole > end || sparse->count == SPARSE_PARTS_MAX - 1)
            hole = end;
        add_part(sparse, (uint64_t)data, (uint64_t)(hole - data));
    }
    bool known = lseek(file, 0, SEEK_HOLE) >= 0;
    lseek(file, 0, SEEK_SET);
    if (known && sparse->data < size) {
        if (hole < end || sparse->count == 0)
            add_part(sparse, size, 0); /* so whoever makes it knows where it ends */
        return true;
    }
    sparse_free(sparse);
    return false;
}

void sparse_add_map(struct buffer *out, const struct sparse *sparse)
{
    static const uint8_t zeros[TAR_BLOCK];
    char line[48];
    size_t before = buffer_size(out);
    buffer_add(out, line, (size_t)snprintf(line, sizeof line, "%zu\n", sparse->count));
    for (size_t i = 0; i < sparse->count; i++) {
        const struct sparse_part *part = &sparse->parts[i];
        int length = snprintf(line, sizeof line, "%llu\n%llu\n", (unsigned long long)part->offset,
                              (unsigned long long)part->size);
        buffer_add(out, line, (size_t)length);
    }
    buffer_add(out, zeros, tar_padding(buffer_size(out) - before));
}

/* --- a map --- */

static bool take_number(struct sparse_reader *reader, uint64_t file_size)
{
    struct sparse *sparse = &reader->sparse;
    uint64_t number = reader->number;
    reader->number = 0;
    reader->digits = false;
    if (!reader->counted) {
        reader->wanted = (size_t)number;
        return reader->counted = number <= SPARSE_PARTS_MAX;
    }
    if (number > file_size)
        return false;
    if (reader->numbers++ % 2 == 0) {
        uint64_t end = sparse->count ? sparse->parts[sparse->count - 1].offset + sparse->parts[sparse->count - 1].size : 0;
        add_part(sparse, number, 0);
        return number >= end;
    }
    struct sparse_part *part = &sparse->parts[sparse->count - 1];
    part->size = number;
    sparse->data += number;
    return number <= file_size - part->offset;
}

ssize_t sparse_read_map(struct sparse_reader *reader, const uint8_t *bytes, size_t size, uint64_t file_size)
{
    for (size_t i = 0; i < size; i++) {
        bool all = reader->counted && reader->numbers == 2 * reader->wanted;
        if (all && reader->taken % TAR_BLOCK == 0) {
            reader->complete = true;
            return (ssize_t)i;
        }
        reader->taken++;
        if (all)
            continue; /* padding */
        if (bytes[i] >= '0' && bytes[i] <= '9' && reader->number < INT64_MAX / 10) {
            reader->number = reader->number * 10 + (uint64_t)(bytes[i] - '0');
            reader->digits = true;
        } else if (bytes[i] != '\n' || !reader->digits || !take_number(reader, file_size))
            return -1;
    }
    if (reader->counted && reader->numbers == 2 * reader->wanted && reader->taken % TAR_BLOCK == 0)
        reader->complete = true;
    return (ssize_t)size;
}
