#include "boot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "console.h"
#include "early.h"
#include "modules.h"
#include "power.h"
#include "root.h"
#include "system.h"
#include "tmpfs.h"

#define AGENT_DIRECTORY "/run/attest"
#define AGENT AGENT_DIRECTORY "/attest-agent"
#define UNITS "/run/systemd/system"
/* What is written to a disk whose name was mistyped does not take all memory. */
#define DEV_OPTIONS "mode=0755,size=1m"

/* The agent stays from early boot to the very end, whatever its service manager does to other services meanwhile. */
static const char unit[] = "[Unit]\n"
                           "Description=attest guest agent\n"
                           "DefaultDependencies=no\n"
                           "StartLimitIntervalSec=0\n"
                           "\n"
                           "[Service]\n"
                           "ExecStart=" AGENT "\n"
                           "Restart=always\n"
                           "RestartSec=50ms\n"
                           "KillMode=process\n"
                           "TasksMax=infinity\n"
                           "OOMScoreAdjust=-1000\n"
                           "OOMPolicy=continue\n" /* else a command that is killed for memory takes the agent with it */
                           "IgnoreSIGPIPE=no\n";

/* Whoever powers off such a guest, the agent or `poweroff`, ends up in that service. */
static const char reboot_instead[] = "[Unit]\n"
                                     "SuccessAction=reboot-force\n"
                                     "\n"
                                     "[Service]\n"
                                     "Type=oneshot\n"
                                     "ExecStart=-/bin/sh -c 'echo \"" SAY_POWER_OFF "\" >/dev/console'\n";

/* --- file systems --- */

static void mount_at(const char *type, const char *place, unsigned long flags, const char *options)
{
    mkdir(place, 0755);
    if (mount(type, place, type, flags, options) < 0 && errno != EBUSY)
        say_on_console("attest-agent: mount %s: %s\n", place, strerror(errno));
}

static void mount_memory_at(const char *place, unsigned long flags, const char *mode, enum share share)
{
    mkdir(place, 0755);
    if (mount_tmpfs(place, flags, mode, share) < 0 && errno != EBUSY)
        say_on_console("attest-agent: mount %s: %s\n", place, strerror(errno));
}

static void mount_kernel_file_systems(void)
{
    mount_at("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount_at("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount_memory_at("/run", MS_NOSUID | MS_NODEV, "0755", RUN_SHARE);
}

/* --- disks --- */

/* For VMMs that cannot give a disk the serial number from which udev would make this name. */
static void name_disks(char *devices)
{
    char *rest = devices;
    mkdir("/dev/disk", 0755);
    mkdir("/dev/disk/by-id", 0755);
    for (int number = 0; rest; number++) {
        char link[64];
        const char *device = strsep(&rest, ",");
        snprintf(link, sizeof link, "/dev/disk/by-id/virtio-disk%d", number);
        if (symlink(device, link) < 0)
            say_on_console("attest-agent: link %s: %s\n", link, strerror(errno));
    }
}

/* --- modules --- */

static bool has_entries(const char *path)
{
    DIR *entries = opendir(path);
    int count = 0;
    while (entries && count <= 2 && readdir(entries)) /* two are . and .. */
        count++;
    if (entries)
        closedir(entries);
    return count > 2;
}

/* Each module takes an emulated guest ten milliseconds. */
static void load_needed_modules(void)
{
    load_modules("order");
    if (has_entries("/sys/bus/pci/devices"))
        load_modules("order.pci");
    if (has_vsock())
        load_modules("order.vsock");
}

/* --- the agent as a service of the real init --- */

static void copy_agent(void)
{
    struct stat status;
    int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    mkdir(AGENT_DIRECTORY, 0755);
    int to = open(AGENT, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    bool copied = from >= 0 && to >= 0 && fstat(from, &status) == 0;
    for (off_t done = 0; copied && done < status.st_size;)
        copied = sendfile(to, from, &done, (size_t)(status.st_size - done)) > 0;
    if (!copied)
        give_up("copy the agent to " AGENT ": %s", strerror(errno));
    close(from);
    close(to);
}

static void make_directories(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0755);
        *slash = '/';
    }
}

static void write_unit(const char *path, const char *content)
{
    char parents[128];
    ssize_t size = (ssize_t)strlen(content);
    snprintf(parents, sizeof parents, "%s", path);
    make_directories(parents);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, content, (size_t)size) != size)
        give_up("write %s: %s", path, strerror(errno));
    close(fd);
}

static void write_units(void)
{
    char wants[] = UNITS "/sysinit.target.wants/attest-agent.service";
    write_unit(UNITS "/attest-agent.service", unit);
    make_directories(wants);
    if (symlink("../attest-agent.service", wants) < 0)
        give_up("link the agent's unit: %s", strerror(errno));
    if (power_off_is_reboot())
        write_unit(UNITS "/systemd-poweroff.service.d/attest.conf", reboot_instead);
}

/* --- the change of root --- */

static void move_mounts(void)
{
    static const char *const places[] = {"/dev", "/proc", "/sys", "/run"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char target[64];
        snprintf(target, sizeof target, ROOT "%s", places[i]);
        mkdir(target, 0755);
        if (mount(places[i], target, NULL, MS_MOVE, NULL) < 0)
            give_up("move %s to the new root: %s", places[i], strerror(errno));
    }
}

/* Free the initramfs' memory. Never leaves its file system. */
static void empty_directory(int directory, dev_t device)
{
    DIR *entries = fdopendir(directory);
    struct stat status;
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
            fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0 || status.st_dev != device)
            continue;
        if (S_ISDIR(status.st_mode)) {
            int inner = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (inner >= 0)
                empty_directory(inner, device);
        }
        unlinkat(directory, name, S_ISDIR(status.st_mode) ? AT_REMOVEDIR : 0);
    }
    if (entries)
        closedir(entries);
}

static void change_root(void)
{
    struct stat status;
    int old = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    move_mounts();
    if (chdir(ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        give_up("change root: %s", strerror(errno));
    if (old >= 0 && fstat(old, &status) == 0)
        empty_directory(old, status.st_dev);
}

__attribute__((noreturn)) static void boot_root(const char *name, char **arguments)
{
    char *init = kernel_parameter("attest.init");
    mount_root(name);
    copy_agent();
    write_units();
    mask_idle_generators(ROOT);
    make_static_nodes(ROOT);
    change_root();
    open_console();
    say_on_console("attest-stage: root\n");
    arguments[0] = init ? init : "/sbin/init";
    execv(arguments[0], arguments);
    give_up("execute %s: %s", arguments[0], strerror(errno));
}

/* --- the guest that has nothing but the agent --- */

static void raise_loopback(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
        say_on_console("attest-agent: loopback: %s\n", strerror(errno));
    if (fd >= 0)
        close(fd);
}

static void boot_alone(void)
{
    char name[65];
    mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,ptmxmode=0666,gid=5");
    limit_initial_root();
    mount_memory_at("/dev/shm", MS_NOSUID | MS_NODEV, "1777", SHM_SHARE);
    mkdir("/tmp", 01777);
    chmod("/tmp", 01777);
    mkdir("/root", 0700);
    raise_loopback();
    if (*read_line("/etc/hostname", name, sizeof name))
        sethostname(name, strlen(name));
    /* Ctrl-Alt-Del is then a SIGINT for PID 1. */
    reboot(RB_DISABLE_CAD);
}

void boot_guest(char **arguments)
{
    if (access(AGENT, F_OK) == 0) { /* the root has this program as its init, too */
        open_console();
        boot_alone();
        return;
    }
    mount_at("devtmpfs", "/dev", MS_NOSUID, DEV_OPTIONS);
    bool console = open_console();
    if (console)
        say_on_console("attest-stage: init\n");
    mount_kernel_file_systems();
    load_needed_modules();
    /* The console's driver may have been one of the modules. */
    if (!console && open_console())
        say_on_console("attest-stage: init\n");
    char *disks = kernel_parameter("attest.disks");
    if (disks)
        name_disks(disks);
    free(disks);
    char *root = kernel_parameter("attest.root");
    if (root)
        boot_root(root, arguments);
    boot_alone();
}
