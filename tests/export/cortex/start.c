/* The smallest start of a Cortex-M under an emulator: clears variables, paints the stack, classifies the images that are
 * linked in, and writes to the host by semihosting: a line of logits an image, the depth of the stack in bytes, and how
 * many instructions an image took, which is meaningful where the emulator's clock counts instructions. */
#include "model.h"

#include "images.h"

extern uint32_t bss_begin[], bss_end[], stack_top[];
void reset_handler(void);
int main(void);

__attribute__((section(".vectors"), used)) static const void *const vectors[2] = {stack_top, reset_handler};

static const uint32_t PAINT = 0xA5A5A5A5u;

static void semihost(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

static void print(int32_t number, char after)
{
    char text[13];
    char *place = text + sizeof text - 1;
    uint32_t rest = number < 0 ? 0u - (uint32_t)number : (uint32_t)number;
    *place = 0;
    *--place = after;
    do {
        uint32_t tenth = 0;
        while (rest - 10 * tenth >= 10)
            tenth += (rest - 10 * tenth) / 10;
        *--place = (char)('0' + (rest - 10 * tenth));
        rest = tenth;
    } while (rest);
    if (number < 0)
        *--place = '-';
    semihost(0x04, place);
}

__attribute__((noinline)) static void classify_all(void)
{
    int32_t logits[KILONET_CLASSES];
    int image, i;
    for (image = 0; image < IMAGES; image++) {
        kilonet_classify(images[image], logits);
        for (i = 0; i < KILONET_CLASSES; i++)
            print(logits[i], i == KILONET_CLASSES - 1 ? '\n' : ' ');
    }
}

static void print_stack(uint32_t *lowest)
{
    while (*lowest == PAINT)
        lowest++;
    print((int32_t)((uint8_t *)stack_top - (uint8_t *)lowest), '\n');
}

/* The system timer counts down 24 bits of a clock that stands in a fixed ratio to instructions. */
#define TIMER ((volatile uint32_t *)0xE000E010u)
#define LOOPS 500000u

static uint32_t ticks_since(uint32_t start)
{
    return (start - TIMER[2]) & 0xFFFFFFu;
}

static void print_instructions(void)
{
    int32_t logits[KILONET_CLASSES];
    uint32_t start, loop_ticks, image_ticks, loops = LOOPS;
    TIMER[1] = 0xFFFFFFu;
    TIMER[2] = 0;
    TIMER[0] = 5;
    start = TIMER[2];
    __asm__ volatile(".syntax unified\n1: subs %0, #1\n bne 1b" : "+l"(loops) : : "cc");
    loop_ticks = ticks_since(start);
    start = TIMER[2];
    kilonet_classify(images[0], logits);
    image_ticks = ticks_since(start);
    /* Two instructions a loop. */
    print((int32_t)((uint64_t)image_ticks * (2 * LOOPS) / (loop_ticks ? loop_ticks : 1)), '\n');
}

void reset_handler(void)
{
    uint32_t *word;
    static const uint32_t finished[2] = {0x20026, 0};
    for (word = bss_begin; word < bss_end; word++)
        *(volatile uint32_t *)word = 0;
    for (word = bss_end; word < stack_top - 64; word++)
        *(volatile uint32_t *)word = PAINT;
    classify_all();
    print_stack(bss_end);
    print_instructions();
    semihost(0x18, (const void *)finished[0]);
    for (;;) {
    }
}
