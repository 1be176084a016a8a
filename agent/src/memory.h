/* Memory that is there or the agent ends, and a growing byte buffer. */
#ifndef ATTEST_MEMORY_H
#define ATTEST_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

/* Zeroed. */
void *allocate_zeroed(size_t size);
char *copy_text(const void *text, size_t length);
char *format_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Bytes go in at the end and are taken from the start. */
struct buffer {
    uint8_t *bytes;
    size_t start, end, capacity;
};

static inline size_t buffer_size(const struct buffer *buffer)
{
    return buffer->end - buffer->start;
}

/* Where `size` more bytes can be written; they belong to the buffer after buffer_added(). */
uint8_t *buffer_room(struct buffer *buffer, size_t size);
void buffer_added(struct buffer *buffer, size_t size);
void buffer_add(struct buffer *buffer, const void *bytes, size_t size);
void buffer_take(struct buffer *buffer, size_t size);
void buffer_free(struct buffer *buffer);

#endif
