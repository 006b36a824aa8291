"""Find the digits in a photo, and lay each out as MNIST's digits are.

`marks` finds what may be a digit whatever surrounds it, `check` tells a digit from what is none, `context` a whole one
from a part, and `prepare` chooses among the marks and returns the image that the network is shown, with the reason why
it is no digit, if there is one. `foreground` separates all ink of a plain picture from its paper, `components` groups
its connected pieces, `row_reader` reads digits that touch, `cuts` splits them, and `layout` and `frame` scale a digit
into 20x20 pixels and centre it in 28x28.

    picture = decode(content, "photo.jpg")      # raises KilonetError: over a limit, truncated, no image
    image = prepare_digit(picture)              # or prepare_row(picture): a list from left to right
    image.pixels, image.objection               # uint8 (28, 28), None or why it is no digit
"""
