"""The curve of a learning-rate range test as a picture."""

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from kilonet.report.comparison.plotting import DRAWING_MARK
from kilonet.training.lr_finder import RangeTest
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import check_replaceable, write_atomically

ENDINGS = (".png", ".svg", ".pdf")


def check_plot_path(path: Path) -> None:
    """Check a path that `draw_range_test` is to write.

    Raises:
        KilonetError: another ending than of `ENDINGS`, a folder that does not exist, or a file that is there and is no
            such drawing.
    """
    if path.suffix.lower() not in ENDINGS or not path.parent.is_dir():
        raise KilonetError(f"--plot {path}: name a file that ends in {', '.join(ENDINGS)}, in a folder that exists")
    check_replaceable(path, DRAWING_MARK, "--plot")


def draw_range_test(test: RangeTest, path: Path) -> None:
    """Draw the loss of every step, the smoothed losses and the suggestion over the learning rate.

    Raises:
        KilonetError: the file cannot be written.
    """
    with mpl.rc_context({"svg.hashsalt": "kilonet", "font.family": "serif"}):
        figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        axes.plot(test.rates, test.losses, color="#b9c9d6", linewidth=0.8, label="each step")
        axes.plot(test.rates, test.smoothed, color="#2c6593", linewidth=2, label="smoothed")
        if test.suggestion is not None:
            label = f"suggested: {test.suggestion:g}"
            axes.axvline(test.suggestion, color="#ad4029", linestyle="--", linewidth=1.2, label=label)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.15 * max(test.smoothed))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("learning rate")
        axes.set_ylabel("mean cross-entropy, nats")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        content = io.BytesIO()
        kind = path.suffix.lower().removeprefix(".")
        undated = {"svg": "Date", "pdf": "CreationDate"}
        figure.savefig(content, format=kind, metadata={undated[kind]: None} if kind in undated else None)
    write_atomically(path, content.getvalue())
