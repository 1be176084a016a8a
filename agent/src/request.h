/* The payload of an OPEN frame: an operation and its fields. */
#ifndef ATTEST_REQUEST_H
#define ATTEST_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FIELD_HEADER_SIZE = 5, SEED_MAX = 512 };

struct field {
    uint8_t tag;
    uint32_t length;
    const uint8_t *value;
};

struct fields {
    const uint8_t *at;
    size_t left;
};

/* A request whose fields were checked by request_check(). */
struct request {
    struct fields fields;
};

/* 1: *field is the next one; 0: there are no more; -1: the bytes are no field. */
int fields_next(struct fields *fields, struct field *field);

/* Whether the fields are as `kinds` has them, one character for each tag from 1:
 * t text, T text that may repeat, 4 u32, 8 u64, w two u16 (a terminal's size), b up to SEED_MAX bytes.
 * When not, a sentence is written to `error`. */
bool request_check(const struct request *request, const char *kinds, char *error, size_t error_size);

/* The first field with the tag. */
bool request_find(const struct request *request, uint8_t tag, struct field *field);
bool request_has(const struct request *request, uint8_t tag);

/* A copy of the text with a NUL at its end, for free(); NULL when the request has no such field. */
char *request_text(const struct request *request, uint8_t tag);
uint32_t request_u32(const struct request *request, uint8_t tag, uint32_t otherwise);
uint64_t request_u64(const struct request *request, uint8_t tag, uint64_t otherwise);

/* All texts of a tag, in order, as an array that ends with NULL; `spare` more entries are allocated. */
char **request_texts(const struct request *request, uint8_t tag, size_t *count, size_t spare);
void texts_free(char **texts);

#endif
