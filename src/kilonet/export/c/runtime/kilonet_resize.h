/* Scales a camera's frame to the pixels of the network, row by row in little memory: as `kilonet predict` scales a photo,
 * by what model.h says of it, to one level at most. C99 without libc, floating point and heap; C++20 compiles it too. */
#ifndef KILONET_RESIZE_H
#define KILONET_RESIZE_H

#include "model.h"

#ifndef KILONET_RESIZE
#error "this network takes neither grey pictures nor coloured ones"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The longest side of a frame, so that no sum exceeds 32 bits. */
#define KILONET_RESIZE_SIDE (KILONET_ROWS < 4 || KILONET_COLUMNS < 4 ? 1024u : 4096u)

/* The pixels of a frame: a byte of grey; bytes of red, green and blue; or two bytes of 5, 6 and 5 bits of them, the low
 * byte first or the high one. */
enum { KILONET_GREY8, KILONET_RGB888, KILONET_RGB565_LITTLE, KILONET_RGB565_BIG };

/* A frame that is being scaled. Its fields are for kilonet_resize.c alone. */
typedef struct {
    uint32_t sums[2][3 * KILONET_COLUMNS]; /* of two rows of the pixels, or two rows of a frame that is enlarged */
    uint32_t totals[2]; /* of the weights in `sums` */
    uint8_t *pixels;
    uint32_t left, top, wide, high; /* the part of the frame that is shown */
    uint32_t first_row, first_column, rows, columns; /* where it is shown in the pixels */
    uint32_t next; /* row of the frame */
    uint32_t done; /* rows that are shown already */
    int format;
} kilonet_resizer;

/* Scales a whole frame of width x height pixels, whose rows begin `stride` bytes apart. Returns 1, or 0 if nothing was
 * done: a side is 0 or over KILONET_RESIZE_SIDE, or there is no such format. */
int kilonet_resize(kilonet_resizer *resizer, const uint8_t *frame, uint32_t width, uint32_t height, uint32_t stride,
                   int format, uint8_t *pixels);

/* The same for a frame that is never in memory as a whole: begin, then give each of its rows, the upper one first. The
 * pixels are complete after the last row. */
int kilonet_resize_begin(kilonet_resizer *resizer, uint32_t width, uint32_t height, int format, uint8_t *pixels);
void kilonet_resize_row(kilonet_resizer *resizer, const uint8_t *row);

#ifdef __cplusplus
}
#endif

#endif
