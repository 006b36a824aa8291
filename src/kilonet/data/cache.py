"""Pictures that were read, kept in files: an unchanged set is there at once, and it need not fit in memory.

A file has the pixels, then a line of JSON, and at its end the length of that line and the SHA-256 of all before. It is
mapped into memory, so that the system reads what is used and drops it again. All files together take `MAXIMUM_BYTES`:
those that were not used for the longest time are removed.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import platformdirs
from numpy.typing import NDArray

from kilonet.utils.capacity import available_memory
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import remove_unused

MAXIMUM_BYTES = 4 << 30
"""The most bytes of all files, but for the one that is in use."""
IN_MEMORY = 256 << 20
"""Arrays of up to this many bytes are held in memory, larger ones in files."""
VERSION = 1
_SUFFIX = ".images"
_PIECE = 1 << 20
_DIGEST_BYTES = 32
_LENGTH_BYTES = 8


def cache_folder() -> Path | None:
    """Return the folder of the files, made if it is missing; None if there can be none of one's own."""
    base = os.environ.get("KILONET_CACHE") or platformdirs.user_cache_dir("kilonet")
    folder = Path(base) / "images"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        own = not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()
        return folder if own and os.access(folder, os.W_OK | os.X_OK) else None
    except OSError:
        return None


def key_of(facts: object) -> str:
    """Return the name of the file for what decides its content, as JSON would have it."""
    return hashlib.sha256(json.dumps([VERSION, facts], sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Kept:
    """What a file holds."""

    path: Path
    pixels: NDArray[np.uint8]
    """uint8 (N, channels, rows, columns), mapped into memory."""
    facts: Any
    """What was stored beside them, from JSON."""


def find(key: str, shape: tuple[int, ...]) -> Kept | None:
    """Return what was stored under a key; None if there is nothing, or it is damaged.

    Args:
        key: the key.
        shape: the shape of a picture.
    """
    folder = cache_folder()
    if folder is None:
        return None
    path = folder / f"{key}{_SUFFIX}"
    try:
        with path.open("rb") as stream:
            facts = _verified(stream, path.stat().st_size, shape)
        if facts is None:
            return None
        os.utime(path)
        return Kept(path, mapped(path, (facts["count"], *shape)), facts["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _verified(stream: BinaryIO, size: int, shape: tuple[int, ...]) -> Any:
    """Return the JSON of a file; None if its length or its digest is not right."""
    left = size - _DIGEST_BYTES
    if left < _LENGTH_BYTES:
        return None
    digest = hashlib.sha256()
    while left and (piece := stream.read(min(_PIECE, left))):
        digest.update(piece)
        left -= len(piece)
    if stream.read() != digest.digest():
        return None
    stream.seek(size - _DIGEST_BYTES - _LENGTH_BYTES)
    length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
    stream.seek(size - _DIGEST_BYTES - _LENGTH_BYTES - length)
    facts = json.loads(stream.read(length))
    expected = facts["count"] * prod(shape) + length + _LENGTH_BYTES + _DIGEST_BYTES
    return facts if expected == size else None


def store(key: str, pixels: NDArray[np.uint8], order: NDArray[np.int64], facts: object) -> Kept | None:
    """Write some pictures to a file, in an order, and map it; older files are removed. None if there is no folder.

    Raises:
        KilonetError: the file cannot be written.
    """
    folder = cache_folder()
    if folder is None:
        return None
    path = folder / f"{key}{_SUFFIX}"
    shape = pixels.shape[1:]
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="tmp", suffix=".part", delete=False) as stream:
            try:
                _write(stream, pixels, order, facts)
                stream.flush()
                os.fsync(stream.fileno())
                stream.close()
                Path(stream.name).replace(path)
            except BaseException:
                stream.close()
                Path(stream.name).unlink(missing_ok=True)
                raise
        remove_unused(folder.iterdir(), path, MAXIMUM_BYTES)
        return Kept(path, mapped(path, (len(order), *shape)), facts)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _write(stream: Any, pixels: NDArray[np.uint8], order: NDArray[np.int64], facts: object) -> None:
    digest = hashlib.sha256()
    line = json.dumps({"count": len(order), "facts": facts}).encode()
    tail = line + len(line).to_bytes(_LENGTH_BYTES, "little")
    for piece in (*_pieces(pixels, order), tail):
        digest.update(piece)
        stream.write(piece)
    stream.write(digest.digest())


def _pieces(pixels: NDArray[np.uint8], order: NDArray[np.int64]) -> Iterator[bytes]:
    step = max(1, _PIECE // max(1, prod(pixels.shape[1:])))
    for start in range(0, len(order), step):
        yield pixels[order[start : start + step]].tobytes()


def mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the first bytes of a file as an array. Changes of it are not written to the file."""
    if not prod(shape):
        return np.empty(shape, np.uint8)
    free = available_memory()
    # A system may refuse to promise memory for changes of all pages; then the array cannot be changed.
    mode = "c" if free is None or prod(shape) < free // 2 else "r"
    return np.memmap(path, np.uint8, mode, shape=shape)  # type: ignore[call-overload, no-any-return]


def room_for(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a uint8 array to be filled: in memory, or in a file without a name if it is large.

    Raises:
        KilonetError: the file cannot be made.
    """
    size = prod(shape)
    folder = cache_folder() if size > IN_MEMORY else None
    if folder is None:
        free = available_memory()
        if size > IN_MEMORY and free is not None and size > free // 2:
            raise KilonetError(
                f"{size >> 20:,} MiB of images do not fit in memory, and there is no cache folder to keep them in; "
                "set KILONET_CACHE to a folder of your own"
            )
        return np.zeros(shape, np.uint8)
    try:
        with tempfile.TemporaryFile(dir=folder, prefix="tmp") as stream:
            # Takes the room on the disk now: a full one would end the process later, when a page is written.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, size)
            else:
                stream.truncate(size)
            return np.memmap(stream, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise _unwritable(folder, error) from None


def taken(pixels: NDArray[np.uint8], order: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return some pictures in an order: a copy, in a file if it is large."""
    shape = (len(order), *pixels.shape[1:])
    if prod(shape) <= IN_MEMORY:
        return pixels[order]
    found = room_for(shape)
    step = max(1, _PIECE // prod(shape[1:]))
    for start in range(0, len(order), step):
        found[start : start + step] = pixels[order[start : start + step]]
    return found


def _unwritable(folder: Path, error: OSError) -> KilonetError:
    return KilonetError(
        f"the cache folder {folder} cannot be written: {error.strerror or error}; set KILONET_CACHE to another folder"
    )
