/* Building a tar stream, with pax headers for what a plain header cannot say. */
#ifndef ATTEST_TAR_WRITE_H
#define ATTEST_TAR_WRITE_H

#include "memory.h"
#include "tar_format.h"

/* All headers of a member; its content and tar_write_padding() follow. */
void tar_write_member(struct buffer *out, const struct tar_member *member);
void tar_write_padding(struct buffer *out, uint64_t size);
void tar_write_end(struct buffer *out);

#endif
