"""A page with the boxes of its digits drawn into it."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kilonet.data.digits.page import PAGE_SIDE
from kilonet.data.image_folders import read_picture
from kilonet.models.prediction import PredictedFile, marked_png

_SURE, _UNCERTAIN = "#0050d0", "#e06000"
_LEAST_TEXT = 10
"""The least height of a digit that is written beside a box, pixels."""


def page_as_png(page: PredictedFile) -> bytes:
    """Return a PNG file of a page with a box around each digit: blue, or orange if the prediction is uncertain.

    Raises:
        KilonetError: the page cannot be read any more.
    """
    picture = read_picture(page.file, side=PAGE_SIDE)
    pixels = np.clip(picture.values, 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    draw = ImageDraw.Draw(image)
    for one in page.predictions:
        if one.box is None:
            continue
        box = one.box.scaled(1 / picture.scale)
        colour = _UNCERTAIN if one.uncertain else _SURE
        draw.rectangle((box.left, box.top, box.right, box.bottom), outline=colour, width=max(1, box.height // 24))
        font = ImageFont.load_default(max(_LEAST_TEXT, box.height // 3))
        draw.text((box.left, box.top), one.name or "-", colour, font, anchor="lb")
    return marked_png(image)
