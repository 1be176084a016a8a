#include "dbus.h"

#include <string.h>

#include "frame.h"

enum { FIXED_HEADER = 16, FIELD_PATH = 1, FIELD_INTERFACE, FIELD_MEMBER, FIELD_ERROR, FIELD_REPLY, FIELD_SIGNATURE = 8 };
enum { DEPTH_MAX = 32, LITTLE_ENDIAN_MARK = 'l', VERSION = 1 };

/* --- writing --- */

static void pad_message(struct buffer *out, size_t from, size_t alignment)
{
    static const uint8_t zeros[8];
    buffer_add(out, zeros, (alignment - (out->end - from) % alignment) % alignment);
}

static void add_u32(struct buffer *out, size_t from, uint32_t value)
{
    uint8_t bytes[4];
    put_u32(bytes, value);
    pad_message(out, from, 4);
    buffer_add(out, bytes, sizeof bytes);
}

static void add_string(struct buffer *out, size_t from, const char *text)
{
    add_u32(out, from, (uint32_t)strlen(text));
    buffer_add(out, text, strlen(text) + 1);
}

static void add_header_field(struct buffer *out, uint8_t field, char type, const char *text)
{
    const uint8_t start[] = {field, 1, (uint8_t)type, 0};
    const uint8_t length = (uint8_t)strlen(text);
    pad_message(out, 0, 8);
    buffer_add(out, start, sizeof start);
    if (type == 'g') {
        buffer_add(out, &length, 1);
        buffer_add(out, text, (size_t)length + 1);
    } else {
        add_string(out, 0, text);
    }
}

void dbus_add_call(struct buffer *out, uint32_t serial, const char *path, const char *interface, const char *member,
                   const char *const *arguments)
{
    struct buffer body = {0}, header = {0};
    char signature[8] = "";
    for (size_t i = 0; arguments[i]; i++) {
        add_string(&body, 0, arguments[i]);
        signature[i] = 's';
    }
    const uint8_t start[4] = {LITTLE_ENDIAN_MARK, DBUS_CALL, 0, VERSION};
    buffer_add(&header, start, sizeof start);
    add_u32(&header, 0, (uint32_t)buffer_size(&body));
    add_u32(&header, 0, serial);
    add_u32(&header, 0, 0); /* the fields' length, below */
    add_header_field(&header, FIELD_PATH, 'o', path);
    add_header_field(&header, FIELD_INTERFACE, 's', interface);
    add_header_field(&header, FIELD_MEMBER, 's', member);
    if (*signature)
        add_header_field(&header, FIELD_SIGNATURE, 'g', signature);
    put_u32(header.bytes + 12, (uint32_t)(buffer_size(&header) - FIXED_HEADER));
    pad_message(&header, 0, 8);
    buffer_add(out, header.bytes, buffer_size(&header));
    buffer_add(out, body.bytes, buffer_size(&body));
    buffer_free(&header);
    buffer_free(&body);
}

/* --- reading --- */

static const uint8_t *take_bytes(struct dbus_reader *reader, size_t size)
{
    if (reader->bad || size > reader->size - reader->at) {
        reader->bad = true;
        return NULL;
    }
    const uint8_t *bytes = reader->bytes + reader->at;
    reader->at += size;
    return bytes;
}

void dbus_align(struct dbus_reader *reader, size_t alignment)
{
    take_bytes(reader, (alignment - reader->at % alignment) % alignment);
}

uint32_t dbus_read_u32(struct dbus_reader *reader)
{
    dbus_align(reader, 4);
    const uint8_t *bytes = take_bytes(reader, 4);
    return bytes ? get_u32(bytes) : 0;
}

uint64_t dbus_read_u64(struct dbus_reader *reader)
{
    dbus_align(reader, 8);
    const uint8_t *bytes = take_bytes(reader, 8);
    return bytes ? get_u64(bytes) : 0;
}

static const char *read_text(struct dbus_reader *reader, size_t length)
{
    const uint8_t *text = take_bytes(reader, length + 1);
    if (text && (text[length] || memchr(text, 0, length)))
        reader->bad = true;
    return text && !reader->bad ? (const char *)text : "";
}

const char *dbus_read_string(struct dbus_reader *reader)
{
    return read_text(reader, dbus_read_u32(reader));
}

const char *dbus_read_signature(struct dbus_reader *reader)
{
    const uint8_t *length = take_bytes(reader, 1);
    return length ? read_text(reader, *length) : "";
}

static size_t alignment_of(char type)
{
    switch (type) {
    case 'n':
    case 'q':
        return 2;
    case 'b':
    case 'i':
    case 'u':
    case 'h':
    case 's':
    case 'o':
    case 'a':
        return 4;
    case 'x':
    case 't':
    case 'd':
    case '(':
    case '{':
        return 8;
    default:
        return 1;
    }
}

static const char *skip_value(struct dbus_reader *reader, const char *signature, int depth);

/* The end of one complete type, nothing read: an array's elements may be none. */
static const char *type_end(const char *signature, int depth)
{
    if (depth > DEPTH_MAX || !*signature)
        return NULL;
    if (*signature == 'a')
        return type_end(signature + 1, depth + 1);
    if (*signature != '(' && *signature != '{')
        return signature + 1;
    const char close = *signature == '(' ? ')' : '}';
    for (signature++; signature && *signature != close;)
        signature = type_end(signature, depth + 1);
    return signature ? signature + 1 : NULL;
}

static const char *skip_array(struct dbus_reader *reader, const char *element, int depth)
{
    const char *end = type_end(element, depth);
    size_t size = dbus_read_u32(reader);
    if (!end || reader->bad)
        return NULL;
    /* The length does not count the padding before the first element. */
    dbus_align(reader, alignment_of(*element));
    take_bytes(reader, size);
    return end;
}

static const char *skip_struct(struct dbus_reader *reader, const char *member, char close, int depth)
{
    dbus_align(reader, 8);
    while (member && *member != close)
        member = skip_value(reader, member, depth + 1);
    return member ? member + 1 : NULL;
}

static const char *skip_value(struct dbus_reader *reader, const char *signature, int depth)
{
    reader->bad |= depth > DEPTH_MAX;
    if (reader->bad)
        return NULL;
    const char type = *signature++;
    switch (type) {
    case 's':
    case 'o':
        dbus_read_string(reader);
        return signature;
    case 'g':
        dbus_read_signature(reader);
        return signature;
    case 'v':
        skip_value(reader, dbus_read_signature(reader), depth + 1);
        return signature;
    case 'a':
        return skip_array(reader, signature, depth + 1);
    case '(':
        return skip_struct(reader, signature, ')', depth);
    case '{':
        return skip_struct(reader, signature, '}', depth);
    case 'y':
    case 'n':
    case 'q':
    case 'b':
    case 'i':
    case 'u':
    case 'h':
    case 'x':
    case 't':
    case 'd':
        dbus_align(reader, alignment_of(type));
        take_bytes(reader, alignment_of(type));
        return signature;
    default:
        reader->bad = true;
        return NULL;
    }
}

const char *dbus_skip(struct dbus_reader *reader, const char *signature)
{
    const char *rest = skip_value(reader, signature, 0);
    if (!rest)
        reader->bad = true;
    return rest ? rest : "";
}

size_t dbus_message_size(const uint8_t *bytes, size_t size)
{
    if (size < FIXED_HEADER)
        return 0;
    uint64_t body = get_u32(bytes + 4), fields = get_u32(bytes + 12);
    uint64_t total = FIXED_HEADER + (fields + 7) / 8 * 8 + body;
    if (bytes[0] != LITTLE_ENDIAN_MARK || bytes[3] != VERSION || total > DBUS_MESSAGE_MAX)
        return SIZE_MAX;
    return (size_t)total;
}

static void read_header_field(struct dbus_reader *reader, struct dbus_message *message)
{
    dbus_align(reader, 8);
    const uint8_t *code = take_bytes(reader, 1);
    const char *type = dbus_read_signature(reader);
    uint8_t field = code ? *code : 0;
    const char **const texts[] = {
        [FIELD_PATH] = &message->path,   [FIELD_INTERFACE] = &message->interface, [FIELD_MEMBER] = &message->member,
        [FIELD_ERROR] = &message->error, [FIELD_SIGNATURE] = &message->signature,
    };
    if (field == FIELD_REPLY && strcmp(type, "u") == 0)
        message->reply_to = dbus_read_u32(reader);
    else if (field < sizeof texts / sizeof *texts && texts[field] && *type && strchr("sog", *type) && !type[1])
        *texts[field] = *type == 'g' ? dbus_read_signature(reader) : dbus_read_string(reader);
    else
        dbus_skip(reader, type);
}

bool dbus_parse(const uint8_t *bytes, size_t size, struct dbus_message *message)
{
    size_t body = get_u32(bytes + 4), fields_end = FIXED_HEADER + get_u32(bytes + 12);
    if (fields_end > size || body > size)
        return false;
    struct dbus_reader reader = {.bytes = bytes, .at = FIXED_HEADER, .size = fields_end};
    *message = (struct dbus_message){.type = bytes[1], .path = "", .interface = "", .member = "", .error = "", .signature = ""};
    while (!reader.bad && reader.at < fields_end)
        read_header_field(&reader, message);
    message->body = (struct dbus_reader){.bytes = bytes + size - body, .size = body};
    return !reader.bad;
}
