"""Random integer networks with all kinds of operations, up to the limits of the specification, and pixels for them."""

from typing import Any

import numpy as np
from hypothesis import strategies
from numpy.typing import NDArray

from kilonet.export.integer import (
    EXACT,
    MAXIMUM_MULTIPLIER,
    MAXIMUM_SHIFT,
    IntegerAveragePooling,
    IntegerConvolution,
    IntegerMaxPooling,
    IntegerNetwork,
    IntegerOperation,
    Requantisation,
)
from kilonet.network.operations import (
    AveragePooling,
    Averaging,
    Convolution,
    GlobalAveragePooling,
    MaxPooling,
    Shape,
    averaged_places,
)

Random = np.random.Generator
_PIXEL = 255


@strategies.composite
def integer_networks(draw: strategies.DrawFn) -> IntegerNetwork:
    """Draw a valid network of up to five operations and a last one that leaves one value for each class."""
    first: Shape = draw(strategies.tuples(*(strategies.integers(1, high) for high in (4, 12, 12))))
    random = np.random.default_rng(draw(strategies.integers(0, 2**32 - 1)))
    shape, operations = first, list[IntegerOperation]()
    for kind in draw(strategies.lists(strategies.sampled_from(_KINDS), max_size=5)):
        operation = _operation(kind, shape, random)
        if min(operation.output_shape(shape)) > 0:
            operations.append(operation)
            shape = operation.output_shape(shape)
    if shape[1:] == (1, 1) or (shape[1] == shape[2] and draw(strategies.booleans())):
        last = Convolution(shape[0], draw(strategies.integers(1, 12)), kernel=shape[1])
        operations.append(_convolution(last, random, is_last=True))
    else:
        operations.append(_average(GlobalAveragePooling(), shape, random, is_last=True))
    return IntegerNetwork(first, tuple(operations), draw(strategies.integers(0, 16)))


def random_pixels(network: IntegerNetwork, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return images of noise, the last two black and white: uint8 (count, channels, rows, columns)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *network.input_shape), np.uint8)
    pixels[-2:] = np.array([0, _PIXEL], np.uint8)[:, None, None, None]
    return pixels


_KINDS = (
    *("dense", "padded", "grouped", "depthwise", "residual", "depthwise residual"),
    *("maximum", "average", "average of windows"),
)


def _operation(kind: str, shape: Shape, random: Random) -> IntegerOperation:
    channels = shape[0]
    if kind == "maximum":
        return IntegerMaxPooling(MaxPooling(int(random.integers(1, 4))))
    if kind == "average":
        return _average(GlobalAveragePooling(), shape, random)
    if kind == "average of windows":
        return _average(AveragePooling(int(random.integers(1, 4))), shape, random)
    kernel, padding, outputs, groups = int(random.integers(1, 6)), 0, int(random.integers(1, 7)), 1
    if kind == "padded":
        padding = int(random.integers(1, 3))
    if kind == "grouped":
        groups = int(random.choice([number for number in range(1, channels + 1) if channels % number == 0]))
        outputs = groups * int(random.integers(1, 4))
    if "depthwise" in kind:
        groups, outputs = channels, channels * int(random.integers(1, 3))
    if "residual" in kind:
        padding = int(random.integers(0, 3))
        kernel, outputs = 2 * padding + 1, channels
    stride = 1 if "residual" in kind else int(random.choice([1, 1, 2, 3, 4]))
    operation = Convolution(channels, outputs, kernel, padding, groups, stride)
    return _convolution(operation, random, residual="residual" in kind)


def _convolution(
    operation: Convolution, random: Random, *, residual: bool = False, is_last: bool = False
) -> IntegerConvolution:
    outputs = operation.channels_out
    shape = (outputs, operation.channels_in // operation.groups, operation.kernel, operation.kernel)
    weights = random.integers(-127, 128, shape)
    bias = random.integers(-30_000, 30_000, outputs)
    if random.integers(10) == 0:
        bias = random.choice([-1, 1], outputs) * (2**31 - 1 - np.abs(weights).sum((1, 2, 3)) * _PIXEL)
    # The check of widths takes the largest sum of all channels for each of them.
    largest = np.full(outputs, (np.abs(weights).sum((1, 2, 3)) * _PIXEL + np.abs(bias)).max())
    skip = random.integers(-(2**20), 2**20, outputs) if residual else None
    skipped = np.zeros(outputs, np.int64) if skip is None else np.abs(skip).max() * _PIXEL
    return IntegerConvolution(
        operation,
        weights.astype(np.int8),
        bias.astype(np.int32),
        random.integers(0, 256, operation.channels_in).astype(np.uint8),
        relu=bool(random.integers(2)),
        output=_requantisation(largest, skipped, random, is_last=is_last),
        skip=None if skip is None else skip.astype(np.int32),
    )


def _average(operation: Averaging, shape: Shape, random: Random, *, is_last: bool = False) -> IntegerAveragePooling:
    largest = np.full(shape[0], _PIXEL * averaged_places(operation, shape))
    output = _requantisation(largest, np.zeros(shape[0], np.int64), random, is_last=is_last)
    return IntegerAveragePooling(operation, output)


def _requantisation(largest: NDArray[Any], skipped: NDArray[Any], random: Random, *, is_last: bool) -> Requantisation:
    """Return a requantisation that spreads most channels over 0 to 255 and takes the others up to the limits."""
    channels = len(largest)
    multiplier = random.integers(0, MAXIMUM_MULTIPLIER + 1, channels) * random.choice([-1, 1, 1, 1], channels)
    products = largest * np.abs(multiplier) + skipped
    fitting = np.ceil(np.log2(np.maximum(products, 1) / _PIXEL / 6)).clip(0, MAXIMUM_SHIFT).astype(np.int64)
    extreme = random.integers(8, size=channels) == 0
    shift = np.where(extreme, random.integers(0, MAXIMUM_SHIFT + 1, channels), fitting)
    if is_last:
        # A logit has 32 bits; without this, few extreme networks would be valid.
        shift = np.maximum(shift, np.ceil(np.log2(np.maximum(products, 1))).astype(np.int64) - 30).clip(
            0, MAXIMUM_SHIFT
        )
    room = EXACT - 1 - products
    if is_last:
        room = np.minimum(room, (np.int64(2**31 - 1) << shift) - products)
    near = random.uniform(0, 128, channels) * 2.0**shift
    far = random.choice([-1.0, -0.5, 0.5, 1.0], channels) * room
    offset = np.where(extreme, far, np.minimum(near, room)).astype(np.int64).clip(-room, room)
    return Requantisation(multiplier.astype(np.int32), shift.astype(np.int32), offset)
