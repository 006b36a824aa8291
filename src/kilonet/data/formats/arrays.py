"""What formats that hold arrays of pixels have in common: levels from 0 to 255, parts of one size, labels from 0."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.data.parts import ImageArray, Listing, PartName, check_class_names, in_order
from kilonet.utils.capacity import available_memory
from kilonet.utils.errors import KilonetError

MAXIMUM_ELEMENTS = 1 << 31
"""The most elements of an array, whatever its header says."""
LONGEST_SIDE = 512
"""The longest side of a picture in an array."""

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Pixels, uint8 (N, channels, rows, columns), and labels, int64 (N,)."""


def check_size(shape: tuple[int, ...], item: int, source: object) -> None:
    """Check the shape that a header states, before memory is taken for it.

    Args:
        shape: the shape.
        item: bytes of an element.
        source: the file's name in messages.

    Raises:
        KilonetError: it has no elements or too many, or there is not enough memory.
    """
    count, free = math.prod(shape), available_memory()
    stated = " x ".join(map(str, shape))
    if not 0 < count <= MAXIMUM_ELEMENTS:
        raise KilonetError(f"{source}: its header says {stated} elements; 1 to {MAXIMUM_ELEMENTS:,} are read")
    # Twice: one copy is read, and one has its levels.
    if free is not None and 2 * count * item > free:
        raise KilonetError(
            f"{source}: {stated} elements of {item} bytes do not fit in the {free >> 20:,} MiB of memory"
        )


def as_levels(values: NDArray[Any], source: object) -> NDArray[np.uint8]:
    """Return numbers as levels from 0 to 255; numbers with fractions from 0 to 1 are multiplied by 255.

    Raises:
        KilonetError: they are no numbers, or not in the range.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "biuf":
        raise KilonetError(f"{source}: its pixels are {values.dtype}, not numbers from 0 to 255")
    lowest, highest = float(values.min()), float(values.max())
    if math.isnan(lowest):
        missing = np.isnan(values)
        first = int(np.argwhere(missing)[0, 0])
        raise KilonetError(f"{source}: {int(missing.sum()):,} of its pixels are NaN, the first in image {first} from 0")
    if not (lowest >= 0 and highest <= 255):
        raise KilonetError(f"{source}: its pixels go from {lowest:g} to {highest:g}, not from 0 to 255")
    if values.dtype.kind == "f":
        values = np.rint(values * 255 if highest <= 1 else values)
    return values.astype(np.uint8)


def as_images(values: NDArray[Any], source: object) -> NDArray[np.uint8]:
    """Return an array of images, uint8 (N, channels, rows, columns).

    Args:
        values: (N, rows, columns); (N, rows, columns, channels) or (N, channels, rows, columns) with one channel or
            three; or (N, pixels) of square pictures in grey.
        source: the file's name in messages.

    Raises:
        KilonetError: it has another shape, or levels out of range.
    """
    shape = values.shape
    images: NDArray[Any] | None = None
    if len(shape) == 3:
        images = values[:, None]
    elif len(shape) == 4 and shape[3] in (1, 3):
        images = values.transpose(0, 3, 1, 2)
    elif len(shape) == 4 and shape[1] in (1, 3):
        images = values
    elif len(shape) == 2 and (side := round(shape[1] ** 0.5)) ** 2 == shape[1]:
        images = values.reshape(-1, 1, side, side)
    if images is None:
        stated = " x ".join(map(str, shape))
        raise KilonetError(f"{source}: {stated} values are no images: (N, rows, columns) with 1 or 3 channels are")
    return np.ascontiguousarray(as_levels(images, source))


def as_labels(values: NDArray[Any], source: object) -> NDArray[np.int64]:
    """Return labels, int64 (N,), from whole numbers of any type, (N,) or (N, 1).

    Raises:
        KilonetError: they are of another kind or shape, negative or too high.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "uif" or not values.size:
        stated = " x ".join(map(str, values.shape))
        raise KilonetError(f"{source}: {stated} labels of type {values.dtype}; one number for each image is read")
    if not (
        np.isfinite(values).all() and (values == np.trunc(values)).all() and 0 <= values.min() <= values.max() < 4096
    ):
        raise KilonetError(f"{source}: its labels go from {values.min()} to {values.max()}, not from 0 up to 4095")
    return values.astype(np.int64)


def array_listing(found: Mapping[PartName, Labelled], source: Path, names: tuple[str, ...] | None = None) -> Listing:
    """Return the listing of arrays.

    Labels that are numbers from 1 on, as EMNIST's letters have them, become names, so that no class is empty. Pixels
    that are 0 or 1 throughout become 0 or 255, with a note.

    Raises:
        KilonetError: pixels and labels differ in number, or parts in size; or pictures are too large.
    """
    shapes = {pixels.shape[1:] for pixels, _ in found.values()}
    if len(shapes) > 1:
        raise KilonetError(f"{source}: training and test images differ in size")
    if max(shapes.pop()[1:]) > LONGEST_SIDE:
        raise KilonetError(f"{source}: its images are over {LONGEST_SIDE} pixels long; scale them down")
    for part, (pixels, labels) in found.items():
        if len(pixels) != len(labels):
            raise KilonetError(f"{source}: {len(pixels):,} {part} images but {len(labels):,} labels")
    notes = []
    highest = max(int(pixels.max()) for pixels, _ in found.values())
    if highest == 1:
        notes.append(f"{source}: its pixels are 0 and 1; they are read as 0 and 255")
        for pixels, _ in found.values():
            np.multiply(pixels, 255, out=pixels)
    elif highest < 128:
        notes.append(f"{source}: its highest level is {highest} of 255; are its pixels of another scale?")
    if names is None:
        found, names = _from_zero(found)
    parts = {part: ImageArray(pixels, labels, str(source)) for part, (pixels, labels) in found.items()}
    return Listing(parts, names, notes=tuple(notes))


def _from_zero(found: Mapping[PartName, Labelled]) -> tuple[Mapping[PartName, Labelled], tuple[str, ...] | None]:
    """Name the classes by their numbers if these are 1 to N, each with images."""
    present = np.unique(np.concatenate([labels for _, labels in found.values()]))
    if present[0] != 1 or present[-1] != len(present) or len(present) < 2:
        return found, None
    shifted: dict[PartName, Labelled] = {part: (pixels, labels - 1) for part, (pixels, labels) in found.items()}
    return shifted, tuple(map(str, present))


def labels_from_text(
    texts: Mapping[PartName, list[str]], source: object
) -> tuple[dict[PartName, NDArray[np.int64]], tuple[str, ...] | None]:
    """Return labels from a column of text, and the names of the classes; None for labels that are numbers.

    Raises:
        KilonetError: the texts will not do for classes.
    """
    distinct = {text for part in texts.values() for text in part}
    if all(text.isdecimal() and text.isascii() and int(text) < 4096 for text in distinct):
        return {part: np.array([int(text) for text in column], np.int64) for part, column in texts.items()}, None
    names = in_order(list(distinct))
    check_class_names(names, source)
    places = {name: label for label, name in enumerate(names)}
    return {part: np.array([places[text] for text in column], np.int64) for part, column in texts.items()}, tuple(names)
