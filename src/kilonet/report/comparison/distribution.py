"""The accuracy, or another metric, of every run of each compared group: how far a single seed may lie from the mean."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kilonet.evaluation.metrics import METRIC_NAMES
from kilonet.evaluation.statistics import mean_and_std
from kilonet.report.comparison.comparison import Comparison
from kilonet.report.comparison.groups import Group
from kilonet.report.comparison.plotting import save_drawing
from kilonet.utils.terminal import printable

_BINS = 40
"""The most columns in which the runs of all groups are stacked."""


def draw_distribution(comparison: Comparison, path: Path) -> None:
    """Draw each run as a dot, equal ones on one another, in a row a group, into a file whose ending decides the format.

    A line stands at the mean, a band reaches a standard deviation to both sides of it.

    Raises:
        KilonetError: the extra `plot` is not installed, the format is unknown, or the file cannot be written.
    """
    save_drawing(path, "--distribution", lambda make: _drawn(make, comparison))


def _drawn(make: Callable[..., Any], comparison: Comparison) -> Any:
    groups = comparison.groups
    scores = [100 * score for group in groups for score in group.scores]
    result = groups[0].records[0].result
    # One image is the smallest difference that there is.
    step = max(100 / result.scored_images, (max(scores) - min(scores)) / _BINS)
    figure = make(figsize=(9, 1 + 1.8 * len(groups)), layout="constrained")
    rows = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for axes, group in zip(rows, groups, strict=True):
        _draw_group(axes, group, step)
    images = f"{result.scored_images:,} {result.scored.lower()} images"
    rows[-1].set_xlabel(f"{METRIC_NAMES[comparison.metric]} of {images} after the final epoch, %")
    return figure


def _draw_group(axes: Any, group: Group, step: float) -> None:
    scores = [100 * score for score in group.scores]
    mean, deviation = mean_and_std(scores)
    spread = f" ± {deviation:.3f}" if len(scores) > 1 else ""
    if len(scores) > 1:
        axes.axvspan(mean - deviation, mean + deviation, color="C0", alpha=0.15)
    axes.axvline(mean, color="C0")
    heights: Counter[int] = Counter()
    for score in sorted(scores):
        place = round(score / step)
        heights[place] += 1
        axes.plot([place * step], [heights[place]], "o", color="0.3", markersize=5)
    axes.set(ylim=(0, max(heights.values()) + 1), yticks=[])
    axes.set_title(f"{printable(group.name)}: {mean:.3f}{spread} %, n = {len(scores)}", loc="left", fontsize="medium")
    axes.grid(axis="x", alpha=0.3)
