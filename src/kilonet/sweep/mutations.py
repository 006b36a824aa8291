"""The moves of the evolutionary sampler: small changes of a list of layers.

A move may leave layers that do not fit together; who uses it checks that, and tries another one.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from numpy.random import Generator

from kilonet.network.graph import PlacedLayer, place
from kilonet.network.layers import Again, AvgPool, Conv, Gap, LayerEntry, MaxPool, Pointwise, parse_layer
from kilonet.network.operations import Shape
from kilonet.utils.errors import KilonetError

Entries = list[LayerEntry]
Option = TypeVar("Option")


def mutate(layers: Sequence[str], input_shape: Shape, generator: Generator) -> tuple[str, ...]:
    """Return the layers after one move, drawn uniformly from `MOVES`. The classes stay as they are.

    Args:
        layers: the texts of the layers of a network.
        input_shape: the shape of an image: (channels, rows, columns).
        generator: draws the move and its place.

    Raises:
        KilonetError: the drawn move cannot be made on these layers.
    """
    entries = [parse_layer(text) for text in layers]
    names = tuple(MOVES)
    moved = MOVES[names[generator.integers(len(names))]](entries, input_shape, generator)
    return tuple(map(str, moved))


def channel_groups(placed: Sequence[PlacedLayer]) -> list[int]:
    """Return the group of the channels before each layer, and of those after the last one.

    Channels of one group can only be widened or narrowed together: those before and after a pool, a depthwise layer or
    a residual layer, and those at which a repeated layer stands again.
    """
    groups = list(range(len(placed) + 1))

    def join(one: int, other: int) -> None:
        old, new = sorted((groups[one], groups[other]), reverse=True)
        groups[:] = [new if group == old else group for group in groups]

    for number, layer in enumerate(placed):
        kept = layer.input_shape[0] == layer.output_shape[0]
        mixes = isinstance(layer.layer, Pointwise) or (isinstance(layer.layer, Conv) and not layer.layer.depthwise)
        if kept and (layer.layer.residual or not mixes):
            join(number, number + 1)
        if layer.owner != number:
            join(number, layer.owner)
            join(number + 1, layer.owner + 1)
    return groups


def _resize(entries: Entries, input_shape: Shape, generator: Generator, sign: int) -> Entries:
    """Change the number of channels of one group by one, two or a quarter."""
    placed = place(entries, input_shape)
    groups = channel_groups(placed)
    fixed = {groups[0], groups[-1]}
    group = _one_of([found for found in dict.fromkeys(groups) if found not in fixed], generator)
    channels = placed[groups.index(group)].input_shape[0]
    changed = channels + sign * _one_of([1, 2, max(1, channels // 4)], generator)
    if changed < 1:
        raise KilonetError("a layer has at least one channel")
    # The places in the network of the entries, which are fewer where layers are repeated.
    numbers = [len(place(entries[:count], input_shape)) for count in range(len(entries))]
    return [
        replace(entry, channels=changed)
        if isinstance(entry, Conv | Pointwise) and groups[number + 1] == group
        else entry
        for entry, number in zip(entries, numbers, strict=True)
    ]


def _widen(entries: Entries, input_shape: Shape, generator: Generator) -> Entries:
    return _resize(entries, input_shape, generator, 1)


def _narrow(entries: Entries, input_shape: Shape, generator: Generator) -> Entries:
    return _resize(entries, input_shape, generator, -1)


def _insert(entries: Entries, input_shape: Shape, generator: Generator) -> Entries:
    """Insert a layer that keeps the number of channels."""
    at = int(generator.integers(last_with_channels(entries) + 1))
    before = place(entries[:at], input_shape)
    channels = before[-1].output_shape[0] if before else input_shape[0]
    kernel = _one_of([3, 5], generator)
    same, residual = _one_of([(False, False), (True, False), (True, True)], generator)
    options: list[LayerEntry] = [
        Pointwise(channels),
        Conv(channels, kernel, same=same, residual=residual, depthwise=True),
        Conv(channels, kernel, same=same, residual=residual),
        MaxPool(2),
    ]
    return [*entries[:at], _one_of(options, generator), *entries[at:]]


def _delete(entries: Entries, _: Shape, generator: Generator) -> Entries:
    last = last_with_channels(entries)
    at = _one_of([place for place in range(len(entries)) if place != last], generator)
    return [*entries[:at], *entries[at + 1 :]]


def _swap(entries: Entries, _: Shape, generator: Generator) -> Entries:
    """Exchange two neighbours, or put another kind, kernel or option of a layer in its place."""
    last = last_with_channels(entries)
    at = _one_of(range(last + 1), generator)
    if at == last:
        return _with_other_classifier(entries, last)
    if at + 1 < last and generator.random() < 0.25:
        return [*entries[:at], *entries[at : at + 2][::-1], *entries[at + 2 :]]
    entry, others = entries[at], list[LayerEntry]()
    match entry:
        case Conv(kernel=kernel, same=same, depthwise=depthwise, residual=residual, stride=stride):
            others += [replace(entry, kernel=other) for other in (kernel - 2, kernel + 2) if other >= 3]
            others += [replace(entry, same=not same, residual=residual and not same)]
            others += [replace(entry, depthwise=not depthwise), replace(entry, stride=3 - stride if stride < 3 else 1)]
            others += [replace(entry, same=True, residual=not residual), Pointwise(entry.channels)]
        case Pointwise(channels):
            others += [Conv(channels), Conv(channels, depthwise=True), Conv(channels, same=True, depthwise=True)]
        case MaxPool(size):
            others += [AvgPool(size), MaxPool(size + 1), MaxPool(max(2, size - 1))]
        case AvgPool(size):
            others += [MaxPool(size), AvgPool(size + 1), AvgPool(max(2, size - 1))]
        case _:
            raise KilonetError(f"nothing takes the place of '{entry}'")
    return [*entries[:at], _one_of(others, generator), *entries[at + 1 :]]


def _with_other_classifier(entries: Entries, last: int) -> Entries:
    """Give a map of each class before the global average, with ReLU and batch norm, in the place of none, or none."""
    match entries[last - 1 :]:
        case [Gap() as gap, Pointwise(classes)]:
            return [*entries[: last - 1], Conv(classes, kernel=1), gap]
        case [_, Conv(classes, kernel=1, depthwise=False), Gap() as gap]:
            return [*entries[:last], gap, Pointwise(classes)]
    raise KilonetError("this classifier has no other form")


def _share(entries: Entries, _: Shape, generator: Generator) -> Entries:
    """Repeat one to three layers with the same weights, or once more or less where they are repeated already."""
    repeated = [(place, entry) for place, entry in enumerate(entries) if isinstance(entry, Again)]
    if repeated and generator.random() < 0.5:
        at, entry = _one_of(repeated, generator)
        times = entry.times + _one_of([-1, 1], generator)
        return [*entries[:at], *([replace(entry, times=times)] if times else []), *entries[at + 1 :]]
    at = 1 + int(generator.integers(max(1, last_with_channels(entries))))
    return [*entries[:at], Again(1 + int(generator.integers(3))), *entries[at:]]


MOVES: dict[str, Callable[[Entries, Shape, Generator], Entries]] = {
    "widen": _widen,
    "narrow": _narrow,
    "insert": _insert,
    "delete": _delete,
    "swap": _swap,
    "share": _share,
}
"""The moves by name."""


def last_with_channels(entries: Entries) -> int:
    """Return the place of the layer whose channels are the classes.

    Raises:
        KilonetError: there is none.
    """
    found = [place for place, entry in enumerate(entries) if isinstance(entry, Conv | Pointwise)]
    if not found:
        raise KilonetError("no layer gives the classes")
    return found[-1]


def _one_of(options: Sequence[Option], generator: Generator) -> Option:
    if not options:
        raise KilonetError("no layer can be changed like this")
    return options[int(generator.integers(len(options)))]
