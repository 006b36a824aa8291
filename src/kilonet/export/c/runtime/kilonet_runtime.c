/* Each pixel of the image goes through as many operations as possible before the next one is read, so that memory holds
 * only the pixels that windows still need. A convolution keeps a ring of exactly the pixels from its window's first to
 * its last: kernel - 1 rows and kernel pixels. The oldest pixel in the ring is always the window's top left one. */
#include "model.h"

#if KILONET_BLOCK == 1

#include "kilonet_kernels.h"

/* What is requantised in 64 bits beside logits. On an AVR, offsets take as long in 32 bits, and more flash. */
#ifdef __AVR__
#define WIDE (KILONET_HAS_WIDE || KILONET_HAS_OFFSETS)
#define WIDE_OFFSETS (KILONET_HAS_WIDE_OFFSETS || KILONET_HAS_OFFSETS)
#else
#define WIDE KILONET_HAS_WIDE
#define WIDE_OFFSETS KILONET_HAS_WIDE_OFFSETS
#endif

/* Requantises the sums of all channels to the next operation's pixel or, in the last operation, to logits. */
static void requantise(const kilonet_operation *operation, const int32_t *sums, uint32_t more, const uint8_t *skipped,
                       uint8_t *pixel, int32_t *logits)
{
    const unsigned outputs = operation->outputs;
    unsigned i;
    if (operation->narrow != 0 && (!KILONET_HAS_OFFSETS || !operation->offset)) {
        requantise_narrow(operation, sums, more, pixel);
        return;
    }
#ifndef __AVR__
    if (KILONET_HAS_OFFSETS && operation->narrow != 0) {
        requantise_offset(operation, sums, more, skipped, pixel);
        return;
    }
#endif
    for (i = 0; i < outputs; i++) {
        kilonet_requantisation copied;
        const kilonet_requantisation *how =
            (const kilonet_requantisation *)KILONET_IN_RAM(&copied, operation->requantisation + i, sizeof copied);
        const int32_t sum = (int32_t)((uint32_t)sums[i] + (uint32_t)how->bias + more);
        int64_t value = (int64_t)(operation->relu != 0 && sum < 0 ? 0 : sum) * how->multiplier;
        if (WIDE_OFFSETS && operation->skip)
            value += (int64_t)KILONET_READ(int32_t, &operation->skip[i]) * skipped[i];
        if (WIDE_OFFSETS && operation->offset)
            value += KILONET_READ(int64_t, &operation->offset[i]);
        else
            value += (int64_t)(((uint64_t)1 << how->shift) >> 1);
        value = floor_shift_64(value, how->shift);
        if (!WIDE || logits)
            logits[i] = (int32_t)value;
        else
            pixel[i] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}

/* Copies the window from the ring row by row, so that its values lie side by side. Returns what copy returns. */
static inline uint32_t gather(const kilonet_operation *operation, const kilonet_window *window, uint8_t *values)
{
    const uint32_t width = (uint32_t)operation->window * operation->inputs, size = window->size, gap = window->gap;
    const uint8_t *from = window->first, *const end = window->end;
    uint32_t sum = 0;
    unsigned row = operation->window;
    do {
        const uint32_t left = (uint32_t)(end - from);
        if (left < width) {
            from = end - size;
            sum += copy_row(values, end - left, left);
            sum += copy_row(values + left, from, width - left);
            from += width - left + gap;
        } else {
            sum += copy_row(values, from, width);
            from += width + gap;
        }
        if (from >= end)
            from -= size;
        values += width;
    } while (--row != 0);
    return sum;
}

/* Computes a pixel from a window of a ring. */
APART static void convolve(const kilonet_operation *operation, const kilonet_window *window, const kilonet_work *work,
                           uint8_t *pixel, int32_t *logits)
{
    const uint32_t count = (uint32_t)operation->window * operation->window * operation->inputs;
    const uint32_t middle = operation->window / 2u;
    uint32_t more = 0;
    if (KILONET_HAS_DEPTHWISE && operation->multiple != 0) {
        sum_depthwise(operation, window, work->sums);
    } else {
        more = gather(operation, window, place_of_values(work->scratch, count));
        more = 0u - 128u * sum_dense(operation, work->scratch, count, more, work->sums);
    }
    requantise(operation, work->sums, more, within(window, window->first + middle * (operation->row_size + operation->inputs)),
               pixel, logits);
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
    const uint32_t row = (uint32_t)operation->window * operation->inputs;
    kilonet_window window = {taken, taken + row, row, 0};
    if (operation->window > 1) {
        uint8_t *memory = work->memory + operation->memory;
        (void)copy(memory + position->head, taken, operation->inputs);
        position->head += operation->inputs;
        if (position->head == operation->memory_size)
            position->head = 0;
        window.first = memory + position->head;
        window.end = memory + operation->memory_size;
        window.size = operation->memory_size;
        window.gap = operation->row_size - row;
    }
    if (is_complete)
        convolve(operation, &window, work, pixel, logits);
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
    if (is_whole)
        is_complete = position->row == operation->rows;
    else if (position->column == 0)
        position->head = 0;
    else if (ends_columns)
        position->head += operation->inputs;
    if (!is_inside)
        return 0;
    if (operation->kind == KILONET_AVERAGE_POOL) {
        add_values(sums, taken, operation->inputs, is_first);
        if (is_complete)
            requantise(operation, sums, 0, 0, pixel, logits);
        return is_complete;
    }
    if (is_first)
        (void)copy(largest, taken, operation->inputs);
    else
        keep_largest(largest, taken, operation->inputs);
    if (is_complete)
        (void)copy(pixel, largest, operation->inputs);
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
        if (KILONET_HAS_PADDING && is_padding(operation, position)) {
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
