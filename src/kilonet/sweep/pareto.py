"""The Pareto front of a sweep, by holdout errors and parameters: as a table, as JSON, as a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilonet.sweep.trials import Outcome, Trials, pareto
from kilonet.utils.errors import KilonetError
from kilonet.utils.text_tables import aligned

PICTURE_FILE = "front.svg"


@dataclass(frozen=True)
class Front:
    """What a sweep has found. `str()` gives the table."""

    folder: Path
    outcomes: tuple[Outcome, ...]
    """The trials that had all their epochs."""
    drawn: int
    """All trials, those that were stopped early among them."""

    @classmethod
    def of(cls, trials: Trials) -> "Front":
        """Read a sweep's folder.

        Raises:
            KilonetError: a file of it is damaged.
        """
        return cls(trials.folder, tuple(trials.outcomes()), len(trials.records))

    @property
    def best(self) -> list[Outcome]:
        """The front, by rising parameters."""
        return pareto(list(self.outcomes))

    def as_json(self) -> dict[str, Any]:
        """Return the front, and the counts of trials, as plain lists and numbers."""
        counts = {"trials": self.drawn, "finished": len(self.outcomes)}
        return {"folder": str(self.folder), **counts, "front": [outcome.as_json() for outcome in self.best]}

    def __str__(self) -> str:
        """Return the table, a line a network."""
        heads = ("parameters", "MACs", "RAM bytes", "errors", "accuracy", "run", "layers")
        rows = [heads, *map(_cells, self.best)]
        counts = f"{self.drawn} trials, {len(self.outcomes)} with all their epochs; the front, in {self.folder}"
        return "\n".join([f"{counts}, errors and accuracy on the holdout:", *aligned(rows, (len(heads) - 1,))])

    def draw(self) -> Path:
        """Draw all finished trials and the front; returns the picture's path.

        Raises:
            KilonetError: nothing is finished yet.
        """
        # Half a second that only whoever draws should wait.
        from matplotlib.figure import Figure  # noqa: PLC0415

        if not self.outcomes:
            raise KilonetError(f"{self.folder}: no trial has had all its epochs yet; there is nothing to draw")
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        axes.scatter(*_points(self.outcomes), s=14, color="0.6", label="trials with all their epochs")
        axes.plot(*_points(self.best), "o-", color="C0", drawstyle="steps-post", label="the front")
        axes.set(xlabel="parameters", ylabel="wrong of the holdout, %", xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,g}")
            axis.set_minor_formatter("{x:,g}")
        axes.grid(which="both", alpha=0.3)
        axes.legend()
        path = self.folder / PICTURE_FILE
        figure.savefig(path)
        return path


def _points(outcomes: Any) -> tuple[list[int], list[float]]:
    parameters = [outcome.costs["parameters"] for outcome in outcomes]
    return parameters, [100 * outcome.errors / outcome.result.scored_images for outcome in outcomes]


def _cells(outcome: Outcome) -> tuple[str, ...]:
    costs = (f"{cost:,}" for cost in outcome.costs.values())
    share = f"{100 * outcome.result.final.test_accuracy:.2f} %"
    layers = ", ".join(outcome.result.recipe.model.layers)
    return (*costs, f"{outcome.errors:,}", share, outcome.folder.name, layers)
