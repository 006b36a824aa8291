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

/* Whether operations may have more to give before they get another pixel. */
#define BACKWARD (KILONET_HAS_PADDING || PLANES)

/* Requantises output i's sum, bias included, in 64 bits; `skipped[place]` is the residual sum's value, if there is one. */
static inline int64_t requantised(const kilonet_operation *operation, const kilonet_requantisation *how, unsigned i, int32_t sum,
                                  const uint8_t *skipped, unsigned place)
{
    const int32_t least = operation->relu != 0 ? 0 : INT32_MIN, taken = sum < least ? least : sum;
    int64_t value = (int64_t)taken * how->multiplier;
    if (!WIDE_OFFSETS || !operation->offset)
        return floor_shift_64(floor_shift_64(2 * value, how->shift) + 1, 1);
    /* With a residual sum there is always an offset. */
    if (operation->skip)
        value += (int64_t)KILONET_READ(int32_t, &operation->skip[i]) * skipped[place];
    value += operation->narrow != 0 ? KILONET_READ(int32_t, (const int32_t *)operation->offset + i)
                                    : KILONET_READ(int64_t, (const int64_t *)operation->offset + i);
    return floor_shift_64(value, how->shift);
}

static inline uint8_t clamped_64(int64_t value)
{
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* Requantises the sums of all channels to the next operation's pixel or, in the last operation, which has none, to logits. */
static void requantise(const kilonet_operation *operation, const int32_t *sums, uint32_t more, const uint8_t *skipped,
                       uint8_t *pixel, int32_t *logits)
{
    const unsigned outputs = operation->outputs;
    unsigned i;
    if (operation->narrow != 0 && (!OFFSETS || !operation->offset)) {
        requantise_narrow(operation, sums, more, pixel);
        return;
    }
#if OFFSETS && !defined(__AVR__)
    if (operation->narrow != 0) {
        requantise_offset(operation, sums, more, skipped, pixel);
        return;
    }
#endif
    for (i = 0; i < outputs; i++) {
        kilonet_requantisation copied;
        const kilonet_requantisation *how =
            (const kilonet_requantisation *)KILONET_IN_RAM(&copied, operation->requantisation + i, sizeof copied);
        const int32_t sum = (int32_t)((uint32_t)sums[i] + (uint32_t)how->bias + more);
        const int64_t value = requantised(operation, how, i, sum, skipped, i);
        if (!WIDE || !pixel)
            logits[i] = (int32_t)value;
        else
            pixel[i] = clamped_64(value);
    }
}

/* Computes a pixel from the window that begins at the ring's `head` or, if it is of one pixel, from that. */
APART static void convolve(const kilonet_operation *operation, uint32_t head, const kilonet_work *work,
                           const uint8_t *taken, uint8_t *pixel, int32_t *logits)
{
    const unsigned side = operation->window;
    const uint32_t width = side * operation->inputs;
    uint32_t more = 0;
    kilonet_window window = {taken, taken + width, width, width, 0};
    if (side > 1) {
        const uint8_t *const memory = work->memory + operation->memory;
        window.size = operation->memory_size;
        window.first = memory + head;
        window.end = memory + window.size;
        window.gap = operation->row_size - width;
    }
    if (DEPTHWISE && operation->multiple != 0) {
        sum_depthwise(operation, &window, work);
    } else {
        more = 0u - 128u * sum_dense(operation, &window, work);
    }
    if (OFFSETS && operation->skip)
        taken = within(&window, window.first + side / 2 * ((uint32_t)operation->row_size + operation->inputs));
    requantise(operation, work->sums, more, taken, pixel, logits);
}

APART static void end_row(const kilonet_operation *operation, kilonet_position *position)
{
    position->columns_left = (uint16_t)(operation->columns + 2u * operation->padding);
    position->columns_to_end = (uint8_t)(operation->window - 1);
    position->rows_to_end = position->rows_to_end != 0 ? (uint8_t)(position->rows_to_end - 1) : operation->between;
    position->row++;
}

/* Moves to the next place of the input map. Returns whether a window has ended at this one. */
static inline int advance(const kilonet_operation *operation, kilonet_position *position)
{
    const unsigned rows = position->rows_to_end, columns = position->columns_to_end;
    position->columns_to_end = (uint8_t)(columns != 0 ? columns - 1 : operation->between);
    if (--position->columns_left == 0)
        end_row(operation, position);
    return (rows | columns) == 0;
}

static inline int is_padding(const kilonet_operation *operation, const kilonet_position *position)
{
    const uint32_t padding = operation->padding;
    /* Before the first row and behind the last column, the difference wraps around. */
    return position->row - padding >= operation->rows || position->columns_left - padding - 1u >= operation->columns;
}

static int take_into_convolution(const kilonet_operation *operation, kilonet_position *position,
                                 const kilonet_work *work, const uint8_t *taken, uint8_t *pixel, int32_t *logits)
{
    uint32_t head = position->head;
    if (operation->window > 1) {
        const uint32_t inputs = operation->inputs;
        (void)copy(work->memory + operation->memory + head, taken, inputs);
        head += inputs;
        if (head == operation->memory_size)
            head = 0;
        position->head = head;
    }
    if (!advance(operation, position))
        return 0;
    convolve(operation, head, work, taken, pixel, logits);
    return 1;
}

#if PLANES
/* Computes four pixels. `oldest` is where the windows' upper row is in a plane, `column` where the first one begins. */
static void convolve_planes(const kilonet_operation *operation, uint32_t oldest, uint32_t column, uint8_t *pixels)
{
    enum { SIDE = 5, TAPS = SIDE * SIDE };
    const uint32_t row = operation->row_size, plane = operation->memory_size;
    const uint32_t outputs = operation->outputs, centre = oldest + SIDE / 2 * row;
    const uint8_t *const planes = pixels + 4u * outputs + column, *weights = operation->weights;
    kilonet_fours call;
    call.first = planes + oldest;
    call.plane = plane;
    call.how = operation->requantisation;
    call.pixels = pixels;
    call.outputs = outputs;
    call.before = plane - oldest;
    call.weights_end = weights + TAPS * outputs;
    call.offset = (const int32_t *)operation->offset;
    call.relu = operation->relu;
    call.skip = operation->skip;
    call.centre = planes + (centre >= plane ? centre - plane : centre) + SIDE / 2;
    if (WIDE && operation->narrow == 0) {
        unsigned i, place;
        call.pixels = 0;
        for (i = 0; i < outputs; i++, call.how++, call.centre += plane) {
            call.weights_end = weights + TAPS;
            sum_planes(weights, &call, row);
            weights += TAPS;
            for (place = 0; place < 4; place++) {
                pixels[place * outputs + i] =
                    clamped_64(requantised(operation, call.how, i, call.sums[place], call.centre, place));
            }
        }
        return;
    }
    sum_planes(weights, &call, row);
}

/* The output's columns are computed in fours, of which the last one begins anew with some that are done already. */
static void take_into_planes(const kilonet_operation *operation, kilonet_position *position, const kilonet_work *work,
                             const uint8_t *taken)
{
    const uint32_t row = operation->row_size, plane = operation->memory_size, head = position->head;
    const uint32_t left = position->columns_left, column = row - left, place = column - (operation->window - 1u);
    const uint32_t next = head + row == plane ? 0 : head + row;
    uint8_t *const pixels = work->memory + operation->memory;
    spread(pixels + 4u * operation->outputs + head + column, taken, taken + operation->inputs, plane);
    if (left == 1u) {
        position->head = next;
    }
    if (advance(operation, position) && (place % 4u == 3u || left == 1u)) {
        position->left = (uint8_t)(place % 4u + 1u);
        convolve_planes(operation, next, place - 3u, pixels);
    }
}
#endif

/* `head` counts the channels of the windows before this one in the row. Windows beyond the last whole one are dropped. */
static int take_into_pool(const kilonet_operation *operation, kilonet_position *position, const kilonet_work *work,
                          uint8_t *pixel, int32_t *logits)
{
    const uint8_t *taken = work->memory + operation->pixel;
    const uint32_t head = position->head;
    uint8_t *largest = work->memory + operation->memory + head;
    int32_t *sums = work->sums + operation->memory + head;
    const unsigned between = operation->between, left = position->columns_left, columns_to_end = position->columns_to_end;
    const int is_whole = operation->window == 0;
    /* 0 at a window's first pixel. Without branches, which compilers would lead to a copy each of what follows. */
    const unsigned before = is_whole ? position->row | (left ^ operation->columns)
                                     : (position->rows_to_end ^ between) | (columns_to_end ^ between);
    const int is_first = before == 0;
    int is_complete = advance(operation, position);
    if (is_whole) {
        is_complete = position->row == operation->rows;
    } else {
        if (left == 1u)
            position->head = 0;
        else if (columns_to_end == 0)
            position->head += operation->inputs;
        if (left <= columns_to_end)
            return 0;
    }
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
static inline int take(const kilonet_operation *operation, kilonet_position *position, const kilonet_work *work,
                       const uint8_t *taken, uint8_t *pixel, int32_t *logits)
{
    if (operation->kind == KILONET_CONVOLUTION)
        return take_into_convolution(operation, position, work, taken, pixel, logits);
#if PLANES
    if (operation->kind == KILONET_BY_PLANES) {
        take_into_planes(operation, position, work, taken);
        return 0;
    }
#endif
    return take_into_pool(operation, position, work, pixel, logits);
}

void kilonet_start(const kilonet_operation *operations, unsigned count, const kilonet_work *work)
{
    kilonet_position *position = work->positions;
    for (; count--; operations++, position++) {
        kilonet_operation copied;
        const kilonet_operation *operation =
            (const kilonet_operation *)KILONET_IN_RAM(&copied, operations, sizeof copied);
        position->head = 0;
        position->waiting = position->left = 0;
        /* As behind the row before the first one. */
        position->row = 0xFFFFu;
        position->rows_to_end = operation->window;
        end_row(operation, position);
    }
}

int kilonet_feed(const kilonet_operation *operations, unsigned count, const kilonet_work *work,
                 const kilonet_pixels *pixels, int32_t *logits)
{
    const kilonet_operation *place = operations;
    const kilonet_operation *const last = operations + count - 1;
    kilonet_position *position = work->positions;
    uint8_t *const memory = work->memory;
    const uint8_t *next = pixels->first;
    uint32_t left = pixels->count;
    int has_pixel = 0; /* whether the next pixel of the operation's input is there */
    if (position->left != 0)
        return 1;
    for (;;) {
        kilonet_operation copied;
        const kilonet_operation *operation =
            (const kilonet_operation *)KILONET_IN_RAM(&copied, place, sizeof copied);
        uint8_t *own = memory + operation->pixel, *pixel = 0;
        const uint8_t *taken = own;
#if PLANES
        if (!has_pixel && position->left != 0) {
            const uint32_t outputs = operation->outputs, number = 4u - position->left;
            (void)copy(memory + place[1].pixel, memory + operation->memory + number * outputs, outputs);
            position->left--;
            has_pixel = 1;
            place++;
            position++;
            continue;
        }
#endif
        if (KILONET_HAS_PADDING && operation->padding != 0) {
            has_pixel |= position->waiting;
            position->waiting = 0;
            if (is_padding(operation, position)) {
                position->waiting = (uint8_t)has_pixel;
                has_pixel = 1;
                taken = (const uint8_t *)KILONET_IN_RAM(work->scratch, operation->pad, operation->inputs);
            }
        }
        if (!has_pixel) {
            uint32_t plane = 0, channel = operation->inputs;
            if (BACKWARD && place != operations) {
                place--;
                position--;
                continue;
            }
            if (left-- == 0)
                return 0;
            do {
                *own++ = next[plane];
                plane += pixels->plane;
            } while (--channel != 0);
            next += pixels->step;
        }
        if (place != last)
            pixel = memory + KILONET_READ(kilonet_index, &place[1].pixel);
        has_pixel = take(operation, position, work, taken, pixel, logits);
        if (has_pixel) {
            place++;
            position++;
            if (!pixel) {
                work->positions->left = 1;
                return 1;
            }
        } else if (!BACKWARD) {
            place = operations;
            position = work->positions;
        }
    }
}

#endif
