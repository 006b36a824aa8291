"""The folder of compiled libraries: who may write in it, whole files in it, and temporary folders that leave nothing.

Every file ends in the SHA-256 digest of what comes before it, so that one that is damaged is noticed. A folder for
temporary files is locked while it is in use, and the system frees the lock of a process that is killed.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from kilonet.utils.errors import KilonetError
from kilonet.utils.files import remove_unused, write_atomically

LOCK_FILE = ".lock"
MAXIMUM_BYTES = 256 << 20
"""The most bytes of all libraries: some 1,500, as a sweep makes one for each network."""
_WORK_PREFIX = "tmp"
_DIGEST_BYTES = hashlib.sha256().digest_size


def cache_folder() -> Path:
    """Return the folder of compiled libraries without symbolic links on its way, made if it is missing.

    The way is checked before it is resolved: once nobody else can change a part of it, it stays as it was found.

    Raises:
        KilonetError: the folder cannot be made, or others could put a library into it.
    """
    if not hasattr(os, "getuid"):
        raise KilonetError("this system has no file owners, by which compiled code is kept from others")
    base = os.environ.get("KILONET_CACHE") or platformdirs.user_cache_dir("kilonet")
    folder = Path(base) / "native"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        objection = _objection_to_way(folder.parent.absolute())
        if objection is None:
            folder = folder.parent.resolve() / folder.name
            folder.mkdir(exist_ok=True, mode=0o700)
            objection = _objection_to_folder(folder)
    except OSError as error:
        raise KilonetError(f"the cache folder {folder} cannot be made: {error.strerror}") from None
    if objection is not None:
        raise KilonetError(f"the cache folder {folder} is not safe: {objection}; mend that or set KILONET_CACHE")
    return folder


def _objection_to_folder(folder: Path) -> str | None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        return "it must be a folder of your own with mode 0700"
    return None


def _objection_to_way(path: Path) -> str | None:
    """Return why another user could change where a path leads, or None if nobody but the administrator can.

    The folders on its way count, and the symbolic links with the ways to where they lead.
    """
    for place in (*reversed(path.parents), path):
        status = place.lstat()
        if status.st_uid not in (0, os.getuid()):
            return f"{place} belongs to another user"
        if stat.S_ISLNK(status.st_mode):
            if objection := _objection_to_way(place.parent / place.readlink()):
                return objection
        # In a folder with the sticky bit, such as /tmp, others cannot move what is ours.
        elif _others_can_write(place, status) and not status.st_mode & stat.S_ISVTX:
            return f"other users can write in {place}"
    return None


def _others_can_write(folder: Path, status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    # With an access list, the permission of the group is the most that the list gives to anybody.
    return bool(status.st_mode & stat.S_IWGRP) and (not _is_own_group(status.st_gid) or _has_access_list(folder))


def _has_access_list(folder: Path) -> bool:
    try:
        return "system.posix_acl_access" in os.listxattr(folder)
    except (AttributeError, OSError):
        # The system or the file system has no access lists.
        return False


def _is_own_group(group: int) -> bool:
    """Return whether a group has this user alone, as on systems where new folders are writable for the group."""
    import grp  # noqa: PLC0415 - of systems with file owners
    import pwd  # noqa: PLC0415

    try:
        user, entry = pwd.getpwuid(os.getuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and entry.gr_name == user.pw_name and set(entry.gr_mem) <= {user.pw_name}


def read_verified(path: Path) -> bytes | None:
    """Return the content of a file that `store` wrote; None if there is none, or it is damaged."""
    try:
        found = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    content, digest = found[:-_DIGEST_BYTES], found[-_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def store(content: bytes, path: Path) -> None:
    """Write a file with its digest, whole before it has its name; those that were not used for long are removed.

    Raises:
        KilonetError: it cannot be written.
    """
    with work_folder(path.parent) as folder:
        write_atomically(folder / path.name, content + hashlib.sha256(content).digest())
        (folder / path.name).replace(path)
    stored = (one for one in path.parent.iterdir() if one.suffix == path.suffix)
    remove_unused(stored, path, MAXIMUM_BYTES)


@contextlib.contextmanager
def work_folder(cache: Path) -> Iterator[Path]:
    """Make a temporary folder in the cache. The next one to be made removes it if this process is killed.

    Raises:
        KilonetError: a file cannot be written there.
    """
    try:
        with FileLock(cache / LOCK_FILE):
            _remove_abandoned(cache)
            folder = Path(tempfile.mkdtemp(prefix=_WORK_PREFIX, dir=cache))
            lock = FileLock(folder / LOCK_FILE)
            lock.acquire(blocking=False)
        try:
            yield folder
        finally:
            lock.release()
            shutil.rmtree(folder, ignore_errors=True)
    except (OSError, NotImplementedError) as error:
        # For example a full disk, or a file system without locks.
        raise KilonetError(f"the cache folder {cache} cannot be used: {error}") from None


def _remove_abandoned(cache: Path) -> None:
    for folder in cache.glob(f"{_WORK_PREFIX}*"):
        with contextlib.suppress(OSError, NotImplementedError, Timeout):
            with FileLock(folder / LOCK_FILE, blocking=False):
                pass
            shutil.rmtree(folder, ignore_errors=True)
