"""The one table of what each target computes. What a target lacks is refused by name, never dropped.

A target is what turns a list of layers into something else that runs: native kernels, integers.
"""

from collections.abc import Mapping
from typing import Literal

from kilonet.network.graph import PlacedLayer
from kilonet.network.operations import (
    BatchNorm,
    Convolution,
    Dropout,
    GlobalAveragePooling,
    MaxPooling,
    Operation,
    ReLU,
)
from kilonet.utils.errors import KilonetError

Target = Literal["the native engine", "the integer network"]
_Sequences = frozenset[tuple[type[Operation], ...]]

_EVERY_SEQUENCE: _Sequences = frozenset(
    {
        (Convolution,),
        (Convolution, ReLU, BatchNorm),
        (Convolution, ReLU, BatchNorm, Dropout),
        (MaxPooling,),
        (GlobalAveragePooling,),
    }
)
_SUPPORTED: Mapping[Target, _Sequences] = {
    "the native engine": _EVERY_SEQUENCE,
    "the integer network": _EVERY_SEQUENCE,
}
"""The operations that a layer may consist of, in their order."""


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
