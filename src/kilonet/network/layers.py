"""The closed set of layer kinds, their text form, and the operations that each is made of.

A network is a list of layers such as `conv 10`, `pointwise 10`, `maxpool 2`, `gap`, in which `again 2` repeats the last
two with the same weights. Each layer expands into a few operations (convolution, ReLU, batch norm, ...). Whatever else
Kilonet knows about a network is read off these operations, laid out by `kilonet.network.graph`: the torch module, the
costs, the classic table and the kernels of the native engine.

Shapes are (channels, rows, columns).
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from kilonet.network.operations import (
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
MAXIMUM_AGAIN = 50


@dataclass(frozen=True)
class Conv:
    """`conv C [KxK] [same] [depthwise] [residual]`: convolution, ReLU, batch norm, dropout, in that order.

    Without `same` the convolution is valid (unpadded). `depthwise` gives each input channel its own kernels, C / inputs
    of them. `residual` adds the layer's input to its output, which must have the same shape.
    """

    channels: int
    kernel: int = 3
    same: bool = False
    depthwise: bool = False
    residual: bool = False

    def __str__(self) -> str:
        """Return the text form, without what is the default."""
        words = [f"conv {self.channels}"]
        words += [f"{self.kernel}x{self.kernel}"] if self.kernel != 3 else []
        return " ".join(words + [word for word in ("same", "depthwise", "residual") if getattr(self, word)])

    def operations(self, shape: Shape, dropout: float) -> tuple[Operation, ...]:
        """Return what the layer does to an input of `shape`; no dropout operation when `dropout` is zero."""
        convolution = Convolution(
            shape[0],
            self.channels,
            self.kernel,
            padding=self.kernel // 2 if self.same else 0,
            groups=shape[0] if self.depthwise else 1,
        )
        regular = (Dropout(dropout),) if dropout > 0 else ()
        return convolution, ReLU(), BatchNorm(self.channels), *regular

    def objection(self, shape: Shape) -> str | None:
        """Say why this layer cannot follow an input of `shape`, or return None."""
        if self.same and self.kernel % 2 == 0:
            return "'same' needs an odd kernel"
        if self.depthwise and self.channels % shape[0]:
            return f"'depthwise' needs a multiple of its {shape[0]} input channels"
        if self.residual and (not self.same or self.channels != shape[0]):
            return f"'residual' needs 'same' and as many channels as its input, {shape[0]}"
        return None


class _Plain:
    """What the kinds without options share."""

    residual: ClassVar[bool] = False

    def objection(self, shape: Shape) -> str | None:
        """Any input will do; one that leaves nothing is refused for every kind."""
        return None


@dataclass(frozen=True)
class Pointwise(_Plain):
    """`pointwise C`: a bare 1x1 convolution, which mixes channels and nothing else."""

    channels: int

    def __str__(self) -> str:
        """Return the text form."""
        return f"pointwise {self.channels}"

    def operations(self, shape: Shape, dropout: float) -> tuple[Operation, ...]:
        """Return what the layer does to an input of `shape`."""
        return (Convolution(shape[0], self.channels, 1),)


@dataclass(frozen=True)
class MaxPool(_Plain):
    """`maxpool S`: the maximum over S x S windows."""

    size: int

    def __str__(self) -> str:
        """Return the text form."""
        return f"maxpool {self.size}"

    def operations(self, shape: Shape, dropout: float) -> tuple[Operation, ...]:
        """Return what the layer does to an input of `shape`."""
        return (MaxPooling(self.size),)


@dataclass(frozen=True)
class Gap(_Plain):
    """`gap`: the mean of each channel."""

    def __str__(self) -> str:
        """Return the text form."""
        return "gap"

    def operations(self, shape: Shape, dropout: float) -> tuple[Operation, ...]:
        """Return what the layer does to an input of `shape`."""
        return (GlobalAveragePooling(),)


Layer = Conv | Pointwise | MaxPool | Gap


@dataclass(frozen=True)
class Again:
    """`again L [xN]`: the last L layers N more times, with the same weights, but batch norms of their own."""

    layers: int
    times: int = 1

    def __str__(self) -> str:
        """Return the text form, without what is the default."""
        return f"again {self.layers}" + (f" x{self.times}" if self.times > 1 else "")


Entry = Layer | Again

GRAMMAR = "conv C [KxK] [same] [depthwise] [residual], pointwise C, maxpool S, gap, again L [xN]"


def parse_layer(text: str) -> Entry:
    """Read one entry of a list of layers from its text form.

    Raises:
        KilonetError: the text is no layer; the message says what is wrong and lists the forms.
    """
    kind, *words = text.split() or [""]
    try:
        return _parse_words(kind, words)
    except ValueError as error:
        raise KilonetError(f"layer '{text}': {error}; layers are: {GRAMMAR}") from None


def _parse_words(kind: str, words: list[str]) -> Entry:
    if kind == "gap" and not words:
        return Gap()
    if kind == "pointwise" and len(words) == 1:
        return Pointwise(_whole(words[0], MAXIMUM_CHANNELS))
    if kind == "maxpool" and len(words) == 1:
        return MaxPool(_whole(words[0], MAXIMUM_KERNEL))
    if kind == "conv" and words:
        return _parse_conv(words)
    if kind == "again" and words:
        return _parse_again(*words)
    raise ValueError("not a known kind with its words" if words or kind else "is empty")


def _parse_conv(words: list[str]) -> Conv:
    kernel, flags = 3, words[1:]
    if flags and (match := re.fullmatch(r"([0-9]+)x([0-9]+)", flags[0])):
        if match[1] != match[2]:
            raise ValueError(f"kernel {flags[0]} is not square")
        kernel, flags = _whole(match[1], MAXIMUM_KERNEL), flags[1:]
    for flag in flags:
        if flag not in ("same", "depthwise", "residual") or flags.count(flag) > 1:
            raise ValueError(f"unknown or repeated word '{flag}'")
    channels = _whole(words[0], MAXIMUM_CHANNELS)
    return Conv(channels, kernel, "same" in flags, "depthwise" in flags, "residual" in flags)


def _parse_again(layers: str, times: str = "x1", *rest: str) -> Again:
    if rest or not times.startswith("x"):
        raise ValueError(f"'{' '.join((times, *rest))}' is no number of times, such as x2")
    return Again(_whole(layers, MAXIMUM_AGAIN), _whole(times[1:], MAXIMUM_AGAIN))


def _whole(text: str, maximum: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= maximum:
        raise ValueError(f"'{text}' is not a whole number from 1 to {maximum}")
    return int(text)
