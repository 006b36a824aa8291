/* Tests the network on this board, then classifies the image in image.h row by row, as rows come from a camera, and blinks
 * its class: once for the first. Quick blinks without an end: the self-test has failed. Prints at 115200 baud. */
#include <Arduino.h>
#include <model.h>

#include "image.h"

static const char names[KILONET_CLASSES][KILONET_NAME_BYTES] KILONET_FLASH = KILONET_CLASS_NAMES;
static kilonet_state state;
static kilonet_answer answer;
static bool passed;

/* Control characters become question marks, so that no name moves a terminal's cursor or breaks the line. */
static void print_class(uint16_t label)
{
    uint8_t before = 0;
    for (uint16_t i = 0; i < KILONET_NAME_BYTES; i++) {
        const uint8_t letter = (uint8_t)KILONET_READ(char, &names[label][i]);
        if (letter == 0)
            break;
        Serial.write(letter < 0x20 || letter == 0x7f || (before == 0xc2 && letter < 0xa0) ? (uint8_t)'?' : letter);
        before = letter;
    }
}

void setup()
{
    static uint8_t row[KILONET_ROW_BYTES];
    int32_t logits[KILONET_CLASSES] = {0};
    Serial.begin(115200);
    /* Where the port is on the chip itself, somebody may open it yet. */
    while (!Serial && millis() < 3000) {
    }
    passed = kilonet_selftest(&state, nullptr) != 0;
    Serial.print("self-test: ");
    Serial.println(passed ? "passed" : "FAILED");
    kilonet_begin(&state);
    for (uint16_t y = 0; y < KILONET_ROWS; y++) {
        for (uint16_t i = 0; i < KILONET_ROW_BYTES; i++)
            row[i] = KILONET_READ(uint8_t, &image[y][i]);
        (void)kilonet_row(&state, row, logits);
    }
    answer = kilonet_top(logits);
    const uint16_t tenths = (uint16_t)((1000uL * answer.confidence + 32768uL) >> 16);
    Serial.print("class: ");
    print_class(answer.label);
    Serial.print(", confidence: ");
    Serial.print(tenths / 10);
    Serial.print('.');
    Serial.print(tenths % 10);
    Serial.print(" %");
    Serial.println(answer.none ? ", none of the classes" : answer.uncertain ? ", not sure" : "");
#ifdef LED_BUILTIN
    pinMode(LED_BUILTIN, OUTPUT);
#endif
}

#ifdef LED_BUILTIN
static void blink(unsigned milliseconds)
{
    digitalWrite(LED_BUILTIN, HIGH);
    delay(milliseconds);
    digitalWrite(LED_BUILTIN, LOW);
    delay(milliseconds);
}
#endif

void loop()
{
#ifdef LED_BUILTIN
    if (!passed) {
        blink(50);
        return;
    }
    for (uint16_t i = 0; i <= answer.label; i++)
        blink(200);
    delay(1500);
#endif
}
