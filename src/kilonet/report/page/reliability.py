"""Figures of reliability and robustness: calibration of the probabilities, accuracy under corruptions."""

from matplotlib.ticker import FuncFormatter

from kilonet.report.page.charts import ACCENT, FAINT, INK, SECOND, chart
from kilonet.report.page.figures import PageFigure, Table, percent, span
from kilonet.report.page.measurements import BINS, Measurements, Reliability
from kilonet.report.subject import Robustness


def reliability_figure(measured: Measurements) -> PageFigure:
    """Draw the reliability diagram: the share of right answers over their probability, and the number of answers."""
    found = measured.reliability
    alternative = (
        f"Reliability diagram in {BINS} bins: near the diagonal, probabilities agree with the share of right answers. "
        f"The expected calibration error is {percent(found.error)}."
    )
    with chart("reliability", 310, 280, alternative) as drawing:
        shares, numbers = drawing.figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        shares.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)))
        for part in found.bins:
            if part.images:
                shares.plot([part.confidence] * 2, part.interval, color=ACCENT, linewidth=1, solid_capstyle="butt")
                shares.plot([part.confidence], [part.correct / part.images], "o", color=ACCENT, markersize=4.5)
        filled = [part for part in found.bins if part.images]
        middles = [(part.low + part.high) / 2 for part in filled]
        numbers.bar(middles, [part.images for part in filled], width=0.9 / BINS, color=ACCENT, alpha=0.5)
        numbers.set_yscale("log")
        numbers.set_ylim(bottom=0.8)
        numbers.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        numbers.minorticks_off()
        shares.set_title("share of right answers")
        numbers.set_title("number of answers, logarithmic")
        numbers.set_xlabel("probability of the answer")
        shares.set_xlim(0, 1.01)
        shares.set_ylim(0, 1.02)
        shares.grid()
    caption = (
        "Reliability diagram: the share of right answers among those of a like probability. On the dashed diagonal "
        "the two are equal. Bars are 95 % intervals (Wilson), which are long where there are few answers."
    )
    return PageFigure("reliability", drawing.svg, caption, _bin_table(found))


def _bin_table(found: Reliability) -> Table:
    rows = [
        (
            f"{100 * part.low:.1f} to {100 * part.high:.1f} %",
            f"{part.images:,}",
            f"{part.correct:,}",
            percent(part.confidence if part.images else None, 1),
            percent(part.correct / part.images if part.images else None, 1),
            span(part.interval, 1) if part.images else percent(None),
        )
        for part in found.bins
    ]
    images, right = sum(part.images for part in found.bins), sum(part.correct for part in found.bins)
    mean = sum(part.confidence * part.images for part in found.bins if part.images) / images
    total = ("all", f"{images:,}", f"{right:,}", percent(mean), percent(right / images), "")
    heads = ("probability", "answers", "right", "mean probability", "share right", "95 % interval")
    return Table("Answers by their probability", heads, rows, total)


def robustness_figure(found: Robustness) -> PageFigure:
    """Draw the accuracy under each corruption, highest first."""
    ranked = sorted(found.accuracies.items(), key=lambda entry: -entry[1])
    spoken = {name: name.replace("_", " ") for name, _ in ranked}
    (easiest, best), (hardest, least) = ranked[0], ranked[-1]
    alternative = (
        f"Bars of the accuracy under {len(ranked)} corruptions, from {percent(best)} ({spoken[easiest]}) down to "
        f"{percent(least)} ({spoken[hardest]}); their mean is {percent(found.mean)}, without corruption it is "
        f"{percent(found.clean)}."
    )
    with chart("robustness", 310, 45 + 14 * len(ranked), alternative) as drawing:
        axes = drawing.axes()
        axes.barh(range(len(ranked)), [100 * share for _, share in ranked], height=0.62, color=ACCENT, alpha=0.65)
        for row, (_, share) in enumerate(ranked):
            axes.text(113, row, f"{100 * share:.1f}", va="center", ha="right", color=INK)
        axes.axvline(100 * found.clean, color=SECOND, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.set_yticks(range(len(ranked)), list(spoken.values()))
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 114)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("right, %")
    caption = (
        "Accuracy under the corruptions of MNIST-C, none of which was trained on. The dashed line is the accuracy on "
        f"the same images without corruption; the mean of the corruptions is {percent(found.mean)}."
    )
    rows = [(spoken[name], percent(share)) for name, share in ranked]
    table = Table("Accuracy by corruption", ("corruption", "accuracy"), rows, ("mean", percent(found.mean)))
    return PageFigure("robustness", drawing.svg, caption, table)
