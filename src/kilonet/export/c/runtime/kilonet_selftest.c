/* Tests the network where it runs: that its tables are as written, and that two images give the logits that they have to
 * give. The images are noise that is drawn here, so that only their logits take flash. */
#include "model.h"

/* Adds bytes of a number, the lowest first, to a CRC-32. */
static uint32_t add_number(uint32_t crc, uint64_t number, uint8_t bytes)
{
    uint8_t bit;
    for (; bytes != 0u; bytes--, number >>= 8) {
        crc ^= (uint32_t)(number & 255u);
        for (bit = 0; bit < 8u; bit++) {
            crc = (crc & 1u) != 0u ? (crc >> 1) ^ 0xEDB88320u : crc >> 1;
        }
    }
    return crc;
}

/* The number of an operation's weights, those included that fill blocks. */
static uint32_t weights_of(const kilonet_operation *operation)
{
    const uint32_t window = operation->window, inputs = operation->inputs, outputs = operation->outputs;
#if KILONET_BLOCK > 1
    const uint32_t blocks = (outputs + KILONET_BLOCK - 1) / KILONET_BLOCK;
    return blocks * KILONET_BLOCK * window * ((window * inputs + 3) / 4 * 4);
#else
    const uint32_t is_dense = operation->multiple == 0, taps = window * window * (is_dense ? inputs : 1);
    if (KILONET_MVE)
        return outputs * taps + (is_dense ? 0 : 2 * taps);
    if (KILONET_TAPS && is_dense)
        return (outputs + outputs % 2) * ((taps + 3) / 4 * 4);
    return outputs * taps;
#endif
}

static uint32_t add_tables(uint32_t crc, const kilonet_operation *place)
{
    kilonet_operation copied;
    const kilonet_operation *operation = (const kilonet_operation *)KILONET_IN_RAM(&copied, place, sizeof copied);
    const uint16_t inputs = operation->inputs, outputs = operation->outputs;
    const uint32_t weights = operation->weights ? weights_of(operation) : 0u;
    uint32_t i;
    for (i = 0; i < weights; i++) {
        crc = add_number(crc, KILONET_READ(uint8_t, &operation->weights[i]), 1);
    }
    for (i = 0; operation->requantisation && i < outputs; i++) {
        kilonet_requantisation numbers;
        const kilonet_requantisation *how =
            (const kilonet_requantisation *)KILONET_IN_RAM(&numbers, operation->requantisation + i, sizeof numbers);
        crc = add_number(crc, (uint32_t)how->bias, 4);
        crc = add_number(crc, (uint16_t)how->multiplier, 2);
        crc = add_number(crc, how->shift, 2);
    }
    for (i = 0; operation->offset && i < outputs; i++)
        if (operation->narrow != 0)
            crc = add_number(crc, (uint32_t)KILONET_READ(int32_t, (const int32_t *)operation->offset + i), 4);
        else
            crc = add_number(crc, (uint64_t)KILONET_READ(int64_t, (const int64_t *)operation->offset + i), 8);
    for (i = 0; operation->skip && i < outputs; i++)
        crc = add_number(crc, (uint32_t)KILONET_READ(int32_t, &operation->skip[i]), 4);
    for (i = 0; operation->pad && i < inputs; i++) {
        crc = add_number(crc, KILONET_READ(uint8_t, &operation->pad[i]), 1);
    }
    return crc;
}

int kilonet_selftest(kilonet_state *state, void (*after_row)(void))
{
    static const int32_t expected[2][KILONET_CLASSES] KILONET_FLASH = KILONET_SELFTEST_LOGITS;
    uint32_t crc = 0xFFFFFFFFu, random = 0;
    uint8_t image;
    uint16_t i;
#ifdef __AVR__
    /* Beyond the reach of pointers, where a linker puts them without a word, there is no list whose tables end. */
    if (pgm_get_far_address(kilonet_operations) >> 16 != 0) {
        return 0;
    }
#endif
    for (i = 0; i < KILONET_OPERATIONS; i++) {
        crc = add_tables(crc, &kilonet_operations[i]);
    }
    if ((crc ^ 0xFFFFFFFFu) != KILONET_SELFTEST_CRC) {
        return 0;
    }
    for (image = 0; image < 2u; image++) {
        int32_t logits[KILONET_CLASSES];
        uint32_t row, place;
        kilonet_begin(state);
        for (row = 0; row < KILONET_ROWS; row++) {
            uint8_t levels[KILONET_ROW_BYTES];
            for (place = 0; place < KILONET_ROW_BYTES; place++) {
                random = random * 1664525u + 1013904223u;
                /* The second image is darker. */
                levels[place] = (uint8_t)(random >> (image == 0u ? 24u : 26u));
            }
            (void)kilonet_row(state, levels, logits);
            if (after_row) {
                after_row();
            }
        }
        for (i = 0; i < KILONET_CLASSES; i++) {
            if (logits[i] != KILONET_READ(int32_t, &expected[image][i])) {
                return 0;
            }
        }
    }
    return 1;
}
