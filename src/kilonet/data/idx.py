"""A strict reader of IDX, the format of the MNIST files.

Layout (Y. LeCun, C. Cortes, C. Burges, "The MNIST database"): two zero bytes, a type byte (0x08 for unsigned bytes),
the number of dimensions, each dimension as a big-endian 32-bit number, then the elements, the last dimension fastest.
"""

import gzip
import hashlib
import zlib
from io import BufferedReader
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kilonet.utils.errors import KilonetError
from kilonet.utils.files import open_regular

UNSIGNED_BYTE = 0x08
MAXIMUM_ELEMENTS = 1 << 28
"""The most elements of a file, whatever its header says: 256 MiB of memory."""

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20


def read_idx(path: Path, dimensions: int, sha256: str | None = None) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, plain or gzip.

    Args:
        path: the file.
        dimensions: the number of dimensions that it must have.
        sha256: the SHA-256 that the unpacked file must have, if it is known.

    Returns:
        A writable uint8 array of that many dimensions.

    Raises:
        KilonetError: the file is missing, truncated, too long, or does not match its header or its SHA-256.
    """
    try:
        with open_regular(path) as raw:
            packed = raw.peek(2)[:2] == _GZIP_MAGIC
            with gzip.GzipFile(fileobj=raw) if packed else raw as stream:
                return _read_stream(stream, path, dimensions, sha256)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise KilonetError(f"{path}: damaged gzip data: {error}") from None
    except OSError as error:
        raise KilonetError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read_stream(
    stream: gzip.GzipFile | BufferedReader, path: Path, dimensions: int, sha256: str | None
) -> NDArray[np.uint8]:
    header = stream.read(4 + 4 * dimensions)
    shape = _parse_header(header, path, dimensions)
    body = _read_exactly(stream, prod(shape), path)
    if sha256 is not None and _digest(header, body) != sha256:
        raise KilonetError(f"{path}: its SHA-256 is not the published one; fetch the file again")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _parse_header(header: bytes, path: Path, dimensions: int) -> tuple[int, ...]:
    if len(header) < 4 or header[:2] != b"\0\0":
        raise KilonetError(f"{path}: not an IDX file: its first bytes are no IDX magic number")
    if header[2] != UNSIGNED_BYTE:
        raise KilonetError(f"{path}: its type is 0x{header[2]:02x}, not unsigned bytes (0x08)")
    if header[3] != dimensions:
        raise KilonetError(f"{path}: it has {header[3]} dimensions, not {dimensions}")
    if len(header) != 4 + 4 * dimensions:
        raise KilonetError(f"{path}: truncated in its header")
    shape = tuple(int.from_bytes(header[start : start + 4], "big") for start in range(4, len(header), 4))
    if not 0 < prod(shape) <= MAXIMUM_ELEMENTS:
        stated = " x ".join(map(str, shape))
        raise KilonetError(f"{path}: its header says {stated} elements; 1 to {MAXIMUM_ELEMENTS:,} are read")
    return shape


def _read_exactly(stream: gzip.GzipFile | BufferedReader, length: int, path: Path) -> bytearray:
    """Read `length` bytes and no more, in pieces, so that a wrong header costs no memory."""
    body = bytearray()
    while piece := stream.read(min(_CHUNK, length + 1 - len(body))):
        body += piece
        if len(body) > length:
            raise KilonetError(f"{path}: more data than the {length:,} bytes that its header says")
    if len(body) < length:
        raise KilonetError(f"{path}: truncated: {len(body):,} of the {length:,} bytes that its header says")
    return body


def _digest(header: bytes, body: bytearray) -> str:
    digest = hashlib.sha256(header)
    digest.update(body)
    return digest.hexdigest()
