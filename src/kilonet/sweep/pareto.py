"""The Pareto front of a sweep, by its objective on the holdout and parameters, as a table, as JSON and as a picture."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilonet.evaluation.metrics import METRIC_NAMES, Metric
from kilonet.sweep.trials import FinishedTrial, Trials
from kilonet.utils.errors import KilonetError
from kilonet.utils.text_tables import aligned

PICTURE_FILE = "front.svg"


@dataclass(frozen=True)
class ParetoFront:
    """The finished trials of a sweep and the best of them. `str()` gives the table."""

    folder: Path
    finished: tuple[FinishedTrial, ...]
    """The trials that had all their epochs."""
    trials: int
    """The number of all trials, including those that were stopped early."""
    objective: Metric = "accuracy"

    @classmethod
    def of(cls, trials: Trials) -> "ParetoFront":
        """Read a sweep's folder.

        Raises:
            KilonetError: a file in it is damaged.
        """
        return cls(trials.folder, tuple(trials.finished()), len(trials.records), trials.objective)

    @property
    def best(self) -> list[FinishedTrial]:
        """The trials on the front, by increasing parameters."""
        return pareto_optimal(self.finished)

    def as_json(self) -> dict[str, Any]:
        """Return the front and the counts of trials as plain values."""
        counts = {"trials": self.trials, "finished": len(self.finished), "objective": self.objective}
        return {"folder": str(self.folder), **counts, "front": [trial.as_json() for trial in self.best]}

    def __str__(self) -> str:
        """Return the table, one line a network."""
        shown = list(dict.fromkeys((self.objective, "accuracy")))
        scores = [METRIC_NAMES[metric] for metric in shown]
        heads = ("parameters", "MACs", "RAM bytes", "errors", *scores, "run", "layers")
        rows = [heads, *(_cells(trial, shown) for trial in self.best)]
        by = "" if self.objective == "accuracy" else f" by {METRIC_NAMES[self.objective]}"
        counts = f"{self.trials} trials, {len(self.finished)} with all their epochs; the front{by}, in {self.folder}"
        measured = f"{', '.join(['errors', *scores[:-1]])} and {scores[-1]} on the holdout:"
        return "\n".join([f"{counts}, {measured}", *aligned(rows, (len(heads) - 1,))])

    def draw(self) -> Path:
        """Draw all finished trials and the front into `front.svg`, and return its path.

        Raises:
            KilonetError: no trial is finished yet.
        """
        # Importing matplotlib takes half a second, which only drawing should cost.
        from matplotlib.figure import Figure  # noqa: PLC0415

        if not self.finished:
            raise KilonetError(f"{self.folder}: no trial has had all its epochs yet; there is nothing to draw")
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        axes.scatter(*_points(self.finished), s=14, color="0.6", label="trials with all their epochs")
        axes.plot(*_points(self.best), "o-", color="C0", drawstyle="steps-post", label="Pareto front")
        error = "error" if self.objective == "accuracy" else f"100 % minus {METRIC_NAMES[self.objective]}"
        axes.set(xlabel="parameters", ylabel=f"holdout {error}, %", xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,g}")
            axis.set_minor_formatter("{x:,g}")
        axes.grid(which="both", alpha=0.3)
        axes.legend()
        path = self.folder / PICTURE_FILE
        figure.savefig(path)
        return path


def pareto_optimal(trials: Iterable[FinishedTrial]) -> list[FinishedTrial]:
    """Return the trials that no other one beats in both parameters and error, by increasing parameters.

    Of trials that are equal in both, the first one stays.
    """
    front: list[FinishedTrial] = []
    for trial in sorted(trials, key=lambda one: (one.costs["parameters"], one.error, one.number)):
        if not front or trial.error < front[-1].error:
            front.append(trial)
    return front


def _points(trials: Sequence[FinishedTrial]) -> tuple[list[int], list[float]]:
    """Return the coordinates for drawing: parameters, and errors in percent."""
    parameters = [trial.costs["parameters"] for trial in trials]
    return parameters, [100 * trial.error for trial in trials]


def _cells(trial: FinishedTrial, shown: Sequence[Metric]) -> tuple[str, ...]:
    costs = (f"{cost:,}" for cost in trial.costs.values())
    scores = (f"{100 * trial.result.final.score(metric, str(trial.folder)):.2f} %" for metric in shown)
    layers = ", ".join(trial.result.recipe.model.layers)
    return (*costs, f"{trial.errors:,}", *scores, trial.folder.name, layers)
