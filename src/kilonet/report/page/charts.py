"""Charts by matplotlib as SVG inside the page, in the colours of its style sheet.

matplotlib takes no CSS variables as colours. A chart is therefore drawn in stand-in colours that occur nowhere else,
and the page's variables replace them in the finished text. Everything else is as matplotlib wrote it.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, ACCENT, SECOND, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", FAINT: "--faint", ACCENT: "--accent", SECOND: "--second", PAPER: "--paper"}
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold dollar signs
    "font.size": 8.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.35,
    "lines.linewidth": 1.4,
}


class Chart:
    """A chart while it is drawn, and afterwards its SVG."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.svg = Markup()

    def axes(self) -> Axes:
        """Add the only axes of the chart and return them."""
        return self.figure.add_subplot()


@contextmanager
def chart(key: str, width: float, height: float, alternative: str) -> Iterator[Chart]:
    """Draw a chart within this context; afterwards `svg` holds it.

    Args:
        key: keeps the ids in the SVG apart from those of other charts.
        width: points; the page scales it.
        height: points.
        alternative: the text alternative.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": key}), warnings.catch_warnings():
        # The page's fonts draw the text; matplotlib's own, which lacks letters of other scripts, only measures it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawing = Chart(Figure(figsize=(width / 72, height / 72), layout="constrained"))
        yield drawing
        stream = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawing.figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    drawing.svg = Markup('<div class="chart" role="img" aria-label="{}">{}</div>').format(
        alternative, _for_page(stream.getvalue(), key)
    )


def _for_page(text: str, key: str) -> Markup:
    """Return the SVG without its XML header, with ids of its own and the page's colours.

    What is replaced has a `<` or stands in a style, so no text in the chart is changed, in which `<` is escaped.
    """
    text = text[text.index("<svg") :].replace('<g id="', f'<g id="{key}-')
    for colour, variable in _VARIABLES.items():
        text = text.replace(f": {colour}", f": var({variable})")
    return Markup(text)  # noqa: S704 - matplotlib escapes texts
