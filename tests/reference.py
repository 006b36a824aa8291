"""A training step in plain torch, in any precision, with which the native engine is compared."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from kilonet.data.augment import Batch, apply_changes
from kilonet.data.datasets import Images
from kilonet.network.module import Network
from kilonet.network.section import ModelSection
from kilonet.recipe import Recipe


def averaging(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Return the moving average for torch's `AveragedModel`: fast at first, then with its decay."""

    def averaged(average: Tensor, tensor: Tensor, updates: Tensor | int) -> Tensor:
        share = max(1 - decay, 10 / (10 + int(updates)))
        return average + share * (tensor - average) if tensor.is_floating_point() else tensor

    return averaged


class Reference:
    """Trains as the engine's contract says, with plain torch operations."""

    def __init__(
        self, recipe: Recipe, weights: Mapping[str, Tensor], dtype: torch.dtype, teachers: Sequence[Network] = ()
    ) -> None:
        self.recipe = recipe
        self.network = Network(recipe.model)
        self.network.load(weights)
        self.network.to(dtype).train()
        self.dtype = dtype
        train = recipe.train
        self.momentum = [torch.zeros_like(weight) for weight in self.network.parameters()]
        self.second_moment = [torch.zeros_like(weight) for weight in self.network.parameters()]
        self.steps = 0
        self.average: AveragedModel | None = None
        if train.ema:
            self.average = AveragedModel(self.network, avg_fn=averaging(train.ema), use_buffers=True)
        self.loss = 0.0
        given = train.class_weights
        self.class_weights = torch.tensor(given) if isinstance(given, tuple) else None
        self.teachers = [copy.deepcopy(teacher).to(dtype).eval() for teacher in teachers]

    def logits(self, pixels: Tensor, network: torch.nn.Module) -> Tensor:
        """Return the logits of pixels from 0 to 255, in this reference's precision."""
        model = network.model
        assert isinstance(model, ModelSection)
        layers = network.layers
        assert isinstance(layers, torch.nn.Module)
        means, stds = (torch.tensor(values, dtype=self.dtype).view(-1, 1, 1) for values in (model.means, model.stds))
        values = (pixels.to(self.dtype) - 255 * means) / (255 * stds)
        scores: Tensor = layers(values).flatten(1)
        return scores

    def train_batch(self, images: Images, batch: Batch, learning_rate: float) -> None:
        """Train one step on a batch of the images."""
        model, augment = self.recipe.model, self.recipe.augment
        labels = images.labels[batch.indices]
        shown = apply_changes(images.pixels[batch.indices], batch, model.means, augment.outside)
        logits = self.logits(shown, self.network)
        # A target sums up to the weight of its image.
        weights = torch.ones(model.classes) if self.class_weights is None else self.class_weights
        weights = weights / weights[images.labels].mean()
        targets = torch.eye(model.classes, dtype=self.dtype)[labels] * weights[labels].to(self.dtype)[:, None]
        if batch.shares is not None:
            share = batch.shares.to(self.dtype)[:, None]
            targets = share * targets + (1 - share) * torch.cat([targets[1:], targets[:1]])
        weight, smoothing = targets.sum(1, keepdim=True), self.recipe.train.label_smoothing
        targets = (1 - smoothing) * targets + smoothing * weight / model.classes
        loss = -(targets * logits.log_softmax(1)).sum() / len(labels)
        self.network.zero_grad()
        (self.distillation_loss(loss, logits, shown) if self.teachers else loss).backward()
        self.update(learning_rate)
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.loss += loss.item() * len(labels)

    @torch.no_grad()
    def update(self, rate: float) -> None:
        """Take a step of AdamW, or of SGD with Nesterov's momentum, as torch's documentation writes them.

        The classes of `torch.optim` compute the same, but import torch's compiler, which takes two seconds; the torch
        engine is compared with them.
        """
        train = self.recipe.train
        beta, second_beta = train.momentum, 0.999
        self.steps += 1
        for weight, first, second in zip(self.network.parameters(), self.momentum, self.second_moment, strict=True):
            gradient, decay = weight.grad, train.weight_decay if weight.ndim > 1 else 0.0
            assert gradient is not None
            if train.optimizer == "adamw":
                weight.sub_(rate * decay * weight)
                first.add_((1 - beta) * (gradient - first))
                second.add_((1 - second_beta) * (gradient**2 - second))
                unbiased = (second / (1 - second_beta**self.steps)).sqrt()
                weight.sub_(rate * first / (1 - beta**self.steps) / (unbiased + 1e-8))
            else:
                decayed = gradient + decay * weight
                first.copy_(beta * first + decayed)
                weight.sub_(rate * (decayed + beta * first))

    def distillation_loss(self, label_loss: Tensor, logits: Tensor, shown: Tensor) -> Tensor:
        """Return the loss with teachers; the divergence is written out, without torch's function for it."""
        distill = self.recipe.distill
        with torch.no_grad():
            probabilities = [
                (self.logits(shown, teacher) / distill.temperature).softmax(1) for teacher in self.teachers
            ]
        targets = torch.stack(probabilities).mean(0)
        softened = (logits / distill.temperature).softmax(1)
        divergence = (targets * (targets.log() - softened.log())).sum(1).mean()
        return (1 - distill.weight) * label_loss + distill.weight * distill.temperature**2 * divergence

    def final(self) -> Network:
        """Return the final network, in evaluation mode: the moving average if there is one."""
        network = self.network if self.average is None else self.average.module
        assert isinstance(network, Network)
        return network.eval()
