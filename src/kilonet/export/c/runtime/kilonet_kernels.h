/* The innermost work of kilonet_runtime.c, which alone includes this file: sums of products, for the processor at hand.
 * The macros of the compiler choose it. Loops that hold sums are functions of their own, since inlined into larger ones
 * they find no registers for them. */
#ifndef KILONET_KERNELS_H
#define KILONET_KERNELS_H

#include "model.h"

#if KILONET_MVE
#include <arm_mve.h>
#endif

#ifdef __GNUC__
#define APART __attribute__((noinline))
/* Functions in assembler alone, which use parameters without naming them. */
#define ASSEMBLER __attribute__((naked, noinline))
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#else
#define APART
#endif

/* A window in a ring of pixels; `gap` bytes lie between one of its rows and the next. */
typedef struct {
    const uint8_t *first;
    const uint8_t *end; /* of the ring */
    uint32_t size; /* bytes of the ring */
    uint32_t gap;
} kilonet_window;

#ifndef __AVR__
/* What sums the products of several channels of a depthwise convolution; assembler knows the order of its fields. */
typedef struct {
    const uint8_t *end; /* of the ring, if it began at the first of the channels */
    uint32_t size; /* bytes of the ring */
    uint32_t gap;
    const uint8_t *weights_end;
    uint32_t inputs;
    uint32_t row; /* bytes of a row of the window */
    int32_t sums[12];
} kilonet_channels;
#endif

/* floor(value / 2**shift). A compiler may do otherwise by >> with a negative number. */
#if -1 >> 1 == -1
static inline int32_t floor_shift(int32_t value, unsigned shift)
{
    return value >> shift;
}

static inline int64_t floor_shift_64(int64_t value, unsigned shift)
{
    return value >> shift;
}
#else
static inline int32_t floor_shift(int32_t value, unsigned shift)
{
    return value < 0 ? -1 - ((-1 - value) >> shift) : value >> shift;
}

static inline int64_t floor_shift_64(int64_t value, unsigned shift)
{
    return value < 0 ? -1 - ((-1 - value) >> shift) : value >> shift;
}
#endif

/* ---- Dense convolutions. Weights are bytes plus 128, so 128 times the sum of the values is too much. ---- */

#if !KILONET_TAPS

/* One output; its weights lie `step` bytes apart. */
APART static uint32_t sum_one(const uint8_t *values, const uint8_t *end, const uint8_t *weights, unsigned step)
{
    uint32_t sum = 0;
    do {
        const unsigned value = *values++;
        /* Many values are 0 behind a ReLU. */
        if (value != 0)
            sum += value * KILONET_READ(uint8_t, weights);
        weights += step;
    } while (values != end);
    return sum;
}

#if KILONET_THUMB1
/* Ten or eight outputs, of which four have sums in low registers. A zero behind the values is the only one at which the
 * end has to be looked for. */
#define HEAD \
    "push {r4-r7, lr}\n mov r4, r8\n mov r5, r9\n mov r6, r10\n mov r7, r11\n push {r3-r7}\n" \
    "movs r4, #0\n movs r5, #0\n movs r6, #0\n movs r7, #0\n mov r8, r4\n mov r9, r4\n mov r10, r4\n mov r11, r4\n"
#define LOW(place, sum) "ldrb r1, [r2, #" #place "]\n muls r1, r3, r1\n adds " #sum ", " #sum ", r1\n"
#define HIGH(place, sum) "ldrb r1, [r2, #" #place "]\n muls r1, r3, r1\n add " #sum ", " #sum ", r1\n"
#define VALUE(beyond) "ldrb r3, [r0]\n adds r0, #1\n cmp r3, #0\n " beyond "\n"
#define EIGHT \
    LOW(0, r4) LOW(1, r5) LOW(2, r6) LOW(3, r7) HIGH(4, r8) HIGH(5, r9) HIGH(6, r10) HIGH(7, r11)
#define STORE \
    "pop {r3}\n stmia r3!, {r4-r7}\n mov r4, r8\n mov r5, r9\n mov r6, r10\n mov r7, r11\n stmia r3!, {r4-r7}\n"
#define TAIL "pop {r4-r7}\n mov r8, r4\n mov r9, r5\n mov r10, r6\n mov r11, r7\n pop {r4-r7, pc}\n"

ASSEMBLER static void sum_ten(const uint8_t *values, const uint8_t *end, const uint8_t *weights,
                                                     int32_t *sums)
{
    __asm__ volatile(".syntax unified\n" HEAD "mov r12, r4\n mov lr, r4\n push {r1}\n" VALUE("beq 2f")
                     "1: " EIGHT HIGH(8, r12) HIGH(9, lr) "adds r2, #10\n" VALUE("bne 1b")
                     "2: ldr r1, [sp]\n cmp r0, r1\n bhi 3f\n adds r2, #10\n" VALUE("bne 1b") "b 2b\n 3: pop {r1}\n" STORE
                         "mov r4, r12\n mov r5, lr\n stmia r3!, {r4, r5}\n" TAIL);
}

ASSEMBLER static void sum_eight(const uint8_t *values, const uint8_t *end,
                                                       const uint8_t *weights, int32_t *sums)
{
    __asm__ volatile(".syntax unified\n" HEAD "mov r12, r1\n" VALUE("beq 2f") "1: " EIGHT "adds r2, #8\n" VALUE("bne 1b")
                     "2: cmp r0, r12\n bhi 3f\n adds r2, #8\n" VALUE("bne 1b") "b 2b\n 3:\n" STORE TAIL);
}
#elif !defined(__AVR__)
#define TERM(place) a##place += value * weights[place]

APART static void sum_ten(const uint8_t *values, const uint8_t *end, const uint8_t *weights, int32_t *sums)
{
    uint32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0, a4 = 0, a5 = 0, a6 = 0, a7 = 0, a8 = 0, a9 = 0;
    for (;; weights += 10) {
        const uint32_t value = *values++;
        if (value != 0)
            TERM(0), TERM(1), TERM(2), TERM(3), TERM(4), TERM(5), TERM(6), TERM(7), TERM(8), TERM(9);
        else if (values > end)
            break;
    }
    sums[0] = (int32_t)a0, sums[1] = (int32_t)a1, sums[2] = (int32_t)a2, sums[3] = (int32_t)a3, sums[4] = (int32_t)a4;
    sums[5] = (int32_t)a5, sums[6] = (int32_t)a6, sums[7] = (int32_t)a7, sums[8] = (int32_t)a8, sums[9] = (int32_t)a9;
}

APART static void sum_eight(const uint8_t *values, const uint8_t *end, const uint8_t *weights, int32_t *sums)
{
    uint32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0, a4 = 0, a5 = 0, a6 = 0, a7 = 0;
    for (;; weights += 8) {
        const uint32_t value = *values++;
        if (value != 0)
            TERM(0), TERM(1), TERM(2), TERM(3), TERM(4), TERM(5), TERM(6), TERM(7);
        else if (values > end)
            break;
    }
    sums[0] = (int32_t)a0, sums[1] = (int32_t)a1, sums[2] = (int32_t)a2, sums[3] = (int32_t)a3;
    sums[4] = (int32_t)a4, sums[5] = (int32_t)a5, sums[6] = (int32_t)a6, sums[7] = (int32_t)a7;
}
#endif

/* How many outputs lie side by side in the weights, if `left` are left. */
static unsigned block_of(unsigned left)
{
    return left < 8 ? left : left >= 10 && left % 8 >= 2 ? 10 : 8;
}

/* Copies bytes, and returns their sum. */
#if KILONET_THUMB1
ASSEMBLER static uint32_t copy(uint8_t *to, const uint8_t *from, uint32_t count)
{
    __asm__ volatile(".syntax unified\n push {r4, r5, lr}\n movs r3, #0\n subs r2, #4\n blo 2f\n"
                     "1: ldrb r4, [r1]\n ldrb r5, [r1, #1]\n strb r4, [r0]\n strb r5, [r0, #1]\n adds r3, r3, r4\n"
                     "adds r3, r3, r5\n ldrb r4, [r1, #2]\n ldrb r5, [r1, #3]\n strb r4, [r0, #2]\n strb r5, [r0, #3]\n"
                     "adds r3, r3, r4\n adds r3, r3, r5\n adds r0, #4\n adds r1, #4\n subs r2, #4\n bhs 1b\n"
                     "2: adds r2, #4\n beq 4f\n"
                     "3: ldrb r4, [r1]\n strb r4, [r0]\n adds r3, r3, r4\n adds r0, #1\n adds r1, #1\n subs r2, #1\n bne 3b\n"
                     "4: movs r0, r3\n pop {r4, r5, pc}");
}
#else
APART static uint32_t copy(uint8_t *to, const uint8_t *from, uint32_t count)
{
    uint32_t sum = 0;
    for (; count >= 4; count -= 4, to += 4, from += 4) {
        const uint8_t a = from[0], b = from[1], c = from[2], d = from[3];
        to[0] = a, to[1] = b, to[2] = c, to[3] = d;
        sum += (uint32_t)a + b + c + d;
    }
    for (; count != 0; count--) {
        sum += *from;
        *to++ = *from++;
    }
    return sum;
}
#endif

/* Where a window's values are gathered before they are summed. */
static uint8_t *place_of_values(uint8_t *scratch, uint32_t count)
{
    (void)count;
    return scratch;
}

/* Sums the products of all outputs for `count` gathered values. Returns the sum of the values. */
static uint32_t sum_dense(const kilonet_operation *operation, uint8_t *scratch, uint32_t count, uint32_t copied,
                          int32_t *sums)
{
    const uint8_t *weights = operation->weights, *const end = scratch + count;
    unsigned left = operation->outputs;
    scratch[count] = 0;
    while (left != 0) {
        const unsigned block = block_of(left);
        unsigned i;
#ifndef __AVR__
        if (block == 10)
            sum_ten(scratch, end, weights, sums);
        else if (block == 8)
            sum_eight(scratch, end, weights, sums);
        else
#endif
            for (i = 0; i < block; i++)
                sums[i] = (int32_t)sum_one(scratch, end, weights + i, block);
        sums += block;
        weights += block * count;
        left -= block;
    }
    return copied;
}

#elif KILONET_MVE

/* Copies bytes; their sum is not taken here. */
static uint32_t copy(uint8_t *to, const uint8_t *from, uint32_t count)
{
    __asm__ volatile("wlstp.8 lr, %[count], 2f\n"
                     "1: vldrb.8 q0, [%[from]], #16\n vstrb.8 q0, [%[to]], #16\n letp lr, 1b\n2:"
                     : [to] "+&r"(to), [from] "+&r"(from)
                     : [count] "r"(count)
                     : "q0", "lr", "memory");
    return 0;
}

static uint8_t *place_of_values(uint8_t *scratch, uint32_t count)
{
    (void)count;
    return scratch;
}

static uint32_t sum_values(const uint8_t *values, uint32_t count)
{
    uint32_t sum = 0;
    __asm__ volatile("dlstp.8 lr, %[count]\n1: vldrb.8 q0, [%[values]], #16\n vaddva.u8 %[sum], q0\n letp lr, 1b"
                     : [values] "+&r"(values), [sum] "+&Te"(sum)
                     : [count] "r"(count)
                     : "q0", "lr", "memory");
    return sum;
}

/* Four outputs. */
static inline void sum_four(const uint8_t *values, const uint8_t *first, const uint8_t *second, const uint8_t *third,
                            const uint8_t *fourth, uint32_t count, int32_t *sums)
{
    uint32_t a = 0, b = 0, c = 0, d = 0;
    __asm__ volatile("dlstp.8 lr, %[count]\n"
                     "1: vldrb.8 q0, [%[values]], #16\n vldrb.8 q1, [%[first]], #16\n vmladava.u8 %[a], q0, q1\n"
                     "vldrb.8 q2, [%[second]], #16\n vmladava.u8 %[b], q0, q2\n"
                     "vldrb.8 q3, [%[third]], #16\n vmladava.u8 %[c], q0, q3\n"
                     "vldrb.8 q1, [%[fourth]], #16\n vmladava.u8 %[d], q0, q1\n letp lr, 1b"
                     : [a] "+&Te"(a), [b] "+&Te"(b), [c] "+&Te"(c), [d] "+&Te"(d), [values] "+&r"(values),
                       [first] "+&r"(first), [second] "+&r"(second), [third] "+&r"(third), [fourth] "+&r"(fourth)
                     : [count] "r"(count)
                     : "q0", "q1", "q2", "q3", "lr", "memory");
    sums[0] = (int32_t)a, sums[1] = (int32_t)b, sums[2] = (int32_t)c, sums[3] = (int32_t)d;
}

APART static uint32_t sum_dense(const kilonet_operation *operation, uint8_t *scratch, uint32_t count, uint32_t copied,
                                int32_t *sums)
{
    const uint8_t *weights = operation->weights;
    unsigned left = operation->outputs;
    for (; left >= 4; left -= 4, weights += 4 * count, sums += 4)
        sum_four(scratch, weights, weights + count, weights + 2 * count, weights + 3 * count, count, sums);
    if (left != 0) {
        int32_t rest[4];
        unsigned i;
        sum_four(scratch, weights, left > 1 ? weights + count : weights,
                 left > 2 ? weights + 2 * count : weights, weights,
                 count, rest);
        for (i = 0; i < left; i++)
            sums[i] = rest[i];
    }
    return copied + sum_values(scratch, count);
}

#else /* DSP */

/* Copies bytes; their sum is not taken here. */
APART static uint32_t copy(uint8_t *to, const uint8_t *from, uint32_t count)
{
    for (; count >= 4; count -= 4, to += 4, from += 4)
        __builtin_memcpy(to, from, 4);
    for (; count != 0; count--)
        *to++ = *from++;
    return 0;
}

/* Copies bytes, and up to three more. */
#define COPIES_BEYOND 1
APART static uint32_t copy_row(uint8_t *to, const uint8_t *from, uint32_t count)
{
    int32_t left = (int32_t)count;
    do {
        __builtin_memcpy(to, from, 4);
        to += 4, from += 4, left -= 4;
    } while (left > 0);
    return 0;
}

/* A window's bytes lie behind the place where they are widened to 16 bits each. */
static uint8_t *place_of_values(uint8_t *scratch, uint32_t count)
{
    return scratch + ((count + 3u) & ~3u);
}

/* Widens bytes to 16 bits, of four bytes the first and third before the others. Returns their sum. */
APART static uint32_t widen(uint8_t *to, const uint8_t *from, const uint8_t *end)
{
    uint32_t sum = 0, four, even;
    const uint32_t zero = 0;
    __asm__ volatile("1: ldr %[four], [%[from]], #4\n uxtb16 %[even], %[four]\n usada8 %[sum], %[four], %[zero], %[sum]\n"
                     "uxtb16 %[four], %[four], ror #8\n cmp %[from], %[end]\n strd %[even], %[four], [%[to]], #8\n"
                     "bne 1b"
                     : [to] "+&r"(to), [from] "+&r"(from), [sum] "+&r"(sum), [four] "=&r"(four), [even] "=&r"(even)
                     : [end] "r"(end), [zero] "r"(zero)
                     : "cc", "memory");
    return sum;
}

#define MULTIPLY(weights, half, sum) \
    "uxtb16 " half ", " weights "\n smlad " sum ", %[even], " half ", " sum "\n" \
    "uxtb16 " weights ", " weights ", ror #8\n smlad " sum ", %[odd], " weights ", " sum "\n"
#define MULTIPLY_NAKED(weights, sum) \
    "uxtb16 r12, " weights "\n smlad " sum ", r3, r12, " sum "\n" \
    "uxtb16 " weights ", " weights ", ror #8\n smlad " sum ", lr, " weights ", " sum "\n"

#define SIXTEEN \
    "ldrd r3, lr, [r0], #8\n ldmia r2!, {r8-r11}\n" MULTIPLY_NAKED("r8", "r4") MULTIPLY_NAKED("r9", "r5") \
        MULTIPLY_NAKED("r10", "r6") MULTIPLY_NAKED("r11", "r7")

/* Four outputs. An odd number of fours of values begins in the middle. */
ASSEMBLER static void sum_four(const uint8_t *values, const uint8_t *end, const uint8_t *weights,
                                                      int32_t *sums)
{
    __asm__ volatile("push {r3-r11, lr}\n movs r4, #0\n movs r5, #0\n movs r6, #0\n movs r7, #0\n"
                     "subs r12, r1, r0\n tst r12, #8\n bne 2f\n"
                     "1: " SIXTEEN "2: " SIXTEEN "cmp r0, r1\n bne 1b\n"
                     "pop {r3}\n stmia r3, {r4-r7}\n pop {r4-r11, pc}");
}

APART static void sum_two(const uint8_t *values, const uint8_t *end, const uint8_t *weights, int32_t *sums)
{
    uint32_t a = 0, b = 0, even, odd, half, first, second;
    __asm__ volatile("1: ldrd %[even], %[odd], [%[values]], #8\n ldrd %[first], %[second], [%[weights]], #8\n" MULTIPLY(
                         "%[first]", "%[half]", "%[a]") MULTIPLY("%[second]", "%[half]", "%[b]")
                     "cmp %[values], %[end]\n bne 1b"
                     : [a] "+&r"(a), [b] "+&r"(b), [values] "+&r"(values), [weights] "+&r"(weights), [even] "=&r"(even),
                       [odd] "=&r"(odd), [half] "=&r"(half), [first] "=&r"(first), [second] "=&r"(second)
                     : [end] "r"(end)
                     : "cc", "memory");
    sums[0] = (int32_t)a, sums[1] = (int32_t)b;
}

static uint32_t sum_dense(const kilonet_operation *operation, uint8_t *scratch, uint32_t count, uint32_t copied,
                          int32_t *sums)
{
    const uint32_t step = (count + 3u) & ~3u;
    const uint8_t *weights = operation->weights, *const end = scratch + 2 * step;
    unsigned left = operation->outputs;
    uint32_t i;
    for (i = count; i < step; i++)
        scratch[step + i] = 0;
    copied += widen(scratch, scratch + step, end);
    for (; left >= 4; left -= 4, weights += 4 * step, sums += 4)
        sum_four(scratch, end, weights, sums);
    for (; left >= 2; left -= 2, weights += 2 * step, sums += 2)
        sum_two(scratch, end, weights, sums);
    if (left != 0) {
        int32_t pair[2];
        sum_two(scratch, end, weights, pair);
        sums[0] = pair[0];
    }
    return copied;
}
#endif

#ifndef COPIES_BEYOND
#define copy_row copy
#endif

/* ---- Pools ---- */

static inline void keep_largest(uint8_t *largest, const uint8_t *taken, int32_t count)
{
#if KILONET_MVE
    for (; count > 0; count -= 16, largest += 16, taken += 16) {
        const mve_pred16_t these = vctp8q((uint32_t)count);
        vstrbq_p_u8(largest, vmaxq_u8(vldrbq_z_u8(largest, these), vldrbq_z_u8(taken, these)), these);
    }
#else
    for (; count > 0; count--, largest++, taken++)
        if (*taken > *largest)
            *largest = *taken;
#endif
}

static inline void add_values(int32_t *sums, const uint8_t *taken, int32_t count, int is_first)
{
#if KILONET_MVE
    for (; count > 0; count -= 4, sums += 4, taken += 4) {
        const mve_pred16_t these = vctp32q((uint32_t)count);
        const int32x4_t values = vreinterpretq_s32_u32(vldrbq_z_u32(taken, these));
        vstrwq_p_s32(sums, is_first ? values : vaddq_s32(values, vldrwq_z_s32(sums, these)), these);
    }
#else
    for (; count > 0; count--, sums++)
        *sums = (is_first ? 0 : *sums) + *taken++;
#endif
}

/* ---- Depthwise convolutions, straight from the ring. Weights are bytes, [row][column][output]. ---- */

static inline const uint8_t *within(const kilonet_window *window, const uint8_t *place)
{
    return place >= window->end ? place - window->size : place;
}

/* One output, whose input channel is `channel`. */
APART static int32_t sum_one_depthwise(const kilonet_operation *operation, const kilonet_window *window, unsigned output,
                                       unsigned channel)
{
    const uint8_t *weights = operation->weights + output, *pixel = window->first;
    const unsigned inputs = operation->inputs, outputs = operation->outputs, side = operation->window;
    int32_t sum = 0;
    unsigned row, column;
    for (row = 0; row < side; row++) {
        for (column = 0; column < side; column++) {
            sum += pixel[channel] * (int8_t)KILONET_READ(uint8_t, weights);
            weights += outputs;
            pixel = within(window, pixel + inputs);
        }
        pixel = within(window, pixel + window->gap);
    }
    return sum;
}

#if KILONET_THUMB1
#define MOST_CHANNELS 6
#define PRODUCT(place, sum) \
    "ldrb r1, [r0, #" #place "]\n ldrb r3, [r2, #" #place "]\n sxtb r3, r3\n muls r1, r3, r1\n add " #sum ", " #sum ", r1\n"

/* `count` channels, six at most: jumps to the first product of as many. Writes six sums. */
ASSEMBLER static void sum_channels(const uint8_t *pixel, unsigned count, const uint8_t *weights,
                                                          const kilonet_channels *call)
{
    __asm__ volatile(
        ".syntax unified\n push {r3-r7, lr}\n mov r4, r8\n mov r5, r9\n mov r6, r10\n mov r7, r11\n push {r3-r7}\n"
        "ldr r4, [r3, #16]\n mov r12, r4\n ldr r4, [r3, #0]\n mov lr, r4\n"
        "movs r5, #10\n muls r1, r5, r1\n adr r5, 2f\n subs r5, r5, r1\n mov r11, r5\n"
        "movs r4, #0\n movs r5, #0\n movs r6, #0\n movs r7, #0\n mov r8, r4\n mov r9, r4\n"
        "ldr r1, [r3, #12]\n mov r10, r1\n"
        /* A row: r10 is where its weights end. */
        "1: ldr r1, [sp]\n ldr r1, [r1, #20]\n add r1, r1, r2\n mov r10, r1\n"
        "mov pc, r11\n .align 2\n" PRODUCT(5, r9) PRODUCT(4, r8) PRODUCT(3, r7) PRODUCT(2, r6) PRODUCT(1, r5) PRODUCT(0, r4)
        ".align 2\n 2: add r0, r0, r12\n add r2, r2, r12\n cmp r0, lr\n bhs 4f\n 3: cmp r2, r10\n beq 5f\n mov pc, r11\n"
        "4: ldr r1, [sp]\n ldr r1, [r1, #4]\n subs r0, r0, r1\n b 3b\n"
        "5: ldr r1, [sp]\n ldr r3, [r1, #8]\n adds r0, r0, r3\n cmp r0, lr\n blo 6f\n ldr r3, [r1, #4]\n subs r0, r0, r3\n"
        "6: ldr r3, [r1, #12]\n cmp r2, r3\n bne 1b\n"
        "adds r1, r1, #24\n stmia r1!, {r4-r7}\n mov r4, r8\n mov r5, r9\n stmia r1!, {r4, r5}\n"
        "pop {r3-r7}\n mov r8, r4\n mov r9, r5\n mov r10, r6\n mov r11, r7\n pop {r3-r7, pc}");
}
#elif KILONET_MVE
#define MOST_CHANNELS 8

/* Eight channels, in two vectors of 32 bits each. */
APART static void sum_eight_channels(const uint8_t *pixel, const uint8_t *weights, kilonet_channels *call)
{
    const uint8_t *const end = call->end, *const weights_end = call->weights_end, *row_end = weights;
    const uint32_t inputs = call->inputs;
    int32x4_t a = vdupq_n_s32(0), b = a;
    do {
        row_end += call->row;
        do {
            const int8_t *const w = (const int8_t *)weights;
            a = vaddq_s32(a, vmulq_s32(vreinterpretq_s32_u32(vldrbq_u32(pixel)), vldrbq_s32(w)));
            b = vaddq_s32(b, vmulq_s32(vreinterpretq_s32_u32(vldrbq_u32(pixel + 4)), vldrbq_s32(w + 4)));
            weights += inputs;
            pixel += inputs;
            if (pixel >= end)
                pixel -= call->size;
        } while (weights != row_end);
        pixel += call->gap;
        if (pixel >= end)
            pixel -= call->size;
    } while (weights != weights_end);
    vst1q_s32(call->sums, a);
    vst1q_s32(call->sums + 4, b);
}

/* Up to four channels. */
APART static void sum_four_channels(const uint8_t *pixel, unsigned count, const uint8_t *weights, kilonet_channels *call)
{
    const mve_pred16_t these = vctp32q(count);
    const uint8_t *const end = call->end, *const weights_end = call->weights_end, *row_end = weights;
    const uint32_t inputs = call->inputs;
    int32x4_t a = vdupq_n_s32(0);
    do {
        row_end += call->row;
        do {
            const int32x4_t values = vreinterpretq_s32_u32(vldrbq_z_u32(pixel, these));
            a = vaddq_s32(a, vmulq_s32(values, vldrbq_z_s32((const int8_t *)weights, these)));
            weights += inputs;
            pixel += inputs;
            if (pixel >= end)
                pixel -= call->size;
        } while (weights != row_end);
        pixel += call->gap;
        if (pixel >= end)
            pixel -= call->size;
    } while (weights != weights_end);
    vst1q_s32(call->sums, a);
}

static void sum_channels(const uint8_t *pixel, unsigned count, const uint8_t *weights, kilonet_channels *call)
{
    if (count == 8)
        sum_eight_channels(pixel, weights, call);
    else
        sum_four_channels(pixel, count, weights, call);
}
#elif KILONET_TAPS
#define MOST_CHANNELS 4

#define PAIRS(x, w, low, high) "smlabb " low ", " x ", " w ", " low "\n smlatt " high ", " x ", " w ", " high "\n"

/* Four channels; fewer count for nothing. */
ASSEMBLER static void sum_four_channels(const uint8_t *pixel, unsigned count,
                                                               const uint8_t *weights, kilonet_channels *call)
{
    __asm__ volatile(
        "push {r3-r11, lr}\n movs r4, #0\n movs r5, #0\n movs r6, #0\n movs r7, #0\n"
        "ldr r8, [r3, #0]\n ldr r9, [r3, #16]\n"
        "1: ldr r10, [r3, #20]\n add r10, r10, r2\n"
        "2: ldr r1, [r0]\n ldr r11, [r2]\n add r0, r0, r9\n add r2, r2, r9\n uxtb16 r12, r1\n sxtb16 lr, r11\n"
        "uxtb16 r1, r1, ror #8\n sxtb16 r11, r11, ror #8\n" PAIRS("r12", "lr", "r4", "r6") PAIRS("r1", "r11", "r5", "r7")
        "cmp r0, r8\n bhs 4f\n 3: cmp r2, r10\n bne 2b\n"
        "ldr r1, [r3, #8]\n add r0, r0, r1\n cmp r0, r8\n bhs 6f\n"
        "5: ldr r1, [r3, #12]\n cmp r2, r1\n bne 1b\n adds r3, r3, #24\n stmia r3, {r4-r7}\n pop {r3-r11, pc}\n"
        "4: ldr r1, [r3, #4]\n subs r0, r0, r1\n b 3b\n"
        "6: ldr r1, [r3, #4]\n subs r0, r0, r1\n b 5b");
}

APART static void sum_channels(const uint8_t *pixel, unsigned count, const uint8_t *weights, kilonet_channels *call)
{
    sum_four_channels(pixel, count, weights, call);
}
#elif !defined(__AVR__)
#define MOST_CHANNELS 4

/* Four channels, or one. */
APART static void sum_four_channels(const uint8_t *pixel, const uint8_t *weights, kilonet_channels *call)
{
    const uint8_t *const end = call->end, *const weights_end = call->weights_end, *row_end = weights;
    const uint32_t inputs = call->inputs, size = call->size;
    int32_t a = 0, b = 0, c = 0, d = 0;
    do {
        row_end += call->row;
        do {
            const int8_t *const w = (const int8_t *)weights;
            a += pixel[0] * w[0];
            b += pixel[1] * w[1];
            c += pixel[2] * w[2];
            d += pixel[3] * w[3];
            weights += inputs;
            pixel += inputs;
            if (pixel >= end)
                pixel -= size;
        } while (weights != row_end);
        pixel += call->gap;
        if (pixel >= end)
            pixel -= size;
    } while (weights != weights_end);
    call->sums[0] = a, call->sums[1] = b, call->sums[2] = c, call->sums[3] = d;
}

APART static int32_t sum_channel(const uint8_t *pixel, const uint8_t *weights, const kilonet_channels *call)
{
    const uint8_t *row_end = weights;
    int32_t sum = 0;
    do {
        row_end += call->row;
        do {
            sum += pixel[0] * (int8_t)weights[0];
            weights += call->inputs;
            pixel += call->inputs;
            if (pixel >= call->end)
                pixel -= call->size;
        } while (weights != row_end);
        pixel += call->gap;
        if (pixel >= call->end)
            pixel -= call->size;
    } while (weights != call->weights_end);
    return sum;
}

static void sum_channels(const uint8_t *pixel, unsigned count, const uint8_t *weights, kilonet_channels *call)
{
    if (count == 4)
        sum_four_channels(pixel, weights, call);
    else
        call->sums[0] = sum_channel(pixel, weights, call);
}
#endif

#ifndef __AVR__
/* How many channels are summed at once, if `left` are left. */
static inline unsigned channels_of(unsigned left)
{
#if KILONET_TAPS
    return left >= MOST_CHANNELS ? MOST_CHANNELS : left > 4 ? 4 : left;
#elif MOST_CHANNELS == 4
    return left >= 4 ? 4 : 1;
#else
    return left <= MOST_CHANNELS ? left : left < 2 * MOST_CHANNELS ? (left + 1) / 2 : MOST_CHANNELS;
#endif
}

static void sum_all_channels(const kilonet_operation *operation, const kilonet_window *window, int32_t *sums)
{
    const uint32_t inputs = operation->inputs, side = operation->window;
    kilonet_channels call;
    unsigned channel = 0;
    call.size = window->size;
    call.gap = window->gap;
    call.inputs = inputs;
    call.row = side * inputs;
    while (channel < inputs) {
        const unsigned count = channels_of(inputs - channel);
        unsigned i;
        call.end = window->end + channel;
        call.weights_end = operation->weights + channel + side * side * inputs;
        sum_channels(window->first + channel, count, operation->weights + channel, &call);
        for (i = 0; i < count; i++)
            *sums++ = call.sums[i];
        channel += count;
    }
}
#endif

static void sum_depthwise(const kilonet_operation *operation, const kilonet_window *window, int32_t *sums)
{
    const unsigned outputs = operation->outputs, multiple = operation->multiple;
    unsigned output, channel = 0, repeated = 0;
#ifndef __AVR__
    if (multiple == 1 || !KILONET_HAS_MULTIPLES) {
        sum_all_channels(operation, window, sums);
        return;
    }
#endif
    for (output = 0; output < outputs; output++) {
        sums[output] = sum_one_depthwise(operation, window, output, channel);
        if (++repeated == multiple) {
            repeated = 0;
            channel++;
        }
    }
}

/* ---- Requantisation ---- */

/* floor(value * multiplier / 2**16) */
static inline int32_t upper_product(int32_t value, int16_t multiplier)
{
#if KILONET_TAPS && !KILONET_MVE
    int32_t product;
    __asm__("smulwb %0, %1, %2" : "=r"(product) : "r"(value), "r"(multiplier));
    return product;
#else
    return floor_shift(value, 16) * multiplier + floor_shift((int32_t)((uint32_t)value & 0xFFFFu) * multiplier, 16);
#endif
}

static inline uint8_t clamped(int32_t value)
{
#if KILONET_TAPS
    uint32_t byte;
    __asm__("usat %0, #8, %1" : "=r"(byte) : "r"(value));
    return (uint8_t)byte;
#else
    /* Most need not be clamped. */
    if ((uint32_t)value > 255u)
        return value < 0 ? 0 : 255;
    return (uint8_t)value;
#endif
}

/* One output; as requantise_narrow. */
static inline uint8_t requantised(int32_t sum, const kilonet_requantisation *how)
{
    const int32_t upper = upper_product(sum, how->multiplier);
    return clamped(floor_shift(floor_shift(upper, how->shift - 17u) + 1, 1));
}

#ifndef __AVR__
/* The same with an offset, and with a residual sum if `skip` is given. */
#if KILONET_THUMB1
APART
#else
inline
#endif
static uint8_t requantised_offset(int32_t sum, const kilonet_requantisation *how, const int64_t *place,
                                         const int32_t *skip, const uint8_t *skipped)
{
    const int64_t offset = *place;
#if KILONET_THUMB1
    /* These processors have no product of 64 bits. */
    uint32_t lower = ((uint32_t)sum * (uint32_t)(int32_t)how->multiplier & 0xFFFFu) + ((uint32_t)offset & 0xFFFFu);
    int32_t upper = upper_product(sum, how->multiplier) + (int32_t)floor_shift_64(offset, 16);
    if (skip) {
        const int32_t factor = *skip;
        lower += ((uint32_t)factor & 0xFFFFu) * *skipped;
        upper += floor_shift(factor, 16) * *skipped;
    }
    return clamped(floor_shift(upper + (int32_t)(lower >> 16), how->shift - 16u));
#else
    int64_t value = (int64_t)sum * how->multiplier + offset;
    if (skip)
        value += (int64_t)*skip * *skipped;
    return clamped((int32_t)((uint32_t)((uint64_t)value >> 32) << (32u - how->shift) | (uint32_t)value >> how->shift));
#endif
}

/* The rest of a hidden operation of which kilonet export has proved that 32 bits are enough: shifts are from 17 to 31,
 * so that the lowest 16 bits do not matter where only a half is to be added. `more` is added to each sum. */
APART static void requantise_offset(const kilonet_operation *operation, const int32_t *sums, uint32_t more,
                                    const uint8_t *skipped, uint8_t *pixel)
{
    const kilonet_requantisation *place = operation->requantisation, *const end = place + operation->outputs;
    const int64_t *offset = operation->offset;
    const int32_t *skip = operation->skip;
    const int32_t least = operation->relu != 0 ? 0 : INT32_MIN;
    do {
        int32_t sum = (int32_t)((uint32_t)*sums++ + (uint32_t)place->bias + more);
        if (sum < least)
            sum = least;
        *pixel++ = requantised_offset(sum, place, offset++, skip, skipped);
        if (skip)
            skip++, skipped++;
    } while (++place != end);
}
#endif

#if KILONET_MVE
/* Without an offset. Results below 0 become 0, as with a ReLU. Four outputs at once; the upper half of a product of 32 bits is that of 16 bits shifted upwards. */
APART static void requantise_narrow(const kilonet_operation *operation, const int32_t *sums, uint32_t more, uint8_t *pixel)
{
    const int32_t *how = (const int32_t *)operation->requantisation;
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), sizeof *operation->requantisation);
    int left = operation->outputs;
    do {
        const mve_pred16_t these = vctp32q((uint32_t)left);
        const int32x4_t scale = vldrwq_gather_offset_z_s32(how + 1, places, these);
        const int32x4_t shift = vsubq_s32(vdupq_n_s32(16), vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(scale), 16)));
        int32x4_t sum = vaddq_s32(vldrwq_z_s32(sums, these), vldrwq_gather_offset_z_s32(how, places, these));
        sum = vaddq_n_s32(sum, (int32_t)more);
        sum = vrshlq_s32(vmulhq_s32(sum, vshlq_n_s32(scale, 16)), shift);
        sum = vminq_s32(vmaxq_s32(sum, vdupq_n_s32(0)), vdupq_n_s32(255));
        vstrbq_p_s32((int8_t *)pixel, sum, these);
        how += 8, sums += 4, pixel += 4, left -= 4;
    } while (left > 0);
}
#elif KILONET_TAPS
/* Without an offset. Results below 0 become 0, as with a ReLU. */
APART static void requantise_narrow(const kilonet_operation *operation, const int32_t *sums, uint32_t more, uint8_t *pixel)
{
    const kilonet_requantisation *how = operation->requantisation;
    int32_t sum, bias;
    uint32_t scale;
    __asm__ volatile("1: ldr %[sum], [%[sums]], #4\n ldrd %[bias], %[scale], [%[how]], #8\n add %[sum], %[sum], %[more]\n"
                     "add %[sum], %[sum], %[bias]\n smulwb %[sum], %[sum], %[scale]\n lsr %[scale], %[scale], #16\n"
                     "sub %[scale], %[scale], #17\n asr %[sum], %[sum], %[scale]\n add %[sum], %[sum], #1\n"
                     "usat %[sum], #8, %[sum], asr #1\n strb %[sum], [%[pixel]], #1\n cmp %[how], %[end]\n bne 1b"
                     : [how] "+&r"(how), [sums] "+&r"(sums), [pixel] "+&r"(pixel), [sum] "=&r"(sum), [bias] "=&r"(bias),
                       [scale] "=&r"(scale)
                     : [end] "r"(how + operation->outputs), [more] "r"(more)
                     : "cc", "memory");
}
#else
/* Without an offset. Results below 0 become 0, as with a ReLU. */
APART static void requantise_narrow(const kilonet_operation *operation, const int32_t *sums, uint32_t more, uint8_t *pixel)
{
    const kilonet_requantisation *place = operation->requantisation, *const end = place + operation->outputs;
    do {
        kilonet_requantisation copied;
        const kilonet_requantisation *how =
            (const kilonet_requantisation *)KILONET_IN_RAM(&copied, place, sizeof copied);
        const int32_t sum = (int32_t)((uint32_t)*sums++ + (uint32_t)how->bias + more);
        *pixel++ = requantised(sum, how);
    } while (++place != end);
}

#endif

#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif

#endif
