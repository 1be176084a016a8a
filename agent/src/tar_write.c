#include "tar_write.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ID_LIMIT = 1 << 21, EXTENDED_MODE = 0644 };

static const uint64_t number_limit = (uint64_t)1 << 33; /* of a field with eleven octal digits */

static const uint8_t zeros[2 * TAR_BLOCK];

static size_t digits(size_t number)
{
    return (size_t)snprintf(NULL, 0, "%zu", number);
}

/* A record says how long it is, and that number is a part of it. */
static void add_record(struct buffer *records, const char *key, const char *value)
{
    size_t rest = strlen(key) + strlen(value) + strlen(" =\n");
    size_t length = rest + digits(rest);
    length = rest + digits(length);
    char *record = format_text("%zu %s=%s\n", length, key, value);
    buffer_add(records, record, length);
    free(record);
}

static void add_number(struct buffer *records, const char *key, uint64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    add_record(records, key, text);
}

static void add_time(struct buffer *records, struct timespec time)
{
    bool negative = time.tv_sec < 0;
    char text[64];
    if (negative && time.tv_nsec) { /* 0.75 after -2 is -1.25 */
        time.tv_sec++;
        time.tv_nsec = 1000000000 - time.tv_nsec;
    }
    long long seconds = negative ? -(long long)time.tv_sec : (long long)time.tv_sec;
    snprintf(text, sizeof text, "%s%lld.%09ld", negative ? "-" : "", seconds, time.tv_nsec);
    add_record(records, "mtime", text);
}

static bool is_plain_time(struct timespec time)
{
    return time.tv_nsec == 0 && time.tv_sec >= 0 && (uint64_t)time.tv_sec < number_limit;
}

static void add_records(struct buffer *records, const struct tar_member *member)
{
    if (strlen(member->path) > sizeof((struct tar_header *)NULL)->name)
        add_record(records, "path", member->path);
    if (member->link && strlen(member->link) > sizeof((struct tar_header *)NULL)->link)
        add_record(records, "linkpath", member->link);
    if (member->size >= number_limit)
        add_number(records, "size", member->size);
    if (member->uid >= ID_LIMIT)
        add_number(records, "uid", member->uid);
    if (member->gid >= ID_LIMIT)
        add_number(records, "gid", member->gid);
    if (!is_plain_time(member->modified))
        add_time(records, member->modified);
}

static void set_octal(char *field, size_t width, uint64_t value)
{
    for (size_t i = width - 1; i-- > 0; value >>= 3)
        field[i] = (char)('0' + (value & 7));
}

static void set_text(char *field, size_t width, const char *text)
{
    memcpy(field, text, strnlen(text, width));
}

static void set_number(char *field, size_t width, uint64_t value, uint64_t limit)
{
    set_octal(field, width, value < limit ? value : 0); /* else the extended header says it */
}

static void write_header(struct buffer *out, const struct tar_member *member)
{
    struct tar_header header = {.type = member->type, .magic = "ustar", .version = {'0', '0'}};
    set_text(header.name, sizeof header.name, member->path);
    set_text(header.link, sizeof header.link, member->link ? member->link : "");
    set_octal(header.mode, sizeof header.mode, member->mode);
    set_number(header.uid, sizeof header.uid, member->uid, ID_LIMIT);
    set_number(header.gid, sizeof header.gid, member->gid, ID_LIMIT);
    set_number(header.size, sizeof header.size, member->size, number_limit);
    set_number(header.mtime, sizeof header.mtime, (uint64_t)member->modified.tv_sec, number_limit);
    set_octal(header.checksum, sizeof header.checksum - 1, tar_checksum(&header));
    header.checksum[sizeof header.checksum - 1] = ' ';
    buffer_add(out, &header, sizeof header);
}

void tar_write_member(struct buffer *out, const struct tar_member *member)
{
    struct buffer records = {0};
    add_records(&records, member);
    size_t size = buffer_size(&records);
    if (size) {
        write_header(out, &(struct tar_member){
                              .type = TAR_PAX, .path = "././@PaxHeader", .size = size, .mode = EXTENDED_MODE});
        buffer_add(out, records.bytes, size);
        tar_write_padding(out, size);
    }
    buffer_free(&records);
    write_header(out, member);
}

void tar_write_padding(struct buffer *out, uint64_t size)
{
    buffer_add(out, zeros, tar_padding(size));
}

void tar_write_end(struct buffer *out)
{
    buffer_add(out, zeros, sizeof zeros);
}
