#include "replace.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "memory.h"
#include "system.h"

enum { PAGE = 4096 };

static int write_all(int fd, const char *text)
{
    ssize_t put = write(fd, text, strlen(text));
    return put == (ssize_t)strlen(text) ? 0 : put < 0 ? errno : ENOSPC;
}

/* --- over what is there ---
 * A new file is made, changes its name and makes another one go: under emulation that takes a clone 25 ms, as QEMU translates
 * all of it for the first time. Where no other processor can read meanwhile, what one system call writes into one page is there
 * at once, too. */

static bool one_processor(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) == 1;
}

static bool is_one_page(int fd, size_t length, size_t *before)
{
    struct stat status;
    if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || status.st_nlink != 1)
        return false;
    *before = (size_t)status.st_size;
    return status.st_size <= PAGE && length <= PAGE;
}

/* Of a text that is shorter than what was there, readers may see empty lines at its end, for a moment. */
static bool write_page(int fd, const char *text, size_t length, size_t before)
{
    char page[PAGE];
    size_t size = length > before ? length : before;
    memset(page, '\n', size);
    memcpy(page, text, length);
    return pwrite(fd, page, size, 0) == (ssize_t)size && (size == length || ftruncate(fd, (off_t)length) == 0);
}

static bool overwrite_file(const char *path, const char *text)
{
    size_t length = strlen(text), before;
    int fd = one_processor() ? open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (fd < 0)
        return false;
    bool done = is_one_page(fd, length, &before) && write_page(fd, text, length, before);
    close(fd);
    return done;
}

/* --- a new file --- */

static int write_in_place(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int error = write_all(fd, text);
    close(fd);
    return error;
}

static int set_mode_and_owner(int fd, const char *path, mode_t mode)
{
    struct stat before;
    if (stat(path, &before) < 0)
        return fchmod(fd, mode) < 0 ? errno : 0;
    bool done = fchown(fd, before.st_uid, before.st_gid) == 0 && fchmod(fd, before.st_mode & 07777) == 0;
    return done ? 0 : errno;
}

/* The file is made anew, and for root alone until all is in it: it may hold a secret. */
static int write_beside(const char *beside, const char *path, const char *text, mode_t mode)
{
    unlink(beside);
    int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno;
    int error = write_all(fd, text);
    error = error ? error : set_mode_and_owner(fd, path, mode);
    close(fd);
    return error;
}

/* Both files change places, and then the old one goes: what is renamed over another file, ext4 begins to write to the
 * disk at once (its option auto_da_alloc), which takes a clone a tenth of a second under emulation. */
static int put_in_place(const char *beside, const char *path)
{
    if (syscall(SYS_renameat2, AT_FDCWD, beside, AT_FDCWD, path, RENAME_EXCHANGE) == 0)
        return unlink(beside) < 0 ? errno : 0;
    return rename(beside, path) < 0 ? errno : 0; /* there is no old one, or this file system cannot */
}

static bool is_so_already(const char *path, const char *text)
{
    struct stat status;
    if (stat(path, &status) < 0 || status.st_size != (off_t)strlen(text))
        return false;
    char *now = read_file(path);
    bool same = strcmp(now, text) == 0;
    free(now);
    return same;
}

int replace_file(const char *path, const char *text, mode_t mode)
{
    bool secret = !(mode & 0044); /* not for who has the old file open */
    if (!secret && overwrite_file(path, text))
        return 0;
    char *beside = format_text("%s.attest", path);
    int error = write_beside(beside, path, text, mode);
    error = error ? error : put_in_place(beside, path);
    if (error)
        unlink(beside);
    if (error == EBUSY || error == EXDEV || error == EROFS)
        error = write_in_place(path, text);
    if (error && is_so_already(path, text)) /* to ask first would cost each clone a read from its disk */
        error = 0;
    free(beside);
    return error;
}
