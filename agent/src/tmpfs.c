#include "tmpfs.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sysinfo.h>
#include <sys/vfs.h>

#include "console.h"
#include "system.h"

/* What is to be left for processes, in KiB: systemd with its services needs the first, a shell and its commands the
 * second. A tmpfs that has less than the last does not do for what every system keeps in it. */
enum { SYSTEM_RESERVE = 32 << 10, SHELL_RESERVE = 10 << 10, LEAST = 2 << 10 };

/* KiB of /run, the most and the least, with which systemd takes a daemon-reload (it wants 16 MiB free), and the part of
 * the memory that it would give /run itself: a guest where that is less cannot have it, and keeps its memory. */
enum { RELOAD_ROOM = 20 << 10, LEAST_RELOAD_ROOM = 17 << 10, SYSTEMD_PART = 5 };

static uint64_t share_kib(enum share share)
{
    struct sysinfo memory;
    if (sysinfo(&memory) < 0)
        return LEAST;
    char *root = kernel_parameter("attest.root");
    uint64_t total_kib = (uint64_t)memory.totalram * memory.mem_unit / 1024;
    uint64_t least = LEAST;
    if (root && share == RUN_SHARE && total_kib / SYSTEMD_PART >= LEAST_RELOAD_ROOM)
        least = total_kib / SYSTEMD_PART < RELOAD_ROOM ? total_kib / SYSTEMD_PART : RELOAD_ROOM;
    uint64_t free_kib = (uint64_t)(memory.freeram + memory.bufferram) * memory.mem_unit / 1024;
    uint64_t reserve = root ? SYSTEM_RESERVE : SHELL_RESERVE;
    free(root);
    uint64_t all = free_kib > reserve + free_kib / 4 ? free_kib - reserve : free_kib / 4;
    uint64_t mine = all * share / 8;
    return mine > least ? mine : least;
}

int mount_tmpfs(const char *place, unsigned long flags, const char *mode, enum share share)
{
    char options[64];
    snprintf(options, sizeof options, "mode=%s,size=%lluk", mode, (unsigned long long)share_kib(share));
    return mount("tmpfs", place, "tmpfs", flags, options);
}

void limit_initial_root(void)
{
    struct statfs root;
    if (statfs("/", &root) < 0 || root.f_type != TMPFS_MAGIC)
        return;
    char options[64];
    uint64_t mine = share_kib(ROOT_SHARE);
    uint64_t used = (uint64_t)(root.f_blocks - root.f_bfree) * (uint64_t)root.f_bsize / 1024;
    uint64_t inodes = (uint64_t)(root.f_files - root.f_ffree) + mine / 4; /* each takes memory of the kernel's, too */
    snprintf(options, sizeof options, "size=%lluk,nr_inodes=%llu", (unsigned long long)(used + mine),
             (unsigned long long)inodes);
    if (mount(NULL, "/", NULL, MS_REMOUNT, options) < 0)
        say_on_console("attest-agent: limit the root: %s\n", strerror(errno));
}
