"""Images of none of a model's classes, on which "none of these" is calibrated."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from kilonet.data.decode import READABLE
from kilonet.data.image_folders import list_files, read_picture
from kilonet.data.notices import tell
from kilonet.models.model import Classifier
from kilonet.models.prediction import prepare_images
from kilonet.utils.errors import KilonetError

LEAST_NEGATIVES = 20
"""The fewest negatives that thresholds are chosen on."""
MOST_NEGATIVES = 10_000
_MOST_BYTES = 256 << 20
"""The most bytes of inputs that are held, of networks whose images are large."""


@dataclass(frozen=True)
class Negatives:
    """Images of none of the classes, as the network is shown them."""

    folder: Path
    pixels: Tensor
    """uint8 (N, channels, rows, columns), in an order without meaning."""
    without_digit: int
    """The number of further images in which a model of digits finds none, so that its network does not see them."""
    skipped: tuple[tuple[Path, str], ...]
    """Files that could not be read, each with the reason."""

    @property
    def read(self) -> int:
        """The number of images that were read."""
        return len(self.pixels) + self.without_digit

    def sha256(self) -> str:
        """Return the SHA-256 of shape and pixels."""
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.numpy().data)
        return digest.hexdigest()


def read_negatives(folder: Path, model: Classifier) -> Negatives:
    """Read the images in a folder and its subfolders as `kilonet predict` does, `MOST_NEGATIVES` at the most.

    Files that cannot be read are listed on stderr.

    Args:
        folder: any images of none of the classes, flat or nested.
        model: the model that will see them; its weights do not matter.

    Raises:
        KilonetError: no such folder, or fewer than `LEAST_NEGATIVES` images that can be read.
    """
    if not folder.is_dir():
        raise KilonetError(f"{folder}: no such folder of negatives")
    listed = list_files(folder)
    most = min(MOST_NEGATIVES, max(LEAST_NEGATIVES, _MOST_BYTES // int(np.prod(model.section.input_shape))))
    # Shuffled, because neighbours in a folder are alike: one part chooses thresholds that the other part proves.
    order = np.random.RandomState(0).permutation(len(listed.images))[:most]
    pixels, without_digit = [], 0
    skipped = [(path, f"{path}: by its suffix no {READABLE} file") for path in listed.others]
    for place in tqdm(order, "negatives", unit="file", file=sys.stderr, leave=False, disable=None):
        path = listed.images[place]
        try:
            (image,) = prepare_images(read_picture(path, evenly=not model.reads_digits), model)
        except KilonetError as error:
            skipped.append((path, str(error)))
            continue
        if image.objection is None:
            pixels.append(image.pixels.reshape(model.section.input_shape))
        else:
            without_digit += 1
    left_out = len(listed.images) - len(order)
    notes = [f"{folder}: {left_out:,} images are not read; {len(order):,} are enough"] if left_out else []
    if len(pixels) + without_digit < LEAST_NEGATIVES:
        raise KilonetError(
            f"{folder}: {len(pixels) + without_digit} {READABLE} images that can be read; "
            f"it takes at least {LEAST_NEGATIVES} to calibrate 'none of these' on"
        )
    stacked = np.stack(pixels) if pixels else np.empty((0, *model.section.input_shape), np.uint8)
    tell(str(folder), notes, skipped, len(pixels) + without_digit)
    return Negatives(folder, torch.from_numpy(stacked), without_digit, tuple(skipped))
