#include "modules.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "console.h"

static void load_module(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
        say_on_console("attest-agent: module %s: %s\n", path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

void load_modules(const char *list)
{
    char path[64];
    snprintf(path, sizeof path, "/modules/%s", list);
    FILE *order = fopen(path, "re");
    char *line = NULL;
    size_t size = 0;
    while (order && getline(&line, &size, order) > 0) {
        line[strcspn(line, "\n")] = 0;
        if (*line)
            load_module(line);
    }
    free(line);
    if (order)
        fclose(order);
}
