"""The layers of a network at their places: repetitions expanded, shapes inferred, names of their tensors.

Shapes are (channels, rows, columns).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kilonet.network.layers import Again, Layer, LayerEntry
from kilonet.network.operations import Convolution, Operation, Shape
from kilonet.utils.errors import KilonetError

MAXIMUM_LAYERS = 200

_WEIGHTS = "convolution.weight"


@dataclass(frozen=True)
class PlacedLayer:
    """A layer at its place in a network, with its shapes and operations."""

    layer: Layer
    number: int
    """The place in the network, counted from 0."""
    owner: int
    """The number of the layer whose convolution weights it uses; its own number unless it is a repetition."""
    input_shape: Shape
    output_shape: Shape
    operations: tuple[Operation, ...]

    @property
    def text(self) -> str:
        """The text form of the layer; a repetition also names the layer whose weights it uses."""
        return f"{self.layer}" if self.owner == self.number else f"{self.layer} (weights of {self.owner + 1})"

    @property
    def parameters(self) -> int:
        """The number of trainable parameters; shared weights count only in the layer that owns them."""
        return sum(operation.parameters for operation in self.operations)

    def tensor_name(self, key: str) -> str:
        """Return the name in the network's state of a tensor such as `convolution.weight` or `batch_norm.bias`."""
        return f"{self._prefix(self.owner if key == _WEIGHTS else self.number)}{key}"

    @property
    def second_name(self) -> str | None:
        """The name that shared weights have at this place, beside that of their owner; None for own weights."""
        return None if self.owner == self.number else f"{self._prefix(self.number)}{_WEIGHTS}"

    def _prefix(self, number: int) -> str:
        return f"layers.{number}.layer." if self.layer.residual else f"layers.{number}."


def place(entries: Sequence[LayerEntry], input_shape: Shape, dropout: float = 0.0) -> tuple[PlacedLayer, ...]:
    """Place layers one after another, from an input of `input_shape`, and infer their shapes.

    Raises:
        KilonetError: a layer does not fit what comes before it, or there are more than 200.
    """
    placed: list[PlacedLayer] = []
    for number, entry in enumerate(entries, 1):
        shape = placed[-1].output_shape if placed else input_shape
        try:
            for layer, repeated in _expand(entry, placed):
                placed.append(_place(layer, len(placed), repeated, shape, dropout))
                shape = placed[-1].output_shape
        except ValueError as error:
            raise KilonetError(f"layer {number}, '{entry}': {error}") from None
    return tuple(placed)


def _expand(entry: LayerEntry, before: Sequence[PlacedLayer]) -> Iterator[tuple[Layer, PlacedLayer | None]]:
    """Yield the layers of an entry, each with the layer that it repeats, if any."""
    if not isinstance(entry, Again):
        yield entry, None
        return
    if entry.layers > len(before):
        raise ValueError(f"there are only {len(before)} layers before it")
    repeated = before[-entry.layers :]
    for _ in range(entry.times):
        yield from ((layer.layer, layer) for layer in repeated)


def _place(layer: Layer, number: int, repeated: PlacedLayer | None, shape: Shape, dropout: float) -> PlacedLayer:
    if number >= MAXIMUM_LAYERS:
        raise ValueError(f"a network has at most {MAXIMUM_LAYERS} layers")
    layer.check_input(shape)
    operations = layer.operations(shape, dropout)
    owner = number
    if repeated is not None and isinstance(own := operations[0], Convolution):
        owner = repeated.owner
        operations = (replace(own, shared=True), *operations[1:])
        if shape[0] != (channels := repeated.input_shape[0]):
            raise ValueError(f"'{layer}' has weights for {channels} input channels and cannot follow {shape[0]}")
    after = shape
    for operation in operations:
        after = operation.output_shape(after)
    if min(after) < 1:
        raise ValueError(f"its input of {shape[1]}x{shape[2]} is too small")
    return PlacedLayer(layer, number, owner, shape, after, operations)
