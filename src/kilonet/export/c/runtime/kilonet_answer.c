/* Turns logits into the answer of kilonet_top: the calibration of model.h in integers. */
#include "model.h"

/* 1 as a sum of powers: they have 24 fraction bits. */
#define ONE 0x1000000u

static uint32_t high_product(uint32_t one, uint32_t other)
{
    return (uint32_t)(((uint64_t)one * other) >> 32);
}

/* 2 to the power of minus exponent, which has 24 fraction bits, too. The fraction's power is a polynomial of the fifth
 * degree, the coefficients in 2^31sts, fitted for the least error: 2^-23.9 at most. */
static uint32_t power(uint64_t exponent)
{
    static const uint32_t coefficients[5] KILONET_FLASH = {2048772, 19817793, 118791696, 515797037, 1488516314};
    const uint32_t whole = (uint32_t)(exponent >> 24);
    const uint32_t fraction = (uint32_t)((exponent << 8) & 0xFFFFFFFFu);
    uint32_t value = KILONET_READ(uint32_t, &coefficients[0]);
    uint8_t i;
    if (exponent >= ((uint64_t)25 << 24)) {
        return 0;
    }
    for (i = 1; i < 5u; i++) {
        value = KILONET_READ(uint32_t, &coefficients[i]) - high_product(fraction, value);
    }
    value = 0x80000000u - high_product(fraction, value);
    return (value + ((uint32_t)64 << whole)) >> (7u + whole);
}

/* The sum of exp((logit - from) / temperature) for logits that are not above `from`. A factor and a shift turn a
 * difference of logits into a power of two. */
static uint64_t sum_of_powers(const int32_t *logits, int32_t from, uint32_t factor, uint8_t shift)
{
    uint64_t sum = 0;
    uint16_t i;
    for (i = 0; i < KILONET_CLASSES; i++) {
        const uint32_t lower = (uint32_t)from - (uint32_t)logits[i];
        sum += power(((uint64_t)lower * factor) >> shift);
    }
    return sum;
}

kilonet_answer kilonet_top(const int32_t logits[KILONET_CLASSES])
{
    kilonet_answer answer = {0, 0, 0, 0};
    uint64_t sum, rest = ONE;
    uint8_t bit, strange = 0;
    uint16_t i;
    for (i = 1; i < KILONET_CLASSES; i++) {
        if (logits[i] > logits[answer.label]) {
            answer.label = i;
        }
    }
    sum = sum_of_powers(logits, logits[answer.label], KILONET_CONFIDENCE_FACTOR, KILONET_CONFIDENCE_SHIFT);
    /* One by the sum, bit by bit: a division of 64 bits would take more flash than all of this. */
    for (bit = 0; bit < 16u; bit++) {
        rest <<= 1;
        answer.confidence = (uint16_t)(answer.confidence << 1);
        if (rest >= sum) {
            rest -= sum;
            answer.confidence |= 1u;
        }
    }
#ifdef KILONET_LEAST_ENERGY
    if (logits[answer.label] < KILONET_LEAST_ENERGY &&
        sum_of_powers(logits, KILONET_LEAST_ENERGY, KILONET_ENERGY_FACTOR, KILONET_ENERGY_SHIFT) < ONE) {
        strange = 1;
    }
#endif
    answer.uncertain = strange || answer.confidence < KILONET_SURE_CONFIDENCE;
    answer.none = KILONET_REJECTS ? answer.uncertain : strange && KILONET_READS_DIGITS;
    return answer;
}
