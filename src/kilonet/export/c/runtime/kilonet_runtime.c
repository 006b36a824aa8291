/* Each pixel of the image goes through as many operations as possible before the next one is read, so that memory holds
 * only the pixels that windows still need. A convolution keeps a ring of exactly the pixels from its window's first to
 * its last: kernel - 1 rows and kernel pixels. The oldest pixel in the ring is always the window's top left one. */
#include "kilonet_runtime.h"

#if KILONET_BLOCK == 1

#ifdef __cplusplus
#define restrict
#endif

/* Inlined into all the rest, a loop finds no registers for its sums. */
#ifdef __GNUC__
#define APART __attribute__((noinline))
#else
#define APART
#endif

static void copy(uint8_t *to, const uint8_t *from, uint32_t count)
{
    while (count--)
        *to++ = *from++;
}

/* floor(value / 2**shift). The result of >> on a negative number depends on the compiler. */
static int64_t floor_shift(int64_t value, uint8_t shift)
{
    const int64_t sign = -(int64_t)(value < 0);
    return ((value ^ sign) >> shift) ^ sign;
}

/* Requantises the sums of all channels to the next operation's pixel or, in the last operation, to logits. */
static void requantise(const kilonet_operation *operation, const int32_t *restrict sums, const uint8_t *skipped,
                       uint8_t *restrict pixel, int32_t *restrict logits)
{
    const int16_t *restrict multiplier = operation->multiplier;
    const uint8_t *restrict shift = operation->shift;
    const int64_t *restrict offset = operation->offset;
    const int32_t *restrict skip = operation->skip;
    const uint16_t outputs = operation->outputs;
    uint16_t i;
    for (i = 0; i < outputs; i++) {
        int64_t value = (int64_t)sums[i] * KILONET_READ(int16_t, &multiplier[i]) +
                        (((int64_t)1 << KILONET_READ(uint8_t, &shift[i])) >> 1);
        if (skip)
            value += (int64_t)KILONET_READ(int32_t, &skip[i]) * skipped[i];
        if (offset)
            value += KILONET_READ(int64_t, &offset[i]);
        value = floor_shift(value, KILONET_READ(uint8_t, &shift[i]));
        if (logits)
            logits[i] = (int32_t)value;
        else
            pixel[i] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}

static void sum_products(const uint8_t *values, const int8_t *weights, unsigned count, uint16_t outputs, int32_t *sums)
{
    for (; outputs--; weights += count) {
        int32_t sum = 0;
        unsigned i;
        for (i = 0; i < count; i++)
            sum += values[i] * KILONET_READ(int8_t, &weights[i]);
        *sums++ = sum;
    }
}

/* Each output uses one input channel; the window's pixels lie `inputs` bytes apart. */
static void sum_products_depthwise(const kilonet_operation *operation, const uint8_t *values, int32_t *sums)
{
    const uint32_t places = (uint32_t)operation->window * operation->window;
    const int8_t *weights = operation->weights;
    uint16_t output, repeated = 0;
    for (output = 0; output < operation->outputs; output++) {
        const uint8_t *value = values;
        int32_t sum = 0;
        uint32_t place;
        for (place = 0; place < places; place++, value += operation->inputs)
            sum += *value * KILONET_READ(int8_t, weights++);
        sums[output] = sum;
        if (++repeated == operation->multiple) {
            repeated = 0;
            values++;
        }
    }
}

APART static void convolve(const kilonet_operation *operation, const uint8_t *values, int32_t *restrict sums)
{
    const unsigned count = (unsigned)operation->window * operation->window * operation->inputs;
    const int32_t *restrict bias = operation->bias;
    const uint16_t outputs = operation->outputs;
    uint16_t i;
    if (operation->multiple)
        sum_products_depthwise(operation, values, sums);
    else
        sum_products(values, operation->weights, count, outputs, sums);
    for (i = 0; i < outputs; i++) {
        sums[i] += KILONET_READ(int32_t, &bias[i]);
        if (operation->relu && sums[i] < 0)
            sums[i] = 0;
    }
}

/* Copies the window from the ring row by row, so that its values lie side by side. */
static void gather(const kilonet_operation *operation, uint32_t start, const uint8_t *memory, uint8_t *values)
{
    const uint32_t width = (uint32_t)operation->window * operation->inputs;
    uint8_t row;
    for (row = 0; row < operation->window; row++, values += width) {
        const uint32_t left = operation->memory_size - start;
        const uint32_t first = left < width ? left : width;
        copy(values, memory + start, first);
        copy(values + first, memory, width - first);
        start += operation->row_size;
        if (start >= operation->memory_size)
            start -= operation->memory_size;
    }
}

/* Moves to the next place of the input map. Returns whether a window has ended at this one. */
static int advance(const kilonet_operation *operation, kilonet_position *position)
{
    const int is_end = position->rows_to_end == 0 && position->columns_to_end == 0;
    const uint8_t last = (uint8_t)(operation->window - 1);
    const uint8_t between = operation->kind == KILONET_CONVOLUTION ? operation->between : last;
    position->columns_to_end = position->columns_to_end ? (uint8_t)(position->columns_to_end - 1) : between;
    if (++position->column == operation->columns + 2u * operation->padding) {
        position->column = 0;
        position->columns_to_end = last;
        position->row++;
        position->rows_to_end = position->rows_to_end ? (uint8_t)(position->rows_to_end - 1) : between;
    }
    return is_end;
}

static int is_padding(const kilonet_operation *operation, const kilonet_position *position)
{
    const uint32_t padding = operation->padding;
    /* Before the first row or column, the difference wraps around. */
    return position->row - padding >= operation->rows || position->column - padding >= operation->columns;
}

static int take_into_convolution(const kilonet_operation *operation, kilonet_position *position,
                                 const kilonet_work *work, const uint8_t *taken, uint8_t *pixel, int32_t *logits)
{
    const int is_complete = advance(operation, position);
    if (operation->window > 1) {
        uint8_t *memory = work->memory + operation->memory;
        copy(memory + position->head, taken, operation->inputs);
        position->head += operation->inputs;
        if (position->head == operation->memory_size)
            position->head = 0;
        if (is_complete)
            gather(operation, position->head, memory, work->scratch);
        taken = work->scratch;
    }
    if (is_complete) {
        const uint8_t middle = operation->window / 2;
        convolve(operation, taken, work->sums);
        taken += ((uint32_t)middle * operation->window + middle) * operation->inputs;
        requantise(operation, work->sums, taken, pixel, logits);
    }
    return is_complete;
}

/* `head` counts the channels of the windows before this one in the row. Windows beyond the last whole one are dropped. */
static int take_into_pool(const kilonet_operation *operation, kilonet_position *position, const kilonet_work *work,
                          uint8_t *pixel, int32_t *logits)
{
    const uint8_t *taken = work->memory + operation->pixel;
    const uint32_t head = position->head;
    uint8_t *largest = work->memory + operation->memory + head;
    int32_t *sums = work->sums + operation->sums + head;
    const uint8_t last = (uint8_t)(operation->window - 1);
    const int is_whole = operation->window == 0;
    const int is_inside = is_whole || position->column + (uint32_t)position->columns_to_end < operation->columns;
    const int is_first = is_whole ? position->row == 0 && position->column == 0
                                  : position->rows_to_end == last && position->columns_to_end == last;
    const int ends_columns = !is_whole && position->columns_to_end == 0;
    int is_complete = advance(operation, position);
    uint16_t channel;
    if (is_whole)
        is_complete = position->row == operation->rows;
    else if (position->column == 0)
        position->head = 0;
    else if (ends_columns)
        position->head += operation->inputs;
    if (!is_inside)
        return 0;
    for (channel = 0; channel < operation->inputs; channel++) {
        if (operation->kind == KILONET_AVERAGE_POOL) {
            sums[channel] = (is_first ? 0 : sums[channel]) + taken[channel];
        } else {
            if (is_first || taken[channel] > largest[channel])
                largest[channel] = taken[channel];
            if (is_complete)
                pixel[channel] = largest[channel];
        }
    }
    if (is_complete && operation->kind == KILONET_AVERAGE_POOL)
        requantise(operation, sums, 0, pixel, logits);
    return is_complete;
}

/* Gives an operation a pixel of its input or padding. Returns whether it has written a pixel of its output. */
static int take(const kilonet_operation *operation, kilonet_position *position, const kilonet_work *work,
                const uint8_t *taken, uint8_t *pixel, int32_t *logits)
{
    if (operation->kind == KILONET_CONVOLUTION)
        return take_into_convolution(operation, position, work, taken, pixel, logits);
    return take_into_pool(operation, position, work, pixel, logits);
}

void kilonet_start(const kilonet_operation *operations, unsigned count, const kilonet_work *work)
{
    kilonet_position *position = work->positions;
    for (; count--; operations++, position++) {
        position->head = 0;
        position->row = position->column = 0;
        position->rows_to_end = position->columns_to_end = (uint8_t)(KILONET_READ(uint8_t, &operations->window) - 1);
        position->waiting = position->finished = 0;
    }
}

int kilonet_feed(const kilonet_operation *operations, unsigned count, const kilonet_work *work,
                 const kilonet_pixels *pixels, int32_t *logits)
{
    const kilonet_operation *place = operations;
    const kilonet_operation *const last = operations + count - 1;
    kilonet_position *position = work->positions;
    const uint8_t *next = pixels->first;
    uint32_t left = pixels->count;
    if (position->finished)
        return 1;
    for (;;) {
        kilonet_operation copied;
        const kilonet_operation *operation =
            (const kilonet_operation *)KILONET_IN_RAM(&copied, place, sizeof copied);
        uint8_t *own = work->memory + operation->pixel;
        const uint8_t *taken = own;
        const int is_last = place == last;
        if (is_padding(operation, position)) {
            taken = (const uint8_t *)KILONET_IN_RAM(work->scratch, operation->pad, operation->inputs);
        } else if (position->waiting) {
            position->waiting = 0;
        } else if (place != operations) {
            place--;
            position--;
            continue;
        } else if (left == 0) {
            return 0;
        } else {
            uint16_t channel;
            for (channel = 0; channel < operation->inputs; channel++)
                own[channel] = next[channel * pixels->plane];
            next += pixels->step;
            left--;
        }
        if (take(operation, position, work, taken,
                 is_last ? 0 : work->memory + KILONET_READ(uint32_t, &place[1].pixel), is_last ? logits : 0)) {
            if (is_last) {
                work->positions->finished = 1;
                return 1;
            }
            place++;
            position++;
            position->waiting = 1;
        }
    }
}

#endif
