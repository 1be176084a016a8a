#include "put.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memory.h"
#include "sparse.h"
#include "tar.h"

enum { PATH = 1, NAME };
#define ROOT "root"

/* A directory whose mode and time are set when nothing more is put into it. */
struct pending {
    char *name;
    uint32_t mode, uid, gid;
    struct timespec changed;
    struct pending *next;
};

enum phase { IN_HEADER, IN_EXTRA, IN_FILE, IN_PADDING, AT_END };

struct put {
    struct stream *stream;
    int base;   /* the directory that holds the target */
    char *last; /* the target's name in it */
    char *target; /* its whole path, for errors */
    enum phase phase;
    uint8_t block[TAR_BLOCK];
    size_t have;
    uint64_t left; /* of what the phase is about */
    struct sparse_reader map; /* of the file that is being written, where it has holes */
    size_t part;              /* of that, which is being written, and how much of it has been */
    uint64_t written;
    struct buffer extra;
    struct tar_member member;
    struct tar_pax pax;
    size_t members;
    bool leaf; /* the archive's root is no directory: nothing can lie in it, least of all behind a link */
    struct pending *directories; /* last first */
    /* The file that is being written, beside its place. */
    int file, directory;
    char *file_name, temporary[40];
    unsigned serial;
};

/* --- places --- */

/* Open a directory that is there or is made; never through a symbolic link. */
static int enter_directory(int directory, const char *name)
{
    static const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int inner = openat(directory, name, flags);
    if (inner < 0 && errno == ENOENT && (mkdirat(directory, name, 0755) == 0 || errno == EEXIST))
        inner = openat(directory, name, flags);
    return inner;
}

/* The target itself may be a link to a directory: the host has named it. */
static int enter_target(const struct put *put)
{
    int directory = openat(put->base, put->last, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return directory < 0 && errno == ENOENT ? enter_directory(put->base, put->last) : directory;
}

/* Open the directory that a member lies in, and copy its last component. -1 with errno. */
static int open_parent(const struct put *put, const char *name, char **last)
{
    if (strcmp(name, ROOT) == 0) {
        *last = copy_text(put->last, strlen(put->last));
        return fcntl(put->base, F_DUPFD_CLOEXEC, 3);
    }
    if (strncmp(name, ROOT "/", sizeof ROOT) != 0) {
        errno = EINVAL;
        return -1;
    }
    if (put->leaf) {
        errno = ENOTDIR;
        return -1;
    }
    int directory = enter_target(put);
    for (const char *part = name + sizeof ROOT; directory >= 0;) {
        size_t length = strcspn(part, "/");
        char *component = copy_text(part, length);
        bool wrong = length == 0 || strcmp(component, ".") == 0 || strcmp(component, "..") == 0;
        if (!wrong && !part[length]) {
            *last = component;
            return directory;
        }
        int inner = wrong ? -1 : enter_directory(directory, component);
        int error = wrong ? EINVAL : errno;
        close(directory);
        free(component);
        directory = inner;
        errno = error;
        part += length + 1;
    }
    return -1;
}

/* --- the end --- */

static void put_free(struct put *put)
{
    if (put->file >= 0) {
        unlinkat(put->directory, put->temporary, 0);
        close(put->file);
        close(put->directory);
    }
    close(put->base);
    while (put->directories) {
        struct pending *pending = put->directories;
        put->directories = pending->next;
        free(pending->name);
        free(pending);
    }
    free(put->last);
    free(put->file_name);
    free(put->target);
    sparse_free(&put->map.sparse);
    buffer_free(&put->extra);
    tar_member_clear(&put->member);
    tar_pax_clear(&put->pax);
    free(put);
}

/* What a member becomes in the guest, for free(): its name begins with ROOT. */
static char *place_of(const struct put *put)
{
    const char *name = put->member.name;
    bool inside = name && strncmp(name, ROOT "/", sizeof ROOT) == 0;
    bool itself = name && strcmp(name, ROOT) == 0;
    if (inside || itself)
        return format_text("%s%s", put->target, inside ? name + sizeof ROOT - 1 : "");
    return name ? copy_text(name, strlen(name)) : copy_text("the archive", 11);
}

/* An error's sentence, with the member that it is about. */
static bool put_fail(struct put *put, int error, const char *why)
{
    struct stream *stream = put->stream;
    char *place = place_of(put);
    put_free(put);
    stream_fail(stream, error, "%.400s: %s", place, why);
    free(place);
    return false;
}

static bool put_error(struct put *put, int error)
{
    return put_fail(put, error, error == ELOOP || error == ENOTDIR ? "its path leads through something that is no directory"
                                : error == EINVAL                   ? "members are called root and root/..., without .."
                                : error == EBADMSG                  ? "its sparse map does not fit its data"
                                                                    : strerror(error));
}

/* --- members --- */

/* 0 or an errno. Only root gives files away. */
static int set_owner(int directory, const char *name, uint32_t uid, uint32_t gid)
{
    if (geteuid() != 0)
        return 0;
    return fchownat(directory, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0 ? errno : 0;
}

static int set_time(int directory, const char *name, struct timespec changed)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, changed};
    return utimensat(directory, name, times, AT_SYMLINK_NOFOLLOW) < 0 ? errno : 0;
}

static void name_temporary(struct put *put)
{
    snprintf(put->temporary, sizeof put->temporary, ".attest-put-%d-%u-%u", getpid(), put->stream->number, put->serial++);
}

static int move_into_place(struct put *put, int directory, const char *name)
{
    int error = renameat(directory, put->temporary, directory, name) < 0 ? errno : 0;
    /* Also after success: two links of one file are not renamed to each other. */
    unlinkat(directory, put->temporary, 0);
    return error;
}

static int put_directory(struct put *put, int parent, const char *name)
{
    const struct tar_member *member = &put->member;
    int directory = strcmp(member->name, ROOT) == 0 ? enter_target(put) : enter_directory(parent, name);
    if (directory < 0)
        return errno;
    close(directory);
    struct pending *pending = allocate_zeroed(sizeof *pending);
    *pending = (struct pending){.mode = member->mode, .uid = member->uid, .gid = member->gid,
                                .changed = member->changed, .next = put->directories};
    pending->name = copy_text(member->name, strlen(member->name));
    put->directories = pending;
    return 0;
}

static int put_link(struct put *put, int parent, const char *name)
{
    name_temporary(put);
    if (symlinkat(put->member.link, parent, put->temporary) < 0)
        return errno;
    int error = set_owner(parent, put->temporary, put->member.uid, put->member.gid);
    error = error ? error : set_time(parent, put->temporary, put->member.changed);
    int moved = move_into_place(put, parent, name);
    return error ? error : moved;
}

static int put_hard_link(struct put *put, int parent, const char *name)
{
    char *other;
    int directory = open_parent(put, put->member.link, &other);
    if (directory < 0)
        return errno;
    name_temporary(put);
    int error = linkat(directory, other, parent, put->temporary, 0) < 0 ? errno : 0;
    free(other);
    close(directory);
    return error ? error : move_into_place(put, parent, name);
}

static int open_file(struct put *put, int parent, const char *name)
{
    name_temporary(put);
    put->file = openat(parent, put->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (put->file < 0)
        return errno;
    sparse_free(&put->map.sparse);
    put->map = (struct sparse_reader){0};
    put->part = 0;
    put->written = 0;
    put->directory = fcntl(parent, F_DUPFD_CLOEXEC, 3);
    put->file_name = copy_text(name, strlen(name));
    return 0;
}

static int write_all(int file, const uint8_t *bytes, size_t size)
{
    while (size) {
        ssize_t done = write(file, bytes, size);
        if (done < 0 && errno != EINTR)
            return errno;
        if (done > 0) {
            bytes += done;
            size -= (size_t)done;
        }
    }
    return 0;
}

/* Each part of a file with holes goes to its place, and nothing between them. 0 or an errno. */
static int write_parts(struct put *put, const uint8_t *bytes, size_t size)
{
    const struct sparse *sparse = &put->map.sparse;
    int error = 0;
    while (!error && size) {
        while (put->part < sparse->count && put->written == sparse->parts[put->part].size) {
            put->part++;
            put->written = 0;
        }
        if (put->part == sparse->count)
            return EBADMSG;
        const struct sparse_part *part = &sparse->parts[put->part];
        size_t piece = part->size - put->written < size ? (size_t)(part->size - put->written) : size;
        if (lseek(put->file, (off_t)(part->offset + put->written), SEEK_SET) < 0)
            return errno;
        error = write_all(put->file, bytes, piece);
        put->written += piece;
        bytes += piece;
        size -= piece;
    }
    return error;
}

static int write_sparse(struct put *put, const uint8_t *bytes, size_t size)
{
    if (!put->map.complete) {
        ssize_t used = sparse_read_map(&put->map, bytes, size, put->member.real_size);
        if (used < 0 || (put->map.complete && put->map.sparse.data != put->left - (uint64_t)used))
            return EBADMSG;
        bytes += used;
        size -= (size_t)used;
    }
    return write_parts(put, bytes, size);
}

static int close_file(struct put *put)
{
    const struct tar_member *member = &put->member;
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, member->changed};
    if (member->sparse && !put->map.complete)
        return EBADMSG;
    bool failed = ftruncate(put->file, (off_t)tar_file_size(member)) < 0 ||
                  (geteuid() == 0 && fchown(put->file, member->uid, member->gid) < 0) ||
                  fchmod(put->file, member->mode) < 0 || futimens(put->file, times) < 0;
    int error = failed ? errno : 0;
    int moved = error ? 0 : move_into_place(put, put->directory, put->file_name);
    if (error || moved)
        unlinkat(put->directory, put->temporary, 0);
    close(put->file);
    close(put->directory);
    free(put->file_name);
    put->file_name = NULL;
    put->file = -1;
    return error ? error : moved;
}

static int put_at(struct put *put, int parent, const char *name)
{
    switch (put->member.type) {
    case TAR_FILE:
        return open_file(put, parent, name);
    case TAR_DIRECTORY:
        return put_directory(put, parent, name);
    case TAR_LINK:
        return put_link(put, parent, name);
    case TAR_HARD_LINK:
        return put_hard_link(put, parent, name);
    default:
        return EOPNOTSUPP;
    }
}

/* A directory's name may end with slashes. */
static void trim_slashes(char *name)
{
    for (size_t length = strlen(name); length > 1 && name[length - 1] == '/';)
        name[--length] = 0;
}

static bool put_member(struct put *put)
{
    char *last;
    trim_slashes(put->member.name);
    put->members++;
    int parent = open_parent(put, put->member.name, &last);
    int error = parent < 0 ? errno : put_at(put, parent, last);
    if (parent >= 0) {
        close(parent);
        free(last);
    }
    if (error == EOPNOTSUPP && put->member.type != TAR_FILE)
        return put_fail(put, error, "it is no file, directory or link");
    if (error)
        return put_error(put, error);
    if (strcmp(put->member.name, ROOT) == 0)
        put->leaf = put->member.type != TAR_DIRECTORY;
    put->left = put->member.size;
    put->phase = put->member.type == TAR_FILE ? IN_FILE : IN_HEADER;
    return true;
}

static int finish_directory(const struct put *put, const struct pending *pending)
{
    char *last;
    int parent = open_parent(put, pending->name, &last);
    if (parent < 0)
        return errno;
    free(last);
    int error = 0;
    int directory = strcmp(pending->name, ROOT) == 0 ? enter_target(put) : enter_directory(parent, strrchr(pending->name, '/') + 1);
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, pending->changed};
    if (directory < 0 || (geteuid() == 0 && fchown(directory, pending->uid, pending->gid) < 0) ||
        fchmod(directory, pending->mode) < 0 || futimens(directory, times) < 0)
        error = errno;
    if (directory >= 0)
        close(directory);
    close(parent);
    return error;
}

/* --- the stream --- */

static bool take_extra(struct put *put)
{
    const uint8_t *bytes = put->extra.bytes + put->extra.start;
    size_t size = buffer_size(&put->extra);
    const char *fault = NULL;
    if (put->member.type == TAR_PAX)
        fault = tar_read_pax(bytes, size, &put->pax);
    else if (put->member.type == TAR_LONG_NAME || put->member.type == TAR_LONG_LINK) {
        char **text = put->member.type == TAR_LONG_NAME ? &put->pax.name : &put->pax.link;
        free(*text);
        *text = copy_text(bytes, strnlen((const char *)bytes, size));
    }
    buffer_free(&put->extra);
    return fault ? put_fail(put, EBADMSG, fault) : true;
}

static bool take_header(struct put *put)
{
    put->have = 0;
    if (tar_is_zero(put->block, TAR_BLOCK)) {
        put->phase = AT_END;
        return true;
    }
    const char *fault = tar_read_header(put->block, &put->member);
    if (fault)
        return put_fail(put, EBADMSG, fault);
    const char type = put->member.type;
    if (type != TAR_PAX && type != TAR_PAX_GLOBAL && type != TAR_LONG_NAME && type != TAR_LONG_LINK) {
        tar_apply_pax(&put->member, &put->pax);
        return put_member(put);
    }
    if (put->member.size > TAR_EXTRA_MAX)
        return put_fail(put, EBADMSG, "its extended header is longer than 1 MiB");
    put->phase = IN_EXTRA;
    put->left = put->member.size;
    return true;
}

/* What the phase was about is complete. Whether the stream goes on. */
static bool next_phase(struct put *put)
{
    if (put->phase == IN_FILE) {
        int error = close_file(put);
        if (error)
            return put_error(put, error);
    } else if (put->phase == IN_EXTRA && !take_extra(put)) {
        return false;
    } else if (put->phase == IN_PADDING) {
        put->phase = IN_HEADER;
        return true;
    }
    put->left = tar_padding(put->member.size);
    put->phase = IN_PADDING;
    return true;
}

static bool take_part(struct put *put, const uint8_t *bytes, size_t size)
{
    int error = 0;
    if (put->phase == IN_FILE)
        error = put->member.sparse ? write_sparse(put, bytes, size) : write_all(put->file, bytes, size);
    else if (put->phase == IN_EXTRA)
        buffer_add(&put->extra, bytes, size);
    put->left -= size;
    return error ? put_error(put, error) : true;
}

/* Whether the stream goes on. */
static bool put_take(struct put *put, const uint8_t *bytes, size_t size)
{
    for (;;) {
        while (put->phase != IN_HEADER && put->phase != AT_END && put->left == 0)
            if (!next_phase(put))
                return false;
        if (!size || put->phase == AT_END)
            return true;
        size_t wanted = put->phase == IN_HEADER ? TAR_BLOCK - put->have : size;
        if (put->phase != IN_HEADER && wanted > put->left)
            wanted = (size_t)put->left;
        size_t part = wanted < size ? wanted : size;
        if (put->phase == IN_HEADER) {
            memcpy(put->block + put->have, bytes, part);
            put->have += part;
            if (put->have == TAR_BLOCK && !take_header(put))
                return false;
        } else if (!take_part(put, bytes, part)) {
            return false;
        }
        bytes += part;
        size -= part;
    }
}

static void put_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    if (put_take(stream->state, bytes, size))
        stream_consumed(stream, size);
}

static void put_eof(struct stream *stream)
{
    struct put *put = stream->state;
    if (put->members == 0 || put->have || (put->phase != AT_END && put->phase != IN_HEADER)) {
        put_fail(put, EBADMSG, "the archive ends too early");
        return;
    }
    for (struct pending *pending = put->directories; pending; pending = pending->next) {
        int error = finish_directory(put, pending);
        if (error) {
            put_error(put, error);
            return;
        }
    }
    put_free(put);
    stream_end(stream, &(struct outcome){.status = DONE});
}

/* --- the target --- */

static bool is_directory(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

static void make_parents(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0755);
        *slash = '/';
    }
}

/* Split the target in the directory that holds it and its name there; `/` is called `.`. */
static bool open_target(struct put *put, char *path)
{
    trim_slashes(path);
    make_parents(path);
    char *slash = strrchr(path, '/');
    const char *last = slash[1] ? slash + 1 : ".";
    put->last = copy_text(last, strlen(last));
    if (slash == path)
        slash++;
    *slash = 0;
    put->base = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return put->base >= 0;
}

static void put_open(struct stream *stream, const struct request *request)
{
    char *path = request_text(request, PATH), *name = request_text(request, NAME);
    if (path && name && *name && is_directory(path)) {
        char *inside = format_text("%s/%s", path, name);
        free(path);
        path = inside;
    }
    free(name);
    if (!path || *path != '/') {
        stream_fail(stream, EINVAL, "the path is not absolute");
        free(path);
        return;
    }
    struct put *put = allocate_zeroed(sizeof *put);
    put->stream = stream;
    put->file = -1;
    put->target = copy_text(path, strlen(path));
    stream->state = put;
    if (!open_target(put, path)) {
        int error = errno;
        put_free(put);
        stream_fail(stream, error, "%.400s: %s", path, strerror(error));
    }
    free(path);
}

static void put_drop(struct stream *stream)
{
    put_free(stream->state);
}

const struct operation put_operation = {
    .number = 3,
    .fields = "tt",
    .open = put_open,
    .data = put_data,
    .eof = put_eof,
    .drop = put_drop,
};
