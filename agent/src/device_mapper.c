#include "device_mapper.h"

#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define CONTROL "/dev/mapper/control"

enum { TARGETS_MAX = 4 };

struct target_entry {
    struct dm_target_spec spec;
    char parameters[160]; /* a multiple of 8 bytes, as the kernel wants each entry to begin at one */
};

struct command {
    struct dm_ioctl header;
    struct target_entry targets[TARGETS_MAX];
};

static void begin_command(struct command *command, const char *name)
{
    memset(command, 0, sizeof *command);
    command->header.version[0] = DM_VERSION_MAJOR;
    command->header.data_size = sizeof *command;
    command->header.data_start = offsetof(struct command, targets);
    snprintf(command->header.name, sizeof command->header.name, "%s", name);
}

static bool load_table(int control, struct command *command, const char *name, const struct target *targets,
                       size_t count)
{
    uint64_t start = 0;
    begin_command(command, name);
    command->header.target_count = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        struct target_entry *entry = &command->targets[i];
        entry->spec.sector_start = start;
        entry->spec.length = targets[i].sectors;
        entry->spec.next = sizeof *entry;
        snprintf(entry->spec.target_type, sizeof entry->spec.target_type, "%s", targets[i].type);
        snprintf(entry->parameters, sizeof entry->parameters, "%s", targets[i].parameters);
        start += targets[i].sectors;
    }
    return ioctl(control, DM_TABLE_LOAD, command) == 0;
}

bool device_mapper_create(const char *name, const struct target *targets, size_t count, char *device, size_t size,
                          const char **step)
{
    struct command command;
    *step = "open " CONTROL;
    int control = open(CONTROL, O_RDWR | O_CLOEXEC);
    if (control < 0)
        return false;
    *step = "create";
    begin_command(&command, name);
    bool done = ioctl(control, DM_DEV_CREATE, &command) == 0;
    /* As the kernel's huge_encode_dev() has it: the minor's high bits are above the major. */
    uint64_t number = command.header.dev;
    snprintf(device, size, "/dev/dm-%u", (unsigned)((number & 0xff) | ((number >> 12) & 0xfff00)));
    if (done) {
        *step = "load the table";
        done = load_table(control, &command, name, targets, count);
    }
    if (done) {
        *step = "resume"; /* without DM_SUSPEND_FLAG that is what suspending does */
        begin_command(&command, name);
        done = ioctl(control, DM_DEV_SUSPEND, &command) == 0;
    }
    close(control);
    return done;
}
