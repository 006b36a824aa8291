"""A contact sheet: some images of each class in rows, with the names of the classes."""

import io
from itertools import islice

import torch
from PIL import Image, ImageDraw, ImageFont

from kilonet.data.datasets import Images
from kilonet.utils.terminal import printable

MOST_CLASSES = 60
_PIXELS = 250_000
"""Of all images on the sheet together; a byte each, before compression."""
_MOST_ACROSS, _LEAST_ACROSS = 12, 4
_SMALLEST, _LARGEST = 16, 64
_GAP = 2
_LABEL, _FONT_SIZE = 150, 11
_LONGEST_NAME = 22
_PAPER, _INK = (255, 255, 255), (0, 0, 0)


def contact_sheet(images: Images, names: tuple[str, ...]) -> bytes:
    """Return a PNG with some images of each class, or of `MOST_CLASSES` classes spread evenly over all.

    Args:
        images: the images.
        names: the names of the classes, by label.
    """
    step = -(-len(names) // MOST_CLASSES)
    shown = list(range(0, len(names), step))
    _, rows, columns = images.pixels.shape[1:]
    across = max(_LEAST_ACROSS, min(_MOST_ACROSS, _PIXELS // (len(shown) * _LARGEST * _LARGEST)))
    longer = min(_LARGEST, max(_SMALLEST, int((_PIXELS / (len(shown) * across)) ** 0.5)))
    scale = longer / max(rows, columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    height = max(size[1], _FONT_SIZE + 2) + _GAP
    sheet = Image.new("RGB", (_LABEL + across * (size[0] + _GAP), len(shown) * height + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for row, label in enumerate(shown):
        top = _GAP + row * height
        draw.text((4, top), _drawable(label, names[label]), _INK, font)
        chosen = torch.nonzero(images.labels == label).flatten()
        spread = chosen[:: max(1, len(chosen) // across)]
        for place, index in enumerate(islice(spread.tolist(), across)):
            pixels = images.pixels[index].permute(1, 2, 0).numpy()
            picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
            sheet.paste(picture.resize(size, Image.Resampling.NEAREST), (_LABEL + place * (size[0] + _GAP), top))
    png = io.BytesIO()
    sheet.quantize(256).save(png, "PNG", optimize=True)
    return png.getvalue()


def _drawable(label: int, name: str) -> str:
    """Return a name as Pillow's own font can draw it, which has Latin letters only; the number tells others apart."""
    text = printable(name)
    if not text.isascii():
        text = text.encode("latin-1", "replace").decode("latin-1")
    return f"{label}  {text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + '~'}"
