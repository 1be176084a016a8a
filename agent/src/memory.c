#include "memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *checked_memory(void *memory)
{
    if (!memory) {
        fputs("attest-agent: out of memory\n", stderr);
        abort();
    }
    return memory;
}

void *allocate_zeroed(size_t size)
{
    return checked_memory(calloc(1, size ? size : 1));
}

char *copy_text(const void *text, size_t length)
{
    char *copy = allocate_zeroed(length + 1);
    if (length)
        memcpy(copy, text, length);
    return copy;
}

char *format_text(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    return checked_memory(text);
}

uint8_t *buffer_room(struct buffer *buffer, size_t size)
{
    if (buffer->capacity - buffer->end >= size)
        return buffer->bytes + buffer->end;
    size_t held = buffer_size(buffer);
    if (held && buffer->start)
        memmove(buffer->bytes, buffer->bytes + buffer->start, held);
    buffer->start = 0;
    buffer->end = held;
    if (buffer->capacity - held < size) {
        buffer->capacity = (held + size) * 2;
        buffer->bytes = checked_memory(realloc(buffer->bytes, buffer->capacity));
    }
    return buffer->bytes + buffer->end;
}

void buffer_added(struct buffer *buffer, size_t size)
{
    buffer->end += size;
}

void buffer_add(struct buffer *buffer, const void *bytes, size_t size)
{
    if (!size)
        return;
    memcpy(buffer_room(buffer, size), bytes, size);
    buffer_added(buffer, size);
}

void buffer_take(struct buffer *buffer, size_t size)
{
    buffer->start += size;
    if (buffer->start == buffer->end)
        buffer->start = buffer->end = 0;
}

void buffer_free(struct buffer *buffer)
{
    free(buffer->bytes);
    *buffer = (struct buffer){0};
}
