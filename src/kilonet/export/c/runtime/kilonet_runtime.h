/* Executes an integer network (docs/INTEGER.md of Kilonet) pixel by pixel in little memory. C99 without libc; C++20
 * compiles it too. */
#ifndef KILONET_RUNTIME_H
#define KILONET_RUNTIME_H

#include <stdint.h>

/* An AVR copies constants to RAM, unless they are marked, and has instructions of its own to read those that stay in
 * flash. KILONET_READ reads a number of the type that `place` points to. KILONET_IN_RAM makes a copy at `to`, and returns
 * it, only where bytes in flash cannot be read like any others. */
#ifdef __AVR__
#include <avr/pgmspace.h>
static inline uint64_t kilonet_read_64(const void *place)
{
    uint64_t number;
    memcpy_P(&number, place, sizeof number);
    return number;
}
#define KILONET_FLASH PROGMEM
#define KILONET_READ(type, place) \
    ((type)(sizeof(type) == 1   ? pgm_read_byte(place) \
            : sizeof(type) == 2 ? pgm_read_word(place) \
            : sizeof(type) == 4 ? pgm_read_dword(place) \
                                : kilonet_read_64(place)))
#define KILONET_IN_RAM(to, place, bytes) memcpy_P(to, place, bytes)
#else
#define KILONET_FLASH
#define KILONET_READ(type, place) (*(place))
#define KILONET_IN_RAM(to, place, bytes) ((void)(to), (place))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* A processor with vector instructions that sum four products of bytes for 16 outputs at once gets weights in that
 * order, and kilonet_vectors.c executes the network. On any other processor kilonet_runtime.c does. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(KILONET_PLAIN)
#define KILONET_BLOCK 16
#else
#define KILONET_BLOCK 1
#endif

/* Number of bytes that vectors may read beyond the end of a map. */
#define KILONET_BEYOND 4

enum { KILONET_CONVOLUTION, KILONET_MAX_POOL, KILONET_AVERAGE_POOL };

/* The position of an operation in its input map, padding included. */
typedef struct {
    uint32_t head; /* index of the next byte of the operation's memory */
    uint16_t row;
    uint16_t column;
    uint8_t rows_to_end; /* how many rows after this one end a window */
    uint8_t columns_to_end;
    uint8_t waiting; /* whether `pixel` holds one that is not used yet */
    uint8_t finished; /* of the first operation: whether the logits are written */
} kilonet_position;

/* The parts of a kilonet_state, which model.h declares: all that one classification keeps in RAM. */
typedef struct {
    kilonet_position *positions; /* [operation] */
    int32_t *sums; /* the outputs of the widest convolution, which all share; then those of each average pool */
    uint8_t *memory;
    uint8_t *scratch; /* the largest window of a convolution or, with weights in blocks, two maps of the largest size,
                       each with padding and KILONET_BEYOND bytes */
} kilonet_work;

typedef struct {
    const int8_t *weights; /* [output][row][column][input], or [output][row][column] if depthwise; in
                            blocks [output / 16][row][column and input / 4][lane][column and input % 4], where lanes
                            are outputs 0, 8, 1, 9, 2, ... of the 16 */
    const int32_t *bias; /* [output] */
    const int16_t *multiplier; /* [output] */
    const uint8_t *shift; /* [output] */
    const int64_t *offset; /* [output], without the rounding half; null if all are 0 */
    const int32_t *skip; /* [output]; null without a residual sum */
    const uint8_t *pad; /* [input]; null without padding */
    uint32_t pixel; /* [input]: all channels of the next pixel of the input map; an index in the work's memory */
    uint32_t memory; /* a convolution's window and the pixels between its rows; a max-pool's row of results; such an index */
    uint32_t sums; /* [input] of each window in a row of an average pool; an index in the work's sums */
    uint32_t memory_size; /* bytes */
    uint32_t row_size; /* bytes of a row of the input map, padding included */
    uint16_t inputs; /* channels */
    uint16_t outputs;
    uint16_t rows; /* of the input map, padding not included */
    uint16_t columns;
    uint16_t multiple; /* outputs of each input channel if depthwise, else 0 */
    uint8_t kind;
    uint8_t window; /* side of the kernel or of the pool; 0 of an average pool of the whole map */
    uint8_t padding;
    uint8_t relu;
    uint8_t between; /* a convolution's stride - 1 */
} kilonet_operation;

/* The next pixels of an image, row after row. */
typedef struct {
    const uint8_t *first;
    uint32_t count;
    uint32_t step; /* bytes from a pixel to the next */
    uint32_t plane; /* bytes from a channel to the next */
} kilonet_pixels;

/* Begins an image. The operations and their tables are KILONET_FLASH. */
void kilonet_start(const kilonet_operation *operations, unsigned count, const kilonet_work *work);

/* Takes pixels. Returns 1 if `logits` are written, one value for each class, now or by an earlier call; else 0. */
int kilonet_feed(const kilonet_operation *operations, unsigned count, const kilonet_work *work,
                 const kilonet_pixels *pixels, int32_t *logits);

#ifdef __cplusplus
}
#endif

#endif
