/* The innermost work of kilonet_runtime.c, which alone includes this file: sums of products, for the processor at hand.
 * The macros of the compiler choose it. Loops that hold sums are functions of their own, since inlined into larger ones
 * they find no registers for them. */
#ifndef KILONET_KERNELS_H
#define KILONET_KERNELS_H

#include "model.h"

#if KILONET_MVE
#include <arm_mve.h>
#endif

/* Whether depthwise convolutions of 5x5 compute four pixels at once; others go pixel by pixel. */
#define PLANES (KILONET_HAS_PLANES && KILONET_TAPS && !KILONET_MVE)
#define DEPTHWISE (KILONET_HAS_DEPTHWISE && (!PLANES || KILONET_HAS_OTHER_DEPTHWISE))
#define OFFSETS (KILONET_HAS_OFFSETS && (!PLANES || KILONET_HAS_OTHER_OFFSETS))

#ifdef __GNUC__
#define APART __attribute__((noinline))
/* Functions in assembler alone, of whose parameters and registers the compiler knows nothing. */
#if !defined(__clang__) && __GNUC__ >= 8
#define ASSEMBLER __attribute__((naked, noipa))
#else
#define ASSEMBLER __attribute__((naked, noinline))
#endif
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#else
#define APART
#endif

/* A window in a ring of pixels; `gap` bytes lie between one of its rows and the next. */
typedef struct {
    const uint8_t *first;
    const uint8_t *end; /* of the ring */
    uint32_t width; /* bytes of a row of the window */
    uint32_t size; /* bytes of the ring */
    uint32_t gap;
} kilonet_window;

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

/* ---- Copies ---- */

#if KILONET_MVE
static void copy(uint8_t *to, const uint8_t *from, uint32_t count)
{
    __asm__ volatile("wlstp.8 lr, %[count], 2f\n"
                     "1: vldrb.8 q0, [%[from]], #16\n vstrb.8 q0, [%[to]], #16\n letp lr, 1b\n2:"
                     : [to] "+&r"(to), [from] "+&r"(from)
                     : [count] "r"(count)
                     : "q0", "lr", "memory");
}
#elif KILONET_TAPS
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
#elif KILONET_THUMB1
/* Copies bytes, and returns their sum. */
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
/* Copies bytes, and returns their sum. */
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

/* Copies the window from the ring row by row, so that its values lie side by side. Returns their sum, or what else a copy of
 * a row returns. */
#if KILONET_MVE
#define COPY_ROW "vldrb.8 q0, [r12], #16\n vaddva.u8 r0, q0\n vstrb.8 q0, [r8], #16\n"

ASSEMBLER static uint32_t gather(const kilonet_window *window, unsigned row, uint8_t *values)
{
    __asm__ volatile("push {r4-r9, lr}\n mov r9, r1\n ldmia r0, {r3-r7}\n add r7, r5\n movs r0, #0\n"
                     "1: subs r1, r4, r3\n mov r12, r3\n mov r8, r2\n cmp r1, r5\n blo 4f\n"
                     "dlstp.8 lr, r5\n 2: " COPY_ROW "letp lr, 2b\n"
                     "3: add r2, r5\n add r3, r7\n cmp r3, r4\n it hs\n subhs r3, r6\n subs r9, #1\n bne 1b\n pop {r4-r9, pc}\n"
                     /* The rest of the row is at the beginning of the ring. */
                     "4: dlstp.8 lr, r1\n 5: " COPY_ROW "letp lr, 5b\n sub r12, r4, r6\n add r8, r2, r1\n subs r1, r5, r1\n"
                     "dlstp.8 lr, r1\n 6: " COPY_ROW "letp lr, 6b\n b 3b");
}
#else
#ifndef COPIES_BEYOND
#define copy_row copy
#endif

#if KILONET_TAPS
APART
#else
inline
#endif
static uint32_t gather(const kilonet_window *window, unsigned row, uint8_t *values)
{
    const uint8_t *from = window->first, *const end = window->end;
    const uint32_t width = window->width, size = window->size, gap = window->gap;
    uint32_t sum = 0;
    do {
        const uint32_t left = (uint32_t)(end - from);
        if (left < width) {
            sum += copy_row(values, from, left);
            sum += copy_row(values + left, end - size, width - left);
        } else {
            sum += copy_row(values, from, width);
        }
        values += width;
        from += width + gap;
        if (from >= end)
            from -= size;
    } while (--row != 0);
    return sum;
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

ASSEMBLER static void sum_ten(const uint8_t *values, const uint8_t *end, const uint8_t *weights, int32_t *sums)
{
    __asm__ volatile(".syntax unified\n" HEAD "mov r12, r4\n mov lr, r4\n push {r1}\n" VALUE("beq 2f")
                     "1: " EIGHT HIGH(8, r12) HIGH(9, lr) "adds r2, #10\n" VALUE("bne 1b")
                     "2: ldr r1, [sp]\n cmp r0, r1\n bhi 3f\n adds r2, #10\n" VALUE("bne 1b") "b 2b\n 3: pop {r1}\n" STORE
                         "mov r4, r12\n mov r5, lr\n stmia r3!, {r4, r5}\n" TAIL);
}

ASSEMBLER static void sum_eight(const uint8_t *values, const uint8_t *end, const uint8_t *weights, int32_t *sums)
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

/* Sums the products of all outputs for a window. Returns the sum of its values. */
static uint32_t sum_dense(const kilonet_operation *operation, const kilonet_window *window, const kilonet_work *work)
{
    const unsigned side = operation->window;
    const uint32_t count = side * window->width, sum = gather(window, side, work->scratch);
    const uint8_t *weights = operation->weights, *const values = work->scratch, *const end = values + count;
    int32_t *sums = work->sums;
    unsigned left = operation->outputs;
    work->scratch[count] = 0;
    do {
        const unsigned block = block_of(left);
        unsigned i;
#ifndef __AVR__
        if (block == 10)
            sum_ten(values, end, weights, sums);
        else if (block == 8)
            sum_eight(values, end, weights, sums);
        else
#endif
            for (i = 0; i < block; i++)
                sums[i] = (int32_t)sum_one(values, end, weights + i, block);
        sums += block;
        weights += block * count;
        left -= block;
    } while (left != 0);
    return sum;
}

#elif KILONET_MVE

static inline uint32_t sum_values(const uint8_t *values, uint32_t count)
{
    uint32_t sum = 0;
    __asm__ volatile("dlstp.8 lr, %[count]\n1: vldrb.8 q0, [%[values]], #16\n vaddva.u8 %[sum], q0\n letp lr, 1b"
                     : [values] "+&r"(values), [sum] "+&Te"(sum)
                     : [count] "r"(count)
                     : "q0", "lr", "memory");
    return sum;
}

/* Outputs up to `sums_end` in blocks of four, the last one perhaps of sums that are there already. The weights of outputs
 * are `step` bytes apart. */
ASSEMBLER static void sum_fours(const uint8_t *values, uint32_t count, const uint8_t *weights, int32_t *sums,
                                const int32_t *sums_end, uint32_t step)
{
    __asm__ volatile("push {r4-r11, lr}\n mov r9, r1\n mov r10, r0\n mov r11, r2\n mov r12, r3\n"
                     "2: ldr r0, [sp, #40]\n mov r1, r10\n mov r3, r11\n add r5, r11, r0\n add r7, r5, r0\n add r8, r7, r0\n"
                     "add r11, r8, r0\n movs r0, #0\n movs r2, #0\n movs r4, #0\n movs r6, #0\n dlstp.8 lr, r9\n"
                     "1: vldrb.8 q0, [r1], #16\n vldrb.8 q1, [r3], #16\n vmladava.u8 r0, q0, q1\n"
                     "vldrb.8 q2, [r5], #16\n vmladava.u8 r2, q0, q2\n vldrb.8 q3, [r7], #16\n vmladava.u8 r4, q0, q3\n"
                     "vldrb.8 q1, [r8], #16\n vmladava.u8 r6, q0, q1\n letp lr, 1b\n"
                     "stmia r12!, {r0, r2, r4, r6}\n ldr r0, [sp, #36]\n subs r0, r0, r12\n beq 3f\n subs r0, #16\n bhs 2b\n"
                     "add r12, r0\n asrs r0, r0, #2\n ldr r1, [sp, #40]\n mla r11, r0, r1, r11\n b 2b\n 3: pop {r4-r11, pc}");
}

/* Sums the products of all outputs for a window. Returns the sum of its values. */
static uint32_t sum_dense(const kilonet_operation *operation, const kilonet_window *window, const kilonet_work *work)
{
    const unsigned side = operation->window, outputs = operation->outputs;
    const uint32_t count = side * window->width;
    const uint8_t *const values = side > 1 ? work->scratch : window->first, *weights = operation->weights;
    const uint32_t sum = side > 1 ? gather(window, side, work->scratch) : sum_values(values, count);
    int32_t *const sums = work->sums;
    unsigned i;
    if (!KILONET_HAS_FEW_OUTPUTS || outputs >= 4) {
        sum_fours(values, count, weights, sums, sums + outputs, count);
        return sum;
    }
    for (i = 0; i < outputs; i++) {
        int32_t same[4];
        sum_fours(values, count, weights + i * count, same, same + 4, 0);
        sums[i] = same[0];
    }
    return sum;
}

#else /* DSP */

/* Widens bytes to 16 bits, of four bytes the first and third before the others. Returns their sum. */
APART static uint32_t widen(uint8_t *to, const uint8_t *from, const uint8_t *end)
{
    uint32_t sum = 0, four, even;
    const uint32_t zero = 0;
    __asm__ volatile("1: ldr %[four], [%[from]], #4\n uxtb16 %[even], %[four]\n usada8 %[sum], %[four], %[zero], %[sum]\n"
                     "uxtb16 %[four], %[four], ror #8\n strd %[even], %[four], [%[to]], #8\n cmp %[to], %[end]\n"
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

/* Blocks of four outputs up to `sums_end`. An odd number of fours of values begins in the middle. */
ASSEMBLER static const uint8_t *sum_fours(const uint8_t *values, const uint8_t *end, const uint8_t *weights, int32_t *sums,
                                          const int32_t *sums_end)
{
    __asm__ volatile("push {r0, r3, r4-r11, lr}\n 4: ldr r0, [sp]\n movs r4, #0\n movs r5, #0\n movs r6, #0\n movs r7, #0\n"
                     "subs r12, r1, r0\n tst r12, #8\n bne 2f\n"
                     "1: " SIXTEEN "2: " SIXTEEN "cmp r0, r1\n bne 1b\n"
                     "ldr r3, [sp, #4]\n stmia r3!, {r4-r7}\n ldr r12, [sp, #44]\n str r3, [sp, #4]\n cmp r3, r12\n bne 4b\n"
                     "movs r0, r2\n add sp, sp, #8\n pop {r4-r11, pc}");
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

/* Sums the products of all outputs for a window. Returns the sum of its values. A window's bytes lie behind the place where
 * they are widened. What comes behind the last of them has weights of 128, so that it does not matter. */
static uint32_t sum_dense(const kilonet_operation *operation, const kilonet_window *window, const kilonet_work *work)
{
    const unsigned side = operation->window;
    const uint32_t step = (side * window->width + 3u) & ~3u;
    uint8_t *const values = work->scratch;
    const uint8_t *weights = operation->weights, *const end = values + 2 * step;
    int32_t *sums = work->sums, *const sums_end = sums + operation->outputs, *const fours = sums_end - operation->outputs % 4u;
    const uint8_t *from = window->first;
    uint32_t sum;
    if (side > 1) {
        (void)gather(window, side, values + step);
        from = values + step;
    }
    sum = widen(values, from, end);
    if (fours != sums)
        weights = sum_fours(values, end, weights, sums, fours);
    /* An odd number of outputs gives one sum more. */
    for (sums = fours; sums < sums_end; sums += 2, weights += 2 * step)
        sum_two(values, end, weights, sums);
    return sum;
}
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

/* ---- Depthwise convolutions. Weights are bytes in two's complement. ---- */

static inline const uint8_t *within(const kilonet_window *window, const uint8_t *place)
{
    return place >= window->end ? place - window->size : place;
}

#if KILONET_MVE

/* As sum_fours. `places` are those of a channel's values behind `first`; the channels of outputs lie `channel` bytes apart. */
ASSEMBLER static void sum_channels(const uint8_t *first, const uint16_t *places, const uint8_t *weights, int32_t *sums,
                                   const int32_t *sums_end, uint32_t taps, uint32_t step, uint32_t channel)
{
    __asm__ volatile("push {r4-r11, lr}\n push {r0-r3}\n"
                     "2: ldr r8, [sp]\n ldr r0, [sp, #64]\n add r9, r8, r0\n add r10, r9, r0\n add r11, r10, r0\n"
                     "add r0, r11, r0\n str r0, [sp]\n ldr r1, [sp, #8]\n ldr r0, [sp, #60]\n add r3, r1, r0\n add r5, r3, r0\n"
                     "add r7, r5, r0\n add r0, r7, r0\n str r0, [sp, #8]\n ldr r12, [sp, #4]\n ldr lr, [sp, #56]\n"
                     "movs r0, #0\n movs r2, #0\n movs r4, #0\n movs r6, #0\n dlstp.16 lr, lr\n"
                     "1: vldrh.u16 q0, [r12], #16\n vldrb.u16 q1, [r8, q0]\n vldrb.s16 q2, [r1], #8\n vmladava.s16 r0, q1, q2\n"
                     "vldrb.u16 q1, [r9, q0]\n vldrb.s16 q3, [r3], #8\n vmladava.s16 r2, q1, q3\n"
                     "vldrb.u16 q1, [r10, q0]\n vldrb.s16 q2, [r5], #8\n vmladava.s16 r4, q1, q2\n"
                     "vldrb.u16 q1, [r11, q0]\n vldrb.s16 q3, [r7], #8\n vmladava.s16 r6, q1, q3\n letp lr, 1b\n"
                     "ldr r12, [sp, #12]\n stmia r12!, {r0, r2, r4, r6}\n str r12, [sp, #12]\n ldr r0, [sp, #52]\n"
                     "subs r0, r0, r12\n beq 3f\n subs r0, #16\n bhs 2b\n add r12, r0\n str r12, [sp, #12]\n asrs r0, r0, #2\n"
                     "ldr r1, [sp]\n add r1, r0\n str r1, [sp]\n ldr r1, [sp, #60]\n ldr r2, [sp, #8]\n mla r2, r0, r1, r2\n"
                     "str r2, [sp, #8]\n b 2b\n 3: add sp, #16\n pop {r4-r11, pc}");
}

/* Writes the places of a channel's values in the ring, from those in a ring that begins with them. */
static inline void find_places(const uint8_t *from, uint16_t *to, const kilonet_window *window, uint32_t taps)
{
    const uint32_t head = window->size - (uint32_t)(window->end - window->first);
    /* The difference wraps around unless the place is beyond the end. */
    __asm__ volatile("dlstp.16 lr, %[taps]\n1: vldrh.u16 q0, [%[from]], #16\n vadd.i16 q0, q0, %[head]\n"
                     "vsub.i16 q1, q0, %[size]\n vmin.u16 q0, q0, q1\n vstrh.16 q0, [%[to]], #16\n letp lr, 1b"
                     : [from] "+&r"(from), [to] "+&r"(to)
                     : [taps] "r"(taps), [head] "r"(head), [size] "r"(window->size)
                     : "q0", "q1", "lr", "memory");
}

/* Straight from the ring. */
static void sum_depthwise(const kilonet_operation *operation, const kilonet_window *window, const kilonet_work *work)
{
    const unsigned side = operation->window, outputs = operation->outputs;
    const uint32_t taps = side * side;
    const uint8_t *const ring = window->end - window->size, *weights = operation->weights + 2 * taps;
    uint16_t *const places = (uint16_t *)(void *)work->scratch;
    int32_t *const sums = work->sums;
    unsigned i;
    find_places(operation->weights, places, window, taps);
    if ((!KILONET_HAS_MULTIPLES || operation->multiple == 1) && (!KILONET_HAS_FEW_OUTPUTS || outputs >= 4)) {
        sum_channels(ring, places, weights, sums, sums + outputs, taps, taps, 1);
        return;
    }
    for (i = 0; i < outputs; i++, weights += taps) {
        int32_t same[4];
        sum_channels(ring + i / operation->multiple, places, weights, same, same + 4, taps, 0, 0);
        sums[i] = same[0];
    }
}

#else

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

#if KILONET_TAPS

/* Values of a row of a window that lie in a piece; no taps end a list. */
typedef struct {
    const uint8_t *values;
    uint32_t taps; /* five at most */
} kilonet_piece;

static void find_pieces(kilonet_piece *to, const kilonet_window *window, unsigned side, uint32_t inputs)
{
    const uint8_t *from = window->first, *const end = window->end;
    unsigned rows = side;
    do {
        unsigned left = side;
        do {
            unsigned taps = left;
            while (taps > 5 || taps * inputs > (uint32_t)(end - from))
                taps--;
            to->values = from;
            to->taps = taps;
            to++;
            left -= taps;
            from += taps * inputs;
            if (from == end)
                from -= window->size;
        } while (left != 0);
        from += window->gap;
        if (from >= end)
            from -= window->size;
    } while (--rows != 0);
    to->taps = 0;
}

#define TAP(place) \
    "ldr r8, [r0" place "]\n ldr r12, [r2" place "]\n uxtb16 r11, r8\n sxtb16 lr, r12\n uxtb16 r8, r8, ror #8\n" \
    "sxtb16 r12, r12, ror #8\n smlabb r4, r11, lr, r4\n smlatt r6, r11, lr, r6\n smlabb r5, r8, r12, r5\n" \
    "smlatt r7, r8, r12, r7\n"

/* Four channels at once, the last ones perhaps of sums that are there already. Writes four sums at least. */
ASSEMBLER static void sum_channels(const kilonet_piece *pieces, const uint8_t *weights, int32_t *sums, uint32_t inputs)
{
    __asm__ volatile("push {r4-r11, lr}\n push {r0-r2}\n mov r9, r3\n add r10, r3, r3, lsl #1\n movs r8, #0\n push {r8}\n"
                     "1: ldr r1, [sp, #4]\n ldr r2, [sp, #8]\n add r2, r8\n movs r4, #0\n movs r5, #0\n movs r6, #0\n movs r7, #0\n"
                     "2: ldmia r1!, {r0, r12}\n ldr r11, [sp]\n mul r3, r12, r9\n add r0, r11\n tbb [pc, r12]\n"
                     "3: .byte (9f - 3b) / 2, (8f - 3b) / 2, (7f - 3b) / 2, (6f - 3b) / 2, (5f - 3b) / 2, (4f - 3b) / 2\n"
                     "4: " TAP(", r9, lsl #2") "5: " TAP(", r10") "6: " TAP(", r9, lsl #1") "7: " TAP(", r9") "8: " TAP("")
                     "add r2, r3\n b 2b\n"
                     "9: ldr r8, [sp]\n ldr r12, [sp, #12]\n add r12, r12, r8, lsl #2\n stmia r12, {r4-r7}\n adds r8, #4\n"
                     "subs r12, r9, r8\n bls 10f\n cmp r12, #4\n it lo\n sublo r8, r9, #4\n str r8, [sp]\n b 1b\n"
                     "10: add sp, #16\n pop {r4-r11, pc}");
}

static inline void sum_all_channels(const kilonet_operation *operation, const kilonet_window *window, const kilonet_work *work)
{
    kilonet_piece *const pieces = (kilonet_piece *)(void *)work->scratch;
    find_pieces(pieces, window, operation->window, operation->inputs);
    sum_channels(pieces, operation->weights, work->sums, operation->inputs);
}

#elif !defined(__AVR__)

/* What sums the products of several channels of a depthwise convolution; assembler knows the order of its fields. */
typedef struct {
    const uint8_t *end; /* of the ring, if it began at the first of the channels */
    uint32_t size; /* bytes of the ring */
    uint32_t gap;
    const uint8_t *weights_end;
    uint32_t inputs;
    uint32_t row; /* bytes of a row of the window */
    int32_t *sums;
} kilonet_channels;

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
        "ldr r1, [r1, #24]\n stmia r1!, {r4-r7}\n mov r4, r8\n mov r5, r9\n stmia r1!, {r4, r5}\n"
        "pop {r3-r7}\n mov r8, r4\n mov r9, r5\n mov r10, r6\n mov r11, r7\n pop {r3-r7, pc}");
}
#else
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

/* How many channels are summed at once, if `left` are left. */
static inline unsigned channels_of(unsigned left)
{
#if MOST_CHANNELS == 4
    return left >= 4 ? 4 : 1;
#else
    return left <= MOST_CHANNELS ? left : left < 2 * MOST_CHANNELS ? (left + 1) / 2 : MOST_CHANNELS;
#endif
}

static inline void sum_all_channels(const kilonet_operation *operation, const kilonet_window *window,
                                    const kilonet_work *work)
{
    const uint32_t inputs = operation->inputs, side = operation->window;
    kilonet_channels call;
    unsigned channel = 0;
    call.size = window->size;
    call.gap = window->gap;
    call.inputs = inputs;
    call.row = side * inputs;
    call.sums = work->sums;
    while (channel < inputs) {
        const unsigned count = channels_of(inputs - channel);
        call.end = window->end + channel;
        call.weights_end = operation->weights + channel + side * side * inputs;
        sum_channels(window->first + channel, count, operation->weights + channel, &call);
        call.sums += count;
        channel += count;
    }
}
#endif

static void sum_depthwise(const kilonet_operation *operation, const kilonet_window *window, const kilonet_work *work)
{
    int32_t *const sums = work->sums;
    const unsigned outputs = operation->outputs, multiple = operation->multiple;
    unsigned output, channel = 0, repeated = 0;
#ifndef __AVR__
    if (multiple == 1 || !KILONET_HAS_MULTIPLES) {
        sum_all_channels(operation, window, work);
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
#endif

/* ---- Depthwise convolutions of 5x5 from planes: a ring of rows for each channel ---- */

#if PLANES

/* Distributes the channels of a pixel over planes of `size` bytes. */
APART static void spread(uint8_t *to, const uint8_t *from, const uint8_t *end, uint32_t size)
{
    if (((uint32_t)(end - from) & 1u) != 0) {
        *to = *from++;
        to += size;
    }
    for (; from != end; to += 2 * size) {
        to[0] = *from++;
        to[size] = *from++;
    }
}

/* What computes four neighbouring pixels from planes; assembler knows the order of its fields, and changes some. */
typedef struct {
    const uint8_t *first; /* of a channel's row, the oldest one that is kept: where the first window begins */
    uint32_t plane; /* bytes */
    const kilonet_requantisation *how;
    uint8_t *pixels; /* of the first output's four values the first; those of a pixel lie side by side; null to get the sums
                        of one channel */
    uint32_t outputs;
    uint32_t before; /* bytes from `first` to the end of the ring, which has as many rows as a window */
    const uint8_t *weights_end;
    const int32_t *offset; /* null without offsets; the following fields are for these or for sums */
    uint32_t relu;
    const int32_t *skip; /* null without a residual sum */
    const uint8_t *centre; /* of a channel's windows, the first one */
    int32_t sums[4];
} kilonet_fours;

/* A row of five taps for four windows: eight values p and the weights w of a channel become pairs. r11 is (p0, p2), r12
 * (p1, p3), lr (p4, p6), r3 (p5, p7), r8 (w0, w2), r9 (w1, w3) and r10 w4; later r11 (p4, p2) and r12 (p5, p3). */
#define ROW_OF_FIVE \
    "ldr r11, [r0]\n ldr lr, [r0, #4]\n ldr r8, [r1], #4\n ldrsb r10, [r1], #1\n uxtb16 r12, r11, ror #8\n" \
    "uxtb16 r11, r11\n uxtb16 r3, lr, ror #8\n uxtb16 lr, lr\n sxtb16 r9, r8, ror #8\n sxtb16 r8, r8\n" \
    "smlad r4, r11, r8, r4\n smlad r4, r12, r9, r4\n smlabb r4, lr, r10, r4\n pkhbt r11, lr, r11\n" \
    "smlad r5, r12, r8, r5\n smladx r5, r11, r9, r5\n smlabb r5, r3, r10, r5\n pkhbt r12, r3, r12\n" \
    "smladx r6, r11, r8, r6\n smladx r6, r12, r9, r6\n smlatb r6, lr, r10, r6\n" \
    "smladx r7, r12, r8, r7\n smlad r7, lr, r9, r7\n smlatb r7, r3, r10, r7\n"
#define OFFSET_VALUE(sum, rotated) \
    "mov r0, r9\n asr lr, r9, #31\n smlal r0, lr, " sum ", r3\n uxtb " sum ", r12" rotated "\n smlal r0, lr, " sum ", r10\n" \
    "lsrs r0, r8\n lsl lr, lr, r2\n orr r0, r0, lr\n usat " sum ", #8, r0\n"

#if KILONET_HAS_WIDE
#define LEAVE_SUMS "ldr r3, [r0, #12]\n cbnz r3, 8f\n adds r0, #44\n stmia r0!, {r4-r7}\n add sp, #8\n pop {r4-r11, pc}\n 8: "
#else
#define LEAVE_SUMS
#endif

/* All channels up to `weights_end`, whose weights have `row` bytes of a plane between their rows. */
ASSEMBLER static void sum_planes(const uint8_t *weights, kilonet_fours *call, uint32_t row)
{
    __asm__ volatile(
        "push {r1, r2, r4-r11, lr}\n mov r1, r0\n"
        "1: ldr r2, [sp]\n ldrd r0, r3, [r2]\n add r3, r0\n str r3, [r2]\n ldr r3, [r2, #8]\n ldr r4, [r3]\n mov r5, r4\n"
        "mov r6, r4\n mov r7, r4\n ldr r2, [r2, #20]\n add r2, r0\n"
        "2: " ROW_OF_FIVE "ldr r3, [sp, #4]\n add r0, r3\n cmp r0, r2\n bne 2b\n"
        /* The rest of the rows is at the beginning of the ring. */
        "ldr r3, [sp]\n ldrd r2, r3, [r3]\n subs r2, r2, r3\n cmp r0, r2\n beq 3f\n subs r0, r0, r3\n cmp r0, r2\n bne 2b\n"
        "3: ldr r0, [sp]\n" LEAVE_SUMS "ldr r3, [r0, #28]\n cbnz r3, 5f\n"
        "ldr r2, [r0, #8]\n ldr r3, [r2, #4]\n smmulr r4, r4, r3\n smmulr r5, r5, r3\n smmulr r6, r6, r3\n smmulr r7, r7, r3\n"
        "usat r4, #8, r4\n usat r5, #8, r5\n usat r6, #8, r6\n usat r7, #8, r7\n"
        "4: ldr r0, [sp]\n ldrd r2, r8, [r0, #8]\n ldr r9, [r0, #16]\n add r10, r8, r9, lsl #1\n strb r5, [r8, r9]\n"
        "strb r6, [r10]\n strb r7, [r10, r9]\n strb r4, [r8], #1\n adds r2, #8\n strd r2, r8, [r0, #8]\n ldr r3, [r0, #24]\n"
        "cmp r1, r3\n bne 1b\n add sp, #8\n pop {r4-r11, pc}\n"
        "5: ldr r9, [r3], #4\n str r3, [r0, #28]\n mov r10, #0\n ldr r3, [r0, #36]\n cbz r3, 6f\n"
        "ldr r10, [r3], #4\n str r3, [r0, #36]\n 6: ldr r2, [r0, #40]\n ldr r12, [r2]\n ldr r3, [r0, #4]\n add r2, r3\n"
        "str r2, [r0, #40]\n ldr r3, [r0, #32]\n cbz r3, 7f\n bic r4, r4, r4, asr #31\n bic r5, r5, r5, asr #31\n"
        "bic r6, r6, r6, asr #31\n bic r7, r7, r7, asr #31\n"
        "7: ldr r3, [r0, #8]\n ldr r8, [r3, #4]\n sxth r3, r8\n lsr r8, r8, #16\n rsb r2, r8, #32\n" OFFSET_VALUE(
            "r4", "") OFFSET_VALUE("r5", ", ror #8") OFFSET_VALUE("r6", ", ror #16") OFFSET_VALUE("r7", ", ror #24") "b 4b");
}
#endif

/* ---- Requantisation ---- */

/* Of a hidden operation of which kilonet export has proved that 32 bits are enough: shifts are from 17 to 31. `more` is added
 * to each sum. requantise_narrow has no offset, so that a half is to be added; results below 0 become 0, as with a ReLU. */
#if KILONET_MVE
/* Four outputs at once. */
static inline void requantise_narrow(const kilonet_operation *operation, const int32_t *sums, uint32_t more, uint8_t *pixel)
{
    uint32x4_t place = vidupq_n_u32((uint32_t)operation->requantisation - 32, 8);
    __asm__ volatile("dlstp.32 lr, %[outputs]\n"
                     "1: vldrw.u32 q0, [%[sums]], #16\n vldrw.u32 q1, [%q[place], #32]!\n vldrw.u32 q2, [%q[place], #4]\n"
                     "vadd.i32 q0, q0, q1\n vadd.i32 q0, q0, %[more]\n vrmulh.s32 q0, q0, q2\n"
                     "vqmovunb.s32 q0, q0\n vqmovnb.u16 q0, q0\n vstrb.32 q0, [%[pixel]], #4\n letp lr, 1b"
                     : [sums] "+&r"(sums), [pixel] "+&l"(pixel), [place] "+&w"(place)
                     : [outputs] "r"(operation->outputs), [more] "r"(more)
                     : "q0", "q1", "q2", "lr", "memory");
}

APART static void requantise_offset(const kilonet_operation *operation, const int32_t *sums, uint32_t more,
                                    const uint8_t *skipped, uint8_t *pixel)
{
    const int32_t *offset = (const int32_t *)operation->offset, *skip = operation->skip ? operation->skip : offset;
    const int32x4_t least = vdupq_n_s32(operation->relu != 0 ? 0 : INT32_MIN);
    uint32x4_t place = vidupq_n_u32((uint32_t)operation->requantisation - 32, 8);
    const uint32_t has_skip = operation->skip != 0;
    if (!has_skip)
        skipped = (const uint8_t *)offset;
    /* Upper parts of the products sum in q1, the lower 16 bits in q0. */
    __asm__ volatile("dlstp.32 lr, %[outputs]\n"
                     "1: vldrw.u32 q0, [%[sums]], #16\n vldrw.u32 q1, [%q[place], #32]!\n vldrw.u32 q2, [%q[place], #4]\n"
                     "vadd.i32 q0, q0, q1\n vadd.i32 q0, q0, %[more]\n vmax.s32 q0, q0, %q[least]\n"
                     "vshl.i32 q3, q2, #16\n vmulh.s32 q1, q0, q3\n vmovlb.s16 q3, q2\n vmul.i32 q0, q0, q3\n"
                     "vmovlb.u16 q0, q0\n vldrw.u32 q3, [%[offset]], #16\n vshr.s32 q4, q3, #16\n vadd.i32 q1, q1, q4\n"
                     "vmovlb.u16 q3, q3\n vadd.i32 q0, q0, q3\n vldrb.u32 q3, [%[skipped]], #4\n"
                     "vmul.i32 q3, q3, %[has_skip]\n vldrw.u32 q4, [%[skip]], #16\n vshr.s32 q5, q4, #16\n"
                     "vmul.i32 q5, q5, q3\n vadd.i32 q1, q1, q5\n vmovlb.u16 q4, q4\n vmul.i32 q4, q4, q3\n"
                     "vadd.i32 q0, q0, q4\n vshr.u32 q0, q0, #16\n vadd.i32 q1, q1, q0\n vshr.u32 q2, q2, #16\n"
                     "vneg.s32 q2, q2\n vadd.i32 q2, q2, %[half]\n vshl.s32 q1, q1, q2\n"
                     "vqmovunb.s32 q1, q1\n vqmovnb.u16 q1, q1\n vstrb.32 q1, [%[pixel]], #4\n letp lr, 1b"
                     : [sums] "+&r"(sums), [pixel] "+&l"(pixel), [offset] "+&r"(offset), [skip] "+&r"(skip),
                       [skipped] "+&l"(skipped), [place] "+&w"(place)
                     : [outputs] "r"(operation->outputs), [more] "r"(more), [has_skip] "r"(has_skip), [half] "r"(16),
                       [least] "w"(least)
                     : "q0", "q1", "q2", "q3", "q4", "q5", "lr", "memory");
}
#else

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

#if KILONET_TAPS
static inline void requantise_narrow(const kilonet_operation *operation, const int32_t *sums, uint32_t more, uint8_t *pixel)
{
    const kilonet_requantisation *how = operation->requantisation;
    int32_t sum, bias;
    uint32_t scale;
    __asm__ volatile("1: ldr %[sum], [%[sums]], #4\n ldrd %[bias], %[scale], [%[how]], #8\n add %[sum], %[sum], %[more]\n"
                     "add %[sum], %[sum], %[bias]\n smmulr %[sum], %[sum], %[scale]\n usat %[sum], #8, %[sum]\n"
                     "cmp %[how], %[end]\n strb %[sum], [%[pixel]], #1\n bne 1b"
                     : [how] "+&r"(how), [sums] "+&r"(sums), [pixel] "+&r"(pixel), [sum] "=&r"(sum), [bias] "=&r"(bias),
                       [scale] "=&r"(scale)
                     : [end] "r"(how + operation->outputs), [more] "r"(more)
                     : "cc", "memory");
}
#else
/* floor(value * multiplier / 2**16) */
static inline int32_t upper_product(int32_t value, int16_t multiplier)
{
    return floor_shift(value, 16) * multiplier + floor_shift((int32_t)((uint32_t)value & 0xFFFFu) * multiplier, 16);
}

#if KILONET_THUMB1
ASSEMBLER static void requantise_up_to(const kilonet_requantisation *how, const int32_t *sums, uint32_t more, uint8_t *pixel,
                                       const kilonet_requantisation *end)
{
    __asm__ volatile(".syntax unified\n push {r4-r7, lr}\n ldr r4, [sp, #20]\n mov r12, r4\n"
                     "1: ldmia r0!, {r6, r7}\n ldmia r1!, {r4}\n adds r6, r6, r2\n adds r6, r6, r4\n sxth r4, r7\n uxth r5, r6\n"
                     "muls r5, r4, r5\n asrs r6, r6, #16\n muls r6, r4, r6\n asrs r5, r5, #16\n adds r6, r6, r5\n"
                     "lsrs r7, r7, #16\n subs r7, #17\n asrs r6, r7\n adds r6, #1\n asrs r6, r6, #1\n"
                     /* Most need not be clamped. */
                     "uxtb r5, r6\n cmp r5, r6\n bne 3f\n 2: strb r5, [r3]\n adds r3, #1\n cmp r0, r12\n bne 1b\n"
                     "pop {r4-r7, pc}\n 3: mvns r5, r6\n asrs r5, r5, #31\n b 2b");
}

static inline void requantise_narrow(const kilonet_operation *operation, const int32_t *sums, uint32_t more, uint8_t *pixel)
{
    const kilonet_requantisation *how = operation->requantisation;
    requantise_up_to(how, sums, more, pixel, how + operation->outputs);
}
#else
APART static void requantise_narrow(const kilonet_operation *operation, const int32_t *sums, uint32_t more, uint8_t *pixel)
{
    const kilonet_requantisation *place = operation->requantisation, *const end = place + operation->outputs;
    do {
        kilonet_requantisation copied;
        const kilonet_requantisation *how =
            (const kilonet_requantisation *)KILONET_IN_RAM(&copied, place, sizeof copied);
        const int32_t upper = upper_product((int32_t)((uint32_t)*sums++ + (uint32_t)how->bias + more), how->multiplier);
        *pixel++ = clamped(floor_shift(floor_shift(upper, how->shift - 17u) + 1, 1));
    } while (++place != end);
}
#endif
#endif

#if OFFSETS && !defined(__AVR__)
APART static void requantise_offset(const kilonet_operation *operation, const int32_t *sums, uint32_t more,
                                    const uint8_t *skipped, uint8_t *pixel)
{
    const kilonet_requantisation *how = operation->requantisation, *const end = how + operation->outputs;
    const int32_t *offset = (const int32_t *)operation->offset, *skip = operation->skip;
    const int32_t least = operation->relu != 0 ? 0 : INT32_MIN;
    const uint8_t zero = 0;
    unsigned step = 1;
    if (!skip)
        skip = offset, skipped = &zero, step = 0;
    do {
        int32_t sum = (int32_t)((uint32_t)*sums++ + (uint32_t)how->bias + more);
        if (sum < least)
            sum = least;
#if KILONET_THUMB1
        {
            /* These processors have no product of 64 bits. */
            const uint32_t value = *skipped, low = (uint32_t)sum * (uint32_t)(int32_t)how->multiplier & 0xFFFFu;
            const uint32_t lower = low + ((uint32_t)*offset & 0xFFFFu) + ((uint32_t)*skip & 0xFFFFu) * value;
            const int32_t upper = upper_product(sum, how->multiplier) + floor_shift(*offset, 16) +
                                  floor_shift(*skip, 16) * (int32_t)value;
            *pixel++ = clamped(floor_shift(upper + (int32_t)(lower >> 16), how->shift - 16u));
        }
#else
        {
            const int64_t value = (int64_t)sum * how->multiplier + *offset + (int64_t)*skip * *skipped;
            *pixel++ =
                clamped((int32_t)((uint32_t)((uint64_t)value >> 32) << (32u - how->shift) | (uint32_t)value >> how->shift));
        }
#endif
        skip++, offset++, skipped += step;
    } while (++how != end);
}
#endif
#endif

#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif

#endif
