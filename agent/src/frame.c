#include "frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The header of a HELLO and its magic: what an unsynchronised parser looks for. 0xA7 occurs only at its start. */
static const uint8_t hello_start[HEADER_SIZE + HELLO_MAGIC_SIZE] = {
    FRAME_MAGIC, FRAME_HELLO, 0, 0, 0, 0, 0, 0, HELLO_SIZE, 0, 0, 0,
    'a', 't', 't', 'e', 's', 't', '-', 'a', 'g', 'e', 'n', 't', '\r', '\n', 0x1a, '\n',
};

uint16_t get_u16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

uint32_t get_u32(const uint8_t *bytes)
{
    return get_u16(bytes) | (uint32_t)get_u16(bytes + 2) << 16;
}

uint64_t get_u64(const uint8_t *bytes)
{
    return get_u32(bytes) | (uint64_t)get_u32(bytes + 4) << 32;
}

void put_u16(uint8_t *bytes, uint16_t value)
{
    bytes[0] = (uint8_t)value;
    bytes[1] = (uint8_t)(value >> 8);
}

void put_u32(uint8_t *bytes, uint32_t value)
{
    put_u16(bytes, (uint16_t)value);
    put_u16(bytes + 2, (uint16_t)(value >> 16));
}

void put_header(uint8_t *bytes, enum frame_type type, uint8_t flags, uint32_t stream, uint32_t length)
{
    bytes[0] = FRAME_MAGIC;
    bytes[1] = (uint8_t)type;
    bytes[2] = flags;
    bytes[3] = 0;
    put_u32(bytes + 4, stream);
    put_u32(bytes + 8, length);
}

void parser_desync(struct parser *parser)
{
    parser->synced = false;
    parser->have = 0;
}

void parser_free(struct parser *parser)
{
    free(parser->payload);
    parser->payload = NULL;
    parser->capacity = 0;
}

static enum parse_result reject_frame(struct parser *parser, const char *format, unsigned found, unsigned wanted)
{
    snprintf(parser->error, sizeof parser->error, format, found, wanted);
    parser_desync(parser);
    return PARSE_ERROR;
}

static enum parse_result check_length(struct parser *parser, uint32_t least, uint32_t most)
{
    const struct frame *frame = &parser->frame;
    if (frame->length < least)
        return reject_frame(parser, "a frame's payload has %u bytes, at least %u belong there", frame->length, least);
    if (frame->length > most)
        return reject_frame(parser, "a frame's payload has %u bytes, at most %u may be", frame->length, most);
    return PARSE_MORE;
}

static enum parse_result check_header(struct parser *parser)
{
    const uint8_t *header = parser->header;
    struct frame *frame = &parser->frame;
    *frame = (struct frame){.type = header[1], .flags = header[2], .stream = get_u32(header + 4),
                            .length = get_u32(header + 8)};
    bool channel = frame->type == FRAME_DATA || frame->type == FRAME_EOF;
    if (header[0] != FRAME_MAGIC)
        return reject_frame(parser, "a frame begins with 0x%02x, not with 0x%02x", header[0], FRAME_MAGIC);
    if (frame->flags && !channel)
        return reject_frame(parser, "a frame has flags 0x%02x, type 0x%02x has none", frame->flags, frame->type);
    if (header[3])
        return reject_frame(parser, "a frame's reserved byte is 0x%02x, not %u", header[3], 0);
    if (frame->type != FRAME_HELLO && frame->stream == 0)
        return reject_frame(parser, "a frame of type 0x%02x is on stream %u", frame->type, 0);
    switch (frame->type) {
    case FRAME_HELLO:
        if (memcmp(header, hello_start, HEADER_SIZE))
            return reject_frame(parser, "a HELLO has stream %u and length %u", frame->stream, frame->length);
        return PARSE_MORE;
    case FRAME_OPEN:
        return check_length(parser, 1, PAYLOAD_MAX);
    case FRAME_DATA:
        return check_length(parser, 0, DATA_MAX);
    case FRAME_EOF:
    case FRAME_CANCEL:
        return check_length(parser, 0, 0);
    case FRAME_WINDOW:
    case FRAME_RESIZE:
        return check_length(parser, 4, 4);
    default:
        return reject_frame(parser, "a frame has type 0x%02x, which the host does not send (stream %u)", frame->type,
                            frame->stream);
    }
}

/* The payload buffer grows with what is really needed; a frame that lies complete in the input is not copied at all. */
static void keep_payload(struct parser *parser, const uint8_t *bytes, size_t size)
{
    if (parser->capacity < parser->frame.length) {
        free(parser->payload);
        parser->payload = malloc(parser->frame.length);
        if (!parser->payload)
            abort();
        parser->capacity = parser->frame.length;
    }
    memcpy(parser->payload + (parser->have - HEADER_SIZE), bytes, size);
    parser->have += size;
}

static void seek_hello(struct parser *parser, const uint8_t **data, size_t *size)
{
    while (*size && parser->have < sizeof hello_start) {
        uint8_t byte = *(*data)++;
        --*size;
        parser->have = byte == hello_start[parser->have] ? parser->have + 1 : byte == FRAME_MAGIC;
    }
    if (parser->have < sizeof hello_start)
        return;
    memcpy(parser->header, hello_start, HEADER_SIZE);
    parser->synced = true;
    parser->have = HEADER_SIZE;
    check_header(parser);
    keep_payload(parser, hello_start + HEADER_SIZE, HELLO_MAGIC_SIZE);
}

static enum parse_result read_header(struct parser *parser, const uint8_t **data, size_t *size)
{
    while (*size && parser->have < HEADER_SIZE) {
        uint8_t byte = *(*data)++;
        --*size;
        if (parser->have == 0 && byte == 0)
            continue;
        parser->header[parser->have++] = byte;
        if (parser->have == 1 && byte != FRAME_MAGIC)
            return reject_frame(parser, "a frame begins with 0x%02x, not with 0x%02x", byte, FRAME_MAGIC);
    }
    return parser->have < HEADER_SIZE ? PARSE_MORE : check_header(parser);
}

static enum parse_result finish_frame(struct parser *parser, const uint8_t *payload, struct frame *frame)
{
    parser->have = 0;
    *frame = parser->frame;
    frame->payload = payload;
    if (frame->type == FRAME_HELLO && memcmp(payload, hello_start + HEADER_SIZE, HELLO_MAGIC_SIZE))
        return reject_frame(parser, "a HELLO (%u bytes) lacks its magic (version %u)", frame->length, PROTOCOL_VERSION);
    return PARSE_FRAME;
}

enum parse_result parser_next(struct parser *parser, const uint8_t **data, size_t *size, struct frame *frame)
{
    if (!parser->synced)
        seek_hello(parser, data, size);
    if (parser->synced && parser->have < HEADER_SIZE && read_header(parser, data, size) == PARSE_ERROR)
        return PARSE_ERROR;
    if (!parser->synced || parser->have < HEADER_SIZE)
        return PARSE_MORE;
    size_t missing = HEADER_SIZE + parser->frame.length - parser->have;
    if (parser->have == HEADER_SIZE && *size >= missing) {
        const uint8_t *payload = *data;
        *data += missing;
        *size -= missing;
        return finish_frame(parser, payload, frame);
    }
    size_t part = *size < missing ? *size : missing;
    keep_payload(parser, *data, part);
    *data += part;
    *size -= part;
    return part == missing ? finish_frame(parser, parser->payload, frame) : PARSE_MORE;
}
