"""The engine that runs on torch, on any device."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kilonet.data.augment import apply_transforms
from kilonet.data.datasets import Images
from kilonet.engines.contract import Totals, average_share
from kilonet.evaluation.scoring import correct_predictions
from kilonet.models.model import Model
from kilonet.network.module import Network
from kilonet.network.operations import BatchNorm
from kilonet.recipe import DistillSection, Recipe, TrainSection
from kilonet.utils.errors import KilonetError

_SCORED_AT_ONCE = 1000
_WARM_UP_STEPS = 3


class TorchEngine:
    """Trains a network with torch; see `kilonet.engines.contract.Engine` for the contract."""

    name = "torch"

    def __init__(self, recipe: Recipe, images: Images, network: Network, teachers: Sequence[Model] = ()) -> None:
        """Take over the network; device, precision and threads are the recipe's, which must not say `auto`.

        The teachers are networks of the same input and classes, to learn from as the recipe's `distill` says.

        Raises:
            KilonetError: the last batch of an epoch is too small for the network's batch norm.
        """
        _check_last_batch(recipe, len(images))
        self.device: str = recipe.run.device
        self.precision: str = recipe.run.precision
        self._recipe = recipe
        self._pixels = images.pixels.to(self.device)
        self._labels = images.labels.to(self.device)
        self._network = network.to(self.device).train()
        self._teachers = [copy.deepcopy(teacher.network).to(self.device).eval() for teacher in teachers]
        # Without an average the weights that are kept are the ones that are trained.
        self._kept = copy.deepcopy(self._network) if recipe.train.ema else self._network
        self._learning_rate = torch.zeros((), device=self.device)
        self._average_share = torch.ones((), device=self.device)
        self._optimizer = _make_optimizer(self._network, recipe.train, self._learning_rate)
        self._loss = torch.zeros((), device=self.device)
        self._correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self._images = 0
        self._captured: CapturedStep | None = None
        if self.device == "cpu":
            torch.set_num_threads(recipe.run.threads)

    def train_batch(self, indices: Tensor, transforms: Tensor, learning_rate: float, step: int) -> None:
        """Train one step; see the contract."""
        self._learning_rate.fill_(learning_rate)
        self._average_share.fill_(average_share(self._recipe.train.ema, step))
        self._images += len(indices)
        with _randomness(self._recipe, step, self.device):
            if self.device == "cuda" and len(indices) == self._recipe.train.batch_size:
                self._replay(indices, transforms)
            else:
                self._step(indices, transforms)

    def _replay(self, indices: Tensor, transforms: Tensor) -> None:
        if self._captured is None:
            state, totals = self.state(), (self._loss.clone(), self._correct.clone())
            self._captured = CapturedStep(self._step, (indices, transforms))
            self.load_state(state)
            self._loss.copy_(totals[0])
            self._correct.copy_(totals[1])
        self._captured(indices, transforms)

    def _step(self, indices: Tensor, transforms: Tensor) -> None:
        labels = self._labels[indices]
        pixels = apply_transforms(self._pixels[indices], transforms)
        reduced = self.precision == "bfloat16"
        # A cached cast would be freed under a captured graph, and no weight is cast twice in a step anyway.
        with torch.autocast(self.device, torch.bfloat16, enabled=reduced, cache_enabled=False):
            logits = self._network(pixels).float()
            with torch.no_grad():
                answers = [teacher(pixels).float() for teacher in self._teachers]
        loss = functional.cross_entropy(logits, labels, label_smoothing=self._recipe.train.label_smoothing)
        self._optimizer.zero_grad(set_to_none=self.device != "cuda")
        (distilled(loss, logits, answers, self._recipe.distill) if answers else loss).backward()
        self._optimizer.step()
        self._update_average()
        self._loss += loss.detach() * len(labels)
        self._correct += correct_predictions(logits, labels).sum()

    def _update_average(self) -> None:
        if self._kept is not self._network:
            with torch.no_grad():
                for average, tensor in zip(self._kept.state().values(), self._network.state().values(), strict=True):
                    average.lerp_(tensor, self._average_share)

    def take_totals(self) -> Totals:
        """Return the sums since the last call; see the contract."""
        totals = Totals(self._loss.item(), int(self._correct), self._images)
        self._loss.zero_()
        self._correct.zero_()
        self._images = 0
        return totals

    def logits(self, pixels: Tensor) -> Tensor:
        """Score images; see the contract."""
        self._kept.eval()
        with torch.inference_mode():
            parts = [self._kept(part.to(self.device)).cpu() for part in pixels.split(_SCORED_AT_ONCE)]
        self._kept.train()
        return torch.cat(parts)

    def state(self) -> dict[str, Tensor]:
        """Return all that the run needs to go on; see the contract."""
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._live_state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state; see the contract."""
        with torch.no_grad():
            for name, tensor in self._live_state().items():
                tensor.copy_(state[name])

    def network_state(self) -> dict[str, Tensor]:
        """Return the weights that would be kept; see the contract."""
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._kept.state().items()}

    def _live_state(self) -> dict[str, Tensor]:
        live = {f"network.{name}": tensor for name, tensor in self._network.state().items()}
        if self._kept is not self._network:
            live |= {f"average.{name}": tensor for name, tensor in self._kept.state().items()}
        for name, parameter in self._network.named_parameters():
            entries = self._optimizer.state[parameter]
            live |= {f"optimizer.{name}.{key}": value for key, value in entries.items()}
        return live


def distilled(loss: Tensor, logits: Tensor, answers: Sequence[Tensor], distill: DistillSection) -> Tensor:
    """Return what is minimised, the mean over a batch: see `DistillSection`.

    Args:
        loss: the mean cross-entropy with the labels, a scalar.
        logits: the student's, float32 (B, classes).
        answers: each teacher's logits, float32 (B, classes); their probabilities at the temperature are averaged.
        distill: temperature and weight.
    """
    wanted = torch.stack([(answer / distill.temperature).softmax(1) for answer in answers]).mean(0)
    softened = (logits / distill.temperature).log_softmax(1)
    divergence = functional.kl_div(softened, wanted, reduction="batchmean")
    return (1 - distill.weight) * loss + distill.weight * distill.temperature**2 * divergence


class CapturedStep:
    """A step recorded once and replayed; source: torch's documentation, "CUDA Graphs", whole-network capture.

    Making one runs the step a few times, so the caller must restore whatever state the step changes.
    """

    def __init__(self, step: Callable[[Tensor, Tensor], None], example: tuple[Tensor, Tensor]) -> None:
        """Warm up and record `step` on copies of the example's two tensors, whose shapes every replay must have."""
        self._inputs = example[0].clone(), example[1].clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                step(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            step(*self._inputs)

    def __call__(self, first: Tensor, second: Tensor) -> None:
        """Replay the step on new inputs."""
        self._inputs[0].copy_(first)
        self._inputs[1].copy_(second)
        self._graph.replay()


def _check_last_batch(recipe: Recipe, images: int) -> None:
    """Refuse what torch's batch norm refuses in mid-epoch: one value a channel to take statistics of."""
    single = any(
        isinstance(operation, BatchNorm) and placed.output_shape[1:] == (1, 1)
        for placed in recipe.model.placed
        for operation in placed.operations
    )
    if single and images % recipe.train.batch_size == 1:
        raise KilonetError(
            f"the last batch of {images:,} images would be a single one, too few for batch norm on a 1x1 map; "
            f"change --batch-size {recipe.train.batch_size}"
        )


def _make_optimizer(network: nn.Module, train: TrainSection, learning_rate: Tensor) -> torch.optim.Optimizer:
    """Build the optimiser with its state already there, all zero, which is how both start."""
    groups = [
        {"params": [weight for weight in network.parameters() if weight.ndim > 1], "weight_decay": train.weight_decay},
        {"params": [weight for weight in network.parameters() if weight.ndim == 1], "weight_decay": 0.0},
    ]
    if train.optimizer == "adamw":
        adamw = torch.optim.AdamW(groups, lr=learning_rate, betas=(train.momentum, 0.999), fused=True)
        for parameter in network.parameters():
            adamw.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return adamw
    sgd = torch.optim.SGD(groups, lr=learning_rate, momentum=train.momentum, nesterov=train.momentum > 0, fused=True)
    if train.momentum:
        for parameter in network.parameters():
            sgd.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}
    return sgd


@contextlib.contextmanager
def _randomness(recipe: Recipe, step: int, device: str) -> Iterator[None]:
    """Seed what dropout draws in this step by the run's seed and the step, and leave the caller's generators alone."""
    if not recipe.model.dropout:
        yield
        return
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # torch's generator takes the low 32 bits of a seed only, so seed and step are mixed into those.
        torch.manual_seed(int(np.random.SeedSequence([recipe.run.seed, step]).generate_state(1)[0]))
        yield
