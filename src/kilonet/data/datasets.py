"""Data sets in memory: the packaged MNIST, Debian's Fashion-MNIST, folders of IDX files or of images by class."""

import hashlib
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kilonet.data.decode import Picture
from kilonet.data.idx import read_idx
from kilonet.data.image_folders import class_folders, read_labelled, unchanged_pixels
from kilonet.data.preprocessing import Preprocessing
from kilonet.network.operations import array_type
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError

MNIST_SHA256 = {
    "train-images.idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels.idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images.idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels.idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the published files, unpacked."""

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""The folder of Debian's package dataset-fashion-mnist."""
FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

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
        """Return a copy of some of the images, under another name."""
        return Images(self.pixels[indices], self.labels[indices], name)


@dataclass(frozen=True)
class DataSet:
    """Training images and test images."""

    train: Images
    test: Images
    validation: Images | None = field(default=None, kw_only=True)
    """Images to calibrate on, which are neither trained on nor scored, if the data have such a part."""
    skipped: tuple[tuple[Path, str], ...] = field(default=(), kw_only=True)
    """Files that could not be read, each with the reason."""
    names: tuple[str, ...] | None = field(default=None, kw_only=True)
    """The names of the classes; None if they are the class numbers."""
    folders: tuple[str, ...] | None = field(default=None, kw_only=True)
    """The names of the folders that gave the images their labels, in order; None for labels that are numbers."""
    source: str | None = field(default=None, kw_only=True)
    """What `load_data` was given; None for images that were made in memory."""

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

    Args:
        source: `mnist`; `fashion-mnist`; a folder with the four IDX files of such a set, plain or gzip; or a folder
            with `train` and `test`, each with one subfolder of images for each class, all of one size.
        preprocessing: how pictures become the inputs of a network; None leaves them as they are, all of one size.
        label_pattern: a regular expression whose group gives the label in the name of a file.
        holdout: replace the test images by held-out training images; see `DataSet.hold_out`.

    Raises:
        KilonetError: there is no such data set, a file is missing or damaged, or files do not fit one another.
    """
    data = replace(_load(source, preprocessing, label_pattern), source=source)
    return data.hold_out() if holdout else data


def _load(source: str, preprocessing: Preprocessing | None, label_pattern: str | None) -> DataSet:  # noqa: ARG001
    if source == "mnist":
        with as_file(files("kilonet.data") / "mnist") as folder:
            return _load_folder(folder, MNIST_SHA256)
    if source == "fashion-mnist":
        return _load_fashion()
    folder = Path(source)
    if not folder.is_dir():
        raise KilonetError(f"no data '{source}': neither 'mnist', 'fashion-mnist' nor a folder of IDX or image files")
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return _load_images(folder, preprocessing)
    if has_classes(folder):
        raise KilonetError(f"{folder}: its classes are not split; to train, put their folders in 'train' and 'test'")
    return _load_folder(folder, {})


def check_fit(section: ModelSection, data: DataSet) -> None:
    """Check that a data set fits a network.

    Raises:
        KilonetError: size, channels or classes differ; the message names the key to change.
    """
    shape, expected = tuple(data.train.pixels.shape[1:]), section.input_shape
    if shape != expected:
        raise KilonetError(
            f"the images are {shape}, but the recipe's model.input is {expected}; "
            f"--input {' '.join(map(str, shape))} changes it"
        )
    highest = int(max(data.train.labels.max(), data.test.labels.max()))
    if highest >= section.classes:
        raise KilonetError(f"the labels go up to {highest}, but the network has {section.classes} classes")
    if data.names is not None and len(data.names) != section.classes:
        raise KilonetError(
            f"the data have {len(data.names)} classes, but the network {section.classes}; "
            f"end model.layers with 'pointwise {len(data.names)}'"
        )


def has_classes(folder: Path) -> bool:
    """Return whether a folder holds subfolders, one for each class, and no IDX files."""
    return folder.is_dir() and not any(folder.glob("t*-images*")) and bool(class_folders(folder))


def _load_fashion() -> DataSet:
    if not FASHION.is_dir():
        raise KilonetError(
            "no Fashion-MNIST here; 'apt install dataset-fashion-mnist', or name a folder with its IDX files as --data"
        )
    return replace(_load_folder(FASHION, {}), names=FASHION_NAMES)


def _load_images(folder: Path, preprocessing: Preprocessing | None) -> DataSet:
    names = class_folders(folder / "train")
    unknown = sorted(set(class_folders(folder / "test")) - set(names))
    if unknown:
        raise KilonetError(f"{folder}: 'test' has a class '{unknown[0]}' that 'train' has not")
    train, test = (_load_image_part(folder / part, names, preprocessing) for part in ("train", "test"))
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise KilonetError(f"{folder}: training and test images differ in size, or only some are in colour")
    numbers = [str(number) for number in range(len(names))]
    return DataSet(train, test, names=None if names == numbers else tuple(names), folders=tuple(names))


def _load_image_part(folder: Path, names: list[str], preprocessing: Preprocessing | None) -> Images:
    labels = {name: label for label, name in enumerate(names) if (folder / name).is_dir()}

    def network_input(picture: Picture, name: str) -> NDArray[np.uint8]:
        return preprocessing.apply(picture.values) if preprocessing else unchanged_pixels(picture, name)

    pixels, numbers, _ = read_labelled(folder, labels, network_input)
    return Images(torch.from_numpy(pixels), torch.from_numpy(numbers), folder.name.capitalize())


def _load_folder(folder: Path, digests: dict[str, str]) -> DataSet:
    published, renamed = (any(folder.glob(f"{part}-*idx[13]-ubyte*")) for part in ("t10k", "test"))
    if published and renamed:
        raise KilonetError(f"{folder}: test images under two names, t10k-... and test-...; remove one")
    # Some converters write `test` where the published files have `t10k`.
    test = "test" if renamed else "t10k"
    data = DataSet(_load_part(folder, "train", "Train", digests), _load_part(folder, test, "Test", digests))
    if data.train.pixels.shape[1:] != data.test.pixels.shape[1:]:
        raise KilonetError(f"{folder}: training and test images differ in size")
    return data


def _load_part(folder: Path, part: str, name: str, digests: dict[str, str]) -> Images:
    images = _load_file(folder, f"{part}-images.idx3-ubyte", 3, digests)
    labels = _load_file(folder, f"{part}-labels.idx1-ubyte", 1, digests)
    if len(images) != len(labels):
        raise KilonetError(f"{folder}: {len(images):,} {part} images but {len(labels):,} labels")
    return Images(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long(), name)


def _load_file(folder: Path, name: str, dimensions: int, digests: dict[str, str]) -> NDArray[np.uint8]:
    # Both spellings are in use: train-images.idx3-ubyte and train-images-idx3-ubyte.
    spellings = [spelling + ending for spelling in (name, name.replace(".", "-")) for ending in (".gz", "")]
    found = [folder / spelling for spelling in spellings if (folder / spelling).exists()]
    if not found:
        others = dict.fromkeys([name.replace(".", "-"), name.replace("t10k", "test")])
        raise KilonetError(f"{folder}: no {name} in it, nor {' or '.join(other for other in others if other != name)}")
    return read_idx(found[0], dimensions, digests.get(name))


def _described(tensor: Tensor) -> str:
    return f"{array_type(tensor)} {tuple(tensor.shape)}"
