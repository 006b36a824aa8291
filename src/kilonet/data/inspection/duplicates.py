"""Pictures that are in a data set more than once, exactly or nearly."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from kilonet.data import split
from kilonet.data.datasets import DataSet
from kilonet.data.listing import Listing
from kilonet.data.split import content_hash
from kilonet.utils.errors import KilonetError

_LISTED = 5
_KEPT = 1000
"""Examples that are kept before the worst are chosen."""


@dataclass(frozen=True)
class Duplicates:
    """Pictures that are in the data more than once, found by the SHA-256 of their files, or of their pixels."""

    copies: int
    """Pictures that are equal to one before them."""
    across: int
    """Test or validation pictures that are equal to a training picture."""
    conflicting: int
    """Pictures that are equal to one of another class."""
    examples: tuple[tuple[str, str], ...]
    """The names of some equal pictures, the worst first: of two classes, then of two parts."""


def find_duplicates(listing: Listing, skipped: Collection[str] = ()) -> Duplicates:
    """Find pictures that are in the data more than once, but for files of these names, which are not read."""
    first: dict[bytes, tuple[str, int, str]] = {}
    copies = across = conflicting = 0
    examples: list[tuple[int, str, str]] = []
    order = sorted(listing.parts, key=lambda name: name not in ("train", "all"))
    for name in order:
        part = listing.parts[name]
        for index, label in enumerate(part.labels.tolist()):
            if part.name(index) in skipped:
                continue
            try:
                digest = content_hash(part.content(index))
            except KilonetError:
                # It could be read a moment ago.
                continue
            if digest not in first:
                first[digest] = name, label, part.name(index)
                continue
            where, other, picture = first[digest]
            copies += 1
            elsewhere, conflict = where == "train" and name != "train", label != other
            across += elsewhere
            conflicting += conflict
            examples.append((2 * conflict + elsewhere, picture, part.name(index)))
            if len(examples) > _KEPT:
                examples = _worst(examples)
    return Duplicates(copies, across, conflicting, tuple((one, copy) for _, one, copy in _worst(examples)))


def _worst(examples: list[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    return sorted(examples, key=lambda example: -example[0])[:_LISTED]


def near_duplicates(data: DataSet) -> tuple[int, int]:
    """Return how many pictures look like an earlier one, and how many of the test like a training picture.

    Pictures are compared in the size of the network's input, as they are where data are split.
    """
    pixels = [picture.permute(1, 2, 0).numpy() for part in (data.train, data.test) for picture in part.pixels]
    hashes = np.stack([np.frombuffer(content_hash(picture.tobytes()), np.uint8) for picture in pixels])
    groups = split.near_duplicates(np.stack([split.thumbnail(picture) for picture in pixels]), hashes)
    trained, tested = groups[: len(data.train)], groups[len(data.train) :]
    return len(groups) - len(np.unique(groups)), int(np.isin(tested, trained).sum())
