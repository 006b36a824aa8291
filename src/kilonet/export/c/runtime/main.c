/* Classifies a binary PGM image (P5, grey levels up to 255, light ink on dark) of the network's size and prints its
 * class and all logits. Several channels stand one below the other in the image. A network that reads no digits also takes
 * a PGM or PPM image (P6, in colour) of any other size, which is scaled first. Compiled only with KILONET_EXAMPLE, as the
 * Makefile does, so that a project can take the whole folder. */
#include "model.h"

#ifdef KILONET_EXAMPLE
#include <stdio.h>

#define HEIGHT (KILONET_CHANNELS * KILONET_ROWS)

#if defined KILONET_RESIZE && !KILONET_READS_DIGITS
#include "kilonet_resize.h"

/* Reads the rows of an image that is of another size or in colour. */
static const char *read_picture(FILE *file, long width, long height, int colours, uint8_t *pixels)
{
    static kilonet_resizer resizer;
    static uint8_t row[3 * KILONET_RESIZE_SIDE];
    const size_t length = (size_t)(colours * width);
    if (width < 0 || height < 0 || !kilonet_resize_begin(&resizer, (uint32_t)width, (uint32_t)height,
                                                         colours == 1 ? KILONET_GREY8 : KILONET_RGB888, pixels))
        return "without a side, or with one that is too long";
    for (; height > 0; height--) {
        if (fread(row, 1, length, file) != length)
            return "truncated";
        kilonet_resize_row(&resizer, row);
    }
    return 0;
}
#else
static const char *read_picture(FILE *file, long width, long height, int colours, uint8_t *pixels)
{
    (void)file, (void)width, (void)height, (void)colours, (void)pixels;
    return "not a grey image of the network's size";
}
#endif

/* Prints the name of a class. Control characters, also those of two bytes in UTF-8, become question marks, so that no name
 * moves the cursor or breaks the line. */
static void print_class(int class_)
{
    static const char *const names[KILONET_CLASSES] = KILONET_CLASS_NAMES;
    const unsigned char *name = (const unsigned char *)names[class_];
    for (; *name != 0; name++)
        if (name[0] == 0xc2 && name[1] >= 0x80 && name[1] < 0xa0)
            putchar('?'), name++;
        else
            putchar(*name < 0x20 || *name == 0x7f ? '?' : *name);
}

/* Reads a number of the header and one whitespace character after it. Comments run from # to the end of the line. */
static long header_number(FILE *file)
{
    long number = 0;
    int digits = 0;
    int character = getc(file);
    while (character == '#' || character == ' ' || character == '\t' || character == '\r' || character == '\n') {
        if (character == '#')
            while (character != '\n' && character != EOF)
                character = getc(file);
        character = getc(file);
    }
    for (; character >= '0' && character <= '9' && digits < 6; character = getc(file), digits++)
        number = 10 * number + (character - '0');
    if (character != ' ' && character != '\t' && character != '\r' && character != '\n')
        return -1;
    return digits > 0 ? number : -1;
}

static const char *read_image(FILE *file, uint8_t *pixels)
{
    const char *complaint = 0;
    const int letter = getc(file), kind = getc(file);
    long width, height;
    if (letter != 'P' || (kind != '5' && kind != '6'))
        return "not a binary PGM or PPM file (P5, P6)";
    width = header_number(file);
    height = header_number(file);
    if (header_number(file) != 255)
        return "not an image with a size and 255 levels of grey or colour";
    if (kind == '6' || width != KILONET_COLUMNS || height != HEIGHT)
        complaint = read_picture(file, width, height, kind == '6' ? 3 : 1, pixels);
    else if (fread(pixels, 1, KILONET_PIXELS, file) != KILONET_PIXELS)
        complaint = "truncated";
    if (complaint)
        return complaint;
    if (getc(file) != EOF)
        return "longer than its image";
    return 0;
}

int main(int count, char **arguments)
{
    static uint8_t pixels[KILONET_PIXELS];
    static int32_t logits[KILONET_CLASSES];
    const char *complaint;
    FILE *file;
    int class_, best = 0;
    if (count != 2) {
        fprintf(stderr, "usage: classify IMAGE\n");
        return 2;
    }
    file = fopen(arguments[1], "rb");
    complaint = file ? read_image(file, pixels) : "cannot be opened";
    if (file)
        fclose(file);
    if (complaint) {
        fprintf(stderr, "%s: %s\n", arguments[1], complaint);
        return 2;
    }
    kilonet_classify(pixels, logits);
    for (class_ = 1; class_ < KILONET_CLASSES; class_++)
        if (logits[class_] > logits[best])
            best = class_;
    print_class(best);
    printf("\n");
    for (class_ = 0; class_ < KILONET_CLASSES; class_++) {
        print_class(class_);
        printf(": %ld\n", (long)logits[class_]);
    }
    return 0;
}
#endif
