/* A program for an AVR under an emulator. It classifies the images that are linked in, whole or row by row, and writes to
 * the first UART: a line of logits an image; then whether the self-test passes, the label of the last image, the deepest
 * stack in bytes before the self-test, and the clock cycles of an image, in the mean, if images are given row by row. */
#include "model.h"

#include "images.h"

#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>

#define PAINT 0xA5

extern uint8_t __heap_start;

#ifdef WHOLE
static uint8_t pixels[KILONET_PIXELS];
#else
static kilonet_state state;
#endif
static int32_t logits[KILONET_CLASSES];

static void put(char character)
{
    while (!(UCSR0A & _BV(UDRE0))) {
    }
    UDR0 = (uint8_t)character;
}

static void print(int32_t number, char after)
{
    char text[11];
    uint8_t place = 0;
    uint32_t rest = number < 0 ? 0u - (uint32_t)number : (uint32_t)number;
    if (number < 0)
        put('-');
    do {
        text[place++] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    while (place)
        put(text[--place]);
    put(after);
}

static void print_logits(void)
{
    uint16_t i;
    for (i = 0; i < KILONET_CLASSES; i++)
        print(logits[i], i == KILONET_CLASSES - 1 ? '\n' : ' ');
}

#ifndef WHOLE
/* The timer counts 16 bits of 1,024 cycles: enough for a row, not for an image. */
static uint32_t classify_rows(const uint8_t *image)
{
    uint8_t row[KILONET_ROW_BYTES];
    uint32_t ticks = 0;
    uint16_t y, x;
    uint8_t channel;
    kilonet_begin(&state);
    for (y = 0; y < KILONET_ROWS; y++) {
        uint16_t start;
        for (x = 0; x < KILONET_COLUMNS; x++)
            for (channel = 0; channel < KILONET_CHANNELS; channel++)
                row[x * KILONET_CHANNELS + channel] =
                    pgm_read_byte(image + ((uint16_t)channel * KILONET_ROWS + y) * KILONET_COLUMNS + x);
        start = TCNT1;
        (void)kilonet_row(&state, row, logits);
        ticks += (uint16_t)(TCNT1 - start);
    }
    return ticks;
}
#endif

static int32_t deepest_stack(void)
{
    const uint8_t *place = &__heap_start;
    while (*place == PAINT)
        place++;
    return (int32_t)((const uint8_t *)RAMEND - place + 1);
}

int main(void)
{
    uint16_t image;
    int32_t ticks = 0;
    uint8_t *place;
    for (place = &__heap_start; place < (uint8_t *)SP - 16; place++)
        *place = PAINT;
    UCSR0B = _BV(TXEN0);
    TCCR1B = _BV(CS12) | _BV(CS10);
    for (image = 0; image < IMAGES; image++) {
#ifdef WHOLE
        memcpy_P(pixels, images[image], sizeof pixels);
        kilonet_classify(pixels, logits);
#else
        ticks += (int32_t)classify_rows(images[image]);
#endif
        print_logits();
    }
#ifdef WHOLE
    (void)ticks;
    print(deepest_stack(), '\n');
#else
    {
        const int32_t stack = deepest_stack();
        const kilonet_answer answer = kilonet_top(logits);
        print(kilonet_selftest(&state, 0), ' ');
        print((int32_t)answer.label, ' ');
        print(stack, ' ');
        print(1024 * (ticks / IMAGES), '\n');
    }
#endif
    /* Asleep without interrupts, the emulator ends. */
    cli();
    sleep_enable();
    sleep_cpu();
    return 0;
}
