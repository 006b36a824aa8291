"""Data sets: the pictures of a source as the inputs of a network, in parts; images held out."""

import hashlib
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kilonet.data import cache
from kilonet.data.formats.tables import csv_files
from kilonet.data.image_folders import subfolders
from kilonet.data.listing import list_data
from kilonet.data.notices import tell
from kilonet.data.parts import Listing
from kilonet.data.pictures import read_pictures
from kilonet.data.preprocessing import Preprocessing
from kilonet.network.operations import array_type
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError

HOLDOUT_SHARE = 6
"""One in this many training images is held out: 10,000 of MNIST's 60,000."""


@dataclass(frozen=True)
class Images:
    """Labelled images."""

    pixels: Tensor
    """uint8 (N, channels, rows, columns)."""
    labels: Tensor
    """int64 (N,)."""
    name: str = "images"
    """The name of the set in output, such as `Test`."""

    def __post_init__(self) -> None:
        """Check shapes and dtypes.

        Raises:
            KilonetError: pixels or labels have another shape or dtype.
        """
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise KilonetError(f"images must be uint8 (N, channels, rows, columns), not {_described(self.pixels)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.pixels.shape[:1]:
            raise KilonetError(f"labels must be int64 ({len(self.pixels)},), not {_described(self.labels)}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def select(self, indices: Tensor, name: str) -> "Images":
        """Return a copy of some of the images, under another name; a large one is in a file, not in memory."""
        pixels = as_tensor(cache.taken(self.pixels.numpy(), indices.numpy()))
        return Images(pixels, self.labels[indices], name)


@dataclass(frozen=True)
class DataSet:
    """Training images and test images."""

    train: Images
    test: Images
    validation: Images | None = field(default=None, kw_only=True)
    """Images to calibrate on, which are neither trained on nor scored, if the data have such a part."""
    skipped: tuple[tuple[Path, str], ...] = field(default=(), kw_only=True)
    """Files that could not be read, each with the reason."""
    preparation: str | None = field(default=None, kw_only=True)
    """What was done to pictures of another size than the input, in a line; None if there are none."""
    names: tuple[str, ...] | None = field(default=None, kw_only=True)
    """The names of the classes; None if they are the class numbers."""
    folders: tuple[str, ...] | None = field(default=None, kw_only=True)
    """The names of the folders that gave the images their labels, in order; None for labels that are numbers."""
    source: str | None = field(default=None, kw_only=True)
    """What `load_data` was given; None for images that were made in memory."""
    label_pattern: str | None = field(default=None, kw_only=True)
    """What `load_data` was given, too."""

    def fingerprint(self) -> str:
        """Return the SHA-256 of shapes, pixels and labels of the training and the test images."""
        digest = hashlib.sha256()
        for images in (self.train, self.test):
            digest.update(repr(tuple(images.pixels.shape)).encode())
            for tensor in (images.pixels, images.labels):
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def hold_out(self) -> "DataSet":
        """Split the training images: the last sixth after a fixed permutation takes the place of the test images.

        Raises:
            KilonetError: there are fewer than six training images.
        """
        count = len(self.train)
        held = count // HOLDOUT_SHARE
        if held == 0:
            raise KilonetError(
                f"{count} training images are too few to hold some out; it takes at least {HOLDOUT_SHARE}"
            )
        # NumPy keeps the random numbers of RandomState the same in every version.
        order = torch.from_numpy(np.random.RandomState(0).permutation(count))
        kept = self.train.select(order[: count - held], "Train")
        return replace(self, train=kept, test=self.train.select(order[count - held :], "Holdout"))

    def keep_aside(self, share: float) -> "DataSet":
        """Take a share of the training images, the last ones after a fixed permutation, as the validation images.

        Data that have validation images are returned as they are.

        Raises:
            KilonetError: there are fewer than two training images.
        """
        if self.validation is not None:
            return self
        count = len(self.train)
        if count < 2:
            raise KilonetError(f"{count} training images are too few to keep some aside")
        aside = min(max(1, round(share * count)), count - 1)
        order = torch.from_numpy(np.random.RandomState(0).permutation(count))
        kept = self.train.select(order[: count - aside], self.train.name)
        return replace(self, train=kept, validation=self.train.select(order[count - aside :], "Validation"))


def load_data(
    source: str,
    preprocessing: Preprocessing | None = None,
    *,
    label_pattern: str | None = None,
    holdout: bool = False,
) -> DataSet:
    """Load a data set.

    Files that are left out are listed on stderr, and in `DataSet.skipped`.

    Args:
        source: `mnist`; `fashion-mnist`; or a folder or a file of a format in docs/DATA.md.
        preprocessing: how pictures become the inputs of a network; None leaves them as they are, all of one size.
        label_pattern: a regular expression whose group gives the label in the name of a file.
        holdout: replace the test images by held-out training images; see `DataSet.hold_out`.

    Raises:
        KilonetError: there is no such data set, a file is missing or damaged, files do not fit one another, or a class
            has no picture that can be read.
    """
    listing = with_test_part(list_data(source, label_pattern), source)
    check_trainable(listing, source)
    pictures = read_pictures(listing, preprocessing, source)
    parts = {
        part: Images(as_tensor(pixels), torch.from_numpy(labels), part.capitalize())
        for part, (pixels, labels) in pictures.parts.items()
    }
    skipped = (*listing.skipped, *pictures.skipped)
    tell(source, (*listing.notes, *pictures.notes), skipped, sum(map(len, parts.values())))
    names = listing.names
    numbers = tuple(str(number) for number in range(len(names or ())))
    data = DataSet(
        parts["train"],
        parts["test"],
        validation=parts.get("validation"),
        skipped=skipped,
        preparation=pictures.preparation,
        names=None if names == numbers else names,
        folders=None if listing.are_numbers else names,
        source=source,
        label_pattern=label_pattern,
    )
    return data.hold_out() if holdout else data


def check_trainable(listing: Listing, source: str) -> None:
    """Check that there are images to train on, of two classes or more.

    Raises:
        KilonetError: there are not; the message says what may have been meant.
    """
    if not {"train", "all"} & set(listing.parts):
        found = " and ".join(f"'{part}'" for part in listing.parts)
        raise KilonetError(f"{source}: no training images in it, only {found}")
    if listing.classes > 1:
        return
    name, folder = listing.class_name(0), Path(source)
    tables = [path.name for path in csv_files(folder)] if folder.is_dir() else []
    inner = folder / name
    hint = f"; did you mean --data {inner}?" if listing.names and inner.is_dir() and subfolders(inner) else ""
    if tables and listing.names:
        hint = f"; {tables[0]} is not read, as its first line has no columns 'file' and 'label'"
    raise KilonetError(f"{source}: only one class in it, '{name}'; it takes two{hint}")


def load_images(
    listing: Listing, preprocessing: Preprocessing, source: str
) -> tuple[Images, tuple[tuple[Path, str], ...], tuple[str, ...]]:
    """Return all images of a listing of one part, the files that were skipped with the reasons, and notes.

    Raises:
        KilonetError: a class has no picture that can be read.
    """
    pictures = read_pictures(listing, preprocessing, source, split=False)
    ((part, (pixels, labels)),) = pictures.parts.items()
    name = Path(source).resolve().name if part == "all" else part.capitalize()
    images = Images(as_tensor(pixels), torch.from_numpy(labels), name)
    return images, (*listing.skipped, *pictures.skipped), (*listing.notes, *pictures.notes)


def with_test_part(listing: Listing, source: str) -> Listing:
    """Return a listing in which there are test images, if it has training images.

    Without a part `test` the validation images take its place, and without those the training images are split.
    """
    parts = dict(listing.parts)
    if "train" not in parts or "test" in parts:
        return listing
    if "validation" in parts:
        parts["test"] = parts.pop("validation")
        return replace(listing, parts=parts).noted(f"{source}: no test images; its validation images are scored")
    return replace(listing, parts={"all": parts["train"]})


def check_fit(section: ModelSection, data: DataSet) -> None:
    """Check that a data set has the classes of a network, and its pictures the size of its input.

    Raises:
        KilonetError: size, channels or classes differ, and the message names the key to change; or there is one class.
    """
    shape, expected = tuple(data.train.pixels.shape[1:]), section.input_shape
    if shape != expected:
        raise KilonetError(
            f"the images are {shape}, but the recipe's model.input is {expected}; "
            f"--input {' '.join(map(str, shape))} changes it"
        )
    if data.names is not None and len(data.names) != section.classes:
        raise KilonetError(
            f"the data have {len(data.names)} classes, but the network {section.classes}; "
            f"end model.layers with 'pointwise {len(data.names)}'"
        )
    highest = int(max(data.train.labels.max(), data.test.labels.max()))
    if highest >= section.classes:
        raise KilonetError(f"the labels go up to {highest}, but the network has {section.classes} classes")
    if section.classes < 2:
        raise KilonetError("the network has one class; there is nothing to tell apart")


def _described(tensor: Tensor) -> str:
    return f"{array_type(tensor)} {tuple(tensor.shape)}"


def as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Return an array as a tensor of the same memory, which may be that of a file."""
    with warnings.catch_warnings():
        # Of a file that cannot be written torch warns; nothing writes to pixels.
        warnings.simplefilter("ignore")
        return torch.from_numpy(pixels)
