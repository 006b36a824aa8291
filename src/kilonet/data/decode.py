"""Decode PNG and JPEG files: orientation, transparency, palettes and 16 bits are resolved.

A file is decoded only when its size is within the limits. A file that ends early is refused; Pillow would fill the
missing rows of a PNG file with black.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from kilonet.utils.errors import KilonetError

FORMATS = ("PNG", "JPEG")
WORKING_SIDE = 1024
"""Pictures with a longer side are scaled down to this one by averaging, which leaves enough pixels of a digit."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# The seven passes of Adam7: column and row of the first pixel, and the steps between pixels in x and y.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_START_OF_SCAN = b"\xff\xda"
_PIECE = 1 << 20


@dataclass(frozen=True)
class DecodeLimits:
    """The limits of a file, which bound memory and time before anything is decoded."""

    content: int = 32 << 20
    """The most bytes of a file."""
    pixels: int = 64_000_000
    """The most pixels, rows times columns."""
    scanned: int = 1_000_000_000
    """The most pixels times scans of a progressive JPEG file; each scan is a pass over the whole picture."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright."""

    values: NDArray[np.float32]
    """float32 (rows, columns, channels), 0 to 255, with 1 or 3 channels and no side over `WORKING_SIDE`."""
    grey: NDArray[np.uint8] | None
    """uint8 (rows, columns): the pixels of an upright 8-bit grey file that was not scaled; None for other files."""


def decode(content: bytes, name: str, limits: DecodeLimits = DecodeLimits()) -> Picture:
    """Decode a PNG or JPEG file.

    Args:
        content: the file's bytes.
        name: the name of the file in messages.
        limits: the limits of the file.

    Raises:
        KilonetError: the file is no PNG or JPEG, over a limit, truncated or damaged.
    """
    if len(content) > limits.content:
        raise KilonetError(f"{name}: over {limits.content:,} bytes; save it smaller")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and of damaged metadata, which our own limits and errors cover.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_size(image, content, name, limits)
                if image.format == "PNG":
                    _check_png(content, image.size)
                return _picture(image)
    except UnidentifiedImageError:
        raise KilonetError(f"{name}: not a PNG or JPEG image") from None
    except Image.DecompressionBombError:
        raise KilonetError(f"{name}: more than {limits.pixels:,} pixels; scale it down first") from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        struct.error,
        zlib.error,
    ) as error:
        raise KilonetError(f"{name}: damaged: {error}") from None


def _check_size(image: Image.Image, content: bytes, name: str, limits: DecodeLimits) -> None:
    pixels = image.width * image.height
    if pixels > limits.pixels:
        raise KilonetError(f"{name}: {image.width}x{image.height} pixels, over {limits.pixels:,}; scale it down first")
    # Every scan starts with this marker, so the scans are never more than the markers counted.
    if image.format == "JPEG" and pixels * content.count(_START_OF_SCAN) > limits.scanned:
        raise KilonetError(
            f"{name}: too many scans for {image.width}x{image.height} pixels; save it as a baseline JPEG"
        )


def _check_png(content: bytes, size: tuple[int, int]) -> None:
    """Check that a PNG file holds all its pixels.

    Source: W3C, "Portable Network Graphics (PNG) Specification", 5.3 (chunks), 7.2 (scanlines), 8.1 (interlacing).
    """
    if content[12:16] != b"IHDR":
        raise ValueError("its header does not come first")
    depth, colour, interlaced = content[24], content[25], content[28]
    bits = depth * _PNG_SAMPLES[colour]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    missing = sum(_scanline_bytes(size, bits, one) for one in passes)
    unpacker = zlib.decompressobj()
    for data in _png_data(content):
        packed = data
        while packed and missing > 0 and not unpacker.eof:
            missing -= len(unpacker.decompress(packed, _PIECE))
            packed = unpacker.unconsumed_tail
    if missing > 0:
        raise ValueError("its pixels end early")


def _scanline_bytes(size: tuple[int, int], bits: int, one: tuple[int, int, int, int]) -> int:
    left, top, step_x, step_y = one
    columns, rows = (-(-(size[0] - left) // step_x), -(-(size[1] - top) // step_y))
    return rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0


def _png_data(content: bytes) -> Iterator[bytes]:
    """Yield the compressed pixels of each chunk, up to the chunk that ends the file."""
    position = len(_PNG_SIGNATURE)
    while True:
        length, kind = struct.unpack_from(">I4s", content, position)
        if position + 12 + length > len(content):
            raise ValueError("truncated")
        if kind == b"IEND":
            return
        if kind == b"IDAT":
            yield content[position + 8 : position + 8 + length]
        position += 12 + length


def _picture(image: Image.Image) -> Picture:
    plain = image.mode == "L" and "transparency" not in image.info
    if max(image.size) > WORKING_SIDE:
        image.draft(None, (WORKING_SIDE, WORKING_SIDE))
    ImageOps.exif_transpose(image, in_place=True)
    if plain and max(image.size) <= WORKING_SIDE:
        grey = np.asarray(image)
        return Picture(grey.astype(np.float32)[:, :, None], grey)
    values = np.asarray(_reduced(_without_alpha(image)), np.float32)
    if image.mode.startswith("I"):
        # 16-bit levels, Pillow's modes I;16 and I, are scaled to 0 to 255.
        values = values / np.float32(257)
    return Picture(values if values.ndim == 3 else values[:, :, None], None)


def _without_alpha(image: Image.Image) -> Image.Image:
    """Return an image of mode L, F or RGB; transparent pixels become white below dark ink, black below light ink."""
    if image.mode.startswith("I"):
        return image.convert("I").convert("F")
    if not image.has_transparency_data:
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    layered = image.convert("RGBA")
    alpha = np.asarray(layered.getchannel("A"), np.float64)
    weight = alpha.sum()
    mean = (np.asarray(layered.convert("RGB").convert("L")) * alpha).sum() / weight if weight else 0
    paper = Image.new("RGBA", layered.size, "white" if mean < 128 else "black")
    return Image.alpha_composite(paper, layered).convert("RGB")


def _reduced(image: Image.Image) -> Image.Image:
    scale = WORKING_SIDE / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX)
