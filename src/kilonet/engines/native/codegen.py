"""From a list of layers to the table of operations that the native trainer runs, as a C++ file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

from kilonet.network.graph import PlacedLayer
from kilonet.network.operations import BatchNorm, Convolution, Dropout, GlobalAveragePooling, MaxPooling, Shape
from kilonet.network.section import ModelSection

_NORM_VALUES = (("weight", "trained"), ("bias", "trained"), ("running_mean", "statistic"), ("running_var", "statistic"))


@dataclass(frozen=True)
class Stretch:
    """A tensor of `Network.state()` at its place among all values, which lie one after another in that order."""

    name: str
    shape: tuple[int, ...]
    role: str
    begin: int

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.begin + prod(self.shape)


def stretches(model: ModelSection) -> list[Stretch]:
    """Return every weight and statistic of the network in the order of `Network.state()`."""
    result: list[Stretch] = []
    for name, shape, role in _named_values(model):
        result.append(Stretch(name, shape, role, result[-1].end if result else 0))
    return result


def _named_values(model: ModelSection) -> Iterator[tuple[str, tuple[int, ...], str]]:
    for placed in model.placed:
        for operation in placed.operations:
            if isinstance(operation, Convolution) and not operation.shared:
                yield placed.tensor_name("convolution.weight"), operation.weight_shape, "decayed"
            if isinstance(operation, BatchNorm):
                for name, role in _NORM_VALUES:
                    yield placed.tensor_name(f"batch_norm.{name}"), (operation.channels,), role


def source(model: ModelSection) -> str:
    """Return the C++ file of the network: its shapes, its operations and the kernels they need."""
    values = stretches(model)
    plan = _Plan({value.name: value.begin for value in values}, [model.input_shape])
    for placed in model.placed:
        plan.add(placed)
    plan.settle()
    roles = [f"{{Role::{value.role}, {value.begin}, {value.end}}}" for value in values]
    tables = (
        _table("Shape", "tensors", [f"{{{c}, {r}, {k}}}" for c, r, k in plan.tensors]),
        "".join(f"{line}\n" for line in [*plan.convolutions, *plan.storages()]),
        _table("Operation", "operations", plan.operations),
        _table("Norm", "norms", plan.norms or ["{}"]),
        _table("Stretch", "stretches", roles),
    )
    counts = len(plan.tensors), len(plan.operations), len(plan.norms), len(values), values[-1].end
    network = "tensors, {}, operations, {}, norms, {}, stretches, {}, {}".format(*counts)
    return f'#include "network.hpp"\n\n{"".join(tables)}const Network network{{{network}}};\n'


def _table(kind: str, name: str, rows: list[str]) -> str:
    return f"static const {kind} {name}[] = {{\n" + "".join(f"    {row},\n" for row in rows) + "};\n"


@dataclass(frozen=True)
class _Pending:
    """A batch norm not yet applied to the tensor that its convolution left, and what stands behind it."""

    norm: int
    drops: bool
    residual: int

    @property
    def folds(self) -> bool:
        """Whether it can be folded into the weights of an unpadded convolution."""
        return not self.drops and self.residual < 0


@dataclass
class _Plan:
    """The tables under construction; the last tensor is what the layers so far left."""

    begins: Mapping[str, int]
    """By name of a tensor of the network: where it begins among all values."""
    tensors: list[Shape]
    operations: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    convolutions: list[str] = field(default_factory=list)
    folds: list[bool] = field(default_factory=list)
    """By convolution: whether the batch norm of the one before is folded into it."""
    pending: _Pending | None = None

    def add(self, placed: PlacedLayer) -> None:
        """Add a layer's operations."""
        first = placed.operations[0]
        if isinstance(first, Convolution):
            self._add_convolution(placed, first)
            return
        self.settle()
        if isinstance(first, MaxPooling):
            self._emit("max_pool", placed.output_shape, size=first.size)
        elif isinstance(first, GlobalAveragePooling):
            self._emit("average_pool", placed.output_shape)

    def settle(self) -> None:
        """Apply the batch norm that is pending, so that the last tensor is the output of the last layer."""
        if self.pending is not None:
            norm, drops, residual = self.pending.norm, self.pending.drops, self.pending.residual
            self.pending = None
            self._emit("norm", self.tensors[-1], norm=norm, residual=residual, drops=drops)

    def storages(self) -> list[str]:
        """Say of each convolution whether its input and output are kept in pairs, as a folded norm's tensor may be."""
        count = len(self.folds)
        kept = [
            f"keeps_pairs(convolution_{n - 1}, convolution_{n})" if self.folds[n] else "false" for n in range(count)
        ]
        return [f"constexpr Storage storage_{n}{{{kept[n]}, {[*kept, 'false'][n + 1]}}};" for n in range(count)]

    def _add_convolution(self, placed: PlacedLayer, convolution: Convolution) -> None:
        if convolution.padding or placed.layer.residual or not (self.pending and self.pending.folds):
            self.settle()
        folded = self.pending.norm if self.pending else -1
        normed = any(isinstance(operation, BatchNorm) for operation in placed.operations)
        drops = any(isinstance(operation, Dropout) for operation in placed.operations)
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
        )
        stores = ["StoreRectified" if normed else "StoreLinear"]
        stores += [] if not self.convolutions else ["StoreGradient" if folded < 0 else "StoreNormGradient"]
        kernels = f"kernels<{', '.join([name, f'storage_{len(self.convolutions)}', *stores])}>()"
        self._emit(
            "convolution",
            placed.output_shape,
            norm=norm,
            folded=folded,
            adds=placed.layer.residual,
            weights=self.begins[placed.tensor_name("convolution.weight")],
            kernels=kernels,
        )
        self.folds.append(folded >= 0)
        self.convolutions.append(f"constexpr Convolution {name}{{{', '.join(map(str, numbers))}}};")
        self.pending = None
        if normed:
            self.norms.append(f"{{{before + 1}, {self.begins[placed.tensor_name('batch_norm.weight')]}}}")
            self.pending = _Pending(norm, drops, before if placed.layer.residual else -1)

    def _emit(
        self,
        kind: str,
        output: Shape,
        *,
        norm: int = -1,
        folded: int = -1,
        residual: int = -1,
        size: int = 0,
        drops: bool = False,
        adds: bool = False,
        weights: int = 0,
        kernels: str = "{}",
    ) -> None:
        """Add an operation on the last tensor; a gradient of its input is wanted if weights lie before it."""
        last = len(self.tensors) - 1
        backward = bool(self.convolutions)
        numbers = (norm, folded, residual, size, int(drops), int(backward), int(adds), weights)
        self.operations.append(f"{{Kind::{kind}, {last}, {last + 1}, {', '.join(map(str, numbers))}, {kernels}}}")
        self.tensors.append(output)
