"""The layers of a network at their places: repetitions written out, what each is fed, which tensors are its own.

Shapes are (channels, rows, columns).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kilonet.network.layers import Again, Entry, Layer
from kilonet.network.operations import Convolution, Operation, Shape
from kilonet.utils.errors import KilonetError

MAXIMUM_LAYERS = 200

_WEIGHTS = "convolution.weight"


@dataclass(frozen=True)
class PlacedLayer:
    """A layer at its place in a network: its input and output shape and its operations.

    Its number counts from 0. `owner` is the number of the layer whose convolution weights it uses, mostly its own.
    """

    layer: Layer
    number: int
    owner: int
    input_shape: Shape
    output_shape: Shape
    operations: tuple[Operation, ...]

    @property
    def text(self) -> str:
        """The text form of the layer, and whose weights it has, if not its own."""
        return f"{self.layer}" if self.owner == self.number else f"{self.layer} (weights of {self.owner + 1})"

    @property
    def parameters(self) -> int:
        """The number of trainable parameters of its own."""
        return sum(operation.parameters for operation in self.operations)

    def tensor_name(self, key: str) -> str:
        """Return what a network calls a tensor of this layer, such as `convolution.weight` or `batch_norm.bias`."""
        return f"{self._prefix(self.owner if key == _WEIGHTS else self.number)}{key}"

    @property
    def second_name(self) -> str | None:
        """The name at this place of the weights of a repeated layer, which have their own name too."""
        return None if self.owner == self.number else f"{self._prefix(self.number)}{_WEIGHTS}"

    def _prefix(self, number: int) -> str:
        return f"layers.{number}.layer." if self.layer.residual else f"layers.{number}."


def place(entries: Sequence[Entry], input_shape: Shape, dropout: float = 0.0) -> tuple[PlacedLayer, ...]:
    """Lay the layers out one after another on an input of `input_shape`.

    Raises:
        KilonetError: a layer does not fit what comes before it, or there are more than 200.
    """
    placed: list[PlacedLayer] = []
    for number, entry in enumerate(entries, 1):
        shape = placed[-1].output_shape if placed else input_shape
        try:
            for layer, owner in _written_out(entry, placed):
                placed.append(_place(layer, len(placed), owner, shape, dropout))
                shape = placed[-1].output_shape
        except _ObjectionError as objection:
            raise KilonetError(f"layer {number}, '{entry}': {objection}") from None
    return tuple(placed)


class _ObjectionError(Exception):
    """Why a layer cannot stand where it does."""


def _written_out(entry: Entry, before: Sequence[PlacedLayer]) -> Iterator[tuple[Layer, PlacedLayer | None]]:
    """Yield the layers that an entry stands for, each with the one that it repeats."""
    if not isinstance(entry, Again):
        yield entry, None
        return
    if entry.layers > len(before):
        raise _ObjectionError(f"there are only {len(before)} layers before it")
    repeated = before[-entry.layers :]
    for _ in range(entry.times):
        yield from ((one.layer, one) for one in repeated)


def _place(layer: Layer, number: int, repeated: PlacedLayer | None, shape: Shape, dropout: float) -> PlacedLayer:
    if number >= MAXIMUM_LAYERS:
        raise _ObjectionError(f"a network has at most {MAXIMUM_LAYERS} layers")
    objection = layer.objection(shape)
    operations = layer.operations(shape, dropout)
    owner = number
    if repeated is not None and isinstance(own := operations[0], Convolution):
        owner = repeated.owner
        operations = (replace(own, shared=True), *operations[1:])
        if objection is None and shape[0] != repeated.input_shape[0]:
            channels = repeated.input_shape[0]
            objection = f"'{layer}' has weights for {channels} input channels and cannot follow {shape[0]}"
    after = shape
    for operation in operations:
        after = operation.output_shape(after)
    if objection is None and min(after) < 1:
        objection = f"its input of {shape[1]}x{shape[2]} is too small"
    if objection:
        raise _ObjectionError(objection)
    return PlacedLayer(layer, number, owner, shape, after, operations)
