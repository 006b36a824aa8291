"""Damaged image files: each gives a picture or a KilonetError of one line, and never anything else."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import refusal
from kilonet.data.containers import open_container, png_chunks
from kilonet.data.decode import WORKING_SIDE, DecodeLimits, decode
from kilonet.utils.errors import KilonetError

UPRIGHT = ("BMP", "GIF", "TIFF")
"""Formats without an orientation, or that Pillow turns upright itself."""
LIMITS = DecodeLimits(pixels=100_000)
RANDOM = np.random.default_rng(0).integers(0, 256, (24, 20, 4), dtype=np.uint8)


def written(form: str, mode: str, **options: object) -> bytes:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RANDOM).convert(mode).save(stream, form, exif=exif, **options)
    return stream.getvalue()


def deep() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RANDOM[:, :, 0].astype(np.uint16) * 257).save(stream, "PNG")
    return stream.getvalue()


FILES: dict[str, bytes] = {
    **{f"png-{mode}": written("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    "png-transparent": written("PNG", "P", transparency=3),
    "png-deep": deep(),
    "jpeg": written("JPEG", "RGB"),
    "jpeg-grey": written("JPEG", "L"),
    "jpeg-cmyk": written("JPEG", "CMYK"),
    "jpeg-progressive": written("JPEG", "RGB", progressive=True),
    **{f"bmp-{mode}": written("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")},
    **{f"gif-{mode}": written("GIF", mode) for mode in ("1", "L", "P", "RGB")},
    **{f"tiff-{mode}": written("TIFF", mode) for mode in ("1", "L", "P", "RGB", "RGBA")},
    "tiff-lzw": written("TIFF", "RGB", compression="tiff_lzw"),
    "tiff-deflate": written("TIFF", "L", compression="tiff_adobe_deflate"),
    "webp": written("WebP", "RGB"),
    "webp-lossless": written("WebP", "RGBA", lossless=True),
}


def check(content: bytes) -> None:
    try:
        picture = decode(content, "photo", LIMITS)
    except KilonetError as error:
        refusal(error, "photo")
    else:
        assert picture.values.dtype == np.float32
        assert picture.values.ndim == 3
        assert max(picture.values.shape) <= WORKING_SIDE
        assert np.isfinite(picture.values).all()


def fuzz(contents: st.SearchStrategy[bytes], examples: int) -> None:
    @settings(max_examples=examples)
    @given(contents)
    def run(content: bytes) -> None:
        check(content)

    run()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Change, insert or remove some bytes of a file, more often near its start, where the headers are."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        if not content:
            break
        place = draw(st.integers(0, min(len(content), draw(st.sampled_from([64, 256, len(content)]))) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                content[place : place + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
            case 1:
                del content[place:]
                content.append(draw(st.integers(0, 255)))
            case _:
                content[place] = draw(st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 127, 128, 255])))
    return bytes(content)


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG file of chunks, each with the sum that it must have, so that Pillow reads on."""
    packed = [struct.pack(">I", len(data)) + kind + data for kind, data in chunks]
    sums = [struct.pack(">I", zlib.crc32(one[4:])) for one in packed]
    return b"\x89PNG\r\n\x1a\n" + b"".join(part for pair in zip(packed, sums, strict=True) for part in pair)


KINDS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"iCCP", b"zTXt", b"gAMA")


@st.composite
def changed_chunks(draw: st.DrawFn, whole: bytes) -> bytes:
    """Change the data or the kind of chunks, remove, repeat and swap them; all sums are right."""
    chunks = list(png_chunks(whole))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(chunks) - 1))
        kind, data = chunks[place]
        match draw(st.integers(0, 4)):
            case 0:
                del chunks[place]
            case 1:
                chunks.insert(draw(st.integers(0, len(chunks))), (draw(st.sampled_from(KINDS)), data))
            case 2:
                chunks[place] = (kind, draw(st.binary(max_size=30)))
            case _ if data:
                chunks[place] = (kind, draw(damaged(data)))
            case _:
                chunks.append((kind, data))
        if not chunks:
            break
    return png_of(chunks)


EXAMPLES = [pytest.param(30, id="short"), pytest.param(5_000, id="long", marks=pytest.mark.slow)]
PNG_EXAMPLES = [pytest.param(100, id="short"), pytest.param(10_000, id="long", marks=pytest.mark.slow)]
PNGS = {name: content for name, content in FILES.items() if name.startswith("png")}


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("whole", FILES.values(), ids=FILES)
def test_a_damaged_file(whole: bytes, examples: int) -> None:
    check(whole)
    fuzz(damaged(whole), examples)


@pytest.mark.parametrize("examples", PNG_EXAMPLES)
@pytest.mark.parametrize("whole", PNGS.values(), ids=PNGS)
def test_a_png_of_other_chunks(whole: bytes, examples: int) -> None:
    fuzz(changed_chunks(whole), examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_random_bytes(examples: int) -> None:
    starts = [whole[:length] for whole in FILES.values() for length in (2, 8, 12, 16, 30, 60)]
    fuzz(st.builds(bytes.__add__, st.sampled_from(starts), st.binary(max_size=200)), examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_random_exif(examples: int) -> None:
    """Exif in a JPEG file: an orientation is read or not, and the pixels always."""
    jpeg = FILES["jpeg"]
    tags = st.one_of(
        st.binary(max_size=80), damaged(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
    )

    def with_exif(exif: bytes) -> bytes:
        data = b"Exif\0\0" + exif
        return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data + jpeg[2:]

    fuzz(st.builds(with_exif, tags), examples)


def test_files_are_of_the_formats_that_they_should_be() -> None:
    for name, content in FILES.items():
        container = open_container(content)
        assert container is not None
        assert name.startswith(container.form.lower())
        assert container.orientation == (1 if container.form in UPRIGHT or name == "png-deep" else 6), name
