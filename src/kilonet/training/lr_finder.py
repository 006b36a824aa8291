"""The learning-rate range test: a few hundred steps at rising rates show where the loss falls and where it breaks.

Source: L. N. Smith, "Cyclical learning rates for training neural networks", 2015, section 3.3, and "Super-convergence",
2017. That the rates rise exponentially, the smoothing, and the end at four times the lowest loss are from S. Gugger,
"How do you find a good learning rate", 2018.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from kilonet.engines.contract import Engine
from kilonet.engines.selection import make_engine, resolve_run
from kilonet.network.module import initial_network
from kilonet.recipe import Recipe
from kilonet.training.progress import Progress, Silence
from kilonet.training.train import checked_data, draw_epoch
from kilonet.utils.errors import KilonetError

LOWEST, HIGHEST = 1e-4, 10.0
STEPS = 300
LEAST_STEPS = 50
MOST_STEPS = 100_000

_SMOOTHING = 0.95
_BROKEN = 4.0
"""Times the lowest smoothed loss: from there on the test is over."""
_BELOW_BREAK = 10.0
_ROWS = 24


@dataclass(frozen=True)
class RangeTest:
    """The curve of the test and what it suggests. `str()` gives both."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    """Mean cross-entropy of each step's batch, nats."""
    smoothed: tuple[float, ...]
    """The losses, averaged over about twenty steps."""
    broke: bool
    """Whether the loss broke before the highest rate."""
    suggestion: float | None
    """A tenth of the rate at which the loss broke, to two figures; None where it did not break."""
    recipe_rate: float
    """The recipe's own."""

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain lists and numbers."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the curve as bars, and the suggestion."""
        return f"{self._bars()}\n\n{self.verdict}"

    @property
    def verdict(self) -> str:
        """What the curve says, in a line or two."""
        if self.suggestion is None:
            return (
                f"No suggestion: the loss did not break up to a rate of {self.rates[-1]:.3g}; "
                "raise --highest until it does"
            )
        own = f"the recipe has {self.recipe_rate:g}"
        return (
            f"The loss broke at a rate of {self.rates[-1]:.3g}.\nSuggested --learning-rate: {self.suggestion:g} ({own})"
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
    """Train a recipe's network from its initial weights at rates that rise from step to step, and throw it away.

    Args:
        recipe: what to train, on which images, by which engine.
        lowest: the first step's rate.
        highest: the last step's, if the loss does not break before.
        steps: how many; the factor between neighbouring rates follows.
        progress: is told of each step.

    Raises:
        KilonetError: the range is none, or recipe or images will not do.
    """
    if not 0 < lowest < highest < math.inf:
        raise KilonetError(
            f"the rates must rise: --lowest {lowest:g} is not below --highest {highest:g}, or not above 0"
        )
    if not LEAST_STEPS <= steps <= MOST_STEPS:
        raise KilonetError(f"--steps {steps}: {LEAST_STEPS} to {MOST_STEPS:,} show a curve")
    progress = progress or Silence()
    recipe = resolve_run(recipe, progress.message)
    data = checked_data(recipe)
    engine = make_engine(recipe, data.train, initial_network(recipe.model, recipe.run.seed))
    rates = [lowest * (highest / lowest) ** (step / (steps - 1)) for step in range(steps)]
    batches = _batches(recipe, len(data.train), engine.device)
    progress.epoch_started(0, steps)
    try:
        return range_test(rates, lambda rate, step: _loss(engine, next(batches), rate, step, progress), recipe)
    finally:
        progress.stopped()


def range_test(rates: list[float], loss_at: Callable[[float, int], float], recipe: Recipe) -> RangeTest:
    """Take a step at each rate until the loss breaks; `loss_at` trains one and returns its loss.

    Raises:
        KilonetError: it broke at once.
    """
    losses: list[float] = []
    smoothed: list[float] = []
    mean, broke = 0.0, False
    for step, rate in enumerate(rates):
        loss = loss_at(rate, step)
        broke = not math.isfinite(loss)
        if broke:
            break
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        losses.append(loss)
        smoothed.append(mean / (1 - _SMOOTHING ** (step + 1)))
        broke = smoothed[-1] > _BROKEN * min(smoothed)
        if broke:
            break
    if not losses:
        raise KilonetError(f"the loss is not a number at the lowest rate, {rates[0]:g}; lower --lowest")
    seen = tuple(rates[: len(losses)])
    suggestion = float(f"{seen[-1] / _BELOW_BREAK:.2g}") if broke else None
    return RangeTest(seen, tuple(losses), tuple(smoothed), broke, suggestion, recipe.train.learning_rate)


def _batches(recipe: Recipe, images: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Give whole batches of the run's own epochs, as many as are asked for."""
    epoch, size = 0, min(recipe.train.batch_size, images)
    while True:
        order, transforms = draw_epoch(recipe, images, epoch, device)
        for start in range(0, images - size + 1, size):
            yield order[start : start + size], transforms[start : start + size]
        epoch += 1


def _loss(engine: Engine, batch: tuple[Tensor, Tensor], rate: float, step: int, progress: Progress) -> float:
    engine.train_batch(*batch, rate, step)
    totals = engine.take_totals()
    loss = totals.loss / totals.images
    progress.batch_trained(step, totals.correct / totals.images, loss)
    return loss
