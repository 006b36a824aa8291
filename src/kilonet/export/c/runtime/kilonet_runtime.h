/* Executes an integer network (docs/INTEGER.md of Kilonet) pixel after pixel, in little memory. C99, no libc. */
#ifndef KILONET_RUNTIME_H
#define KILONET_RUNTIME_H

#include <stdint.h>

/* A processor whose vectors sum four products of bytes for 16 outputs at once gets weights in that order, and
 * kilonet_vectors.c executes them; elsewhere kilonet_runtime.c does. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(KILONET_PLAIN)
#define KILONET_BLOCK 16
#else
#define KILONET_BLOCK 1
#endif

/* Bytes that vectors read beyond a map. */
#define KILONET_BEYOND 4

enum { KILONET_CONVOLUTION, KILONET_MAX_POOL, KILONET_AVERAGE_POOL };

/* Where an operation stands in its input map. Padding counts as input here. */
typedef struct {
    uint32_t head; /* byte of `memory` that comes next */
    uint16_t row;
    uint16_t column;
    uint8_t row_in_window; /* of a max-pool */
    uint8_t column_in_window;
    uint8_t waiting; /* whether `pixel` holds one that is not taken yet */
} kilonet_state;

typedef struct {
    const int8_t *weights; /* [output][row][column][input], or [output][row][column] if depthwise; in
                            blocks [output / 16][row][column and input / 4][lane][column and input % 4], where lanes
                            are outputs 0, 8, 1, 9, 2, ... of the 16 */
    const int32_t *bias; /* [output] */
    const int16_t *multiplier; /* [output] */
    const uint8_t *shift; /* [output] */
    const int64_t *offset; /* [output], rounding half not included; null where that is all */
    const int32_t *skip; /* [output]; null where there is no residual sum */
    const uint8_t *pad; /* [input]; null where nothing is padded */
    kilonet_state *state;
    uint8_t *pixel; /* [input]: the next pixel of the input map, all its channels */
    uint8_t *memory; /* a convolution's window and the pixels between its rows; a max-pool's row of results */
    int32_t *sums; /* [input], of an average pool */
    uint32_t memory_size; /* bytes */
    uint32_t row_size; /* bytes of a row of the input map, padding included */
    uint16_t inputs; /* channels */
    uint16_t outputs;
    uint16_t rows; /* of the input map, padding not included */
    uint16_t columns;
    uint16_t multiple; /* outputs of each input channel if depthwise, else 0 */
    uint8_t kind;
    uint8_t window; /* side of the kernel or of the pool */
    uint8_t padding;
    uint8_t relu;
} kilonet_operation;

/* Classifies one image. `pixels` is [channel][row][column]; `logits` gets one value a class. `scratch` holds the largest
 * window of a convolution, and `sums` as many values as the widest has outputs; in blocks `scratch` holds twice the
 * largest map, its padding and KILONET_BEYOND. */
void kilonet_run(const kilonet_operation *operations, unsigned count, const uint8_t *pixels, uint8_t *scratch,
                 int32_t *sums, int32_t *logits);

#endif
