/* An incremental parser of tar streams; what it keeps of them is bounded. */
#ifndef ATTEST_TAR_READ_H
#define ATTEST_TAR_READ_H

#include <stdbool.h>

#include "memory.h"
#include "tar_format.h"

enum tar_phase { TAR_IN_HEADER, TAR_IN_EXTENDED, TAR_IN_CONTENT, TAR_IN_PADDING, TAR_AT_END };

/* A new one is all zero bytes. */
struct tar_reader {
    enum tar_phase phase;
    struct tar_header header;
    size_t have;      /* bytes of the header */
    uint64_t left;    /* bytes of the extended header or the content to come */
    size_t padding;   /* bytes to come after it */
    char extended_type;
    struct buffer extended;
    bool fresh; /* the header to come may begin a member: nothing extended was said of it */
    bool has_size, has_uid, has_gid, has_modified; /* in extended headers */
    char path[TAR_PATH_MAX + 1], link[TAR_PATH_MAX + 1];
    struct tar_member member; /* since TAR_MEMBER, until tar_next() after TAR_MEMBER_END */
    const char *error;
};

struct tar_content {
    const uint8_t *bytes;
    size_t size;
};

/* Each TAR_MEMBER is followed by any number of TAR_CONTENT and one TAR_MEMBER_END. */
enum tar_event { TAR_MORE, TAR_MEMBER, TAR_CONTENT, TAR_MEMBER_END, TAR_MALFORMED };

/* Take bytes from *data up to the next event; TAR_MORE when all are used. After TAR_MALFORMED, reader->error says why
 * and the reader is of no more use. */
enum tar_event tar_next(struct tar_reader *reader, const uint8_t **data, size_t *size, struct tar_content *content);

/* Whether the end of the archive has come. What comes after it is skipped. */
bool tar_ended(const struct tar_reader *reader);
void tar_reader_free(struct tar_reader *reader);

#endif
