"""How far the network may be trusted: true probabilities, and robustness."""

from matplotlib.ticker import FuncFormatter

from kilonet.report.page.charts import ACCENT, FAINT, INK, SECOND, chart
from kilonet.report.page.figures import Figure, Table, percent, span
from kilonet.report.page.measurements import BINS, Measured, Reliability
from kilonet.report.subject import Robustness


def reliability(measured: Measured) -> Figure:
    """Draw the share that is right over the probability that was given, and how many answers there are of each."""
    found = measured.calibrated
    alternative = (
        f"Reliability diagram in {BINS} bins: points near the diagonal mean what they say. The expected calibration "
        f"error is {percent(found.error)}."
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
        shares.set_title("share that is right")
        numbers.set_title("answers, logarithmic")
        numbers.set_xlabel("probability that was given to the answer")
        shares.set_xlim(0, 1.01)
        shares.set_ylim(0, 1.02)
        shares.grid()
    caption = (
        "Do probabilities mean what they say? On the dashed diagonal they would; bars are 95 % intervals (Wilson), "
        "long where there are few answers."
    )
    return Figure("reliability", drawing.picture, caption, _bins(found))


def _bins(found: Reliability) -> Table:
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


def robustness(found: Robustness) -> Figure:
    """Draw the accuracy under each corruption, highest first."""
    ranked = sorted(found.accuracies.items(), key=lambda entry: -entry[1])
    spoken = {name: name.replace("_", " ") for name, _ in ranked}
    (easiest, best), (hardest, least) = ranked[0], ranked[-1]
    alternative = (
        f"Bars of the accuracy under {len(ranked)} corruptions, from {percent(best)} ({spoken[easiest]}) down to "
        f"{percent(least)} ({spoken[hardest]}); their mean is {percent(found.mean)}, without any it is "
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
        "Accuracy under the corruptions of MNIST-C, none of which was trained on; dashed, the same images clean. The "
        f"mean of the corruptions is {percent(found.mean)}."
    )
    rows = [(spoken[name], percent(share)) for name, share in ranked]
    table = Table("Accuracy by corruption", ("corruption", "accuracy"), rows, ("mean", percent(found.mean)))
    return Figure("robustness", drawing.picture, caption, table)
