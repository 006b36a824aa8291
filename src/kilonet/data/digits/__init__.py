"""From a user's image file to the pixels that a network is shown.

`foreground` tells ink from paper, `components` puts connected pieces together to digits, `layout` and `frame` lay a
digit out as MNIST's makers did, 20x20 in 28x28, and `finder` returns what is shown, or why it is no digit.

    picture = decode(content, "photo.jpg")      # KilonetError: over a limit, truncated, no image
    sight = prepare_digit(picture)                  # or prepare_row(picture), a list from left to right
    sight.pixels, sight.objection               # uint8 (28, 28), None or why it is no digit
"""
