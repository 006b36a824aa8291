"""Quantisation-aware fine-tuning: the rounded network is trained to give the float network's probabilities.

Adam trains the weights and biases of the unrounded steps through the straight-through estimator. The targets are the
probabilities of the float network on augmented training images (distillation: G. Hinton, O. Vinyals, J. Dean,
"Distilling the knowledge in a neural network", 2015). Scales do not change. The same seed gives the same result
on as many threads of torch.
"""

import copy
import dataclasses
import math
import sys
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.optim.adam import adam
from tqdm import tqdm

from kilonet.data.augment import apply_changes, draw_changes
from kilonet.data.datasets import Images
from kilonet.data.section import AugmentSection
from kilonet.export.unrounded_steps import UnroundedConvolution, UnroundedStep, execute_step
from kilonet.models.model import Model
from kilonet.network.cost import network_cost
from kilonet.network.module import Network
from kilonet.network.section import ModelSection

EPOCHS = 2
MAXIMUM_MACS = 160_000_000_000
"""Of the images that train a network, each passed once: enough for two epochs of MNIST with 1.6 million an image."""
_MILD = AugmentSection(rotation=10.0, shift=2.0, scale=0.1, shear=0.1)
_MILD_IN_COLOUR = AugmentSection(shift=2.0, scale=0.1)
_BATCH = 128
_WEIGHT_STEP = 0.05
"""Learning rate of weights, in steps of int8."""
_BIAS_STEP = 5.0
"""Learning rate of biases: a step of a weight changes a sum by about a hundred, the value of a bright input."""
_LAYOUT = torch.channels_last
"""Depthwise convolutions take a half to a fifth of the time that they take with the channels first."""


def finetune(
    model: Model,
    steps: Sequence[UnroundedStep],
    images: Images,
    augment: AugmentSection | None = None,
    seed: int = 0,
) -> tuple[UnroundedStep, ...]:
    """Return the trained steps. Lines on stderr, or a bar in a terminal, say how far it is.

    Args:
        model: the float network.
        steps: its unrounded steps.
        images: its training images, which are passed `EPOCHS` times, or as often as `MAXIMUM_MACS` allows.
        augment: the random changes of the images; None for mild ones. Images are not mixed with one another.
        seed: of the order of the images and of their changes.
    """
    trained = tuple(_trainable(step) for step in steps)
    convolutions = [step for step in trained if isinstance(step, UnroundedConvolution)]
    if not convolutions:
        return trained
    groups = (
        (_WEIGHT_STEP, _Adam([step.weights for step in convolutions])),
        (_BIAS_STEP, _Adam([step.bias for step in convolutions])),
    )
    # Of a copy, as the model is the caller's.
    network = convert_conv2d_weight_memory_format(copy.deepcopy(model.network), _LAYOUT)
    total = image_passes(model.section, len(images))
    changes = "moved a little, as its recipe is not known" if augment is None else "changed as its recipe says"
    message = f"kilonet: rounding costs accuracy: fine-tuning the integers on {total:,} images, {changes}"
    print(message, file=sys.stderr, flush=True)
    generator, done = torch.Generator().manual_seed(seed), 0
    augment = _mild(model.section) if augment is None else augment
    for pixels in _reported(_batches(model.section, images, augment, total, generator), total):
        _loss(network, trained, pixels).backward()
        for largest, optimizer in groups:
            optimizer.step(largest * (1 + math.cos(math.pi * done / total)) / 2)
        done += len(pixels)
    return tuple(_frozen(step) for step in trained)


def image_passes(section: ModelSection, images: int) -> int:
    """Return how many images train a network, repeated ones counted again: fewer for one of many MACs."""
    return min(EPOCHS * images, max(_BATCH, MAXIMUM_MACS // max(1, network_cost(section).macs)))


def _mild(section: ModelSection) -> AugmentSection:
    return _MILD if section.input_shape[0] == 1 else _MILD_IN_COLOUR


class _Adam:
    """Adam by torch's functional form: its class computes the same, but takes 1.5 s to import torch's compiler."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self._parameters = parameters
        self._averages = [torch.zeros_like(parameter) for parameter in parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in parameters]
        self._steps = [torch.zeros(()) for _ in parameters]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Change the parameters by their gradients, which are used up."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        adam(
            self._parameters,
            gradients,
            self._averages,
            self._squares,
            [],
            self._steps,
            foreach=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
        for parameter in self._parameters:
            parameter.grad = None


def _batches(
    section: ModelSection, images: Images, augment: AugmentSection, total: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield `total` changed images, rounded to whole grey levels as the integers need them: float32 (B, C, H, W)."""
    for left in range(total, 0, -len(images)):
        for indices in torch.randperm(len(images), generator=generator)[:left].split(_BATCH):
            changes = draw_changes(augment, indices, section.input_shape, section.means, generator)
            yield apply_changes(images.pixels[indices], changes, section.means, augment.outside).round()


def _reported(batches: Iterable[Tensor], total: int) -> Iterator[Tensor]:
    """Yield the batches, and say on stderr how far they are: by a bar in a terminal, else by a line every tenth."""
    done = 0
    # None: no bar where stderr is no terminal.
    with tqdm(total=total, desc="Fine-tuning", unit="image", file=sys.stderr, disable=None) as bar:
        for batch in batches:
            yield batch
            tenth, done = 10 * done // total, done + len(batch)
            bar.update(len(batch))
            if bar.disable and 10 * done // total > tenth:
                print(f"kilonet: fine-tuning: {done:,} of {total:,} images", file=sys.stderr, flush=True)


def _loss(network: Network, steps: Sequence[UnroundedStep], pixels: Tensor) -> Tensor:
    with torch.no_grad():
        wanted = network(pixels.contiguous(memory_format=_LAYOUT)).softmax(1)
    values = pixels
    for step in steps:
        # Before each step, as both layouts of one channel are the same, and its convolution returns the other one.
        values = execute_step(step, values.contiguous(memory_format=_LAYOUT), is_last=step is steps[-1])
    return functional.cross_entropy(values.flatten(1), wanted)


def _trainable(step: UnroundedStep) -> UnroundedStep:
    if not isinstance(step, UnroundedConvolution):
        return step
    weights, bias = (tensor.detach().clone().float().requires_grad_() for tensor in (step.weights, step.bias))
    return dataclasses.replace(step, weights=weights, bias=bias)


def _frozen(step: UnroundedStep) -> UnroundedStep:
    if not isinstance(step, UnroundedConvolution):
        return step
    return dataclasses.replace(step, weights=step.weights.detach().double(), bias=step.bias.detach().double())
