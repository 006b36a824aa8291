"""Fold a trained network into a few steps over real numbers, without normalisation and batch norm.

Each tensor is kept as `r` with value = a * r + b per channel. The input is the pixels, with the normalisation as a and
b. A batch norm after a ReLU sets a new a and b and does not change r. The next convolution multiplies its weights by a
and adds b to its bias, which is exact if it has no padding and no residual sum. A mean may lie in between, and so may
a max-pool if no a is negative. In all other cases the step that computes r applies a and b itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kilonet.models.model import Model
from kilonet.network.graph import PlacedLayer
from kilonet.network.module import max_pool
from kilonet.network.operations import (
    AveragePooling,
    Averaging,
    BatchNorm,
    Convolution,
    GlobalAveragePooling,
    MaxPooling,
)
from kilonet.network.support import check_support

BATCH_NORM_EPSILON = 1e-5
"""The epsilon of torch's batch norm."""


@dataclass(frozen=True, eq=False)
class FoldedConvolution:
    """y = scale * relu(convolution(r) + bias) + skip * r + shift, `relu` and `skip` being optional; float64."""

    operation: Convolution
    weights: Tensor
    """(channels out, channels in / groups, kernel, kernel)."""
    bias: Tensor
    """(channels out,), valid if the map is padded with `pad`."""
    pad: Tensor
    """(channels in,): the r that stands for zero."""
    relu: bool
    scale: Tensor
    """(channels out,)."""
    shift: Tensor
    """(channels out,)."""
    skip: Tensor | None
    """(channels out,): multiplier of the residual input."""


@dataclass(frozen=True, eq=False)
class FoldedAveragePooling:
    """y = scale * mean(r) + shift, float64 (channels,)."""

    operation: Averaging
    scale: Tensor
    shift: Tensor


FoldedStep = FoldedConvolution | FoldedAveragePooling | MaxPooling


@dataclass(frozen=True, eq=False)
class _Affine:
    """value = a * r + b, per channel."""

    a: Tensor
    b: Tensor


def fold(model: Model) -> tuple[FoldedStep, ...]:
    """Return the steps from pixels (0 to 255) to logits; the last is never a max-pool.

    Raises:
        KilonetError: the network has an operation that the integer network has not.
    """
    section = model.section
    state = {name: tensor.double() for name, tensor in model.network.state().items()}
    means, stds = (torch.tensor(values, dtype=torch.float64) for values in (section.means, section.stds))
    affine = _Affine(1 / (255 * stds), -means / stds)
    steps: list[FoldedStep] = []
    for placed in section.placed:
        check_support(placed, "the integer network")
        step, affine = _fold_layer(placed, state, affine, section.placed[placed.number + 1 :])
        steps.append(step)
    if isinstance(steps[-1], MaxPooling):
        steps.append(_affine_convolution(affine))
    return tuple(steps)


def _fold_layer(
    placed: PlacedLayer, state: Mapping[str, Tensor], before: _Affine, rest: Sequence[PlacedLayer]
) -> tuple[FoldedStep, _Affine]:
    match placed.operations[0]:
        case Convolution() as operation:
            return _fold_convolution(operation, placed, state, before, rest)
        case AveragePooling() | GlobalAveragePooling() as operation:
            kept, own = _split_affine(before, rest)
            return FoldedAveragePooling(operation, own.a, own.b), kept
        case MaxPooling() as operation:
            return operation, before
        case other:
            raise TypeError(other)


def _fold_convolution(
    operation: Convolution,
    placed: PlacedLayer,
    state: Mapping[str, Tensor],
    before: _Affine,
    rest: Sequence[PlacedLayer],
) -> tuple[FoldedConvolution, _Affine]:
    weights = state[placed.tensor_name("convolution.weight")]
    a, b = (per_weight(values, operation) for values in (before.a, before.b))
    normalised = any(isinstance(other, BatchNorm) for other in placed.operations)
    after = _batch_norm(placed, state) if normalised else _identity(operation.channels_out)
    kept, own = _split_affine(after, [] if placed.layer.residual else rest)
    step = FoldedConvolution(
        operation,
        weights * a,
        (weights * b).sum(dim=(1, 2, 3)),
        pad=-before.b / before.a if operation.padding else torch.zeros_like(before.a),
        relu=normalised,
        scale=own.a,
        shift=own.b + before.b if placed.layer.residual else own.b,
        skip=before.a if placed.layer.residual else None,
    )
    return step, kept


def _split_affine(affine: _Affine, rest: Sequence[PlacedLayer]) -> tuple[_Affine, _Affine]:
    """Return the part of an affine map that later layers absorb and the part that this step must apply itself."""
    identity = _identity(len(affine.a))
    return (affine, identity) if _is_absorbed(affine, rest) else (identity, affine)


def _is_absorbed(affine: _Affine, rest: Sequence[PlacedLayer]) -> bool:
    pools = 0
    for placed in rest:
        match placed.operations[0]:
            case MaxPooling():
                if (affine.a < 0).any():
                    return False
                pools += 1
            case Convolution(padding=padding):
                return padding == 0 and not placed.layer.residual
            case _:
                return True
    # For a network that ends in a max-pool, `fold` appends a convolution.
    return pools > 0


def _batch_norm(placed: PlacedLayer, state: Mapping[str, Tensor]) -> _Affine:
    names = (placed.tensor_name(f"batch_norm.{key}") for key in ("weight", "bias", "running_mean", "running_var"))
    scale, shift, mean, variance = (state[name] for name in names)
    a = scale / torch.sqrt(variance + BATCH_NORM_EPSILON)
    return _Affine(a, shift - mean * a)


def _identity(channels: int) -> _Affine:
    return _Affine(torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64))


def _affine_convolution(affine: _Affine) -> FoldedConvolution:
    channels = len(affine.a)
    operation = Convolution(channels, channels, 1, groups=channels)
    identity = _identity(channels)
    weights = affine.a.view(-1, 1, 1, 1)
    return FoldedConvolution(operation, weights, affine.b, identity.b, False, identity.a, identity.b, None)


def per_weight(values: Tensor, operation: Convolution) -> Tensor:
    """Spread a value per input channel over the weights: (in,) to (out or 1, in / groups, 1, 1)."""
    if operation.groups == 1:
        return values.view(1, -1, 1, 1)
    per_group = values.view(operation.groups, -1)
    return per_group.repeat_interleave(operation.channels_out // operation.groups, 0)[:, :, None, None]


def convolve(step: FoldedConvolution, weights: Tensor, bias: Tensor, pad: Tensor, values: Tensor) -> Tensor:
    """Convolve values (N, in, rows, columns), padded with `pad` (in,), with the groups and padding of the step."""
    operation = step.operation
    if operation.padding:
        margin, (count, _, rows, columns) = operation.padding, values.shape
        padded = pad.view(1, -1, 1, 1).repeat(count, 1, rows + 2 * margin, columns + 2 * margin)
        padded[:, :, margin : margin + rows, margin : margin + columns] = values
        values = padded
    return functional.conv2d(values, weights, bias, operation.stride, groups=operation.groups)


def convolution_sums(step: FoldedConvolution, values: Tensor) -> Tensor:
    """Return the sums of the step's convolution with bias, before ReLU and scale: (N, channels out, rows, columns)."""
    dtype = values.dtype
    return convolve(step, step.weights.to(dtype), step.bias.to(dtype), step.pad.to(dtype), values)


def execute_step(step: FoldedStep, values: Tensor, sums: Tensor | None = None) -> Tensor:
    """Execute a step on real values (N, channels, rows, columns).

    Args:
        step: the step.
        values: its input.
        sums: the `convolution_sums` of a convolution, if they are known.
    """
    match step:
        case MaxPooling(size):
            return max_pool(values, size)
        case FoldedAveragePooling(operation, scale, shift):
            return _apply_affine(_means(operation, values), scale, shift)
        case FoldedConvolution():
            return _finish(step, convolution_sums(step, values) if sums is None else sums, values)


def _means(operation: Averaging, values: Tensor) -> Tensor:
    if isinstance(operation, AveragePooling):
        return functional.avg_pool2d(values, operation.size)
    return values.mean(dim=(2, 3), keepdim=True)


def _finish(step: FoldedConvolution, summed: Tensor, values: Tensor) -> Tensor:
    """Apply the step's ReLU, scale, residual input and shift to the sums of its convolution."""
    if step.relu:
        summed = summed.relu()
    result = _apply_affine(summed, step.scale, step.shift)
    return result if step.skip is None else result.add_(_scaled(values, step.skip))


def _apply_affine(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return _scaled(values, scale).add_(shift.to(values.dtype).view(1, -1, 1, 1))


def _scaled(values: Tensor, scale: Tensor) -> Tensor:
    return values * scale.to(values.dtype).view(1, -1, 1, 1)
