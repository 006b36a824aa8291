/* See kilonet_resize.h. Rows and columns are scaled alike: of n pixels that show m of a frame, pixel i gets place j with
 * the weight max(0, 2 * max(m, n) - |(2 * j + 1) * n - (2 * i + 1) * m|), and is divided by the sum of its weights. */
#include "model.h"

/* A network that takes no pictures has nothing here. */
#ifdef KILONET_RESIZE

#include "kilonet_resize.h"

static uint32_t larger(uint32_t one, uint32_t other)
{
    return one > other ? one : other;
}

static uint32_t smaller(uint32_t one, uint32_t other)
{
    return one < other ? one : other;
}

/* How many of `most` pixels have to length as count has to of, rounded, and at least one. */
static uint32_t part(uint32_t most, uint32_t length, uint32_t count, uint32_t of)
{
    return smaller(most, larger(1u, (2u * length * count + of) / (2u * of)));
}

static uint32_t weight(uint32_t output, uint32_t place, uint32_t count, uint32_t shown)
{
    uint32_t reach = 2u * larger(count, shown);
    uint32_t here = (2u * place + 1u) * count, centre = (2u * output + 1u) * shown;
    uint32_t distance = here > centre ? here - centre : centre - here;
    return distance < reach ? reach - distance : 0u;
}

/* Reads the levels of a pixel: one of grey, or three. */
static void read_levels(const uint8_t *row, uint32_t place, int format, uint32_t levels[3])
{
    if (format == KILONET_GREY8) {
        levels[0] = row[place];
    } else if (format == KILONET_RGB888) {
        levels[0] = row[3u * place];
        levels[1] = row[3u * place + 1u];
        levels[2] = row[3u * place + 2u];
    } else {
        const uint32_t low = row[2u * place + (uint32_t)(format == KILONET_RGB565_BIG)];
        const uint32_t bits = low | ((uint32_t)row[2u * place + (uint32_t)(format == KILONET_RGB565_LITTLE)] << 8);
        const uint32_t red = bits >> 11, green = (bits >> 5) & 63u, blue = bits & 31u;
        levels[0] = (red << 3) | (red >> 2);
        levels[1] = (green << 2) | (green >> 4);
        levels[2] = (blue << 3) | (blue >> 2);
    }
}

/* Scales a row of the frame and adds it, times each of two weights, to the two rows of sums. */
static void add_row(kilonet_resizer *resizer, const uint8_t *row, const uint32_t weights[2])
{
    uint32_t colours = resizer->format == KILONET_GREY8 ? 1u : 3u;
    uint32_t reach = 2u * larger(resizer->columns, resizer->wide), step = 2u * resizer->columns;
    uint32_t first = 0, begin = resizer->columns, centre = resizer->wide, column, colour;
    for (column = 0; column < resizer->columns; column++, centre += 2u * resizer->wide) {
        uint32_t levels[3] = {0, 0, 0}, sums[3] = {0, 0, 0}, total = 0, place, here;
        for (; begin + reach <= centre; begin += step) {
            first++;
        }
        /* The weights as in weight(), without its products. */
        for (place = first, here = begin; place < resizer->wide && here < centre + reach; place++, here += step) {
            uint32_t share = reach - (here > centre ? here - centre : centre - here);
            read_levels(row, resizer->left + place, resizer->format, levels);
            for (colour = 0; colour < colours; colour++) {
                sums[colour] += share * levels[colour];
            }
            total += share;
        }
        for (colour = 0; colour < colours; colour++) {
            uint32_t level = (sums[colour] + total / 2u) / total;
            resizer->sums[0][colours * column + colour] += weights[0] * level;
            resizer->sums[1][colours * column + colour] += weights[1] * level;
        }
    }
}

/* Writes the next row of the pixels: the two rows of sums, each times its weight, by the total. */
static void write_row(kilonet_resizer *resizer, const uint32_t weights[2], uint32_t total)
{
    uint32_t colours = resizer->format == KILONET_GREY8 ? 1u : 3u;
    uint32_t line = (resizer->first_row + resizer->done) * KILONET_COLUMNS + resizer->first_column;
    uint32_t column, colour;
    for (column = 0; column < resizer->columns; column++) {
        uint8_t *pixel = resizer->pixels + line + column;
        uint32_t levels[3] = {0, 0, 0};
        for (colour = 0; colour < colours; colour++) {
            uint32_t place = colours * column + colour;
            uint32_t sum = weights[0] * resizer->sums[0][place] + weights[1] * resizer->sums[1][place];
            levels[colour] = (sum + total / 2u) / total;
        }
        if (colours == 1u) {
            levels[1] = levels[0];
            levels[2] = levels[0];
        }
#if KILONET_CHANNELS == 1
        /* 19595 + 38470 + 7471 are 65536. */
        pixel[0] = (uint8_t)((levels[0] * 19595u + levels[1] * 38470u + levels[2] * 7471u + 32768u) >> 16);
#else
        for (colour = 0; colour < 3u; colour++) {
            pixel[colour * KILONET_ROWS * KILONET_COLUMNS] = (uint8_t)levels[colour];
        }
#endif
    }
    resizer->done++;
}

static void clear(kilonet_resizer *resizer, uint32_t which)
{
    uint32_t place;
    for (place = 0; place < 3u * KILONET_COLUMNS; place++) {
        resizer->sums[which][place] = 0;
    }
    resizer->totals[which] = 0;
}

/* Of a frame that has more rows than are shown: a row counts in at most two rows of the pixels. */
static void shrink(kilonet_resizer *resizer, const uint8_t *row, uint32_t place)
{
    uint32_t weights[2], which, output = resizer->done;
    for (which = 0; which < 2u; which++, output++) {
        uint32_t share = output < resizer->rows ? weight(output, place, resizer->rows, resizer->high) : 0u;
        weights[output & 1u] = share;
        resizer->totals[output & 1u] += share;
    }
    add_row(resizer, row, weights);
    while (resizer->done < resizer->rows &&
           (place + 1u == resizer->high || weight(resizer->done, place + 1u, resizer->rows, resizer->high) == 0u)) {
        uint32_t ended = resizer->done & 1u;
        weights[ended] = 1;
        weights[1u - ended] = 0;
        write_row(resizer, weights, resizer->totals[ended]);
        clear(resizer, ended);
    }
}

/* Of a frame that has fewer: a row of the pixels is made of at most two rows of the frame, which are kept. */
static void enlarge(kilonet_resizer *resizer, const uint8_t *row, uint32_t place)
{
    uint32_t weights[2], here = place & 1u;
    clear(resizer, here);
    weights[here] = 1;
    weights[1u - here] = 0;
    add_row(resizer, row, weights);
    while (resizer->done < resizer->rows &&
           (place + 1u == resizer->high || weight(resizer->done, place + 1u, resizer->rows, resizer->high) == 0u)) {
        weights[here] = weight(resizer->done, place, resizer->rows, resizer->high);
        weights[1u - here] = place == 0u ? 0u : weight(resizer->done, place - 1u, resizer->rows, resizer->high);
        write_row(resizer, weights, weights[0] + weights[1]);
    }
}

int kilonet_resize_begin(kilonet_resizer *resizer, uint32_t width, uint32_t height, int format, uint8_t *pixels)
{
    static const uint8_t padding[KILONET_CHANNELS] KILONET_FLASH = KILONET_PADDING;
    uint32_t place;
    if (width == 0u || height == 0u || width > KILONET_RESIZE_SIDE || height > KILONET_RESIZE_SIDE) {
        return 0;
    }
    if (format < KILONET_GREY8 || format > KILONET_RGB565_BIG) {
        return 0;
    }
    resizer->format = format;
    resizer->pixels = pixels;
    resizer->wide = width;
    resizer->high = height;
    resizer->rows = KILONET_ROWS;
    resizer->columns = KILONET_COLUMNS;
    if (KILONET_RESIZE == KILONET_CROP) {
        resizer->wide = part(width, height, KILONET_COLUMNS, KILONET_ROWS);
        resizer->high = part(height, width, KILONET_ROWS, KILONET_COLUMNS);
    } else if (KILONET_RESIZE == KILONET_PAD) {
        resizer->columns = part(KILONET_COLUMNS, KILONET_ROWS, width, height);
        resizer->rows = part(KILONET_ROWS, KILONET_COLUMNS, height, width);
    }
    resizer->left = (width - resizer->wide) / 2u;
    resizer->top = (height - resizer->high) / 2u;
    resizer->first_column = (KILONET_COLUMNS - resizer->columns) / 2u;
    resizer->first_row = (KILONET_ROWS - resizer->rows) / 2u;
    resizer->next = 0;
    resizer->done = 0;
    clear(resizer, 0);
    clear(resizer, 1);
    for (place = 0; place < KILONET_PIXELS; place++) {
        pixels[place] = KILONET_READ(uint8_t, &padding[place / (KILONET_PIXELS / KILONET_CHANNELS)]);
    }
    return 1;
}

void kilonet_resize_row(kilonet_resizer *resizer, const uint8_t *row)
{
    const uint32_t place = resizer->next;
    resizer->next++;
    if (place < resizer->top || place - resizer->top >= resizer->high) {
        return;
    }
    if (resizer->high < resizer->rows) {
        enlarge(resizer, row, place - resizer->top);
    } else {
        shrink(resizer, row, place - resizer->top);
    }
}

int kilonet_resize(kilonet_resizer *resizer, const uint8_t *frame, uint32_t width, uint32_t height, uint32_t stride,
                   int format, uint8_t *pixels)
{
    if (kilonet_resize_begin(resizer, width, height, format, pixels) == 0) {
        return 0;
    }
    for (; resizer->next < height; frame += stride) {
        kilonet_resize_row(resizer, frame);
    }
    return 1;
}

#endif
