/* The layout's JSON: an array of objects whose values are whole numbers, and nothing else. */
#include "layout.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fatal.h"

enum field { BASE, SIZE, OFFSET, PAGE_SIZE, FIELDS };

static const char *const names[FIELDS] = {"base_host_virt_addr", "size", "offset", "page_size"};

struct cursor {
    const char *start, *at;
};

static _Noreturn void layout_malformed(const struct cursor *cursor)
{
    fatal_error("the memory layout is malformed at byte %td", cursor->at - cursor->start);
}

static bool accept_character(struct cursor *cursor, char wanted)
{
    cursor->at += strspn(cursor->at, " \t\r\n");
    if (*cursor->at != wanted)
        return false;
    cursor->at++;
    return true;
}

static void expect_character(struct cursor *cursor, char wanted)
{
    if (!accept_character(cursor, wanted))
        layout_malformed(cursor);
}

/* The field that a name is of, or FIELDS: other versions of Firecracker have others too. */
static enum field read_name(struct cursor *cursor)
{
    expect_character(cursor, '"');
    const char *start = cursor->at;
    size_t length = strspn(start, "abcdefghijklmnopqrstuvwxyz_");
    cursor->at += length;
    if (*cursor->at++ != '"')
        layout_malformed(&(struct cursor){cursor->start, cursor->at - 1});
    for (enum field field = 0; field < FIELDS; field++)
        if (strlen(names[field]) == length && memcmp(names[field], start, length) == 0)
            return field;
    return FIELDS;
}

static uint64_t read_number(struct cursor *cursor)
{
    cursor->at += strspn(cursor->at, " \t\r\n");
    size_t length = strspn(cursor->at, "0123456789");
    if (!length || (length > 1 && *cursor->at == '0'))
        layout_malformed(cursor);
    uint64_t value = 0;
    for (const char *end = cursor->at + length; cursor->at < end; cursor->at++)
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *cursor->at - '0', &value))
            layout_malformed(cursor);
    return value;
}

static struct region read_region(struct cursor *cursor)
{
    uint64_t values[FIELDS + 1];
    bool seen[FIELDS + 1] = {false};
    expect_character(cursor, '{');
    do {
        enum field field = read_name(cursor);
        if (seen[field] && field != FIELDS)
            layout_malformed(cursor);
        seen[field] = true;
        expect_character(cursor, ':');
        values[field] = read_number(cursor);
    } while (accept_character(cursor, ','));
    expect_character(cursor, '}');
    for (enum field field = 0; field < FIELDS; field++)
        if (!seen[field])
            fatal_error("the memory layout has a region without %s", names[field]);
    return (struct region){values[BASE], values[SIZE], values[OFFSET], values[PAGE_SIZE], NULL};
}

static void check_region(const struct layout *layout, const struct region *fresh, uint64_t file_size)
{
    uint64_t size = fresh->page_size, end;
    if (size < 4096 || (size & (size - 1)))
        fatal_error("the memory layout has pages of %" PRIu64 " bytes", size);
    if (!fresh->size || (fresh->base | fresh->size) & (size - 1) ||
        __builtin_add_overflow(fresh->base, fresh->size, &end))
        fatal_error("the memory layout has a region of %" PRIu64 " bytes at 0x%" PRIx64, fresh->size, fresh->base);
    if (fresh->offset > file_size || fresh->size > file_size - fresh->offset)
        fatal_error("the memory layout has a region of %" PRIu64 " bytes at byte %" PRIu64 " of a file of %" PRIu64
                    " bytes", fresh->size, fresh->offset, file_size);
    for (const struct region *other = layout->regions; other < layout->regions + layout->count; other++)
        if (fresh->base < other->base + other->size && other->base < end)
            fatal_error("the memory layout has two regions at 0x%" PRIx64, fresh->base);
}

void layout_read(struct layout *layout, const char *text, uint64_t file_size)
{
    struct cursor cursor = {text, text};
    expect_character(&cursor, '[');
    do {
        if (layout->count == REGIONS)
            fatal_error("the memory layout has more than %d regions", REGIONS);
        struct region fresh = read_region(&cursor);
        check_region(layout, &fresh, file_size);
        fresh.removed = calloc(fresh.size / fresh.page_size, sizeof *fresh.removed);
        if (!fresh.removed)
            fatal_error("out of memory");
        layout->regions[layout->count++] = fresh;
    } while (accept_character(&cursor, ','));
    expect_character(&cursor, ']');
    expect_character(&cursor, '\0');
}

struct region *layout_find(struct layout *layout, uint64_t address)
{
    for (struct region *region = layout->regions; region < layout->regions + layout->count; region++)
        if (address >= region->base && address - region->base < region->size)
            return region;
    return NULL;
}

void layout_remove(struct layout *layout, uint64_t start, uint64_t end)
{
    for (uint64_t address = start; address < end;) {
        struct region *region = layout_find(layout, address);
        if (!region)
            fatal_error("0x%" PRIx64 " was removed, which is in no region", address);
        region->removed[(address - region->base) / region->page_size] = true;
        address += region->page_size;
    }
}
