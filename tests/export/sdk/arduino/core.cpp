/* Runs setup and loop once. The LED is shown as text, a # each time that it is switched on. */
#include "Arduino.h"

extern "C" int putchar(int character);
extern "C" int printf(const char *format, ...);
extern "C" int main();

Port Serial;

void Port::begin(unsigned long baud)
{
    (void)baud;
}

Port::operator bool() const
{
    return true;
}

size_t Port::write(uint8_t byte)
{
    putchar(byte);
    return 1;
}

size_t Port::print(const char *text)
{
    printf("%s", text);
    return 0;
}

size_t Port::print(char letter)
{
    return write((uint8_t)letter);
}

size_t Port::print(int number)
{
    return print((unsigned)number);
}

size_t Port::print(unsigned number)
{
    printf("%u", number);
    return 0;
}

size_t Port::println(const char *text)
{
    printf("%s\n", text);
    return 0;
}

unsigned long millis()
{
    return 0;
}

void delay(unsigned long milliseconds)
{
    (void)milliseconds;
}

void pinMode(uint8_t pin, uint8_t mode)
{
    (void)pin;
    (void)mode;
}

void digitalWrite(uint8_t pin, uint8_t level)
{
    if (pin == LED_BUILTIN && level == HIGH)
        putchar('#');
}

int main()
{
    setup();
    loop();
    putchar('\n');
    return 0;
}
