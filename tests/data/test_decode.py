"""Image files: every kind of PNG and JPEG is decoded to one kind of picture; other files are refused undecoded."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from helpers import python, refusal
from kilonet.data.decode import WORKING_SIDE, DecodeLimits, Picture, decode
from kilonet.utils.errors import KilonetError

DIGIT = (np.add.outer(np.arange(28), np.arange(28)) * 4).astype(np.uint8)
# Lighter to the right and dark at the top, so that every rotation of it is another picture.
SLOPE = np.add.outer(np.arange(6) * 20, np.arange(4) * 3).astype(np.uint8)


def encoded(pixels: NDArray[np.generic], form: str = "PNG", mode: str | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, form, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    columns: int, rows: int, data: bytes, *, depth: int = 8, colour: int = 0, interlaced: int = 0, extra: bytes = b""
) -> bytes:
    """Return a PNG file with any header."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, depth, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def grey(picture: Picture) -> NDArray[np.float32]:
    """Return the one channel of a picture, having checked that three channels are equal."""
    assert picture.values.dtype == np.float32
    assert picture.values.ndim == 3
    for channel in range(1, picture.values.shape[2]):
        np.testing.assert_array_equal(picture.values[:, :, 0], picture.values[:, :, channel])
    return np.asarray(picture.values[:, :, 0])


GOOD = encoded(DIGIT)


def refuse(content: bytes, *words: str, limits: DecodeLimits | None = None) -> str:
    with pytest.raises(KilonetError) as error:
        decode(content, "photo", limits or DecodeLimits())
    return refusal(error, "photo", *words)


def test_a_grey_png_keeps_its_very_pixels() -> None:
    picture = decode(GOOD, "photo")
    assert picture.grey is not None
    np.testing.assert_array_equal(picture.grey, DIGIT)
    np.testing.assert_array_equal(grey(picture), DIGIT)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK"])
def test_every_mode_shows_the_same(mode: str) -> None:
    picture = decode(encoded(DIGIT, "JPEG" if mode == "CMYK" else "PNG", mode, quality=100), "photo")
    assert picture.grey is None
    assert np.abs(picture.values.mean(2) - DIGIT).max() <= (8 if mode == "CMYK" else 0)


def test_two_colours_are_black_and_white() -> None:
    np.testing.assert_array_equal(grey(decode(encoded(DIGIT > 100), "photo")), np.where(DIGIT > 100, 255, 0))


def test_sixteen_bits_keep_their_fractions() -> None:
    deep = (DIGIT.astype(np.uint16) * 257 + 100).astype(np.uint16)
    np.testing.assert_allclose(grey(decode(encoded(deep), "photo")), DIGIT + 100 / 257, atol=1e-3)


def test_colours_stay_apart() -> None:
    colours = np.stack([DIGIT, 255 - DIGIT, DIGIT // 2], axis=2)
    np.testing.assert_array_equal(decode(encoded(colours), "photo").values, colours)


@pytest.mark.parametrize(("ink", "paper"), [(0, 255), (40, 255), (255, 0), (200, 0)])
def test_what_is_transparent_is_the_paper_that_the_ink_wants(ink: int, paper: int) -> None:
    layers = np.zeros((4, 4, 2), np.uint8)
    layers[1, 1:3] = ink, 255
    values = grey(decode(encoded(layers), "photo"))
    np.testing.assert_array_equal(values, np.where(layers[:, :, 1] == 255, ink, paper))


def test_a_transparent_grey_level_is_transparent_too() -> None:
    picture = decode(encoded(np.array([[0, 0], [9, 255]], np.uint8), transparency=9), "photo")
    assert picture.grey is None


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, SLOPE),
        (2, SLOPE[:, ::-1]),
        (3, SLOPE[::-1, ::-1]),
        (4, SLOPE[::-1]),
        (5, SLOPE.T),
        (6, np.rot90(SLOPE, -1)),
        (7, SLOPE[::-1, ::-1].T),
        (8, np.rot90(SLOPE)),
        (99, SLOPE),
    ],
)
def test_pictures_are_turned_upright(orientation: int, upright: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode(encoded(SLOPE, exif=exif), "photo")
    np.testing.assert_array_equal(grey(picture), upright)
    assert picture.grey is not None
    np.testing.assert_array_equal(picture.grey, upright)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_large_pictures_are_averaged_down(form: str) -> None:
    large = np.kron(SLOPE, np.ones((500, 500), np.uint8))
    picture = decode(encoded(large, form), "photo")
    assert max(picture.values.shape) == WORKING_SIDE
    assert picture.grey is None
    assert grey(picture).mean() == pytest.approx(SLOPE.mean(), abs=1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encoded(DIGIT, "BMP"), "not a PNG or JPEG"),
        (encoded(DIGIT, "GIF"), "not a PNG or JPEG"),
        (encoded(DIGIT, "TIFF"), "not a PNG or JPEG"),
        (b"", "not a PNG or JPEG"),
        (b"%PDF-1.4", "not a PNG or JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG or JPEG"),
        (png(28, 28, b"not deflate data"), "damaged"),
        (png(0, 0, b""), ""),
        (png(2**31 - 1, 2**31 - 1, zlib.compress(bytes(100))), "scale it down"),
        (png(12_000, 12_000, zlib.compress(bytes(100))), "12000x12000 pixels, over 64,000,000"),
        (png(28, 28, zlib.compress(bytes(29 * 28)), extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8)))), ""),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_will_not_do_is_refused(content: bytes, words: str) -> None:
    refuse(content, words)


def test_limits_are_the_callers() -> None:
    refuse(GOOD, "over 50 bytes", limits=DecodeLimits(content=50))
    refuse(GOOD, "28x28 pixels, over 700", limits=DecodeLimits(pixels=700))
    progressive = encoded(DIGIT, "JPEG", progressive=True)
    decode(progressive, "photo")
    refuse(progressive, "too many scans", limits=DecodeLimits(scanned=28 * 28 * 2))
    decode(encoded(DIGIT, "JPEG"), "photo", DecodeLimits(scanned=28 * 28 * 2))


def data_of(depth: int, colour: int, columns: int, rows: int, share: float) -> bytes:
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    return zlib.compress(bytes(int(share * rows * (1 + -(-columns * samples * depth // 8)))))


@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (2, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 4), (8, 6)])
def test_a_png_whose_pixels_end_early_is_refused(depth: int, colour: int) -> None:
    """All its chunks are valid, and Pillow would fill the missing rows with black."""
    decode(png(13, 9, data_of(depth, colour, 13, 9, 1), depth=depth, colour=colour), "photo")
    refuse(png(13, 9, data_of(depth, colour, 13, 9, 0.99), depth=depth, colour=colour), "end early")
    refuse(png(13, 9, data_of(depth, colour, 13, 9, 0), depth=depth, colour=colour), "end early")


@pytest.mark.parametrize(("columns", "rows", "needed"), [(8, 8, 79), (1, 1, 2), (5, 3, 15 + 7)])
def test_an_interlaced_png_whose_pixels_end_early_is_refused(columns: int, rows: int, needed: int) -> None:
    """An 8x8 image has passes of 1x1, 1x1, 2x1, 2x2, 4x2, 4x4 and 8x4 pixels: 64 and one byte for each of 15 rows."""
    decode(png(columns, rows, zlib.compress(bytes(needed)), interlaced=1), "photo")
    refuse(png(columns, rows, zlib.compress(bytes(needed - 1)), interlaced=1), "end early")


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_a_truncated_png_is_refused(length: int) -> None:
    refuse(GOOD[:length])


def test_a_truncated_jpeg_is_refused() -> None:
    jpeg = encoded(DIGIT, "JPEG")
    for length in range(len(jpeg) - 2):
        refuse(jpeg[:length])


def test_what_follows_an_image_does_not_matter() -> None:
    for whole in (GOOD, encoded(DIGIT, "JPEG")):
        np.testing.assert_array_equal(decode(whole + b"%PDF-1.4", "x").values, decode(whole, "x").values)


@pytest.mark.parametrize(
    "whole",
    [GOOD, encoded(DIGIT, "JPEG"), encoded(DIGIT, "PNG", "P"), encoded(SLOPE, exif=bytes(Image.Exif()) + b"junk")],
    ids=["png", "jpeg", "palette", "exif"],
)
@settings(max_examples=200)
@given(data=st.data())
def test_a_damaged_file_never_raises_anything_else(whole: bytes, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        picture = decode(bytes(damaged), "photo", DecodeLimits(pixels=100_000))
    except KilonetError as error:
        refusal(error, "photo")
    else:
        assert picture.values.dtype == np.float32
        assert picture.values.ndim == 3


@given(tags=st.binary(max_size=60))
def test_damaged_metadata_never_raise_anything_else(tags: bytes) -> None:
    try:
        decode(encoded(SLOPE, "JPEG", exif=b"Exif\0\0II*\0" + tags), "photo")
    except KilonetError as error:
        refusal(error, "photo")


MEASURE = """
import resource, sys
from pathlib import Path
from kilonet.utils.errors import KilonetError
from kilonet.data.decode import decode
content = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(content, "bomb")
except KilonetError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("size", "words"), [((12_000, 12_000), "12000x12000 pixels"), ((4_000, 4_000), "end early")], ids=["large", "lying"]
)
def test_a_decompression_bomb_is_not_unpacked(tmp_path: Path, size: tuple[int, int], words: str) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size, zlib.compress(bytes((size[0] + 1) * size[1] - 1), 1)))
    message, mebibytes = python(MEASURE, path).out.splitlines()
    assert words in message
    assert int(mebibytes) < 30
