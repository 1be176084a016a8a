/* Users, read from /etc/passwd and /etc/group, and the environment of a command. */
#ifndef ATTEST_ACCOUNT_H
#define ATTEST_ACCOUNT_H

#include <stdbool.h>
#include <sys/types.h>

struct account {
    uid_t uid;
    gid_t gid;
    gid_t *groups;
    size_t group_count;
    char *name, *home, *shell;
};

/* By name or number; a number without an entry is a user without groups or home. NULL when there is no such user. */
struct account *account_find(const char *user);
void account_free(struct account *account);

/* The environment of a command, ending with NULL, for texts_free(). `account` NULL: root's default.
 * `extra` (NAME=value, ending with NULL; may be NULL) is added or replaces. */
char **environment_make(const struct account *account, bool terminal, char *const *extra);
const char *environment_get(char *const *environment, const char *name);

#endif
