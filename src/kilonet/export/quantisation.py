"""From a trained model to its integer network: ranges and steps chosen on training images.

Three choices are made, one step of the network after another, each on the activations of the integers chosen so far:
the int8 step of every output channel's weights (least squared error, each weight's counted by its input's mean square),
the bias (so that the channel's mean is the float network's) and the range of every channel's uint8 (least squared error
of rounding and clamping). Source of the bias correction: M. Nagel, M. van Baalen, T. Blankevoort, M. Welling,
"Data-free quantization through weight equalization and bias correction", 2019.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kilonet.data.datasets import DataSet, Images
from kilonet.evaluation.scoring import accuracy_of
from kilonet.export import folding
from kilonet.export.finetuning import finetune
from kilonet.export.folding import FoldedAverage, FoldedConvolution, FoldedStep
from kilonet.export.integer import IntegerNetwork, logits
from kilonet.export.integer_steps import (
    MAXIMUM_WEIGHT,
    Output,
    PreparedAverage,
    PreparedConvolution,
    PreparedStep,
    execute,
    integer_sums,
    to_integers,
)
from kilonet.models.model import Model
from kilonet.network.operations import Convolution, MaxPooling, check_pixels

CALIBRATION_IMAGES = 1000
TOLERATED_DROP = 0.0005
_PIXEL = 255
_LARGEST_SUM = 1 << 29
_NOTHING = Output(torch.zeros(0), torch.zeros(0))
_SAMPLED_EVERY = 4
_SHARES = torch.linspace(1.0, 0.5, 11)
"""Of the largest magnitude: the candidates for a weight's or an activation's range."""


@dataclass(frozen=True, eq=False)
class Encoding:
    """A tensor's uint8 q stands for scale * (q - zero); float64 (channels,)."""

    scale: Tensor
    zero: Tensor


@dataclass(frozen=True, eq=False)
class Quantised:
    """An integer network and how it was come by. Accuracies are fractions, of the training images held out."""

    network: IntegerNetwork
    float_accuracy: float
    calibrated_accuracy: float
    """Of the integers as calibration leaves them."""
    finetuned_accuracy: float | None
    """Of the integers after fine-tuning; None where calibration was good enough."""

    @property
    def accuracy(self) -> float:
        """Of the network: the better of the two."""
        return max(self.calibrated_accuracy, self.finetuned_accuracy or 0.0)


def quantise(model: Model, images: Images) -> Quantised:
    """Return the integer network of a model: calibrated, and fine-tuned if that loses over 0.05 points.

    Args:
        model: the trained network.
        images: its training images; a sixth of them only score, the rest calibrate and fine-tune.

    Raises:
        KilonetError: the images are of another size than the network's or too few, or a sum could pass 32 bits.
    """
    check_pixels(images.pixels, model.section.input_shape)
    data = DataSet(images, images).hold_out()
    wanted = accuracy_of(model.logits(data.test.pixels), data.test.labels)
    steps = prepare(model, data.train)
    network = to_integers(model.section, steps)
    calibrated = _integer_accuracy(network, data.test)
    if wanted - calibrated <= TOLERATED_DROP:
        return Quantised(network, wanted, calibrated, None)
    tuned = to_integers(model.section, finetune(model, steps, data.train))
    found = _integer_accuracy(tuned, data.test)
    return Quantised(tuned if found > calibrated else network, wanted, calibrated, found)


def _integer_accuracy(network: IntegerNetwork, images: Images) -> float:
    return accuracy_of(logits(network, images.pixels.numpy()), images.labels.numpy())


def prepare(model: Model, images: Images) -> tuple[PreparedStep, ...]:
    """Choose every scale on at most 1,000 of the images, evenly spread; nothing is rounded yet."""
    real = images.pixels[:: max(1, len(images) // CALIBRATION_IMAGES)].float()
    whole, encoding = real, _units(model.section.input_shape[0])
    steps: list[PreparedStep] = []
    folded = folding.fold(model)
    with torch.inference_mode():
        for number, step in enumerate(folded):
            result = next(folding.forward([step], real))
            rest = folded[number + 1 :]
            after = encoding if isinstance(step, MaxPooling) else _range(result, rest)
            prepared = _prepare_step(step, encoding, after, real, whole)
            whole, real, encoding = execute(prepared, whole, is_last=not rest), result, after
            steps.append(prepared)
    return tuple(steps)


def _prepare_step(step: FoldedStep, before: Encoding, after: Encoding, real: Tensor, whole: Tensor) -> PreparedStep:
    match step:
        case MaxPooling():
            return step
        case FoldedConvolution():
            return _prepare_convolution(step, before, after, real, whole)
        case FoldedAverage(scale, shift):
            multiplier = scale * before.scale / after.scale / (whole.shape[2] * whole.shape[3])
            offset = (shift - scale * before.scale * before.zero) / after.scale + after.zero
            return PreparedAverage(Output(multiplier, offset))


def _prepare_convolution(
    step: FoldedConvolution, before: Encoding, after: Encoding, real: Tensor, whole: Tensor
) -> PreparedConvolution:
    scaled = step.weights * folding.per_weight(before.scale, step.operation)
    bias = step.bias - (step.weights * folding.per_weight(before.scale * before.zero, step.operation)).sum((1, 2, 3))
    unit = _weight_unit(scaled, bias, (whole.double() ** 2).mean((0, 2, 3)), step.operation)
    skip = None if step.skip is None else step.skip * before.scale / after.scale
    offset = step.shift / after.scale + after.zero - (0 if skip is None else skip * before.zero)
    pad = (before.zero + step.pad / before.scale).round().clamp(0, _PIXEL)
    weights = scaled / unit.view(-1, 1, 1, 1)
    sums = integer_sums(PreparedConvolution(step, weights, bias / unit, pad, _NOTHING), whole)
    bias += (folding.sums(step, real) - sums * unit.float().view(1, -1, 1, 1)).double().mean((0, 2, 3))
    if not step.relu and skip is None:
        # Nothing stands between the bias and the multiplier: the bias, finer than a uint8's step, takes the offset.
        bias, offset = bias + offset * after.scale, torch.zeros_like(offset)
    output = Output(step.scale * unit / after.scale, offset, skip)
    return PreparedConvolution(step, weights, bias / unit, pad, output)


def _weight_unit(weights: Tensor, bias: Tensor, power: Tensor, operation: Convolution) -> Tensor:
    """Choose what one step of int8 stands for: (channels out,) for weights counted in steps of their inputs.

    Args:
        weights: float64 (channels out, channels in / groups, kernel, kernel).
        bias: float64 (channels out,).
        power: mean square of each input channel, float64 (channels in,).
        operation: says how weights and inputs meet.
    """
    largest = weights.abs().amax((1, 2, 3))
    candidates = _SHARES.double().view(-1, 1) * largest / MAXIMUM_WEIGHT
    # A channel without weights may have any step; sums must stay within 32 bits, with room to spare.
    least = torch.maximum(weights.abs().sum((1, 2, 3)) * _PIXEL, bias.abs()) / _LARGEST_SUM
    candidates = torch.maximum(candidates, least)
    candidates[:, largest == 0] = torch.where(least > 0, least, 1.0)[largest == 0]
    importance = folding.per_weight(power, operation)
    losses = [_rounding_loss(weights, unit.view(-1, 1, 1, 1), importance) for unit in candidates]
    return _best(candidates, torch.stack(losses))


def _rounding_loss(weights: Tensor, unit: Tensor, importance: Tensor) -> Tensor:
    kept = (weights / unit).round().clamp(-MAXIMUM_WEIGHT, MAXIMUM_WEIGHT) * unit
    return ((kept - weights) ** 2 * importance).sum((1, 2, 3))


def _range(result: Tensor, rest: Sequence[FoldedStep]) -> Encoding:
    """Choose the scale and zero of a step's output (N, channels, rows, columns), given the steps that follow."""
    if not rest:
        return _units(result.shape[1])
    # Zero is in every range, so that what padding and ReLU produce is not far outside.
    low, high = (limit.double() for limit in (result.amin((0, 2, 3)).clamp(max=0), result.amax((0, 2, 3)).clamp(min=0)))
    span = torch.where(high > low, high - low, 1.0) / _PIXEL
    zero = -low / span
    if _is_padded_next(rest):
        zero = zero.round()
    candidates = _SHARES.double().view(-1, 1) * span
    sample = result[::_SAMPLED_EVERY]
    return Encoding(_best(candidates, torch.stack([_clamping_loss(sample, scale, zero) for scale in candidates])), zero)


def _clamping_loss(values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    scale, zero = (tensor.float().view(1, -1, 1, 1) for tensor in (scale, zero))
    kept = ((values / scale + zero).round().clamp(0, _PIXEL) - zero) * scale
    return ((kept - values) ** 2).sum((0, 2, 3))


def _best(candidates: Tensor, losses: Tensor) -> Tensor:
    """Return each channel's candidate of least loss: both (candidates, channels) to (channels,)."""
    return candidates.gather(0, losses.argmin(0, keepdim=True))[0]


def _is_padded_next(rest: Sequence[FoldedStep]) -> bool:
    following = next((step for step in rest if not isinstance(step, MaxPooling)), None)
    return isinstance(following, FoldedConvolution) and following.operation.padding > 0


def _units(channels: int) -> Encoding:
    """Return the encoding of pixels and of logits, which both count in units of their own."""
    return Encoding(torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64))
