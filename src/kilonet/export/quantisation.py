"""Quantise a trained model: choose scales on training images and return its integer network.

The steps of the network are quantised in order, on the activations of the integer steps before them. For each step are
chosen: the int8 scale of every output channel's weights (least squared error, weighted by the mean square of each
input), the bias (so that the channel's mean equals the float network's) and the range of every channel's uint8 (least
squared error of rounding and clamping).

Source of the bias correction: M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-free quantization through
weight equalization and bias correction", 2019.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kilonet.data.datasets import DataSet, Images
from kilonet.data.section import AugmentSection
from kilonet.evaluation.scoring import accuracy_of
from kilonet.export import folding
from kilonet.export.finetuning import finetune
from kilonet.export.folding import FoldedAveragePooling, FoldedConvolution, FoldedStep
from kilonet.export.integer import IntegerNetwork, integer_logits
from kilonet.export.unrounded_steps import (
    MAXIMUM_WEIGHT,
    UnroundedAveragePooling,
    UnroundedConvolution,
    UnroundedRequantisation,
    UnroundedStep,
    execute_step,
    round_straight_through,
    rounded_convolution_sums,
    to_integer_network,
)
from kilonet.models.calibration import check_finite
from kilonet.models.model import Model
from kilonet.network.operations import Convolution, MaxPooling, averaged_places, check_pixels

CALIBRATION_IMAGES = 1000
TOLERATED_DROP = 0.0005
_PIXEL = 255
_LARGEST_SUM = 1 << 29
_NO_OUTPUT = UnroundedRequantisation(torch.zeros(0), torch.zeros(0))
_SAMPLED_EVERY = 4
_LEAST_SAMPLE = 250
"""At least so many images choose a channel's range, if there are as many: fewer may miss its largest values."""
_RANGE_FRACTIONS = torch.linspace(1.0, 0.5, 11)
"""Candidates for the range of weights and activations, as fractions of the largest magnitude."""


@dataclass(frozen=True, eq=False)
class Encoding:
    """How uint8 encodes real values: q stands for scale * (q - zero); float64 (channels,)."""

    scale: Tensor
    zero: Tensor


@dataclass(frozen=True, eq=False)
class QuantisationResult:
    """An integer network and its accuracy: fractions of training images that chose no scales.

    The float network may have been trained on them: only a run with --holdout has not seen them.
    """

    network: IntegerNetwork
    float_accuracy: float
    calibrated_accuracy: float
    """Accuracy of the integers before fine-tuning."""
    finetuned_accuracy: float | None
    """Accuracy of the integers after fine-tuning; None if fine-tuning was not needed."""
    images: int
    """How many images were set aside to measure accuracy."""

    @property
    def accuracy(self) -> float:
        """Accuracy of `network`, which is the better of the two."""
        return max(self.calibrated_accuracy, self.finetuned_accuracy or 0.0)


def quantise(model: Model, images: Images, augment: AugmentSection | None = None) -> QuantisationResult:
    """Return the integer network of a model, fine-tuned if rounding alone loses over 0.05 points of accuracy.

    Args:
        model: the trained network.
        images: its training images; a sixth of them, the same that --holdout takes, are set aside to measure accuracy,
            the rest choose scales and fine-tune.
        augment: the random changes of the images in its training; None if they are not known.

    Raises:
        KilonetError: the images are of another size than the network's or too few, the network computes NaN or
            infinity, or a sum could pass 32 bits.
    """
    check_pixels(images.pixels, model.section.input_shape)
    data = DataSet(images, images).hold_out()
    logits = model.logits(data.test.pixels)
    check_finite(logits.numpy())
    wanted = accuracy_of(logits, data.test.labels)
    steps = choose_scales(model, data.train)
    network = to_integer_network(model.section, steps)
    calibrated = integer_accuracy(network, data.test)
    if wanted - calibrated <= TOLERATED_DROP:
        return QuantisationResult(network, wanted, calibrated, None, len(data.test))
    tuned = to_integer_network(model.section, finetune(model, steps, data.train, augment))
    found = integer_accuracy(tuned, data.test)
    return QuantisationResult(tuned if found > calibrated else network, wanted, calibrated, found, len(data.test))


def integer_accuracy(network: IntegerNetwork, images: Images) -> float:
    """Return the share of images that a network with integer weights classifies as their labels say."""
    return accuracy_of(integer_logits(network, images.pixels.numpy()), images.labels.numpy())


def choose_scales(model: Model, images: Images) -> tuple[UnroundedStep, ...]:
    """Choose all scales on about 1,000 of the images, evenly spaced, and return the steps before rounding."""
    real = images.pixels[:: max(1, len(images) // CALIBRATION_IMAGES)].float()
    whole, encoding = real, _identity_encoding(model.section.input_shape[0])
    steps: list[UnroundedStep] = []
    folded = folding.fold(model)
    with torch.inference_mode():
        for number, step in enumerate(folded):
            # Each convolution is computed once on the real values and once on the whole ones.
            sums = folding.convolution_sums(step, real) if isinstance(step, FoldedConvolution) else None
            real = folding.execute_step(step, real, sums)
            rest = folded[number + 1 :]
            after = encoding if isinstance(step, MaxPooling) else _choose_encoding(real, rest)
            unrounded, whole_sums = _scale_step(step, encoding, after, sums, whole)
            whole, encoding = execute_step(unrounded, whole, is_last=not rest, sums=whole_sums), after
            steps.append(unrounded)
    return tuple(steps)


def _scale_step(
    step: FoldedStep, before: Encoding, after: Encoding, sums: Tensor | None, whole: Tensor
) -> tuple[UnroundedStep, Tensor | None]:
    """Return the step in integer units and, of a convolution, its sums on `whole`; `sums` are those on real values."""
    match step:
        case MaxPooling():
            return step, None
        case FoldedConvolution():
            if sums is None:
                raise TypeError("a convolution is scaled by its sums")
            return _scale_convolution(step, before, after, sums, whole)
        case FoldedAveragePooling(operation, scale, shift):
            channels, rows, columns = whole.shape[1:]
            multiplier = scale * before.scale / after.scale / averaged_places(operation, (channels, rows, columns))
            offset = (shift - scale * before.scale * before.zero) / after.scale + after.zero
            return UnroundedAveragePooling(operation, UnroundedRequantisation(multiplier, offset)), None


def _scale_convolution(
    step: FoldedConvolution, before: Encoding, after: Encoding, sums: Tensor, whole: Tensor
) -> tuple[UnroundedConvolution, Tensor]:
    scaled = step.weights * folding.per_weight(before.scale, step.operation)
    bias = step.bias - (step.weights * folding.per_weight(before.scale * before.zero, step.operation)).sum((1, 2, 3))
    unit = _weight_unit(scaled, bias, _mean_square(whole), step.operation)
    skip = None if step.skip is None else step.skip * before.scale / after.scale
    offset = step.shift / after.scale + after.zero - (0 if skip is None else skip * before.zero)
    pad = (before.zero + step.pad / before.scale).round().clamp(0, _PIXEL)
    weights = scaled / unit.view(-1, 1, 1, 1)
    products = rounded_convolution_sums(
        UnroundedConvolution(step, weights, torch.zeros_like(bias), pad, _NO_OUTPUT), whole
    )
    difference = sums - _with_bias(products, bias / unit) * unit.float().view(1, -1, 1, 1)
    bias += difference.mean((0, 2, 3), dtype=torch.float64)
    if not step.relu and skip is None:
        # Without ReLU and residual sum the offset can go into the bias, which is finer than a step of the uint8.
        bias, offset = bias + offset * after.scale, torch.zeros_like(offset)
    output = UnroundedRequantisation(step.scale * unit / after.scale, offset, skip)
    return UnroundedConvolution(step, weights, bias / unit, pad, output), _with_bias(products, bias / unit)


def _with_bias(products: Tensor, bias: Tensor) -> Tensor:
    return products + round_straight_through(bias).to(products.dtype).view(1, -1, 1, 1)


def _mean_square(values: Tensor) -> Tensor:
    """Return the mean square of each channel of values (N, channels, rows, columns), float64 (channels,)."""
    norms: Tensor = torch.linalg.vector_norm(values, dim=(0, 2, 3), dtype=torch.float64)
    return norms.square() / (values.numel() // values.shape[1])


def _weight_unit(weights: Tensor, bias: Tensor, power: Tensor, operation: Convolution) -> Tensor:
    """Return the value of one step of int8 in each output channel, float64 (channels out,).

    Args:
        weights: in steps of their inputs, float64 (channels out, channels in / groups, kernel, kernel).
        bias: float64 (channels out,).
        power: mean square of each input channel, float64 (channels in,).
        operation: the groups of the convolution.
    """
    largest = weights.abs().amax((1, 2, 3))
    candidates = _RANGE_FRACTIONS.double().view(-1, 1) * largest / MAXIMUM_WEIGHT
    # Sums must stay within 32 bits, with room to spare. A channel of zero weights may have any step.
    least = torch.maximum(weights.abs().sum((1, 2, 3)) * _PIXEL, bias.abs()) / _LARGEST_SUM
    candidates = torch.maximum(candidates, least)
    candidates[:, largest == 0] = torch.where(least > 0, least, 1.0)[largest == 0]
    importance = folding.per_weight(power, operation)
    losses = [_rounding_loss(weights, unit.view(-1, 1, 1, 1), importance) for unit in candidates]
    return _least_loss(candidates, torch.stack(losses))


def _rounding_loss(weights: Tensor, unit: Tensor, importance: Tensor) -> Tensor:
    kept = (weights / unit).round().clamp(-MAXIMUM_WEIGHT, MAXIMUM_WEIGHT) * unit
    return ((kept - weights) ** 2 * importance).sum((1, 2, 3))


def _choose_encoding(result: Tensor, rest: Sequence[FoldedStep]) -> Encoding:
    """Choose the scale and zero of a step's output (N, channels, rows, columns), given the steps that follow."""
    if not rest:
        return _identity_encoding(result.shape[1])
    # Every range includes zero, because padding and ReLU produce it.
    low, high = (limit.double() for limit in (result.amin((0, 2, 3)).clamp(max=0), result.amax((0, 2, 3)).clamp(min=0)))
    span = torch.where(high > low, high - low, 1.0) / _PIXEL
    zero = -low / span
    if _is_padded_next(rest):
        zero = zero.round()
    candidates = _RANGE_FRACTIONS.double().view(-1, 1) * span
    sample = result[:: min(_SAMPLED_EVERY, max(1, len(result) // _LEAST_SAMPLE))]
    losses = [_clamping_loss(sample, scale, zero) for scale in candidates]
    return Encoding(_least_loss(candidates, torch.stack(losses)), zero)


def _clamping_loss(values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    scale, zero = (tensor.float().view(1, -1, 1, 1) for tensor in (scale, zero))
    # In place, as memory for so many values costs more than the arithmetic.
    error = (values / scale).add_(zero).round_().clamp_(0, _PIXEL).sub_(zero).mul_(scale).sub_(values)
    return error.square_().sum((0, 2, 3))


def _least_loss(candidates: Tensor, losses: Tensor) -> Tensor:
    """Return the candidate with the least loss for each channel: both (candidates, channels) to (channels,)."""
    return candidates.gather(0, losses.argmin(0, keepdim=True))[0]


def _is_padded_next(rest: Sequence[FoldedStep]) -> bool:
    following = next((step for step in rest if not isinstance(step, MaxPooling)), None)
    return isinstance(following, FoldedConvolution) and following.operation.padding > 0


def _identity_encoding(channels: int) -> Encoding:
    """Return the encoding of scale 1 and zero 0, which pixels and logits have."""
    return Encoding(torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64))
