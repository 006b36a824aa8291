"""Accuracy, or another metric, against parameters: the compared groups, beside the accuracies that others published."""

import itertools
from pathlib import Path
from typing import Any

from kilonet.evaluation.metrics import METRIC_NAMES
from kilonet.evaluation.public_results import public_results_on
from kilonet.evaluation.statistics import mean_and_std
from kilonet.report.comparison.comparison import Comparison
from kilonet.report.comparison.plotting import save_drawing
from kilonet.utils.terminal import printable

_TICKS = (500, 1_000, 2_000, 4_000, 8_000, 16_000)


def draw_frontier(comparison: Comparison, path: Path) -> None:
    """Draw a comparison into a file, whose ending decides the format.

    Raises:
        KilonetError: the extra `plot` is not installed, the format is unknown, or the file cannot be written.
    """
    save_drawing(path, "--plot", lambda make: _drawn(make(figsize=(9, 6), layout="constrained"), comparison))


def _drawn(figure: Any, comparison: Comparison) -> Any:
    axes = figure.subplots()
    result = comparison.groups[0].records[0].result
    if comparison.metric == "accuracy":
        _draw_public_results(axes, result.recipe.run.data)
    for group in comparison.groups:
        mean, _ = mean_and_std([100 * score for score in group.scores])
        low, high = [100 * end for end in group.interval] if group.interval else (mean, mean)
        label = f"{printable(group.name)}: {result.scored.lower()}, final epoch, mean of {len(group.records)}"
        spread = [[mean - low], [high - mean]]
        axes.errorbar([group.parameters], [mean], yerr=spread, fmt="o", capsize=4, markersize=7, label=label)
    axes.set(
        xscale="log",
        xlabel="parameters",
        ylabel=f"{METRIC_NAMES[comparison.metric]}, %; bars are 95 % intervals of the mean",
    )
    axes.set_xticks(_TICKS, labels=[f"{tick:,}" for tick in _TICKS])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _draw_public_results(axes: Any, data: str) -> None:
    for marker, result in zip(itertools.cycle("^vsDx"), public_results_on(data), strict=False):
        if result.range:
            label = f"{result.parameters:,}: range of runs"
            axes.plot([result.parameters] * 2, result.range, color="0.7", linewidth=4, label=label)
        axes.plot([result.parameters], [result.accuracy], marker, color="0.4", label=result.label)
