/* PUT: unpack a tar stream. Every name is walked from the target's directory, one component after the other and through no symbolic
 * link, so nothing that an archive says leads out of it. */
#ifndef ATTEST_PUT_H
#define ATTEST_PUT_H

#include "session.h"

extern const struct operation put_operation;

#endif
