"""From a user's image file to the pixels that a network is shown.

The steps, each a module: `decode` (file to upright picture, within limits), `ink` (ink from paper), `marks` (connected
pieces to digits), `layout` and `frame` (MNIST's 20x20 in 28x28), `sight` (what is shown, or why it is no digit).

    picture = decode(content, "photo.jpg")      # KilonetError: over a limit, truncated, no image
    sight = see_digit(picture)                  # or see_row(picture), a list from left to right
    sight.pixels, sight.objection               # uint8 (28, 28), None or why it is no digit
"""
