#include "root.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "console.h"
#include "device_mapper.h"
#include "loop.h"
#include "modules.h"
#include "system.h"
#include "tmpfs.h"
#include "uevent.h"

#define LOWER "/attest-lower"
#define UPPER "/attest-upper"

/* fs/ext4/ext4.h; the header for programs has it since Linux 6.1 only. */
#define RESIZE_EXT4 _IOW('f', 16, uint64_t)

enum { DISK_LIMIT_MS = 30000, SECTOR = 512, BLOCK = 4096 };

/* --- disks --- */

/* A name that is no device's path is a disk's serial number. */
static bool find_disk(const char *name, char *device, size_t size)
{
    if (*name == '/')
        return access(name, F_OK) == 0 && snprintf(device, size, "%s", name) < (int)size;
    DIR *disks = opendir("/sys/block");
    bool found = false;
    for (struct dirent *entry; disks && !found && (entry = readdir(disks));) {
        char path[300], line[64];
        snprintf(path, sizeof path, "/sys/block/%s/serial", entry->d_name);
        if (strcmp(read_line(path, line, sizeof line), name) == 0)
            found = snprintf(device, size, "/dev/%s", entry->d_name) < (int)size;
    }
    if (disks)
        closedir(disks);
    return found;
}

static void wait_for_disk(const char *name, char *device, size_t size)
{
    struct pollfd events = {.fd = uevent_open(), .events = POLLIN};
    uint64_t deadline = now_ms() + DISK_LIMIT_MS;
    while (!find_disk(name, device, size)) {
        uint64_t now = now_ms();
        if (now >= deadline)
            give_up("no virtio disk %s appeared within %d s", name, DISK_LIMIT_MS / 1000);
        poll(&events, 1, (int)(deadline - now));
        uevent_drain(events.fd);
    }
    close(events.fd);
}

static uint64_t sectors_of(const char *device)
{
    uint64_t bytes = 0;
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes) < 0)
        give_up("read the size of %s: %s", device, strerror(errno));
    close(fd);
    return bytes / SECTOR;
}

/* --- a root that lasts --- */

/* The image and, beyond its end, zeros, of which device-mapper puts each block on the overlay's disk when it is written
 * to first (its target "snapshot": see Documentation/admin-guide/device-mapper/snapshot.rst). Blocks are copied as whole
 * ones of most file systems, so that none has to be read for that. */
static void map_root(const char *image, const char *overlay, uint64_t sectors, char *device, size_t size)
{
    char base[64];
    const char *step;
    uint64_t image_sectors = sectors_of(image);
    struct target whole[2] = {{.sectors = image_sectors, .type = "linear"},
                              {.sectors = sectors - image_sectors, .type = "zero"}};
    snprintf(whole[0].parameters, sizeof whole[0].parameters, "%s 0", image);
    if (!device_mapper_create("attest-image", whole, sectors > image_sectors ? 2 : 1, base, sizeof base, &step))
        give_up("map the image's disk: %s: %s", step, strerror(errno));
    struct target snapshot = {.sectors = sectors, .type = "snapshot"};
    snprintf(snapshot.parameters, sizeof snapshot.parameters, "%s %s P %d", base, overlay, BLOCK / SECTOR);
    if (!device_mapper_create("attest-root", &snapshot, 1, device, size, &step))
        give_up("map the root's disk: %s: %s", step, strerror(errno));
}

/* Let the file system have all of its disk. Its new inodes' tables need not be written, as the disk is zeros. One that
 * cannot grow, as the kernel forbids it where errors have been found in it, is as large as it was. */
static void grow_root(uint64_t sectors)
{
    struct statfs status = {.f_bsize = BLOCK};
    int fd = open(ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstatfs(fd, &status) < 0)
        give_up("look at the root: %s", strerror(errno));
    uint64_t blocks = sectors * SECTOR / (uint64_t)status.f_bsize;
    if (ioctl(fd, RESIZE_EXT4, &blocks) < 0)
        say_on_console("attest-agent: grow the root to %llu blocks: %s\n", (unsigned long long)blocks, strerror(errno));
    close(fd);
    if (mount(NULL, ROOT, NULL, MS_REMOUNT, "noinit_itable") < 0)
        give_up("mount the root again: %s", strerror(errno));
}

static void mount_mapped(const char *image, const char *overlay, uint64_t mebibytes)
{
    char device[64];
    uint64_t sectors = mebibytes << (20 - 9), image_sectors = sectors_of(image);
    if (sectors < image_sectors)
        sectors = image_sectors;
    load_modules("order.mapped");
    map_root(image, overlay, sectors, device, sizeof device);
    if (mount(device, ROOT, "ext4", 0, NULL) < 0)
        give_up("mount %s as ext4: %s", device, strerror(errno));
    grow_root(sectors);
}

/* --- a root that cannot be written --- */

static void mount_upper(const char *overlay)
{
    if (overlay) {
        if (mount(overlay, UPPER, "ext4", 0, NULL) < 0)
            give_up("mount %s as ext4: %s", overlay, strerror(errno));
    } else if (mount_tmpfs(UPPER, 0, "0755", ROOT_SHARE) < 0)
        give_up("mount tmpfs: %s", strerror(errno));
}

static void mount_union(const char *image, const char *type, const char *overlay)
{
    load_modules("order.union");
    mkdir(LOWER, 0755);
    mkdir(UPPER, 0755);
    if (mount(image, LOWER, type, MS_RDONLY, NULL) < 0)
        give_up("mount %s as %s: %s", image, type, strerror(errno));
    mount_upper(overlay);
    mkdir(UPPER "/upper", 0755);
    mkdir(UPPER "/work", 0755);
    if (mount("overlay", ROOT, "overlay", 0, "lowerdir=" LOWER ",upperdir=" UPPER "/upper,workdir=" UPPER "/work") < 0)
        give_up("mount overlay: %s", strerror(errno));
    /* The overlay holds both itself. */
    umount2(LOWER, MNT_DETACH);
    umount2(UPPER, MNT_DETACH);
}

static bool is_ext4(const char *device)
{
    unsigned char magic[2] = {0};
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    bool ext4 = fd >= 0 && pread(fd, magic, sizeof magic, 1024 + 56) == 2 && magic[0] == 0x53 && magic[1] == 0xef;
    if (fd >= 0)
        close(fd);
    return ext4;
}

void mount_root(const char *image)
{
    char device[64], overlay[64];
    char *name = kernel_parameter("attest.overlay"), *size = kernel_parameter("attest.root_size");
    mkdir(ROOT, 0755);
    wait_for_disk(image, device, sizeof device);
    if (name)
        wait_for_disk(name, overlay, sizeof overlay);
    bool ext4 = is_ext4(device);
    if (name && ext4)
        mount_mapped(device, overlay, size ? strtoull(size, NULL, 10) : 0);
    else
        mount_union(device, ext4 ? "ext4" : "erofs", name ? overlay : NULL);
    /* Before systemd mounts it, for which half of the memory is free whatever else is in it. */
    mkdir("/dev/shm", 01777);
    if (mount_tmpfs("/dev/shm", MS_NOSUID | MS_NODEV, "1777", name ? USUAL_SHM_SHARE : SHM_SHARE) < 0)
        give_up("mount /dev/shm: %s", strerror(errno));
    free(name);
    free(size);
}
