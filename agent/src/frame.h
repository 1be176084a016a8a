/* Frames and fields of the agent protocol (docs/agent-protocol.md): parsing and building, no input or output. */
#ifndef ATTEST_FRAME_H
#define ATTEST_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PROTOCOL_VERSION = 3,
    FRAME_MAGIC = 0xA7,
    HEADER_SIZE = 12,
    HELLO_MAGIC_SIZE = 16,
    NONCE_SIZE = 16,
    HELLO_SIZE = HELLO_MAGIC_SIZE + NONCE_SIZE + 2,
    PAYLOAD_MAX = 262144,
    DATA_MAX = 65536,
    WINDOW_START = 262144,
};

enum frame_type {
    FRAME_HELLO = 1,
    FRAME_WELCOME,
    FRAME_OPEN,
    FRAME_DATA,
    FRAME_EOF,
    FRAME_WINDOW,
    FRAME_CANCEL,
    FRAME_RESIZE,
    FRAME_RESULT,
    FRAME_ERROR,
    FRAME_NOTE,
};

struct frame {
    uint8_t type;
    uint8_t flags;
    uint32_t stream;
    uint32_t length;
    const uint8_t *payload; /* valid until the parser is used again */
};

/* A parser is unsynchronised when it is all zero bytes: it then looks for a HELLO. */
struct parser {
    bool synced;
    size_t have; /* bytes of the frame under way, its header included */
    uint8_t header[HEADER_SIZE];
    struct frame frame;
    uint8_t *payload;
    size_t capacity;
    char error[128];
};

enum parse_result { PARSE_MORE, PARSE_FRAME, PARSE_ERROR };

/* Take bytes from *data until a frame is complete, is wrong (parser->error says why), or all are used. */
enum parse_result parser_next(struct parser *parser, const uint8_t **data, size_t *size, struct frame *frame);

/* Forget what was read and look for a HELLO again. */
void parser_desync(struct parser *parser);
void parser_free(struct parser *parser);

uint16_t get_u16(const uint8_t *bytes);
uint32_t get_u32(const uint8_t *bytes);
uint64_t get_u64(const uint8_t *bytes);
void put_u16(uint8_t *bytes, uint16_t value);
void put_u32(uint8_t *bytes, uint32_t value);
void put_header(uint8_t *bytes, enum frame_type type, uint8_t flags, uint32_t stream, uint32_t length);

#endif
