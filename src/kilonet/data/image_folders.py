"""Folders of image files: what is an image in them, what is none, and why.

Nothing is left out silently: what is in a folder is an image that is read, a companion that is no image, or reported.
Links to files are read as the files that they name. Links to folders are followed once, if they lead out of the folder
that is read, so that every walk ends and no picture is read twice.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NoReturn

from kilonet.data.containers import LONGEST_MAGIC, is_image
from kilonet.data.decode import READABLE, WORKING_SIDE, DecodeLimits, Picture, decode
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import open_regular, read_bounded

SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff"])
"""Suffixes of image files, in small letters."""
COMPANIONS = frozenset(
    [
        ".txt",
        ".md",
        ".rst",
        ".csv",
        ".tsv",
        ".json",
        ".jsonl",
        ".xml",
        ".xmp",
        ".aae",
        ".html",
        ".htm",
        ".yaml",
        ".yml",
        ".toml",
        ".ini",
        ".log",
        ".db",
        ".pdf",
        ".py",
        ".sh",
    ]
)
"""Suffixes of what lies beside images and is none: notes, tables, and what cameras and file managers leave."""
COMPANION_NAMES = frozenset(["authors", "changelog", "citation", "copying", "credits", "license", "notice", "readme"])
"""Names without a suffix of texts that lie beside images."""
IGNORED_FOLDERS = frozenset(["__MACOSX"])
"""Folders that systems put beside images when they pack them; hidden folders are ignored, too."""
RUN_FILES = ("recipe.toml", "metrics.jsonl")
"""What a run folder holds. Folders of runs are ignored, too: `kilonet train --data .` puts one in the data."""
LONGEST_NAME = 100
"""The most characters of a class's name."""
SHOWN = 3
"""How many of the files at fault a message names."""


@dataclass(frozen=True)
class FolderFiles:
    """What is in a folder and its subfolders, sorted, without hidden files and companions."""

    images: list[Path]
    """Image files: by their suffix, or by their first bytes if the suffix says nothing."""
    others: list[Path]
    """All else, such as photos in formats that are not read, and links to folders; see `why_not_read`."""


def read_content(path: Path, limits: DecodeLimits = DecodeLimits()) -> bytes:  # noqa: B008
    """Return the content of an image file.

    Raises:
        KilonetError: it cannot be read, or is over the limit.
    """
    return read_bounded(path, limits.content, "an image")


def read_picture(
    path: Path,
    limits: DecodeLimits = DecodeLimits(),  # noqa: B008
    *,
    evenly: bool = False,
    side: int = WORKING_SIDE,
) -> Picture:
    """Read and decode an image file; `evenly` and `side` as for `decode`.

    Raises:
        KilonetError: it cannot be read or decoded; see `kilonet.data.decode`.
    """
    return decode(read_content(path, limits), str(path), limits, evenly=evenly, side=side)


def list_files(folder: Path, *, deep: bool = True) -> FolderFiles:
    """List the files in a folder, and in its subfolders if `deep`.

    Raises:
        KilonetError: a folder cannot be read.
    """
    files = sorted(path for path in _walk(folder, deep=deep) if not _is_companion(path))
    images = [path for path in files if _is_image(path)]
    taken = set(images)
    return FolderFiles(images, [path for path in files if path not in taken])


def _is_companion(path: Path) -> bool:
    return path.suffix.lower() in COMPANIONS or path.name.lower() in COMPANION_NAMES


def is_hidden(name: str) -> bool:
    """Return whether files or folders of a name are left out."""
    return name.startswith(".") or name in IGNORED_FOLDERS


def _is_ignored(path: Path) -> bool:
    """Return whether a folder is hidden, or holds runs and nothing else."""
    return is_hidden(path.name) or _holds_runs(path)


def _holds_runs(folder: Path) -> bool:
    """Return whether a folder is that of a run, or all that it holds are such folders."""
    try:
        if all((folder / name).is_file() for name in RUN_FILES):
            return True
        with os.scandir(folder) as entries:
            first = next(entries, None)
            return first is not None and all(
                entry.is_dir(follow_symlinks=False) and _holds_runs(Path(entry)) for entry in chain([first], entries)
            )
    except OSError:
        return False


def _walk(folder: Path, *, deep: bool) -> Iterator[Path]:
    """Yield files, links to folders that are not followed, and subfolders that may not be read."""

    def fail(error: OSError) -> NoReturn:
        raise KilonetError(f"{error.filename}: cannot be read: {error.strerror}") from None

    followed: set[Path] = set()
    for place, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        yield from (Path(place) / name for name in names if not is_hidden(name))
        shown = sorted(path for name in folders if not _is_ignored(path := Path(place) / name))
        folders.clear()
        for path in shown:
            if path.is_symlink():
                target = path.resolve()
                if target in followed or not _leads_out(path, folder):
                    yield path
                    continue
                followed.add(target)
            if not _may_be_read(path):
                yield path
                continue
            if deep:
                folders.append(path.name)


def _may_be_read(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def _leads_out(link: Path, folder: Path) -> bool:
    """Return whether a link leads neither to what lies in a folder nor to one that holds the folder or the link."""
    target, whole = link.resolve(), folder.resolve()
    holders = [parent.resolve() for parent in link.absolute().parents]
    return not target.is_relative_to(whole) and not whole.is_relative_to(target) and target not in holders


def subfolders(folder: Path) -> list[Path]:
    """Return the subfolders of a folder, sorted.

    Hidden ones, those of runs, and links to what lies in the folder or holds it are left out.

    Raises:
        KilonetError: the folder cannot be read.
    """
    try:
        return sorted(
            path
            for path in folder.iterdir()
            if path.is_dir() and not _is_ignored(path) and (not path.is_symlink() or _leads_out(path, folder))
        )
    except OSError as error:
        raise KilonetError(f"{folder}: cannot be read: {error.strerror}") from None


def _is_image(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            return False
        if path.suffix.lower() in SUFFIXES:
            return True
        with open_regular(path) as stream:
            return is_image(stream.read(LONGEST_MAGIC))
    except (OSError, ValueError, KilonetError):
        # One of an image's suffix that cannot be read is reported when it is decoded.
        return path.suffix.lower() in SUFFIXES and not path.is_symlink()


def why_not_read(path: Path) -> str:
    """Return why a file of `FolderFiles.others` is not read, with its name."""
    if path.is_symlink() and not path.exists():
        return f"{path}: a link that leads nowhere"
    if path.is_dir():
        if not _may_be_read(path):
            return f"{path}: a folder that cannot be read: Permission denied"
        return f"{path}: a link to a folder that is read already, or that holds the link; it is not followed"
    if not path.is_file():
        return f"{path}: a pipe, a device or a socket, not a file"
    if path.suffix.lower() in (".heic", ".heif", ".avif"):
        return f"{path}: a photo of a kind that is not read; save it as JPEG"
    return f"{path}: not a {READABLE} file"


def name_files(files: Sequence[Path]) -> str:
    """Return how many files there are, the names of the first, and a verb: `2 files (a, b) are`."""
    names = ", ".join(path.name for path in files[:SHOWN])
    more = ", ..." if len(files) > SHOWN else ""
    return f"1 file ({names}) is" if len(files) == 1 else f"{len(files):,} files ({names}{more}) are"
