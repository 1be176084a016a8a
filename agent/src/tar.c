#include "tar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAME = 0, NAME_SIZE = 100,
    MODE = 100, UID = 108, GID = 116, SHORT_SIZE = 8,
    SIZE = 124, CHANGED = 136, LONG_SIZE = 12,
    CHECKSUM = 148,
    TYPE = 156,
    LINK = 157,
    MAGIC = 257,
    PREFIX = 345, PREFIX_SIZE = 155,
};

#define SPARSE "GNU.sparse."

static const uint64_t short_most = 07777777, long_most = 077777777777;

void tar_member_clear(struct tar_member *member)
{
    free(member->name);
    free(member->link);
    *member = (struct tar_member){0};
}

void tar_pax_clear(struct tar_pax *pax)
{
    free(pax->name);
    free(pax->link);
    *pax = (struct tar_pax){0};
}

bool tar_is_zero(const uint8_t *bytes, size_t size)
{
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

/* --- reading --- */

/* Octal digits, or GNU's big-endian binary with the first bit set. */
static bool read_number(const uint8_t *field, size_t size, uint64_t *value)
{
    size_t i = 0;
    *value = 0;
    if (field[0] & 0x80) {
        if (field[0] != 0x80) /* negative or absurd */
            return false;
        for (i = 1; i < size; i++) {
            if (*value >> 55)
                return false;
            *value = *value << 8 | field[i];
        }
        return true;
    }
    while (i < size && field[i] == ' ')
        i++;
    for (; i < size && field[i] >= '0' && field[i] <= '7'; i++)
        *value = *value << 3 | (uint64_t)(field[i] - '0');
    return i == size || field[i] == 0 || field[i] == ' ';
}

static bool checksum_is_right(const uint8_t block[TAR_BLOCK])
{
    uint64_t sum = 8 * ' ', written;
    for (size_t i = 0; i < TAR_BLOCK; i++)
        if (i < CHECKSUM || i >= CHECKSUM + SHORT_SIZE)
            sum += block[i];
    return read_number(block + CHECKSUM, SHORT_SIZE, &written) && written == sum;
}

static char *read_name(const uint8_t block[TAR_BLOCK])
{
    const char *name = (const char *)block + NAME, *prefix = (const char *)block + PREFIX;
    size_t size = strnlen(name, NAME_SIZE), prefix_size = strnlen(prefix, PREFIX_SIZE);
    /* GNU's magic is another ("ustar  "), and has no prefix there. */
    if (memcmp(block + MAGIC, "ustar", 6) != 0 || prefix_size == 0)
        return copy_text(name, size);
    return format_text("%.*s/%.*s", (int)prefix_size, prefix, (int)size, name);
}

const char *tar_read_header(const uint8_t block[TAR_BLOCK], struct tar_member *member)
{
    uint64_t mode, uid, gid, changed;
    tar_member_clear(member);
    if (!checksum_is_right(block))
        return "its header's checksum is wrong";
    if (!read_number(block + MODE, SHORT_SIZE, &mode) || !read_number(block + UID, SHORT_SIZE, &uid) ||
        !read_number(block + GID, SHORT_SIZE, &gid) || !read_number(block + SIZE, LONG_SIZE, &member->size) ||
        !read_number(block + CHANGED, LONG_SIZE, &changed))
        return "its header has something else where a number belongs";
    member->name = read_name(block);
    member->link = copy_text(block + LINK, strnlen((const char *)block + LINK, NAME_SIZE));
    member->type = block[TYPE] == 0 || block[TYPE] == '7' ? TAR_FILE : (char)block[TYPE];
    member->mode = (uint32_t)mode & 07777;
    member->uid = (uint32_t)uid;
    member->gid = (uint32_t)gid;
    member->changed.tv_sec = (time_t)changed;
    if (member->type != TAR_FILE && member->type != TAR_PAX && member->type != TAR_PAX_GLOBAL &&
        member->type != TAR_LONG_NAME && member->type != TAR_LONG_LINK)
        member->size = 0;
    return NULL;
}

static bool read_decimal(const char *text, uint64_t most, uint64_t *value)
{
    *value = 0;
    if (!*text)
        return false;
    for (; *text >= '0' && *text <= '9'; text++) {
        *value = *value * 10 + (uint64_t)(*text - '0');
        if (*value > most)
            return false;
    }
    return *text == 0;
}

/* Seconds with a fraction, and a sign before 1970. */
static bool read_time(const char *text, struct timespec *time)
{
    bool negative = *text == '-';
    char *end;
    long long seconds = strtoll(text, &end, 10);
    long nanoseconds = 0, unit = 100000000;
    if (end == text)
        return false;
    if (*end == '.')
        for (end++; *end >= '0' && *end <= '9'; end++, unit /= 10)
            nanoseconds += (*end - '0') * unit;
    if (negative && nanoseconds) {
        seconds--;
        nanoseconds = 1000000000 - nanoseconds;
    }
    *time = (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = nanoseconds};
    return *end == 0;
}

static bool read_u32(const char *text, uint32_t *value, bool *has)
{
    uint64_t number;
    if (!read_decimal(text, UINT32_MAX - 1, &number))
        return false;
    *value = (uint32_t)number;
    return *has = true;
}

static void replace_text(char **text, const char *value)
{
    free(*text);
    *text = copy_text(value, strlen(value));
}

/* Version 1.0; the data of others do not begin with their map. */
static bool take_sparse_record(struct tar_pax *pax, const char *key, const char *value)
{
    if (strcmp(key, "major") == 0)
        return strcmp(value, "1") == 0;
    if (strcmp(key, "minor") == 0)
        return strcmp(value, "0") == 0;
    if (strcmp(key, "name") == 0)
        replace_text(&pax->name, value);
    else if (strcmp(key, "realsize") == 0)
        return pax->has_real_size = read_decimal(value, INT64_MAX / 10, &pax->real_size);
    else
        return false;
    return true;
}

static bool take_record(struct tar_pax *pax, const char *key, const char *value)
{
    if (strcmp(key, "path") == 0)
        replace_text(&pax->name, value);
    else if (strcmp(key, "linkpath") == 0)
        replace_text(&pax->link, value);
    else if (strcmp(key, "size") == 0)
        return pax->has_size = read_decimal(value, INT64_MAX / 10, &pax->size);
    else if (strcmp(key, "uid") == 0)
        return read_u32(value, &pax->uid, &pax->has_uid);
    else if (strcmp(key, "gid") == 0)
        return read_u32(value, &pax->gid, &pax->has_gid);
    else if (strcmp(key, "mtime") == 0)
        return pax->has_changed = read_time(value, &pax->changed);
    else if (strncmp(key, SPARSE, sizeof SPARSE - 1) == 0)
        return take_sparse_record(pax, key + sizeof SPARSE - 1, value);
    return true;
}

/* One record is "LENGTH KEY=VALUE\n", where LENGTH counts all of it. Returns its size, 0 when it is none. */
static size_t read_record(const char *text, size_t left, struct tar_pax *pax)
{
    size_t size = 0, digits = 0;
    while (digits < left && digits < 8 && text[digits] >= '0' && text[digits] <= '9')
        size = size * 10 + (size_t)(text[digits++] - '0');
    if (size > left || size < digits + 4 || text[digits] != ' ' || text[size - 1] != '\n')
        return 0;
    char *record = copy_text(text + digits + 1, size - digits - 2);
    char *equals = strchr(record, '=');
    bool good = equals && strlen(record) == size - digits - 2;
    if (good) {
        *equals = 0;
        good = take_record(pax, record, equals + 1);
    }
    free(record);
    return good ? size : 0;
}

const char *tar_read_pax(const uint8_t *bytes, size_t size, struct tar_pax *pax)
{
    while (size) {
        size_t used = read_record((const char *)bytes, size, pax);
        if (!used)
            return "its pax header has a record that cannot be read";
        bytes += used;
        size -= used;
    }
    return NULL;
}

static void move_text(char **to, char **from)
{
    if (!*from)
        return;
    free(*to);
    *to = *from;
    *from = NULL;
}

void tar_apply_pax(struct tar_member *member, struct tar_pax *pax)
{
    move_text(&member->name, &pax->name);
    move_text(&member->link, &pax->link);
    if (pax->has_size && member->type == TAR_FILE)
        member->size = pax->size;
    member->sparse = pax->has_real_size && member->type == TAR_FILE;
    member->real_size = pax->real_size;
    if (pax->has_uid)
        member->uid = pax->uid;
    if (pax->has_gid)
        member->gid = pax->gid;
    if (pax->has_changed)
        member->changed = pax->changed;
    tar_pax_clear(pax);
}

/* --- writing --- */

static void write_number(uint8_t *field, size_t size, uint64_t value)
{
    field[size - 1] = 0;
    for (size_t i = size - 1; i-- > 0; value >>= 3)
        field[i] = (uint8_t)('0' + (value & 7));
}

static void write_text(uint8_t *field, const char *text)
{
    size_t length = strnlen(text, NAME_SIZE);
    memcpy(field, text, length);
}

/* Numbers that do not fit are 0 here and right in the pax header. */
static void add_block(struct buffer *out, char type, const char *name, const char *link, const struct tar_member *member,
                      uint64_t size)
{
    uint8_t block[TAR_BLOCK] = {0};
    uint32_t sum = 0;
    time_t changed = member->changed.tv_sec;
    write_text(block + NAME, name);
    write_text(block + LINK, link);
    write_number(block + MODE, SHORT_SIZE, member->mode);
    write_number(block + UID, SHORT_SIZE, member->uid <= short_most ? member->uid : 0);
    write_number(block + GID, SHORT_SIZE, member->gid <= short_most ? member->gid : 0);
    write_number(block + SIZE, LONG_SIZE, size <= long_most ? size : 0);
    write_number(block + CHANGED, LONG_SIZE, changed >= 0 && (uint64_t)changed <= long_most ? (uint64_t)changed : 0);
    block[TYPE] = (uint8_t)type;
    memcpy(block + MAGIC, "ustar\00000", 8);
    memset(block + CHECKSUM, ' ', SHORT_SIZE);
    for (size_t i = 0; i < TAR_BLOCK; i++)
        sum += block[i];
    write_number(block + CHECKSUM, SHORT_SIZE - 1, sum); /* ends with NUL and a space */
    buffer_add(out, block, sizeof block);
}

static void add_record(struct buffer *out, const char *key, const char *value)
{
    size_t rest = strlen(key) + strlen(value) + 3, size = rest + 1;
    char digits[24];
    /* The length counts its own digits. */
    while ((size_t)snprintf(digits, sizeof digits, "%zu", size) + rest != size)
        size++;
    char *record = format_text("%s %s=%s\n", digits, key, value);
    buffer_add(out, record, size);
    free(record);
}

static void add_number(struct buffer *out, const char *key, uint64_t value, uint64_t most)
{
    char text[24];
    if (value <= most)
        return;
    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    add_record(out, key, text);
}

static void add_time(struct buffer *out, struct timespec time)
{
    char text[40];
    if (time.tv_sec >= 0 && time.tv_nsec == 0 && (uint64_t)time.tv_sec <= long_most)
        return;
    bool negative = time.tv_sec < 0 && time.tv_nsec > 0; /* -1.75 is -2 s and 250,000,000 ns */
    long long seconds = (long long)time.tv_sec + negative;
    snprintf(text, sizeof text, "%s%lld.%09ld", negative && seconds == 0 ? "-" : "", seconds,
             negative ? 1000000000 - time.tv_nsec : time.tv_nsec);
    add_record(out, "mtime", text);
}

void tar_add_header(struct buffer *out, const struct tar_member *member)
{
    static const uint8_t zeros[TAR_BLOCK];
    const char *link = member->link ? member->link : "";
    struct buffer records = {0};
    if (strlen(member->name) > NAME_SIZE)
        add_record(&records, "path", member->name);
    if (strlen(link) > NAME_SIZE)
        add_record(&records, "linkpath", link);
    add_number(&records, "size", member->size, long_most);
    add_number(&records, "uid", member->uid, short_most);
    add_number(&records, "gid", member->gid, short_most);
    add_time(&records, member->changed);
    if (member->sparse) {
        add_record(&records, SPARSE "major", "1");
        add_record(&records, SPARSE "minor", "0");
        add_record(&records, SPARSE "name", member->name);
        add_number(&records, SPARSE "realsize", member->real_size, 0);
    }
    if (buffer_size(&records)) {
        size_t size = buffer_size(&records);
        add_block(out, TAR_PAX, "pax", "", member, size);
        buffer_add(out, records.bytes, size);
        buffer_add(out, zeros, tar_padding(size));
    }
    buffer_free(&records);
    add_block(out, member->type, member->name, link, member, member->size);
}
