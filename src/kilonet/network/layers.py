"""The kinds of layers, their text form, and the operations that each consists of.

A network is a list of layers such as `conv 10`, `pointwise 10`, `maxpool 2`, `gap`; the entry `again 2` repeats the
last two layers with the same weights. Each layer expands into a few operations (convolution, ReLU, batch norm, ...),
which `kilonet.network.graph` puts in their places. Everything else is derived from these operations: the torch module,
the cost, the classic table and the kernels of the native engine.

Shapes are (channels, rows, columns).
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from kilonet.network.operations import (
    AveragePooling,
    BatchNorm,
    Convolution,
    Dropout,
    GlobalAveragePooling,
    MaxPooling,
    Operation,
    ReLU,
    Shape,
)
from kilonet.utils.errors import KilonetError

MAXIMUM_CHANNELS = 4096
MAXIMUM_KERNEL = 31
MAXIMUM_STRIDE = 4
MAXIMUM_AGAIN = 50


@dataclass(frozen=True)
class Conv:
    """`conv C [KxK] [same] [stride S] [depthwise] [residual]`: convolution, ReLU, batch norm, dropout, in that order.

    Without `same` the convolution is valid (unpadded). With a stride only every S-th row and column is computed.
    `depthwise` applies C / inputs kernels to each input channel alone. `residual` adds the layer's input to its output,
    which must have the same shape.
    """

    channels: int
    kernel: int = 3
    same: bool = False
    depthwise: bool = False
    residual: bool = False
    stride: int = 1

    def __str__(self) -> str:
        """Return the text form; options at their default are left out."""
        words = [f"conv {self.channels}"]
        words += [f"{self.kernel}x{self.kernel}"] if self.kernel != 3 else []
        words += ["same"] if self.same else []
        words += [f"stride {self.stride}"] if self.stride != 1 else []
        return " ".join(words + [word for word in ("depthwise", "residual") if getattr(self, word)])

    def operations(self, shape: Shape, dropout: float) -> tuple[Operation, ...]:
        """Return the operations of the layer on an input of `shape`; there is no dropout if `dropout` is zero."""
        convolution = Convolution(
            shape[0],
            self.channels,
            self.kernel,
            padding=self.kernel // 2 if self.same else 0,
            groups=shape[0] if self.depthwise else 1,
            stride=self.stride,
        )
        regular = (Dropout(dropout),) if dropout > 0 else ()
        return convolution, ReLU(), BatchNorm(self.channels), *regular

    def check_input(self, shape: Shape) -> None:
        """Check that the layer takes an input of `shape`.

        Raises:
            ValueError: it does not; the message says why.
        """
        if self.same and self.kernel % 2 == 0:
            raise ValueError("'same' needs an odd kernel")
        if self.depthwise and self.channels % shape[0]:
            raise ValueError(f"'depthwise' needs a multiple of its {shape[0]} input channels")
        if self.residual and self.stride > 1:
            raise ValueError("'residual' cannot have a stride, because its output has the shape of its input")
        if self.residual and (not self.same or self.channels != shape[0]):
            raise ValueError(f"'residual' needs 'same' and as many channels as its input, {shape[0]}")


class _WithoutOptions:
    """The base of the kinds without options."""

    residual: ClassVar[bool] = False

    def check_input(self, shape: Shape) -> None:
        """Take any input; an empty output is refused for every kind of layer in `kilonet.network.graph`."""


@dataclass(frozen=True)
class Pointwise(_WithoutOptions):
    """`pointwise C`: a bare 1x1 convolution, which mixes channels and nothing else."""

    channels: int

    def __str__(self) -> str:
        """Return the text form."""
        return f"pointwise {self.channels}"

    def operations(self, shape: Shape, dropout: float) -> tuple[Operation, ...]:
        """Return the operations of the layer on an input of `shape`."""
        return (Convolution(shape[0], self.channels, 1),)


@dataclass(frozen=True)
class MaxPool(_WithoutOptions):
    """`maxpool S`: the maximum over S x S windows."""

    size: int

    def __str__(self) -> str:
        """Return the text form."""
        return f"maxpool {self.size}"

    def operations(self, shape: Shape, dropout: float) -> tuple[Operation, ...]:
        """Return the operations of the layer on an input of `shape`."""
        return (MaxPooling(self.size),)


@dataclass(frozen=True)
class AvgPool(_WithoutOptions):
    """`avgpool S`: the mean over S x S windows."""

    size: int

    def __str__(self) -> str:
        """Return the text form."""
        return f"avgpool {self.size}"

    def operations(self, shape: Shape, dropout: float) -> tuple[Operation, ...]:
        """Return the operations of the layer on an input of `shape`."""
        return (AveragePooling(self.size),)


@dataclass(frozen=True)
class Gap(_WithoutOptions):
    """`gap`: the mean of each channel."""

    def __str__(self) -> str:
        """Return the text form."""
        return "gap"

    def operations(self, shape: Shape, dropout: float) -> tuple[Operation, ...]:
        """Return the operations of the layer on an input of `shape`."""
        return (GlobalAveragePooling(),)


Layer = Conv | Pointwise | MaxPool | AvgPool | Gap


@dataclass(frozen=True)
class Again:
    """`again L [xN]`: the last L layers N more times, with the same convolution weights but their own batch norms."""

    layers: int
    times: int = 1

    def __str__(self) -> str:
        """Return the text form; one repetition is left out."""
        return f"again {self.layers}" + (f" x{self.times}" if self.times > 1 else "")


LayerEntry = Layer | Again
"""An entry of a network's list of layers."""

GRAMMAR = "conv C [KxK] [same] [stride S] [depthwise] [residual], pointwise C, maxpool S, avgpool S, gap, again L [xN]"


def parse_layer(text: str) -> LayerEntry:
    """Parse one entry of a list of layers.

    Raises:
        KilonetError: the text is not a layer; the message says why and lists the forms.
    """
    kind, *words = text.split() or [""]
    try:
        return _parse_words(kind, words)
    except ValueError as error:
        raise KilonetError(f"layer '{text}': {error}; layers are: {GRAMMAR}") from None


def _parse_words(kind: str, words: list[str]) -> LayerEntry:
    if kind == "gap" and not words:
        return Gap()
    if kind == "pointwise" and len(words) == 1:
        return Pointwise(_whole(words[0], MAXIMUM_CHANNELS))
    if kind == "maxpool" and len(words) == 1:
        return MaxPool(_whole(words[0], MAXIMUM_KERNEL))
    if kind == "avgpool" and len(words) == 1:
        return AvgPool(_whole(words[0], MAXIMUM_KERNEL))
    if kind == "conv" and words:
        return _parse_conv(words)
    if kind == "again" and words:
        return _parse_again(*words)
    raise ValueError("not a known kind with its words" if words or kind else "is empty")


def _parse_conv(words: list[str]) -> Conv:
    kernel, stride, flags = 3, 1, words[1:]
    if flags and (match := re.fullmatch(r"([0-9]+)x([0-9]+)", flags[0])):
        if match[1] != match[2]:
            raise ValueError(f"kernel {flags[0]} is not square")
        kernel, flags = _whole(match[1], MAXIMUM_KERNEL), flags[1:]
    if "stride" in flags:
        place = flags.index("stride")
        if place + 1 == len(flags):
            raise ValueError("'stride' needs a number behind it")
        stride = _whole(flags[place + 1], MAXIMUM_STRIDE)
        flags = flags[:place] + flags[place + 2 :]
    for flag in flags:
        if flag not in ("same", "depthwise", "residual") or flags.count(flag) > 1:
            raise ValueError(f"unknown or repeated word '{flag}'")
    channels = _whole(words[0], MAXIMUM_CHANNELS)
    return Conv(channels, kernel, "same" in flags, "depthwise" in flags, "residual" in flags, stride)


def _parse_again(layers: str, times: str = "x1", *rest: str) -> Again:
    if rest or not times.startswith("x"):
        raise ValueError(f"'{' '.join((times, *rest))}' is no number of times, such as x2")
    return Again(_whole(layers, MAXIMUM_AGAIN), _whole(times[1:], MAXIMUM_AGAIN))


def _whole(text: str, maximum: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= maximum:
        raise ValueError(f"'{text}' is not a whole number from 1 to {maximum}")
    return int(text)
