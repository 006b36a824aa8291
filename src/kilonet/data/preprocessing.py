"""How a picture of any size becomes the input of a network; the page and the C form have the same rule.

The picture is laid out by `resize`: its middle is cropped to the input's shape, or it is padded to it, or squashed. It
is resampled with a triangle filter twice as wide as an output pixel, or as one of the picture where it is enlarged, so
that fine patterns are averaged, not aliased. For output pixel i of n that show m pixels, pixel j has the weight

    max(0, 2 * max(m, n) - abs((2 * j + 1) * n - (2 * i + 1) * m)),

normalised to a sum of one, first along rows and then along columns. Pillow calls it BILINEAR. A colour becomes a grey
level by the weights of ITU-R BT.601 after resampling.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kilonet.network.operations import Shape
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError
from kilonet.utils.schema import Schema

Resize = Literal["crop", "pad", "squash"]

GREY_WEIGHTS = (19595, 38470, 7471)
"""The weights of red, green and blue in a grey level, in 65,536ths, as Pillow has them."""


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the input of a network."""

    shape: Shape
    """(channels, rows, columns) of the input, one channel or three."""
    resize: Resize = "crop"
    """What happens to a picture of another shape."""
    padding: tuple[int, ...] = (0,)
    """The colour that pads, 0 to 255: one level for all channels, or one for each."""

    def __post_init__(self) -> None:
        """Check the channels.

        Raises:
            KilonetError: they are neither 1 nor 3.
        """
        if self.shape[0] not in (1, 3):
            raise KilonetError(f"the network takes {self.shape[0]} channels; images have 1 or 3")

    @classmethod
    def of(cls, section: ModelSection) -> "Preprocessing":
        """Return that of a network. Padding has the mean level of the training images."""
        return cls(section.input_shape, section.resize or "crop", tuple(round(255 * mean) for mean in section.means))

    def apply(self, picture: NDArray[np.float32] | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the input of a network for a picture.

        Args:
            picture: (rows, columns, channels), 0 to 255, one channel or three.

        Returns:
            uint8 (channels, rows, columns). A picture of the input's own size is only converted to grey or colour.
        """
        levels = np.asarray(picture if picture.dtype == np.uint8 else picture.round(), np.uint8)
        image = self._resized(levels)
        grey = self.shape[0] == 1
        pixels = np.atleast_3d(np.asarray(image.convert("L" if grey else "RGB"))).transpose(2, 0, 1)
        _, rows, columns = self.shape
        if pixels.shape == self.shape:
            return np.ascontiguousarray(pixels)
        left, top, right, bottom = pad_box((levels.shape[1], levels.shape[0]), (columns, rows))
        whole = np.empty(self.shape, np.uint8)
        whole[:] = np.array(self.padding, np.uint8)[:, None, None]
        whole[:, top:bottom, left:right] = pixels
        return whole

    def _resized(self, levels: NDArray[np.uint8]) -> Image.Image:
        """Return a picture, (rows, columns, channels), in the size that it has within the input."""
        whole, size = (levels.shape[1], levels.shape[0]), (self.shape[2], self.shape[1])
        left, top, right, bottom = 0, 0, *whole
        if self.resize == "pad":
            place = pad_box(whole, size)
            size = place[2] - place[0], place[3] - place[1]
        elif self.resize == "crop":
            # Cut out first: with `box` Pillow's filter would see the pixels beside the middle, too.
            left, top, right, bottom = crop_box(whole, size)
        shown = levels[top:bottom, left:right]
        image = Image.fromarray(shown[:, :, 0] if shown.shape[2] == 1 else shown)
        return image.resize(size, Image.Resampling.BILINEAR)


class PreprocessingFacts(Schema):
    """How a picture becomes numbers that the network computes with, for those who use it without Kilonet."""

    resize: Resize | None
    """What happens to a picture of another shape; None if a digit is searched for in it instead."""
    resampling: Literal["triangle"] = "triangle"
    """The filter: a triangle twice as wide as a pixel of the input, or of the picture where it is enlarged."""
    channels: Literal["grey", "RGB"]
    """What the channels of the input are, in order."""
    grey_weights: tuple[int, int, int] = GREY_WEIGHTS
    """The weights of red, green and blue in a grey level, in 65,536ths."""
    padding: tuple[int, ...]
    """The level that pads, for each channel, 0 to 255."""
    mean: tuple[float, ...]
    """The mean that is subtracted, for each channel, as a fraction of 255. Every exported form does this itself."""
    std: tuple[float, ...]
    """The standard deviation that divides, in the same unit."""


def preprocessing_facts(section: ModelSection, *, reads_digits: bool) -> PreprocessingFacts | None:
    """Return what every export says of a network's preprocessing; None for a network that takes no pictures.

    Args:
        section: the network.
        reads_digits: whether a digit is searched for in a picture.
    """
    channels = section.input_shape[0]
    if channels not in (1, 3):
        return None
    preprocessing = Preprocessing.of(section)
    return PreprocessingFacts(
        resize=None if reads_digits else preprocessing.resize,
        channels="grey" if channels == 1 else "RGB",
        padding=preprocessing.padding,
        mean=section.means,
        std=section.stds,
    )


def crop_box(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the middle of a picture that has the shape of the target: left, top, right, bottom in whole pixels.

    Args:
        size: columns and rows of the picture.
        target: columns and rows of the input.
    """
    (width, height), (columns, rows) = size, target
    # The largest of the target's shape, rounded half up in whole numbers, which every language does alike.
    taken = min(width, max(1, (2 * height * columns + rows) // (2 * rows)))
    lines = min(height, max(1, (2 * width * rows + columns) // (2 * columns)))
    left, top = (width - taken) // 2, (height - lines) // 2
    return left, top, left + taken, top + lines


def pad_box(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return where a whole picture lies in the target: left, top, right, bottom in whole pixels of the target.

    Args:
        size: columns and rows of the picture.
        target: columns and rows of the input.
    """
    (width, height), (columns, rows) = size, target
    taken = min(columns, max(1, (2 * width * rows + height) // (2 * height)))
    lines = min(rows, max(1, (2 * height * columns + width) // (2 * width)))
    left, top = (columns - taken) // 2, (rows - lines) // 2
    return left, top, left + taken, top + lines
