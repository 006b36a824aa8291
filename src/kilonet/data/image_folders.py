"""Folders of image files, unlabelled or labelled by their subfolder."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kilonet.data.decode import DecodeLimits, Picture, decode
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import read_bounded

SUFFIXES = (".png", ".jpg", ".jpeg")

ToPixels = Callable[[Picture, str], NDArray[np.uint8]]
"""Turns a picture and the name of its file into a network's input, uint8 (channels, rows, columns)."""
LARGEST = 512
"""The longest side that a recipe's input may have."""


def read_picture(path: Path, limits: DecodeLimits = DecodeLimits()) -> Picture:  # noqa: B008
    """Read and decode an image file.

    Raises:
        KilonetError: it cannot be read or decoded; see `kilonet.data.decode`.
    """
    return decode(read_bounded(path, limits.content, "an image"), str(path), limits)


def image_files(folder: Path) -> list[Path]:
    """Return the PNG and JPEG files in a folder and its subfolders, sorted, by suffix and without hidden ones."""
    return sorted(path for path in folder.rglob("*") if _is_image(path.relative_to(folder)) and path.is_file())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def class_folders(folder: Path) -> list[str]:
    """Return the names of the subfolders without hidden ones, sorted as numbers if all are numbers."""
    names = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


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
        KilonetError: there are no images, a file cannot be read, or images differ in size.
    """
    found = [(path, label) for name, label in labels.items() for path in image_files(folder / name)]
    if not found:
        raise KilonetError(f"{folder}: no PNG or JPEG images in its subfolders")
    images = [to_pixels(read_picture(path), str(path)) for path, _ in found]
    for image, (path, _) in zip(images, found, strict=True):
        if image.shape != images[0].shape:
            raise KilonetError(
                f"{path}: {_size(image)}, but {found[0][0]} is {_size(images[0])}; scale all to one size"
            )
    return np.stack(images), np.array([label for _, label in found], np.int64), [path for path, _ in found]


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
