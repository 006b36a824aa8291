"""Quantisation-aware fine-tuning: the rounded network is trained to give the float network's probabilities.

Adam trains the weights and biases of the unrounded steps through the straight-through estimator. The targets are the
probabilities of the float network on augmented training images (distillation: G. Hinton, O. Vinyals, J. Dean,
"Distilling the knowledge in a neural network", 2015). Scales do not change. The same seed gives the same result.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.adam import adam

from kilonet.data.augment import apply_transforms, draw_transforms
from kilonet.data.datasets import Images
from kilonet.data.section import AugmentSection
from kilonet.export.unrounded_steps import UnroundedConvolution, UnroundedStep, execute_step
from kilonet.models.model import Model

EPOCHS = 2
_AUGMENT = AugmentSection(rotation=10.0, shift=2.0, scale=0.1, shear=0.1)
_BATCH = 128
_WEIGHT_STEP = 0.05
"""Learning rate of weights, in steps of int8."""
_BIAS_STEP = 5.0
"""Learning rate of biases: a step of a weight changes a sum by about a hundred, the value of a bright input."""


def finetune(model: Model, steps: Sequence[UnroundedStep], images: Images, seed: int = 0) -> tuple[UnroundedStep, ...]:
    """Return the steps after two epochs over the training images, uint8 (N, C, H, W)."""
    trained = tuple(_trainable(step) for step in steps)
    convolutions = [step for step in trained if isinstance(step, UnroundedConvolution)]
    if not convolutions:
        return trained
    groups = (
        (_WEIGHT_STEP, _Adam([step.weights for step in convolutions])),
        (_BIAS_STEP, _Adam([step.bias for step in convolutions])),
    )
    generator = torch.Generator().manual_seed(seed)
    total = EPOCHS * math.ceil(len(images) / _BATCH)
    for number, pixels in enumerate(_batches(images, generator)):
        _loss(model, trained, pixels).backward()
        for largest, optimizer in groups:
            optimizer.step(largest * (1 + math.cos(math.pi * number / total)) / 2)
    return tuple(_frozen(step) for step in trained)


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


def _batches(images: Images, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield augmented images, rounded to whole grey levels as the integers need them: float32 (B, C, H, W)."""
    for _ in range(EPOCHS):
        for indices in torch.randperm(len(images), generator=generator).split(_BATCH):
            transforms = draw_transforms(_AUGMENT, len(indices), generator)
            yield apply_transforms(images.pixels[indices], transforms).round()


def _loss(model: Model, steps: Sequence[UnroundedStep], pixels: Tensor) -> Tensor:
    with torch.no_grad():
        wanted = model.network(pixels).softmax(1)
    values = pixels
    for step in steps:
        values = execute_step(step, values, is_last=step is steps[-1])
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
