"""Atomic writing and bounded reading of files: a crash at any moment leaves either the old content or the new."""

import contextlib
import glob
import os
import tempfile
from pathlib import Path

from kilonet.utils.errors import KilonetError


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the content of a file: write a temporary file beside it, flush it to the disk and rename it.

    Raises:
        KilonetError: it cannot be written, for example on a full disk; the old content is unchanged.
    """
    try:
        _replace(path, content)
    except OSError as error:
        raise KilonetError(f"{path} cannot be written: {error.strerror or error}") from None


def make_folder(path: Path) -> None:
    """Make a folder and its parents, if they do not exist.

    Raises:
        KilonetError: the folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KilonetError(f"the folder {path} cannot be made: {error.strerror}") from None


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files beside `path` that a process left when it was killed while writing."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def _replace(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp lets only the owner read the file; a result gets the usual permissions.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush a folder, so that a rename in it survives a power cut; some systems cannot open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_bounded(path: Path, maximum: int, what: str) -> bytes:
    """Return the content of a file of at most `maximum` bytes.

    Args:
        path: the file.
        maximum: the most bytes that are read.
        what: what the file should be, for messages, such as `a recipe`.

    Raises:
        KilonetError: the file is missing, unreadable or larger.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(maximum + 1)
    except OSError as error:
        raise KilonetError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > maximum:
        raise KilonetError(f"{path}: too large for {what} (over {maximum:,} bytes)")
    return content
