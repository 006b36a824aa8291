"""Reading a user's image file into the pixels that a network takes."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from kilonet.errors import KilonetError
from kilonet.layers import Shape

_FORMATS = ("PNG", "JPEG")


def read_images(paths: Sequence[Path], shape: Shape) -> NDArray[np.uint8]:
    """Read several images as `read_image` does: uint8 (N, rows, columns)."""
    return np.stack([read_image(path, shape) for path in paths])


def read_image(path: Path, shape: Shape) -> NDArray[np.uint8]:
    """Read a grey PNG or JPEG file that already has the network's size.

    Args:
        path: the file.
        shape: (channels, rows, columns) of the network's input; one channel.

    Returns:
        uint8 (rows, columns).

    Raises:
        KilonetError: no PNG or JPEG, damaged, not grey or of another size; the size is checked before decoding.
    """
    _, rows, columns = shape
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            # Pillow warns of a decompression bomb; the size check below refuses it in words of our own.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(stream, formats=_FORMATS) as image:
                _check(image, path, rows, columns)
                return np.asarray(image, dtype=np.uint8)
    except UnidentifiedImageError:
        raise KilonetError(f"{path}: not a PNG or JPEG image") from None
    except Image.DecompressionBombError:
        raise KilonetError(f"{path}: far larger than {columns}x{rows} pixels; crop and scale the digit first") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise KilonetError(f"{path}: cannot be read: {reason}") from None


def _check(image: Image.Image, path: Path, rows: int, columns: int) -> None:
    if image.size != (columns, rows):
        found = f"{image.size[0]}x{image.size[1]}"
        raise KilonetError(
            f"{path}: {found} pixels, not {columns}x{rows}; crop and scale the digit, light on dark, as in MNIST"
        )
    if image.mode != "L":
        raise KilonetError(f"{path}: its mode is {image.mode}, not 8-bit grey (L); convert it to grey first")
