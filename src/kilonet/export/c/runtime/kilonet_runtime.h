/* Executes an integer network (docs/INTEGER.md of Kilonet) pixel by pixel in little memory. C99 without libc; C++20
 * compiles it too. */
#ifndef KILONET_RUNTIME_H
#define KILONET_RUNTIME_H

#include <stdint.h>

/* The compiler's own macros choose the instructions, and with them the order of the weights.
 * KILONET_BLOCK is 16 on a processor with vector instructions that sum four products of bytes for 16 outputs at once:
 * kilonet_vectors.c executes the network there, elsewhere kilonet_runtime.c does, with the sums of kilonet_kernels.h.
 * KILONET_TAPS is 1 where one instruction multiplies several values with the weights of one output: pairs of 16 bits, or
 * 16 bytes where KILONET_MVE is 1. KILONET_THUMB1 is 1 on the smallest Cortex-M. KILONET_PLAIN asks for C alone.
 * kilonet export --target leaves orders out: KILONET_NO_BLOCKS, KILONET_NO_MVE and KILONET_NO_TAPS say which. */
#define KILONET_BLOCK 1
#define KILONET_TAPS 0
#define KILONET_MVE 0
#define KILONET_THUMB1 0
#if defined(KILONET_PLAIN) || !defined(__GNUC__) || defined(__ARM_BIG_ENDIAN)
#elif defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(KILONET_NO_BLOCKS)
#undef KILONET_BLOCK
#define KILONET_BLOCK 16
#elif defined(__ARM_FEATURE_MVE) && !defined(KILONET_NO_MVE)
#undef KILONET_TAPS
#undef KILONET_MVE
#define KILONET_TAPS 1
#define KILONET_MVE 1
#elif defined(__ARM_FEATURE_DSP) && defined(__thumb2__) && !defined(KILONET_NO_TAPS)
#undef KILONET_TAPS
#define KILONET_TAPS 1
#elif defined(__thumb__) && !defined(__thumb2__) && defined(__ARM_ARCH) && __ARM_ARCH_PROFILE == 'M'
#undef KILONET_THUMB1
#define KILONET_THUMB1 1
#endif

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
#if KILONET_TAPS
#define KILONET_FLASH __attribute__((aligned(4)))
#else
#define KILONET_FLASH
#endif
#define KILONET_READ(type, place) (*(place))
#define KILONET_IN_RAM(to, place, bytes) ((void)(to), (place))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* An index of a byte in the working memory, or a number of its bytes: of 16 bits if they are enough. */
typedef KILONET_INDEX kilonet_index;

/* Number of bytes that vectors may read beyond the end of a map. */
#define KILONET_BEYOND 4

/* KILONET_BY_PLANES is a depthwise convolution of 5x5, where KILONET_TAPS alone is 1, whose output has four columns or more:
 * it computes four pixels at once. Its memory is those, then a plane of five rows for each channel, the rows a ring. */
enum { KILONET_CONVOLUTION, KILONET_MAX_POOL, KILONET_AVERAGE_POOL, KILONET_BY_PLANES };

/* The position of an operation in its input map, padding included. */
typedef struct {
    uint32_t head; /* index of the next byte of the operation's memory; by planes, of a row in a plane */
    uint16_t row;
    uint16_t columns_left; /* of the row, this one included */
    uint8_t rows_to_end; /* how many rows after this one end a window */
    uint8_t columns_to_end;
    uint8_t waiting; /* whether `pixel` holds one that comes behind padding */
    uint8_t left; /* computed pixels that the next operation has not got; none are left between calls of kilonet_feed, where the
                     first operation's says whether the logits are written */
} kilonet_position;

/* The parts of a kilonet_state, which model.h declares: all that one classification keeps in RAM. */
typedef struct {
    kilonet_position *positions; /* [operation] */
    int32_t *sums; /* the outputs of the widest convolution, which all share, and some more; then those of each average
                      pool */
    uint8_t *memory;
    uint8_t *scratch; /* the largest window of a dense convolution, of 16-bit numbers if KILONET_TAPS alone is 1, or the
                       places of a depthwise one's; with weights in blocks of 16 two maps of the largest size, each with
                       padding and KILONET_BEYOND bytes */
} kilonet_work;

/* How the sum of an output becomes a byte or a logit. If KILONET_TAPS is 1, and the operation is narrow and has no offset,
 * `multiplier` and `shift` are the lower and the upper half of multiplier * 2^(32 - shift). */
typedef struct {
    int32_t bias;
    int16_t multiplier;
    uint16_t shift;
} kilonet_requantisation;

/* Weights of a depthwise convolution are [row][column][output], in two's complement. If KILONET_MVE is 1, they are
 * [output][row][column], behind numbers of 16 bits, [row][column]: where values are in a ring that begins with the window.
 * By planes they are [output][row][column].
 * Those of any other convolution have 128 added, so that they are bytes without a sign. With taps [row][column][input] they are
 *   [output / n][tap][n], where outputs lie side by side in blocks of n = 10, 8 or as many as are left; or
 *   [output][tap] if KILONET_MVE is 1; or, if KILONET_TAPS alone is,
 *   [output / n][tap / 4][n][4], where blocks are of n = 4 and then 2 outputs, and 128 fills the last of both.
 * If KILONET_BLOCK is 16, those of every convolution are in two's complement, depthwise ones among zeros:
 *   [output / 16][row][column and input / 4][lane][column and input % 4], lanes are outputs 0, 8, 1, 9, 2, ... of 16. */
typedef struct {
    const uint8_t *weights; /* see below */
    const kilonet_requantisation *requantisation; /* [output] */
    const void *offset; /* int32_t if narrow, else int64_t: [output]; null if each is half of two to its shift */
    const int32_t *skip; /* [output]; null without a residual sum */
    const uint8_t *pad; /* [input]; null without padding */
    kilonet_index pixel; /* [input]: all channels of the next pixel of the input map */
    kilonet_index memory; /* a convolution's window and the pixels between its rows; a max-pool's row of results; of an average
                             pool, an index in the work's sums: [input] of each window in a row */
    kilonet_index memory_size; /* of a plane */
    kilonet_index row_size; /* of the input map, padding included, where a window is larger than a pixel; of a plane's row */
    uint16_t inputs; /* channels */
    uint16_t outputs;
    uint16_t rows; /* of the input map, padding not included */
    uint16_t columns;
    uint16_t multiple; /* outputs of each input channel if depthwise, else 0 */
    uint8_t kind;
    uint8_t window; /* side of the kernel or of the pool; 0 of an average pool of the whole map */
    uint8_t padding;
    uint8_t relu;
    uint8_t between; /* columns, and rows, from a window's end to that of the next, less 1 */
    uint8_t narrow; /* whether 32 bits are enough to requantise */
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
