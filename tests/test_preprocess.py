"""Image files: grey PNG and JPEG of the right size are read, everything else gets a line of its own."""

import contextlib
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
from kilonet.errors import KilonetError
from kilonet.preprocess import read_image, read_images

SHAPE = (1, 28, 28)
DIGIT = (np.add.outer(np.arange(28), np.arange(28)) * 4).astype(np.uint8)


def encoded(pixels: NDArray[np.generic], form: str, mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, form)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(columns: int, rows: int, data: bytes, *, depth: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    """A PNG file whose header may say anything."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


GOOD = encoded(DIGIT, "PNG")


def refuse(path: Path, content: bytes, *words: str) -> str:
    path.write_bytes(content)
    with pytest.raises(KilonetError) as error:
        read_image(path, SHAPE)
    return refusal(error, path, *words)


def test_a_png_is_read_exactly(tmp_path: Path) -> None:
    (tmp_path / "digit.png").write_bytes(GOOD)
    pixels = read_image(tmp_path / "digit.png", SHAPE)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, DIGIT)


def test_a_jpeg_is_read_nearly(tmp_path: Path) -> None:
    (tmp_path / "digit.jpg").write_bytes(encoded(DIGIT, "JPEG"))
    pixels = read_image(tmp_path / "digit.jpg", SHAPE)
    assert np.abs(pixels.astype(int) - DIGIT).max() < 12


def test_the_name_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "digit.txt").write_bytes(GOOD)
    np.testing.assert_array_equal(read_image(tmp_path / "digit.txt", SHAPE), DIGIT)


def test_rows_and_columns_are_not_mixed_up(tmp_path: Path) -> None:
    (tmp_path / "wide.png").write_bytes(encoded(DIGIT[:10], "PNG"))
    assert read_image(tmp_path / "wide.png", (1, 10, 28)).shape == (10, 28)
    with pytest.raises(KilonetError) as error:
        read_image(tmp_path / "wide.png", (1, 28, 10))
    refusal(error, "28x10 pixels, not 10x28")


def test_several_files_are_read_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(DIGIT + np.uint8(number), "PNG"))
    pixels = read_images(paths, SHAPE)
    assert pixels.shape == (3, 28, 28)
    for number in range(3):
        np.testing.assert_array_equal(pixels[number], DIGIT + np.uint8(number))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encoded(np.zeros((27, 28), np.uint8), "PNG"), "28x27 pixels, not 28x28"),
        (encoded(np.zeros((280, 280), np.uint8), "JPEG"), "280x280 pixels"),
        (encoded(DIGIT, "PNG", "RGB"), "mode is RGB"),
        (encoded(DIGIT, "JPEG", "RGB"), "mode is RGB"),
        (encoded(DIGIT, "PNG", "RGBA"), "mode is RGBA"),
        (encoded(DIGIT, "PNG", "LA"), "mode is LA"),
        (encoded(DIGIT, "PNG", "P"), "mode is P"),
        (encoded(DIGIT, "PNG", "1"), "mode is 1"),
        (encoded(DIGIT.astype(np.uint16), "PNG"), "mode is I;16"),
        (encoded(DIGIT, "BMP"), "not a PNG or JPEG"),
        (encoded(DIGIT, "GIF"), "not a PNG or JPEG"),
        (encoded(DIGIT, "TIFF"), "not a PNG or JPEG"),
        (b"", "not a PNG or JPEG"),
        (b"%PDF-1.4", "not a PNG or JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG or JPEG"),
        (png(28, 28, b"not deflate data"), ""),
        (png(0, 0, b""), ""),
        (png(2**31 - 1, 2**31 - 1, zlib.compress(bytes(100))), "larger than 28x28"),
        (png(12_000, 12_000, zlib.compress(bytes(100))), "12000x12000 pixels"),
        (png(40_000, 40_000, zlib.compress(bytes(100))), "larger than 28x28"),
        (png(28, 28, zlib.compress(bytes(29 * 28)), extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8)))), ""),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_will_not_do_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    refuse(tmp_path / "image.png", content, words)


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_a_truncated_png_is_refused_unless_all_pixels_are_there(tmp_path: Path, length: int) -> None:
    if length < 50:
        refuse(tmp_path / "short.png", GOOD[:length])
        return
    (tmp_path / "short.png").write_bytes(GOOD[:length])
    with contextlib.suppress(KilonetError):
        np.testing.assert_array_equal(read_image(tmp_path / "short.png", SHAPE), DIGIT)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_jpeg_is_refused(tmp_path: Path, share: float) -> None:
    jpeg = encoded(DIGIT, "JPEG")
    refuse(tmp_path / "short.jpg", jpeg[: int(share * len(jpeg))])


@pytest.mark.parametrize("whole", [GOOD, encoded(DIGIT, "JPEG")], ids=["png", "jpeg"])
@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_file_never_raises_anything_else(
    whole: bytes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.image"
    path.write_bytes(damaged)
    try:
        pixels = read_image(path, SHAPE)
    except KilonetError as error:
        refusal(error, path)
    else:
        assert pixels.shape == (28, 28)
        assert pixels.dtype == np.uint8


MEASURE = """
import resource, sys
from pathlib import Path
from kilonet.errors import KilonetError
from kilonet.preprocess import read_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_image(Path(sys.argv[1]), (1, 28, 28))
except KilonetError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_decompression_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(12_000, 12_000, zlib.compress(bytes(12_001 * 12_000), 1)))
    message, mebibytes = python(MEASURE, path).out.splitlines()
    assert "12000x12000 pixels" in message
    assert int(mebibytes) < 30


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "missing.png", "No such file"), (tmp_path, "directory")):
        with pytest.raises(KilonetError) as error:
            read_image(path, SHAPE)
        refusal(error, path, words)
