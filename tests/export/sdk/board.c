/* The smallest board under qemu, a Cortex-M or a RISC-V: sets up the memory, calls main, prints by semihosting, and ends. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "../../../src/kilonet/export/c/emulated/semihosting.h"
#include "stdio.h"

extern uint32_t bss_begin[], bss_end[], data_begin[], data_end[], data_source[];
int main(void);
void *memcpy(void *to, const void *from, size_t count);
void *memset(void *to, int value, size_t count);

/* Compilers call these for what C writes as an assignment. */
void *memcpy(void *to, const void *from, size_t count)
{
    volatile uint8_t *place = (uint8_t *)to;
    const uint8_t *next = (const uint8_t *)from;
    for (; count != 0; count--)
        *place++ = *next++;
    return to;
}

void *memset(void *to, int value, size_t count)
{
    volatile uint8_t *place = (uint8_t *)to;
    for (; count != 0; count--)
        *place++ = (uint8_t)value;
    return to;
}

int putchar(int character)
{
    const char letter = (char)character;
    (void)semihost(0x03, &letter);
    return character;
}

static void print_number(unsigned number)
{
    if (number >= 10)
        print_number(number / 10);
    putchar((int)('0' + number % 10));
}

/* Knows %s, %u and %%. */
int printf(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    for (; *format != 0; format++) {
        if (*format != '%') {
            putchar(*format);
        } else if (*++format == 'u') {
            print_number(va_arg(arguments, unsigned));
        } else if (*format == 's') {
            const char *text = va_arg(arguments, const char *);
            while (*text != 0)
                putchar(*text++);
        } else {
            putchar(*format);
        }
    }
    va_end(arguments);
    return 0;
}

void reset_handler(void)
{
    volatile uint32_t *word;
    const uint32_t *from = data_source;
    for (word = data_begin; word < data_end; word++)
        *word = *from++;
    for (word = bss_begin; word < bss_end; word++)
        *word = 0;
    (void)main();
    (void)semihost(0x18, (const void *)0x20026);
    for (;;) {
    }
}
