/* Executes an integer network (docs/INTEGER.md of Kilonet) pixel by pixel in little memory. C99 without libc; C++20
 * compiles it too. */
#ifndef KILONET_RUNTIME_H
#define KILONET_RUNTIME_H

#include <stdint.h>

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
    uint32_t head; /* index of the next byte of `memory` */
    uint16_t row;
    uint16_t column;
    uint8_t rows_to_end; /* how many rows after this one end a window */
    uint8_t columns_to_end;
    uint8_t waiting; /* whether `pixel` holds one that is not used yet */
} kilonet_state;

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
    kilonet_state *state;
    uint8_t *pixel; /* [input]: all channels of the next pixel of the input map */
    uint8_t *memory; /* a convolution's window and the pixels between its rows; a max-pool's row of results */
    int32_t *sums; /* [input] of each window in a row of an average pool */
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

/* Classifies one image. `pixels` is [channel][row][column]; `logits` receives one value for each class. `sums` has room
 * for the outputs of the widest convolution. `scratch` has room for the largest window of a convolution or, with
 * weights in blocks, for two maps of the largest size, each with padding and KILONET_BEYOND bytes. */
void kilonet_run(const kilonet_operation *operations, unsigned count, const uint8_t *pixels, uint8_t *scratch,
                 int32_t *sums, int32_t *logits);

#ifdef __cplusplus
}
#endif

#endif
