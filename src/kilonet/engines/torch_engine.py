"""The engine that trains with torch, on any device."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from kilonet.data.augment import Batch, apply_changes
from kilonet.data.datasets import Images
from kilonet.engines.class_weights import class_weights
from kilonet.engines.contract import Totals, average_share
from kilonet.evaluation.scoring import correct_predictions
from kilonet.models.model import Model, scoring_batch
from kilonet.network.module import Network
from kilonet.network.operations import BatchNorm
from kilonet.recipe import DistillSection, Recipe, TrainSection
from kilonet.utils.errors import KilonetError

_SCORING_BATCH_ELSEWHERE = 1000
_WARM_UP_STEPS = 3


class TorchEngine:
    """Trains a network with torch; the contract is `kilonet.engines.contract.Engine`."""

    name = "torch"

    def __init__(self, recipe: Recipe, images: Images, network: Network, teachers: Sequence[Model] = ()) -> None:
        """Make an engine that trains the given network in place.

        Args:
            recipe: the recipe; device, precision and threads must not be `auto`.
            images: the training images.
            network: the network with its initial weights.
            teachers: trained networks with the same input and classes, used as the recipe's `distill` section says.

        Raises:
            KilonetError: the last batch of an epoch is too small for the network's batch norm, or a class to be
                balanced has no images.
        """
        _check_last_batch(recipe, len(images))
        self.device: str = recipe.run.device
        self.precision: str = recipe.run.precision
        self._recipe = recipe
        self._pixels = images.pixels.to(self.device)
        self._labels = images.labels.to(self.device)
        weights = class_weights(recipe, images.labels)
        self._class_weights = None if weights is None else weights.to(self.device)
        self._network = network.to(self.device).train()
        self._teachers = [copy.deepcopy(teacher.network).to(self.device).eval() for teacher in teachers]
        # The final network is the moving average, if the recipe has one.
        self._final = copy.deepcopy(self._network) if recipe.train.ema else self._network
        # Only whole batches are compiled: another size would be compiled once more.
        self._fused = torch.compile(self._network, dynamic=False) if recipe.run.compile else self._network
        self._learning_rate = torch.zeros((), device=self.device)
        self._average_share = torch.ones((), device=self.device)
        self._optimizer = _Optimizer(self._network, recipe.train, self._learning_rate)
        self._loss = torch.zeros((), device=self.device)
        self._correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self._images = 0
        self._captured: CapturedStep | None = None
        if self.device == "cpu":
            torch.set_num_threads(recipe.run.threads)

    def train_batch(self, batch: Batch, learning_rate: float, step: int) -> None:
        self._learning_rate.fill_(learning_rate)
        self._average_share.fill_(average_share(self._recipe.train.ema, step))
        self._images += len(batch)
        with _seeded_dropout(self._recipe, step, self.device), _exact_convolutions(self.device):
            if self.device == "cuda" and len(batch) == self._recipe.train.batch_size:
                self._replay(batch)
            else:
                self._step(batch)

    def _replay(self, batch: Batch) -> None:
        if self._captured is None:
            with self._unchanged():
                self._captured = CapturedStep(self._fused_step, batch)
        self._captured(batch)

    @contextlib.contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Restore afterwards all that a step changes: the state, the totals and what dropout draws next."""
        changing = [*self._live_state().values(), self._loss, self._correct]
        before = [tensor.detach().clone() for tensor in changing]
        with torch.random.fork_rng(devices=_generators(self.device)):
            yield
        with torch.no_grad():
            for tensor, value in zip(changing, before, strict=True):
                tensor.copy_(value)

    def _step(self, batch: Batch) -> None:
        self._learn(self._network, batch)

    def _fused_step(self, batch: Batch) -> None:
        self._learn(self._fused, batch)

    def _learn(self, network: Callable[[Tensor], Tensor], batch: Batch) -> None:
        labels = self._labels[batch.indices]
        outside, means = self._recipe.augment.outside, self._recipe.model.means
        pixels = apply_changes(self._pixels[batch.indices], batch, means, outside)
        reduced = self.precision == "bfloat16"
        # A captured graph would read a cached cast after it is freed; no weight is cast twice in a step anyway.
        with torch.autocast(self.device, torch.bfloat16, enabled=reduced, cache_enabled=False):
            logits = network(pixels).float()
            with torch.no_grad():
                teacher_logits = [teacher(pixels).float() for teacher in self._teachers]
        loss = self._label_loss(logits, labels, batch.shares)
        # A captured graph writes them where they lie.
        self._optimizer.clear_gradients(keep=self.device == "cuda")
        objective = distillation_loss(loss, logits, teacher_logits, self._recipe.distill) if teacher_logits else loss
        objective.backward()
        self._optimizer.step()
        self._update_average()
        self._loss += loss.detach() * len(labels)
        self._correct += correct_predictions(logits, labels).sum()

    def _label_loss(self, logits: Tensor, labels: Tensor, shares: Tensor | None) -> Tensor:
        smoothing = self._recipe.train.label_smoothing
        if self._class_weights is None and shares is None:
            return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        weights = torch.ones_like(logits[:, 0]) if self._class_weights is None else self._class_weights[labels]
        losses = functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        if shares is None:
            return (weights * losses).mean()
        mixed_in = functional.cross_entropy(logits, labels.roll(-1), label_smoothing=smoothing, reduction="none")
        own, other = shares * weights, (1 - shares) * weights.roll(-1)
        return (own * losses + other * mixed_in).mean()

    def _update_average(self) -> None:
        if self._final is not self._network:
            with torch.no_grad():
                for average, tensor in zip(self._final.state().values(), self._network.state().values(), strict=True):
                    average.lerp_(tensor, self._average_share)

    def take_totals(self) -> Totals:
        totals = Totals(self._loss.item(), int(self._correct), self._images)
        self._loss.zero_()
        self._correct.zero_()
        self._images = 0
        return totals

    def logits(self, pixels: Tensor) -> Tensor:
        self._final.eval()
        with torch.inference_mode(), _exact_convolutions(self.device):
            batch = scoring_batch(self._recipe.model) if self.device == "cpu" else _SCORING_BATCH_ELSEWHERE
            parts = [self._final(part.to(self.device)).cpu() for part in pixels.split(batch)]
        self._final.train()
        return torch.cat(parts)

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._live_state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._live_state().items():
                tensor.copy_(state[name])

    def network_state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._final.state().items()}

    def _live_state(self) -> dict[str, Tensor]:
        live = {f"network.{name}": tensor for name, tensor in self._network.state().items()}
        if self._final is not self._network:
            live |= {f"average.{name}": tensor for name, tensor in self._final.state().items()}
        for name, entries in self._optimizer.state.items():
            live |= {f"optimizer.{name}.{key}": value for key, value in entries.items()}
        return live


def distillation_loss(
    label_loss: Tensor, logits: Tensor, teacher_logits: Sequence[Tensor], distill: DistillSection
) -> Tensor:
    """Return the loss of a batch with teachers, a scalar; `DistillSection` has the formula.

    Args:
        label_loss: the mean cross-entropy with the labels, weighted by class if the recipe says so, a scalar.
        logits: the student's logits, float32 (B, classes).
        teacher_logits: each teacher's logits, float32 (B, classes); their softened probabilities are averaged.
        distill: temperature and weight.
    """
    targets = torch.stack([(one / distill.temperature).softmax(1) for one in teacher_logits]).mean(0)
    log_probabilities = (logits / distill.temperature).log_softmax(1)
    divergence = functional.kl_div(log_probabilities, targets, reduction="batchmean")
    return (1 - distill.weight) * label_loss + distill.weight * distill.temperature**2 * divergence


class _Optimizer:
    """SGD or AdamW by torch's functional form, with its state already made: all zeros, as both start.

    The classes of `torch.optim` compute the same, but import torch's compiler, which takes a second and a half.
    """

    def __init__(self, network: nn.Module, train: TrainSection, learning_rate: Tensor) -> None:
        """Make the optimiser of all parameters.

        Args:
            network: the network, on its device.
            train: the optimiser's name and its constants.
            learning_rate: a scalar on the same device, read at each step.
        """
        self._train = train
        self._learning_rate = learning_rate
        self._parameters: dict[str, Tensor] = dict(network.named_parameters())
        self.state = {name: self._start(parameter) for name, parameter in self._parameters.items()}
        """The state of each parameter, under the names that torch gives its parts."""

    def _start(self, parameter: Tensor) -> dict[str, Tensor]:
        if self._train.optimizer == "adamw":
            zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            return {"step": torch.zeros((), device=parameter.device)} | zeros
        return {"momentum_buffer": torch.zeros_like(parameter)} if self._train.momentum else {}

    def clear_gradients(self, *, keep: bool) -> None:
        """Set all gradients to zero, in place if they are to keep their memory."""
        for parameter in self._parameters.values():
            if keep and parameter.grad is not None:
                parameter.grad.zero_()
            else:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters by their gradients; those of batch norms are not decayed."""
        for decay, is_decayed in ((self._train.weight_decay, True), (0.0, False)):
            names = [name for name, parameter in self._parameters.items() if (parameter.ndim > 1) == is_decayed]
            parameters = [self._parameters[name] for name in names]
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            state = [self.state[name] for name in names]
            if self._train.optimizer == "adamw":
                self._adamw(parameters, gradients, state, decay)
            else:
                self._sgd(parameters, gradients, state, decay)

    def _adamw(
        self, parameters: list[Tensor], gradients: list[Tensor], state: list[dict[str, Tensor]], decay: float
    ) -> None:
        averages, squares, steps = ([one[key] for one in state] for key in ("exp_avg", "exp_avg_sq", "step"))
        adamw(
            parameters,
            gradients,
            averages,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=self._train.momentum,
            beta2=0.999,
            lr=self._learning_rate,
            weight_decay=decay,
            eps=1e-8,
            maximize=False,
        )

    def _sgd(
        self, parameters: list[Tensor], gradients: list[Tensor], state: list[dict[str, Tensor]], decay: float
    ) -> None:
        sgd(
            parameters,
            gradients,
            [one.get("momentum_buffer") for one in state],
            fused=True,
            weight_decay=decay,
            momentum=self._train.momentum,
            # The function takes a tensor as well, as the class does.
            lr=cast("float", self._learning_rate),
            dampening=0.0,
            nesterov=self._train.momentum > 0,
            maximize=False,
        )


class CapturedStep:
    """A training step that is recorded once as a CUDA graph and then replayed.

    Recording runs the step a few times, so the caller must restore all that the step changes, random generators too.
    Source: torch's documentation, "CUDA Graphs", whole-network capture.
    """

    def __init__(self, step: Callable[[Batch], None], example: Batch) -> None:
        """Record a step.

        Args:
            step: takes a batch, makes no tensor on the host and waits for no value of the device.
            example: a batch on the device; every replay must have the same changes and as many images.
        """
        self._inputs = Batch(**{name: tensor.clone() for name, tensor in example.tensors().items()})
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                step(self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            step(self._inputs)

    def __call__(self, batch: Batch) -> None:
        given = batch.tensors()
        for name, tensor in self._inputs.tensors().items():
            tensor.copy_(given[name])
        self._graph.replay()


def _check_last_batch(recipe: Recipe, images: int) -> None:
    """Refuse a last batch in which a batch norm has one value a channel: torch would fail in mid-epoch."""
    single = any(
        isinstance(operation, BatchNorm) and placed.output_shape[1:] == (1, 1)
        for placed in recipe.model.placed
        for operation in placed.operations
    )
    if single and images % recipe.train.batch_size == 1:
        raise KilonetError(
            f"the last batch of {images:,} images would have one image, too few for batch norm on a 1x1 map; "
            f"change --batch-size {recipe.train.batch_size}"
        )


@contextlib.contextmanager
def _seeded_dropout(recipe: Recipe, step: int, device: str) -> Iterator[None]:
    """Seed the dropout of a step by the run's seed and the step, and restore the caller's generators afterwards."""
    if not recipe.model.dropout:
        yield
        return
    with torch.random.fork_rng(devices=_generators(device)):
        # torch's generator uses only the low 32 bits of a seed, so seed and step are hashed into 32 bits.
        seed = int(np.random.SeedSequence([recipe.run.seed, step]).generate_state(1)[0])
        # Only what is used: `torch.manual_seed` formats the whole call stack for each kind of accelerator.
        torch.default_generator.manual_seed(seed)
        if device == "cuda":
            torch.cuda.manual_seed(seed)
        yield


def _generators(device: str) -> list[int]:
    """Return the CUDA devices whose random generators a step on `device` uses, beside the CPU's."""
    return [torch.cuda.current_device()] if device == "cuda" else []


@contextlib.contextmanager
def _exact_convolutions(device: str) -> Iterator[None]:
    """Have cuDNN repeat a convolution bit for bit and multiply float32 as such; restore its settings afterwards.

    By default cuDNN may add in any order, and rounds the factors of float32 convolutions to TF32, which has 10 bits.
    """
    if device != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = True, False, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = before
