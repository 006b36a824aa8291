"""Folders of IDX files, in the spellings in which such sets are published and converted.

A name has a word for the part (`train`, `t10k`, `test`, `val`) and one for the kind (`images` or `labels`). It may
begin with the name of the set, as EMNIST's do: `emnist-letters-train-images-idx3-ubyte.gz`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kilonet.data.formats.arrays import array_listing
from kilonet.data.idx import read_idx
from kilonet.data.image_folders import is_hidden
from kilonet.data.parts import PART_WORDS, Listing, PartName
from kilonet.utils.errors import KilonetError

_NAME = re.compile(
    r"(?:(?P<set>.+?)[-_.])??(?P<part>train(?:ing)?|t10k|test(?:ing)?|val(?:id(?:ation)?)?)[-_.]"
    r"(?P<kind>image|img|label)s?(?:[-_.](?:idx[13]?|u?byte))+(?P<packed>\.gz)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _File:
    path: Path
    set: str
    word: str
    """The part's word in the name."""
    kind: str
    """`images` or `labels`."""

    @property
    def part(self) -> PartName:
        return PART_WORDS[self.word]


def _files(folder: Path) -> list[_File]:
    found = []
    for path in sorted(folder.iterdir()):
        if not is_hidden(path.name) and (match := _NAME.fullmatch(path.name)):
            kind = "labels" if match["kind"].lower() == "label" else "images"
            found.append(_File(path, (match["set"] or "").lower(), match["part"].lower(), kind))
    return found


def idx_set_of(source: Path) -> tuple[Path, str] | None:
    """Return the folder and the name of the set of IDX files that a source names, or None.

    The source is a folder with one set, or a folder and the name with which the files of one of its sets begin.

    Raises:
        KilonetError: a folder holds several sets, or cannot be read.
    """
    try:
        if source.is_dir():
            sets = sorted({file.set for file in _files(source)})
            if len(sets) > 1:
                raise KilonetError(
                    f"{source}: {len(sets)} sets in it, {', '.join(sets)}; name one: --data {source / sets[-1]}"
                )
            return (source, sets[0]) if sets else None
        if source.name and source.parent.is_dir() and any(f.set == source.name.lower() for f in _files(source.parent)):
            return source.parent, source.name.lower()
    except OSError as error:
        raise KilonetError(f"{source}: cannot be read: {error.strerror}") from None
    return None


def list_idx_folder(folder: Path, name: str = "", digests: Mapping[str, str] | None = None) -> Listing:
    """Return the images of a set of IDX files.

    Args:
        folder: the folder.
        name: what the names of the set's files begin with, in small letters.
        digests: the SHA-256 of unpacked files by name, if they are known.

    Raises:
        KilonetError: a file is missing or damaged, or files do not fit one another.
    """
    files = [file for file in _files(folder) if file.set == name]
    words: dict[PartName, str] = {}
    for file in files:
        if words.setdefault(file.part, file.word) != file.word:
            some = f"{words[file.part]}-... and {file.word}-..."
            raise KilonetError(f"{folder}: {file.part} images under two names, {some}; remove one")
    words.setdefault("train", "train")
    prefix = f"{name}-" if name else ""
    found: dict[PartName, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}
    for part, word in words.items():
        images, labels = (
            _read(
                folder, [f for f in files if f.word == word and f.kind == kind], f"{prefix}{word}", kind, digests or {}
            )
            for kind in ("images", "labels")
        )
        if len(images) != len(labels):
            raise KilonetError(f"{folder}: {len(images):,} {word} images but {len(labels):,} labels")
        found[part] = images[:, None], labels.astype(np.int64)
    listing = array_listing(found, folder)
    if name.startswith("emnist"):
        return listing.noted(
            f"{folder}: EMNIST publishes its images transposed, rows for columns; a model of them takes them so"
        )
    return listing


def _read(folder: Path, files: list[_File], stem: str, kind: str, digests: Mapping[str, str]) -> NDArray[np.uint8]:
    dimensions = 3 if kind == "images" else 1
    wanted = f"{stem}-{kind}.idx{dimensions}-ubyte"
    if not files:
        others = dict.fromkeys([wanted.replace(".", "-"), wanted.replace("t10k", "test")])
        raise KilonetError(f"{folder}: no {wanted} in it, nor {' or '.join(o for o in others if o != wanted)}")
    path = files[0].path
    return read_idx(path, dimensions, digests.get(path.name.removesuffix(".gz")))
