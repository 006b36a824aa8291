"""An inspection: what was found out about labelled images, and what a careful colleague would object to."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import torch

from kilonet.data.datasets import Images, load_data
from kilonet.data.inspection.duplicates import Duplicates, find_duplicates, near_duplicates
from kilonet.data.inspection.pixels import (
    EVEN_BACKGROUND,
    as_good_mirrored,
    dominant_level,
    has_empty_frame,
    mean_and_std_of,
    pixel_notes,
)
from kilonet.data.inspection.survey import Size, Survey
from kilonet.data.preprocessing import Preprocessing
from kilonet.utils.terminal import counted, printable
from kilonet.utils.text_tables import aligned

Kind = Literal["characters", "readings", "drawings", "photos"]
"""What the images show: letters, digits or numbered things; scales whose readings are the names; lines and areas on an
even background; anything else."""

SMALL_CLASS = 20
"""Fewer training images than this are too few for a class."""
UNBALANCED = 3
"""The largest class may have so many times the images of the smallest."""

_LEAST_READINGS = 5
"""Fewer names that are numbers are no scale."""
_LISTED = 5
_TABLE = 30
"""So many classes are listed one by one."""
_SPELLED = frozenset(
    [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "null",
        "eins",
        "zwei",
        "drei",
        "vier",
    ]
)
_SIDED = re.compile(r"left|right|links|rechts|gauche|droite|clockwise", re.IGNORECASE)


@dataclass(frozen=True)
class Inspection:
    """What was found out about labelled images. `str()` returns it as text."""

    source: str
    label_pattern: str | None
    classes: tuple[str, ...]
    train_counts: tuple[int, ...]
    """Training images of each class."""
    test_counts: tuple[int, ...]
    validation_counts: tuple[int, ...] | None
    """None for data without such a part."""
    smallest: Size
    median: Size
    largest: Size
    sampled: int
    """The number of images that the sizes are of."""
    colour: bool
    input: tuple[int, int, int]
    """Channels, rows and columns in which the images were read."""
    mean: tuple[float, ...]
    """Of each channel of the training images, 0 to 1."""
    std: tuple[float, ...]
    kind: Kind
    framed: bool
    """Whether the background goes all around, so that what is shown can be moved without being cut."""
    mirrored: bool
    """Whether a mirrored picture may be taken for one of its class."""
    duplicates: Duplicates
    near_duplicates: int
    """Training and test pictures that look like one before them, as inputs of the network, equal ones included."""
    near_across: int
    """Test pictures that look like a training picture, equal ones included."""
    skipped: tuple[tuple[str, str], ...]
    """Files that are not read, each with the reason."""
    notes: tuple[str, ...]

    @property
    def has_validation(self) -> bool:
        """Whether the data have a part to calibrate on."""
        return self.validation_counts is not None

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain lists and numbers, for JSON."""
        return {**asdict(self), "warnings": self.warnings()}

    def warnings(self) -> list[str]:
        """Return what a careful colleague would object to, a line each."""
        counts = dict(zip(self.classes, self.train_counts, strict=True))
        small = {name: count for name, count in counts.items() if count < SMALL_CLASS}
        smallest, largest = min(self.train_counts), max(self.train_counts)
        lines = []
        if small:
            named = ", ".join(f"'{name}' ({count})" for name, count in list(small.items())[:_LISTED])
            more = ", ..." if len(small) > _LISTED else ""
            lines.append(
                f"{counted(len(small), 'class', 'classes')} with under {SMALL_CLASS} training images: {named}{more}"
            )
        if largest > UNBALANCED * smallest:
            lines.append(f"the largest class has {largest:,} training images, the smallest {smallest:,}")
        both = zip(self.classes, self.train_counts, self.test_counts, strict=True)
        unseen = [name for name, trained, tested in both if trained == 0 < tested]
        if unseen:
            lines.append(
                f"{counted(len(unseen), 'class', 'classes')} with test images, but no training images: {_named(unseen)}"
            )
        untested = [name for name, count in zip(self.classes, self.test_counts, strict=True) if count == 0]
        if untested:
            lines.append(f"{counted(len(untested), 'class', 'classes')} without test images: {_named(untested)}")
        return lines + self._duplicate_lines() + list(self.notes)

    def _duplicate_lines(self) -> list[str]:
        found = self.duplicates
        lines = []
        if found.copies:
            lines.append(
                f"{counted(found.copies, 'picture is', 'pictures are')} equal to an earlier one: "
                f"{found.across:,} of the test to a training picture, {found.conflicting:,} to one of another class"
            )
            lines += [f"  {one} = {other}" for one, other in found.examples]
        near = self.near_duplicates - found.copies
        if near > 0:
            across = max(0, self.near_across - found.across)
            lines.append(
                f"{counted(near, 'more picture looks', 'more pictures look')} like an earlier one: "
                f"{across:,} of the test like a training picture"
            )
        return lines

    def __str__(self) -> str:
        """Return the text."""
        parts = {"training": self.train_counts, "test": self.test_counts, "validation": self.validation_counts}
        sums = " and ".join(f"{sum(counts):,} {part}" for part, counts in parts.items() if counts is not None)
        lines = [f"{self.source}: {sums} images in {len(self.classes):,} classes", self._size_line()]
        means = ", ".join(f"{mean:.4f}" for mean in self.mean)
        deviations = ", ".join(f"{std:.4f}" for std in self.std)
        columns, rows = self.input[2], self.input[1]
        lines.append(f"{'Colour' if self.colour else 'Grey'}; at {columns}x{rows} mean {means}, deviation {deviations}")
        lines.append(
            f"Taken for: {self.kind}, {'mirrored too' if self.mirrored and self.kind == 'photos' else 'never mirrored'}"
        )
        lines += self._class_lines()
        lines += [f"Note: {line}" if not line.startswith("  ") else line for line in self.warnings()]
        if self.skipped:
            lines.append(f"{counted(len(self.skipped), 'file is', 'files are')} not read:")
            lines += [f"  {why}" for _, why in self.skipped]
        return "\n".join(lines)

    def _size_line(self) -> str:
        smallest, median, largest = (
            f"{columns}x{rows}" for columns, rows in (self.smallest, self.median, self.largest)
        )
        of = f" (of {self.sampled:,} images looked at)"
        if smallest == largest:
            return f"Size: {median}{of}"
        return f"Sizes: {smallest} to {largest}, median {median}{of}"

    def _class_lines(self) -> list[str]:
        order = list(range(len(self.classes)))
        if len(order) > _TABLE:
            order.sort(key=lambda label: self.train_counts[label])
            chosen = order[:_LISTED] + order[-_LISTED:]
        else:
            chosen = order
        rows = [
            ("class", "training", "test"),
            *(
                (printable(self.classes[label]), f"{self.train_counts[label]:,}", f"{self.test_counts[label]:,}")
                for label in chosen
            ),
        ]
        lines = aligned(rows, (0,))
        if len(order) > _TABLE:
            lines.insert(1 + _LISTED, f"... {len(order) - 2 * _LISTED:,} classes of a size between these")
        return lines


def inspect(found: Survey, preprocessing: Preprocessing) -> Inspection:
    """Read all images as inputs of a network, and look at them.

    Raises:
        KilonetError: images cannot be read.
    """
    data = load_data(found.source, preprocessing, label_pattern=found.label_pattern)
    mean, std = mean_and_std_of(data.train.pixels)
    dominant, share = dominant_level(data.train.pixels)
    symmetric = as_good_mirrored(data.train, len(found.classes))
    named = data.folders is not None
    kind = kind_of(found.classes, grey=found.channels == 1, even=share >= EVEN_BACKGROUND, named=named)
    alike, alike_across = near_duplicates(data)
    return Inspection(
        source=found.source,
        label_pattern=found.label_pattern,
        classes=found.classes,
        train_counts=_counts(data.train, len(found.classes)),
        test_counts=_counts(data.test, len(found.classes)),
        validation_counts=None if data.validation is None else _counts(data.validation, len(found.classes)),
        smallest=found.smallest,
        median=found.median,
        largest=found.largest,
        sampled=len(found.sizes),
        colour=found.channels == 3,
        input=preprocessing.shape,
        mean=mean,
        std=std,
        kind=kind,
        framed=share >= EVEN_BACKGROUND and has_empty_frame(data.train, dominant),
        mirrored=symmetric is True or (symmetric is None and named and not _sided(found.classes)),
        duplicates=find_duplicates(found.listing, {str(path) for path, _ in data.skipped}),
        near_duplicates=alike,
        near_across=alike_across,
        skipped=tuple((str(path), why) for path, why in data.skipped),
        notes=tuple(pixel_notes(data, dominant, share)),
    )


def _named(classes: Sequence[str]) -> str:
    """Return the first names of some classes, for a message."""
    return ", ".join(f"'{name}'" for name in classes[:_LISTED]) + (", ..." if len(classes) > _LISTED else "")


def _counts(images: Images, classes: int) -> tuple[int, ...]:
    return tuple(torch.bincount(images.labels, minlength=classes).tolist())


def kind_of(names: Sequence[str], *, grey: bool, even: bool, named: bool) -> Kind:
    """Return what the images show, by the names of their classes and by their background.

    Args:
        names: the names of the classes.
        grey: whether the images are grey.
        even: whether their background is of one level.
        named: whether the names are more than the numbers that a file of labels holds.
    """
    if named and all(re.fullmatch(r"[-+]?\d+([.,_]\d+)?", name) for name in names):
        values = sorted({float(name.replace(",", ".").replace("_", ".")) for name in names})
        steps = [after - before for before, after in pairwise(values)]
        whole = all(value.is_integer() for value in values)
        is_scale = len(values) >= _LEAST_READINGS and (not whole or min(steps) > 1)
        return "readings" if is_scale else "characters"
    if named and all(len(name) == 1 or name.casefold() in _SPELLED for name in names):
        return "characters"
    return "drawings" if even and grey else "photos"


def _sided(names: Sequence[str]) -> bool:
    return any(_SIDED.search(name) for name in names)
