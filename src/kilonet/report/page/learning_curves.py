"""Figures of the training: learning curves of a run, and several runs side by side."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from kilonet.evaluation.metrics import METRIC_NAMES, Metric
from kilonet.evaluation.statistics import mean_and_std, mean_interval
from kilonet.report.page.charts import ACCENT, FAINT, INK, SECOND, chart
from kilonet.report.page.figures import PageFigure, Row, Table, percent, span
from kilonet.training.run_folder import EpochMetrics
from kilonet.training.run_records import RunRecord, group_repetitions
from kilonet.utils.terminal import printable

# All images of a small set may be classified correctly, and zero has no logarithm.
_LEAST_ERROR = 1e-4


def curves_figure(record: RunRecord, repeated: Sequence[RunRecord]) -> PageFigure:
    """Draw the errors, losses and learning rate of a run over its epochs, with the errors of its repetitions behind."""
    history, final = record.history, record.result.final
    scored = record.result.scored.lower()
    alternative = (
        f"Three line charts over {len(history)} epochs. Wrong answers of the {scored} images fall from "
        f"{percent(1 - history[0].test_accuracy)} to {percent(1 - final.test_accuracy)}, of the training images from "
        f"{percent(1 - history[0].train_accuracy)} to {percent(1 - final.train_accuracy)}; losses fall likewise; "
        f"the learning rate ends at {final.learning_rate:.2g}."
    )
    with chart("curves", 310, 350, alternative) as drawing:
        wrong, loss, rate = drawing.figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.6])
        for other in repeated:
            _line(wrong, other.history, [_error(epoch.test_accuracy) for epoch in other.history], FAINT, width=0.6)
        training = [_error(epoch.train_accuracy) for epoch in history]
        _pair(wrong, history, training, [_error(epoch.test_accuracy) for epoch in history], scored)
        training = [epoch.train_loss for epoch in history]
        _pair(loss, history, training, [epoch.test_loss for epoch in history], scored)
        _line(rate, history, [epoch.learning_rate for epoch in history], INK)
        wrong.set_title("wrong answers, %")
        loss.set_title("mean cross-entropy, nats")
        rate.set_title("learning rate, last step of the epoch")
        rate.set_xlabel("epoch")
        rate.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (wrong, loss):
            _logarithmic(axes)
    behind = f" Thin lines: the other {len(repeated)} runs of the same recipe." if repeated else ""
    caption = (
        f"Learning curves. Training errors and losses are measured during the epoch, on augmented images and with "
        f"dropout where the recipe has it, so they may lie above those of the {scored} images.{behind}"
    )
    return PageFigure("curves", drawing.svg, caption, _epoch_table(record))


def _error(accuracy: float) -> float:
    return 100 * max(1 - accuracy, _LEAST_ERROR)


def _line(axes: Axes, history: Sequence[EpochMetrics], values: list[float], colour: str, *, width: float = 1.4) -> None:
    marker = "o" if len(history) == 1 else None
    axes.plot([epoch.epoch for epoch in history], values, color=colour, linewidth=width, marker=marker, markersize=3)


def _pair(axes: Axes, history: Sequence[EpochMetrics], training: list[float], others: list[float], scored: str) -> None:
    """Draw the values of the training images and of the scored ones, labelled at their ends, the higher label above."""
    for values, rival, colour, label in ((training, others, ACCENT, "training"), (others, training, SECOND, scored)):
        _line(axes, history, values, colour)
        place = {"xy": (history[-1].epoch, values[-1]), "xytext": (5, 0), "textcoords": "offset points"}
        side = "bottom" if (values[-1], label) > (rival[-1], label) else "top"
        axes.annotate(label, **place, color=colour, va=side, annotation_clip=False)  # type: ignore[arg-type]


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def _epoch_table(record: RunRecord) -> Table:
    scored = record.result.scored.lower()
    heads = ("epoch", "training loss", "training accuracy", f"{scored} loss", f"{scored} accuracy", "learning rate")
    rows = [
        (
            str(epoch.epoch),
            f"{epoch.train_loss:.4f}",
            percent(epoch.train_accuracy),
            f"{epoch.test_loss:.4f}",
            percent(epoch.test_accuracy),
            f"{epoch.learning_rate:.3g}",
        )
        for epoch in record.history
    ]
    return Table("Every epoch", heads, rows, words=0)


def runs_figure(records: Sequence[RunRecord]) -> PageFigure:
    """Draw the final accuracy of every run with its interval, and the mean of each recipe."""
    groups = group_repetitions(records)
    placed = [(record, number) for number, group in enumerate(groups) for record in group]
    alternative = f"Final accuracies of {len(records)} runs with 95 % intervals: " + "; ".join(
        f"{record.name} {percent(record.accuracy)}" for record in records
    )
    with chart("runs", 310, 50 + 16 * len(placed), alternative) as drawing:
        axes = drawing.axes()
        for row, (record, number) in enumerate(placed):
            low, high = (100 * bound for bound in record.result.interval)
            colour = (ACCENT, SECOND, INK)[number % 3]
            axes.plot([low, high], [row, row], color=colour, linewidth=1, solid_capstyle="butt")
            axes.plot([100 * record.accuracy], [row], "o", color=colour, markersize=4.5)
        start = 0
        for number, group in enumerate(groups):
            mean, _ = mean_and_std([100 * record.accuracy for record in group])
            colour = (ACCENT, SECOND, INK)[number % 3]
            bounds = [start - 0.4, start + len(group) - 0.6]
            axes.plot([mean, mean], bounds, color=colour, linewidth=0.8, linestyle=(0, (3, 2)))
            start += len(group)
        axes.set_yticks(range(len(placed)), [record.name for record, _ in placed])
        axes.invert_yaxis()
        axes.set_xlabel("accuracy of the final epoch, %")
        axes.grid(axis="x")
    caption = (
        "Accuracy of every run after its final epoch, with its own 95 % interval (Wilson). Dashed lines are the means "
        "over the seeds of each recipe."
    )
    return PageFigure("runs", drawing.svg, caption, _run_table(records))


def _run_table(records: Sequence[RunRecord]) -> Table:
    heads = ("run", "set", "seed", "parameters", "epochs", "right", "accuracy", "95 % interval", "training, s")
    rows = [
        (
            record.name,
            f"{printable(Path(record.result.recipe.run.data).name)}, {record.result.scored.lower()}",
            str(record.result.recipe.run.seed),
            f"{record.result.parameters:,}",
            str(record.result.recipe.train.epochs),
            f"{record.result.correct:,} of {record.result.scored_images:,}",
            percent(record.accuracy),
            span(record.result.interval),
            f"{record.result.seconds:.1f}",
        )
        for record in records
    ]
    return Table("Every run", heads, rows, words=2)


def statistics_tables(records: Sequence[RunRecord]) -> list[Table]:
    """Return the number of runs, mean, standard deviation and interval of each recipe.

    One table is of the accuracy. Where all runs were scored on unequal classes, two more count the classes alike.
    """
    unequal = all(record.result.balanced_scores for record in records)
    return [_statistics_table(records, metric) for metric in METRIC_NAMES if unequal or metric == "accuracy"]


def _statistics_table(records: Sequence[RunRecord], metric: Metric) -> Table:
    heads = ("runs of one recipe", "n", "mean", "standard deviation", "95 % interval of the mean")
    name = METRIC_NAMES[metric]
    caption = f"{name[0].upper()}{name[1:]} over seeds, final epoch"
    return Table(caption, heads, [_statistic(group, metric) for group in group_repetitions(records)])


def _statistic(group: Sequence[RunRecord], metric: Metric) -> Row:
    scores = [record.score(metric) for record in group]
    mean, deviation = mean_and_std(scores)
    name = group[0].name if len(group) == 1 else f"{group[0].name} and {len(group) - 1} more"
    if math.isnan(deviation):
        return name, "1", percent(mean, 3), percent(None), percent(None)
    return name, str(len(group)), percent(mean, 3), percent(deviation, 3), span(mean_interval(scores), 3)
