"""Folders of image files, unlabelled or labelled by their subfolder.

Nothing is left out silently: what is in a folder is an image that is read, a companion that is no image, or reported.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from kilonet.data.decode import READABLE, DecodeLimits, Picture, decode
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import read_bounded

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp")
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
LARGEST = 512
"""The longest side that a recipe's input may have."""
LONGEST_NAME = 100
"""The most characters of a class's name."""
SHOWN = 3
"""How many of the files at fault a message names."""

ToPixels = Callable[[Picture, str], NDArray[np.uint8]]
"""Turns a picture and the name of its file into a network's input, uint8 (channels, rows, columns)."""


@dataclass(frozen=True)
class FolderFiles:
    """The files in a folder and its subfolders, sorted, without hidden ones and companions."""

    images: list[Path]
    """Files whose suffix is in `SUFFIXES`."""
    others: list[Path]
    """Files of other suffixes, such as photos in formats that are not read."""


def read_picture(
    path: Path,
    limits: DecodeLimits = DecodeLimits(),  # noqa: B008
    *,
    evenly: bool = False,
) -> Picture:
    """Read and decode an image file; `evenly` as for `decode`.

    Raises:
        KilonetError: it cannot be read or decoded; see `kilonet.data.decode`.
    """
    return decode(read_bounded(path, limits.content, "an image"), str(path), limits, evenly=evenly)


def list_files(folder: Path) -> FolderFiles:
    """List the files in a folder and its subfolders.

    Raises:
        KilonetError: a subfolder cannot be read.
    """
    files = sorted(path for path in _walk(folder) if path.suffix.lower() not in COMPANIONS and path.is_file())
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    return FolderFiles(images, [path for path in files if path.suffix.lower() not in SUFFIXES])


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> NoReturn:
        raise KilonetError(f"{error.filename}: cannot be read: {error.strerror}") from None

    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place) / name for name in names if not name.startswith("."))


def class_folders(folder: Path) -> list[str]:
    """Return the names of the subfolders without hidden ones, sorted as numbers if all are numbers.

    Raises:
        KilonetError: a name is no name for a class: not UTF-8, over `LONGEST_NAME` characters, or the same number as
            another one; or the folder cannot be read.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise KilonetError(f"{folder}: cannot be read: {error.strerror}") from None
    for name in names:
        if len(name) > LONGEST_NAME:
            raise KilonetError(f"{folder}: the class '{name[:20]}...' has a name of over {LONGEST_NAME} characters")
        if not _is_unicode(name):
            raise KilonetError(f"{folder}: the name of the class '{name}' is not UTF-8; rename its folder")
    if not all(name.isdecimal() for name in names):
        return names
    names.sort(key=int)
    for name, following in pairwise(names):
        if int(name) == int(following):
            raise KilonetError(f"{folder}: the classes '{name}' and '{following}' are the same number; rename one")
    return names


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_labelled(
    folder: Path, labels: Mapping[str, int], to_pixels: ToPixels
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[Path]]:
    """Read the images of labelled subfolders.

    Args:
        folder: the folder that holds the subfolders.
        labels: the label of each subfolder.
        to_pixels: turns a picture into a network's input.

    Returns:
        Pixels, uint8 (N, channels, rows, columns), labels, int64 (N,), and the N files.

    Raises:
        KilonetError: a subfolder is without images, a file cannot be read or is of a kind that is not read, an image is
            in no subfolder, or images differ in size.
    """
    if not labels:
        raise KilonetError(f"{folder}: no class-named folders in it")
    stray = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if stray:
        raise KilonetError(f"{folder}: {name_files(stray)} in no class; move or remove them")
    listed = {name: list_files(folder / name) for name in labels}
    others = [path for files in listed.values() for path in files.others]
    if others:
        raise KilonetError(f"{folder}: {name_files(others)} not read; save them as {READABLE}, or remove them")
    for name, files in listed.items():
        if not files.images:
            raise KilonetError(f"{folder}: the class '{name}' has no images; add some, or remove its folder")
    found = [(path, label) for name, label in labels.items() for path in listed[name].images]
    images = [to_pixels(read_picture(path), str(path)) for path, _ in found]
    for image, (path, _) in zip(images, found, strict=True):
        if image.shape != images[0].shape:
            raise KilonetError(
                f"{path}: {_size(image)}, but {found[0][0]} is {_size(images[0])}; scale all to one size"
            )
    return np.stack(images), np.array([label for _, label in found], np.int64), [path for path, _ in found]


def name_files(files: Sequence[Path]) -> str:
    """Return how many files there are, the names of the first, and a verb: `2 files (a, b) are`."""
    names = ", ".join(path.name for path in files[:SHOWN])
    more = ", ..." if len(files) > SHOWN else ""
    return f"1 file ({names}) is" if len(files) == 1 else f"{len(files):,} files ({names}{more}) are"


def unchanged_pixels(picture: Picture, name: str) -> NDArray[np.uint8]:
    """Return the pixels of a picture as they are, uint8 (channels, rows, columns).

    Raises:
        KilonetError: a side is longer than any network takes.
    """
    if max(picture.values.shape[:2]) > LARGEST:
        raise KilonetError(f"{name}: more than {LARGEST} pixels long; scale it to the size that the network takes")
    return picture.values.round().astype(np.uint8).transpose(2, 0, 1)


def _size(image: NDArray[np.uint8]) -> str:
    channels, rows, columns = image.shape
    return f"{columns}x{rows} {'grey' if channels == 1 else 'colour'}"
