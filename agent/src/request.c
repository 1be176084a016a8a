#include "request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"
#include "memory.h"

int fields_next(struct fields *fields, struct field *field)
{
    if (fields->left == 0)
        return 0;
    if (fields->left < FIELD_HEADER_SIZE)
        return -1;
    field->tag = fields->at[0];
    field->length = get_u32(fields->at + 1);
    field->value = fields->at + FIELD_HEADER_SIZE;
    if (field->length > fields->left - FIELD_HEADER_SIZE)
        return -1;
    fields->at += FIELD_HEADER_SIZE + field->length;
    fields->left -= FIELD_HEADER_SIZE + field->length;
    return 1;
}

static const char *field_fault(const struct field *field, char kind)
{
    switch (kind) {
    case 't':
    case 'T':
        return field->length && memchr(field->value, 0, field->length) ? "has a NUL in its text" : NULL;
    case '4':
    case 'w':
        return field->length == 4 ? NULL : "is not 4 bytes long";
    case '8':
        return field->length == 8 ? NULL : "is not 8 bytes long";
    default:
        return field->length <= SEED_MAX ? NULL : "is longer than 512 bytes";
    }
}

bool request_check(const struct request *request, const char *kinds, char *error, size_t error_size)
{
    struct fields fields = request->fields;
    struct field field;
    size_t known = strlen(kinds);
    bool seen[256] = {false};
    int more;
    while ((more = fields_next(&fields, &field)) > 0) {
        const char *fault;
        char kind = field.tag >= 1 && field.tag <= known ? kinds[field.tag - 1] : 0;
        if (!kind)
            fault = "is not known";
        else if (seen[field.tag] && kind != 'T')
            fault = "is there twice";
        else
            fault = field_fault(&field, kind);
        if (fault) {
            snprintf(error, error_size, "a field with tag %u (%u bytes) %s", field.tag, field.length, fault);
            return false;
        }
        seen[field.tag] = true;
    }
    if (more < 0)
        snprintf(error, error_size, "the last %zu bytes are no complete field", fields.left);
    return more == 0;
}

bool request_find(const struct request *request, uint8_t tag, struct field *field)
{
    struct fields fields = request->fields;
    while (fields_next(&fields, field) > 0)
        if (field->tag == tag)
            return true;
    return false;
}

bool request_has(const struct request *request, uint8_t tag)
{
    struct field field;
    return request_find(request, tag, &field);
}

char *request_text(const struct request *request, uint8_t tag)
{
    struct field field;
    return request_find(request, tag, &field) ? copy_text(field.value, field.length) : NULL;
}

uint32_t request_u32(const struct request *request, uint8_t tag, uint32_t otherwise)
{
    struct field field;
    return request_find(request, tag, &field) ? get_u32(field.value) : otherwise;
}

uint64_t request_u64(const struct request *request, uint8_t tag, uint64_t otherwise)
{
    struct field field;
    return request_find(request, tag, &field) ? get_u64(field.value) : otherwise;
}

char **request_texts(const struct request *request, uint8_t tag, size_t *count, size_t spare)
{
    struct fields fields = request->fields;
    struct field field;
    *count = 0;
    while (fields_next(&fields, &field) > 0)
        *count += field.tag == tag;
    char **texts = allocate_zeroed((*count + spare + 1) * sizeof *texts);
    size_t i = 0;
    for (fields = request->fields; fields_next(&fields, &field) > 0;)
        if (field.tag == tag)
            texts[i++] = copy_text(field.value, field.length);
    return texts;
}

void texts_free(char **texts)
{
    for (size_t i = 0; texts && texts[i]; i++)
        free(texts[i]);
    free(texts);
}
