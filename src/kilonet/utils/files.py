"""Atomic writing and bounded reading of files: a crash at any moment leaves either the old content or the new.

A temporary file is named `.NAME.XXXXXXXX.tmp` and locked while it is written. The system frees the lock when the
process ends, so a temporary file that can be locked was left by a process that was killed, and the next write of NAME
removes it.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
import time
import tomllib
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from kilonet.utils.errors import KilonetError

try:
    import fcntl
except ImportError:  # Windows, which does not remove a file that a process has open.
    fcntl = None  # type: ignore[assignment]

_MAXIMUM_REPLACED = 64 << 20
_TEMPORARY = r"\.{name}\.[0-9a-f]{{8}}\.tmp"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the content of a file: write a temporary file beside it, flush it to the disk and rename it.

    What killed processes left of earlier writes of the same file is removed.

    Raises:
        KilonetError: it cannot be written, for example on a full disk; the old content is unchanged. Or there is
            something else of this name, such as a device.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise KilonetError(f"{path} cannot be written: it is a pipe, a device or a socket, not a file")
        remove_leftovers(path)
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


def is_temporary(name: str, of: str) -> bool:
    """Return whether a name is that of a temporary file of the file `of`."""
    return re.fullmatch(_TEMPORARY.format(name=re.escape(of)), name) is not None


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files beside `path` that processes left when they were killed while writing it."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(path.parent)):
            if is_temporary(entry.name, path.name):
                _remove_if_unlocked(Path(entry.path))


def _remove_if_unlocked(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        if fcntl is None:
            temporary.unlink()
            return
        descriptor = os.open(temporary, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()
        finally:
            os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    stream, temporary = _create_temporary(path)
    try:
        with stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            if fcntl is None:
                # Windows does not rename an open file.
                stream.close()
            _rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    flush_folder(path.parent)


def _rename(temporary: Path, path: Path) -> None:
    """Rename a file to a name that may be taken. Windows refuses while somebody reads the old file, so this waits."""
    for seconds in (0.01, 0.1, 1.0):
        try:
            temporary.replace(path)
        except PermissionError:
            time.sleep(seconds)
        else:
            return
    temporary.replace(path)


def _create_temporary(path: Path) -> tuple[BinaryIO, Path]:
    """Create a temporary file for `path`, open and locked."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        # `open` gives it the permissions of any new file; asking for the umask would change it for other threads.
        stream = temporary.open("xb")
        if _is_locked(stream):
            return stream, temporary
        stream.close()


def _is_locked(stream: BinaryIO) -> bool:
    """Lock a temporary file; False if another process has removed it as a leftover before it was locked."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks, on which no leftover can be locked and removed either.
        return True
    return os.fstat(stream.fileno()).st_nlink > 0


def remove_unused(files: Iterable[Path], kept: Path, maximum: int) -> None:
    """Remove the files that were not used for the longest time, until the others have no more than `maximum` bytes.

    Args:
        files: the files; their times are of their last use.
        kept: the one that stays in any case.
        maximum: bytes.
    """
    found = []
    for path in files:
        with contextlib.suppress(OSError):
            state = path.stat()
            found.append((state.st_mtime, state.st_size, path))
    total = 0
    for _, size, path in sorted(found, reverse=True):
        total += size
        # A file of Windows that is in use cannot be removed; it is the next time.
        if total > maximum and path != kept:
            with contextlib.suppress(OSError):
                path.unlink()


def flush_folder(folder: Path) -> None:
    """Flush a folder, so that a rename in it survives a power cut; some systems cannot open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read its bytes. Pipes, devices and sockets are refused, which could block or have no end.

    Raises:
        OSError: there is no such file, it is a folder, or it may not be read.
        KilonetError: it is no regular file.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise KilonetError(f"{path}: a pipe, a device or a socket, not a file")


def read_bounded(path: Path, maximum: int, what: str) -> bytes:
    """Return the content of a file of at most `maximum` bytes.

    Args:
        path: the file.
        maximum: the most bytes that are read.
        what: what the file should be, for messages, such as `a recipe`.

    Raises:
        KilonetError: the file is missing, unreadable, larger or no regular file.
    """
    try:
        with open_regular(path) as stream:
            content = stream.read(maximum + 1)
    except OSError as error:
        raise KilonetError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > maximum:
        raise KilonetError(f"{path}: too large for {what} (over {maximum:,} bytes)")
    return content


def read_toml(path: Path, maximum: int, what: str, source: str) -> dict[str, Any]:
    """Return the table of a TOML file of at most so many bytes.

    Args:
        path: the file.
        maximum: the most bytes that are read.
        what: what the file should be, for messages, such as `a recipe`.
        source: what the user called it.

    Raises:
        KilonetError: the file is missing, unreadable, larger, no regular file or no TOML.
    """
    try:
        return tomllib.loads(read_bounded(path, maximum, what).decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KilonetError(f"{source}: not a TOML file: {error}") from None
    except ValueError as error:
        # Python's remark on an integer of over 4,300 digits ends in advice for programmers.
        raise KilonetError(f"{source}: cannot be read: {str(error).partition('; use sys.')[0]}") from None


def check_replaceable(path: Path, mark: str, flag: str) -> None:
    """Check that a file which is about to be replaced is one that kilonet wrote.

    Args:
        path: the file, which need not exist.
        mark: what the files hold that kilonet writes there.
        flag: what named the file, for the message.

    Raises:
        KilonetError: there is another file, or one that cannot be read.
    """
    if path.exists() and mark.encode() not in read_bounded(path, _MAXIMUM_REPLACED, "a file to be replaced"):
        raise KilonetError(
            f"{path} exists, and nothing in it says that kilonet wrote it; remove it, or name another file with {flag}"
        )
