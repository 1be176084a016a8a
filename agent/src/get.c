#include "get.h"

#include <dirent.h>
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

#define ROOT "root"

enum { PATH = 1 };
/* What was left out is counted, and the first of it named. */
enum { LISTED_MAX = 20 };
/* Files up to this size are read before their header is written, which then has their real size: those of /proc and /sys
 * say 0 or 4096 whatever is in them. */
enum { SMALL = 65536, SMALL_MAX = 4 << 20, PART_SMALL = 16384 };
enum { DEPTH_MAX = 128, LINK_NAME_MAX = 4096, END_SIZE = 2 * TAR_BLOCK };

struct level {
    DIR *directory;
    size_t name_length; /* of the name that leads to it */
};

/* A file with several names, sent under its first one. */
struct sent {
    dev_t device;
    ino_t inode;
    char *name;
    struct sent *next;
};

struct get {
    struct stream *stream;
    struct buffer ready; /* to be sent as it is */
    struct level levels[DEPTH_MAX];
    size_t depth;
    char *name; /* of the member under way: root/... */
    char *path; /* what `root` stands for, for errors */
    int file;   /* a large file that is being sent, or -1 */
    uint64_t left;
    size_t padding;
    struct sparse holes; /* of that file; no parts when it has none */
    size_t part;
    struct sent *sent;
    size_t left_out;
    char *listed; /* lines about the first of them */
    bool complete; /* nothing more comes after what is ready */
};

static void get_free(struct get *get)
{
    while (get->depth)
        closedir(get->levels[--get->depth].directory);
    while (get->sent) {
        struct sent *sent = get->sent;
        get->sent = sent->next;
        free(sent->name);
        free(sent);
    }
    if (get->file >= 0)
        close(get->file);
    sparse_free(&get->holes);
    buffer_free(&get->ready);
    free(get->listed);
    free(get->path);
    free(get->name);
    free(get);
}

/* --- members --- */

static struct tar_member member_of(const struct get *get, const struct stat *status, char type)
{
    return (struct tar_member){.type = type, .name = get->name, .mode = status->st_mode & 07777, .uid = status->st_uid,
                               .gid = status->st_gid, .changed = status->st_mtim};
}

static void add_padding(struct get *get, size_t size)
{
    static const uint8_t zeros[END_SIZE];
    buffer_add(&get->ready, zeros, size);
}

/* Whether the file has gone out under another name; then a link to that is added. */
static bool add_hard_link(struct get *get, const struct stat *status)
{
    if (status->st_nlink < 2)
        return false;
    for (struct sent *sent = get->sent; sent; sent = sent->next) {
        if (sent->device != status->st_dev || sent->inode != status->st_ino)
            continue;
        struct tar_member member = member_of(get, status, TAR_HARD_LINK);
        member.link = sent->name;
        tar_add_header(&get->ready, &member);
        return true;
    }
    struct sent *sent = allocate_zeroed(sizeof *sent);
    *sent = (struct sent){status->st_dev, status->st_ino, copy_text(get->name, strlen(get->name)), get->sent};
    get->sent = sent;
    return false;
}

/* All of a small file. 0 or an errno. */
static int read_small(int file, struct buffer *content)
{
    while (buffer_size(content) <= SMALL_MAX) {
        ssize_t got = read(file, buffer_room(content, SMALL), SMALL);
        if (got < 0 && errno != EINTR)
            return errno;
        if (got == 0)
            return 0;
        if (got > 0)
            buffer_added(content, (size_t)got);
    }
    return EFBIG;
}

static int add_small_file(struct get *get, int file, const struct stat *status)
{
    struct buffer content = {0};
    int error = read_small(file, &content);
    if (!error) {
        struct tar_member member = member_of(get, status, TAR_FILE);
        member.size = buffer_size(&content);
        tar_add_header(&get->ready, &member);
        buffer_add(&get->ready, content.bytes, buffer_size(&content));
        add_padding(get, tar_padding(member.size));
    }
    buffer_free(&content);
    close(file);
    return error;
}

static void finish_file(struct get *get)
{
    close(get->file);
    get->file = -1;
    sparse_free(&get->holes);
    add_padding(get, get->padding);
}

static void begin_part(struct get *get)
{
    if (get->part < get->holes.count)
        lseek(get->file, (off_t)get->holes.parts[get->part].offset, SEEK_SET);
}

static void add_large_file(struct get *get, int file, const struct stat *status, bool holes)
{
    struct buffer map = {0};
    struct tar_member member = member_of(get, status, TAR_FILE);
    member.size = member.real_size = get->left = (uint64_t)status->st_size;
    member.sparse = holes;
    if (holes) {
        sparse_add_map(&map, &get->holes);
        get->left = get->holes.data;
        member.size = buffer_size(&map) + get->left;
    }
    tar_add_header(&get->ready, &member);
    buffer_add(&get->ready, map.bytes, buffer_size(&map));
    buffer_free(&map);
    get->padding = tar_padding(member.size);
    get->file = file;
    get->part = 0;
    if (get->left == 0)
        finish_file(get);
    else
        begin_part(get);
}

static int add_file(struct get *get, int directory, const char *path)
{
    struct stat status;
    /* Not blocking: it may be a FIFO by now. */
    int file = openat(directory, path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC);
    if (file < 0)
        return errno;
    if (fstat(file, &status) < 0 || !S_ISREG(status.st_mode)) {
        close(file);
        return ENOENT;
    }
    if (add_hard_link(get, &status)) {
        close(file);
        return 0;
    }
    bool holes = sparse_find(file, (uint64_t)status.st_size, &get->holes);
    if (status.st_size <= SMALL && !holes)
        return add_small_file(get, file, &status);
    add_large_file(get, file, &status, holes);
    return 0;
}

static int add_link(struct get *get, int directory, const char *path, const struct stat *status)
{
    char target[LINK_NAME_MAX + 1];
    ssize_t length = readlinkat(directory, path, target, LINK_NAME_MAX);
    if (length < 0)
        return errno;
    target[length] = 0;
    struct tar_member member = member_of(get, status, TAR_LINK);
    member.link = target;
    tar_add_header(&get->ready, &member);
    return 0;
}

static int add_directory(struct get *get, int directory, const char *path, const struct stat *status)
{
    if (get->depth == DEPTH_MAX)
        return ELOOP;
    int inner = openat(directory, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (inner < 0)
        return errno;
    struct tar_member member = member_of(get, status, TAR_DIRECTORY);
    tar_add_header(&get->ready, &member);
    DIR *entries = fdopendir(inner);
    if (!entries) {
        int error = errno;
        close(inner);
        return error;
    }
    get->levels[get->depth++] = (struct level){entries, strlen(get->name)};
    return 0;
}

static void leave_out(struct get *get, mode_t mode)
{
    const char *kind = S_ISSOCK(mode) ? "socket" : S_ISFIFO(mode) ? "FIFO" : "device";
    const char *inside = strchr(get->name, '/'); /* NULL: what was a file or directory a moment ago */
    const char *path = inside ? inside + 1 : get->name;
    if (get->left_out++ >= LISTED_MAX)
        return;
    char *more = format_text("%s\n%s %s", get->listed ? get->listed : "", kind, path);
    free(get->listed);
    get->listed = more;
    for (char *byte = more + strlen(more) - strlen(path); *byte; byte++)
        if ((unsigned char)*byte < ' ')
            *byte = '?';
}

/* 0 or an errno. */
static int add_member(struct get *get, int directory, const char *path)
{
    struct stat status;
    if (fstatat(directory, path, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return errno;
    switch (status.st_mode & S_IFMT) {
    case S_IFREG:
        return add_file(get, directory, path);
    case S_IFLNK:
        return add_link(get, directory, path, &status);
    case S_IFDIR:
        return add_directory(get, directory, path, &status);
    default:
        leave_out(get, status.st_mode);
        return 0;
    }
}

/* The next member of the tree, or the end. 0 or an errno. */
static int get_advance(struct get *get)
{
    if (get->depth == 0) {
        add_padding(get, END_SIZE);
        get->complete = true;
        return 0;
    }
    struct level *level = &get->levels[get->depth - 1];
    struct dirent *entry = readdir(level->directory);
    if (!entry) {
        closedir(level->directory);
        get->depth--;
        return 0;
    }
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
        return 0;
    char *name = format_text("%.*s/%s", (int)level->name_length, get->name, entry->d_name);
    free(get->name);
    get->name = name;
    int error = add_member(get, dirfd(level->directory), entry->d_name);
    return error == ENOENT ? 0 : error; /* it went away meanwhile */
}

/* --- the stream --- */

static void send_ready(struct get *get, size_t room)
{
    size_t size = buffer_size(&get->ready) < room ? buffer_size(&get->ready) : room;
    stream_send(get->stream, 0, get->ready.bytes + get->ready.start, size);
    buffer_take(&get->ready, size);
}

static struct sparse_part *part_of(const struct get *get)
{
    return get->part < get->holes.count ? &get->holes.parts[get->part] : NULL;
}

/* What is left of the file is less by so much. */
static void file_sent(struct get *get, uint64_t size)
{
    struct sparse_part *part = part_of(get);
    get->left -= size;
    if (part && (part->size -= size) == 0) {
        get->part++;
        begin_part(get);
    }
    if (get->left == 0)
        finish_file(get);
}

/* Whether the next piece of the file is collected with others, as a frame for each would be slow. */
static bool has_small_part(const struct get *get)
{
    const struct sparse_part *part = get->file >= 0 ? part_of(get) : NULL;
    return part && part->size <= PART_SMALL;
}

static int collect_part(struct get *get)
{
    size_t wanted = (size_t)part_of(get)->size;
    uint8_t *room = buffer_room(&get->ready, wanted);
    ssize_t got = read(get->file, room, wanted);
    if (got < 0)
        return errno == EINTR ? 0 : errno;
    memset(room + got, 0, wanted - (size_t)got);
    buffer_added(&get->ready, wanted);
    file_sent(get, wanted);
    return 0;
}

/* 0 or an errno. A file that has become shorter is filled up with zeros: its size has been said. */
static int send_file(struct get *get, size_t room)
{
    static uint8_t zeros[DATA_MAX]; /* not const, which would be 64 KiB of the binary */
    const struct sparse_part *part = part_of(get);
    uint64_t most = part ? part->size : get->left;
    size_t wanted = room < most ? room : (size_t)most;
    ssize_t got = stream_send_from(get->stream, 0, get->file, wanted);
    if (got < 0)
        return errno == EINTR ? 0 : errno;
    if (got == 0) {
        stream_send(get->stream, 0, zeros, wanted);
        got = (ssize_t)wanted;
    }
    file_sent(get, (uint64_t)got);
    return 0;
}

static void get_fail(struct get *get, int error)
{
    struct stream *stream = get->stream;
    char *place = format_text("%s%s", get->path, get->name + sizeof ROOT - 1);
    get_free(get);
    stream_fail(stream, error, "%.400s: %s", place, error == ELOOP ? "the tree is too deep" : strerror(error));
    free(place);
}

static void get_finish(struct get *get)
{
    struct stream *stream = get->stream;
    char *value = format_text("%zu%s", get->left_out, get->listed ? get->listed : "");
    get_free(get);
    stream_send_eof(stream, 0);
    stream_end(stream, &(struct outcome){.status = DONE, .value = value});
    free(value);
}

static void get_pump(struct get *get)
{
    for (size_t room; (room = stream_room(get->stream));) {
        int error = 0;
        /* Members are collected until they fill a frame. */
        bool small = has_small_part(get);
        if (buffer_size(&get->ready) >= room || (buffer_size(&get->ready) && !small && (get->complete || get->file >= 0)))
            send_ready(get, room);
        else if (small)
            error = collect_part(get);
        else if (get->file >= 0)
            error = send_file(get, room);
        else if (!get->complete)
            error = get_advance(get);
        else {
            get_finish(get);
            return;
        }
        if (error) {
            get_fail(get, error);
            return;
        }
    }
}

static void get_open(struct stream *stream, const struct request *request)
{
    char *path = request_text(request, PATH);
    char *real = path && *path == '/' ? realpath(path, NULL) : NULL;
    int error = path && *path == '/' ? errno : EINVAL;
    struct stat status;
    if (real && stat(real, &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) {
        free(real);
        real = NULL;
        error = EOPNOTSUPP;
    }
    if (!real) {
        stream_fail(stream, error, "%.400s: %s", path ? path : "no path",
                    error == EOPNOTSUPP ? "it is no file or directory" : strerror(error));
        free(path);
        return;
    }
    struct get *get = allocate_zeroed(sizeof *get);
    get->stream = stream;
    get->file = -1;
    get->name = copy_text(ROOT, sizeof ROOT - 1);
    get->path = copy_text(path, strlen(path));
    stream->state = get;
    error = add_member(get, AT_FDCWD, real);
    free(real);
    free(path);
    if (error)
        get_fail(get, error);
    else
        get_pump(get);
}

static void get_room(struct stream *stream)
{
    get_pump(stream->state);
}

static void get_drop(struct stream *stream)
{
    get_free(stream->state);
}

const struct operation get_operation = {.number = 4, .fields = "t", .open = get_open, .room = get_room, .drop = get_drop};
