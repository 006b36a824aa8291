"""The Pareto front of a sweep, by its objective on the holdout and its costs, as a table, as JSON and as a picture."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from operator import le
from pathlib import Path
from typing import Any

from kilonet.evaluation.metrics import METRIC_NAMES, Metric
from kilonet.evaluation.public_results import public_results_on
from kilonet.sweep.costs import Cost, Target, label_of
from kilonet.sweep.trials import FinishedTrial, Trials
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import counted
from kilonet.utils.text_tables import aligned

PICTURE_FILE = "front.svg"
_SHOWN: tuple[Cost, ...] = ("parameters", "macs", "ram_bytes")
"""The costs in the table where only parameters are minimised, or none."""


@dataclass(frozen=True)
class ParetoFront:
    """The finished trials of a sweep and the best of them. `str()` gives the table."""

    trials: Trials
    finished: tuple[FinishedTrial, ...]
    """The trials that had all their epochs."""

    @classmethod
    def of(cls, trials: Trials) -> "ParetoFront":
        """Read a sweep's folder.

        Raises:
            KilonetError: a file in it is damaged.
        """
        return cls(trials, tuple(trials.finished()))

    @property
    def costs(self) -> tuple[Cost, ...]:
        """What is minimised beside the error."""
        return self.trials.plan.search.costs

    @property
    def target(self) -> Target:
        """The microcontroller of the estimates."""
        return self.trials.plan.budget.target

    @property
    def best(self) -> list[FinishedTrial]:
        """The trials on the front, by increasing costs, the first one first."""
        return pareto_optimal(self.finished, self.costs)

    def as_json(self) -> dict[str, Any]:
        """Return the front and all trials as plain values.

        Raises:
            KilonetError: a file of a trial is damaged.
        """
        counts = {"trials": len(self.trials.records), "finished": len(self.finished)}
        minimised = {"objective": self.trials.objective, "costs": list(self.costs), "target": self.target}
        front = [trial.as_json() for trial in self.best]
        every = list(self.trials.as_json())
        return {"folder": str(self.trials.folder), **counts, **minimised, "front": front, "all": every}

    def __str__(self) -> str:
        """Return the table, one line a network."""
        shown = list(dict.fromkeys((self.trials.objective, "accuracy")))
        scores = [METRIC_NAMES[metric] for metric in shown]
        costs = _SHOWN if self.costs in ((), ("parameters",)) else self.costs
        labels = [label_of(cost, self.target) for cost in costs]
        rows = [(*labels, "errors", *scores, "run", "layers"), *(_cells(trial, costs, shown) for trial in self.best)]
        by = "" if self.trials.objective == "accuracy" else f" by {METRIC_NAMES[self.trials.objective]}"
        if self.costs != ("parameters",):
            against = " and ".join(label_of(cost, self.target) for cost in self.costs)
            by += f" against {against}" if against else " by the error alone"
        counts = f"{counted(len(self.trials.records), 'trial')}, {len(self.finished)} with all their epochs"
        counts += f"; the front{by}, in {self.trials.folder}"
        measured = f"{', '.join(['errors', *scores[:-1]])} and {scores[-1]} on the holdout:"
        return "\n".join([f"{counts}, {measured}", *aligned(rows, (len(rows[0]) - 1,))])

    def draw(self) -> Path:
        """Draw all finished trials and the front into `front.svg`, and return its path.

        Each cost, or parameters where the error alone counts, has a panel of its own, with the trials that no other
        beats in the error and this cost as a line, and with marks at those that no other beats in all costs. Beside
        errors on MNIST against parameters stand those of networks of such sizes that others published.

        Raises:
            KilonetError: no trial is finished yet.
        """
        # Importing matplotlib takes half a second, which only drawing should cost.
        from matplotlib.figure import Figure  # noqa: PLC0415

        if not self.finished:
            raise KilonetError(f"{self.trials.folder}: no trial has had all its epochs yet; there is nothing to draw")
        costs: tuple[Cost, ...] = self.costs or ("parameters",)
        columns = min(2, len(costs))
        rows = math.ceil(len(costs) / columns)
        figure = Figure(figsize=(8 * columns, 5 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flat
        # A logarithmic axis has no zero.
        scale = "log" if all(trial.error > 0 for trial in self.finished) else "linear"
        error = "error" if self.trials.objective == "accuracy" else f"100 % minus {METRIC_NAMES[self.trials.objective]}"
        best = self.best
        for axes in [*panels][len(costs) :]:
            axes.remove()
        for cost, axes in zip(costs, figure.axes, strict=True):
            axes.scatter(*_points(self.finished, cost), s=14, color="0.6", label="trials with all their epochs")
            line = pareto_optimal(self.finished, (cost,))
            in_one = f" in {label_of(cost, self.target)}" if len(costs) > 1 else ""
            axes.plot(*_points(line, cost), "o-", color="C0", drawstyle="steps-post", label=f"Pareto front{in_one}")
            if len(costs) > 1:
                rings = axes.scatter(*_points(best, cost), s=110, zorder=3, label="front in all costs")
                rings.set(edgecolors="C1", facecolors="none", linewidths=1.5)
            if cost == "parameters" and self.trials.objective == "accuracy":
                self._draw_public_results(axes)
            axes.set(xlabel=label_of(cost, self.target), ylabel=f"holdout {error}, %", xscale="log", yscale=scale)
            axes.tick_params(axis="x", which="both", labelrotation=30)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter("{x:,.10g}")
                axis.set_minor_formatter("{x:,.10g}")
            axes.grid(which="both", alpha=0.3)
            axes.legend()
        path = self.trials.folder / PICTURE_FILE
        figure.savefig(path)
        return path

    def _draw_public_results(self, axes: Any) -> None:
        sizes = [trial.costs["parameters"] for trial in self.finished]
        results = public_results_on(self.finished[0].result.recipe.run.data)
        near = [result for result in results if min(sizes) / 2 <= result.parameters <= 2 * max(sizes)]
        for marker, result in zip(cycle("^vsDx"), near, strict=False):
            axes.plot([result.parameters], [100 - result.accuracy], marker, color="0.4", label=result.label)


def pareto_optimal(trials: Iterable[FinishedTrial], costs: Sequence[Cost]) -> list[FinishedTrial]:
    """Return the trials that no other one beats in the costs and the error, by increasing costs.

    Of trials that are equal in all, the first one stays.
    """

    def objectives(trial: FinishedTrial) -> tuple[float, ...]:
        return (*(trial.costs[cost] for cost in costs), trial.error)

    front: list[FinishedTrial] = []
    # In this order no trial is beaten by a later one.
    for trial in sorted(trials, key=lambda one: (objectives(one), one.number)):
        if not any(all(map(le, objectives(kept), objectives(trial))) for kept in front):
            front.append(trial)
    return front


def _points(trials: Sequence[FinishedTrial], cost: Cost) -> tuple[list[int], list[float]]:
    """Return the coordinates for drawing: a cost, and errors in percent."""
    return [trial.costs[cost] for trial in trials], [100 * trial.error for trial in trials]


def _cells(trial: FinishedTrial, costs: Sequence[Cost], shown: Sequence[Metric]) -> tuple[str, ...]:
    figures = (f"{trial.costs[cost]:,}" for cost in costs)
    scores = (f"{100 * trial.result.final.score(metric, str(trial.folder)):.2f} %" for metric in shown)
    layers = ", ".join(trial.result.recipe.model.layers)
    return (*figures, f"{trial.errors:,}", *scores, trial.folder.name, layers)
