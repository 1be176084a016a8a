#include "process.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "system.h"

/* Whether /proc/PID/stat, "PID (NAME) STATE ...", is of a living process with that name (NULL: any). */
static bool process_matches(const char *pid, const char *name)
{
    char path[300], line[512];
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    char *open = strchr(read_line(path, line, sizeof line), '(');
    char *close = strrchr(line, ')');
    if (!open || !close || close < open || strlen(close) < 3 || close[2] == 'Z' || close[2] == 'X')
        return false;
    *close = 0;
    return !name || strcmp(open + 1, name) == 0;
}

static bool is_number(const char *text)
{
    return *text && strspn(text, "0123456789") == strlen(text);
}

pid_t process_with_pid(const char *pid, const char *name)
{
    return is_number(pid) && strlen(pid) < 10 && process_matches(pid, name) ? (pid_t)atoi(pid) : 0;
}

pid_t process_find(const char *name)
{
    if (is_number(name))
        return process_with_pid(name, NULL);
    DIR *proc = opendir("/proc");
    pid_t found = 0;
    for (struct dirent *entry; proc && !found && (entry = readdir(proc));)
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && process_matches(entry->d_name, name))
            found = (pid_t)atoi(entry->d_name);
    if (proc)
        closedir(proc);
    return found;
}
