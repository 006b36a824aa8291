"""Accuracy, or another metric, against parameters: the compared groups, beside the accuracies that others published."""

import itertools
import warnings
from pathlib import Path
from typing import Any

from kilonet.evaluation.metrics import METRIC_NAMES
from kilonet.evaluation.public_results import public_results_on
from kilonet.evaluation.statistics import mean_and_std
from kilonet.report.comparison.comparison import Comparison
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from
from kilonet.utils.terminal import printable

_TICKS = (500, 1_000, 2_000, 4_000, 8_000, 16_000)


def draw_frontier(comparison: Comparison, path: Path) -> None:
    """Draw a comparison into a file, whose ending decides the format.

    Raises:
        KilonetError: the extra `plot` is not installed, the format is unknown, or the file cannot be written.
    """
    with needed_from("plot", "--plot"):
        # Importing matplotlib takes half a second, which other commands should not wait for.
        import matplotlib as mpl  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    # A name may hold dollar signs.
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        _draw(Figure(figsize=(9, 6), layout="constrained"), comparison, path)


def _draw(figure: Any, comparison: Comparison, path: Path) -> None:
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
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise KilonetError(f"{path} cannot be drawn: {str(error).splitlines()[0]}") from None


def _draw_public_results(axes: Any, data: str) -> None:
    for marker, result in zip(itertools.cycle("^vsDx"), public_results_on(data), strict=False):
        name = f"{result.parameters:,}"
        if result.range:
            axes.plot([result.parameters] * 2, result.range, color="0.7", linewidth=4, label=f"{name}: range of runs")
        label = f"public, {name}: {result.conditions}"
        axes.plot([result.parameters], [result.accuracy], marker, color="0.4", label=label)
