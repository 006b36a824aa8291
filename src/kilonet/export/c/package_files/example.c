/* Tests the network on this processor, then classifies the image in image.h row by row, as rows come from a camera. */
#include "model.h"

#include "image.h"

#include <stdio.h>

static const char *const names[KILONET_CLASSES] = KILONET_CLASS_NAMES;
static kilonet_state state;

/* Control characters become question marks, so that no name moves a terminal's cursor or breaks the line. */
static void print_class(unsigned label)
{
    const unsigned char *name = (const unsigned char *)names[label];
    unsigned before = 0;
    for (; *name != 0; before = *name++)
        putchar(*name < 0x20 || *name == 0x7f || (before == 0xc2 && *name < 0xa0) ? '?' : *name);
}

static int classify(void)
{
    int32_t logits[KILONET_CLASSES] = {0};
    const int passed = kilonet_selftest(&state, 0);
    kilonet_answer answer;
    unsigned y, tenths;
    printf("self-test: %s\n", passed ? "passed" : "FAILED");
    kilonet_begin(&state);
    for (y = 0; y < KILONET_ROWS; y++)
        (void)kilonet_row(&state, image[y], logits);
    answer = kilonet_top(logits);
    tenths = (unsigned)((1000uL * answer.confidence + 32768uL) >> 16);
    printf("class: ");
    print_class(answer.label);
    printf(", confidence: %u.%u %%%s\n", tenths / 10, tenths % 10,
           answer.none ? ", none of the classes" : answer.uncertain ? ", not sure" : "");
    return passed ? 0 : 1;
}

#ifdef ESP_PLATFORM
void app_main(void);
void app_main(void)
{
    (void)classify();
}
#else
int main(void)
{
    return classify();
}
#endif
