"""The curve of a learning-rate range test as a file by itself."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from kilonet.utils.files import write_atomically

ENDINGS = (".png", ".svg", ".pdf")


def draw_rates(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float | None,
    path: Path,
) -> None:
    """Draw the loss of every step, the smoothed losses and the suggestion over the rates, into a file.

    Raises:
        KilonetError: it cannot be written.
    """
    with mpl.rc_context({"svg.hashsalt": "kilonet", "font.family": "serif"}):
        figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        axes.plot(rates, losses, color="#b9c9d6", linewidth=0.8, label="each step")
        axes.plot(rates, smoothed, color="#2c6593", linewidth=2, label="smoothed")
        if suggestion is not None:
            axes.axvline(suggestion, color="#ad4029", linestyle="--", linewidth=1.2, label=f"suggested: {suggestion:g}")
        axes.set_xscale("log")
        axes.set_ylim(0, 1.15 * max(smoothed))
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
