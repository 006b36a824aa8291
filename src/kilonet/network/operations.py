"""The operations that layers consist of, with their output shapes and parameter counts.

Shapes are (channels, rows, columns), the shape of one image or activation.
"""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from kilonet.utils.errors import KilonetError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Convolution:
    """A convolution without bias."""

    channels_in: int
    channels_out: int
    kernel: int
    padding: int = 0
    groups: int = 1
    stride: int = 1
    """Rows and columns from the start of one window to the next."""
    shared: bool = False
    """Whether it uses the weights of an earlier convolution."""
    torch_name: ClassVar[str] = "Conv2d"

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(channels_out, channels_in / groups, kernel, kernel)."""
        return self.channels_out, self.channels_in // self.groups, self.kernel, self.kernel

    @property
    def weights(self) -> int:
        """The number of weights, shared or not."""
        return prod(self.weight_shape)

    @property
    def parameters(self) -> int:
        """The number of trainable parameters: its weights, unless they are shared."""
        return 0 if self.shared else self.weights

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape after this operation."""
        _, rows, columns = shape
        shrink = self.kernel - 2 * self.padding
        return self.channels_out, (rows - shrink) // self.stride + 1, (columns - shrink) // self.stride + 1


class _Elementwise:
    """The base of operations that treat each element alone."""

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape after this operation, which is the shape before it."""
        return shape


@dataclass(frozen=True)
class ReLU(_Elementwise):
    """max(x, 0)."""

    torch_name: ClassVar[str] = "ReLU"
    parameters: ClassVar[int] = 0


@dataclass(frozen=True)
class BatchNorm(_Elementwise):
    """Batch normalisation with a scale and a shift per channel (Ioffe and Szegedy, 2015)."""

    channels: int
    torch_name: ClassVar[str] = "BatchNorm2d"

    @property
    def parameters(self) -> int:
        """The number of trainable parameters: a scale and a shift per channel."""
        return 2 * self.channels


@dataclass(frozen=True)
class Dropout(_Elementwise):
    """Zeroes each activation with a probability while training and scales up the rest (Srivastava et al., 2014)."""

    probability: float
    torch_name: ClassVar[str] = "Dropout"
    parameters: ClassVar[int] = 0


@dataclass(frozen=True)
class _Pooling:
    """The base of operations on windows of `size` x `size` that do not overlap; other rows and columns are dropped."""

    size: int
    parameters: ClassVar[int] = 0

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape after this operation."""
        channels, rows, columns = shape
        return channels, rows // self.size, columns // self.size


@dataclass(frozen=True)
class MaxPooling(_Pooling):
    """The maximum over windows of `size` x `size`."""

    torch_name: ClassVar[str] = "MaxPool2d"


@dataclass(frozen=True)
class AveragePooling(_Pooling):
    """The mean over windows of `size` x `size`."""

    torch_name: ClassVar[str] = "AvgPool2d"


@dataclass(frozen=True)
class GlobalAveragePooling:
    """The mean over all rows and columns (Lin et al., 2013)."""

    torch_name: ClassVar[str] = "AdaptiveAvgPool2d"
    parameters: ClassVar[int] = 0

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape after this operation."""
        return shape[0], 1, 1


Averaging = AveragePooling | GlobalAveragePooling
Operation = Convolution | ReLU | BatchNorm | Dropout | MaxPooling | Averaging


def averaged_places(operation: Averaging, shape: Shape) -> int:
    """Return how many values each mean is of, for an input of `shape`."""
    return operation.size**2 if isinstance(operation, AveragePooling) else prod(shape[1:])


def elements(shape: Shape) -> int:
    """Return the number of elements of a tensor of this shape."""
    return prod(shape)


def check_pixels(pixels: "Tensor | NDArray[Any]", shape: Shape) -> None:
    """Check that pixels are images for a network: uint8 (N, channels, rows, columns).

    Args:
        pixels: the images.
        shape: the shape of one image that the network takes.

    Raises:
        KilonetError: another dtype or shape.
    """
    if array_type(pixels) != "uint8" or tuple(pixels.shape[1:]) != shape:
        expected = f"uint8 (N, {', '.join(map(str, shape))})"
        raise KilonetError(f"images must be {expected}, not {array_type(pixels)} {tuple(pixels.shape)}")


def array_type(array: "Tensor | NDArray[Any]") -> str:
    """Return the name of an array's dtype, such as `uint8`, the same for torch and NumPy."""
    return str(array.dtype).removeprefix("torch.")
