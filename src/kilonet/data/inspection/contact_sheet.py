"""A contact sheet: some images of each class in rows, with the names of the classes."""

import io
import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

from kilonet.data.datasets import Images
from kilonet.utils.terminal import printable

MOST_CLASSES = 120

_PIXELS = 250_000
"""Of all images on the sheet together; a byte each, before compression."""
_MOST_ACROSS, _LEAST_ACROSS = 12, 4
_SMALLEST, _LARGEST = 16, 64
"""The longer side of an image on the sheet, pixels."""
_ROWS = 30
"""So many classes stand below one another; more are beside them."""
_GAP = 2
_LABEL, _FONT_SIZE = 110, 11
_LONGEST_NAME = 16
_PAPER, _INK = (255, 255, 255), (0, 0, 0)


def shown_classes(count: int) -> range:
    """Return which of so many classes a contact sheet shows: all, or at most `MOST_CLASSES` spread evenly over them."""
    return range(0, count, -(-count // MOST_CLASSES))


def contact_sheet(images: Images, names: Sequence[str]) -> bytes:
    """Return a PNG with some images of each class that is shown; see `shown_classes`.

    Args:
        images: the images.
        names: the names of the classes, by label.
    """
    shown = shown_classes(len(names))
    _, rows, columns = images.pixels.shape[1:]
    across = max(_LEAST_ACROSS, min(_MOST_ACROSS, _PIXELS // (len(shown) * _LARGEST * _LARGEST)))
    longer = min(_LARGEST, max(_SMALLEST, math.isqrt(_PIXELS // (len(shown) * across))))
    scale = longer / max(rows, columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    width, height = _LABEL + across * (size[0] + _GAP), max(size[1], _FONT_SIZE + 2) + _GAP
    below = min(_ROWS, len(shown))
    sheet = Image.new("RGB", (-(-len(shown) // below) * width + _GAP, below * height + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for number, label in enumerate(shown):
        left, top = number // below * width + _GAP, number % below * height + _GAP
        draw.text((left, top), _drawable(label, names[label]), _INK, font)
        chosen = torch.nonzero(images.labels == label).flatten()
        spread = chosen[:: max(1, len(chosen) // across)][:across]
        for place, index in enumerate(spread.tolist()):
            pixels = images.pixels[index].permute(1, 2, 0).numpy()
            picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
            sheet.paste(picture.resize(size, Image.Resampling.NEAREST), (left + _LABEL + place * (size[0] + _GAP), top))
    png = io.BytesIO()
    sheet.quantize(256).save(png, "PNG", optimize=True)
    return png.getvalue()


def _drawable(label: int, name: str) -> str:
    """Return a name as Pillow's own font can draw it, which has Latin letters only; else the number goes before it."""
    text = printable(name)
    latin = text.encode("latin-1", "replace").decode("latin-1")
    shown = latin if latin == text else f"{label}: {latin}"
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 1]}~"
