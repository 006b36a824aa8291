/* What the examples of packages print with, on the board of board.c. */
#ifndef SDK_STDIO_H
#define SDK_STDIO_H

int putchar(int character);
int printf(const char *format, ...);

#endif
