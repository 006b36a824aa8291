"""Image files: every kind of PNG, JPEG, BMP and WebP becomes one kind of picture; other files are refused undecoded."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from helpers import PEAK, python, refusal
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


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA"])
def test_bmp_and_lossless_webp_show_the_same(mode: str) -> None:
    for form in ("BMP", "WebP"):
        picture = decode(encoded(DIGIT, form, mode, lossless=True), "photo")
        assert (picture.grey is not None) == (form == "BMP" and mode in ("L", "P"))
        np.testing.assert_array_equal(picture.values.mean(2).round(), DIGIT)


def test_webp_is_turned_upright_and_an_animation_refused() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(encoded(SLOPE, "WebP", exif=exif, lossless=True), "photo")
    np.testing.assert_array_equal(grey(turned), np.rot90(SLOPE, -1))
    frames = [Image.fromarray(DIGIT), Image.fromarray(255 - DIGIT)]
    stream = io.BytesIO()
    frames[0].save(stream, "WebP", save_all=True, append_images=frames[1:])
    # A whole file of a kind that is not read is not damaged.
    assert "damaged" not in refuse(stream.getvalue(), "animation")


def test_a_file_that_ends_within_a_field_is_truncated() -> None:
    assert "unpack" not in refuse(b"II*\0" + bytes(50), "damaged: truncated")


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


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WebP"])
def test_large_pictures_are_averaged_down(form: str) -> None:
    large = np.kron(SLOPE, np.ones((500, 500), np.uint8))
    picture = decode(encoded(large, form, lossless=True), "photo")
    assert max(picture.values.shape) == WORKING_SIDE
    assert picture.grey is None
    assert grey(picture).mean() == pytest.approx(SLOPE.mean(), abs=1)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WebP"])
def test_every_pixel_is_kept_for_networks_of_other_images(form: str) -> None:
    large = np.random.default_rng(0).integers(0, 256, (700, 1500, 3), np.uint8)
    content = encoded(large, form, lossless=True)
    picture = decode(content, "photo", evenly=True)
    assert picture.values.dtype == np.uint8
    with Image.open(io.BytesIO(content)) as opened:
        np.testing.assert_array_equal(picture.values, np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WebP"])
def test_a_picture_too_large_for_the_memory_is_scaled_down_by_a_whole_number(form: str) -> None:
    large = np.kron(SLOPE, np.ones((500, 500), np.uint8))[:, :, None].repeat(3, 2)
    each = 24 if form == "WebP" else 12
    limits = DecodeLimits(memory=large.shape[0] * large.shape[1] * each - 1)
    picture = decode(encoded(large, form, lossless=True), "photo", limits, evenly=True)
    assert picture.values.shape[:2] == (-(-large.shape[0] // 2), -(-large.shape[1] // 2))
    assert picture.values.mean() == pytest.approx(SLOPE.mean(), abs=1)


def test_transparent_pixels_of_a_large_picture_become_paper() -> None:
    layers = np.zeros((600, 400, 4), np.uint8)
    for ink, paper in (((30, 20, 10), 255), ((230, 220, 210), 0)):
        layers[300:500, 100:300] = *ink, 255
        picture = decode(encoded(layers), "drawing", evenly=True)
        assert (picture.values[:300] == paper).all()
        assert tuple(picture.values[400, 200]) == ink


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encoded(DIGIT, "GIF")[:-20], "damaged"),
        (encoded(DIGIT, "TIFF")[:-20], "damaged"),
        (b"", "not a PNG, JPEG, BMP, GIF, WebP or TIFF"),
        (b"%PDF-1.4", "not a PNG, JPEG, BMP, GIF, WebP or TIFF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG, JPEG, BMP, GIF, WebP or TIFF"),
        (b"\0\0\0\x1cftypavif" + bytes(20), "an AVIF image, a kind that is not read; save it as JPEG or PNG"),
        (png(28, 28, b"not deflate data"), "damaged"),
        (png(0, 0, b""), "damaged: its first bytes are those of a picture, the rest is none"),
        (png(2**31 - 1, 2**31 - 1, zlib.compress(bytes(100))), "scale it down"),
        (png(12_000, 12_000, zlib.compress(bytes(100))), "12000x12000 pixels, over 64,000,000"),
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


def test_metadata_are_not_read_however_large() -> None:
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8)))
    frames = chunk(b"acTL", struct.pack(">II", 10**9, 0))
    np.testing.assert_array_equal(
        grey(decode(png(28, 28, zlib.compress(bytes(29 * 28)), extra=text + frames), "photo")), np.zeros((28, 28))
    )


def exif_of(entries: int, length: int) -> bytes:
    """Return an Exif directory, each of whose entries stands for the `length` bytes that follow it."""
    start = 8 + 2 + 12 * entries + 4
    table = b"".join(struct.pack("<HHII", tag, 7, length, start) for tag in range(0x1000, 0x1000 + entries))
    return b"II*\0" + struct.pack("<IH", 8, entries) + table + bytes(4 + length)


def jpeg_with(*segments: bytes, progressive: bool = False) -> bytes:
    """Return a JPEG file with segments put after its start."""
    jpeg = encoded(DIGIT, "JPEG", progressive=progressive)
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


# An MPF directory of two pictures, whose places do not matter.
MPF = b"MPF\0II*\0" + struct.pack("<IH", 8, 3) + struct.pack("<HHII", 0xB000, 7, 4, int.from_bytes(b"0100", "little"))
MPF += struct.pack("<HHII", 0xB001, 4, 1, 2) + struct.pack("<HHII", 0xB002, 7, 32, 50) + bytes(4 + 32)


def test_scans_are_counted_whatever_pillow_calls_the_file() -> None:
    """With an MPF directory a JPEG file is an MPO file to Pillow."""
    whole = jpeg_with(segment(0xE2, MPF), progressive=True)
    with Image.open(io.BytesIO(whole)) as image:
        assert image.format == "MPO"
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    many = whole[:-2] + 500 * scan + b"\xff\xd9"
    np.testing.assert_array_equal(decode(whole, "photo").values, decode(jpeg_with(progressive=True), "photo").values)
    refuse(many, "too many scans for 28x28 pixels", limits=DecodeLimits(scanned=28 * 28 * 100))


def test_a_palette_that_is_missing_is_an_error_in_one_line() -> None:
    refuse(png(28, 28, zlib.compress(bytes(29 * 28)), colour=3), "damaged")


@pytest.mark.parametrize(
    ("form", "mode", "bytes_a_pixel"),
    [
        ("PNG", "1", 2),
        ("PNG", "L", 1),
        ("PNG", "P", 5),
        ("PNG", "RGB", 4),
        ("PNG", "RGBA", 8),
        ("PNG", "I;16", 6),
        ("BMP", "RGB", 4),
        ("WebP", "RGB", 16),
        ("JPEG", "L", 1),
        ("JPEG", "RGB", 4),
        ("JPEG", "CMYK", 8),
    ],
)
def test_memory_is_bounded_by_pixels_and_their_kind(form: str, mode: str, bytes_a_pixel: int) -> None:
    deep = DIGIT.astype(np.uint16) * 257
    content = encoded(deep, form) if mode == "I;16" else encoded(DIGIT, form, mode, lossless=True)
    decode(content, "photo", DecodeLimits(memory=bytes_a_pixel * 28 * 28))
    refuse(content, "MiB", limits=DecodeLimits(memory=bytes_a_pixel * 28 * 28 - 1))


def test_several_scans_take_the_memory_of_all_coefficients() -> None:
    progressive = encoded(DIGIT, "JPEG", "RGB", progressive=True)
    decode(progressive, "photo", DecodeLimits(memory=10 * 28 * 28))
    refuse(progressive, "MiB", limits=DecodeLimits(memory=10 * 28 * 28 - 1))


MEASURE = f"""{PEAK}
from pathlib import Path
from kilonet.utils.errors import KilonetError
from kilonet.data.decode import decode
content = Path(sys.argv[1]).read_bytes()
before = peak()
try:
    decode(content, "bomb")
except KilonetError as error:
    print(error)
print(peak() - before)
"""


def zeros(columns: int, rows: int, missing: int = 0) -> bytes:
    return zlib.compress(bytes((columns + 1) * rows - missing), 1)


BOMBS = {
    "large": (png(12_000, 12_000, zeros(12_000, 12_000)), "12000x12000 pixels"),
    "lying": (png(4_000, 4_000, zeros(4_000, 4_000, 1)), "end early"),
    # 64 million pixels of two transparent colours in some kilobytes.
    "palette": (
        png(
            8_000, 8_000, zeros(1_000, 8_000), depth=1, colour=3, extra=chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", b"ab")
        ),
        "decoding it takes 793 MiB, over 381",
    ),
    # Every entry claims the same bytes.
    "exif": (png(28, 28, zlib.compress(bytes(29 * 28)), extra=chunk(b"eXIf", exif_of(5_000, 1 << 20))), ""),
    "jpeg-exif": (jpeg_with(*[segment(0xE1, b"Exif\0\0" + exif_of(2_500, 30_000))] * 3), ""),
}


@pytest.mark.parametrize(("content", "words"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_takes_little_memory(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(content)
    *message, mebibytes = python(MEASURE, path).out.splitlines()
    assert words in "".join(message)
    assert int(mebibytes) < 30


def test_floats_are_refused_by_the_memory_that_they_take(tmp_path: Path) -> None:
    path = tmp_path / "floats.tif"
    path.write_bytes(encoded(np.zeros((4200, 4200), np.float32), "TIFF", compression="tiff_lzw"))
    *message, mebibytes = python(MEASURE, path).out.splitlines()
    assert "decoding it takes 403 MiB, over 381" in "".join(message)
    assert int(mebibytes) < 30


def test_what_is_transparent_around_a_sheet_gets_the_colour_of_its_rim() -> None:
    sheet = np.full((40, 40), 200, np.uint8)
    sheet[12:28, 18:22] = 20
    for paper in (sheet, 255 - sheet):
        layers = np.stack([np.pad(paper, 10, constant_values=7), np.pad(np.full_like(paper, 255), 10)], -1)
        stream = io.BytesIO()
        Image.fromarray(layers, "LA").save(stream, "PNG")
        values = decode(stream.getvalue(), "sheet").values
        assert (values[0, 0] == paper[0, 0]).all()
        # Images for other networks are laid on white or black, as those that they were trained on.
        assert decode(stream.getvalue(), "sheet", evenly=True).values[0, 0, 0] in {0, 255}


@pytest.mark.parametrize("most", [1.0, 255.0])
def test_float_levels_to_1_and_to_255_show_the_same(most: float) -> None:
    levels = np.linspace(0, 255, 600, dtype=np.float32).reshape(20, 30)
    content = encoded(levels / np.float32(255) * np.float32(most), "TIFF")
    np.testing.assert_allclose(grey(decode(content, "picture")), levels, atol=1)


@pytest.mark.parametrize("form", ["GIF", "PNG"])
@pytest.mark.parametrize("is_dark", [True, False])
def test_the_soft_rim_of_ink_on_a_transparent_colour_is_not_taken_for_its_paper(form: str, is_dark: bool) -> None:
    disc = Image.new("L", (240, 240))
    ImageDraw.Draw(disc).ellipse((40, 40, 200, 200), fill=255)
    ink = np.asarray(disc.resize((80, 80), Image.Resampling.BICUBIC))
    levels = 255 - ink if is_dark else ink
    content = encoded(levels, form, transparency=255 if is_dark else 0)
    assert grey(decode(content, "picture"))[0, 0] == pytest.approx(255 if is_dark else 0)
