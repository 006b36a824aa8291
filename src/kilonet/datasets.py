"""Images in memory: the packaged MNIST, or a folder of IDX files of the same names."""

from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kilonet.errors import KilonetError
from kilonet.idx import read_idx

MNIST_SHA256 = {
    "train-images.idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels.idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images.idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels.idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the unpacked files as published."""

HOLDOUT_SHARE = 6
"""One in so many training images is held out: 10,000 of MNIST's 60,000."""


@dataclass(frozen=True)
class Images:
    """Labelled images."""

    pixels: Tensor
    """uint8 (N, channels, rows, columns)."""
    labels: Tensor
    """int64 (N,)."""
    name: str = "images"
    """What they are called in output, such as `Test`."""

    def __post_init__(self) -> None:
        """Refuse tensors of another shape or dtype."""
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise KilonetError(f"images must be uint8 (N, channels, rows, columns), not {_described(self.pixels)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.pixels.shape[:1]:
            raise KilonetError(f"labels must be int64 ({len(self.pixels)},), not {_described(self.labels)}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def select(self, indices: Tensor, name: str) -> "Images":
        """Return some of the images, copied, under another name."""
        return Images(self.pixels[indices], self.labels[indices], name)


@dataclass(frozen=True)
class DataSet:
    """Images to train on and images to score."""

    train: Images
    test: Images

    def hold_out(self) -> "DataSet":
        """Split the training images: the last sixth after a fixed permutation is scored, not trained on."""
        count = len(self.train)
        held = count // HOLDOUT_SHARE
        if held == 0:
            raise KilonetError(f"{count} training images are too few to hold some out")
        # RandomState is NumPy's frozen generator: its permutations are the same in every version.
        order = torch.from_numpy(np.random.RandomState(0).permutation(count))
        kept = self.train.select(order[: count - held], "Train")
        return DataSet(kept, self.train.select(order[count - held :], "Holdout"))


def load_data(source: str) -> DataSet:
    """Load a data set: `mnist`, or a folder with its four IDX files, plain or gzip.

    Raises:
        KilonetError: no such data set, a missing or damaged file, or files that do not belong together.
    """
    if source == "mnist":
        with as_file(files("kilonet") / "mnist") as folder:
            return _load_folder(folder, MNIST_SHA256)
    folder = Path(source)
    if not folder.is_dir():
        raise KilonetError(f"no data '{source}': it is neither 'mnist' nor a folder with four IDX files")
    return _load_folder(folder, {})


def _load_folder(folder: Path, digests: dict[str, str]) -> DataSet:
    data = DataSet(_load_part(folder, "train", "Train", digests), _load_part(folder, "t10k", "Test", digests))
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
    packed = folder / f"{name}.gz"
    path = packed if packed.exists() else folder / name
    return read_idx(path, dimensions, digests.get(name))


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
