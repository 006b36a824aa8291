/* The part of Arduino's core that sketches of packages use, on the board of board.c. */
#ifndef SDK_ARDUINO_H
#define SDK_ARDUINO_H

#include <stddef.h>
#include <stdint.h>

#define HIGH 1
#define LOW 0
#define OUTPUT 1
#define LED_BUILTIN 13

class Port {
  public:
    void begin(unsigned long baud);
    explicit operator bool() const;
    size_t write(uint8_t byte);
    size_t print(const char *text);
    size_t print(char letter);
    size_t print(int number);
    size_t print(unsigned number);
    size_t println(const char *text);
};
extern Port Serial;

unsigned long millis();
void delay(unsigned long milliseconds);
void pinMode(uint8_t pin, uint8_t mode);
void digitalWrite(uint8_t pin, uint8_t level);
void setup();
void loop();

#endif
