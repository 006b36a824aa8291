/* Executes the network with vector instructions that sum four products of bytes for 16 outputs at once. Processors with
 * these have enough memory to execute the operations one by one on whole maps. A map's pixels lie side by side, padding
 * included, so a kernel's row is one run of bytes. It is read in fours; weights beyond its end are zero. */
#include "model.h"

#if KILONET_BLOCK > 1
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* Enough pixels are summed at once that an addition need not wait for the previous one of the same sum. */
enum { TILE = 4, HALF = KILONET_BLOCK / 2 };

typedef struct {
    uint8_t *first; /* first byte, padding included */
    uint8_t *inside; /* first byte inside the padding */
    uint32_t row_size; /* bytes, padding included */
    uint32_t pixel_size; /* bytes */
} kilonet_map;

/* The numbers of 16 outputs. Their sums alternate between the two halves of outputs, as the instruction that multiplies
 * to 64 bits takes every second value. Multipliers, shifts, offsets and skips are kept as 64 bits, half by half. */
typedef struct {
    __m512i bias, multiplier[2], shift[2], offset[2], skip[2];
    __mmask16 mask;
} kilonet_block;

static uint32_t places_of(const kilonet_operation *operation)
{
    return (operation->rows + 2u * operation->padding) * (operation->columns + 2u * operation->padding);
}

static __mmask16 mask_of(uint32_t count)
{
    return (__mmask16)(count < KILONET_BLOCK ? (1u << count) - 1 : 0xFFFFu);
}

/* Returns 64 bits an output, of which the lower half is the bias. */
static __m512i load_half(const kilonet_operation *operation, uint32_t first, int half, kilonet_block *block)
{
    const __mmask8 mask = (__mmask8)(half ? block->mask >> HALF : block->mask);
    const uint32_t at = mask && half ? first + HALF : first;
    /* A kilonet_requantisation is 64 bits: the shift, the multiplier, then the bias, from the highest down. */
    const __m512i how = _mm512_maskz_loadu_epi64(mask, operation->requantisation + at);
    const __m512i shift = _mm512_srli_epi64(how, 48);
    const __m512i rounding = _mm512_srli_epi64(_mm512_sllv_epi64(_mm512_set1_epi64(1), shift), 1);
    block->multiplier[half] = _mm512_srai_epi64(_mm512_slli_epi64(how, 16), 48);
    block->shift[half] = shift;
    block->offset[half] = rounding;
    if (operation->offset && operation->narrow != 0)
        block->offset[half] =
            _mm512_cvtepi32_epi64(_mm256_maskz_loadu_epi32(mask, (const int32_t *)operation->offset + at));
    else if (operation->offset)
        block->offset[half] = _mm512_maskz_loadu_epi64(mask, (const int64_t *)operation->offset + at);
    if (operation->skip)
        block->skip[half] = _mm512_cvtepi32_epi64(_mm256_maskz_loadu_epi32(mask, operation->skip + at));
    return how;
}

/* Alternates the sums of the two halves. */
static __m512i alternate(__m512i low, __m512i high)
{
    return _mm512_mask_blend_epi32(0xAAAA, low, _mm512_slli_epi64(high, 32));
}

static kilonet_block load_block(const kilonet_operation *operation, uint32_t first)
{
    kilonet_block block;
    __m512i low, high;
    block.mask = mask_of(operation->outputs - first);
    low = load_half(operation, first, 0, &block);
    high = load_half(operation, first, 1, &block);
    block.bias = alternate(low, high);
    return block;
}

INLINE __m512i requantise_half(const kilonet_block *block, int half, __m512i sums, const uint8_t *skipped)
{
    __m512i value = _mm512_add_epi64(_mm512_mul_epi32(sums, block->multiplier[half]), block->offset[half]);
    if (skipped) {
        const __m128i bytes = _mm_maskz_loadu_epi8(block->mask, skipped);
        const __m512i wide = _mm512_cvtepu8_epi64(half ? _mm_srli_si128(bytes, HALF) : bytes);
        value = _mm512_add_epi64(value, _mm512_mul_epi32(wide, block->skip[half]));
    }
    return _mm512_srav_epi64(value, block->shift[half]);
}

INLINE __m128i clamp(__m512i values)
{
    return _mm512_cvtusepi64_epi8(_mm512_max_epi64(values, _mm512_setzero_si512()));
}

/* Requantises the sums of a block to bytes of a pixel or, if `logits` is given, to logits. */
INLINE void requantise(const kilonet_block *block, __m512i sums, const uint8_t *skipped, uint8_t *pixel,
                       int32_t *logits)
{
    const __m512i low = requantise_half(block, 0, sums, skipped);
    const __m512i high = requantise_half(block, 1, _mm512_srli_epi64(sums, 32), skipped);
    if (logits) {
        const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(low)),
                                                _mm512_cvtepi64_epi32(high), 1);
        _mm512_mask_storeu_epi32(logits, block->mask, both);
    } else {
        _mm_mask_storeu_epi8(pixel, block->mask, _mm_unpacklo_epi64(clamp(low), clamp(high)));
    }
}

/* Sums products for `pixels` places in a row and `count` blocks, which are constants after inlining. */
INLINE void sum_products(const kilonet_operation *operation, uint32_t row_size, const uint8_t *values,
                         const uint8_t *weights, int pixels, int count, __m512i *sums)
{
    const uint32_t width = ((uint32_t)operation->window * operation->inputs + 3) / 4 * 4;
    const uint32_t block_size = width * operation->window * KILONET_BLOCK;
    const uint32_t step = (operation->between + 1u) * operation->inputs;
    uint8_t row;
    for (row = 0; row < operation->window; row++, values += row_size) {
        uint32_t i;
        for (i = 0; i < width; i += 4, weights += 4 * KILONET_BLOCK) {
            const __m512i first = _mm512_loadu_si512(weights);
            const __m512i second = count > 1 ? _mm512_loadu_si512(weights + block_size) : first;
            int pixel;
            for (pixel = 0; pixel < pixels; pixel++) {
                const __m512i four = _mm512_broadcastd_epi32(_mm_loadu_si32(values + (uint32_t)pixel * step + i));
                sums[pixel] = _mm512_dpbusd_epi32(sums[pixel], four, first);
                if (count > 1)
                    sums[TILE + pixel] = _mm512_dpbusd_epi32(sums[TILE + pixel], four, second);
            }
        }
    }
}

INLINE void convolve_tile(const kilonet_operation *operation, const kilonet_block *blocks, uint32_t first, int pixels,
                          int count, uint32_t row_size, const uint8_t *values, uint8_t *to, int32_t *logits)
{
    const uint32_t outputs = operation->outputs;
    const uint32_t middle = operation->window / 2 * (row_size + operation->inputs) + first;
    const uint8_t *weights = operation->weights;
    __m512i sums[2 * TILE];
    int i, pixel;
    for (i = 0; i < count; i++)
        for (pixel = 0; pixel < pixels; pixel++)
            sums[i * TILE + pixel] = blocks[i].bias;
    weights += first * operation->window * (((uint32_t)operation->window * operation->inputs + 3) / 4 * 4);
    sum_products(operation, row_size, values, weights, pixels, count, sums);
    for (i = 0; i < count; i++) {
        for (pixel = 0; pixel < pixels; pixel++) {
            const uint32_t at = (uint32_t)i * KILONET_BLOCK;
            const uint8_t *skipped = values + middle + (uint32_t)pixel * operation->inputs + at;
            __m512i sum = sums[i * TILE + pixel];
            if (operation->relu)
                sum = _mm512_max_epi32(sum, _mm512_setzero_si512());
            requantise(blocks + i, sum, operation->skip ? skipped : 0, to + (uint32_t)pixel * outputs + at,
                       logits ? logits + first + at : 0);
        }
    }
}

/* Convolves a row for `count` blocks of outputs. The last tile begins earlier if it would reach beyond the row. */
INLINE void convolve_row(const kilonet_operation *operation, const kilonet_block *blocks, uint32_t first, int count,
                         uint32_t columns, uint32_t row_size, const uint8_t *values, uint8_t *to, int32_t *logits)
{
    const uint32_t step = (operation->between + 1u) * operation->inputs, outputs = operation->outputs;
    uint32_t column;
    if (columns < TILE) {
        for (column = 0; column < columns; column++, values += step, to += outputs)
            convolve_tile(operation, blocks, first, 1, count, row_size, values, to, logits);
        return;
    }
    for (column = 0; column < columns; column += TILE) {
        const uint32_t at = column + TILE > columns ? columns - TILE : column;
        convolve_tile(operation, blocks, first, TILE, count, row_size, values + at * step, to + at * outputs, logits);
    }
}

static void convolve(const kilonet_operation *operation, const kilonet_map *from, const kilonet_map *to,
                     int32_t *logits)
{
    const uint32_t stride = operation->between + 1u;
    const uint32_t rows = (operation->rows + 2u * operation->padding - operation->window) / stride + 1u;
    const uint32_t columns = (operation->columns + 2u * operation->padding - operation->window) / stride + 1u;
    uint32_t first, row;
    for (first = 0; first < operation->outputs; first += 2 * KILONET_BLOCK) {
        const int count = operation->outputs - first > KILONET_BLOCK ? 2 : 1;
        kilonet_block blocks[2];
        blocks[0] = load_block(operation, first);
        blocks[1] = count > 1 ? load_block(operation, first + KILONET_BLOCK) : blocks[0];
        for (row = 0; row < rows; row++) {
            const uint8_t *values = from->first + row * stride * from->row_size;
            uint8_t *pixels = to->inside + row * to->row_size + first;
            if (count > 1)
                convolve_row(operation, blocks, first, 2, columns, from->row_size, values, pixels, logits);
            else
                convolve_row(operation, blocks, first, 1, columns, from->row_size, values, pixels, logits);
        }
    }
}

static void pool_largest(const kilonet_operation *operation, const kilonet_map *from, const kilonet_map *to)
{
    const uint32_t window = operation->window, inputs = operation->inputs;
    uint32_t row, column, first, i, j;
    for (row = 0; row < operation->rows / window; row++) {
        for (column = 0; column < operation->columns / window; column++) {
            for (first = 0; first < inputs; first += KILONET_BLOCK) {
                const uint8_t *values = from->first + row * window * from->row_size + column * window * inputs + first;
                const __mmask16 mask = mask_of(inputs - first);
                __m128i largest = _mm_setzero_si128();
                for (i = 0; i < window; i++, values += from->row_size)
                    for (j = 0; j < window; j++)
                        largest = _mm_max_epu8(largest, _mm_maskz_loadu_epi8(mask, values + j * inputs));
                _mm_mask_storeu_epi8(to->inside + row * to->row_size + column * inputs + first, mask, largest);
            }
        }
    }
}

/* Returns the sums of a window of a block's channels. */
static __m512i sum_window(const kilonet_block *block, const uint8_t *values, uint32_t rows, uint32_t columns,
                          const kilonet_map *from)
{
    __m512i low = _mm512_setzero_si512(), high = low;
    uint32_t row, column;
    for (row = 0; row < rows; row++, values += from->row_size) {
        for (column = 0; column < columns; column++) {
            const __m128i bytes = _mm_maskz_loadu_epi8(block->mask, values + column * from->pixel_size);
            low = _mm512_add_epi64(low, _mm512_cvtepu8_epi64(bytes));
            high = _mm512_add_epi64(high, _mm512_cvtepu8_epi64(_mm_srli_si128(bytes, HALF)));
        }
    }
    return alternate(low, high);
}

static void pool_average(const kilonet_operation *operation, const kilonet_map *from, const kilonet_map *to,
                         int32_t *logits)
{
    const uint32_t inputs = operation->inputs;
    const uint32_t high = operation->window ? operation->window : operation->rows;
    const uint32_t wide = operation->window ? operation->window : operation->columns;
    uint32_t row, column, first;
    for (first = 0; first < inputs; first += KILONET_BLOCK) {
        const kilonet_block block = load_block(operation, first);
        for (row = 0; row < operation->rows / high; row++) {
            for (column = 0; column < operation->columns / wide; column++) {
                const uint8_t *values = from->first + row * high * from->row_size + column * wide * inputs + first;
                const __m512i sums = sum_window(&block, values, high, wide, from);
                uint8_t *pixel = to->inside + row * to->row_size + column * inputs + first;
                requantise(&block, sums, 0, pixel, logits ? logits + first : 0);
            }
        }
    }
}

/* Returns the layout of an operation's input map at `first`. */
static kilonet_map map_at(const kilonet_operation *operation, uint8_t *first)
{
    const uint32_t padding = operation->padding, inputs = operation->inputs;
    const uint32_t row_size = (operation->columns + 2u * padding) * inputs;
    const kilonet_map map = {first, first + padding * (row_size + inputs), row_size, inputs};
    return map;
}

/* The same, and writes its padding. */
static kilonet_map new_map_at(const kilonet_operation *operation, uint8_t *first)
{
    const kilonet_map map = map_at(operation, first);
    uint32_t place, channel;
    for (place = 0; operation->padding && place < places_of(operation); place++)
        for (channel = 0; channel < operation->inputs; channel++)
            *first++ = operation->pad[channel];
    return map;
}

/* Copies the next pixels to a map, up to its end. Returns whether the map is full. */
static int fill(const kilonet_operation *operation, kilonet_position *position, const kilonet_pixels *pixels,
                const kilonet_map *map)
{
    const uint32_t columns = operation->columns, inputs = operation->inputs;
    const uint8_t *first = pixels->first;
    uint32_t left = pixels->count;
    while (left != 0 && position->row < operation->rows) {
        const uint32_t here = position->columns_left < left ? position->columns_left : left;
        uint8_t *to = map->inside + position->row * map->row_size + (columns - position->columns_left) * inputs;
        uint32_t channel, column;
        if (inputs == 1 && pixels->step == 1)
            __builtin_memcpy(to, first, here);
        else
            for (channel = 0; channel < inputs; channel++)
                for (column = 0; column < here; column++)
                    to[column * inputs + channel] = first[column * pixels->step + channel * pixels->plane];
        first += here * pixels->step;
        left -= here;
        position->columns_left = (uint16_t)(position->columns_left - here);
        if (position->columns_left == 0) {
            position->columns_left = operation->columns;
            position->row++;
        }
    }
    return position->row == operation->rows;
}

static void execute(const kilonet_operation *operation, const kilonet_map *from, const kilonet_map *to,
                    int32_t *logits)
{
    if (operation->kind == KILONET_CONVOLUTION)
        convolve(operation, from, to, logits);
    else if (operation->kind == KILONET_MAX_POOL)
        pool_largest(operation, from, to);
    else
        pool_average(operation, from, to, logits);
}

void kilonet_start(const kilonet_operation *operations, unsigned count, const kilonet_work *work)
{
    (void)count;
    work->positions->row = 0;
    work->positions->columns_left = operations->columns;
    work->positions->left = 0;
    new_map_at(operations, work->scratch);
}

int kilonet_feed(const kilonet_operation *operations, unsigned count, const kilonet_work *work,
                 const kilonet_pixels *pixels, int32_t *logits)
{
    kilonet_map from = map_at(operations, work->scratch), to;
    uint32_t half = 0;
    unsigned i;
    if (work->positions->left != 0)
        return 1;
    if (!fill(operations, work->positions, pixels, &from))
        return 0;
    for (i = 0; i < count; i++)
        if (places_of(operations + i) * operations[i].inputs > half)
            half = places_of(operations + i) * operations[i].inputs;
    half += KILONET_BEYOND;
    for (i = 0; i + 1 < count; i++, from = to) {
        to = new_map_at(operations + i + 1, work->scratch + (i % 2 ? 0 : half));
        execute(operations + i, &from, &to, 0);
    }
    execute(operations + i, &from, &from, logits);
    work->positions->left = 1;
    return 1;
}
#endif
