#include "copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memory.h"
#include "process.h"
#include "replace.h"
#include "system.h"

#define SSH "/etc/ssh"
#define SSHD_PID "/run/sshd.pid"

enum { KEYS_MAX = 64 };

static const struct {
    const char *directory, *pattern;
} shared[] = {
    {"/run/systemd/netif/leases", "*"},     /* networkd: a file for each interface's index */
    {"/var/lib/NetworkManager", "*.lease"}, /* *.leases are those that it has given to others */
    {"/var/lib/dhcp", "dhclient*.lease*"},  /* Debian's dhclient; dhcpd's, in the same place, are others' */
    {"/var/lib/dhclient", "*.lease*"},      /* Fedora's dhclient */
    {"/var/lib/dhcpcd", "*.lease*"},        /* .lease and .lease6 */
};

#define RANDOM_SEED "/var/lib/systemd/random-seed"

static void remove_files(const char *directory, const char *pattern, struct failure *failure)
{
    DIR *files = opendir(directory);
    if (!files) {
        failure_note(failure, directory, errno == ENOENT ? 0 : errno);
        return;
    }
    for (struct dirent *entry; (entry = readdir(files));) {
        if (fnmatch(pattern, entry->d_name, FNM_PERIOD) != 0 || unlinkat(dirfd(files), entry->d_name, 0) == 0)
            continue;
        int error = errno == EISDIR || errno == ENOENT ? 0 : errno;
        char *path = format_text("%s/%s", directory, entry->d_name);
        failure_note(failure, path, error);
        free(path);
    }
    closedir(files);
}

void forget_original(struct failure *failure)
{
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        remove_files(shared[i].directory, shared[i].pattern, failure);
    if (unlink(RANDOM_SEED) < 0 && errno != ENOENT)
        failure_note(failure, RANDOM_SEED, errno);
}

/* --- SSH host keys --- */

static bool is_host_key(int directory, const char *name)
{
    struct stat status;
    return fnmatch("ssh_host_*_key", name, 0) == 0 && fstatat(directory, name, &status, 0) == 0 && S_ISREG(status.st_mode);
}

char *ssh_host_keys(struct failure *failure)
{
    char *paths = NULL;
    size_t count = 0;
    DIR *files = opendir(SSH);
    for (struct dirent *entry; files && count <= KEYS_MAX && (entry = readdir(files));) {
        if (!is_host_key(dirfd(files), entry->d_name))
            continue;
        char *more = format_text("%s" SSH "/%s\n", paths ? paths : "", entry->d_name);
        free(paths);
        paths = more;
        count++;
    }
    if (files)
        closedir(files);
    failure_note(failure, SSH, count > KEYS_MAX ? E2BIG : 0);
    return paths;
}

/* Cut the first line off a text. NULL when there is nothing after it. */
static char *after_line(char *text)
{
    char *end = strchr(text, '\n');
    if (!end || !end[1])
        return NULL;
    *end = 0;
    return end + 1;
}

/* Three parts: a line with the private key's path, the line of the public key, the text of the private key. */
static void set_key(char *path, struct failure *failure)
{
    char *public = after_line(path);
    char *private = public ? after_line(public) : NULL;
    if (failure_note(failure, "an SSH host key", !private || *path != '/' || !*public ? EINVAL : 0))
        return;
    char *public_path = format_text("%s.pub", path);
    char *public_line = format_text("%s\n", public);
    if (!failure_note(failure, path, replace_file(path, private, 0600)))
        failure_note(failure, public_path, replace_file(public_path, public_line, 0644));
    free(public_line);
    free(public_path);
}

/* At SIGHUP sshd starts itself anew and reads its keys. Its connections are processes of their own and stay. */
static void reload_sshd(struct failure *failure)
{
    char line[16];
    pid_t pid = process_with_pid(read_line(SSHD_PID, line, sizeof line), "sshd");
    if (pid && kill(pid, SIGHUP) < 0 && errno != ESRCH)
        failure_note(failure, "sshd", errno);
}

void set_ssh_host_keys(char **keys, struct failure *failure)
{
    if (!*keys)
        return;
    for (; *keys && !failure->error; keys++)
        set_key(*keys, failure);
    if (!failure->error)
        reload_sshd(failure);
}
