"""Find the digits in a photo, and lay each out as MNIST's digits are.

`foreground` separates ink from paper, `components` groups connected pieces into digits, `layout` and `frame` scale a
digit into 20x20 pixels and centre it in 28x28, and `prepare` returns the image that the network is shown, with the
reason why it is no digit, if there is one.

    picture = decode(content, "photo.jpg")      # raises KilonetError: over a limit, truncated, no image
    image = prepare_digit(picture)              # or prepare_row(picture): a list from left to right
    image.pixels, image.objection               # uint8 (28, 28), None or why it is no digit
"""
