"""The learning-rate range test: a few hundred steps at rising rates show where the loss falls and where it diverges.

Source: L. N. Smith, "Cyclical learning rates for training neural networks", 2015, section 3.3, and "Super-convergence",
2017. The exponential rise of the rates, the smoothing, and the end at four times the lowest loss are from S. Gugger,
"How do you find a good learning rate", 2018.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from kilonet.data.augment import Batch
from kilonet.engines.contract import Engine
from kilonet.engines.selection import make_engine
from kilonet.models.model import check_storable
from kilonet.network.module import initial_network
from kilonet.recipe import Recipe
from kilonet.training.progress import NoProgress, Progress
from kilonet.training.train import draw_epoch, prepare_run
from kilonet.utils.environment import torch_threads_kept
from kilonet.utils.errors import KilonetError

LOWEST, HIGHEST = 1e-4, 10.0
LIMIT = 1e4
"""No learning rate is higher."""
STEPS = 300
LEAST_STEPS = 50
MOST_STEPS = 100_000

_SMOOTHING = 0.95
_DIVERGED = 4.0
"""The test ends where the smoothed loss is more than so many times the lowest one."""
_BELOW_DIVERGENCE = 10.0
"""The suggestion is the rate at which the loss diverged divided by this."""
_ROWS = 24


@dataclass(frozen=True)
class RangeTest:
    """The curve of the test and the rate that it suggests. `str()` gives both."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    """Mean cross-entropy of each step's batch, nats."""
    smoothed: tuple[float, ...]
    """The losses, averaged over about twenty steps."""
    broke: bool
    """Whether the loss diverged before the highest rate."""
    suggestion: float | None
    """A tenth of the rate at which the loss diverged, to two digits; None if it did not."""
    recipe_rate: float
    """The recipe's own learning rate."""

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain lists and numbers."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self._bars()}\n\n{self.verdict}"

    @property
    def verdict(self) -> str:
        """The suggestion in a line or two."""
        if self.suggestion is None:
            return (
                f"No suggestion: the loss did not diverge up to a rate of {self.rates[-1]:.3g}; "
                "raise --highest until it does"
            )
        return (
            f"The loss diverged at a rate of {self.rates[-1]:.3g}.\n"
            f"Suggested --learning-rate: {self.suggestion:g} (the recipe has {self.recipe_rate:g})"
        )

    def _bars(self) -> str:
        count = len(self.rates)
        shown = sorted({round(part * (count - 1) / (_ROWS - 1)) for part in range(_ROWS)})
        most = max(self.smoothed[index] for index in shown)
        lines = ["learning rate   loss"]
        for index in shown:
            bar = "#" * round(50 * self.smoothed[index] / most)
            lines.append(f"{self.rates[index]:>13.2e}  {self.smoothed[index]:>5.3f}  {bar}")
        return "\n".join(lines)


def find_rate(
    recipe: Recipe,
    *,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
    progress: Progress | None = None,
) -> RangeTest:
    """Train a recipe's network from its initial weights at rates that rise from step to step.

    Args:
        recipe: the network, its images and its engine.
        lowest: the first step's learning rate.
        highest: the last step's, unless the loss diverges before.
        steps: the number of steps; rates of neighbouring steps have the same ratio.
        progress: receives each step.

    Raises:
        KilonetError: the rates do not rise, too few or too many steps, or a recipe or images that cannot be used.
    """
    if not 0 < lowest < highest < math.inf:
        raise KilonetError(
            f"the rates must rise: --lowest {lowest:g} is not below --highest {highest:g}, or not above 0"
        )
    if highest > LIMIT:
        raise KilonetError(f"--highest {highest:g}: must be at most {LIMIT:g}")
    if not LEAST_STEPS <= steps <= MOST_STEPS:
        raise KilonetError(f"--steps {steps}: must be from {LEAST_STEPS} to {MOST_STEPS:,}")
    progress = progress or NoProgress()
    check_storable(recipe.model)
    recipe, data = prepare_run(recipe, None, progress)
    rates = [lowest * (highest / lowest) ** (step / (steps - 1)) for step in range(steps)]
    with torch_threads_kept():
        engine = make_engine(recipe, data.train, initial_network(recipe.model, recipe.run.seed))
        batches = _batches(recipe, data.train.labels, engine.device)
        progress.epoch_started(0, steps)
        try:
            return range_test(rates, lambda rate, step: _loss(engine, next(batches), rate, step, progress), recipe)
        finally:
            progress.stopped()


def range_test(rates: list[float], loss_at: Callable[[float, int], float], recipe: Recipe) -> RangeTest:
    """Take a step at each rate until the loss diverges.

    Args:
        rates: the rising learning rates.
        loss_at: takes a step at a rate, given with the step's number, and returns its loss.
        recipe: the recipe that is trained.

    Raises:
        KilonetError: the first loss is not finite.
    """
    losses: list[float] = []
    smoothed: list[float] = []
    mean, diverged = 0.0, False
    for step, rate in enumerate(rates):
        loss = loss_at(rate, step)
        diverged = not math.isfinite(loss)
        if diverged:
            break
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        losses.append(loss)
        smoothed.append(mean / (1 - _SMOOTHING ** (step + 1)))
        diverged = smoothed[-1] > _DIVERGED * min(smoothed)
        if diverged:
            break
    if not losses:
        raise KilonetError(f"the loss is not a number at the lowest rate, {rates[0]:g}; lower --lowest")
    tested = tuple(rates[: len(losses)])
    suggestion = float(f"{tested[-1] / _BELOW_DIVERGENCE:.2g}") if diverged else None
    return RangeTest(tested, tuple(losses), tuple(smoothed), diverged, suggestion, recipe.train.learning_rate)


def _batches(recipe: Recipe, labels: Tensor, device: str) -> Iterator[Batch]:
    """Yield the whole batches of the run's own epochs, without end."""
    epoch, size = 0, min(recipe.train.batch_size, len(labels))
    while True:
        yield from (batch for batch in draw_epoch(recipe, labels, epoch, device).split(size) if len(batch) == size)
        epoch += 1


def _loss(engine: Engine, batch: Batch, rate: float, step: int, progress: Progress) -> float:
    engine.train_batch(batch, rate, step)
    totals = engine.take_totals()
    loss = totals.loss / totals.images
    progress.batch_trained(step, totals.correct / totals.images, loss)
    return loss
