"""One family of networks, from which the largest within a budget is taken for any input and number of classes.

The family is the layout of the recipe `best`: depthwise 5x5 layers with pointwise ones between, in three stages of
which each has about twice the channels of the one before. It is scaled by two numbers: the channels of the last stage,
and how often the maps are halved.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from kilonet.network.cost import network_cost
from kilonet.network.operations import Shape
from kilonet.network.section import ModelSection

_FIRST, _SECOND, _LAST = 10, 18, 36
"""The channels of the three stages of `best`."""
_KERNEL = 5
_SMALLEST_MAP = 9
"""The shorter side of the last stage's maps that two unpadded 5x5 layers take."""
_LARGEST_MAP = 18
"""The shorter side of the last stage's maps that is large enough, so that more halving is wanted."""
_MOST_CHANNELS = 512
_ENOUGH = 0.95
"""The share of the parameters' budget that a network should use before its maps are halved once more to save RAM."""


@dataclass(frozen=True)
class Member:
    """A network of the family, or one with the layers of a recipe."""

    layers: tuple[str, ...]
    parameters: int
    macs: int
    c_ram_bytes: int

    @classmethod
    def of(cls, shape: Shape, layers: tuple[str, ...]) -> "Member":
        """Return a list of layers with its costs for images of `shape`.

        Raises:
            KilonetError: the layers do not take such images.
        """
        cost = network_cost(ModelSection(input=shape, layers=layers))
        return cls(layers, cost.parameters, cost.macs, cost.c_ram_bytes)


def least_features(classes: int) -> int:
    """Return the least channels of the last stage: as many as the number of a class has binary digits, at least 2."""
    return max(2, (classes - 1).bit_length())


def largest_member(shape: Shape, classes: int, parameters: int, ram: int) -> Member | None:
    """Return the largest network of the family within a budget, or None if even the smallest is over it.

    Where RAM leaves room for only a small share of the parameters, the maps are halved once more.

    Args:
        shape: the shape of an image.
        classes: the number of classes.
        parameters: the most trainable parameters.
        ram: the most bytes of RAM of the C form.
    """
    best: Member | None = None
    if math.prod(shape) >= ram:
        return best
    for halvings in _halvings(shape):
        found = _widest(shape, classes, halvings, parameters, ram)
        if found is None or (best is not None and found.parameters <= best.parameters):
            continue
        best = found
        if best.parameters >= _ENOUGH * parameters:
            break
    return best


def smallest_members(shape: Shape, classes: int) -> list[Member]:
    """Return the narrowest network of the family for each number of halvings."""
    return [member(shape, classes, least_features(classes), halvings) for halvings in _halvings(shape)]


def member(shape: Shape, classes: int, channels: int, halvings: int) -> Member:
    """Return a network of the family.

    Args:
        shape: the shape of an image.
        classes: the number of classes.
        channels: the channels of the last stage.
        halvings: how often the maps are halved.
    """
    return Member.of(shape, tuple(_layers(shape, classes, channels, halvings)))


def _halvings(shape: Shape) -> range:
    """Return the numbers of halvings to try, the wanted one first."""
    shorter = min(shape[1:])
    wanted = next(count for count in range(8) if shorter >> count <= _LARGEST_MAP)
    return range(wanted, max(wanted, shorter.bit_length() - 2) + 1)


def _widest(shape: Shape, classes: int, halvings: int, parameters: int, ram: int) -> Member | None:
    """Return the widest network within the budget by bisection: parameters and RAM grow with the channels."""
    low, found = least_features(classes), None
    # The last stage alone has twice the channels' square of weights.
    high = min(_MOST_CHANNELS, math.isqrt(parameters // 2))
    while low <= high:
        channels = (low + high) // 2
        tried = member(shape, classes, channels, halvings)
        if tried.parameters <= parameters and tried.c_ram_bytes <= ram:
            low, found = channels + 1, tried
        else:
            high = channels - 1
    return found


def _layers(shape: Shape, classes: int, channels: int, halvings: int) -> Iterator[str]:
    first, second = (max(1, round(channels * stage / _LAST)) for stage in (_FIRST, _SECOND))
    # The halvings are spread over the ends of the stages, the last of them first; what is over comes before all others.
    pools = [0, 0, 0]
    for number in range(halvings):
        pools[2 - min(number, 2)] += 1
    sides = list(shape[1:])

    def pool(times: int) -> Iterator[str]:
        for _ in range(times):
            sides[:] = [side // 2 for side in sides]
            yield "maxpool 2"

    def depthwise(width: int) -> str:
        kernel = _KERNEL if min(sides) >= _KERNEL else 3
        return f"conv {width} {kernel}x{kernel} same depthwise"

    # Padded where maps are small: a border is much of them.
    padded = min(sides) >> halvings < _SMALLEST_MAP + 2
    yield f"conv {first} same" if padded else f"conv {first}"
    if not padded:
        sides[:] = [side - 2 for side in sides]
    yield from pool(pools[0])
    yield f"pointwise {first}"
    yield f"{depthwise(first)} residual"
    yield from pool(pools[1])
    yield f"pointwise {second}"
    yield f"{depthwise(second)} residual"
    yield from pool(pools[2])
    yield f"pointwise {channels}"
    yield f"{depthwise(channels)} residual"
    # As in `best`, these two do not add their input: three sums in a row, with no batch norm between, grow until a run
    # at the proposed rate diverges.
    for _ in range(2):
        yield f"pointwise {channels}"
        if min(sides) >= _SMALLEST_MAP:
            yield f"conv {channels} {_KERNEL}x{_KERNEL} depthwise"
            sides[:] = [side - _KERNEL + 1 for side in sides]
        else:
            yield depthwise(channels)
    yield "gap"
    yield f"pointwise {classes}"
