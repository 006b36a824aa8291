"""Writing files so that a crash at any moment leaves either the old content or the new."""

import contextlib
import glob
import os
import tempfile
from pathlib import Path

from kilonet.utils.errors import KilonetError


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content: write a temporary file beside it, flush it to the disk, rename it into place.

    Raises:
        KilonetError: it could not be written (a full disk, say); what was there before is untouched.
    """
    try:
        _replace(path, content)
    except OSError as error:
        raise KilonetError(f"{path} cannot be written: {error.strerror or error}") from None


def make_folder(path: Path) -> None:
    """Make a folder, unless it is there.

    Raises:
        KilonetError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KilonetError(f"the folder {path} cannot be made: {error.strerror}") from None


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that a process killed while writing `path` left beside it."""
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
        # mkstemp keeps the file to its owner; a result is an ordinary file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system lets a folder be opened."""
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
    """Read a whole file of at most `maximum` bytes; `what` says in messages what the file should be.

    Raises:
        KilonetError: it is missing, unreadable or larger.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(maximum + 1)
    except OSError as error:
        raise KilonetError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > maximum:
        raise KilonetError(f"{path}: too large for {what} (over {maximum:,} bytes)")
    return content
