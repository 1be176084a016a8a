#include "early.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "console.h"
#include "memory.h"
#include "system.h"

#define GENERATORS "/run/systemd/system-generators"

/* --- generators --- */

static bool has_parameter(const char *beginning)
{
    char *line = read_file("/proc/cmdline"), *rest = line;
    bool found = false;
    for (char *word; !found && (word = strsep(&rest, " \n"));)
        found = strncmp(word, beginning, strlen(beginning)) == 0;
    free(line);
    return found;
}

static bool has_mounts(const char *root)
{
    char path[64];
    snprintf(path, sizeof path, "%s/etc/fstab", root);
    char *text = read_file(path), *rest = text;
    bool found = false;
    for (char *line; !found && (line = strsep(&rest, "\n"));) {
        line += strspn(line, " \t");
        found = *line && *line != '#';
    }
    free(text);
    return found;
}

static bool has_unit(const char *root, const char *script)
{
    static const char *const places[] = {"/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"};
    size_t length = strlen(script);
    struct stat status;
    if (length > 3 && strcmp(script + length - 3, ".sh") == 0)
        length -= 3;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s%s/%.*s.service", root, places[i], (int)length, script);
        if (lstat(path, &status) == 0)
            return true;
    }
    return false;
}

static bool has_scripts_without_units(const char *root)
{
    char path[64];
    snprintf(path, sizeof path, "%s/etc/init.d", root);
    DIR *scripts = opendir(path);
    bool found = false;
    for (struct dirent *entry; scripts && !found && (entry = readdir(scripts));)
        found = entry->d_name[0] != '.' && !has_unit(root, entry->d_name);
    if (scripts)
        closedir(scripts);
    return found;
}

static void mask_generator(const char *generator)
{
    char path[128];
    snprintf(path, sizeof path, GENERATORS "/%s", generator);
    if (symlink("/dev/null", path) < 0 && errno != EEXIST)
        say_on_console("attest-agent: link %s: %s\n", path, strerror(errno));
}

void mask_idle_generators(const char *root)
{
    mkdir("/run/systemd", 0755);
    mkdir(GENERATORS, 0755);
    if (!has_scripts_without_units(root))
        mask_generator("systemd-sysv-generator");
    if (has_parameter("systemd.") || has_parameter("rd."))
        return;
    mask_generator("systemd-debug-generator");
    mask_generator("systemd-run-generator");
    if (!has_mounts(root) && !has_parameter("root=") && !has_parameter("mount.") && !has_parameter("fstab="))
        mask_generator("systemd-fstab-generator");
}

static void unmask_generator(const char *generator)
{
    char path[128], target[16];
    snprintf(path, sizeof path, GENERATORS "/%s", generator);
    ssize_t size = readlink(path, target, sizeof target);
    if (size == 9 && memcmp(target, "/dev/null", 9) == 0)
        unlink(path);
}

void unmask_generators(void)
{
    unmask_generator("systemd-sysv-generator");
    unmask_generator("systemd-fstab-generator");
}

/* --- device nodes --- */

static void make_node(const char *name, char kind, unsigned int major, unsigned int minor)
{
    char path[128];
    snprintf(path, sizeof path, "/dev/%s", name);
    for (char *slash = strchr(path + 5, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0755);
        *slash = '/';
    }
    if (mknod(path, (kind == 'b' ? S_IFBLK : S_IFCHR) | 0600, makedev(major, minor)) < 0 && errno != EEXIST)
        say_on_console("attest-agent: make %s: %s\n", path, strerror(errno));
}

void make_static_nodes(const char *root)
{
    struct utsname kernel;
    char path[256], name[65], kind;
    unsigned int major, minor;
    uname(&kernel);
    snprintf(path, sizeof path, "%s/lib/modules/%s/modules.devname", root, kernel.release);
    char *text = read_file(path), *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));)
        if (*line != '#' && sscanf(line, "%*s %64s %c%u:%u", name, &kind, &major, &minor) == 4)
            make_node(name, kind, major, minor);
    free(text);
}
