/* Feeds bytes to the frame and field parsers. Whatever they are, every frame keeps the protocol's bounds, and how the bytes
 * were cut into reads makes no difference. */
#include "frame.h"

#include <stdlib.h>
#include <string.h>

#include "request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The fields of the operations, and one of each kind. */
static const char *const kinds[] = {"tTttT8w4", "4t484t", "tt", "t", "t4", "tttTb84T", "4", "", "tT48wb"};

static void require_true(int condition)
{
    if (!condition)
        abort();
}

static void check_request(const struct frame *frame)
{
    struct request request = {{frame->payload + 1, frame->length - 1}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char error[128];
        size_t count;
        if (!request_check(&request, kinds[i], error, sizeof error)) {
            require_true(strlen(error) > 0);
            continue;
        }
        texts_free(request_texts(&request, 2, &count, 1));
        free(request_text(&request, 1));
        (void)request_u32(&request, (uint8_t)(strlen(kinds[i]) + 1), 0);
    }
}

static void check_frame(const struct frame *frame)
{
    require_true(frame->length <= PAYLOAD_MAX);
    require_true(frame->type != FRAME_DATA || frame->length <= DATA_MAX);
    require_true((frame->stream == 0) == (frame->type == FRAME_HELLO));
    require_true(frame->type != FRAME_HELLO || frame->length == HELLO_SIZE);
    require_true(frame->type != FRAME_OPEN || frame->length >= 1);
    if (frame->type == FRAME_OPEN)
        check_request(frame);
}

static uint64_t mix_digest(uint64_t digest, const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        digest = (digest ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
    return digest;
}

/* Parse in reads of at most `step` bytes; a digest of all that came of it. */
static uint64_t parse_in_reads(const uint8_t *data, size_t size, size_t step)
{
    struct parser parser = {0};
    struct frame frame;
    uint64_t digest = 14695981039346656037u;
    while (size) {
        const uint8_t *part = data;
        size_t left = size < step ? size : step;
        data += left;
        size -= left;
        for (enum parse_result result; (result = parser_next(&parser, &part, &left, &frame)) != PARSE_MORE;) {
            if (result == PARSE_ERROR) {
                require_true(strlen(parser.error) > 0 && !parser.synced);
                digest = mix_digest(digest, parser.error, strlen(parser.error));
                continue;
            }
            check_frame(&frame);
            digest = mix_digest(digest, &frame.stream, sizeof frame.stream);
            digest = mix_digest(digest, frame.payload, frame.length);
        }
        require_true(left == 0);
    }
    parser_free(&parser);
    return digest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t whole = parse_in_reads(data, size, SIZE_MAX);
    require_true(parse_in_reads(data, size, size ? 1 + data[0] % 61 : 1) == whole);
    return 0;
}
