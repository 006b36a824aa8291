"""HEIC files: what their boxes say of the pixels that decoding takes, before the decoder sees them.

Pillow reads them by pillow-heif, an extra, which decodes with libheif and libde265. libheif decodes no image whose
sides are over 64 pixels longer than its box `ispe` says, so what these boxes say bounds memory and time.

Photos of phones are grids of some dozens of coded images. Only those and single coded images are read, no grids of
grids.

Sources: ISO/IEC 14496-12, 8.11 (items); ISO/IEC 23008-12, 6.5.3 (`ispe`), 6.6.2 (grids), annex B (brands).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kilonet.utils.errors import UnreadError
from kilonet.utils.extras import needed_from

_BRANDS = frozenset([b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"])
_CODED, _GRID = b"hvc1", b"grid"
_LEAST_PIXELS = 320 * 320
"""libheif may decode a coded image to so many pixels whatever its box says."""
_MOST_BOXES = 20_000
"""A grid has at most 1,000 items for libheif, each with a few boxes."""


@dataclass(frozen=True)
class HeicHeader:
    """What decoding a HEIC file takes."""

    size: tuple[int, int]
    """Columns and rows of the largest image in it."""
    decoded: int
    """How many pixels are decoded at most, each as often as a grid names its image."""


def is_heic(head: bytes) -> bool:
    """Return whether a file with these first bytes says that it is HEIC."""
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS


def register() -> None:
    """Let Pillow read HEIC files, as the format `HEIF`.

    Raises:
        NotInstalled: pillow-heif is not there; the message has the command that installs it.
    """
    with needed_from("heic", "a HEIC photo"):
        from pillow_heif import register_heif_opener  # noqa: PLC0415
    register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)


def heic_header(content: bytes) -> HeicHeader:
    """Read what the boxes of a HEIC file say.

    Raises:
        ValueError: it is damaged.
        UnreadError: it is of a kind that is not read.
        struct.error: it is truncated.
    """
    found = [(first, last) for kind, first, last in _boxes(content, 0, len(content)) if kind == b"meta"]
    if len(found) != 1:
        raise ValueError("no box that says what is in it")
    start, end = found[0]
    kinds: dict[int, bytes] = {}
    sizes: dict[int, tuple[int, int]] = {}
    times: dict[int, int] = {}
    for kind, first, last in _boxes(content, start + 4, end):
        if kind == b"iinf":
            skipped = 6 if content[first] == 0 else 8
            kinds = dict(_item(content, place) for name, place, _ in _boxes(content, first + skipped, last))
        elif kind == b"iprp":
            sizes = _sizes(content, first, last)
        elif kind == b"iref":
            times = _times(content, first, last, kinds)
    coded = [item for item, kind in kinds.items() if kind == _CODED]
    if not coded or any(item not in sizes for item in coded):
        raise ValueError("no image with a size in it")
    size = max(sizes.values(), key=lambda sides: sides[0] * sides[1])
    decoded = sum(max(_LEAST_PIXELS, sizes[item][0] * sizes[item][1]) * (1 + times.get(item, 0)) for item in coded)
    return HeicHeader(size, decoded)


def _boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each box, and the start and the end of what is in it."""
    for _ in range(_MOST_BOXES):
        if start >= end:
            return
        length, kind = struct.unpack_from(">I4s", content, start)
        first = start + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", content, first)
            first += 8
        last = end if length == 0 else start + length
        if not first <= last <= end:
            raise ValueError("truncated")
        yield kind, first, last
        start = last
    raise ValueError("too many boxes")


def _item(content: bytes, place: int) -> tuple[int, bytes]:
    """Return the number and the kind of an item, from its box `infe`."""
    item, kind = struct.unpack_from(">H2x4s" if content[place] == 2 else ">I2x4s", content, place + 4)
    return item, kind


def _sizes(content: bytes, start: int, end: int) -> dict[int, tuple[int, int]]:
    """Return columns and rows of each item that has them, from the box `iprp`; the largest of several."""
    properties: list[tuple[int, int] | None] = []
    found: dict[int, tuple[int, int]] = {}
    for kind, first, last in _boxes(content, start, end):
        if kind == b"ipco":
            for name, place, _ in _boxes(content, first, last):
                properties.append(struct.unpack_from(">II", content, place + 4) if name == b"ispe" else None)
        elif kind == b"ipma":
            for item, index in _associations(content, first, last):
                size = properties[index - 1] if 0 < index <= len(properties) else None
                if size is not None:
                    found[item] = max(size, found.get(item, (0, 0)), key=lambda sides: sides[0] * sides[1])
    return found


def _associations(content: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield pairs of an item and the number of a property, from 1 on, from a box `ipma`.

    Raises:
        ValueError: they go beyond the box; many boxes that each go on to the end of the file would take minutes.
    """
    version, wide = content[start], content[start + 3] & 1
    (entries,) = struct.unpack_from(">I", content, start + 4)
    place = start + 8
    for _ in range(entries):
        item, count = struct.unpack_from(">HB" if version == 0 else ">IB", content, place)
        place += 3 if version == 0 else 5
        if place + count * (2 if wide else 1) > end:
            raise ValueError("truncated")
        for _ in range(count):
            (index,) = struct.unpack_from(">H" if wide else ">B", content, place)
            place += 2 if wide else 1
            yield item, index & (0x7FFF if wide else 0x7F)


def _times(content: bytes, start: int, end: int, kinds: dict[int, bytes]) -> dict[int, int]:
    """Return how often grids name each item, from the box `iref`.

    Raises:
        UnreadError: something else than a grid is made of other images, or a grid of others than coded ones.
    """
    form, each = (">HH", ">H") if content[start] == 0 else (">IH", ">I")
    times: dict[int, int] = {}
    for kind, first, last in _boxes(content, start + 4, end):
        if kind != b"dimg":
            continue
        derived, count = struct.unpack_from(form, content, first)
        place = first + struct.calcsize(form)
        if place + count * struct.calcsize(each) > last:
            raise ValueError("truncated")
        for number in range(count):
            (item,) = struct.unpack_from(each, content, place + number * struct.calcsize(each))
            if kinds.get(derived) != _GRID or kinds.get(item) != _CODED:
                raise UnreadError("a HEIC photo of a kind that is not read; save it as JPEG")
            times[item] = times.get(item, 0) + 1
    return times
