"""Images as PNG in `data:` addresses, one pixel per value; the page's style sheet enlarges them."""

import base64
import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]

# Both are readable on light and on dark paper.
_POSITIVE = (47, 111, 171)
_NEGATIVE = (196, 78, 58)


def photo(pixels: NDArray[np.uint8]) -> str:
    """Return an image, uint8 (channels, rows, columns): three channels as colour, others as `ink` of their mean."""
    if len(pixels) == 3:
        return _address(Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)), "RGB"))
    return ink(pixels.astype(np.float32).mean(0) / 255)


def ink(values: Floats) -> str:
    """Return values from 0 to 1, float32 (rows, columns), as black of that opacity, which dark mode inverts."""
    strength = np.clip(np.round(values * 255), 0, 255).astype(np.uint8)
    return _address(Image.fromarray(np.stack([np.zeros_like(strength), strength], -1), "LA"))


def signed(values: Floats) -> str:
    """Return values from -1 to 1, float32 (rows, columns), as blue or red of that opacity."""
    colours = np.where(values[..., None] > 0, _POSITIVE, _NEGATIVE).astype(np.uint8)
    strength = np.clip(np.round(np.abs(values) * 255), 0, 255).astype(np.uint8)
    return _address(Image.fromarray(np.concatenate([colours, strength[..., None]], -1), "RGBA"))


def sheet(maps: Floats, columns: int) -> Floats:
    """Arrange maps, float32 (N, rows, columns), row by row in one sheet with a pixel between them."""
    count, height, width = maps.shape
    rows = math.ceil(count / columns)
    whole = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1), np.float32)
    for number, part in enumerate(maps):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        whole[top : top + height, left : left + width] = part
    return whole


def _address(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
