"""Image files taken apart before Pillow sees them: only what holds pixels is kept, and what it asks for is counted.

Metadata are left out, but for the orientation, which is read here: with an MPF directory a JPEG file is of another
format to Pillow, whose label then says nothing of its scans; Exif and text are formats of their own with lengths to lie
about, and no pixel depends on them.

Of a GIF or TIFF file the first picture is read.

Sources: ITU-T T.81, annex B (JPEG); W3C, "Portable Network Graphics (PNG) Specification", 5 (PNG); RFC 9649 (WebP);
Microsoft, "BITMAPINFOHEADER" (BMP); CIPA DC-008, "Exif", 4.6 (orientation); CompuServe,
"GIF89a Specification" (GIF); Adobe, "TIFF Revision 6.0", 2 and 8 (TIFF).
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from kilonet.data.heic import heic_header, is_heic
from kilonet.utils.errors import UnreadError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WebP", "TIFF")
"""The formats that are read, recognised by a file's first bytes whatever its name; HEIC is, too, with its extra."""
LONGEST_MAGIC = 16
"""How many bytes of a file tell its format."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8"
_START_OF_SCAN = b"\xff\xda"
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Frames, Huffman and arithmetic tables, quantisation, restarts; JFIF and Adobe, which say what the colours are.
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_PIXEL_SEGMENTS = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE}
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_ANIMATED = 0x02
_UNCOMPRESSED = (0, 3)
"""BMP's codes of plain pixels and of plain pixels with masks."""
_GIF_SIGNATURES = (b"GIF87a", b"GIF89a")
_TIFF_SIGNATURES = {b"II*\0": "<", b"MM\0*": ">"}
"""TIFF's first bytes, each with its byte order."""
_TIFF_COMPRESSIONS = frozenset({1, 5, 8, 32773, 32946})
"""TIFF's codes of plain pixels, LZW, Deflate (two codes) and PackBits."""
_TIFF_COMPRESSION, _TIFF_TILE_SIDES = 259, (322, 323)
_TIFF_WIDTH, _TIFF_LENGTH = 256, 257
_LONGEST_TILE = 4096
"""The longest side of a TIFF tile, which has a buffer of its own."""
_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4
_UPRIGHT, _HIGHEST_ORIENTATION = 1, 8


@dataclass(frozen=True)
class Container:
    """The parts of an image file that hold its pixels."""

    form: str
    """One of `FORMATS`, or `HEIF`."""
    content: bytes
    """A file of the same pixels without metadata."""
    size: tuple[int, int] | None = None
    """Columns and rows where they are known before Pillow opens the file, which WebP needs and JPEG files tell."""
    orientation: int = _UPRIGHT
    """Exif's orientation, 1 to 8; 1 is upright."""
    scans: int = 1
    """How many scans a JPEG file has at most; each is a pass over the whole picture. Of a HEIC file, how many times the
    largest image's pixels are decoded at most."""
    is_progressive: bool = False
    """Whether all coefficients of a JPEG file are in memory at once."""


def open_container(content: bytes) -> Container | None:  # noqa: PLR0911 - one for each format.
    """Take a file apart; None if it is of no format in `FORMATS`.

    Raises:
        UnreadError: the file is an animation, or compressed in a way that is not read.
        ValueError: it is damaged.
        struct.error: it is truncated.
    """
    if content.startswith(_PNG_SIGNATURE):
        return _open_png(content)
    if content.startswith(_JPEG_START):
        return _open_jpeg(content)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return _open_webp(content)
    if content.startswith(b"BM"):
        return _open_bmp(content)
    if content.startswith(_GIF_SIGNATURES):
        return _open_gif(content)
    if content[:4] in _TIFF_SIGNATURES:
        return _open_tiff(content)
    if is_heic(content):
        return _open_heic(content)
    return None


def is_avif(content: bytes) -> bool:
    """Return whether a file says that it is an AVIF image, which is not read."""
    return content[4:8] == b"ftyp" and content[8:12] in (b"avif", b"avis")


def is_image(head: bytes) -> bool:
    """Return whether a file with these first bytes is of a format that is read; `LONGEST_MAGIC` of them tell."""
    starts = (_PNG_SIGNATURE, _JPEG_START + b"\xff", *_GIF_SIGNATURES, *_TIFF_SIGNATURES)
    # BMP's two letters begin many texts; the size of its header follows at byte 14.
    is_bmp = head.startswith(b"BM") and head[6:10] == b"\0\0\0\0"
    return head.startswith(starts) or is_bmp or is_heic(head) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the data of each chunk of a PNG file, up to IEND, which ends the file.

    Raises:
        ValueError: the file ends early.
        struct.error: the same.
    """
    kind, position = b"", len(_PNG_SIGNATURE)
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, position)
        position += 8
        if position + length + 4 > len(content):
            raise ValueError("truncated")
        yield kind, content[position : position + length]
        position += length + 4


def _open_png(content: bytes) -> Container:
    kept, exif = [_PNG_SIGNATURE], b""
    position = len(_PNG_SIGNATURE)
    if content[12:16] != b"IHDR":
        raise ValueError("its header does not come first")
    for kind, data in png_chunks(content):
        end = position + len(data) + 12
        if kind in _PIXEL_CHUNKS:
            kept.append(content[position:end])
        elif kind == b"eXIf":
            exif = data
        position = end
    return Container("PNG", b"".join(kept), orientation=orientation_of(exif))


def _open_jpeg(content: bytes) -> Container:
    kept, exif, xmp, position, progressive = [_JPEG_START], b"", b"", 2, False
    size = None
    while True:
        start = content.index(b"\xff", position)
        if start != position:
            raise ValueError("bytes between its segments")
        while content[position : position + 1] == b"\xff":
            position += 1
        (marker,) = struct.unpack_from("B", content, position)
        position += 1
        if marker == _START_OF_SCAN[1]:
            rest = _START_OF_SCAN + content[position:]
            scans = rest.count(_START_OF_SCAN)
            orientation = orientation_of(exif, xmp)
            return Container("JPEG", b"".join([*kept, rest]), size, orientation, scans, progressive or scans > 1)
        if marker in _WITHOUT_LENGTH:
            continue
        (length,) = struct.unpack_from(">H", content, position)
        if length < 2 or position + length > len(content):
            raise ValueError("truncated")
        segment = content[position + 2 : position + length]
        if marker in _PIXEL_SEGMENTS:
            kept.append(b"\xff" + bytes([marker]) + content[position : position + length])
            progressive |= marker in _FRAMES and marker not in _SEQUENTIAL
            size = _frame_size(segment) if marker in _FRAMES else size
        elif segment.startswith(_EXIF):
            exif = exif or segment[len(_EXIF) :]
        elif segment.startswith(_XMP):
            xmp = xmp or segment[len(_XMP) :]
        position += length


def _frame_size(segment: bytes) -> tuple[int, int]:
    rows, columns = struct.unpack_from(">xHH", segment)
    return columns, rows


def _open_webp(content: bytes) -> Container:
    """Read the first chunk: VP8X with the size of the canvas, or VP8 or VP8L, which hold the one picture."""
    kind, data = content[12:16], content[20:]
    if kind == b"VP8X":
        flags, *sides = struct.unpack_from("<B3xHBHB", data)
        if flags & _ANIMATED:
            raise UnreadError("an animation; save one picture of it")
        size = (1 + sides[0] + (sides[1] << 16), 1 + sides[2] + (sides[3] << 16))
        return Container("WebP", content, size, orientation_of(_webp_exif(content)))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<xI", data)
        return Container("WebP", content, (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)))
    if kind == b"VP8 ":
        columns, rows = struct.unpack_from("<6xHH", data)
        return Container("WebP", content, (columns & 0x3FFF, rows & 0x3FFF))
    raise ValueError("no WebP picture in it")


def _webp_exif(content: bytes) -> bytes:
    position = 12
    while position + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, position)
        if kind == b"EXIF":
            return content[position + 8 : position + 8 + length].removeprefix(_EXIF)
        position += 8 + length + length % 2
    return b""


def _open_bmp(content: bytes) -> Container:
    (header,) = struct.unpack_from("<I", content, 14)
    compression = struct.unpack_from("<I", content, 30)[0] if header > 12 else 0
    if compression not in _UNCOMPRESSED:
        raise UnreadError("a compressed BMP file; save it as PNG")
    return Container("BMP", content)


def _open_gif(content: bytes) -> Container:
    """Keep the colours, the transparency and the first picture."""
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    kept = [content[:position]]
    while content[position : position + 1] == b"!":
        end = _after_gif_blocks(content, position + 2)
        if content[position + 1 : position + 2] == b"\xf9":
            kept.append(content[position:end])
        position = end
    if content[position : position + 1] != b",":
        raise ValueError("no picture in it")
    left, top, columns, rows, flags = struct.unpack_from("<HHHHB", content, position + 1)
    if left + columns > width or top + rows > height:
        raise ValueError("its picture is larger than its screen")
    pixels = position + 10 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    kept += [content[position : _after_gif_blocks(content, pixels + 1)], b";"]
    return Container("GIF", b"".join(kept), (width, height))


def _after_gif_blocks(content: bytes, position: int) -> int:
    """Return the place after a chain of blocks of up to 255 bytes, each with its length, which an empty one ends."""
    while length := content[position : position + 1]:
        position += 1 + length[0]
        if length == b"\0":
            return position
    raise ValueError("truncated")


def _open_tiff(content: bytes) -> Container:
    """Check what the first directory says. Pillow turns a TIFF file upright itself."""
    order = _TIFF_SIGNATURES[content[:4]]
    (place,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, place)
    values: dict[int, int] = {}
    for entry in range(count):
        tag, kind, number = struct.unpack_from(f"{order}HHI", content, place + 2 + 12 * entry)
        if number == 1 and kind in (_SHORT, _LONG):
            (values[tag],) = struct.unpack_from(
                order + ("H" if kind == _SHORT else "I"), content, place + 10 + 12 * entry
            )
    if values.get(_TIFF_COMPRESSION, 1) not in _TIFF_COMPRESSIONS:
        raise UnreadError("a TIFF file of a compression that is not read; save it as PNG")
    if any(values.get(side, 0) > _LONGEST_TILE for side in _TIFF_TILE_SIDES):
        raise UnreadError(f"its tiles are over {_LONGEST_TILE} pixels long; save it as PNG")
    return Container("TIFF", content, (values[_TIFF_WIDTH], values[_TIFF_LENGTH]))


def _open_heic(content: bytes) -> Container:
    """Check what the boxes say. libheif turns a HEIC file upright itself."""
    header = heic_header(content)
    return Container("HEIF", content, header.size, scans=-(-header.decoded // max(1, prod(header.size))))


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation, 1 to 8, that a file's Exif or XMP states; 1 if they state none or are damaged."""
    stated = _exif_orientation(exif)
    if stated is None and (found := re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)):
        stated = int(found[1])
    return stated if stated and stated <= _HIGHEST_ORIENTATION else _UPRIGHT


def _exif_orientation(exif: bytes) -> int | None:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return None
    (place,) = struct.unpack_from(f"{order}I", exif, 4)
    if place + 2 > len(exif):
        return None
    (count,) = struct.unpack_from(f"{order}H", exif, place)
    entries = exif[place + 2 : place + 2 + 12 * count]
    for tag, kind, _, value in struct.iter_unpack(f"{order}HHIH2x", entries[: len(entries) // 12 * 12]):
        if (tag, kind) == (_ORIENTATION, _SHORT):
            return int(value)
    return None
