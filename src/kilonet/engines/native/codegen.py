"""Generates the C++ file of a network: the tables of network.hpp that the native trainer runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from kilonet.network.graph import PlacedLayer
from kilonet.network.operations import (
    AveragePooling,
    BatchNorm,
    Convolution,
    Dropout,
    GlobalAveragePooling,
    MaxPooling,
    Shape,
)
from kilonet.network.section import ModelSection
from kilonet.network.support import check_support

_NORM_VALUES = (
    ("weight", "undecayed"),
    ("bias", "undecayed"),
    ("running_mean", "statistic"),
    ("running_var", "statistic"),
)


@dataclass(frozen=True)
class ValueRange:
    """The place of a tensor of `Network.state()` among all values, a flat array of these tensors in order."""

    name: str
    shape: tuple[int, ...]
    role: str
    """`decayed` and `undecayed` values are trained with and without weight decay; `statistic` values are not."""
    begin: int

    @property
    def end(self) -> int:
        return self.begin + prod(self.shape)


_LARGEST_POOLED = 15
"""The largest window whose places have a number in a byte."""


def value_ranges(model: ModelSection) -> list[ValueRange]:
    """Return the places of all weights and statistics of a network, in the order of `Network.state()`."""
    result: list[ValueRange] = []
    for name, shape, role in _named_values(model):
        result.append(ValueRange(name, shape, role, result[-1].end if result else 0))
    return result


def _named_values(model: ModelSection) -> Iterator[tuple[str, tuple[int, ...], str]]:
    for placed in model.placed:
        for operation in placed.operations:
            if isinstance(operation, Convolution) and not operation.shared:
                yield placed.tensor_name("convolution.weight"), operation.weight_shape, "decayed"
            if isinstance(operation, BatchNorm):
                for name, role in _NORM_VALUES:
                    yield placed.tensor_name(f"batch_norm.{name}"), (operation.channels,), role


def source(model: ModelSection, precision: str) -> str:
    """Return the C++ file of a network: its shapes, its operations and the kernels that they call.

    Args:
        model: the network.
        precision: of the convolutions of training, `bfloat16` or `float32`.

    Raises:
        KilonetError: the engine has no kernel for an operation.
    """
    ranges = value_ranges(model)
    builder = _TableBuilder({one.name: one.begin for one in ranges}, [model.input_shape])
    for placed in model.placed:
        builder.add_layer(placed)
    builder.apply_pending_norm()
    range_rows = [f"{{ValueRole::{one.role}, {one.begin}, {one.end}}}" for one in ranges]
    tables = (
        "".join(f"{line}\n" for line in [*builder.convolution_lines(), *builder.storage_lines(precision)]),
        _table("Shape", "tensors", builder.tensor_rows()),
        _table("Operation", "operations", builder.operations),
        _table("BatchNorm", "norms", builder.norms or ["{}"]),
        _table("ValueRange", "value_ranges", range_rows),
    )
    counts = (len(builder.tensors), len(builder.operations), len(builder.norms), len(ranges), ranges[-1].end)
    network = "tensors, {}, operations, {}, norms, {}, value_ranges, {}, {}".format(*counts)
    macro = "#define KILONET_BFLOAT16\n" if precision == "bfloat16" else ""
    includes = '#include "kernels.hpp"\n#include "network.hpp"\n'
    return f"{macro}{includes}\n{''.join(tables)}const Network network{{{network}}};\n"


def _table(kind: str, name: str, rows: list[str]) -> str:
    return f"static const {kind} {name}[] = {{\n" + "".join(f"    {row},\n" for row in rows) + "};\n"


@dataclass(frozen=True)
class _PendingNorm:
    """The batch norm of the last convolution, not applied to its output yet, and the operations behind it."""

    norm: int
    has_dropout: bool
    residual: int
    """The tensor added behind it, or -1."""
    depthwise: bool
    """Whether the convolution has a group for each of its channels, of which there are several."""

    @property
    def folds(self) -> bool:
        """Whether it can be folded into the weights of a convolution without padding."""
        return not self.has_dropout and self.residual < 0

    @property
    def pools(self) -> bool:
        """Whether max pooling can be a part of it: the gradient for a residual is spread channel by channel."""
        return not self.has_dropout and (self.residual < 0 or self.depthwise)


@dataclass(frozen=True)
class _ConvolutionShape:
    """The constants of a convolution's kernels."""

    numbers: tuple[int, ...]
    """From the channels to the stride, as in convolution.hpp."""
    stored_padded: bool
    output_padding: int = 0

    def line(self, number: int) -> str:
        values = *self.numbers, int(self.stored_padded), self.output_padding
        return f"constexpr Convolution convolution_{number}{{{', '.join(map(str, values))}}};"


@dataclass
class _TableBuilder:
    """The tables under construction. The last tensor is the output of the layers so far."""

    begins: Mapping[str, int]
    """Where each tensor of `Network.state()` begins among all values, by name."""
    tensors: list[Shape]
    operations: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    convolutions: list[_ConvolutionShape] = field(default_factory=list)
    folded_before: dict[int, int] = field(default_factory=dict)
    """The convolution that has the batch norm of its input folded into it, by the number of this input."""
    means: list[int] = field(default_factory=list)
    """The outputs of global average pooling."""
    elementwise: list[set[int]] = field(default_factory=list)
    """The tensors of each batch norm that is an operation of its own and of each pooling with windows."""
    pending: _PendingNorm | None = None
    ends_linearly: bool = False
    """Whether the last operation is a convolution without batch norm."""
    paddings: dict[int, int] = field(default_factory=dict)
    """The rows and columns of zeros around a tensor's planes, as it is stored, by its number."""

    def add_layer(self, placed: PlacedLayer) -> None:
        check_support(placed, "the native engine")
        first = placed.operations[0]
        if isinstance(first, Convolution):
            self._add_convolution(placed, first)
            return
        if isinstance(first, MaxPooling) and self.pending and self.pending.pools and first.size <= _LARGEST_POOLED:
            self.apply_pending_norm(first.size, placed.output_shape)
            return
        self.apply_pending_norm()
        if isinstance(first, MaxPooling):
            self._add_operation("max_pool", placed.output_shape, pool_size=first.size)
        elif isinstance(first, AveragePooling):
            self._add_operation("average_pool", placed.output_shape, pool_size=first.size)
        elif isinstance(first, GlobalAveragePooling):
            self._add_operation("global_average_pool", placed.output_shape)

    def apply_pending_norm(self, pool_size: int = 0, pooled: Shape | None = None) -> None:
        """Add the pending batch norm as an operation of its own, so that the last tensor is the last layer's output.

        Args:
            pool_size: of the max pooling behind it, which is a part of the operation then.
            pooled: the shape behind that.
        """
        if self.pending is not None:
            pending, self.pending = self.pending, None
            self._add_operation(
                "norm",
                pooled or self.tensors[-1],
                norm=pending.norm,
                residual=pending.residual,
                pool_size=pool_size,
                has_dropout=pending.has_dropout,
            )

    def tensor_rows(self) -> list[str]:
        """Return a row for each tensor: its shape, the rows and columns of zeros around its planes, its storage."""
        return [
            f"{{{c}, {r}, {k}, {self.paddings.get(number, 0)}, stored_{number}}}"
            for number, (c, r, k) in enumerate(self.tensors)
        ]

    def convolution_lines(self) -> list[str]:
        """Return a line for each convolution with the constants of its kernels."""
        return [shape.line(number) for number, shape in enumerate(self.convolutions)]

    def storage_lines(self, precision: str) -> list[str]:
        """Return a line for each tensor that says how it is stored."""
        # The input, means over all places and the logits.
        in_float32 = {0, *self.means, len(self.tensors) - 1}
        # Batch norm and pooling have tensors of one kind: if one of theirs is in float32, no tensor is in halves.
        mixed = any(not in_float32.isdisjoint(tensors) for tensors in self.elementwise)
        lines = []
        for tensor in range(len(self.tensors)):
            in_halves = precision == "bfloat16" and not mixed and tensor not in in_float32
            stored = f"Storage::{'halves' if in_halves else 'float32'}"
            if tensor in self.folded_before:
                number = self.folded_before[tensor]
                stored = f"stores_pairs(convolution_{number - 1}, convolution_{number}) ? Storage::pairs : {stored}"
            lines.append(f"constexpr Storage stored_{tensor} = {stored};")
        return lines

    def _add_convolution(self, placed: PlacedLayer, convolution: Convolution) -> None:
        if convolution.padding or placed.layer.residual or not (self.pending and self.pending.folds):
            self.apply_pending_norm()
        folded_norm = self.pending.norm if self.pending else -1
        normed = any(isinstance(operation, BatchNorm) for operation in placed.operations)
        has_dropout = any(isinstance(operation, Dropout) for operation in placed.operations)
        before, norm = len(self.tensors) - 1, len(self.norms) if normed else -1
        shape = placed.input_shape
        name = f"convolution_{len(self.convolutions)}"
        numbers = (
            *shape[:1],
            convolution.channels_out,
            *shape[1:],
            convolution.kernel,
            convolution.padding,
            convolution.groups,
            convolution.stride,
        )
        # A convolution without batch norm writes its output with the padding that the next one needs.
        stored_padded = bool(convolution.padding) and self.ends_linearly
        if stored_padded:
            self.convolutions[-1] = replace(self.convolutions[-1], output_padding=convolution.padding)
            self.paddings[before] = convolution.padding
        stores = ["StoreRelu" if normed else "StoreLinear"]
        if self.convolutions:
            of_sum = "StoreSum" if placed.layer.residual else "StoreGradient"
            stores.append(of_sum if folded_norm < 0 else "StoreNormGradient")
        kernels = f"kernels<{', '.join([name, f'Storages{{stored_{before}, stored_{before + 1}}}', *stores])}>()"
        self._add_operation(
            "convolution",
            placed.output_shape,
            norm=norm,
            folded_norm=folded_norm,
            accumulates=placed.layer.residual,
            weight_offset=self.begins[placed.tensor_name("convolution.weight")],
            kernels=kernels,
        )
        if folded_norm >= 0:
            self.folded_before[before] = len(self.convolutions)
        self.convolutions.append(_ConvolutionShape(numbers, stored_padded=stored_padded))
        self.pending = None
        self.ends_linearly = not normed
        if normed:
            self.norms.append(f"{{{before + 1}, {self.begins[placed.tensor_name('batch_norm.weight')]}}}")
            residual = before if placed.layer.residual else -1
            depthwise = 1 < convolution.groups == convolution.channels_out
            self.pending = _PendingNorm(norm, has_dropout, residual, depthwise)

    def _add_operation(
        self,
        kind: str,
        output: Shape,
        *,
        norm: int = -1,
        folded_norm: int = -1,
        residual: int = -1,
        pool_size: int = 0,
        has_dropout: bool = False,
        accumulates: bool = False,
        weight_offset: int = 0,
        kernels: str = "{}",
    ) -> None:
        """Add an operation on the last tensor, which needs a gradient if there are weights before it."""
        last = len(self.tensors) - 1
        backward = int(bool(self.convolutions))
        flags = int(has_dropout), backward, int(accumulates)
        numbers = (norm, folded_norm, residual, pool_size, *flags, weight_offset)
        if kind == "global_average_pool":
            self.means.append(last + 1)
        elif kind != "convolution":
            self.elementwise.append({last, last + 1} | ({residual} if residual >= 0 else set()))
        self.operations.append(f"{{Kind::{kind}, {last}, {last + 1}, {', '.join(map(str, numbers))}, {kernels}}}")
        self.tensors.append(output)
        self.ends_linearly = False
