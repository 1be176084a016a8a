#include "system.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "memory.h"

#define USUAL_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define NIXOS_BIN "/run/current-system/sw/bin"

enum { FILE_MAX = 1 << 20, CHUNK = 4096 };

char *read_line(const char *path, char *line, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, line, size - 1);
    if (fd >= 0)
        close(fd);
    line[got > 0 ? got : 0] = 0;
    line[strcspn(line, "\n")] = 0;
    return line;
}

char *read_file(const char *path)
{
    struct buffer text = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : 1;
    while (got > 0 && buffer_size(&text) < FILE_MAX) {
        got = read(fd, buffer_room(&text, CHUNK), CHUNK);
        buffer_added(&text, got > 0 ? (size_t)got : 0);
    }
    if (fd >= 0)
        close(fd);
    buffer_add(&text, "", 1);
    return (char *)text.bytes;
}

bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool done = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return done;
}

char *kernel_parameter(const char *name)
{
    static char line[8192];
    size_t length = strlen(name);
    read_line("/proc/cmdline", line, sizeof line);
    for (char *word = strtok(line, " "); word; word = strtok(NULL, " "))
        if (strncmp(word, name, length) == 0 && word[length] == '=')
            return copy_text(word + length + 1, strlen(word + length + 1));
    return NULL;
}

const char *boot_id(void)
{
    static char id[64];
    return *id ? id : read_line("/proc/sys/kernel/random/boot_id", id, sizeof id);
}

bool has_vsock(void)
{
    static const char number[] = "0x0013"; /* of socket devices, in the specification of virtio */
    DIR *devices = opendir("/sys/bus/virtio/devices");
    bool found = false;
    for (struct dirent *entry; devices && !found && (entry = readdir(devices));) {
        char path[300], line[16];
        snprintf(path, sizeof path, "/sys/bus/virtio/devices/%s/device", entry->d_name);
        found = strcmp(read_line(path, line, sizeof line), number) == 0;
    }
    if (devices)
        closedir(devices);
    return found;
}

const char *init_name(void)
{
    static bool systemd; /* once it runs, it stays */
    if (getpid() == 1)
        return "agent";
    systemd = systemd || access("/run/systemd/system", F_OK) == 0;
    return systemd ? "systemd" : "other";
}

const char *shell_path(void)
{
    static const char *const shells[] = {NIXOS_BIN "/bash", "/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash"};
    for (size_t i = 0; i < sizeof shells / sizeof *shells; i++)
        if (access(shells[i], X_OK) == 0)
            return shells[i];
    return "/bin/sh";
}

const char *default_path(void)
{
    return access(NIXOS_BIN, F_OK) == 0 ? "/run/wrappers/bin:" NIXOS_BIN ":" USUAL_PATH : USUAL_PATH;
}
