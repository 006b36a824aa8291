"""HEIC photos, with the extra and without: turned upright, and bounded by what their boxes say."""

import io
import itertools
import random
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import refusal
from kilonet.data.datasets import load_data
from kilonet.data.decode import DecodeLimits, decode
from kilonet.data.heic import heic_header, is_heic
from kilonet.data.preprocessing import Preprocessing
from kilonet.utils.errors import KilonetError


def box(kind: bytes, *content: bytes) -> bytes:
    whole = b"".join(content)
    return struct.pack(">I4s", 8 + len(whole), kind) + whole


def boxes_alone(columns: int = 96, rows: int = 64) -> bytes:
    """Return what a HEIC file says of its one coded image, without the image; made without the extra."""
    item = box(b"infe", struct.pack(">IHH4sx", 2 << 24, 1, 0, b"hvc1"))
    size = box(b"ispe", struct.pack(">III", 0, columns, rows))
    meta = box(
        b"meta",
        bytes(4),
        box(b"iinf", struct.pack(">IH", 0, 1), item),
        box(b"iprp", box(b"ipco", size), box(b"ipma", struct.pack(">IIHBB", 0, 1, 1, 1, 1))),
    )
    return box(b"ftyp", b"heic", bytes(4), b"mif1heic") + meta


def photo(columns: int = 96, rows: int = 64, *, tile: int = 0, turned: int = 1) -> bytes:
    """Return a HEIC file that is red on the left, green above and on the right, black below; needs the extra."""
    pillow_heif = pytest.importorskip("pillow_heif")
    pixels = np.zeros((rows, columns, 3), np.uint8)
    pixels[:, : columns // 2, 0] = 250
    pixels[: rows // 2, columns // 2 :, 1] = 250
    exif = Image.Exif()
    exif[0x0112] = turned
    stream = io.BytesIO()
    heif = pillow_heif.from_pillow(Image.fromarray(pixels))
    heif.save(stream, quality=90, exif=exif.tobytes(), **({"tile_size": tile} if tile else {}))
    return stream.getvalue()


def stating(content: bytes, size: tuple[int, int], other: tuple[int, int]) -> bytes:
    """Return a file whose boxes state another size."""
    before, after = (b"ispe" + bytes(4) + struct.pack(">II", *sides) for sides in (size, other))
    assert before in content
    return content.replace(before, after)


def refuse(content: bytes, *words: str, limits: DecodeLimits | None = None) -> str:
    with pytest.raises(KilonetError) as error:
        decode(content, "photo", limits or DecodeLimits(), evenly=True)
    return refusal(error, "photo", *words)


@pytest.mark.parametrize("tile", [0, 64])
def test_a_heic_photo_shows_what_was_saved(tile: int) -> None:
    content = photo(192, 128, tile=tile)
    picture = decode(content, "photo", evenly=True).values
    assert picture.shape == (128, 192, 3)
    corners = [picture[r, c].astype(int).tolist() for r, c in ((10, 10), (10, 180), (110, 180))]
    assert np.abs(np.array(corners) - [[250, 0, 0], [0, 250, 0], [0, 0, 0]]).max() < 12
    tiles = 6 if tile else 1
    assert heic_header(content).decoded == 320 * 320 * tiles * (2 if tile else 1)


def test_a_heic_photo_is_turned_upright() -> None:
    turned = decode(photo(turned=6), "photo", evenly=True).values
    assert turned.shape == (96, 64, 3)
    assert turned[10, 32, 0] > 200


def test_what_a_heic_photo_asks_for_is_bounded() -> None:
    content = photo()
    huge = stating(content, (96, 64), (60_000, 60_000))
    refuse(huge, "60000x60000 pixels", "scale it down")
    refuse(content, "over 6,000", limits=DecodeLimits(pixels=6000))
    refuse(content, "too many parts", limits=DecodeLimits(scanned=50_000))
    # The box says less than the coded image has: libheif decodes no more than the box.
    refuse(stating(photo(640, 480), (640, 480), (64, 64)), "Security limit")
    refuse(photo(1024, 1024), "MiB", limits=DecodeLimits(memory=10_000_000))


def test_damaged_heic_photos_are_refused_in_a_line() -> None:
    content = photo(192, 128, tile=64)
    for length in range(0, len(content), 7):
        refuse(content[:length])
    dice = random.Random(0)  # noqa: S311
    for _ in range(150):
        changed = bytearray(content)
        for _ in range(dice.randrange(1, 6)):
            changed[dice.randrange(16, len(changed))] = dice.randrange(256)
        try:
            decode(bytes(changed), "photo", evenly=True)
        except KilonetError as error:
            refusal(error, "photo")


def folder_with(content: bytes, folder: Path) -> Path:
    """Write two classes of three images, and a HEIC file beside the first."""
    for name in ("cat", "dog"):
        for number in range(3):
            path = folder / "train" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (12, 12), 40 * number + len(name)).save(path)
    (folder / "train" / "cat" / "IMG_1.HEIC").write_bytes(content)
    return folder


def test_a_heic_photo_is_one_of_a_folder_s_images(tmp_path: Path) -> None:
    data = load_data(str(folder_with(photo(), tmp_path)), Preprocessing((3, 12, 12)))
    assert (len(data.train) + len(data.test), data.skipped) == (7, ())


def test_without_the_extra_a_heic_photo_is_listed_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs with the extra and without: of the file, only what it says it is is read."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert is_heic(boxes_alone())
    assert heic_header(boxes_alone()).size == (96, 64)
    data = load_data(str(folder_with(boxes_alone(), tmp_path)), Preprocessing((3, 12, 12)))
    ((path, reason),) = data.skipped
    assert len(data.train) + len(data.test) == 6
    assert path.name == "IMG_1.HEIC"
    assert "pip install '.[heic]'" in reason
    with pytest.raises(KilonetError) as error:
        decode(boxes_alone(), "photo", evenly=True)
    assert "pip install '.[heic]'" in str(error.value)


def test_boxes_that_go_beyond_their_end_are_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of many could otherwise go on to the end of the file."""
    reads = itertools.count()
    unpack = struct.unpack_from
    monkeypatch.setattr(struct, "unpack_from", lambda *given: (next(reads), unpack(*given))[1])
    long = box(b"ipma", struct.pack(">II", 0, 90_000))
    item = box(b"infe", struct.pack(">IHH4sx", 2 << 24, 1, 0, b"hvc1"))
    listed = box(b"iinf", struct.pack(">IH", 0, 1), item)
    grid = box(b"dimg", struct.pack(">HH", 1, 60_000))
    for boxes in (box(b"iprp", *[long] * 50, box(b"free", bytes(300_000))), box(b"iref", bytes(4), *[grid] * 50)):
        content = box(b"ftyp", b"heic", bytes(4), b"mif1heic") + box(b"meta", bytes(4), listed, boxes, bytes(300_000))
        with pytest.raises(ValueError, match="truncated"):
            heic_header(content)
    assert next(reads) < 200
