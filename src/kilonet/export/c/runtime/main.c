/* Classifies a binary PGM image (P5, grey levels up to 255, light ink on dark) of the network's size and prints its
 * class and all logits. Several channels stand one below the other in the image. */
#include "model.h"

#include <stdio.h>

#define HEIGHT (KILONET_CHANNELS * KILONET_ROWS)

/* Prints the name of a class or, where the classes have none, its number. Control characters, also those of two bytes in
 * UTF-8, become question marks, so that no name moves the cursor or breaks the line. */
static void print_class(int class_)
{
#ifdef KILONET_CLASS_NAMES
    static const char *const names[KILONET_CLASSES] = KILONET_CLASS_NAMES;
    const unsigned char *name = (const unsigned char *)names[class_];
    for (; *name != 0; name++)
        if (name[0] == 0xc2 && name[1] >= 0x80 && name[1] < 0xa0)
            putchar('?'), name++;
        else
            putchar(*name < 0x20 || *name == 0x7f ? '?' : *name);
#else
    printf("%d", class_);
#endif
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
    if (getc(file) != 'P' || getc(file) != '5')
        return "not a binary PGM file (P5)";
    if (header_number(file) != KILONET_COLUMNS || header_number(file) != HEIGHT)
        return "not an image of the network's size";
    if (header_number(file) != 255)
        return "not an image of 255 grey levels";
    if (fread(pixels, 1, KILONET_PIXELS, file) != KILONET_PIXELS)
        return "truncated";
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
        fprintf(stderr, "usage: classify IMAGE.pgm\n");
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
