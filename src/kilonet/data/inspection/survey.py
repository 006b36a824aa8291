"""A survey of labelled images: what there is, and the sizes and colours of some of them, before all are read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kilonet.data.datasets import check_trainable
from kilonet.data.listing import Listing, Part, list_data
from kilonet.utils.errors import KilonetError

Size = tuple[int, int]
"""Columns and rows."""

SAMPLED = 400
"""How many images a survey decodes."""

_GREY_DIFFERENCE = 4
"""Levels by which the channels of a grey picture may differ in the mean, as a JPEG file's do."""


@dataclass(frozen=True)
class Survey:
    """Listed images, with the sizes and colours of some of them."""

    source: str
    label_pattern: str | None
    listing: Listing
    classes: tuple[str, ...]
    sizes: tuple[Size, ...]
    """Of the images that were decoded, in their order."""
    channels: Literal[1, 3]
    """1 if all of them are grey."""

    @property
    def median(self) -> Size:
        """The median of the columns and that of the rows."""
        columns, rows = (sorted(sides)[len(sides) // 2] for sides in zip(*self.sizes, strict=True))
        return columns, rows

    @property
    def smallest(self) -> Size:
        """The size of the image with the fewest pixels."""
        return min(self.sizes, key=lambda size: (size[0] * size[1], size))

    @property
    def largest(self) -> Size:
        """The size of the image with the most pixels."""
        return max(self.sizes, key=lambda size: (size[0] * size[1], size))

    @property
    def uniform(self) -> bool:
        """Whether all have one size."""
        return len(set(self.sizes)) == 1

    def colours(self) -> str:
        """Return whether the images are grey or in colour, in words."""
        return "grey images" if self.channels == 1 else "images in colour"

    def distortion(self, target: Size) -> float:
        """Return the factor by which squashing to a shape stretches nine in ten images at most; 1 for their own."""
        shape = target[0] / target[1]
        factors = sorted(max(columns / rows / shape, shape * rows / columns) for columns, rows in self.sizes)
        return factors[(9 * len(factors) - 1) // 10]


def survey(source: str, label_pattern: str | None = None) -> Survey:
    """List images, and decode some of them for their sizes and colours.

    Raises:
        KilonetError: the data cannot be listed, or none of the images that were tried can be decoded.
    """
    listing = list_data(source, label_pattern)
    check_trainable(listing, source)
    classes = tuple(listing.class_name(label) for label in range(listing.classes))
    sizes: list[Size] = []
    colours = 0
    first_error: KilonetError | None = None
    for part, index in _spread(list(listing.parts.values()), SAMPLED):
        try:
            levels = part.picture(index)
        except KilonetError as error:
            first_error = first_error or error
            continue
        sizes.append((levels.shape[1], levels.shape[0]))
        colours += _is_coloured(levels)
    if not sizes:
        raise first_error or KilonetError(f"{source}: no images in it")
    # A grey picture among coloured ones is no reason to drop colours; a faded one in a hundred none to keep them.
    return Survey(source, label_pattern, listing, classes, tuple(sizes), 3 if 100 * colours > len(sizes) else 1)


def _spread(parts: Sequence[Part], most: int) -> Iterator[tuple[Part, int]]:
    """Yield at most so many pictures, spread evenly over all parts."""
    total = sum(map(len, parts))
    count = min(most, total)
    wanted = iter(number * total // count for number in range(count))
    place = next(wanted, None)
    start = 0
    for part in parts:
        while place is not None and place < start + len(part):
            yield part, place - start
            place = next(wanted, None)
        start += len(part)


def _is_coloured(levels: NDArray[np.uint8] | NDArray[np.float32]) -> bool:
    if levels.shape[2] == 1:
        return False
    spread = levels.max(2).astype(np.float32) - levels.min(2)
    return float(spread.mean()) >= _GREY_DIFFERENCE
