/* The smallest start of a Cortex-M or a RISC-V under qemu. Clears variables, copies initial values, paints the stack,
 * classifies the images that are linked in, and writes by semihosting: a line of logits an image; the depth of the stack
 * in bytes; and the ticks of all images, in units of 2**30 and the rest, and of a loop of a million instructions. The
 * emulator's clock counts instructions. */
#include "model.h"

#include "images.h"
#include "semihosting.h"

extern uint32_t bss_begin[], bss_end[], data_begin[], data_end[], data_source[];
#define PAINT 0xA5A5A5A5u
#define LOOPS 500000u

#ifdef __riscv
static void start_clock(void)
{
}

static uint32_t clock_ticks(void)
{
    uint32_t ticks;
    __asm__ volatile(".option push\n.option arch, +zicsr\ncsrr %0, minstret\n.option pop" : "=r"(ticks));
    return ticks;
}

static uint32_t ticks_since(uint32_t start)
{
    return clock_ticks() - start;
}
#else
/* The system timer counts down 24 bits of a clock that stands in a fixed ratio to instructions. */
#define TIMER ((volatile uint32_t *)0xE000E010u)

static void start_clock(void)
{
    TIMER[1] = 0xFFFFFFu;
    TIMER[2] = 0;
    TIMER[0] = 5;
}

static uint32_t clock_ticks(void)
{
    return TIMER[2];
}

static uint32_t ticks_since(uint32_t start)
{
    return (start - clock_ticks()) & 0xFFFFFFu;
}
#endif

static void print(int32_t number, char after)
{
    char text[13];
    char *place = text + sizeof text - 1;
    uint32_t rest = number < 0 ? 0u - (uint32_t)number : (uint32_t)number;
    *place = 0;
    *--place = after;
    do {
        /* Some processors have no division. */
        uint32_t tenth = 0, left = rest, bit;
        for (bit = 1u << 28; bit != 0; bit >>= 1)
            if (left >= 10u * (uint64_t)bit) {
                left -= 10u * bit;
                tenth += bit;
            }
        *--place = (char)('0' + left);
        rest = tenth;
    } while (rest != 0);
    if (number < 0)
        *--place = '-';
    (void)semihost(0x04, place);
}

/* Returns the ticks of all images. */
__attribute__((noinline)) static uint64_t classify_all(void)
{
    int32_t logits[KILONET_CLASSES];
    uint64_t ticks = 0;
    int image, i;
    for (image = 0; image < IMAGES; image++) {
        const uint32_t start = clock_ticks();
        kilonet_classify(images[image], logits);
        ticks += ticks_since(start);
        for (i = 0; i < KILONET_CLASSES; i++)
            print(logits[i], i == KILONET_CLASSES - 1 ? '\n' : ' ');
    }
    return ticks;
}

/* Returns the ticks of a million instructions. */
__attribute__((noinline)) static uint32_t loop_ticks(void)
{
    uint32_t loops = LOOPS;
    const uint32_t start = clock_ticks();
#ifdef __riscv
    __asm__ volatile("1: addi %0, %0, -1\n bnez %0, 1b" : "+r"(loops));
#else
    __asm__ volatile(".syntax unified\n1: subs %0, #1\n bne 1b" : "+l"(loops) : : "cc");
#endif
    return ticks_since(start);
}

void reset_handler(void)
{
    volatile uint32_t *word;
    const uint32_t *from = data_source;
    uint64_t ticks;
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20;
    __asm__ volatile("dsb\nisb");
#endif
    for (word = data_begin; word < data_end; word++)
        *word = *from++;
    for (word = bss_begin; word < bss_end; word++)
        *word = 0;
    for (word = bss_end; word < stack_top - 64; word++)
        *word = PAINT;
    start_clock();
    ticks = classify_all();
    for (word = bss_end; *word == PAINT; word++) {
    }
    print((int32_t)((uint8_t *)stack_top - (uint8_t *)word), '\n');
    print((int32_t)(ticks >> 30), ' ');
    print((int32_t)(ticks & 0x3FFFFFFFu), ' ');
    print((int32_t)loop_ticks(), '\n');
    (void)semihost(0x18, (const void *)0x20026);
    for (;;) {
    }
}
