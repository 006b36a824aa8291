"""Decode PNG, JPEG, BMP, GIF, WebP, TIFF and HEIC files: orientation, transparency, palettes and 16 bits are resolved.

A file is decoded only when what it asks for is within the limits: pixels, passes over them, and bytes of memory. A file
that ends early is refused; Pillow would fill the missing rows of a PNG file with black.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from kilonet.data import heic
from kilonet.data.containers import FORMATS, Container, is_avif, open_container, png_chunks
from kilonet.utils.errors import KilonetError, UnreadError
from kilonet.utils.extras import NotInstalled

READABLE = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
"""The formats in words."""
WORKING_SIDE = 1024
"""Pictures with a longer side are scaled down to this one by averaging, which leaves enough pixels of a digit."""

_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# The seven passes of Adam7: column and row of the first pixel, and the steps between pixels in x and y.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE = 1 << 20
_PIXEL_BYTES = {"L": 1, "1": 2, "RGB": 4, "P": 5, "I;16": 6, "F": 16}
"""Bytes of memory that a pixel takes by Pillow's mode, with the copies that converting and scaling make."""
_OTHER_PIXEL_BYTES = 8
_TRANSPARENT_PIXEL_BYTES = 8
"""How many more a pixel takes in a mode without alpha if the file has transparent colours."""
_WEBP_PIXEL_BYTES = 12
"""How many more a pixel of a WebP file takes: libwebp holds the picture twice, and hands out a copy."""
_TIFF_PIXEL_BYTES = 8
"""How many more a pixel of a TIFF file takes: libtiff holds strips and tiles, which may be as large as the picture."""
_HEIC_PIXEL_BYTES = 8
"""How many more a pixel of a HEIC file takes: libde265 and libheif hold the picture each, and hand out a copy."""
_FORM_PIXEL_BYTES = {"WebP": _WEBP_PIXEL_BYTES, "TIFF": _TIFF_PIXEL_BYTES, "HEIF": _HEIC_PIXEL_BYTES}
_COEFFICIENT_BYTES = 2
"""Bytes of a coefficient of a JPEG file with several scans: all of them are held at once."""
_WHOLE_PIXEL_BYTES = 8
"""How many more a pixel takes that is not scaled down: turned upright or laid on paper, and in an array."""
_FACTORS = (1, 2, 4, 8)
"""By what a picture is scaled down that is too large for its memory; a JPEG file is decoded so much smaller."""
_STRIP = 256
"""Rows that are laid on paper at once."""
Colour = tuple[int, int, int]
_VISIBLE = 127
"""Pixels of a higher alpha are visible."""
_SHEET, _SHEET_CONTRAST = 0.35, 40
"""A sheet takes this share of the box around all visible pixels at least, and its ink differs by so many levels."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its orientation."""


@dataclass(frozen=True)
class DecodeLimits:
    """The limits of a file, which bound memory and time before anything is decoded."""

    content: int = 32 << 20
    """The most bytes of a file."""
    pixels: int = 64_000_000
    """The most pixels, rows times columns."""
    scanned: int = 1_000_000_000
    """The most pixels times scans of a JPEG file; each scan is a pass over the whole picture."""
    memory: int = 400_000_000
    """The most bytes that decoding may take, by the file's header."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright."""

    values: NDArray[np.float32] | NDArray[np.uint8]
    """(rows, columns, channels), 0 to 255, with 1 or 3 channels: float32, or uint8 if it was decoded `evenly`."""
    grey: NDArray[np.uint8] | None
    """uint8 (rows, columns): the pixels of an upright 8-bit grey file that was not scaled; None for others, and for
    those decoded `evenly`."""
    scale: float = 1.0
    """How many pixels of the upright file one of its pixels is wide."""


def decode(
    content: bytes,
    name: str,
    limits: DecodeLimits = DecodeLimits(),
    *,
    evenly: bool = False,
    side: int = WORKING_SIDE,
) -> Picture:
    """Decode an image file.

    Args:
        content: the file's bytes.
        name: the name of the file in messages.
        limits: the limits of the file.
        evenly: keep every pixel, for `Preprocessing.apply`. Only a picture too large for `limits.memory`, one of tens
            of millions of pixels, is scaled down, by a whole number.
        side: the longest side of a picture that is not decoded `evenly`; a longer one is scaled down. The finder of one
            digit was measured with `WORKING_SIDE`.

    Raises:
        KilonetError: the file is of no format in `FORMATS`, over a limit, truncated or damaged.
    """
    if len(content) > limits.content:
        raise KilonetError(f"{name}: over {limits.content:,} bytes; save it smaller")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and of damaged metadata, which our own limits and errors cover.
            warnings.simplefilter("ignore")
            return _decoded(content, name, limits, None if evenly else side)
    except NotInstalled as error:
        raise KilonetError(f"{name}: {error}") from None
    except KilonetError:
        raise
    except UnreadError as error:
        raise KilonetError(f"{name}: {error}") from None
    except struct.error:
        raise KilonetError(f"{name}: damaged: truncated") from None
    except Image.DecompressionBombError:
        raise KilonetError(f"{name}: more than {limits.pixels:,} pixels; scale it down first") from None
    except UnidentifiedImageError:
        # Its message has the address of the file's bytes.
        raise KilonetError(f"{name}: damaged: its first bytes are those of a picture, the rest is none") from None
    except MemoryError:
        raise KilonetError(f"{name}: too little memory to decode it; scale it down first") from None
    except Exception as error:  # noqa: BLE001 - Pillow raises nearly every kind, AssertionError and AttributeError too.
        raise KilonetError(f"{name}: damaged: {error or type(error).__name__}") from None


def _decoded(content: bytes, name: str, limits: DecodeLimits, side: int | None) -> Picture:
    # Without a side every pixel is kept.
    container = open_container(content)
    if container is None and is_avif(content):
        raise KilonetError(f"{name}: an AVIF image, a kind that is not read; save it as JPEG or PNG")
    if container is None:
        raise KilonetError(f"{name}: not a {READABLE} image")
    if container.size is not None:
        _check_passes(container.size, container, name, limits)
    if container.form == "HEIF":
        heic.register()
    with Image.open(io.BytesIO(container.content), formats=[container.form]) as image:
        _check_passes(image.size, container, name, limits)
        size = image.size
        reduced = _reduction(image, container, name, limits, side)
        if container.form == "PNG":
            _check_png(container.content, size)
        picture = _picture(image, container.orientation, reduced, side)
        return replace(picture, scale=max(size) / max(picture.values.shape[:2]))


def _check_passes(size: tuple[int, int], container: Container, name: str, limits: DecodeLimits) -> None:
    columns, rows = size
    if columns * rows > limits.pixels:
        raise KilonetError(f"{name}: {columns}x{rows} pixels, over {limits.pixels:,}; scale it down first")
    if columns * rows * container.scans > limits.scanned:
        what = "parts" if container.form == "HEIF" else "scans"
        raise KilonetError(f"{name}: too many {what} for {columns}x{rows} pixels; save it as a baseline JPEG")


def _reduction(
    image: Image.Image, container: Container, name: str, limits: DecodeLimits, side: int | None
) -> Callable[[Image.Image], Image.Image]:
    """Return what scales an opened image down once it is decoded; a JPEG file is decoded to fewer pixels.

    Raises:
        KilonetError: it takes more than `limits.memory`.
    """
    width, height = image.size
    whole = width * height
    each = _PIXEL_BYTES.get(image.mode, _OTHER_PIXEL_BYTES)
    each += _TRANSPARENT_PIXEL_BYTES if "transparency" in image.info else 0
    each += _FORM_PIXEL_BYTES.get(container.form, 0)
    coefficients = whole * len(image.getbands()) * _COEFFICIENT_BYTES if container.is_progressive else 0
    factor = 1
    if side is None:
        shrunk = container.form == "JPEG"
        for factor in _FACTORS:
            kept = whole // factor**2
            needed = (kept if shrunk else whole) * each + kept * _WHOLE_PIXEL_BYTES + coefficients
            if needed <= limits.memory:
                break
        if factor > 1:
            image.draft(None, (max(1, width // factor), max(1, height // factor)))
        factor = 1 if image.width < width else factor
    else:
        if max(image.size) > side:
            image.draft(None, (side, side))
        needed = image.width * image.height * each + coefficients
    if needed > limits.memory:
        raise KilonetError(
            f"{name}: decoding it takes {needed >> 20:,} MiB, over {limits.memory >> 20:,}; scale it down first"
        )
    return partial(_evenly_reduced, factor=factor) if side is None else partial(_reduced, side=side)


def _check_png(content: bytes, size: tuple[int, int]) -> None:
    """Check that a PNG file holds all its pixels.

    Source: W3C, "Portable Network Graphics (PNG) Specification", 5.3 (chunks), 7.2 (scanlines), 8.1 (interlacing).
    """
    depth, colour, interlaced = content[24], content[25], content[28]
    bits = depth * _PNG_SAMPLES[colour]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    missing = sum(_scanline_bytes(size, bits, one) for one in passes)
    unpacker = zlib.decompressobj()
    for kind, data in png_chunks(content):
        if kind != b"IDAT":
            continue
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


def _picture(
    image: Image.Image, orientation: int, reduced: Callable[[Image.Image], Image.Image], side: int | None
) -> Picture:
    """Return the picture of an opened image, which is decoded here."""
    evenly = side is None
    plain = image.mode == "L" and "transparency" not in image.info and side is not None and max(image.size) <= side
    deep = image.mode.startswith("I")
    opaque = image if plain else _opaque(image, reduced, evenly=evenly)
    upright = opaque.transpose(_TURNS[orientation]) if orientation in _TURNS else opaque
    if plain:
        grey = np.array(upright)
        return Picture(grey.astype(np.float32)[:, :, None], grey)
    if evenly and not deep:
        return Picture(np.atleast_3d(np.asarray(upright, np.uint8)), None)
    values = np.atleast_3d(np.asarray(upright, np.float32))
    if deep:
        # 16-bit levels, Pillow's modes I;16 and I, are scaled to 0 to 255.
        values = values / np.float32(257)
    return Picture(values.round().astype(np.uint8) if evenly else values, None)


def _opaque(image: Image.Image, reduced: Callable[[Image.Image], Image.Image], *, evenly: bool) -> Image.Image:
    """Return an image of mode L, F or RGB, reduced.

    Transparent pixels become white below dark ink, black below light ink. Those around a sheet get the
    colour of its rim, unless the picture is decoded `evenly`.
    """
    if image.mode.startswith("I"):
        return reduced(image.convert("F"))
    if image.mode == "F":
        image = _in_levels(image)
    if not image.has_transparency_data:
        return reduced(_as_mode(image, "L") if image.mode in ("1", "L") else _as_mode(image, "RGB"))
    # Scaled first, which Pillow does with weighted colours.
    layered = reduced(_as_mode(image, "RGBA"))
    colour = None if evenly else _rim_colour(layered)
    return _laid_on_paper(layered, colour or _contrast_colour(layered))


def _in_levels(image: Image.Image) -> Image.Image:
    """Return an image of mode F with levels to 255; those of many programs go from 0 to 1."""
    values = np.asarray(image)
    least, most = np.nanmin(values, initial=1), np.nanmax(values, initial=0)
    return Image.fromarray(values * np.float32(255)) if least >= 0 and most <= 1 else image


def _strips(layered: Image.Image) -> list[tuple[int, int, int, int]]:
    return [(0, top, layered.width, min(top + _STRIP, layered.height)) for top in range(0, layered.height, _STRIP)]


def _contrast_colour(layered: Image.Image) -> Colour:
    """Return white for an RGBA image whose visible pixels are dark, black for light ones."""
    ink = weight = 0
    for strip in _strips(layered):
        part = layered.crop(strip)
        alpha = np.asarray(part.getchannel("A"), np.int64)
        ink += int((np.asarray(part.convert("RGB").convert("L")) * alpha).sum())
        weight += int(alpha.sum())
    return (255, 255, 255) if ink < 128 * weight or not weight else (0, 0, 0)


def _rim_colour(layered: Image.Image) -> Colour | None:
    """Return the colour along the rim of what is visible; None if that is ink alone, of one colour or thin."""
    pixels = np.asarray(layered)
    visible = pixels[..., 3] > _VISIBLE
    rows, columns = (np.flatnonzero(visible.any(axis)) for axis in (1, 0))
    if visible.all() or not len(rows):
        return None
    box = visible[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # The outermost pixels of a sheet, and of ink, are mixed with what was around them.
    inner = _shrunk(visible, 2)
    grey = pixels[inner if inner.any() else visible][:, :3].mean(1)
    darkest, lightest = np.quantile(grey, (0.02, 0.98))
    if box.mean() < _SHEET or lightest - darkest < _SHEET_CONTRAST:
        return None
    rim = inner & ~_shrunk(inner, 3)
    red, green, blue = np.median(pixels[rim if rim.any() else visible][:, :3], axis=0)
    return int(red), int(green), int(blue)


def _shrunk(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Take so many pixels off the rim of a mask, but for the edges of the picture."""
    for _ in range(steps):
        padded = np.pad(mask, 1, "edge")
        mask = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & mask
    return mask


def _laid_on_paper(layered: Image.Image, colour: Colour) -> Image.Image:
    """Return an RGB image of an RGBA one, in strips: what happens here takes far more memory a pixel."""
    whole = Image.new("RGB", layered.size)
    for strip in _strips(layered):
        part = layered.crop(strip)
        whole.paste(Image.alpha_composite(Image.new("RGBA", part.size, colour), part).convert("RGB"), strip)
    return whole


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image; one of that mode is returned itself, because Pillow would copy it."""
    return image if image.mode == mode else image.convert(mode)


def _reduced(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX)


def _evenly_reduced(image: Image.Image, factor: int) -> Image.Image:
    # Pillow averages what is left at the right and lower edges over fewer pixels.
    return image if factor == 1 else image.reduce(factor)
