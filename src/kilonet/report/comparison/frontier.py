"""Accuracy against parameters: our groups, and what others have published, each labelled as what it is."""

from pathlib import Path
from typing import Any

from kilonet.evaluation.statistics import mean_and_std
from kilonet.report.comparison.comparison import Comparison
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from

PUBLIC = (
    (7_496, 99.56, "7,496: test, final epoch, one run"),
    (3_197, 99.25, "3,197: validation, one run"),
    (1_936, 99.13, "1,936: validation, one run"),
    (997, 99.06, "997: test, best of 215 restarts"),
    (7_662, 99.14, "7,662: the ERA homework's README, test, best epoch"),
)
"""Parameters, accuracy in percent, and what the figure is."""
_RESTARTS = (997, 98.42, 99.06)
"""The range of the restarts of which the best was published."""
_TICKS = (500, 1_000, 2_000, 4_000, 8_000, 16_000)


def draw(comparison: Comparison, path: Path) -> None:
    """Draw a comparison into a file; its ending decides the format.

    Raises:
        KilonetError: the extra `plot` is not installed, no such format, or the file cannot be written.
    """
    with needed_from("plot", "--plot"):
        # Half a second that only whoever draws should wait.
        from matplotlib.figure import Figure  # noqa: PLC0415
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    _draw_public(axes)
    result = comparison.groups[0].entries[0].result
    for group in comparison.groups:
        mean, _ = mean_and_std([100 * accuracy for accuracy in group.accuracies])
        low, high = [100 * end for end in group.interval] if group.interval else (mean, mean)
        label = f"{group.name}: {result.scored.lower()}, final epoch, mean of {len(group.entries)}"
        spread = [[mean - low], [high - mean]]
        axes.errorbar([group.parameters], [mean], yerr=spread, fmt="o", capsize=4, markersize=7, label=label)
    axes.set(xscale="log", xlabel="parameters", ylabel="accuracy, %; bars are 95 % intervals of the mean")
    axes.set_xticks(_TICKS, labels=[f"{tick:,}" for tick in _TICKS])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise KilonetError(f"{path} cannot be drawn: {str(error).splitlines()[0]}") from None


def _draw_public(axes: Any) -> None:
    parameters, low, high = _RESTARTS
    axes.plot([parameters, parameters], [low, high], color="0.7", linewidth=4, label="997: range of those restarts")
    for marker, (parameters, accuracy, what) in zip("^vsDx", PUBLIC, strict=True):
        axes.plot([parameters], [accuracy], marker, color="0.4", label=f"public, {what}")
