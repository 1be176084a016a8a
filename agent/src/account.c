#include "account.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "request.h"
#include "system.h"

/* What all commands get besides, a NAME=VALUE on each line: the system's own, as where it is NixOS. */
#define ENVIRONMENT "/etc/attest/environment"

enum { COLUMNS_MAX = 7 };

/* Cut a line of /etc/passwd or /etc/group at its colons; missing columns are empty. */
static void cut_columns(char *line, char *columns[COLUMNS_MAX])
{
    line[strcspn(line, "\n")] = 0;
    for (int i = 0; i < COLUMNS_MAX; i++) {
        columns[i] = line;
        line += strcspn(line, ":");
        if (*line && i < COLUMNS_MAX - 1)
            *line++ = 0;
    }
}

static bool parse_id(const char *text, uid_t *value)
{
    char *end;
    errno = 0;
    unsigned long parsed = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || parsed >= UINT32_MAX)
        return false;
    *value = (uid_t)parsed;
    return true;
}

static struct account *account_make(const char *name, uid_t uid, gid_t gid, const char *home, const char *shell)
{
    struct account *account = allocate_zeroed(sizeof *account);
    *account = (struct account){.uid = uid, .gid = gid};
    account->name = copy_text(name, strlen(name));
    account->home = *home ? copy_text(home, strlen(home)) : copy_text("/", 1);
    account->shell = *shell ? copy_text(shell, strlen(shell)) : copy_text("/bin/sh", 7);
    return account;
}

static struct account *find_user(const char *user)
{
    uid_t wanted, uid, gid;
    bool by_number = parse_id(user, &wanted);
    struct account *account = NULL;
    FILE *file = fopen("/etc/passwd", "re");
    char *line = NULL, *columns[COLUMNS_MAX];
    size_t size = 0;
    while (file && !account && getline(&line, &size, file) > 0) {
        cut_columns(line, columns);
        if (!parse_id(columns[2], &uid) || !parse_id(columns[3], &gid))
            continue;
        if (strcmp(columns[0], user) == 0 || (by_number && uid == wanted))
            account = account_make(columns[0], uid, gid, columns[5], columns[6]);
    }
    free(line);
    if (file)
        fclose(file);
    if (!account && by_number)
        account = account_make(user, wanted, wanted, "", "");
    return account;
}

static bool member_of(char *members, const char *name)
{
    for (char *member = strtok(members, ","); member; member = strtok(NULL, ","))
        if (strcmp(member, name) == 0)
            return true;
    return false;
}

static void add_group(struct account *account, gid_t gid)
{
    account->groups = realloc(account->groups, (account->group_count + 1) * sizeof(gid_t));
    if (!account->groups)
        abort();
    account->groups[account->group_count++] = gid;
}

static void find_groups(struct account *account)
{
    add_group(account, account->gid);
    FILE *file = fopen("/etc/group", "re");
    char *line = NULL, *columns[COLUMNS_MAX];
    size_t size = 0;
    gid_t gid;
    while (file && getline(&line, &size, file) > 0) {
        cut_columns(line, columns);
        if (parse_id(columns[2], &gid) && gid != account->gid && member_of(columns[3], account->name))
            add_group(account, gid);
    }
    free(line);
    if (file)
        fclose(file);
}

struct account *account_find(const char *user)
{
    struct account *account = find_user(user);
    if (account)
        find_groups(account);
    return account;
}

void account_free(struct account *account)
{
    if (!account)
        return;
    free(account->groups);
    free(account->name);
    free(account->home);
    free(account->shell);
    free(account);
}

static size_t name_length(const char *variable)
{
    return strcspn(variable, "=");
}

static void environment_set(char **environment, const char *variable)
{
    size_t length = name_length(variable), i = 0;
    while (environment[i] && (name_length(environment[i]) != length || memcmp(environment[i], variable, length)))
        i++;
    free(environment[i]);
    environment[i] = copy_text(variable, strlen(variable));
}

static void environment_set_pair(char **environment, const char *name, const char *value)
{
    char *variable = format_text("%s=%s", name, value);
    environment_set(environment, variable);
    free(variable);
}

char **environment_make(const struct account *account, bool terminal, char *const *extra)
{
    size_t count = 7;
    char *usual = read_file(ENVIRONMENT);
    for (const char *line = usual; *line; line++)
        count += *line == '\n';
    for (size_t i = 0; extra && extra[i]; i++)
        count++;
    char **environment = allocate_zeroed((count + 1) * sizeof *environment);
    environment_set_pair(environment, "PATH", default_path());
    environment_set_pair(environment, "HOME", account ? account->home : "/root");
    environment_set_pair(environment, "USER", account ? account->name : "root");
    environment_set_pair(environment, "LOGNAME", account ? account->name : "root");
    environment_set_pair(environment, "SHELL", account ? account->shell : shell_path());
    environment_set_pair(environment, "DISPLAY", ":0.0");
    if (terminal)
        environment_set_pair(environment, "TERM", "xterm-256color");
    for (char *line = strtok(usual, "\n"); line; line = strtok(NULL, "\n"))
        environment_set(environment, line);
    free(usual);
    for (size_t i = 0; extra && extra[i]; i++)
        environment_set(environment, extra[i]);
    return environment;
}

const char *environment_get(char *const *environment, const char *name)
{
    size_t length = strlen(name);
    for (; *environment; environment++)
        if (name_length(*environment) == length && memcmp(*environment, name, length) == 0)
            return (*environment)[length] ? *environment + length + 1 : "";
    return NULL;
}
