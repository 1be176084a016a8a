/* D-Bus messages: building calls whose arguments are strings, and reading what comes back. No input or output. */
#ifndef ATTEST_DBUS_H
#define ATTEST_DBUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory.h"

enum { DBUS_CALL = 1, DBUS_REPLY, DBUS_ERROR, DBUS_SIGNAL };
enum { DBUS_MESSAGE_MAX = 1 << 20 };

/* Reads values one after the other. Once something does not fit it is bad, and gives zeros and empty strings. */
struct dbus_reader {
    const uint8_t *bytes;
    size_t at, size;
    bool bad;
};

struct dbus_message {
    uint8_t type;
    uint32_t reply_to;
    const char *path, *interface, *member, *error, *signature; /* empty where the message has none */
    struct dbus_reader body;
};

/* A method call without a destination, as for a peer. `arguments` ends with NULL. */
void dbus_add_call(struct buffer *out, uint32_t serial, const char *path, const char *interface, const char *member,
                   const char *const *arguments);

/* The size of the message at the start of some bytes: 0 when more are needed to tell, SIZE_MAX when it is none or too long. */
size_t dbus_message_size(const uint8_t *bytes, size_t size);
bool dbus_parse(const uint8_t *bytes, size_t size, struct dbus_message *message);

uint32_t dbus_read_u32(struct dbus_reader *reader);
uint64_t dbus_read_u64(struct dbus_reader *reader);
const char *dbus_read_string(struct dbus_reader *reader);
const char *dbus_read_signature(struct dbus_reader *reader);
void dbus_align(struct dbus_reader *reader, size_t alignment);
/* Pass over one value; returns the rest of the signature. */
const char *dbus_skip(struct dbus_reader *reader, const char *signature);

#endif
