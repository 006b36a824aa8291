"""What a data source holds, before any picture is decoded: labelled pictures in parts, and files that are none."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kilonet.data.decode import decode
from kilonet.data.image_folders import LONGEST_NAME, read_content
from kilonet.utils.errors import KilonetError

PartName = Literal["train", "validation", "test", "all"]
"""`all` stands alone: the pictures are not split yet."""

PART_WORDS: Mapping[str, PartName] = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "tst": "test",
    "t10k": "test",
}
"""The words by which data sets name their parts, in small letters."""
MAXIMUM_CLASSES = 4096
"""The most classes of a data set, which is what a model file can name."""

Levels = NDArray[np.uint8] | NDArray[np.float32]
"""The levels of a picture, 0 to 255, (rows, columns, channels), with one channel or three."""


class Part(ABC):
    """Labelled pictures, each of which is decoded when it is asked for."""

    labels: NDArray[np.int64]
    """int64 (N,)."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of a picture in messages."""

    @abstractmethod
    def content(self, index: int) -> bytes:
        """Return the bytes by which a picture is known: those of its file, or its pixels.

        Raises:
            KilonetError: they cannot be read.
        """

    def path(self, index: int) -> Path | None:  # noqa: ARG002
        """Return the file that holds one picture alone, or None."""
        return None

    def decoded(self, content: bytes, index: int) -> Levels:
        """Return the picture in the content of an image file, decoded `evenly`.

        Raises:
            KilonetError: it cannot be decoded.
        """
        return decode(content, self.name(index), evenly=True).values

    def picture(self, index: int) -> Levels:
        """Return a picture, decoded `evenly`.

        Raises:
            KilonetError: it cannot be read or decoded.
        """
        return self.decoded(self.content(index), index)

    @abstractmethod
    def identity(self) -> list[object]:
        """Return what changes when the content of a picture may have changed, for JSON: paths, sizes, times.

        Raises:
            KilonetError: a file has gone.
        """


@dataclass(frozen=True, eq=False)
class ImageFiles(Part):
    """Image files."""

    files: tuple[Path, ...]
    labels: NDArray[np.int64]

    def name(self, index: int) -> str:
        """Return the path of a file."""
        return str(self.files[index])

    def content(self, index: int) -> bytes:
        """Return the content of a file."""
        return read_content(self.files[index])

    def path(self, index: int) -> Path:
        """Return the path of a file."""
        return self.files[index]

    def identity(self) -> list[object]:
        """Return the path and the state of each file."""
        return [state_of(path) for path in self.files]


@dataclass(frozen=True, eq=False)
class ImageArray(Part):
    """Pictures of one size in an array."""

    pixels: NDArray[np.uint8]
    """uint8 (N, channels, rows, columns)."""
    labels: NDArray[np.int64]
    source: str
    """The name of the file in messages."""

    def name(self, index: int) -> str:
        """Return the file's name and the place of a picture in it."""
        return f"{self.source}, image {index}"

    def content(self, index: int) -> bytes:
        """Return the pixels of a picture."""
        content: bytes = self.pixels[index].tobytes()
        return content

    def decoded(self, content: bytes, index: int) -> Levels:  # noqa: ARG002
        """Return a picture of the array."""
        levels: NDArray[np.uint8] = self.pixels[index].transpose(1, 2, 0)
        return levels

    def identity(self) -> list[object]:
        """Return nothing: arrays are read as quickly as a copy of them would be."""
        return []


@dataclass(frozen=True)
class Listing:
    """What a data source holds."""

    parts: Mapping[PartName, Part]
    """By name; `all` alone if the pictures are not split yet."""
    names: tuple[str, ...] | None = None
    """The names of the classes, by label; None for labels that are numbers in their file."""
    skipped: tuple[tuple[Path, str], ...] = ()
    """Files that are no pictures of a class, each with the reason."""
    are_numbers: bool = False
    """Whether labels are numbers in their file although the classes have names, as Fashion-MNIST's."""
    notes: tuple[str, ...] = field(default=())
    """What else a user should know, each in a line."""

    def noted(self, *notes: str) -> "Listing":
        """Return the same listing with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    @property
    def classes(self) -> int:
        """The number of classes; the highest label and one more if they have no names."""
        if self.names is not None:
            return len(self.names)
        return 1 + max(int(part.labels.max()) for part in self.parts.values())

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number."""
        return str(label) if self.names is None else self.names[label]


def state_of(path: Path) -> list[object]:
    """Return the path of a file, and its size, inode and times, which change with its content."""
    try:
        state = path.stat()
    except OSError:
        # Reading it says why.
        return [os.fspath(path)]
    # `Path.absolute` takes longer than the state of the file.
    absolute = os.path.abspath(path)  # noqa: PTH100
    return [absolute, state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns]


def part_of(text: str) -> PartName | None:
    """Return the part that a file or folder name speaks of by one of its words, or None."""
    words = text.lower().replace("-", " ").replace("_", " ").replace(".", " ").split()
    found = dict.fromkeys(PART_WORDS[word] for word in words if word in PART_WORDS)
    return next(iter(found)) if len(found) == 1 else None


def in_order(names: Sequence[str]) -> list[str]:
    """Return the names of classes in order: as numbers if all of them are, else as text."""
    numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name), name) if numbers else (0, name))


def check_class_names(names: Sequence[str], source: object) -> None:
    """Check the names of classes, in order.

    Raises:
        KilonetError: one is empty, not UTF-8 or too long; two are the same number, or differ only in their case; or
            there are too many.
    """
    if len(names) > MAXIMUM_CLASSES:
        raise KilonetError(f"{source}: {len(names):,} classes, over {MAXIMUM_CLASSES:,}; are these the labels?")
    seen: dict[str | int, str] = {}
    numbers = all(name.isdecimal() for name in names)
    for name in names:
        if not name or len(name) > LONGEST_NAME:
            told = f"the class '{name[:20]}...' has a name of over {LONGEST_NAME} characters"
            raise KilonetError(f"{source}: {told if name else 'a class has an empty name'}")
        if "\0" in name or not _is_unicode(name):
            raise KilonetError(f"{source}: the name of the class '{name}' is not UTF-8 text; rename it")
        # Letters stand for classes of their own: A is not a.
        key = int(name) if numbers else name.casefold() if len(name) > 1 else name
        if key in seen:
            how = "are the same number" if numbers else "differ only in small and capital letters"
            raise KilonetError(f"{source}: the classes '{seen[key]}' and '{name}' {how}; rename one")
        seen[key] = name


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def labelled_parts(
    found: Mapping[PartName, Sequence[tuple[Path, str]]], source: object
) -> tuple[dict[PartName, Part], tuple[str, ...]]:
    """Return parts of image files, and the names of their classes in order, from files with the names of their classes.

    Raises:
        KilonetError: the names will not do for classes, or a class of another part has no training images.
    """
    names = in_order(list({name for pairs in found.values() for _, name in pairs}))
    check_class_names(names, source)
    if "train" in found:
        known = {name for _, name in found["train"]}
        for part, pairs in found.items():
            if unknown := sorted({name for _, name in pairs} - known):
                raise KilonetError(f"{source}: the part '{part}' has a class '{unknown[0]}' that 'train' has not")
    places = {name: label for label, name in enumerate(names)}
    parts: dict[PartName, Part] = {
        part: ImageFiles(tuple(path for path, _ in pairs), np.array([places[name] for _, name in pairs], np.int64))
        for part, pairs in found.items()
    }
    return parts, tuple(names)
