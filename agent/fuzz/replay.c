/* Runs the fuzz target without a fuzzer: over the files of a corpus, then over pseudo-random changes of them.
 * usage: replay CORPUS [FRAMES [SEED]] */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEEDS_MAX = 256, SEED_SIZE_MAX = 4096, PIECES_MAX = 8, INPUT_MAX = SEED_SIZE_MAX * PIECES_MAX };

static struct {
    uint8_t bytes[SEED_SIZE_MAX];
    size_t size;
} seeds[SEEDS_MAX];
static size_t seed_count;
static uint64_t state;

static uint32_t draw_number(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state >> 16) % below);
}

static void load_corpus(const char *directory)
{
    char path[1024];
    DIR *files = opendir(directory);
    for (struct dirent *entry; files && seed_count < SEEDS_MAX && (entry = readdir(files));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        FILE *file = fopen(path, "rb");
        if (!file)
            continue;
        seeds[seed_count].size = fread(seeds[seed_count].bytes, 1, SEED_SIZE_MAX, file);
        seed_count++;
        fclose(file);
    }
    if (files)
        closedir(files);
}

static void change_input(uint8_t *input, size_t *size)
{
    static const uint8_t telling[] = {0, 1, 0x7f, 0x80, 0xa7, 0xff};
    size_t at = draw_number((uint32_t)*size), span = draw_number((uint32_t)(*size - at)) + 1;
    switch (draw_number(5)) {
    case 0:
        input[at] = (uint8_t)draw_number(256);
        break;
    case 1:
        input[at] = telling[draw_number(sizeof telling)];
        break;
    case 2:
        input[at] ^= (uint8_t)(1u << draw_number(8));
        break;
    case 3: /* leave bytes out */
        memmove(input + at, input + at + span, *size - at - span);
        *size -= span;
        break;
    case 4: /* copy bytes over others */
        memmove(input + draw_number((uint32_t)(*size - span + 1)), input + at, span);
        break;
    }
}

/* A session of several pieces of the corpus, most begun with a HELLO, some bytes of it changed. Returns its frames. */
static size_t run_one(void)
{
    static uint8_t input[INPUT_MAX];
    size_t size = 0, pieces = 1 + draw_number(PIECES_MAX);
    for (size_t i = 0; i < pieces; i++) {
        size_t which = draw_number((uint32_t)seed_count);
        memcpy(input + size, seeds[which].bytes, seeds[which].size);
        size += seeds[which].size;
    }
    for (uint32_t changes = draw_number(8); changes > 0 && size > 0; changes--)
        change_input(input, &size);
    LLVMFuzzerTestOneInput(input, size);
    return pieces;
}

int main(int argc, char **argv)
{
    unsigned long frames = argc > 2 ? strtoul(argv[2], NULL, 10) : 0, done = 0;
    state = argc > 3 ? strtoull(argv[3], NULL, 10) | 1 : 88172645463325252u;
    if (argc > 1)
        load_corpus(argv[1]);
    if (seed_count == 0) {
        fprintf(stderr, "usage: %s CORPUS [FRAMES [SEED]]\n", argv[0]);
        return 2;
    }
    for (size_t i = 0; i < seed_count; i++)
        LLVMFuzzerTestOneInput(seeds[i].bytes, seeds[i].size);
    while (done < frames)
        done += run_one();
    printf("%zu files and %lu frames\n", seed_count, done);
    return 0;
}
