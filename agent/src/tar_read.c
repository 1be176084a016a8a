#include "tar_read.h"

#include <stdlib.h>
#include <string.h>

enum { MODE_MASK = 07777, SIGN = 0x40, BASE_256 = 0x80, SECONDS_DIGITS = 12, NANO_DIGITS = 9 };

static const uint64_t id_max = UINT32_MAX - 1; /* the last one means "leave it" to chown() */

/* --- numbers --- */

/* GNU's form for what octal digits cannot say: big-endian, in two's complement after the first bit. */
static bool read_base_256(const char *field, size_t width, int64_t *value)
{
    const uint8_t *bytes = (const uint8_t *)field;
    int64_t sum = (bytes[0] & (SIGN - 1)) - (bytes[0] & SIGN);
    for (size_t i = 1; i < width; i++) {
        if (sum > INT64_MAX / 256 || sum < INT64_MIN / 256)
            return false;
        sum = sum * 256 + bytes[i];
    }
    *value = sum;
    return true;
}

static bool read_octal(const char *field, size_t width, int64_t *value)
{
    size_t i = 0;
    while (i < width && field[i] == ' ')
        i++;
    *value = 0;
    for (; i < width && field[i] && field[i] != ' '; i++) {
        if (field[i] < '0' || field[i] > '7')
            return false;
        *value = *value * 8 + (field[i] - '0');
    }
    return true;
}

static bool read_number(const char *field, size_t width, int64_t *value)
{
    return (uint8_t)field[0] & BASE_256 ? read_base_256(field, width, value) : read_octal(field, width, value);
}

static bool read_unsigned(const char *field, size_t width, uint64_t limit, uint64_t *value)
{
    int64_t number;
    if (!read_number(field, width, &number) || number < 0 || (uint64_t)number > limit)
        return false;
    *value = (uint64_t)number;
    return true;
}

/* Decimal digits from *text on, at most `most` of them. */
static bool take_digits(const char **text, size_t most, uint64_t *value)
{
    size_t count = strspn(*text, "0123456789");
    *value = 0;
    if (count == 0 || count > most)
        return false;
    for (size_t i = 0; i < count; i++)
        *value = *value * 10 + (uint64_t)((*text)[i] - '0');
    *text += count;
    return true;
}

static bool parse_unsigned(const char *text, uint64_t limit, uint64_t *value)
{
    return take_digits(&text, NANO_DIGITS * 2 + 1, value) && !*text && *value <= limit;
}

static bool parse_time(const char *text, struct timespec *time)
{
    bool negative = *text == '-';
    uint64_t seconds;
    long nanoseconds = 0;
    text += negative;
    if (!take_digits(&text, SECONDS_DIGITS, &seconds))
        return false;
    if (*text == '.') {
        text++;
        for (int i = 0; i < NANO_DIGITS; i++)
            nanoseconds = nanoseconds * 10 + (*text >= '0' && *text <= '9' ? *text++ - '0' : 0);
        text += strspn(text, "0123456789");
    }
    time->tv_sec = negative ? -(time_t)seconds : (time_t)seconds;
    time->tv_nsec = nanoseconds;
    if (negative && nanoseconds) { /* -1.25 is 0.75 after -2 */
        time->tv_sec--;
        time->tv_nsec = 1000000000 - nanoseconds;
    }
    return !*text;
}

/* --- extended headers --- */

static const char *take_path(char *path, const char *text, size_t length)
{
    if (length > TAR_PATH_MAX)
        return "a path is longer than 4096 bytes";
    if (memchr(text, 0, length))
        return "a path has a NUL in it";
    memcpy(path, text, length);
    path[length] = 0;
    return NULL;
}

/* One record, whose value ends with NUL. NULL, or what is wrong with it. */
static const char *take_record(struct tar_reader *reader, const char *key, const char *value, size_t length)
{
    struct tar_member *member = &reader->member;
    uint64_t number = 0;
    bool good = true;
    if (strcmp(key, "path") == 0)
        return take_path(reader->path, value, length);
    if (strcmp(key, "linkpath") == 0)
        return take_path(reader->link, value, length);
    if (strcmp(key, "size") == 0) {
        good = reader->has_size = parse_unsigned(value, INT64_MAX, &number);
        member->size = number;
    } else if (strcmp(key, "uid") == 0) {
        good = reader->has_uid = parse_unsigned(value, id_max, &number);
        member->uid = (uid_t)number;
    } else if (strcmp(key, "gid") == 0) {
        good = reader->has_gid = parse_unsigned(value, id_max, &number);
        member->gid = (gid_t)number;
    } else if (strcmp(key, "mtime") == 0) {
        good = reader->has_modified = parse_time(value, &member->modified);
    }
    return good ? NULL : "an extended header has a number out of range";
}

/* Records of the form "LENGTH KEY=VALUE\n", where the length is that of all of it. */
static const char *take_records(struct tar_reader *reader, char *text, size_t size)
{
    while (size) {
        const char *after = text;
        uint64_t length;
        /* A NUL follows all of it, so that looking for digits ends. */
        if (!take_digits(&after, NANO_DIGITS, &length) || *after != ' ' || length > size || length < 1 ||
            text[length - 1] != '\n')
            return "an extended header is malformed";
        char *key = text + (after - text) + 1, *end = text + length - 1;
        char *separator = key < end ? memchr(key, '=', (size_t)(end - key)) : NULL;
        if (!separator)
            return "an extended header is malformed";
        *separator = *end = 0;
        const char *fault = take_record(reader, key, separator + 1, (size_t)(end - separator) - 1);
        if (fault)
            return fault;
        text += length;
        size -= length;
    }
    return NULL;
}

static const char *take_extended(struct tar_reader *reader)
{
    size_t size = buffer_size(&reader->extended);
    buffer_add(&reader->extended, "", 1);
    char *text = (char *)reader->extended.bytes;
    const char *fault;
    if (reader->extended_type == TAR_PAX)
        fault = take_records(reader, text, size);
    else
        fault = take_path(reader->extended_type == TAR_LONG_NAME ? reader->path : reader->link, text, strlen(text));
    buffer_free(&reader->extended);
    return fault;
}

/* --- headers --- */

static bool is_zero(const struct tar_header *header)
{
    static const struct tar_header zero;
    return memcmp(header, &zero, sizeof zero) == 0;
}

static void path_from_header(char *path, const struct tar_header *header)
{
    size_t prefix = 0;
    /* GNU's older form has other things in the place of the prefix, and another magic. */
    if (memcmp(header->magic, "ustar", sizeof header->magic) == 0)
        prefix = strnlen(header->prefix, sizeof header->prefix);
    if (prefix) {
        memcpy(path, header->prefix, prefix);
        path[prefix++] = '/';
    }
    size_t length = strnlen(header->name, sizeof header->name);
    memcpy(path + prefix, header->name, length);
    path[prefix + length] = 0;
}

static bool numbers_from_header(struct tar_reader *reader)
{
    const struct tar_header *header = &reader->header;
    struct tar_member *member = &reader->member;
    uint64_t mode, number = 0;
    int64_t seconds = 0;
    bool good = read_unsigned(header->mode, sizeof header->mode, UINT32_MAX, &mode);
    if (!good)
        return false;
    member->mode = mode & MODE_MASK;
    if (!reader->has_uid) {
        good &= read_unsigned(header->uid, sizeof header->uid, id_max, &number);
        member->uid = (uid_t)number;
    }
    if (!reader->has_gid) {
        good &= read_unsigned(header->gid, sizeof header->gid, id_max, &number);
        member->gid = (gid_t)number;
    }
    if (!reader->has_size) {
        good &= read_unsigned(header->size, sizeof header->size, INT64_MAX, &number);
        member->size = number;
    }
    if (!reader->has_modified) {
        good &= read_number(header->mtime, sizeof header->mtime, &seconds);
        member->modified = (struct timespec){.tv_sec = (time_t)seconds};
    }
    return good;
}

static const char *begin_member(struct tar_reader *reader)
{
    const struct tar_header *header = &reader->header;
    struct tar_member *member = &reader->member;
    member->type = header->type ? header->type : TAR_FILE;
    if (!numbers_from_header(reader))
        return "a header has a number out of range";
    if (member->type != TAR_FILE)
        member->size = 0;
    if (!reader->path[0])
        path_from_header(reader->path, header);
    if (!reader->link[0])
        memcpy(reader->link, header->link, sizeof header->link); /* zeros follow */
    member->path = reader->path;
    member->link = reader->link;
    reader->left = member->size;
    reader->padding = tar_padding(member->size);
    reader->phase = TAR_IN_CONTENT;
    return NULL;
}

static const char *begin_extended(struct tar_reader *reader)
{
    uint64_t size;
    if (!read_unsigned(reader->header.size, sizeof reader->header.size, TAR_EXTENDED_MAX, &size))
        return "an extended header is longer than 65536 bytes";
    reader->extended_type = reader->header.type;
    reader->left = size;
    reader->padding = tar_padding(size);
    reader->phase = TAR_IN_EXTENDED;
    return NULL;
}

static void begin_afresh(struct tar_reader *reader)
{
    reader->fresh = false;
    reader->has_size = reader->has_uid = reader->has_gid = reader->has_modified = false;
    memset(reader->path, 0, sizeof reader->path);
    memset(reader->link, 0, sizeof reader->link);
}

static const char *take_header(struct tar_reader *reader)
{
    const struct tar_header *header = &reader->header;
    int64_t checksum;
    reader->have = 0;
    if (reader->fresh)
        begin_afresh(reader);
    if (is_zero(header)) {
        reader->phase = TAR_AT_END;
        return NULL;
    }
    if (!read_octal(header->checksum, sizeof header->checksum, &checksum) || checksum != tar_checksum(header))
        return "a header's checksum is wrong";
    if (header->type == TAR_PAX || header->type == TAR_LONG_NAME || header->type == TAR_LONG_LINK)
        return begin_extended(reader);
    return begin_member(reader);
}

/* --- the stream --- */

static size_t take(const uint8_t **data, size_t *size, uint64_t most, void *to)
{
    size_t count = *size < most ? *size : (size_t)most;
    if (to && count)
        memcpy(to, *data, count);
    *data += count;
    *size -= count;
    return count;
}

/* Whether the header is complete. */
static bool gather_header(struct tar_reader *reader, const uint8_t **data, size_t *size)
{
    char *bytes = (char *)&reader->header;
    reader->have += take(data, size, TAR_BLOCK - reader->have, bytes + reader->have);
    return reader->have == TAR_BLOCK;
}

static bool gather_extended(struct tar_reader *reader, const uint8_t **data, size_t *size)
{
    size_t count = *size < reader->left ? *size : (size_t)reader->left;
    count = take(data, size, count, buffer_room(&reader->extended, count));
    buffer_added(&reader->extended, count);
    reader->left -= count;
    return reader->left == 0;
}

static bool skip_padding(struct tar_reader *reader, const uint8_t **data, size_t *size)
{
    reader->padding -= take(data, size, reader->padding, NULL);
    return reader->padding == 0;
}

static enum tar_event next_content(struct tar_reader *reader, const uint8_t **data, size_t *size,
                                   struct tar_content *content)
{
    if (!reader->left) {
        reader->fresh = true;
        reader->phase = TAR_IN_PADDING;
        return TAR_MEMBER_END;
    }
    content->bytes = *data;
    content->size = take(data, size, reader->left, NULL);
    reader->left -= content->size;
    return content->size ? TAR_CONTENT : TAR_MORE;
}

static bool gather(struct tar_reader *reader, const uint8_t **data, size_t *size)
{
    if (reader->phase == TAR_IN_HEADER)
        return gather_header(reader, data, size);
    if (reader->phase == TAR_IN_EXTENDED)
        return gather_extended(reader, data, size);
    return skip_padding(reader, data, size);
}

enum tar_event tar_next(struct tar_reader *reader, const uint8_t **data, size_t *size, struct tar_content *content)
{
    while (reader->phase != TAR_AT_END) {
        if (reader->phase == TAR_IN_CONTENT)
            return next_content(reader, data, size, content);
        if (!gather(reader, data, size))
            return TAR_MORE;
        if (reader->phase == TAR_IN_HEADER) {
            reader->error = take_header(reader);
        } else if (reader->phase == TAR_IN_EXTENDED) {
            reader->error = take_extended(reader);
            reader->phase = TAR_IN_PADDING;
        } else {
            reader->phase = TAR_IN_HEADER;
        }
        if (reader->error)
            return TAR_MALFORMED;
        if (reader->phase == TAR_IN_CONTENT)
            return TAR_MEMBER;
    }
    *size = 0;
    return TAR_MORE;
}

bool tar_ended(const struct tar_reader *reader)
{
    return reader->phase == TAR_AT_END;
}

void tar_reader_free(struct tar_reader *reader)
{
    buffer_free(&reader->extended);
}
