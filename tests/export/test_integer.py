"""The reference of docs/INTEGER.md against a second implementation with plain Python integers and loops."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

from helpers import refusal
from kilonet.export.integer import (
    IntegerAveragePooling,
    IntegerConvolution,
    IntegerMaxPooling,
    IntegerNetwork,
    IntegerOperation,
    Requantisation,
    execute_operation,
    integer_logits,
)
from kilonet.network.operations import AveragePooling, Convolution, GlobalAveragePooling, MaxPooling
from kilonet.utils.errors import KilonetError

Map = dict[tuple[int, int, int], int]


def requantisation(channels: int, magnitude: float, random: np.random.Generator) -> Requantisation:
    """Random numbers that spread sums of about this magnitude over most of 0 to 255, and a little beyond."""
    multiplier = random.integers(200, 900, channels) * random.choice([-1, 1, 1, 1], channels)
    shift = np.log2(np.abs(multiplier) * magnitude / 100).astype(np.int32)
    offset = (random.uniform(0, 200, channels) * 2.0**shift).astype(np.int64)
    return Requantisation(multiplier.astype(np.int32), shift, offset)


def convolution(operation: Convolution, random: np.random.Generator, *, residual: bool = False) -> IntegerConvolution:
    shape = (operation.channels_out, operation.channels_in // operation.groups, operation.kernel, operation.kernel)
    magnitude = 73 * 140 * np.sqrt(np.prod(shape[1:]))
    output = requantisation(operation.channels_out, magnitude, random)
    skip = (random.uniform(-0.5, 0.5, operation.channels_out) * 2.0**output.shift).astype(np.int32)
    return IntegerConvolution(
        operation,
        random.integers(-127, 128, shape).astype(np.int8),
        random.integers(-30_000, 30_000, operation.channels_out).astype(np.int32),
        random.integers(0, 256, operation.channels_in).astype(np.uint8),
        relu=bool(random.integers(2)),
        output=output,
        skip=skip if residual else None,
    )


def by_hand(network: IntegerNetwork, image: np.ndarray[Any, np.dtype[np.uint8]]) -> list[int]:
    """Execute the specification as it is written, with Python's integers, which never overflow."""
    values: Map = {index: int(image[index]) for index in np.ndindex(image.shape)}
    for operation, shape in network.placed:
        after = operation.output_shape(shape)
        last = operation is network.operations[-1]
        values = {place: _output(operation, values, shape, place, clamp=not last) for place in np.ndindex(after)}
    return [values[channel, 0, 0] for channel in range(network.classes)]


def _output(
    operation: IntegerOperation, values: Map, shape: tuple[int, int, int], place: tuple[int, ...], *, clamp: bool
) -> int:
    channel, row, column = place
    if isinstance(operation, IntegerMaxPooling):
        size = operation.operation.size
        window = product(range(row * size, row * size + size), range(column * size, column * size + size))
        return max(values[channel, r, c] for r, c in window)
    skipped = 0
    if isinstance(operation, IntegerAveragePooling):
        rows, columns = shape[1:]
        if isinstance(operation.operation, AveragePooling):
            rows = columns = operation.operation.size
        window = product(range(row * rows, row * rows + rows), range(column * columns, column * columns + columns))
        total = sum(values[channel, r, c] for r, c in window)
    else:
        total = _sum(operation, values, channel, row, column)
        if operation.skip is not None:
            skipped = values[channel, row, column] * int(operation.skip[channel])
    output = operation.output
    scaled = total * int(output.multiplier[channel]) + skipped + int(output.offset[channel])
    result: int = scaled // 2 ** int(output.shift[channel])
    return min(max(result, 0), 255) if clamp else result


def _sum(operation: IntegerConvolution, values: Map, channel: int, row: int, column: int) -> int:
    shape = operation.operation
    per_group = shape.channels_in // shape.groups
    first = channel // (shape.channels_out // shape.groups) * per_group
    total = int(operation.bias[channel])
    for i, a, b in product(range(per_group), range(shape.kernel), range(shape.kernel)):
        place = (first + i, row * shape.stride + a - shape.padding, column * shape.stride + b - shape.padding)
        total += int(operation.weights[channel, i, a, b]) * values.get(place, int(operation.pad[first + i]))
    return max(total, 0) if operation.relu else total


def everything(random: np.random.Generator) -> IntegerNetwork:
    operations: tuple[IntegerOperation, ...] = (
        convolution(Convolution(2, 4, 3, padding=1), random),
        convolution(Convolution(4, 4, 3, padding=1), random, residual=True),
        IntegerMaxPooling(MaxPooling(2)),
        convolution(Convolution(4, 8, 2, groups=4), random),
        convolution(Convolution(8, 5, 1), random),
        IntegerAveragePooling(GlobalAveragePooling(), requantisation(5, 500, random)),
        convolution(Convolution(5, 3, 1), random),
    )
    return IntegerNetwork((2, 9, 7), operations, 0)


def every_stride(random: np.random.Generator) -> IntegerNetwork:
    """Strides and windows that leave rows and columns over."""
    operations: tuple[IntegerOperation, ...] = (
        convolution(Convolution(2, 3, 3, padding=1, stride=2), random),
        convolution(Convolution(3, 6, 2, groups=3, stride=2), random),
        IntegerAveragePooling(AveragePooling(2), requantisation(6, 500, random)),
        convolution(Convolution(6, 4, 1, stride=3), random),
        convolution(Convolution(4, 4, 5, padding=2, groups=4, stride=4), random),
        convolution(Convolution(4, 3, 1), random),
    )
    return IntegerNetwork((2, 43, 37), operations, 0)


@pytest.mark.parametrize("number", range(5))
def test_every_stride_is_the_specification(number: int) -> None:
    check_operation(every_stride, number)


@pytest.mark.parametrize("seed", range(3))
def test_a_network_of_strides_is_the_specification(seed: int) -> None:
    random = np.random.default_rng(seed)
    network = every_stride(random)
    images = random.integers(0, 256, (2, 2, 43, 37), dtype=np.uint8)
    assert integer_logits(network, images).tolist() == [by_hand(network, image) for image in images]


@pytest.mark.parametrize("number", range(6))
def test_every_operation_is_the_specification(number: int) -> None:
    check_operation(everything, number)


def check_operation(network: Callable[[np.random.Generator], IntegerNetwork], number: int) -> None:
    random = np.random.default_rng(number)
    operation, shape = list(network(random).placed)[number]
    maps = random.integers(0, 256, (3, *shape), dtype=np.uint8)
    found = execute_operation(operation, maps.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for result, before in zip(found, maps, strict=True):
        values = {index: int(before[index]) for index in np.ndindex(shape)}
        expected = [_output(operation, values, shape, place, clamp=True) for place in np.ndindex(result.shape)]
        assert result.flatten().tolist() == expected
    inside = (found > 0) & (found < 255)
    assert inside.mean() > 0.2, "a map that is clamped nearly everywhere would prove little"


@pytest.mark.parametrize("seed", range(5))
def test_the_reference_is_the_specification(seed: int) -> None:
    random = np.random.default_rng(seed)
    network = everything(random)
    images = random.integers(0, 256, (3, 2, 9, 7), dtype=np.uint8)
    assert integer_logits(network, images).tolist() == [by_hand(network, image) for image in images]


def test_sums_beyond_float32_are_exact() -> None:
    """2,401 products of 255 * 127 pass 2**24, where float32 loses the odd ones."""
    random = np.random.default_rng(0)
    operation = convolution(Convolution(1, 3, 49), random)
    operation.weights[:] = 127
    operation.weights[:, 0, 0, 0] = [1, 2, 3]
    plain = Requantisation(np.ones(3, np.int32), np.zeros(3, np.int32), np.zeros(3, np.int64))
    exact = IntegerConvolution(
        operation.operation, operation.weights, np.zeros(3, np.int32), np.zeros(1, np.uint8), False, plain
    )
    images = np.full((1, 1, 49, 49), 255, np.uint8)
    assert integer_logits(IntegerNetwork((1, 49, 49), (exact,), 0), images).tolist() == [
        [255 * (127 * 2400 + number) for number in (1, 2, 3)]
    ]


def test_a_large_batch_is_as_many_small_ones() -> None:
    random = np.random.default_rng(1)
    network = everything(random)
    images = random.integers(0, 256, (120, 2, 9, 7), dtype=np.uint8)
    whole = integer_logits(network, images)
    assert whole.shape == (120, 3)
    assert whole.dtype == np.int32
    assert np.array_equal(whole, np.concatenate([integer_logits(network, image[None]) for image in images]))


def _with(operation: IntegerConvolution, **changes: Any) -> IntegerConvolution:
    return IntegerConvolution(**{**operation.__dict__, **changes})


@pytest.mark.parametrize(
    ("words", "broken"),
    [
        ("32 bits", lambda one: _with(one, bias=np.full(2, 2**31 - 1, np.int32))),
        (
            "multiplier",
            lambda one: _with(
                one, output=Requantisation(np.full(2, 1 << 15, np.int32), one.output.shift, one.output.offset)
            ),
        ),
        (
            "shift",
            lambda one: _with(
                one, output=Requantisation(one.output.multiplier, np.full(2, 41, np.int32), one.output.offset)
            ),
        ),
        (
            "53 bits",
            lambda one: _with(
                one, output=Requantisation(one.output.multiplier, one.output.shift, np.full(2, 1 << 53, np.int64))
            ),
        ),
        (
            "logit",
            lambda one: _with(
                one, output=Requantisation(np.full(2, 32767, np.int32), np.zeros(2, np.int32), one.output.offset)
            ),
        ),
    ],
)
def test_what_could_overflow_is_refused(words: str, broken: Callable[[IntegerConvolution], IntegerConvolution]) -> None:
    sound = convolution(Convolution(1, 2, 3), np.random.default_rng(0))
    with pytest.raises(KilonetError) as error:
        IntegerNetwork((1, 3, 3), (broken(sound),), 0)
    refusal(error, words, "operation 1")


def test_a_network_must_not_end_in_a_pool() -> None:
    with pytest.raises(KilonetError) as error:
        IntegerNetwork((1, 2, 2), (IntegerMaxPooling(MaxPooling(2)),), 0)
    refusal(error, "must end")


@pytest.mark.parametrize("images", [np.zeros((1, 2, 9, 8), np.uint8), np.zeros((1, 2, 9, 7), np.int16)])
def test_other_pixels_are_refused(images: np.ndarray[Any, Any]) -> None:
    with pytest.raises(KilonetError) as error:
        integer_logits(everything(np.random.default_rng(0)), images)
    refusal(error, "uint8")
