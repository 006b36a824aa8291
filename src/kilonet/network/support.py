"""The one table of what each target computes. What a target lacks is refused by name, never dropped.

A target is what turns a list of layers into something else that runs: native kernels, integers, an ONNX graph. The
torch module computes every layer, and the others are compared with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

from kilonet.network.graph import PlacedLayer
from kilonet.network.operations import (
    AveragePooling,
    BatchNorm,
    Convolution,
    Dropout,
    GlobalAveragePooling,
    MaxPooling,
    Operation,
    ReLU,
)
from kilonet.utils.errors import KilonetError

Target = Literal["the native engine", "the integer network", "the float32 ONNX graph"]
_Sequences = frozenset[tuple[type[Operation], ...]]

_EVERY_SEQUENCE: _Sequences = frozenset(
    {
        (Convolution,),
        (Convolution, ReLU, BatchNorm),
        (Convolution, ReLU, BatchNorm, Dropout),
        (MaxPooling,),
        (AveragePooling,),
        (GlobalAveragePooling,),
    }
)
_SUPPORTED: Mapping[Target, _Sequences] = {
    "the native engine": _EVERY_SEQUENCE,
    "the integer network": _EVERY_SEQUENCE,
    "the float32 ONNX graph": _EVERY_SEQUENCE,
}
"""The operations that a layer may consist of, in their order."""
_FORMS: Mapping[Target, str] = {"the integer network": " (C, page, int8 ONNX)"}
"""What is made of a target."""


def support_lines(layers: Sequence[PlacedLayer]) -> Iterator[str]:
    """Yield a line with the targets that compute a network, and one for each other target: the layer it refuses."""
    refusals = {target: _refusal(layers, target) for target in get_args(Target)}
    computing = [f"{target}{_FORMS.get(target, '')}" for target, refusal in refusals.items() if refusal is None]
    yield f"Computed by {', '.join(['torch', *computing])}"
    yield from (refusal for refusal in refusals.values() if refusal is not None)


def _refusal(layers: Sequence[PlacedLayer], target: Target) -> str | None:
    """Return the first refusal of a target; None if it computes all layers."""
    try:
        for placed in layers:
            check_support(placed, target)
    except KilonetError as error:
        return str(error)
    return None


def check_support(placed: PlacedLayer, target: Target) -> None:
    """Check that a target computes a layer.

    Raises:
        KilonetError: it does not know one of the layer's operations, or not in this order; names the layer.
    """
    kinds = tuple(type(operation) for operation in placed.operations)
    known = {kind for sequence in _SUPPORTED[target] for kind in sequence}
    unknown = [kind.__name__ for kind in kinds if kind not in known]
    where = f"layer {placed.number + 1}, '{placed.layer}'"
    if unknown:
        raise KilonetError(f"{where}: {target} has no {', '.join(unknown)}")
    if kinds not in _SUPPORTED[target]:
        raise KilonetError(f"{where}: {target} has no {', '.join(kind.__name__ for kind in kinds)} in this order")
    if placed.layer.residual and BatchNorm not in kinds:
        raise KilonetError(f"{where}: {target} has no residual sum without a batch norm")
